//! The spans that tasks are in stay with them, as `tracing-subscriber` sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use towpath::sync::mpsc;
use towpath::thread::{self, Builder, sleep, yield_now};
use towpath::{Runtime, net};
use tracing::span::Id;
use tracing::{Event, Span, Subscriber, info, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Writes down in which spans each event is, outermost first, and how often spans are entered and exited.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    events: Vec<(String, Vec<&'static str>)>,
    balance: HashMap<u64, i64>,
    closed: Vec<&'static str>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let scope = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans = scope.map(|span| span.name()).collect();
        self.0.lock().unwrap().events.push((text.0, spans));
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        *self.0.lock().unwrap().balance.entry(id.into_u64()).or_default() += 1;
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        *self.0.lock().unwrap().balance.entry(id.into_u64()).or_default() -= 1;
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let name = context.span(&id).expect("a span that closes").name();
        self.0.lock().unwrap().closed.push(name);
    }
}

impl Seen {
    /// That all events of this text were in these spans, and how many they were.
    #[track_caller]
    fn assert_in(&self, text: &str, spans: &[&str]) -> usize {
        let notes = self.0.lock().unwrap();
        let of_it = notes.events.iter().filter(|(event, _)| event == text).collect::<Vec<_>>();
        assert!(!of_it.is_empty(), "{text:?} was not seen");
        of_it.iter().for_each(|(_, seen)| assert_eq!(seen, spans, "{text:?}"));
        of_it.len()
    }
}

fn runtime(workers: usize) -> Runtime {
    // SAFETY: nothing here keeps a stack frame's address in a thread-local.
    unsafe { Runtime::builder().workers(workers).build() }.unwrap()
}

/// Keeps guards of spans across waits of every kind, and tells before and after each.
fn wanders(outer: &'static str, inner: &'static str, text: &'static str) {
    let one = if outer == "a" { info_span!("a") } else { info_span!("b") };
    let _one = one.enter();
    for n in 0..20 {
        let two = if inner == "x" { info_span!("x") } else { info_span!("y") };
        two.in_scope(|| {
            info!("{text}");
            yield_now();
            info!("{text}");
            // Entered once more, inside of the other.
            let _again = one.enter();
            if n % 5 == 0 {
                sleep(Duration::from_micros(50));
            }
            yield_now();
            info!("{text}");
        });
    }
}

#[test]
fn spans_stay_with_their_tasks() {
    let seen = Seen::default();
    tracing::subscriber::set_global_default(Registry::default().with(seen.clone())).unwrap();

    // Two tasks of one worker, in turns; and one in no span but its own, which sees the others' guards come and go.
    let runtime = self::runtime(1);
    let around = info_span!("around").entered();
    runtime.run(|| {
        info!("main");
        let tasks = [("a", "x", "first"), ("b", "y", "second")];
        let tasks =
            tasks.map(|(outer, inner, text)| thread::spawn_local(move || wanders(outer, inner, text)));
        let (sender, receiver) = mpsc::sync_channel(0);
        let plain = Builder::new().name("plain".into()).spawn(move || {
            while let Ok(()) = receiver.recv() {
                info!("plain");
            }
        });
        for _ in 0..50 {
            let _span = info_span!("sends").entered();
            sender.send(()).unwrap();
            info!("sent");
        }
        drop(sender);
        tasks.into_iter().for_each(|task| task.join().unwrap());
        plain.unwrap().join().unwrap();
        // A child of the span where it was spawned, though that is over when it runs.
        let parent = info_span!("parent");
        let child = parent.in_scope(|| thread::spawn(|| info!("child")));
        drop(parent);
        child.join().unwrap();
        // A read that waits for the kernel.
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let _span = info_span!("serves").entered();
            std::io::Read::read(&mut listener.accept().unwrap().0, &mut [0]).unwrap();
            info!("served");
        });
        let mut client = net::TcpStream::connect(address).unwrap();
        yield_now();
        std::io::Write::write_all(&mut client, b"x").unwrap();
        server.join().unwrap();
        // One that panics inside of spans.
        let panics = thread::spawn(|| {
            let _span = info_span!("panics").entered();
            yield_now();
            panic!("on purpose");
        });
        panics.join().unwrap_err();
        info!("main");
    });
    info!("thread");
    assert_eq!(Span::current().id(), around.id());
    drop(around);
    let main: &[&str] = &["around", "task"];
    let inside = |names: &[&'static str]| [main, &["task"], names].concat();
    assert_eq!(seen.assert_in("main", main), 2);
    assert_eq!(seen.assert_in("first", &inside(&["a", "x"])), 60);
    assert_eq!(seen.assert_in("second", &inside(&["b", "y"])), 60);
    assert_eq!(seen.assert_in("plain", &inside(&[])), 50);
    assert_eq!(seen.assert_in("sent", &[main, &["sends"]].concat()), 50);
    assert_eq!(seen.assert_in("child", &[main, &["parent", "task"]].concat()), 1);
    assert_eq!(seen.assert_in("served", &inside(&["serves"])), 1);
    seen.assert_in("panicked", &inside(&[]));
    assert_eq!(seen.assert_in("thread", &["around"]), 1);

    // A task that is suspended in a span when its runtime ends, by a thread in another span.
    runtime.run(|| {
        let (here, begun) = mpsc::channel();
        drop(thread::spawn(move || {
            let _span = info_span!("late").entered();
            here.send(()).unwrap();
            let _ = thread::try_park();
            info!("late");
        }));
        begun.recv().unwrap();
    });
    let ending = info_span!("ending").entered();
    drop(runtime);
    info!("ended by hand");
    drop(ending);
    seen.assert_in("late", &["task", "task", "late"]);
    seen.assert_in("ended by hand", &["ending"]);

    // Tasks of two workers, and threads that stand in for tasks.
    self::runtime(2).run(|| {
        let tasks =
            (0..20).map(|n| thread::spawn(move || wanders(if n % 2 == 0 { "a" } else { "b" }, "x", "many")));
        tasks.collect::<Vec<_>>().into_iter().for_each(|task| task.join().unwrap());
    });
    thread::spawn(|| info!("stands in")).join().unwrap();
    seen.assert_in("stands in", &["task"]);

    // Every span was exited as often as it was entered, and those of tasks are closed.
    assert_eq!(Span::current().id(), None);
    let notes = seen.0.lock().unwrap();
    assert!(notes.balance.values().all(|balance| *balance == 0), "{:?}", notes.balance);
    let started = notes.events.iter().filter(|(text, _)| text == "started").count();
    // The one that stood in was not started by a worker.
    assert_eq!(notes.closed.iter().filter(|name| **name == "task").count(), started + 1);
}
