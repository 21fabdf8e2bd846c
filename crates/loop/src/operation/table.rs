//! The kinds of operations, and how each backend does them.

/// The kind of a [`Request`](super::Request): a row of [`OPERATIONS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "see the variants of Request")]
#[repr(u8)]
pub enum Kind {
    Nop,
    Timer,
    External,
    Group,
    Socket,
    Bind,
    Listen,
    Accept,
    Connect,
    Recv,
    Send,
    RecvMsg,
    SendMsg,
    SendZc,
    SendMsgZc,
    SendFile,
    Splice,
    SpliceFile,
    Shutdown,
    Close,
    Poll,
    Read,
    Write,
    ReadStream,
    WriteStream,
    Sync,
    SetLen,
    Allocate,
    Open,
    OpenResolved,
    Stat,
    Access,
    SetPermissions,
    SetOwner,
    SetTimes,
    Rename,
    HardLink,
    Symlink,
    Remove,
    CreateDir,
    ReadLink,
    RealPath,
    ReadDir,
    CopyRange,
    ReadEntire,
    WriteEntire,
    Pipe,
    AcceptMulti,
    RecvMulti,
    Signal,
    WaitChild,
    WaitProcess,
}

/// The direction of readiness that an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Until reading (or accepting) would not block.
    Read,
    /// Until writing (or connecting) would not block.
    Write,
}

/// How an operation is carried out where the backend has no native way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// By the loop itself, on every backend: nothing reaches a kernel.
    Loop,
    /// By one system call that does not block.
    Direct,
    /// By trying the system call, waiting for this readiness while it would block, and trying again.
    Ready(Direction),
    /// By trying the system call, and waiting for both of its descriptors while it would block.
    Ends,
    /// By waiting for the readiness that the operation itself names.
    Wait,
    /// By the system call on a thread of the blocking pool.
    Pool,
}

/// How a backend carries out an operation, as [`Loop::capabilities`](crate::Loop::capabilities) reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Support {
    /// The kernel carries the whole operation out and reports its completion.
    Native,
    /// The loop waits for readiness and makes the system call.
    Readiness,
    /// The loop makes the system call at once: it does not block.
    Direct,
    /// A thread of the blocking pool makes the system call.
    Pool,
    /// Not on this backend.
    Unsupported,
}

/// One row of [`OPERATIONS`].
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Which operation.
    pub kind: Kind,
    /// Its name, as the builder is called.
    pub name: &'static str,
    /// The io_uring opcode that does it.
    pub uring: Option<Opcode>,
    /// The system call that does it elsewhere, or the reason why there is none.
    pub call: &'static str,
    /// How it is done elsewhere.
    pub elsewhere: Elsewhere,
}

/// An io_uring opcode.
#[derive(Clone, Copy, Debug)]
pub struct Opcode {
    /// The number that `IORING_REGISTER_PROBE` knows it by.
    pub code: u8,
    /// Its name in the kernel's header.
    pub name: &'static str,
    /// The first kernel with it. Documentation: the backend asks the kernel instead.
    pub since: &'static str,
}

/// Every operation, and how it is done: the one place to look it up. In the order of [`Kind`].
pub const OPERATIONS: &[Description] = {
    use Elsewhere::{Direct, Ends, Loop, Pool, Ready, Wait};
    use io_uring::opcode as op;
    const fn row(
        kind: Kind,
        name: &'static str,
        uring: Option<Opcode>,
        call: &'static str,
        elsewhere: Elsewhere,
    ) -> Description {
        Description { kind, name, uring, call, elsewhere }
    }
    const fn code(code: u8, name: &'static str, since: &'static str) -> Option<Opcode> {
        Some(Opcode { code, name, since })
    }
    &[
        row(Kind::Nop, "next_tick", None, "the loop's own queue", Loop),
        row(Kind::Timer, "timer", None, "the loop's timer wheel", Loop),
        row(Kind::External, "blocking, event", None, "the loop's inbox", Loop),
        row(Kind::Group, "gather, race", None, "the loop's own count", Loop),
        row(Kind::Socket, "socket", code(op::Socket::CODE, "IORING_OP_SOCKET", "5.19"), "socket", Direct),
        row(Kind::Bind, "bind", code(op::Bind::CODE, "IORING_OP_BIND", "6.11"), "bind", Direct),
        row(Kind::Listen, "listen", code(op::Listen::CODE, "IORING_OP_LISTEN", "6.11"), "listen", Direct),
        row(
            Kind::Accept,
            "accept",
            code(op::Accept::CODE, "IORING_OP_ACCEPT", "5.5"),
            "accept4",
            Ready(Direction::Read),
        ),
        row(
            Kind::Connect,
            "connect",
            code(op::Connect::CODE, "IORING_OP_CONNECT", "5.5"),
            "connect",
            Ready(Direction::Write),
        ),
        row(
            Kind::Recv,
            "recv",
            code(op::Recv::CODE, "IORING_OP_RECV", "5.6"),
            "recv",
            Ready(Direction::Read),
        ),
        row(
            Kind::Send,
            "send",
            code(op::Send::CODE, "IORING_OP_SEND", "5.6"),
            "send",
            Ready(Direction::Write),
        ),
        row(
            Kind::RecvMsg,
            "recv_vectored, recv_from, recv_msg",
            code(op::RecvMsg::CODE, "IORING_OP_RECVMSG", "5.3"),
            "recvmsg",
            Ready(Direction::Read),
        ),
        row(
            Kind::SendMsg,
            "send_vectored, send_to, send_msg",
            code(op::SendMsg::CODE, "IORING_OP_SENDMSG", "5.3"),
            "sendmsg",
            Ready(Direction::Write),
        ),
        row(
            Kind::SendZc,
            "send_zc",
            code(op::SendZc::CODE, "IORING_OP_SEND_ZC", "6.0"),
            "send",
            Ready(Direction::Write),
        ),
        row(
            Kind::SendMsgZc,
            "send_vectored_zc",
            code(op::SendMsgZc::CODE, "IORING_OP_SENDMSG_ZC", "6.1"),
            "sendmsg",
            Ready(Direction::Write),
        ),
        row(Kind::SendFile, "sendfile", None, "sendfile", Ready(Direction::Write)),
        // IORING_OP_SPLICE always goes to a kernel thread, which would sit there for as long as an end is not ready.
        row(Kind::Splice, "splice (streams)", None, "splice", Ends),
        row(
            Kind::SpliceFile,
            "splice (files)",
            code(op::Splice::CODE, "IORING_OP_SPLICE", "5.7"),
            "splice",
            Pool,
        ),
        // IORING_OP_SHUTDOWN (5.11) always goes to a kernel thread, for a call that never blocks.
        row(Kind::Shutdown, "shutdown", None, "shutdown", Direct),
        row(Kind::Close, "close", code(op::Close::CODE, "IORING_OP_CLOSE", "5.6"), "close", Direct),
        row(Kind::Poll, "poll", code(op::PollAdd::CODE, "IORING_OP_POLL_ADD", "5.1"), "the poller", Wait),
        row(Kind::Read, "read (files)", code(op::Readv::CODE, "IORING_OP_READV", "5.1"), "preadv2", Pool),
        row(Kind::Write, "write (files)", code(op::Writev::CODE, "IORING_OP_WRITEV", "5.1"), "pwritev", Pool),
        row(
            Kind::ReadStream,
            "read (streams)",
            code(op::Readv::CODE, "IORING_OP_READV", "5.1"),
            "preadv2",
            Ready(Direction::Read),
        ),
        row(
            Kind::WriteStream,
            "write (streams)",
            code(op::Writev::CODE, "IORING_OP_WRITEV", "5.1"),
            "pwritev2",
            Ready(Direction::Write),
        ),
        row(Kind::Sync, "sync, sync_data", code(op::Fsync::CODE, "IORING_OP_FSYNC", "5.1"), "fsync", Pool),
        row(
            Kind::SetLen,
            "set_len",
            code(op::Ftruncate::CODE, "IORING_OP_FTRUNCATE", "6.9"),
            "ftruncate",
            Pool,
        ),
        row(
            Kind::Allocate,
            "allocate",
            code(op::Fallocate::CODE, "IORING_OP_FALLOCATE", "5.6"),
            "fallocate",
            Pool,
        ),
        row(Kind::Open, "open", code(op::OpenAt::CODE, "IORING_OP_OPENAT", "5.6"), "openat", Pool),
        row(
            Kind::OpenResolved,
            "open with resolve",
            code(op::OpenAt2::CODE, "IORING_OP_OPENAT2", "5.6"),
            "openat2",
            Pool,
        ),
        row(Kind::Stat, "stat", code(op::Statx::CODE, "IORING_OP_STATX", "5.6"), "statx", Pool),
        row(Kind::Access, "access", None, "faccessat2", Pool),
        row(Kind::SetPermissions, "set_permissions", None, "fchmodat", Pool),
        row(Kind::SetOwner, "set_owner", None, "fchownat", Pool),
        row(Kind::SetTimes, "set_times", None, "utimensat", Pool),
        row(
            Kind::Rename,
            "rename",
            code(op::RenameAt::CODE, "IORING_OP_RENAMEAT", "5.11"),
            "renameat2",
            Pool,
        ),
        row(Kind::HardLink, "hard_link", code(op::LinkAt::CODE, "IORING_OP_LINKAT", "5.15"), "linkat", Pool),
        row(
            Kind::Symlink,
            "symlink",
            code(op::SymlinkAt::CODE, "IORING_OP_SYMLINKAT", "5.15"),
            "symlinkat",
            Pool,
        ),
        row(
            Kind::Remove,
            "remove_file, remove_dir",
            code(op::UnlinkAt::CODE, "IORING_OP_UNLINKAT", "5.11"),
            "unlinkat",
            Pool,
        ),
        row(
            Kind::CreateDir,
            "create_dir",
            code(op::MkDirAt::CODE, "IORING_OP_MKDIRAT", "5.15"),
            "mkdirat",
            Pool,
        ),
        row(Kind::ReadLink, "read_link", None, "readlinkat", Pool),
        row(Kind::RealPath, "real_path", None, "realpath", Pool),
        row(Kind::ReadDir, "read_dir", None, "getdents64", Pool),
        row(Kind::CopyRange, "copy_range", None, "copy_file_range", Pool),
        row(
            Kind::ReadEntire,
            "read_entire, read_entire_dir",
            None,
            "openat, fstat, read or getdents64",
            Pool,
        ),
        row(Kind::WriteEntire, "write_entire", None, "openat, write", Pool),
        row(Kind::Pipe, "pipe", code(op::Pipe::CODE, "IORING_OP_PIPE", "6.16"), "pipe2", Direct),
        row(
            Kind::AcceptMulti,
            "accept_multi",
            code(op::AcceptMulti::CODE, "IORING_OP_ACCEPT", "5.19"),
            "accept4",
            Ready(Direction::Read),
        ),
        row(
            Kind::RecvMulti,
            "recv_multi",
            code(op::RecvMulti::CODE, "IORING_OP_RECV", "6.0"),
            "recv",
            Ready(Direction::Read),
        ),
        row(Kind::Signal, "signal", None, "what the handler has noted", Ready(Direction::Read)),
        row(
            Kind::WaitChild,
            "wait_child",
            code(op::WaitId::CODE, "IORING_OP_WAITID", "6.7"),
            "waitid",
            Ready(Direction::Read),
        ),
        row(
            Kind::WaitProcess,
            "wait_child (no pidfds)",
            code(op::WaitId::CODE, "IORING_OP_WAITID", "6.7"),
            "waitid",
            Pool,
        ),
    ]
};

impl Kind {
    /// This kind's row of [`OPERATIONS`].
    #[inline]
    pub fn describe(self) -> &'static Description {
        &OPERATIONS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_kinds() {
        for (index, row) in OPERATIONS.iter().enumerate() {
            assert_eq!(row.kind as usize, index, "{}", row.name);
        }
    }
}
