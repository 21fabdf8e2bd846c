//! What a switch must leave alone: the registers that a called function preserves, and the control words.
#![cfg(all(target_arch = "x86_64", unix))]

use std::arch::{asm, global_asm};
use std::cell::Cell;
use std::ffi::c_void;

use towpath_coro::{Coroutine, Stack, State, Yielder};

global_asm!(
    // fn towpath_test_preserved(call: extern "C" fn(*mut c_void), argument: *mut c_void, seed: u64) -> u64
    //
    // Fills every callee-saved register with a value of its own, calls, and returns one bit for each that changed.
    ".globl towpath_test_preserved",
    "towpath_test_preserved:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "lea rbx, [rdx + 1]",
    "lea rbp, [rdx + 2]",
    "lea r12, [rdx + 3]",
    "lea r13, [rdx + 4]",
    "lea r14, [rdx + 5]",
    "lea r15, [rdx + 6]",
    "call rax",
    "pop rdx",
    "xor eax, eax",
    "sub rbx, 1",
    "sub rbp, 2",
    "sub r12, 3",
    "sub r13, 4",
    "sub r14, 5",
    "sub r15, 6",
    "cmp rbx, rdx",
    "setne cl",
    "or al, cl",
    "cmp rbp, rdx",
    "setne cl",
    "shl cl, 1",
    "or al, cl",
    "cmp r12, rdx",
    "setne cl",
    "shl cl, 2",
    "or al, cl",
    "cmp r13, rdx",
    "setne cl",
    "shl cl, 3",
    "or al, cl",
    "cmp r14, rdx",
    "setne cl",
    "shl cl, 4",
    "or al, cl",
    "cmp r15, rdx",
    "setne cl",
    "shl cl, 5",
    "or al, cl",
    "movzx eax, al",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

// A function that breaks the calling convention, as no compiler would write it.
global_asm!(".globl towpath_test_spoil", "towpath_test_spoil:", "inc r13", "inc rbx", "ret");

unsafe extern "C" {
    fn towpath_test_preserved(call: extern "C" fn(*mut c_void), argument: *mut c_void, seed: u64) -> u64;
}

/// Calls `f` with the callee-saved registers full; the bits of those it changed.
fn changed_by(seed: u64, mut f: &mut dyn FnMut()) -> u64 {
    extern "C" fn call(f: *mut c_void) {
        // SAFETY: `f` is the pointer passed below, valid for the call and used by nobody else.
        unsafe { (*f.cast::<&mut dyn FnMut()>())() }
    }
    // SAFETY: the function keeps the calling convention, and passes `argument` to `call` once.
    unsafe { towpath_test_preserved(call, (&raw mut f).cast(), seed) }
}

/// MXCSR without its status bits, and the x87 control word.
fn control_words() -> (u32, u16) {
    let (mut mxcsr, mut x87) = (0_u32, 0_u16);
    // SAFETY: both instructions store a register to the variable.
    unsafe {
        asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut x87, options(nostack));
    }
    (mxcsr & !0x3f, x87)
}

/// # Safety
///
/// No floating-point arithmetic may happen until the old words are back.
unsafe fn set_control_words((mxcsr, x87): (u32, u16)) {
    // SAFETY: valid words; the rest is the caller's promise.
    unsafe {
        asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &raw const mxcsr, in(reg) &raw const x87, options(nostack));
    }
}

#[test]
fn callee_saved_registers_survive_on_both_sides() {
    let mut coroutine = Coroutine::<u64, u64, u64>::new(
        Stack::new(64 * 1024).unwrap(),
        |yielder: &Yielder<u64, u64>, first| {
            let mut bad = 0;
            let mut n = first;
            for round in 0..100 {
                bad |= changed_by(0x1000 * round, &mut || n = yielder.suspend(n + 1));
            }
            bad
        },
    );
    let (mut bad, mut end) = (0, None);
    let mut n = 0;
    while end.is_none() {
        bad |= changed_by(0xdead_0000 + n, &mut || match coroutine.resume(n) {
            State::Suspended(value) => n = value,
            State::Finished(result) => end = Some(result.unwrap()),
        });
    }
    assert_eq!((n, bad, end), (100, 0, Some(0)));
}

#[test]
fn the_check_itself_sees_a_changed_register() {
    // Otherwise the test above proves nothing.
    extern "C" fn keep(_: *mut c_void) {}
    unsafe extern "C" {
        fn towpath_test_spoil(_: *mut c_void);
    }
    // SAFETY: same signature; the callee-saved registers it spoils are restored by `towpath_test_preserved`.
    let spoiler: extern "C" fn(*mut c_void) =
        unsafe { std::mem::transmute(towpath_test_spoil as unsafe extern "C" fn(*mut c_void)) };
    // SAFETY: as in `changed_by`; the argument is not used.
    unsafe {
        assert_eq!(towpath_test_preserved(keep, std::ptr::null_mut(), 5), 0);
        assert_eq!(towpath_test_preserved(spoiler, std::ptr::null_mut(), 5), 0b1001);
    }
}

#[test]
fn caller_saved_registers_are_declared_clobbered() {
    // More values alive across each switch than there are registers, integer and vector: the compiler must keep every
    // one of them in memory, on the right stack.
    #[inline(always)]
    fn work(seed: u64, mut switch: impl FnMut(u64) -> u64) -> (u64, u64) {
        let mut integers: [u64; 24] = std::array::from_fn(|i| seed.wrapping_mul(i as u64 + 1));
        let mut floats: [f64; 40] = std::array::from_fn(|i| (seed as f64) + i as f64 * 0.5);
        for round in 0..50 {
            let heard = switch(round);
            integers.iter_mut().for_each(|n| *n = n.rotate_left(7) ^ heard);
            floats.iter_mut().for_each(|x| *x = *x * 1.25 - heard as f64);
        }
        let bits = floats.iter().fold(0, |bits: u64, x| bits.rotate_left(1) ^ x.to_bits());
        (integers.iter().fold(0, |a, b| a.rotate_left(3) ^ b), bits)
    }
    let expected = (work(3, |round| round * 3), work(5, |round| round * 5));

    let mut coroutine =
        Coroutine::<u64, u64, (u64, u64)>::new(Stack::new(64 * 1024).unwrap(), |yielder, _| {
            work(3, |round| {
                assert_eq!(yielder.suspend(round * 5), round);
                round * 3
            })
        });
    assert!(matches!(coroutine.resume(0), State::Suspended(0)));
    let mut inside = None;
    let outside = work(5, |round| {
        match coroutine.resume(round) {
            State::Suspended(n) => assert_eq!(n, (round + 1) * 5),
            State::Finished(result) => inside = Some(result.unwrap()),
        }
        round * 5
    });
    assert_eq!((inside.unwrap(), outside), expected);
}

#[test]
fn control_words_are_left_alone() {
    let usual = control_words();
    // Round towards zero, flush to zero; x87 in single precision.
    let unusual = (usual.0 | 0xe000, usual.1 & !0x300);
    let seen = Cell::new([(0, 0); 2]);
    let seen: &'static Cell<_> = Box::leak(Box::new(seen));
    let mut coroutine = Coroutine::<(), (), ()>::new(Stack::new(64 * 1024).unwrap(), |yielder, ()| {
        let first = control_words();
        yielder.suspend(());
        seen.set([first, control_words()]);
    });
    // SAFETY: nothing below, up to the restoring call, does floating-point arithmetic.
    let between = unsafe {
        set_control_words(unusual);
        let suspended = matches!(coroutine.resume(()), State::Suspended(()));
        let between = control_words();
        let finished = matches!(coroutine.resume(()), State::Finished(Ok(())));
        let after = control_words();
        set_control_words(usual);
        assert!(suspended && finished);
        [between, after]
    };
    assert_eq!(between, [unusual; 2]);
    assert_eq!(seen.get(), [unusual; 2]);
    assert_eq!(control_words(), usual);
}
