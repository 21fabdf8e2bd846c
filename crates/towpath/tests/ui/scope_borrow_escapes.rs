//! A scope's tasks borrow from outside of it, not from inside.

fn main() {
    towpath::thread::scope(|s| {
        let inside = String::from("inside");
        s.spawn(|| println!("{inside}"));
    });
}
