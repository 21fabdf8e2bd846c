//! L11, G9: transfers of many buffers that go on until all of them are done.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Duration;

use towpath_harness::net;
use towpath_loop::{Socket, op};

use crate::common::*;

/// More than one call takes, of all lengths, and some empty: at the beginning, and as many as one call takes.
fn parts() -> Vec<Vec<u8>> {
    let empty = (0..1500).map(|_| Vec::new());
    empty
        .chain((0..2500_usize).map(|at| vec![(at * 7 + at / 256) as u8; at % 97]))
        .chain([Vec::new()])
        .collect()
}

fn rooms() -> Vec<Vec<u8>> {
    parts().iter().map(|part| vec![0; part.len()]).collect()
}

/// Reads so many bytes on a thread.
fn reader(mut from: impl Read + Send + 'static, len: usize) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut got = vec![0; len];
        from.read_exact(&mut got).unwrap();
        got
    })
}

/// Writes on a thread.
fn writer(mut to: impl Write + Send + 'static, bytes: Vec<u8>) -> JoinHandle<()> {
    std::thread::spawn(move || to.write_all(&bytes).unwrap())
}

/// A socket of ours, and at its other end who reads and writes all of them.
fn ends<T>((here, there): (Socket, T)) -> (Socket, JoinHandle<Vec<u8>>, JoinHandle<()>)
where
    T: Into<OwnedFd>,
{
    let there = there.into();
    let clone = || std::fs::File::from(there.try_clone().unwrap());
    let whole = parts().concat();
    (here, reader(clone(), whole.len()), writer(clone(), whole))
}

/// All of them arrive, and all of them are filled, by each way of waiting, however small the socket's buffer is.
pub fn l11_all_of_many_buffers() {
    let loop_ = current_loop();
    let whole = parts().concat();
    let total = whole.len();
    for way in 0..5 {
        for tcp in [false, true] {
            let (here, reader, writer) = if tcp { ends(half_tcp()) } else { ends(half_unix()) };
            net::set_send_buffer(&here, 4096);
            let send = op::send_vectored(&here, parts()).all(true);
            let recv = op::recv_vectored(&here, rooms()).all(true);
            let (sent, got) = match way {
                0 => (send.wait().unwrap(), recv.wait().unwrap()),
                1 => (complete(&loop_, send).unwrap(), complete(&loop_, recv).unwrap()),
                2 => {
                    let (send, recv) = (loop_.start(send), loop_.start(recv));
                    (send.take().unwrap().unwrap(), recv.take().unwrap().unwrap())
                }
                3 => {
                    let log = Log::new();
                    let (sent, got) = (log.clone(), log.clone());
                    loop_.submit(send, move |_, outcome| sent.add((0, outcome.unwrap())));
                    loop_.submit(recv, move |_, outcome| got.add((1, outcome.unwrap())));
                    loop_.run().unwrap();
                    let mut both = log.take();
                    both.sort_by_key(|(which, _)| *which);
                    let [(_, sent), (_, got)] = <[_; 2]>::try_from(both).unwrap();
                    (sent, got)
                }
                _ => {
                    // Borrowed, where the descriptions are not to be changed.
                    let (parts, mut rooms) = (parts(), rooms());
                    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                    let sent = op::send_vectored(&here, &slices[..]).all(true).wait_counted();
                    assert!(slices.iter().zip(&parts).all(|(slice, part)| slice[..] == part[..]));
                    let mut slices: Vec<_> = rooms.iter_mut().map(|room| IoSliceMut::new(room)).collect();
                    let got = op::recv_vectored(&here, &mut slices[..]).all(true).wait_counted();
                    assert!(slices.iter().zip(&parts).all(|(slice, part)| slice.len() == part.len()));
                    sent.1.and(got.1).unwrap();
                    ((sent.0, parts), (got.0, rooms))
                }
            };
            assert_eq!((sent.0, got.0), (total, total));
            assert!(sent.1 == parts() && got.1 == parts());
            assert!(reader.join().unwrap() == whole);
            writer.join().unwrap();
        }
    }
    // Without a copy.
    let (here, there) = half_tcp();
    net::set_send_buffer(&here, 4096);
    let reader = reader(there, total);
    let sent = op::send_vectored_zc(&here, parts()).all(true).wait().unwrap().sent;
    assert!(sent == (total, parts()) && reader.join().unwrap() == whole);
    // Nothing is nothing, and does not wait.
    assert_eq!(op::recv_vectored(&here, vec![vec![]; 3]).all(true).wait().unwrap().0, 0);
    assert_eq!(op::send_vectored(&here, vec![vec![]; 3]).all(true).wait().unwrap().0, 0);
    assert_eq!(op::send_vectored_zc(&here, vec![vec![]; 3]).all(true).wait().unwrap().sent.0, 0);
}

/// The end, an error, a limit: what was transferred by then is told, and is true.
pub fn l11_some_of_many_buffers() {
    let loop_ = current_loop();
    let (here, mut there) = half_unix();
    there.write_all(b"12345").unwrap();
    let rooms = || vec![vec![0; 2], vec![0; 2], vec![0; 2]];
    let mut into = rooms();
    let mut slices: Vec<_> = into.iter_mut().map(|room| IoSliceMut::new(room)).collect();
    let recv = op::recv_vectored(&here, &mut slices[..]).all(true).timeout(Duration::from_millis(5));
    let (n, result) = recv.wait_counted();
    assert_timed_out(result);
    assert_eq!((n, into), (5, vec![b"12".to_vec(), b"34".to_vec(), b"5\0".to_vec()]));
    // Cancelled between two steps, with an owned buffer that comes back.
    let ticket = loop_.start(op::recv_vectored(&here, rooms()).all(true));
    poke(&loop_);
    there.write_all(b"abc").unwrap();
    poke(&loop_);
    loop_.cancel(ticket.id());
    let failed = ticket.take().unwrap().unwrap_err();
    assert_eq!((failed.transferred, failed.buf.unwrap().concat()), (3, b"abc\0\0\0".to_vec()));
    there.write_all(b"xyz").unwrap();
    drop(there);
    assert_eq!(
        op::recv_vectored(&here, rooms()).all(true).wait().unwrap(),
        (3, vec![b"xy".to_vec(), b"z\0".to_vec(), vec![0; 2]])
    );
    assert_eq!(errno(op::send_vectored(&here, rooms()).all(true).wait()), libc::EPIPE);
}

/// G9: files and pipes, at an offset and at the cursor, beyond what one call takes.
pub fn g09_all_of_many_buffers() {
    let loop_ = current_loop();
    let whole = parts().concat();
    let total = whole.len();
    for at in [None, Some(3), Some(0)] {
        let file = towpath_loop::File::from(tempfile(b""));
        let offset = at.unwrap_or(0) as usize;
        for owned in [false, true] {
            let write = op::write_vectored(&file, parts()).all(true);
            let write = if let Some(at) = at { write.at(at) } else { write };
            let written = if owned { loop_.start(write).take().unwrap() } else { write.wait() };
            assert_eq!(written.unwrap(), (total, parts()));
        }
        let len = op::stat(&file).wait().unwrap().len() as usize;
        // At the cursor the second one is behind the first.
        assert_eq!(len, if at.is_some() { offset + total } else { 2 * total });
        let mut back = op::read_vectored(&file, rooms()).all(true);
        back = back.at(offset as u64);
        assert_eq!(back.wait().unwrap(), (total, parts()));
        // The end comes before all is read.
        let read = op::read_vectored(&file, rooms()).all(true).at((len - 100) as u64);
        let (n, got) = complete(&loop_, read).unwrap();
        assert!(n == 100 && got.concat()[..100] == whole[total - 100..]);
        assert_eq!(op::read_vectored(&file, rooms()).all(true).at(len as u64 + 1).wait().unwrap().0, 0);
        assert_eq!(op::read_vectored(&file, vec![vec![]; 3]).all(true).wait().unwrap().0, 0);
    }
    // Without `all`, as much as one call takes.
    let file = towpath_loop::File::from(tempfile(&[7; 5000]));
    assert_eq!(op::read_vectored(&file, vec![vec![0; 2]; 1500]).at(0).wait().unwrap().0, 2048);
    let (read, write) = op::pipe().wait().unwrap();
    let fill = loop_.start(op::write_vectored(&write, parts()).all(true));
    assert_eq!(op::read_vectored(&read, rooms()).all(true).wait().unwrap(), (total, parts()));
    assert_eq!(fill.take().unwrap().unwrap(), (total, parts()));
    let full = loop_.start(op::write_vectored(&file, parts()).all(true));
    drop(full);
    loop_.run().unwrap();
}
