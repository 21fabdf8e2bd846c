//! The system calls behind the requests about files.
//!
//! [`call`] makes one system call. Those that may take long are for the threads of the blocking pool, which come in by
//! [`carry_out`]; it also knows the requests that are several system calls in a row.

use std::ffi::{CStr, c_char};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{ptr, slice};

use rustix::io::{Errno, ReadWriteFlags};

use super::attempt::{self, borrow, errno, moved};
use crate::operation::{
    CURSOR, Entire, Handle, NOT_READY, OpenHow, Range, Request, Step, TRANSFER_MAX, VECTORS_MAX,
};

/// How long a splice rests that is told to wait for nothing.
const PAUSE: Duration = Duration::from_millis(1);

/// How much is copied at once where the kernel does not copy by itself.
const COPY_CHUNK: usize = 128 << 10;

/// Carries a request out on a thread that may block, until it is over or `canceled`. Whoever cancels interrupts the
/// system call by a signal after setting the flag.
///
/// # Safety
/// As for [`Backend::submit`](super::Backend::submit): what the request points to is valid and nobody else's.
pub(crate) unsafe fn carry_out(request: &Request, canceled: &AtomicBool) -> i32 {
    let result = match *request {
        // SAFETY: passed on from this function's own contract.
        Request::CopyRange { args } => unsafe { copy(&*args, canceled) },
        // SAFETY: as above; nobody else has the arguments now.
        Request::ReadEntire { args } => unsafe { read_entire(&mut *args, canceled) },
        // SAFETY: as above.
        Request::WriteEntire { args } => unsafe { write_entire(&mut *args, canceled) },
        // SAFETY: as above.
        Request::Splice { args, .. } | Request::SpliceFile { args, .. } => unsafe {
            let result = retry(canceled, || attempt::call(request));
            if result == Err(libc::EAGAIN) && (*args).wait.is_in_vain() {
                // Announced as ready, and not for us. Not to be tried again and again; a cancel ends this at once.
                std::thread::sleep(PAUSE);
            }
            if result == Err(libc::EAGAIN) { Ok(NOT_READY) } else { result }
        },
        // SAFETY: as above.
        _ => retry(canceled, || unsafe { attempt::call(request) }),
    };
    result.unwrap_or_else(|errno| -errno)
}

/// Makes a system call again after interruptions, unless they are meant.
fn retry<T>(canceled: &AtomicBool, mut call: impl FnMut() -> Result<T, i32>) -> Result<T, i32> {
    loop {
        // Sequentially consistent, as the other side: a look before the flag is set is followed by a signal.
        if canceled.load(Ordering::SeqCst) {
            return Err(libc::ECANCELED);
        }
        match call() {
            Err(libc::EINTR) => {}
            result => return result,
        }
    }
}

/// The system call itself, as `Ok(value)` or `Err(errno)`.
///
/// # Safety
/// As for [`carry_out`].
pub(super) unsafe fn call(request: &Request) -> Result<i32, i32> {
    // SAFETY: each call gets pointers that are valid by this function's contract, or none.
    let value = unsafe {
        match *request {
            Request::Read { handle, vectors, count, at } => {
                let vectors = slices_mut(vectors, count);
                return moved(match at {
                    CURSOR => rustix::io::readv(borrow(handle)?, vectors),
                    at => rustix::io::preadv(borrow(handle)?, vectors, at),
                });
            }
            Request::Write { handle, vectors, count, at } => {
                let vectors = slices(vectors, count);
                return moved(match at {
                    CURSOR => rustix::io::writev(borrow(handle)?, vectors),
                    at => rustix::io::pwritev(borrow(handle)?, vectors, at),
                });
            }
            Request::ReadStream { handle, vectors, count, at } => {
                let (fd, vectors) = (borrow(handle)?, slices_mut(vectors, count));
                return moved(match rustix::io::preadv2(fd, vectors, at, ReadWriteFlags::NOWAIT) {
                    Err(error) if unwilling(error) && may_try(handle, at) => rustix::io::readv(fd, vectors),
                    result => result,
                })
                .map_err(not_supported);
            }
            Request::WriteStream { handle, vectors, count, at } => {
                let (fd, vectors) = (borrow(handle)?, slices(vectors, count));
                return moved(match rustix::io::pwritev2(fd, vectors, at, ReadWriteFlags::NOWAIT) {
                    Err(error) if unwilling(error) && may_try(handle, at) => rustix::io::writev(fd, vectors),
                    result => result,
                })
                .map_err(not_supported);
            }
            Request::Sync { handle, data_only: false } => libc::fsync(handle.fd),
            Request::Sync { handle, data_only: true } => libc::fdatasync(handle.fd),
            Request::SetLen { handle, len } => libc::ftruncate(handle.fd, len as libc::off_t),
            Request::Allocate { handle, mode, offset, len } => {
                libc::fallocate(handle.fd, mode, offset as libc::off_t, len as libc::off_t)
            }
            Request::Open { dir, path, how } => return open(dir.fd, path, &*how),
            Request::OpenResolved { dir, path, how } => {
                let fd = libc::syscall(libc::SYS_openat2, dir.fd, path, how, size_of::<OpenHow>()) as i32;
                // Somebody renamed a directory on the way, so that the kernel is not sure: to be asked again.
                if fd < 0 && errno() == libc::EAGAIN && (*how).flags & libc::O_NONBLOCK as u64 == 0 {
                    return Err(libc::EINTR);
                }
                fd
            }
            Request::Stat { dir, path, flags, mask, out } => libc::statx(dir.fd, path, flags, mask, out),
            // glibc emulates the flags where the kernel is too old for them.
            Request::Access { dir, path, mode, flags } => libc::faccessat(dir.fd, path, mode, flags),
            Request::SetPermissions { dir, path, mode } if path.is_null() => libc::fchmod(dir.fd, mode),
            Request::SetPermissions { dir, path, mode } => libc::fchmodat(dir.fd, path, mode, 0),
            Request::SetOwner { dir, path, owner, group, flags } => {
                libc::fchownat(dir.fd, path, owner, group, flags)
            }
            Request::SetTimes { dir, path, times, .. } if path.is_null() => {
                libc::futimens(dir.fd, times.cast())
            }
            Request::SetTimes { dir, path, times, flags } => {
                libc::utimensat(dir.fd, path, times.cast(), flags)
            }
            Request::Rename { dir, path, to, flags } => {
                // Not the C library's: some have none. Without flags an old kernel's call will do.
                let to = &*to;
                libc::syscall(libc::SYS_renameat2, dir.fd, path, to.dir.fd, to.path, flags) as i32
            }
            Request::HardLink { dir, path, to, flags } => {
                libc::linkat(dir.fd, path, (*to).dir.fd, (*to).path, flags)
            }
            Request::Symlink { dir, path, original } => libc::symlinkat(original, dir.fd, path),
            Request::Remove { dir, path, flags } => libc::unlinkat(dir.fd, path, flags),
            Request::CreateDir { dir, path, mode } => libc::mkdirat(dir.fd, path, mode),
            Request::ReadLink { dir, path, buf, len } => {
                libc::readlinkat(dir.fd, path, buf.cast(), len.min(TRANSFER_MAX)) as i32
            }
            Request::RealPath { path, buf } => {
                if libc::realpath(path, buf.cast()).is_null() {
                    return Err(errno());
                }
                CStr::from_ptr(buf.cast()).count_bytes() as i32
            }
            Request::ReadDir { handle, buf, len } => {
                libc::syscall(libc::SYS_getdents64, handle.fd, buf, len.min(TRANSFER_MAX)) as i32
            }
            Request::Pipe { fds, flags } => libc::pipe2(fds.cast(), flags | libc::O_CLOEXEC),
            _ => unreachable!("{:?} is no single system call", request.kind()),
        }
    };
    if value < 0 { Err(errno()) } else { Ok(value) }
}

/// Whether a file knows nothing of `RWF_NOWAIT`.
fn unwilling(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

/// Whether a plain call would not block either, as the descriptor is in non-blocking mode.
fn may_try(handle: Handle, at: u64) -> bool {
    at == CURSOR
        && borrow(handle).is_ok_and(|fd| {
            rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
        })
}

/// One word for "not without blocking", whatever made the kernel say so.
fn not_supported(errno: i32) -> i32 {
    if errno == libc::ENOSYS { libc::EOPNOTSUPP } else { errno }
}

/// # Safety
/// As for [`carry_out`]; `vectors` describe `count` buffers that may be written.
pub(super) unsafe fn slices_mut<'a>(vectors: *mut libc::iovec, count: usize) -> &'a mut [IoSliceMut<'a>] {
    // SAFETY: std promises that an `IoSliceMut` is laid out as an `iovec`; the rest is this function's contract.
    unsafe { slice::from_raw_parts_mut(vectors.cast(), count.min(VECTORS_MAX)) }
}

/// # Safety
/// As for [`carry_out`]; `vectors` describe `count` buffers.
unsafe fn slices<'a>(vectors: *const libc::iovec, count: usize) -> &'a [IoSlice<'a>] {
    // SAFETY: as above.
    unsafe { slice::from_raw_parts(vectors.cast(), count.min(VECTORS_MAX)) }
}

/// # Safety
/// `path` is a valid C string.
unsafe fn open(dir: RawFd, path: *const c_char, how: &OpenHow) -> Result<i32, i32> {
    // SAFETY: passed on from this function's own contract.
    let fd =
        unsafe { libc::openat(dir, path, how.flags as i32 | libc::O_LARGEFILE, how.mode as libc::mode_t) };
    if fd < 0 { Err(errno()) } else { Ok(fd) }
}

/// Opens the file of `args`, as the first step of what is done to it.
///
/// # Safety
/// The path is a valid C string.
unsafe fn open_entire(args: &mut Entire, canceled: &AtomicBool) -> Result<OwnedFd, i32> {
    args.step = Step::Open;
    // SAFETY: passed on from this function's own contract.
    let fd = retry(canceled, || unsafe { open(args.dir.fd, args.path, &args.how) })?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// As for [`carry_out`].
unsafe fn read_entire(args: &mut Entire, canceled: &AtomicBool) -> Result<i32, i32> {
    /// Room for files whose size is not known, like those of `/proc`.
    const UNKNOWN: usize = 8 << 10;
    // SAFETY: passed on from this function's own contract.
    let file = unsafe { open_entire(args, canceled)? };
    if args.how.flags & libc::O_DIRECTORY as u64 != 0 {
        return list(args, &file, canceled);
    }
    args.step = Step::Stat;
    let size = retry(canceled, || rustix::fs::fstat(&file).map_err(Errno::raw_os_error))?.st_size;
    let size = usize::try_from(size).unwrap_or(0);
    args.step = Step::Read;
    if size > args.limit {
        return Err(libc::EFBIG);
    }
    // One byte more, so that the end is found without asking for room again.
    let mut wanted = if size == 0 { UNKNOWN } else { size + 1 };
    loop {
        if args.read.len() == args.read.capacity() {
            let most = args.limit.saturating_add(1) - args.read.len();
            args.read.try_reserve_exact(wanted.min(most)).map_err(|_| libc::ENOMEM)?;
            wanted = args.read.capacity();
        }
        let spare = args.read.spare_capacity_mut();
        let most = spare.len().min(TRANSFER_MAX);
        let (_, n) = retry(canceled, || match rustix::io::read(&file, &mut spare[..most]) {
            Ok((filled, _)) => Ok(((), filled.len())),
            Err(error) => Err(error.raw_os_error()),
        })?;
        // SAFETY: the kernel has just initialised that many bytes of the spare capacity.
        unsafe { args.read.set_len(args.read.len() + n) };
        match n {
            0 => return Ok(0),
            _ if args.read.len() > args.limit => return Err(libc::EFBIG),
            _ => {}
        }
    }
}

/// Reads a directory to its end.
fn list(args: &mut Entire, dir: &OwnedFd, canceled: &AtomicBool) -> Result<i32, i32> {
    /// Room for some thousand entries with short names, and for any one.
    const ROOM: usize = 32 << 10;
    args.step = Step::Read;
    loop {
        args.read.try_reserve(ROOM).map_err(|_| libc::ENOMEM)?;
        let spare = args.read.spare_capacity_mut();
        let len = spare.len().min(TRANSFER_MAX);
        let n = retry(canceled, || {
            // SAFETY: room for `len` bytes, which are ours.
            let n = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), spare.as_mut_ptr(), len) };
            if n < 0 { Err(errno()) } else { Ok(n as usize) }
        })?;
        // SAFETY: the kernel has just initialised that many bytes of the spare capacity.
        unsafe { args.read.set_len(args.read.len() + n) };
        match n {
            0 => return Ok(0),
            _ if args.read.len() > args.limit => return Err(libc::EFBIG),
            _ => {}
        }
    }
}

/// # Safety
/// As for [`carry_out`].
unsafe fn write_entire(args: &mut Entire, canceled: &AtomicBool) -> Result<i32, i32> {
    // SAFETY: passed on from this function's own contract.
    let file = unsafe { open_entire(args, canceled)? };
    args.step = Step::Write;
    // SAFETY: as above: these are the operation's own bytes.
    let mut rest = unsafe { slice::from_raw_parts(args.bytes.0, args.bytes.1) };
    while !rest.is_empty() {
        let most = &rest[..rest.len().min(TRANSFER_MAX)];
        match retry(canceled, || rustix::io::write(&file, most).map_err(Errno::raw_os_error))? {
            0 => return Err(libc::EIO),
            n => rest = &rest[n..],
        }
    }
    Ok(0)
}

/// Copies once: as much as the kernel will, or a bufferful where it will not.
///
/// # Safety
/// The descriptors are open.
unsafe fn copy(args: &Range, canceled: &AtomicBool) -> Result<i32, i32> {
    let Range { from, from_at, to, to_at, len } = *args;
    let len = len.min(TRANSFER_MAX);
    let copied = retry(canceled, || {
        let (mut from_at, mut to_at) = (from_at as libc::off64_t, to_at as libc::off64_t);
        let place = |at: &mut libc::off64_t| if *at < 0 { ptr::null_mut() } else { ptr::from_mut(at) };
        let (in_, out) = (place(&mut from_at), place(&mut to_at));
        // SAFETY: the offsets are null or on this frame, the descriptors open by this function's contract.
        let n = unsafe { libc::syscall(libc::SYS_copy_file_range, from.fd, in_, to.fd, out, len, 0) };
        if n < 0 { Err(errno()) } else { Ok(n as i32) }
    });
    match copied {
        // Old kernels across file systems, files without size, special ones.
        Err(libc::EXDEV | libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM) => {}
        // Of a file and itself it says that the ranges overlap.
        Err(libc::EINVAL) if from.fd != to.fd => {}
        // 0 is what kernels before 5.19 say of files in /proc.
        Ok(0) if len > 0 => {}
        result => return result,
    }
    let (source, sink) = (borrow(from)?, borrow(to)?);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len.min(COPY_CHUNK)).map_err(|_| libc::ENOMEM)?;
    buffer.resize(len.min(COPY_CHUNK), 0);
    let n = retry(canceled, || {
        let n = match from_at {
            CURSOR => rustix::io::read(source, &mut buffer[..]),
            at => rustix::io::pread(source, &mut buffer[..], at),
        };
        n.map_err(Errno::raw_os_error)
    })?;
    write_all(sink, &buffer[..n], to_at)?;
    Ok(n as i32)
}

/// Writes what has been taken from elsewhere: not interrupted, since it would be lost.
fn write_all(sink: BorrowedFd<'_>, mut rest: &[u8], mut at: u64) -> Result<(), i32> {
    while !rest.is_empty() {
        let written = match at {
            CURSOR => rustix::io::write(sink, rest),
            at => rustix::io::pwrite(sink, rest, at),
        };
        match written {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.raw_os_error()),
            Ok(0) => return Err(libc::EIO),
            Ok(n) => {
                rest = &rest[n..];
                if at != CURSOR {
                    at += n as u64;
                }
            }
        }
    }
    Ok(())
}
