//! What can be sent, shared, and used after a panic, as `std`'s types.

use std::cell::{Cell, RefCell};
use std::panic::{RefUnwindSafe, UnwindSafe};

use towpath::sync::*;

fn free<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe>() {}
fn shared<T: Sync + Unpin + UnwindSafe>() {}
fn used_after_a_panic<T: Send + UnwindSafe + RefUnwindSafe>() {}
fn sent<T: Send>(_: &T) {}

/// It compiles.
pub fn auto_traits() {
    free::<Mutex<RefCell<u8>>>();
    free::<RwLock<u8>>();
    free::<Condvar>();
    free::<WaitTimeoutResult>();
    free::<Barrier>();
    free::<BarrierWaitResult>();
    free::<Once>();
    free::<OnceLock<u8>>();
    free::<LazyLock<u8>>();
    free::<Semaphore>();
    free::<SemaphorePermit<'static>>();
    free::<Event>();
    free::<Notify>();
    free::<Latch>();
    // `std`'s ends of a channel do not even ask that of the messages.
    free::<mpmc::Sender<Cell<u8>>>();
    free::<mpmc::Receiver<Cell<u8>>>();
    free::<mpsc::Sender<Cell<u8>>>();
    free::<mpsc::SyncSender<Cell<u8>>>();
    used_after_a_panic::<mpsc::Receiver<Cell<u8>>>();
    used_after_a_panic::<std::sync::mpsc::Receiver<Cell<u8>>>();
    free::<oneshot::Sender<Cell<u8>>>();
    free::<oneshot::Receiver<Cell<u8>>>();
    free::<broadcast::Sender<u8>>();
    free::<broadcast::Receiver<u8>>();
    free::<watch::Sender<u8>>();
    free::<watch::Receiver<u8>>();
    shared::<MutexGuard<'static, u8>>();
    shared::<RwLockReadGuard<'static, u8>>();
    shared::<RwLockWriteGuard<'static, u8>>();
    // What is not `Sync` can still be locked, or made by one thread.
    sent(&RwLock::new(Cell::new(0)));
    sent(&OnceLock::<Cell<u8>>::new());
    // Futures that bring no guard may move between threads.
    sent(&Event::new().wait_async());
    sent(&Notify::new().notified_async());
    sent(&Latch::new(1).wait_async());
    sent(&Barrier::new(1).wait_async());
    sent(&Once::new().wait_async());
    sent(&OnceLock::<u8>::new().wait_async());
    sent(&Semaphore::new(1).acquire_async(1));
}
