//! A local task outlives the frame that spawns it as well.

fn main() {
    let text = String::from("text");
    towpath::thread::spawn_local(|| println!("{text}"));
}
