//! Whether a worker that has nothing to do looks for mail for a while before it sleeps.
//!
//! To sleep and to be woken takes from some microseconds to some dozens, the longer the deeper the processor sleeps, while tasks
//! of two workers that talk to each other answer within less than one. So a sleep that would follow a short one, ended by
//! mail, is put off for about as long as it would cost. It takes one such try until both of them are awake, and find what
//! the other one sends at once. Where tries are in vain they become rare.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

/// For how long mail is looked for.
pub(crate) const LOOK: Duration = Duration::from_micros(50);
/// A sleep that mail has ended so soon would better have been none.
const SHORT: Duration = Duration::from_micros(200);
/// At least one in so many such sleeps is put off.
const RAREST: u32 = 64;

pub(crate) struct Linger {
    /// Who could send something meanwhile has a processor to do it on.
    possible: bool,
    /// The last sleep was short, and ended by mail.
    expects: Cell<bool>,
    /// So many sleeps are left until the next try; and how many that were after the last one that was in vain.
    left: Cell<u32>,
    pause: Cell<u32>,
}

impl Linger {
    pub(crate) fn new() -> Linger {
        Linger::on(thread::available_parallelism().map_or(1, usize::from))
    }

    fn on(processors: usize) -> Linger {
        Linger {
            possible: processors > 1,
            expects: Cell::new(false),
            left: Cell::new(0),
            pause: Cell::new(0),
        }
    }

    /// Whether a worker that is about to sleep should look for mail.
    pub(crate) fn is_worth_it(&self) -> bool {
        let left = self.left.get();
        if self.expects.get() && left > 0 {
            self.left.set(left - 1);
        }
        self.expects.get() && left == 0
    }

    /// It has looked, and there was some or not.
    pub(crate) fn looked(&self, found: bool) {
        let pause = self.pause.get();
        self.pause.set(if found { pause / 2 } else { (pause * 2).clamp(1, RAREST) });
        if !found {
            self.left.set(self.pause.get());
        }
    }

    /// It has slept, for so long at the most.
    pub(crate) fn slept(&self, long: Duration, by_mail: bool) {
        self.expects.set(self.possible && by_mail && long < SHORT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many sleeps that mail would end, how many are put off by looking for it, which ends like this.
    fn tries(linger: &Linger, sleeps: u32, long: Duration, found: bool) -> u32 {
        (0..sleeps)
            .map(|_| {
                let tries = linger.is_worth_it();
                if tries {
                    linger.looked(found);
                }
                if !(tries && found) {
                    linger.slept(long, true);
                }
                u32::from(tries)
            })
            .sum()
    }

    #[test]
    fn put_off_where_mail_comes_soon() {
        let linger = Linger::on(2);
        assert_eq!(tries(&linger, 1000, SHORT, true), 0, "long sleeps");
        assert_eq!(tries(&linger, 1000, SHORT / 2, true), 999);
        linger.slept(Duration::ZERO, false);
        assert!(!linger.is_worth_it(), "it was not mail");
        assert_eq!(tries(&Linger::on(1), 1000, Duration::ZERO, true), 0, "who would send it?");
    }

    #[test]
    fn rarely_where_it_is_in_vain_and_often_again_where_it_is_not() {
        let linger = Linger::on(2);
        let vain = tries(&linger, 65_000, Duration::ZERO, false);
        assert!((1000..=1010).contains(&vain), "{vain}");
        let then = tries(&linger, 65_000, Duration::ZERO, true);
        assert!(then > 64_900, "{then}");
    }
}
