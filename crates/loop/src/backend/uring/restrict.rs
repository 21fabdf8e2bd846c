//! What a ring may be asked for.
//!
//! A *restricted* ring is opened disabled. Before it is enabled it is told, once and for good, which opcodes, flags of
//! entries and registrations it is to take (`IORING_REGISTER_RESTRICTIONS`, 5.10): those that this backend uses on this
//! kernel. It says `EACCES` to anything else from then on, whoever in the process asks.
//!
//! The probe tells what the kernel has, and nothing of what a ring refuses. So one that is restricted, or made where system
//! calls are filtered, is asked, opcode by opcode, with entries that cannot be carried out; what is refused is as good as
//! missing.

use std::io;

use io_uring::register::Restriction;
use io_uring::{opcode, squeue};

use super::ring::Ring;
use super::setup::Opcodes;
use crate::operation::{Kind, OPERATIONS, OpId, Support};

/// What the backend does without, and operations do not: revoking, polling, cancelling, resting.
const NEEDED: [u8; 4] =
    [opcode::Nop::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE, opcode::Timeout::CODE];

/// Names of entries that nobody waits for, should one be late: this, and the opcode.
const ASKED: u64 = OpId::RESERVED + 2;

/// The opcodes that a backend uses which carries operations out in these ways; `None` if it lacks one that it needs.
pub(super) fn used(ways: &[Support; OPERATIONS.len()], has: impl Fn(u8) -> bool) -> Option<Opcodes> {
    let natively = OPERATIONS.iter().zip(ways).filter(|(_, way)| **way == Support::Native);
    let codes = natively.filter_map(|(operation, _)| Some(operation.uring?.code));
    NEEDED.into_iter().all(has).then(|| codes.chain(NEEDED).fold(Opcodes::default(), Opcodes::with))
}

/// The flags that its entries carry: those of links if it makes `chains`, and that which keeps successes `silent`.
pub(super) fn flags(ways: &[Support; OPERATIONS.len()], chains: bool, silent: bool) -> squeue::Flags {
    let native = |kind: Kind| ways[kind as usize] == Support::Native;
    let mut flags = squeue::Flags::empty();
    flags.set(squeue::Flags::IO_LINK | squeue::Flags::IO_HARDLINK, chains);
    flags.set(squeue::Flags::SKIP_SUCCESS, silent);
    flags.set(squeue::Flags::ASYNC, native(Kind::Open) || native(Kind::OpenResolved));
    flags.set(squeue::Flags::BUFFER_SELECT, native(Kind::RecvMulti));
    flags
}

/// Restricts a ring that was opened disabled, and enables it.
///
/// # Errors
/// The system's.
pub(super) fn restrict(ring: &Ring, opcodes: Opcodes, flags: squeue::Flags, buffers: bool) -> io::Result<()> {
    let registrations = ring.registrations(buffers).map(Restriction::register_op);
    let mut allowed: Vec<_> = opcodes.iter().map(Restriction::sqe_op).chain(registrations).collect();
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    ring.restrict(&mut allowed)
}

/// Which of these opcodes an enabled ring refuses.
///
/// # Errors
/// The system's, if it refuses entries altogether.
pub(super) fn refused(ring: &mut Ring, opcodes: Opcodes, syscalls: &mut u64) -> io::Result<Opcodes> {
    let (mut refused, mut left) = (Opcodes::default(), opcodes.iter().peekable());
    while left.peek().is_some() {
        // SAFETY: the entry points to nothing.
        let mut ask = |code: &u8| unsafe { ring.push(&[vain(*code).user_data(ASKED + u64::from(*code))]) };
        while left.next_if(&mut ask).is_some() {}
        while ring.pending() > 0 {
            *syscalls += 1;
            // Old kernels take no more at a time than the first one with an error.
            if ring.reap()? == 0 {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
        }
        for completion in ring.completions().filter(|completion| completion.result() == -libc::EACCES) {
            refused = refused.with((completion.user_data() - ASKED) as u8);
        }
    }
    Ok(refused)
}

/// An entry that asks for what nobody can do: in the name of somebody who was never registered, which is looked at after
/// whether the opcode may be used, and before anything else. Nor has it a descriptor, or points to anything.
fn vain(code: u8) -> squeue::Entry {
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    let mut entry = opcode::Nop::new().build().personality(u16::MAX);
    // SAFETY: an entry is a `struct io_uring_sqe`, of plain numbers, the first of which is the opcode, a byte.
    unsafe { (&raw mut entry).cast::<u8>().write(code) };
    entry
}
