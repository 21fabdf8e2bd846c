//! A blocking job may outlive the wait for it, when that is cancelled.

fn main() {
    let text = String::from("text");
    let _ = towpath::blocking(|| println!("{text}"));
}
