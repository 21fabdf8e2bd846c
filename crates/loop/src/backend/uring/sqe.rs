//! From a [`Request`] to the entry that asks the kernel for it.

use io_uring::types::{Fd, FsyncFlags, Timespec};
use io_uring::{opcode, squeue};

use crate::operation::{Request, TRANSFER_MAX, VECTORS_MAX};

/// What is announced as ready again and again, and is not, is left alone for as long as by the other backends.
pub(super) static REST: Timespec = Timespec::new().nsec(super::super::readiness::REST.as_nanos() as u32);

/// The descriptors that we make are as `std` makes them, and non-blocking for the calls that bypass the ring.
const NEW_FD: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

/// `IORING_SEND_ZC_REPORT_USAGE` (6.2): the notification tells whether there was a copy after all.
const REPORT_USAGE: u16 = 8;
/// `IORING_NOTIF_USAGE_ZC_COPIED`: there was.
pub(super) const COPIED: u32 = 1 << 31;

/// The entry of a plain send or receive, as [`entry`]. Inlined, so that it is put together where it is to be.
#[inline(always)]
pub(super) fn transfer(request: &Request) -> Option<squeue::Entry> {
    match *request {
        Request::Recv { handle, buf, len, flags } => {
            Some(opcode::Recv::new(Fd(handle.fd), buf, at_most(len)).flags(waiting(flags)).build())
        }
        Request::Send { handle, buf, len, flags } => {
            Some(opcode::Send::new(Fd(handle.fd), buf, at_most(len)).flags(sending(flags)).build())
        }
        _ => None,
    }
}

/// The entry for a request, without a name (`user_data`) yet.
///
/// # Safety
/// What the request points to is valid and nobody else's; the entry may be submitted while it stays so.
#[inline]
pub(super) unsafe fn entry(request: &Request) -> squeue::Entry {
    match *request {
        Request::Nop
        | Request::Timer
        | Request::External
        | Request::SendFile { .. }
        | Request::Splice { .. }
        | Request::Group(_)
        | Request::Shutdown { .. }
        | Request::Access { .. }
        | Request::SetPermissions { .. }
        | Request::SetOwner { .. }
        | Request::SetTimes { .. }
        | Request::ReadLink { .. }
        | Request::RealPath { .. }
        | Request::ReadDir { .. }
        | Request::CopyRange { .. }
        | Request::ReadEntire { .. }
        | Request::WriteEntire { .. }
        | Request::Signal { .. } => {
            unreachable!("{:?} has no opcode", request.kind())
        }
        Request::Socket { domain, kind, protocol } => {
            opcode::Socket::new(domain, kind | NEW_FD, protocol).build()
        }
        Request::Bind { handle, addr } => {
            // SAFETY: `addr` is valid by this function's contract.
            let (addr, len) = unsafe { (&raw const (*addr).storage, (*addr).len) };
            opcode::Bind::new(Fd(handle.fd), addr.cast(), len).build()
        }
        Request::Listen { handle, backlog } => opcode::Listen::new(Fd(handle.fd), backlog).build(),
        Request::Accept { handle, addr } => {
            let (addr, len) = if addr.is_null() {
                (std::ptr::null_mut(), std::ptr::null_mut())
            } else {
                // SAFETY: `addr` is not null, so valid and ours to write to by this function's contract.
                unsafe {
                    (*addr).len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                    ((&raw mut (*addr).storage).cast(), &raw mut (*addr).len)
                }
            };
            opcode::Accept::new(Fd(handle.fd), addr, len).flags(NEW_FD).build()
        }
        Request::Connect { handle, addr } => {
            // SAFETY: `addr` is valid by this function's contract.
            let (addr, len) = unsafe { (&raw const (*addr).storage, (*addr).len) };
            opcode::Connect::new(Fd(handle.fd), addr.cast(), len).build()
        }
        Request::Recv { .. } | Request::Send { .. } => transfer(request).expect("it is one"),
        Request::RecvMsg { handle, msg, flags, .. } => {
            opcode::RecvMsg::new(Fd(handle.fd), msg).flags(waiting(flags) as u32).build()
        }
        Request::SendMsg { handle, msg, flags, .. } => {
            opcode::SendMsg::new(Fd(handle.fd), msg).flags(sending(flags) as u32).build()
        }
        Request::SpliceFile { from, to, args } => {
            // SAFETY: `args` is valid by this function's contract.
            let args = unsafe { &*args };
            // Not to occupy a thread of the kernel's while the pipe is not ready.
            let flags = args.flags | libc::SPLICE_F_NONBLOCK;
            let (from_at, to_at) = (args.from_at as i64, args.to_at as i64);
            opcode::Splice::new(Fd(from.fd), from_at, Fd(to.fd), to_at, at_most(args.len))
                .flags(flags)
                .build()
        }
        Request::SendZc { handle, buf, len, flags, .. } => {
            let entry = opcode::SendZc::new(Fd(handle.fd), buf, at_most(len)).flags(sending(flags));
            entry.zc_flags(REPORT_USAGE).build()
        }
        Request::SendMsgZc { handle, msg, flags, .. } => {
            let entry = opcode::SendMsgZc::new(Fd(handle.fd), msg).flags(sending(flags) as u32);
            entry.ioprio(REPORT_USAGE).build()
        }
        Request::Close { handle } => opcode::Close::new(Fd(handle.fd)).build(),
        Request::Poll { handle, events } => poll(handle.fd, events),
        Request::Read { handle, vectors, count, at } | Request::ReadStream { handle, vectors, count, at } => {
            opcode::Readv::new(Fd(handle.fd), vectors, at_once(count)).offset(at).build()
        }
        Request::Write { handle, vectors, count, at }
        | Request::WriteStream { handle, vectors, count, at } => {
            opcode::Writev::new(Fd(handle.fd), vectors, at_once(count)).offset(at).build()
        }
        Request::Sync { handle, data_only } => {
            let flags = if data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
            opcode::Fsync::new(Fd(handle.fd)).flags(flags).build()
        }
        Request::SetLen { handle, len } => opcode::Ftruncate::new(Fd(handle.fd), len).build(),
        Request::Allocate { handle, mode, offset, len } => {
            opcode::Fallocate::new(Fd(handle.fd), len).offset(offset).mode(mode).build()
        }
        Request::Open { dir, path, how } => {
            // SAFETY: `how` is valid by this function's contract.
            let how = unsafe { *how };
            let flags = how.flags as i32;
            let entry =
                opcode::OpenAt::new(Fd(dir.fd), path).flags(flags).mode(how.mode as libc::mode_t).build();
            patiently(entry, flags)
        }
        Request::OpenResolved { dir, path, how } => {
            // SAFETY: as above.
            let flags = unsafe { (*how).flags as i32 };
            patiently(opcode::OpenAt2::new(Fd(dir.fd), path, how.cast()).build(), flags)
        }
        Request::Stat { dir, path, flags, mask, out } => {
            opcode::Statx::new(Fd(dir.fd), path, out.cast()).flags(flags).mask(mask).build()
        }
        Request::Rename { dir, path, to, flags } => {
            // SAFETY: `to` is valid by this function's contract.
            let to = unsafe { *to };
            opcode::RenameAt::new(Fd(dir.fd), path, Fd(to.dir.fd), to.path).flags(flags).build()
        }
        Request::HardLink { dir, path, to, flags } => {
            // SAFETY: as above.
            let to = unsafe { *to };
            opcode::LinkAt::new(Fd(dir.fd), path, Fd(to.dir.fd), to.path).flags(flags).build()
        }
        Request::Symlink { dir, path, original } => {
            opcode::SymlinkAt::new(Fd(dir.fd), original, path).build()
        }
        Request::Remove { dir, path, flags } => opcode::UnlinkAt::new(Fd(dir.fd), path).flags(flags).build(),
        Request::CreateDir { dir, path, mode } => opcode::MkDirAt::new(Fd(dir.fd), path).mode(mode).build(),
        Request::Pipe { fds, flags } => {
            opcode::Pipe::new(fds.cast()).flags((flags | libc::O_CLOEXEC) as u32).build()
        }
        Request::AcceptMulti { handle, .. } => opcode::AcceptMulti::new(Fd(handle.fd)).flags(NEW_FD).build(),
        Request::RecvMulti { handle, flow } => {
            // SAFETY: `flow` is valid by this function's contract.
            let flow = unsafe { &*flow };
            let group = flow.pool().group().expect("a ring of buffers is registered");
            if flow.is_multishot() {
                opcode::RecvMulti::new(Fd(handle.fd), group).build()
            } else {
                let len = at_most(flow.pool().size());
                let single = opcode::Recv::new(Fd(handle.fd), std::ptr::null_mut(), len).buf_group(group);
                single.build().flags(squeue::Flags::BUFFER_SELECT)
            }
        }
        Request::WaitChild { handle } => exited(libc::P_PIDFD, handle.fd),
        Request::WaitProcess { pid } => exited(libc::P_PID, pid),
    }
}

/// A wait for the end of a child, which stays to be reaped.
fn exited(kind: libc::idtype_t, id: i32) -> squeue::Entry {
    opcode::WaitId::new(kind, id as libc::id_t, libc::WEXITED | libc::WNOWAIT).build()
}

/// An open that waits where it has to. The ring would try it without blocking at first, and that is not the same: a FIFO
/// then opens before its other end does, or not at all. So a thread of the kernel's makes it.
fn patiently(entry: squeue::Entry, flags: i32) -> squeue::Entry {
    if flags & libc::O_NONBLOCK != 0 { entry } else { entry.flags(squeue::Flags::ASYNC) }
}

/// The entry for a one-shot poll.
pub(super) fn poll(fd: i32, events: u16) -> squeue::Entry {
    opcode::PollAdd::new(Fd(fd), u32::from(events)).build()
}

fn at_most(len: usize) -> u32 {
    len.min(TRANSFER_MAX) as u32
}

fn at_once(vectors: usize) -> u32 {
    vectors.min(VECTORS_MAX) as u32
}

/// With MSG_DONTWAIT the kernel would say EAGAIN instead of waiting, and waiting is what it is here for.
fn waiting(flags: i32) -> i32 {
    flags & !libc::MSG_DONTWAIT
}

/// Here it has its reason: see [`Target::sending`](crate::descriptor::Target::sending).
fn sending(flags: i32) -> i32 {
    flags | libc::MSG_NOSIGNAL
}
