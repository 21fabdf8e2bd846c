//! The examples that work on files.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use towpath_harness::example::path;

use crate::{Files, bytes};

fn run(name: &str, args: &[&str]) -> Output {
    Command::new(path(name)).args(args).output().expect("the example runs")
}

/// It ended with this code, and has said this on stderr.
#[track_caller]
fn ended(output: &Output, code: i32, said: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), said.len(), "{stderr}");
    for (line, words) in stderr.lines().zip(said) {
        assert!(line.contains(words), "{line:?} does not say {words:?}");
    }
}

/// Two files have the same bytes; not all of them are in memory for that.
#[track_caller]
fn same(a: &str, b: &str) {
    let (mut a, mut b) = (File::open(a).expect(a), File::open(b).expect(b));
    assert_eq!(a.metadata().expect("its length").len(), b.metadata().expect("its length").len());
    let (mut piece_of_a, mut piece_of_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = a.read(&mut piece_of_a).expect("read");
        b.read_exact(&mut piece_of_b[..n]).expect("read");
        assert!(piece_of_a[..n] == piece_of_b[..n]);
        if n == 0 {
            return;
        }
    }
}

/// The names in a directory, in order.
fn names(dir: &str) -> Vec<String> {
    let names = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().expect("a plain name")).collect();
    names.sort();
    names
}

pub fn cp_lengths() {
    let files = Files::new("cp-lengths");
    let (from, to) = (files.path("from"), files.path("to"));
    fs::create_dir(&from).expect("a directory");
    // None, one, and around the length of a block.
    for len in [0, 1, 4097, 131_071, 131_072, 131_073, 3_000_001] {
        fs::write(format!("{from}/{len}"), bytes(len, len as u64)).expect("a file");
    }
    let mut large = File::create(format!("{from}/large")).expect("a file");
    let part = bytes(1 << 20, 9);
    for _ in 0..100 {
        large.write_all(&part[..(1 << 20) - 1]).expect("write");
    }
    drop(large);
    // A hole, something, a hole.
    let mut sparse = File::create(format!("{from}/sparse")).expect("a file");
    sparse.seek(SeekFrom::Start(50_000_001)).expect("seek");
    sparse.write_all(b"in the middle").expect("write");
    sparse.set_len(100_000_007).expect("a length");
    ended(&run("cp", &[&from, &to]), 0, &[]);
    assert_eq!(names(&from), names(&to));
    for name in names(&from) {
        same(&format!("{from}/{name}"), &format!("{to}/{name}"));
    }
    let room = |dir| fs::metadata(format!("{dir}/sparse")).expect("it is there").blocks() * 512;
    assert!(room(&to) <= room(&from).max(1 << 20), "{} bytes, of {}", room(&to), room(&from));
    // What has no length beforehand.
    ended(&run("cp", &["/proc/self/status", &to]), 0, &[]);
    assert!(fs::read_to_string(format!("{to}/status")).expect("text").starts_with("Name:\tcp\n"));
}

pub fn cp_targets() {
    let files = Files::new("cp-targets");
    let (short, long) = (files.path("short"), files.path("long"));
    let (target, alias, dir) = (files.path("target"), files.path("alias"), files.path("dir"));
    let mode = |path: &str| fs::metadata(path).expect(path).permissions().mode() & 0o7777;
    fs::write(&target, "what was there").expect("a file");
    fs::hard_link(&target, &alias).expect("a link");
    fs::set_permissions(&short, PermissionsExt::from_mode(0o4500)).expect("chmod");

    // Replaced, not written into; permissions come along, but no more than that.
    ended(&run("cp", &[&short, &target]), 0, &[]);
    same(&short, &target);
    assert_eq!((mode(&target), fs::read(&alias).expect("it")), (0o500, b"what was there".to_vec()));

    // Several, trees among them, into a directory; twice, so that the second time all is there.
    for path in ["tree", "tree/a", "tree/a/empty", "dir"] {
        fs::create_dir(files.path(path)).expect("a directory");
    }
    fs::write(files.path("tree/a/one"), "1").expect("a file");
    symlink("one", files.path("tree/a/link")).expect("a link");
    fs::set_permissions(files.path("tree/a/empty"), PermissionsExt::from_mode(0o500)).expect("chmod");
    ended(&run("cp", &[&short, &files.path("tree"), &long, &dir]), 0, &[]);
    assert_eq!(names(&dir), ["long", "short", "tree"]);
    assert_eq!(names(&files.path("dir/tree/a")), ["empty", "link", "one"]);
    assert_eq!(mode(&files.path("dir/tree/a/empty")), 0o700);
    assert_eq!(fs::read_link(files.path("dir/tree/a/link")).expect("a link"), Path::new("one"));
    same(&long, &files.path("dir/long"));
    fs::write(files.path("tree/a/one"), "another").expect("a file");
    let again = run("cp", &[&short, &files.path("tree"), &long, &dir]);
    ended(&again, 1, &["dir/tree/a/link: File exists"]);
    assert_eq!(fs::read(files.path("dir/tree/a/one")).expect("it"), b"another");

    // What makes no sense is refused, and changes nothing.
    ended(&run("cp", &[&target, &files.path("./target")]), 1, &["is the file that is to be copied"]);
    ended(&run("cp", &[&dir, &files.path("dir/tree")]), 1, &["dir/tree/dir: is inside of the directory"]);
    ended(&run("cp", &[&short, &long, &target]), 2, &["usage: ", "       cp "]);
    same(&short, &target);
    assert_eq!(names(&files.path("dir/tree")), ["a"]);
}

/// What fails leaves nothing behind, and keeps nothing else from being copied.
pub fn cp_failures() {
    let files = Files::new("cp-failures");
    let (short, long, dir) = (files.path("short"), files.path("long"), files.path("dir"));
    fs::create_dir(&dir).expect("a directory");
    let fifo = files.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let missing = files.path("missing");
    let said = [&format!("cp: {missing}: No such file"), "fifo: is neither a file nor"];
    ended(&run("cp", &[&missing, &fifo, &short, &dir]), 1, &said.map(|words| words));
    assert_eq!(names(&dir), ["short"]);

    // No more than 100 KiB can be written. The long one was there, and stays as it was.
    fs::write(files.path("dir/long"), "what was there").expect("a file");
    fs::remove_file(files.path("dir/short")).expect("remove");
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"])
        .arg(path("cp"))
        .args([&long, &short, &dir])
        .output()
        .expect("the example runs");
    ended(&limited, 1, &["dir/long: File too large"]);
    assert_eq!(names(&dir), ["long", "short"]);
    assert_eq!(fs::read(files.path("dir/long")).expect("it"), b"what was there");
}

pub fn cp_interrupted() {
    let files = Files::new("cp-interrupted");
    let (endless, dir) = (files.path("endless"), files.path("dir"));
    fs::create_dir(&dir).expect("a directory");
    File::create(&endless).and_then(|file| file.set_len(1 << 42)).expect("a very long hole");
    let mut child = Command::new(path("cp")).args([&endless, &dir]).spawn().expect("the example starts");
    while names(&dir).is_empty() {
        assert!(child.try_wait().expect("it is there").is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
    assert_eq!(child.wait().expect("its end").code(), Some(130));
    assert_eq!(names(&dir), [""; 0]);
}

pub fn cp_progress() {
    let files = Files::new("cp-progress");
    let output = run("cp", &["--progress", &files.path("long"), &files.path("copy")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.ends_with("100 %  976 of 976 KiB\u{1b}[K\n"), "{stderr:?}");
    // Not where there is no terminal.
    ended(&run("cp", &[&files.path("long"), &files.path("copy")]), 0, &[]);
}

pub fn cat_trees() {
    let files = Files::new("cat-trees");
    let tree = files.path("tree");
    let mut expected = fs::read(files.path("short")).expect("a file");
    let mut add = |name: &str, bytes: Vec<u8>| {
        fs::create_dir_all(Path::new(&tree).join(name).parent().expect("a directory")).expect("a directory");
        fs::write(format!("{tree}/{name}"), &bytes).expect("a file");
        expected.extend(bytes);
    };
    // In the order in which they are to come: more than are read at once, the first longer than is read ahead.
    add("a", bytes(1_000_001, 1));
    add("b/c/0", Vec::new());
    for n in 100..300 {
        add(&format!("b/c/{n}"), bytes(n * n, n as u64));
    }
    add("b/d", bytes(65_536, 2));
    add("c", bytes(1, 3));
    symlink("a", format!("{tree}/link")).expect("a link");
    expected.extend(b"typed");
    expected.extend(fs::read(files.path("long")).expect("a file"));

    let args = [&files.path("short"), &tree, "-", &files.path("missing"), &files.path("long")];
    let mut child = Command::new(path("cat"));
    child.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the example starts");
    child.stdin.take().expect("piped").write_all(b"typed").expect("its input");
    let output = child.wait_with_output().expect("its output");
    ended(&output, 1, &["missing: No such file or directory"]);
    assert!(output.stdout == expected, "{} bytes, of {}", output.stdout.len(), expected.len());
}

pub fn cat_input() {
    for args in [&[][..], &["-"]] {
        let mut child =
            Command::new(path("cat")).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = child.as_mut().expect("the example starts");
        let (mut stdin, mut stdout) =
            (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        // Each part comes out before the next one is there.
        for part in ["one", "two"] {
            stdin.write_all(part.as_bytes()).expect("its input");
            let mut out = [0; 3];
            stdout.read_exact(&mut out).expect("its output");
            assert_eq!(out, *part.as_bytes());
        }
        drop(stdin);
        assert_eq!(stdout.read(&mut [0]).expect("its end"), 0);
        assert!(child.wait().expect("its end").success());
    }
}

/// However much there is to write, little is in memory; and whoever has seen enough ends it.
pub fn cat_broken_pipe() {
    let files = Files::new("cat-broken-pipe");
    for n in 0..100 {
        let name = files.path(&format!("hole{n}"));
        File::create(name).and_then(|file| file.set_len(1 << 30)).expect("a hole");
    }
    let mut child = Command::new(path("cat"));
    child.arg(files.dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the example starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut piece = vec![1; 1 << 20];
    for _ in 0..64 {
        stdout.read_exact(&mut piece).expect("its output");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it is there");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a number");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 32 << 10, "{peak} KiB");
    drop(stdout);
    ended(&child.wait_with_output().expect("its end"), 0, &[]);
}

pub fn cat_into_itself() {
    let files = Files::new("cat-into-itself");
    let into = File::create(files.path("into")).expect("a file");
    let output = Command::new(path("cat")).arg(files.dir()).stdout(into).output().expect("the example runs");
    ended(&output, 1, &["into: input file is output file"]);
    assert_eq!(fs::metadata(files.path("into")).expect("it is there").len(), 1_000_010);
    // Nobody can read a directory that is not there any more.
    let gone = run("cat", &[&files.path("gone/file")]);
    ended(&gone, 1, &["gone/file: No such file or directory"]);
    assert_eq!(fs::read(files.path("gone")).expect_err("nothing").kind(), ErrorKind::NotFound);
}
