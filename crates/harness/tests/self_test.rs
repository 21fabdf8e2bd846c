//! The harness, tested with itself: each failure it is there to find is found.
//!
//! Run plainly, this is a suite of one test, which runs this same program again with `TOWPATH_SELF_TEST` set; then it
//! is a suite of bad tests, all of which must fail for the right reason.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use towpath_harness::{Test, test};

fn passes() {}
fn panics() {
    panic!("out of cheese");
}
fn leaks_a_descriptor() {
    std::mem::forget(std::fs::File::open("/dev/null").unwrap());
}
fn leaks_a_thread() {
    std::thread::Builder::new().name("straggler".into()).spawn(std::thread::park).unwrap();
}
fn spins() {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {}
}
fn grows() {
    std::mem::forget(vec![1u8; 40 << 20]);
}
fn hangs() {
    std::thread::park();
}
fn crashes() {
    std::process::abort();
}
fn skips() {
    towpath_harness::skip("the moon is full");
}
fn sees_its_backend() {
    assert!(std::env::var("TOWPATH_BACKEND").is_ok_and(|name| !name.is_empty()));
    assert_eq!(towpath_loop::Loop::new().unwrap().backend(), std::env::var("TOWPATH_BACKEND").unwrap());
}
fn sees_none() {
    assert!(std::env::var("TOWPATH_BACKEND").is_err());
}

/// The bad ones, each with a word of its report.
const BAD: &[(Test, &str)] = &[
    (test!(panics).on(&["poll"]), "out of cheese"),
    (test!(leaks_a_descriptor).on(&["poll"]), "/dev/null"),
    (test!(leaks_a_thread).on(&["poll"]), "straggler"),
    (test!(spins).on(&["poll"]), "something spins"),
    (test!(grows).on(&["poll"]), "KiB of memory"),
    (test!(hangs).on(&["poll"]).seconds(1), "still running after"),
    (test!(crashes).on(&["poll"]), "killed by SIGABRT"),
];

fn finds_what_is_bad() {
    for (test, word) in BAD {
        let name = format!("{test:?}");
        let name = name.split('"').nth(1).unwrap();
        let output = again(&["--exact", &format!("poll::{name}")]);
        assert!(output.contains("0 passed; 1 failed"), "{name} did not fail:\n{output}");
        assert!(output.contains(word), "{name} failed without {word:?}:\n{output}");
    }
}

fn passes_what_is_good() {
    for name in ["passes", "sees_its_backend", "sees_none"] {
        let output = again(&[name]);
        assert!(output.contains("test result: ok.") && !output.contains(" 0 passed"), "{output}");
    }
    let output = again(&["skips"]);
    assert!(
        output.contains("the moon is full") && output.contains("0 passed; 0 failed; 1 ignored"),
        "{output}"
    );
}

fn again(args: &[&str]) -> String {
    let exe = std::env::current_exe().unwrap();
    let run = |filter: &str, rest: &[&str]| {
        let mut command = Command::new(&exe);
        command.arg(filter).args(rest).env("TOWPATH_SELF_TEST", "1").env_remove("TOWPATH_BACKEND");
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    };
    run(args[0], &args[1..])
}

fn main() -> ExitCode {
    if std::env::var_os("TOWPATH_SELF_TEST").is_some() {
        let mut tests =
            vec![test!(passes), test!(skips).chooses(), test!(sees_its_backend), test!(sees_none).chooses()];
        tests.extend(BAD.iter().map(|(test, _)| *test));
        return towpath_harness::main(&tests);
    }
    towpath_harness::main(&[
        test!(finds_what_is_bad).chooses().seconds(30),
        test!(passes_what_is_good).chooses().seconds(30),
    ])
}
