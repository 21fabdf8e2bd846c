//! Paths, directories, and what is known of files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use towpath_loop::op::{self, FileTime, FileType};
use towpath_loop::operation::Step;

use super::*;
use crate::common::{complete, current_loop, errno, error};

/// G1: what cannot be opened, as `std` has it.
pub fn g01_open_errors() {
    let _loop = current_loop();
    let dir = TempDir::new();
    dir.file("file", b"");
    fs::create_dir(dir.path("dir")).unwrap();
    op::symlink("loop", dir.path("loop")).wait().unwrap();
    let at = open(&dir.0);
    let code = |op: op::Open<'_>| errno(op.at(&at).wait());
    assert_eq!(code(op::open("nothing")), libc::ENOENT);
    assert_eq!(code(op::open("file/below")), libc::ENOTDIR);
    assert_eq!(code(op::open("dir").write(true)), libc::EISDIR);
    assert_eq!(code(op::open("loop")), libc::ELOOP);
    assert_eq!(code(op::open("n".repeat(300))), libc::ENAMETOOLONG);
    assert_eq!(code(op::open("file").write(true).create_new(true)), libc::EEXIST);
    // As `std` refuses them.
    assert_eq!(code(op::open("file").read(false)), libc::EINVAL);
    assert_eq!(code(op::open("file").truncate(true)), libc::EINVAL);
    assert_eq!(code(op::open("file").append(true).truncate(true)), libc::EINVAL);
    // What is made, is made as asked.
    let made = op::create("made").mode(0o640).at(&at).wait().unwrap();
    assert_eq!(op::stat(&made).wait().unwrap().mode() & 0o137, 0);
    assert!(rustix::io::fcntl_getfd(&made).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(!rustix::fs::fcntl_getfl(&made).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    op::open("dir")
        .custom_flags(libc::O_TMPFILE)
        .write(true)
        .mode(0o600)
        .at(&at)
        .wait()
        .map(drop)
        .unwrap_or_else(|error| assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}"));
    // A directory that was closed is none.
    let clone = at.clone();
    op::close(at).wait().unwrap();
    assert_eq!(errno(op::open("file").at(&clone).wait()), libc::EBADF);
}

/// G2: odd paths are an error or work; nothing panics.
pub fn g02_odd_paths() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    for path in ["a\0b", "\0"] {
        for error in [
            error(op::open(path).wait()),
            error(op::stat(path).wait()),
            error(op::rename(path, "x").wait()),
            error(op::rename("x", path).wait()),
            error(op::symlink(path, "x").wait()),
            error(op::real_path(path).wait()),
            error(op::read_entire(path).wait()),
            error(op::write_entire(path, b"").wait()),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error:?}");
        }
    }
    for code in [
        errno(op::open("").wait()),
        errno(op::stat("").at(&at).wait()),
        errno(op::create_dir("").wait()),
        errno(op::remove_file("").at(&at).wait()),
        errno(op::read_link("").wait()),
        errno(op::real_path("").wait()),
    ] {
        assert_eq!(code, libc::ENOENT);
    }
    assert_eq!(errno(op::open("x".repeat(4096)).wait()), libc::ENAMETOOLONG);
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"\xff\xfe \n"));
    op::create(odd).at(&at).wait().unwrap();
    let entries = op::read_dir(&at).wait().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name().to_owned()).collect::<Vec<_>>(), [odd.as_os_str()]);
    assert!(op::real_path(dir.0.join(odd)).wait().unwrap().ends_with(odd));
}

/// G11: a directory that is read while entries go.
pub fn g11_read_dir_while_entries_go() {
    let loop_ = current_loop();
    let dir = TempDir::new();
    const MANY: usize = 3000;
    for at in 0..MANY {
        dir.file(&format!("{at:05}"), b"");
    }
    let open_dir = open(&dir.0);
    let mut seen = BTreeSet::new();
    let mut entries = op::read_dir(&open_dir).buffer(Vec::with_capacity(2048)).wait().unwrap();
    let mut batches = 0;
    while !entries.is_end() {
        batches += 1;
        for entry in &entries {
            let name = entry.name().to_str().unwrap().to_owned();
            assert_eq!(entry.file_type(), Some(FileType::File), "{entry:?}");
            assert_ne!(entry.ino(), 0);
            // What has been seen goes, if it is odd.
            if name.parse::<usize>().unwrap() % 2 == 1 {
                fs::remove_file(dir.path(&name)).unwrap();
            }
            assert!(seen.insert(name), "{entry:?} twice");
        }
        entries = op::read_dir(&open_dir).buffer(entries.into_buffer()).wait().unwrap();
    }
    assert!(batches > 20, "{batches}");
    assert_eq!(seen.len(), MANY);
    // All that is left at once, by each way of waiting.
    let check = |entries: Result<op::Entries, op::StepError>| {
        let entries = entries.unwrap();
        let left: BTreeSet<_> = entries.iter().map(|entry| entry.name().to_owned()).collect();
        assert_eq!((left.len(), entries.iter().count()), (MANY / 2, MANY / 2));
        assert!(entries.iter().all(|entry| entry.file_type().is_some_and(FileType::is_file)));
    };
    check(op::read_entire_dir(&dir.0).wait());
    check(op::read_entire_dir(".").at(&open_dir).limit(1 << 20).wait());
    check(loop_.start(op::read_entire_dir(&dir.0)).take().unwrap());
    check(complete(&loop_, op::read_entire_dir(&dir.0)));
    let failed = op::read_entire_dir(&dir.0).limit(1000).wait().unwrap_err();
    assert_eq!((failed.step, errno::<(), _>(Err(failed))), (Step::Read, libc::EFBIG));
    let failed = op::read_entire_dir(dir.path("00000")).wait().unwrap_err();
    assert_eq!((failed.step, errno::<(), _>(Err(failed))), (Step::Open, libc::ENOTDIR));
    assert_eq!(errno(op::open(dir.path("00000")).directory().wait()), libc::ENOTDIR);
    drop(op::open(&dir.0).directory().wait().unwrap());
    let found = op::stat(&dir.0).wait().unwrap();
    assert!(found.is_dir() && !found.is_file() && !found.is_symlink());
    assert!(found.is_same_file(&op::stat(&open_dir).wait().unwrap()));
    assert!(!found.is_same_file(&op::stat("/").wait().unwrap()));
    // What is no directory has no entries, and a buffer can be too small.
    let file = open(dir.path("00000"));
    assert_eq!(errno(op::read_dir(&file).wait()), libc::ENOTDIR);
    let again = open(&dir.0);
    assert_eq!(errno(op::read_dir(&again).buffer(Vec::with_capacity(4)).wait()), libc::EINVAL);
}

/// G12: renaming, in its three ways.
pub fn g12_rename() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    let content = |name: &str| fs::read(dir.path(name)).unwrap();
    dir.file("a", b"a");
    dir.file("b", b"b");
    let rename = |from, to| op::rename(from, to).from_at(&at).to_at(&at);
    assert_eq!(errno(rename("a", "b").no_replace().wait()), libc::EEXIST);
    rename("a", "b").exchange().wait().unwrap();
    assert_eq!((content("a"), content("b")), (b"b".to_vec(), b"a".to_vec()));
    rename("a", "b").wait().unwrap();
    assert_eq!(content("b"), b"b");
    rename("b", "c").no_replace().wait().unwrap();
    assert_eq!(errno(rename("b", "c").wait()), libc::ENOENT);
    assert_eq!(errno(rename("c", "d").exchange().wait()), libc::ENOENT);
    if fs::metadata("/dev/shm").is_ok_and(|shm| shm.dev() != fs::metadata(&dir.0).unwrap().dev()) {
        let error = error(op::rename("c", "/dev/shm/towpath-g12").from_at(&at).wait());
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices);
    }
}

/// G16: what is told about a file is what `std` tells.
pub fn g16_metadata() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let path = dir.file("file", &[1; 5000]);
    op::symlink("file", dir.path("link")).wait().unwrap();
    let at = open(&dir.0);
    let file = open(&path);
    let expected = fs::metadata(&path).unwrap();
    for stat in [
        op::stat(&path).wait().unwrap(),
        op::stat("file").at(&at).wait().unwrap(),
        op::stat("link").at(&at).wait().unwrap(),
        op::stat(&file).wait().unwrap(),
        op::stat(file.as_fd()).wait().unwrap(),
    ] {
        assert_eq!(stat.len(), expected.len());
        assert_eq!((stat.mode(), stat.nlink()), (expected.mode(), 1));
        assert_eq!((stat.ino(), stat.dev(), stat.rdev()), (expected.ino(), expected.dev(), expected.rdev()));
        assert_eq!((stat.uid(), stat.gid()), (expected.uid(), expected.gid()));
        assert_eq!((stat.blocks(), u64::from(stat.blksize())), (expected.blocks(), expected.blksize()));
        assert_eq!(stat.modified(), expected.modified().ok());
        assert_eq!(stat.accessed(), expected.accessed().ok());
        assert_eq!(stat.created(), expected.created().ok());
        assert!(stat.changed() >= stat.created() && stat.file_type().is_file());
        assert_eq!(stat.attributes() & !stat.attributes_mask(), 0);
    }
    let link = op::stat("link").at(&at).follow(false).wait().unwrap();
    assert!(link.file_type().is_symlink() && link.len() == 4);
    assert!(op::stat(&at).wait().unwrap().file_type().is_dir());
    assert_eq!(errno(op::stat("nothing").at(&at).wait()), libc::ENOENT);
    // Times are set, by path, of an open file, of a link.
    let long_ago = UNIX_EPOCH - Duration::new(3, 5000);
    let then = UNIX_EPOCH + Duration::new(1_000_000_000, 7000);
    op::set_times(&file, FileTime::At(long_ago), FileTime::At(then)).wait().unwrap();
    let stat = op::stat(&file).wait().unwrap();
    assert_eq!((stat.accessed(), stat.modified()), (Some(long_ago), Some(then)));
    op::set_times("link", FileTime::Omit, FileTime::Now).at(&at).wait().unwrap();
    let stat = op::stat(&file).wait().unwrap();
    assert_eq!(stat.accessed(), Some(long_ago));
    assert!(stat.modified().unwrap() > SystemTime::now() - Duration::from_secs(60));
    op::set_times("link", FileTime::At(then), FileTime::At(then)).follow(false).at(&at).wait().unwrap();
    assert_eq!(op::stat("link").follow(false).at(&at).wait().unwrap().modified(), Some(then));
    // Permissions and owners.
    op::set_permissions("link", 0o640).at(&at).wait().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    op::set_permissions(&file, 0o600).wait().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    op::set_owner(&file, None, Some(expected.gid())).wait().unwrap();
    if sys_is_root() {
        op::set_owner("file", Some(65_534), None).at(&at).wait().unwrap();
        assert_eq!(op::stat(&file).wait().unwrap().uid(), 65_534);
        op::set_owner("link", Some(1), Some(1)).follow(false).at(&at).wait().unwrap();
        assert_eq!(op::stat(&file).wait().unwrap().uid(), 65_534);
    }
}

fn sys_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// G17: names are made, asked about, and go.
pub fn g17_names() {
    let _loop = current_loop();
    let dir = TempDir::new();
    let at = open(&dir.0);
    op::create_dir("sub").mode(0o700).at(&at).wait().unwrap();
    assert_eq!(fs::metadata(dir.path("sub")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(errno(op::create_dir("sub").at(&at).wait()), libc::EEXIST);
    let sub = op::open("sub").custom_flags(libc::O_DIRECTORY).at(&at).wait().unwrap();
    op::write_entire("file", b"x").at(&at).wait().unwrap();
    op::hard_link("file", "second").from_at(&at).to_at(&sub).wait().unwrap();
    assert_eq!(op::stat("file").at(&at).wait().unwrap().nlink(), 2);
    op::symlink("../file", "link").at(&sub).wait().unwrap();
    assert_eq!(op::read_link("link").at(&sub).wait().unwrap(), Path::new("../file"));
    assert_eq!(errno(op::read_link("file").at(&at).wait()), libc::EINVAL);
    op::hard_link("sub/link", "third").from_at(&at).to_at(&at).follow(true).wait().unwrap();
    assert_eq!(op::stat("third").at(&at).wait().unwrap().nlink(), 3);
    let real = op::real_path(dir.path("sub/./link")).wait().unwrap();
    assert_eq!(real, fs::canonicalize(dir.path("file")).unwrap());
    op::access("file", libc::R_OK).at(&at).wait().unwrap();
    op::access("file", libc::F_OK).effective().at(&at).wait().unwrap();
    assert_eq!(errno(op::access("file", libc::X_OK).at(&at).wait()), libc::EACCES);
    assert_eq!(errno(op::access("nothing", libc::F_OK).at(&at).wait()), libc::ENOENT);
    assert_eq!(errno(op::remove_dir("sub").at(&at).wait()), libc::ENOTEMPTY);
    assert_eq!(errno(op::remove_file("sub").at(&at).wait()), libc::EISDIR);
    assert_eq!(errno(op::remove_dir("file").at(&at).wait()), libc::ENOTDIR);
    op::remove_file("link").at(&sub).wait().unwrap();
    op::remove_file("second").at(&sub).wait().unwrap();
    op::remove_dir("sub").at(&at).wait().unwrap();
    // The handle of a directory that is gone.
    assert_eq!(errno(op::create("new").at(&sub).wait()), libc::ENOENT);
}

/// O8: who the process is when an operation begins decides what it may.
pub fn o08_identity() {
    if !sys_is_root() {
        towpath_harness::skip("needs root, to become somebody else");
    }
    let _loop = current_loop();
    let dir = TempDir::new();
    let path = dir.file("secret", b"x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    // The pool's threads, and the ring's, are there.
    op::open(&path).wait().unwrap();
    op::real_path(&path).wait().unwrap();
    // SAFETY: no pointers. For all threads of the process, as POSIX has it.
    assert_eq!(unsafe { libc::seteuid(65_534) }, 0);
    let opened = op::open(&path).wait().map(drop);
    let read = op::read_entire(&path).wait().map(drop);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::seteuid(0) }, 0);
    assert_eq!(errno(opened), libc::EACCES);
    assert_eq!(errno(read), libc::EACCES);
    op::open(&path).wait().unwrap();
}

/// O9: a path that must stay beneath its directory does.
pub fn o09_beneath() {
    let _loop = current_loop();
    let dir = TempDir::new();
    dir.file("outside", b"x");
    fs::create_dir(dir.path("root")).unwrap();
    dir.file("root/inside", b"x");
    let root = open(dir.path("root"));
    for (link, to) in [("good", "inside"), ("bad", "../outside"), ("worse", "/etc/passwd")] {
        op::symlink(to, link).at(&root).wait().unwrap();
    }
    let open = |path: &str, flags| op::open(path).at(&root).resolve(flags).wait();
    let beneath = libc::RESOLVE_BENEATH;
    match open("inside", beneath) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        result => drop(result.unwrap()),
    }
    drop(open("good", beneath).unwrap());
    for path in ["bad", "worse", "../outside", "/etc/passwd", "good/../../outside"] {
        assert!(open(path, beneath).is_err(), "{path}");
    }
    assert_eq!(errno(open("../outside", beneath)), libc::EXDEV);
    assert_eq!(errno(open("good", libc::RESOLVE_NO_SYMLINKS)), libc::ELOOP);
    assert_eq!(errno(open("inside", libc::RESOLVE_CACHED)), libc::EINVAL);
    assert_eq!(errno(open("inside", 1 << 60)), libc::EINVAL);
    // Made beneath as well.
    let made = op::open("made").read(false).write(true).create(true).mode(0o600).resolve(beneath).at(&root);
    let made = made.wait().unwrap();
    assert!(made.as_raw_fd() > 2);
}
