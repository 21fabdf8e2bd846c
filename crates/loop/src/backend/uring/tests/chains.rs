//! What the kernel gets in one piece, and what it makes of it.

use std::ffi::CStr;
use std::fs::File;

use super::*;
use crate::operation::{CURSOR, Entry, Link, VECTORS_MAX};

/// A member, the link behind it, and whether it is to transfer all.
type Member = (Request, Link, bool);

/// How many members the backend takes as a chain, and what comes of those.
fn chain(world: &mut World, members: &[Member]) -> (usize, Vec<i32>) {
    let mut chain: Vec<_> = members
        .iter()
        .map(|&(request, link, all)| {
            world.ids += 1;
            let id = OpId { index: world.ids, generation: world.ids };
            Chained { id, request, link, all, word: 0 }
        })
        .collect();
    // SAFETY: the tests keep what they point to, and their descriptors, until the results are in.
    let taken = unsafe { world.uring.submit_chain(&mut chain) };
    (taken, chain[..taken].iter().map(|member| world.result(member.id)).collect())
}

fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn write(file: &File, vector: &mut libc::iovec, at: u64) -> Request {
    Request::Write { handle: handle(file), vectors: vector, count: 1, at }
}

fn read(file: &File, vector: &mut libc::iovec, at: u64) -> Request {
    Request::Read { handle: handle(file), vectors: vector, count: 1, at }
}

fn rename(from: &CStr, to: &Entry) -> Request {
    Request::Rename { dir: to.dir, path: from.as_ptr(), to, flags: 0 }
}

#[test]
fn files_go_in_one_piece_as_far_as_the_kernel_and_we_agree() {
    let mut world = World::new(&Options::default());
    if world.uring.chain_limit() == 0 {
        return;
    }
    let name = |end: &str| {
        let path = std::env::temp_dir().join(format!("towpath-chain-{}-{end}", std::process::id()));
        std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
    };
    let (one, two, long) = (name("one"), name("two"), name(&"x".repeat(5000)));
    let path = |name: &CStr| std::path::PathBuf::from(name.to_str().unwrap());
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path(&one)).unwrap();
    let (dir, read_only) = (raw(libc::AT_FDCWD), File::open(path(&one)).unwrap());
    let (to_two, to_long) = (Entry { dir, path: two.as_ptr() }, Entry { dir, path: long.as_ptr() });
    let sync = Request::Sync { handle: handle(&file), data_only: true };
    let (mut hello, mut world_) = (vector(b"hello "), vector(b"world"));
    let mut buf = [0_u8; 8];
    let mut room = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 8 };
    let (soft, hard, none) = (Link::Soft, Link::Hard, Link::None);

    // All of it, whatever the links are, with something at the end behind which the kernel would not look.
    let first = write(&file, &mut hello, 0);
    let second = write(&file, &mut world_, 6);
    let third = read(&file, &mut room, 2);
    let members = [(first, soft, true), (second, hard, false), (third, hard, true), (sync, none, false)];
    assert_eq!(chain(&mut world, &members), (4, vec![6, 5, 8, 0]));
    assert_eq!(&buf, b"llo worl");
    let members = [(second, soft, true), (rename(&one, &to_two), none, false)];
    assert_eq!(chain(&mut world, &members), (2, vec![5, 0]));
    assert!(path(&two).exists());
    // Not behind what fails in silence, nor with what is refused before it begins.
    assert_eq!(chain(&mut world, &[(sync, soft, false), (first, none, false)]).0, 0);
    assert_eq!(chain(&mut world, &[(rename(&two, &to_long), soft, false), (first, none, false)]).0, 0);
    assert_eq!(chain(&mut world, &[(first, soft, false), (rename(&two, &to_long), none, false)]).0, 0);
    // A failure, and what is one to the kernel, tear it, also where the link is a hard one.
    for link in [soft, hard] {
        let refused = write(&read_only, &mut hello, 0);
        let torn = chain(&mut world, &[(refused, link, true), (second, soft, false), (sync, none, false)]);
        assert_eq!(torn, (3, vec![-libc::EBADF, -libc::ECANCELED, -libc::ECANCELED]));
        let short = read(&file, &mut room, 7);
        let torn = chain(&mut world, &[(first, soft, true), (short, link, true), (sync, none, false)]);
        assert_eq!(torn, (3, vec![6, 4, -libc::ECANCELED]));
    }
    // More than one step would only begin it.
    let mut many = vec![vector(b"x"); VECTORS_MAX + 1];
    let vectors = many.as_mut_ptr();
    let all = Request::Write { handle: handle(&file), vectors, count: many.len(), at: CURSOR };
    assert_eq!(chain(&mut world, &[(all, soft, true), (sync, none, false)]).0, 0);
    assert_eq!(
        chain(&mut world, &[(first, soft, true), (all, none, true)]),
        (2, vec![6, VECTORS_MAX as i32])
    );
    std::fs::remove_file(path(&two)).unwrap();
}
