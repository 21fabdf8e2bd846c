//! What a subscriber may do where the runtime calls it: wait, and panic.
//!
//! Each test has one for its scope, which is the one worker's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread as threads;

use towpath::Runtime;
use towpath::sync::{Mutex, mpsc};
use towpath::thread::{self, Builder, yield_now};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;

/// Calls `run` on a runtime of one worker, under a registry with this layer.
fn under(layer: impl Layer<Registry> + Send + Sync, run: impl FnOnce()) {
    let _here = Registry::default().with(layer).set_default();
    // SAFETY: nothing here keeps a stack frame's address in a thread-local.
    let runtime = unsafe { Runtime::builder().workers(1).build() }.unwrap();
    runtime.run(run);
}

/// Tasks that change turns in spans of their own, and end with what they were given.
fn take_turns() {
    let tasks = (0..4).map(|n| {
        thread::spawn(move || {
            for _ in 0..5 {
                let _span = info_span!("turn").entered();
                yield_now();
            }
            n
        })
    });
    let tasks = tasks.collect::<Vec<_>>();
    assert_eq!(tasks.into_iter().map(|task| task.join().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

/// More than a task may without giving way to others.
const SENDS: usize = 5000;

/// Tells every entry and exit on channels: often on one without bounds, and on one whose receiver it waits for. Between the two
/// it takes a lock.
struct Tells {
    all: mpsc::Sender<()>,
    waits: mpsc::SyncSender<()>,
    count: Arc<Mutex<usize>>,
}

impl Tells {
    fn tell(&self) {
        (0..SENDS).for_each(|_| self.all.send(()).unwrap());
        *self.count.lock().unwrap() += 1;
        self.waits.send(()).unwrap();
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Tells {
    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        self.tell();
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        self.tell();
    }
}

#[test]
fn a_subscriber_that_sends_and_locks() {
    let (all, every) = mpsc::channel();
    let (waits, next) = mpsc::sync_channel(0);
    let count = Arc::default();
    let layer = Tells { all, waits, count: Arc::clone(&count) };
    let receives = threads::spawn(move || {
        let mut received = 0;
        while let Ok(()) = next.recv() {
            // As many were sent before; where a task enters a span itself others may come between.
            (0..SENDS).for_each(|_| every.recv().unwrap());
            received += 1;
        }
        received
    });
    under(layer, take_turns);
    let received = receives.join().unwrap();
    assert_eq!(*count.lock().unwrap(), received);
    // In each turn twice both, at least: into the span, out of it to suspend, and again.
    assert!(received >= 4 * 5 * 4, "{received}");
}

/// Panics wherever it is called, while it is armed.
#[derive(Clone, Default)]
struct Panics {
    armed: Arc<AtomicBool>,
    panics: Arc<AtomicUsize>,
}

impl Panics {
    fn panic(&self) {
        if self.armed.load(Ordering::Relaxed) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            // No message of the hook's, for there are many.
            std::panic::resume_unwind(Box::new("by the subscriber"));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panics {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.panic();
    }

    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.panic();
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        self.panic();
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        self.panic();
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        self.panic();
    }
}

#[test]
fn a_subscriber_that_panics() {
    let layer = Panics::default();
    let Panics { armed, panics } = layer.clone();
    under(layer, || {
        // One in a span, which is entered before and left after.
        let (enter, entered) = mpsc::sync_channel(0);
        let inside = thread::spawn(move || {
            let _span = info_span!("inside").entered();
            while let Ok(()) = entered.recv() {}
            "ended"
        });
        enter.send(()).unwrap();
        let before = thread::spawn(thread::park);
        yield_now();
        armed.store(true, Ordering::Relaxed);
        for n in 0..20 {
            enter.send(()).unwrap();
            assert_eq!(thread::spawn(move || n).join().unwrap(), n);
            thread::spawn(|| std::panic::resume_unwind(Box::new(()))).join().unwrap_err();
            let refused = thread::spawn_local(|| ());
            refused.cancel();
            refused.join().unwrap_err();
        }
        before.thread().unpark();
        before.join().unwrap();
        armed.store(false, Ordering::Relaxed);
        drop(enter);
        assert_eq!(inside.join().unwrap(), "ended");
        take_turns();
    });
    assert!(panics.load(Ordering::Relaxed) > 100);
}

/// Counts the spans of tasks that close.
struct Closes(Arc<AtomicUsize>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Closes {
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let closed = context.span(&id).expect("a span that closes");
        self.0.fetch_add(usize::from(closed.name() == "task"), Ordering::Relaxed);
    }
}

#[test]
fn the_span_of_a_task_that_never_starts_closes() {
    let closed = Arc::new(AtomicUsize::new(0));
    let closes = || closed.load(Ordering::Relaxed);
    under(Closes(closed.clone()), || {
        let canceled = thread::spawn_local(|| unreachable!());
        canceled.cancel();
        let too_large = Builder::new().stack_size(1 << 46).spawn_local(|| unreachable!()).unwrap();
        assert_eq!(closes(), 0);
        while !canceled.is_finished() || !too_large.is_finished() {
            yield_now();
        }
        assert_eq!(closes(), 2);
        canceled.join().unwrap_err();
        too_large.join().unwrap_err();
        assert_eq!(closes(), 2);
    });
    // And the main task's.
    assert_eq!(closes(), 3);

    // SAFETY: as in `under`.
    let runtime = unsafe { Runtime::builder().workers(1).build() }.unwrap();
    let handle = runtime.handle();
    drop(runtime);
    let _here = Registry::default().with(Closes(closed.clone())).set_default();
    let late = handle.spawn(|| ());
    assert_eq!(closes(), 4);
    late.join().unwrap_err();
}
