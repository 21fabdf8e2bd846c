//! A runtime's first worker is the thread that made it.

fn main() {
    // SAFETY: nothing here keeps a stack frame's address in a thread-local.
    let runtime = unsafe { towpath::Runtime::new() }.unwrap();
    std::thread::spawn(move || runtime.run(|| ()));
}
