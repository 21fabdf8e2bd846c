//! Two tasks do not borrow the same thing mutably.

fn main() {
    let mut count = 0;
    towpath::thread::scope(|s| {
        s.spawn(|| count += 1);
        s.spawn(|| count += 1);
    });
}
