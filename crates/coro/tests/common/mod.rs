//! Tests in a process of their own: for what kills a process, or belongs to it as a whole.

use std::env;
use std::process::{Command, Output};

const CHILD: &str = "TOWPATH_CORO_TEST_CHILD";

/// Runs `body` in a new process: this test binary again, with only the test `name`, which must call this. The parent gets
/// the child's output; the child does not return.
pub fn output_of_child(name: &str, body: impl FnOnce()) -> Output {
    if env::var_os(CHILD).is_some() {
        body();
        std::process::exit(0);
    }
    Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

/// Like [`output_of_child`], for a child that must succeed.
pub fn in_child(name: &str, body: impl FnOnce()) {
    let output = output_of_child(name, body);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains(name), "the child ran no test of that name: {text}");
    println!("{text}");
}
