//! What is locked on a thread is unlocked there.

use towpath::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

fn sent<T: Send>() {}

fn main() {
    sent::<MutexGuard<'_, ()>>();
    sent::<RwLockReadGuard<'_, ()>>();
    sent::<RwLockWriteGuard<'_, ()>>();
}
