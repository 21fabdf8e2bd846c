//! D22: from a file to a socket.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::time::Duration;

use towpath_loop::op;

use crate::common::*;

const LEN: usize = 3 << 20;

fn byte(at: usize) -> u8 {
    (at * 31 + at / 4096) as u8
}

/// A file without a name, of known contents.
fn file() -> File {
    tempfile(&(0..LEN).map(byte).collect::<Vec<_>>())
}

fn assert_is(got: &[u8], from: usize) {
    assert!(got.iter().enumerate().all(|(at, &got)| got == byte(from + at)));
}

/// All of it arrives through a socket that has room for little, whichever way it is waited for.
pub fn d22_sendfile_all() {
    let loop_ = current_loop();
    let file = file();
    for (from, len, owned) in [(0, LEN, false), (4097, LEN - 4097, true), (LEN - 5, 100, false)] {
        let (here, mut there) = half_tcp();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            there.read_to_end(&mut all).unwrap();
            all
        });
        let send = op::sendfile(&here, file.as_fd(), len).at(from as u64).all(true);
        let sent = if owned { loop_.start(send).take().unwrap().unwrap() } else { send.wait().unwrap() };
        drop(here);
        let got = reader.join().unwrap();
        assert_eq!((sent, got.len()), (len.min(LEN - from), sent));
        assert_is(&got, from);
    }
    // The cursor has not moved, and does where no offset is given.
    let (here, mut there) = half_unix();
    assert_eq!((&file).stream_position().unwrap(), 0);
    assert_eq!(op::sendfile(&here, file.as_fd(), 10).all(true).wait().unwrap(), 10);
    assert_eq!((&file).stream_position().unwrap(), 10);
    let mut got = [0; 10];
    there.read_exact(&mut got).unwrap();
    assert_is(&got, 0);
}

/// Step by step: each tells how far it came, and 0 is the end, also of a file that has become shorter.
pub fn d22_sendfile_steps() {
    current_loop();
    let file = file();
    let (here, mut there) = half_tcp();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        there.read_to_end(&mut all).unwrap();
        all
    });
    let (mut sent, mut steps) = (0, 0);
    loop {
        let n = op::sendfile(&here, file.as_fd(), LEN - sent.min(LEN - 1)).at(sent as u64).wait().unwrap();
        if n == 0 {
            break;
        }
        (sent, steps) = (sent + n, steps + 1);
        if steps == 1 {
            file.set_len(LEN as u64 - 1000).unwrap();
        }
    }
    drop(here);
    let got = reader.join().unwrap();
    assert_eq!(got.len(), sent);
    assert!(sent == LEN - 1000 || steps == 1, "{sent} in {steps}");
    // What is on its way is the file's own pages: what was cut off has become zeros there.
    assert_is(&got[..sent.min(LEN - 1000)], 0);
}

/// A peer that does not read: the deadline passes, and what was sent is told.
pub fn d22_sendfile_stalls() {
    let loop_ = current_loop();
    let file = file();
    let (here, mut there) = half_unix();
    let (sent, result) = op::sendfile(&here, file.as_fd(), LEN)
        .at(0)
        .all(true)
        .timeout(Duration::from_millis(30))
        .wait_counted();
    assert_timed_out(result);
    assert!(sent > 0 && sent < LEN);
    let mut got = vec![0; sent];
    there.read_exact(&mut got).unwrap();
    assert_is(&got, 0);

    // Waiting, then cancelled; and then closed by the other side. Sends that come later wait their turn.
    let ends = Log::new();
    let (first, second) = (ends.clone(), ends.clone());
    let id = loop_
        .submit(op::sendfile(&here, file.as_fd(), LEN).all(true), move |_, end| first.add(canceled(end)));
    loop_.submit(op::send(&here, b"behind".to_vec()), move |_, end| second.add(end.is_ok()));
    poke(&loop_);
    assert_eq!(ends.len(), 0);
    assert!(loop_.cancel(id));
    tick_until(&loop_, || ends.len() >= 1);
    assert!(ends.all()[0]);
    drop(there);
    tick_until(&loop_, || ends.len() == 2);
}

/// D11: a closed peer is an error, never a signal; and what cannot work is refused.
pub fn d22_sendfile_refused() {
    current_loop();
    // SAFETY: the default disposition, which would end this process.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let file = file();
    let (here, there) = unix();
    drop(there);
    for _ in 0..3 {
        assert_eq!(errno(op::sendfile(&here, file.as_fd(), 10).at(0).wait()), libc::EPIPE);
    }
    let (here, _there) = unix();
    let send = |at| op::sendfile(&here, file.as_fd(), 10).at(at).wait();
    assert_eq!(errno(send(u64::MAX)), libc::EINVAL);
    assert_eq!(send(1 << 40).unwrap(), 0, "beyond the end");
    assert_eq!(op::sendfile(&here, file.as_fd(), 0).wait().unwrap(), 0);
    let (pipe, _write) = std::io::pipe().unwrap();
    assert_eq!(errno(op::sendfile(&here, pipe.as_fd(), 10).wait()), libc::EINVAL);
    assert_eq!(errno(op::sendfile(file.as_fd(), file.as_fd(), 10).wait()), libc::EINVAL);
    let (blocking, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(errno(op::sendfile(blocking.as_fd(), file.as_fd(), 10).wait()), libc::EINVAL);
}

/// Each part is told, on the way and at the end, by each way of waiting; and nobody is told who does not want to know.
pub fn d22_sendfile_progress() {
    let loop_ = current_loop();
    let file = file();
    let check = |told: &[usize], sent: usize| {
        assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
        assert_eq!(told.last(), Some(&sent));
    };
    for way in 0..3 {
        let (here, mut there) = half_unix();
        let told = Log::new();
        let reader = {
            let told = told.clone();
            if way < 2 {
                // Reads as much as it is told of, so that it ends only if each part is told.
                let log = told.clone();
                let mut there = there.try_clone().unwrap();
                let mut read = 0;
                let tell = move |bytes: usize| {
                    log.add(bytes);
                    there.read_exact(&mut vec![0; bytes - read]).unwrap();
                    read = bytes;
                };
                let send = op::sendfile(&here, file.as_fd(), LEN).at(0).all(true).progress(tell);
                let sent = if way == 0 { send.wait() } else { loop_.start(send).take().unwrap() };
                check(&told.all(), sent.unwrap());
                assert!(told.len() > 1, "there is no room for all of it");
                continue;
            }
            std::thread::spawn(move || there.read_exact(&mut vec![0; LEN]).unwrap())
        };
        let log = told.clone();
        let send = op::sendfile(&here, file.as_fd(), LEN).at(0).all(true);
        let sent = complete(&loop_, send.progress(move |bytes| log.add(bytes))).unwrap();
        reader.join().unwrap();
        check(&told.all(), sent);
    }
    // What was sent before the time was over is told, and a step that is one.
    let (here, _there) = half_unix();
    let mut told = 0;
    let send = op::sendfile(&here, file.as_fd(), LEN).at(0).all(true).progress(|bytes| told = bytes);
    let (sent, result) = send.timeout(Duration::from_millis(10)).wait_counted();
    assert_timed_out(result);
    assert!(sent > 0 && told == sent);
    let (here, _there) = half_unix();
    let mut told = Vec::new();
    op::sendfile(&here, file.as_fd(), 10).at(0).progress(|bytes| told.push(bytes)).wait().unwrap();
    assert_eq!(told, [10]);
}

/// A12, A14, C4: who is told may remove the operation, close the loop, or panic.
pub fn d22_sendfile_progress_meddles() {
    let file = file();
    for what in ["remove", "close", "panic"] {
        let loop_ = new_loop();
        let (here, there) = half_unix();
        let (fate, fated) = Fate::new();
        let told = Log::new();
        let (log, handle) = (told.clone(), loop_.clone());
        let id = std::rc::Rc::new(std::cell::Cell::new(None));
        let known = id.clone();
        let tell = move |bytes: usize| {
            log.add(bytes);
            match what {
                "remove" => assert!(handle.remove(known.get().unwrap())),
                "close" => handle.close(),
                _ => panic!("on purpose"),
            }
        };
        let send = op::sendfile(&here, file.as_fd(), LEN).at(0).all(true).progress(tell);
        id.set(Some(loop_.submit(send, move |_, _| fated.call())));
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while told.len() == 0 {
                loop_.tick(Some(Duration::from_millis(100))).unwrap();
            }
        }));
        assert_eq!(end.is_err(), what == "panic");
        if what == "panic" {
            // The transfer goes on, and is over when the peer is gone.
            drop(there);
            tick_until(&loop_, || fate.is_over());
            assert_eq!(fate.calls(), 1);
        } else {
            if what == "remove" {
                tick_until(&loop_, || loop_.in_flight() == 0);
            }
            assert_eq!((fate.calls(), told.len()), (0, 1));
        }
    }
}
