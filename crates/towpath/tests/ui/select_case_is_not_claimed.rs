//! Only `select!` says that a case has won: otherwise there would be guards of locks that nobody has locked.

use towpath::select::{Case, write};
use towpath::sync::RwLock;

fn forged<C: Case>(mut case: C) -> Option<C::Output> {
    case.finish();
    case.output()
}

fn main() {
    let lock = RwLock::new(0);
    let _guards = (forged(write(&lock)), forged(write(&lock)));
}
