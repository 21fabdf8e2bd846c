//! The events of the feature `tracing`, as a subscriber gets them.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use towpath::thread;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes each event down as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "towpath"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn tasks_and_stalls_are_told() {
    let lines = Lines::default();
    tracing::subscriber::set_global_default(lines.clone()).unwrap();
    let builder = towpath::Runtime::builder().workers(1).watchdog(Duration::from_millis(50));
    // SAFETY: nothing here keeps a stack frame's address in a thread-local.
    let runtime = unsafe { builder.on_warning(|_| ()).build() }.unwrap();
    runtime.run(|| {
        let named = |name: &str| thread::Builder::new().name(name.into());
        named("ends").spawn(|| ()).unwrap().join().unwrap();
        named("panics").spawn(|| panic!("number {}", 7)).unwrap().join().unwrap_err();
        thread::scope(|scope| {
            let panics = named("scoped panics").spawn_scoped(scope, || panic!("number {}", 8));
            panics.unwrap().join().unwrap_err();
            let mut group = scope.group::<(), ()>();
            named("member panics").spawn_in(&mut group, || panic!("number {}", 9)).unwrap();
            group.wait().unwrap_err();
            named("scoped ends").spawn_scoped(scope, || ()).unwrap().join().unwrap();
        });
        let told = lines.clone();
        let body = move || {
            let mine = |line: &String| line.contains("message=stall") && line.contains("name=\"holds\"");
            while !told.0.lock().unwrap().iter().any(mine) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        named("holds").spawn(body).unwrap().join().unwrap();
    });
    drop(runtime);
    let lines = lines.0.lock().unwrap();
    let has = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["TRACE", "message=started", "name=\"ends\"", "tracing.rs", "worker=0"]), "{lines:#?}");
    assert!(has(&["TRACE", "message=ended", "name=\"ends\""]), "{lines:#?}");
    assert!(has(&["ERROR", "message=panicked", "name=\"panics\"", "panic=\"number 7\""]), "{lines:#?}");
    assert!(!has(&["message=ended", "name=\"panics\""]), "{lines:#?}");
    for (name, panic) in [("scoped panics", "number 8"), ("member panics", "number 9")] {
        let (name, panic) = (format!("name=\"{name}\""), format!("panic=\"{panic}\""));
        assert!(has(&["ERROR", "message=panicked", "tracing.rs", &name, &panic]), "{lines:#?}");
        assert!(!has(&["message=ended", &name]), "{lines:#?}");
    }
    assert!(has(&["TRACE", "message=ended", "name=\"scoped ends\""]), "{lines:#?}");
    assert!(has(&["WARN", "message=stall", "name=\"holds\"", "tracing.rs"]), "{lines:#?}");
}
