//! A task outlives the frame that spawns it.

fn main() {
    let text = String::from("text");
    towpath::thread::spawn(|| println!("{text}"));
}
