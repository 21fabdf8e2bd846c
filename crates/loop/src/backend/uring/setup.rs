//! Making a ring: as modern as the kernel allows, and stepping down rather than giving up.

use std::io;

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;
use rustix::thread::{SecureComputingMode, secure_computing_mode};

use super::ring::Ring;
use super::{chain, restrict};
use crate::backend::standard::is_standard;
use crate::operation::{Elsewhere, Kind, OPERATIONS, Support};

/// How to make a [`Uring`](super::Uring).
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How many submissions fit before they are handed to the kernel early. Rounded up to a power of two.
    pub(crate) entries: u32,
    /// How many completions fit before the kernel has to put some aside. At least `entries`.
    pub(crate) cq_entries: Option<u32>,
    /// Opcodes that are treated as if this kernel did not know them.
    pub(crate) without: Opcodes,
    /// How many of the [`STEPS`] to pass over, as an older kernel would. On the last one, what came after 5.12
    /// (multishot polls, completions skipped) is not used either.
    pub(crate) skip_steps: usize,
    /// Whether chains are carried out link by link, as on a kernel that cannot.
    pub(crate) without_links: bool,
    /// Whether the ring is to refuse what is not used: see [`restrict`].
    pub(crate) restricted: bool,
    /// Opcodes that such a ring refuses although the kernel knows them.
    pub(crate) refused: Opcodes,
}

impl Default for Options {
    /// 256 submissions (16 KiB) and 4096 completions (64 KiB): room for many inline completions of one tick.
    fn default() -> Options {
        Options {
            entries: 256,
            cq_entries: Some(4096),
            without: Opcodes::default(),
            skip_steps: 0,
            without_links: false,
            restricted: false,
            refused: Opcodes::default(),
        }
    }
}

/// A set of opcodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Opcodes([u64; 4]);

impl Opcodes {
    /// This set and one more.
    pub(crate) fn with(mut self, code: u8) -> Opcodes {
        self.0[usize::from(code / 64)] |= 1 << (code % 64);
        self
    }

    /// Whether the set has it.
    pub(crate) fn contains(&self, code: u8) -> bool {
        self.0[usize::from(code / 64)] & (1 << (code % 64)) != 0
    }

    /// This set less another one.
    pub(super) fn without(mut self, other: Opcodes) -> Opcodes {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= !other);
        self
    }

    /// Those in the set, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|code| self.contains(*code))
    }
}

/// One way to ask for a ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Step {
    /// 6.6: and without the index array between queue and entries.
    NoArray,
    /// 6.1: one thread submits, and completion work runs only when that thread asks for completions.
    Deferred,
    /// 5.19: completion work waits for the thread's next system call instead of interrupting it.
    Cooperative,
    /// 5.18: a bad entry does not hold up the ones behind it.
    SubmitAll,
    /// 5.11, the oldest kernel that can wait with a time-out without spending an entry on it.
    Plain,
}

/// From the newest to the oldest. A kernel says `EINVAL` to flags that it does not know.
pub(super) const STEPS: [Step; 5] =
    [Step::NoArray, Step::Deferred, Step::Cooperative, Step::SubmitAll, Step::Plain];

/// Below this many entries a ring is not worth having.
const FLOOR: u32 = 8;

/// Tries `build(step, entries, cq_entries)` until one succeeds: an older step after `EINVAL`, half the size after
/// `ENOMEM` (locked memory is limited on kernels before 5.12). Any other error is final, and so is the last one.
pub(super) fn step_down<T>(
    options: &Options,
    mut build: impl FnMut(Step, u32, Option<u32>) -> io::Result<T>,
) -> io::Result<(T, Step)> {
    let mut steps = STEPS[options.skip_steps.min(STEPS.len() - 1)..].iter();
    let mut step = *steps.next().expect("at least one is left");
    let mut entries = options.entries.max(1);
    let mut cq_entries = options.cq_entries.map(|count| count.max(entries));
    loop {
        let error = match build(step, entries, cq_entries) {
            Ok(ring) => return Ok((ring, step)),
            Err(error) => error,
        };
        match (error.raw_os_error(), steps.as_slice().first()) {
            (Some(libc::EINVAL), Some(&older)) => {
                step = older;
                steps.next();
            }
            (Some(libc::ENOMEM), _) if entries > FLOOR => {
                entries = (entries / 2).max(FLOOR);
                cq_entries = cq_entries.map(|count| (count / 2).max(entries));
            }
            _ => return Err(error),
        }
    }
}

fn build(step: Step, entries: u32, cq_entries: Option<u32>, disabled: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp();
    if disabled {
        builder.setup_r_disabled();
    }
    if let Some(count) = cq_entries {
        builder.setup_cqsize(count);
    }
    if step <= Step::SubmitAll {
        builder.setup_submit_all();
    }
    if step <= Step::Cooperative {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    if step <= Step::Deferred {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    if step <= Step::NoArray {
        builder.setup_no_sqarray();
    }
    // It keeps the number that it is opened with: those that it must not have are taken meanwhile.
    let mut low = Vec::new();
    loop {
        let ring = builder.build(entries)?;
        if !is_standard(&ring) {
            return Ok(ring);
        }
        low.push(ring);
    }
}

/// A new ring and what can be done with it.
pub(super) struct Setup {
    pub(super) ring: Ring,
    /// How each kind of operation is carried out.
    pub(super) ways: [Support; OPERATIONS.len()],
    /// Whether completion work is deferred.
    pub(super) deferred: bool,
    /// Whether there are multishot polls (5.13).
    pub(super) multishot: bool,
    /// Whether successes can be kept silent (5.17).
    pub(super) skip_success: bool,
    /// The longest chain that the kernel may have; 0 if it cannot carry them out as we mean them.
    pub(super) chain_limit: usize,
    /// How many system calls it took.
    pub(super) syscalls: u64,
}

/// Whether some system calls may be forbidden to this thread, by a filter (seccomp).
fn is_filtered() -> bool {
    // `EINVAL`: a kernel without filters.
    !matches!(secure_computing_mode(), Ok(SecureComputingMode::Disabled) | Err(Errno::INVAL))
}

/// How each kind of operation is carried out on a ring with these opcodes.
fn ways(has: impl Fn(Kind, u8) -> bool) -> [Support; OPERATIONS.len()] {
    std::array::from_fn(|index| match (&OPERATIONS[index].uring, OPERATIONS[index].elsewhere) {
        (Some(opcode), _) if has(OPERATIONS[index].kind, opcode.code) => Support::Native,
        (_, Elsewhere::Direct) => Support::Direct,
        (_, Elsewhere::Ready(_) | Elsewhere::Ends | Elsewhere::Wait) => Support::Readiness,
        (_, Elsewhere::Pool) => Support::Pool,
        (_, Elsewhere::Loop) => Support::Unsupported,
    })
}

/// Makes a ring, and asks the kernel which opcodes it has, and where something may be forbidden the ring which it takes.
pub(super) fn make(options: &Options) -> io::Result<Setup> {
    let mut syscalls = 0;
    let (io, step) = step_down(options, |step, entries, cq_entries| {
        syscalls += 1;
        build(step, entries, cq_entries, options.restricted)
    })?;
    let (nodrop, ext_arg) = (io.params().is_feature_nodrop(), io.params().is_feature_ext_arg());
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe)?;
    let has = |code: u8| probe.is_supported(code) && !options.without.contains(code);
    // What came with multishot accepts and receives can be asked for, those themselves cannot.
    let since = |kind| match kind {
        Kind::AcceptMulti => step <= Step::Cooperative && probe.is_supported(opcode::Socket::CODE),
        Kind::RecvMulti => step <= Step::Cooperative && probe.is_supported(opcode::SendZc::CODE),
        _ => true,
    };
    let known = ways(|kind, code| has(code) && since(kind));
    let Some(used) = restrict::used(&known, has).filter(|_| nodrop && ext_arg) else {
        // This kernel has io_uring, but not the one that is meant here.
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    };
    let mut ring = Ring::new(io);
    let skip_success = step < Step::Plain && ring.params().is_feature_skip_cqe_on_success();
    let deferred = step <= Step::Deferred;
    // From 5.18 on: a transfer that falls short of MSG_WAITALL breaks its link, and descriptors are looked up in turn.
    let linked = step < Step::Plain && ring.params().is_feature_linked_file() && !options.without_links;
    let chain_limit = if linked { chain::LIMIT.min(ring.params().sq_entries() as usize) } else { 0 };
    let (multishot, mut syscalls) = (step < Step::Plain, syscalls + 1);
    let filtered = is_filtered();
    if options.restricted || filtered {
        // It cannot later, or perhaps not.
        ring.register_itself();
    }
    if options.restricted {
        let flags = restrict::flags(&known, linked, skip_success);
        let buffers = known[Kind::RecvMulti as usize] == Support::Native;
        restrict::restrict(&ring, used.without(options.refused), flags, buffers)?;
        syscalls += 2;
    }
    // Whatever is forbidden shows here, not at the first operation: that the ring may be made and not entered, too.
    let refused = if options.restricted || filtered {
        restrict::refused(&mut ring, used, &mut syscalls)?
    } else {
        Opcodes::default()
    };
    let ways = ways(|kind, code| has(code) && since(kind) && !refused.contains(code));
    if restrict::used(&ways, |code| !refused.contains(code)).is_none() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(Setup { ring, ways, deferred, multishot, skip_success, chain_limit, syscalls })
}
