//! What makes a ring, and what there is where one cannot be made.

use std::thread;

use towpath_harness::seccomp;

use super::*;
use crate::backend::uring::ring::{REGISTERED_AFTER, Ring};
use crate::backend::uring::setup::{Opcodes, STEPS, Step, step_down};

#[test]
fn rings_give_back_what_they_registered() {
    fn is_registered(ring: &mut Ring) -> bool {
        assert!(!ring.is_registered(), "it has not been used");
        for _ in 0..REGISTERED_AFTER {
            ring.reap().unwrap();
        }
        ring.is_registered()
    }
    // A thread has room for 16 registered rings.
    for _ in 0..40 {
        assert!(is_registered(&mut Uring::new(&small()).unwrap().ring));
    }
    // And a ring without is as good.
    let mut many: Vec<World> = (0..20).map(|_| World::new(&small())).collect();
    assert!(many[..16].iter_mut().all(|world| is_registered(&mut world.uring.ring)));
    assert!(!is_registered(&mut many[19].uring.ring));
    let ready = event(1);
    assert_eq!(many[19].run(readable(&ready)), i32::from(libc::POLLIN));
}

fn refuse(errno: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno))
}

#[test]
fn setup_steps_down_to_what_the_kernel_knows() {
    let options = Options { entries: 256, cq_entries: Some(4096), ..Options::default() };
    for known in STEPS {
        let ((), step) =
            step_down(&options, |step, _, _| if step >= known { Ok(()) } else { refuse(libc::EINVAL) })
                .unwrap();
        assert_eq!(step, known);
    }
    let error = step_down(&options, |_, _, _| refuse(libc::EINVAL)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES, libc::EMFILE] {
        let mut calls = 0;
        let error = step_down(&options, |_, _, _| {
            calls += 1;
            refuse(errno)
        })
        .unwrap_err();
        assert_eq!((error.raw_os_error(), calls), (Some(errno), 1), "final at once");
    }
}

#[test]
fn setup_halves_the_ring_where_memory_is_short() {
    let options = Options { entries: 256, cq_entries: Some(4096), ..Options::default() };
    let mut sizes = Vec::new();
    let result = step_down(&options, |step, entries, cq_entries| {
        sizes.push((entries, cq_entries.unwrap()));
        match (step, entries) {
            (Step::NoArray, _) => refuse(libc::EINVAL),
            (_, 33..) => refuse(libc::ENOMEM),
            _ => Ok(()),
        }
    });
    assert_eq!(result.unwrap().1, Step::Deferred, "a smaller ring is no older one");
    assert_eq!(sizes, [(256, 4096), (256, 4096), (128, 2048), (64, 1024), (32, 512)]);
    let mut smallest = 0;
    let error = step_down(&options, |_, entries, _| {
        smallest = entries;
        refuse(libc::ENOMEM)
    })
    .unwrap_err();
    assert_eq!((error.raw_os_error(), smallest), (Some(libc::ENOMEM), 8));
    assert_eq!(step_down(&Options { entries: 0, ..options }, |_, entries, _| Ok(entries)).unwrap().0, 1);
}

/// What `Uring::new` says on a thread on which a system call is refused with `errno`; 0 if all is well.
///
/// Not in a forked child: that would hold copies of the descriptors of the tests beside this one, and keep open what
/// they close.
fn refused(call: libc::c_long, errno: i32) -> i32 {
    let construct = || {
        seccomp::refuse(&[call], errno);
        Uring::new(&Options::default()).err().map_or(0, |error| error.raw_os_error().unwrap())
    };
    thread::scope(|scope| scope.spawn(construct).join().unwrap())
}

#[test]
fn whatever_a_sandbox_forbids_shows_at_construction() {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter];
    for call in calls {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES, libc::EINVAL, libc::ENOMEM] {
            assert_eq!(refused(call, errno), errno, "call {call}");
        }
    }
    assert_eq!(refused(libc::SYS_kexec_load, libc::EPERM), 0);
}

#[test]
fn a_restricted_ring_takes_what_is_used_and_nothing_else() {
    /// `IORING_OP_URING_CMD`, and `IORING_OP_READ` and `IORING_OP_SHUTDOWN`, of which no use is made.
    const UNUSED: [u8; 3] = [46, 22, 34];
    let every = |codes: &[u8]| codes.iter().copied().fold(Opcodes::default(), Opcodes::with);
    let used = OPERATIONS.iter().filter_map(|row| Some(row.uring?.code)).collect::<Vec<_>>();
    let all = every(&[&used[..], &UNUSED].concat());
    for entries in [8, 256] {
        for skip_steps in 0..STEPS.len() {
            let options = Options { entries, cq_entries: None, skip_steps, ..Options::default() };
            let refused = |options: &Options| {
                restrict::refused(&mut Uring::new(options).unwrap().ring, all, &mut 0).unwrap()
            };
            assert_eq!(refused(&options), every(&[]), "nobody has restricted it");
            let restricted = Options { restricted: true, ..options.clone() };
            let found = refused(&restricted);
            assert_eq!(every(&UNUSED).without(found), every(&[]), "step {skip_steps}");
            let ways = Uring::new(&restricted).unwrap().ways;
            for (row, way) in OPERATIONS.iter().zip(ways) {
                assert!(way != Support::Native || !found.contains(row.uring.unwrap().code), "{row:?}");
            }
            let recv = OPERATIONS[Kind::Recv as usize].uring.unwrap().code;
            let less = Options { refused: every(&[recv]), ..restricted };
            assert_eq!(refused(&less), found.with(recv));
            assert_eq!(Uring::new(&less).unwrap().support(Kind::Recv), Support::Readiness);
        }
    }
    let deaf =
        Options { restricted: true, refused: every(&[opcode::AsyncCancel::CODE]), ..Options::default() };
    assert_eq!(Uring::new(&deaf).err().unwrap().raw_os_error(), Some(libc::EACCES));
}
