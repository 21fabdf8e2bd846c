//! Starting a runtime is the one promise of a program.

fn main() {
    let _ = towpath::Runtime::new();
    let _ = towpath::Runtime::builder().build();
}
