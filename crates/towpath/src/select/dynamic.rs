//! Any number of cases, known at run time.

use std::fmt;
use std::io;

use super::sealed::Branch;
use super::{Case, choose};

/// Waits for the first of any number of cases, whose outputs are turned into one type.
///
/// ```
/// use towpath::select::{Select, recv};
/// use towpath::sync::mpsc;
///
/// # fn main() -> std::io::Result<()> {
/// let channels: Vec<_> = (0..64).map(|_| mpsc::channel()).collect();
/// channels[40].0.send("hello").unwrap();
/// let mut select = Select::new();
/// for (n, (_, receiver)) in channels.iter().enumerate() {
///     select.on(recv(receiver), move |message| (n, message));
/// }
/// assert_eq!(select.wait()?, Some((40, Ok("hello"))));
/// # Ok(())
/// # }
/// ```
pub struct Select<'a, T> {
    cases: Vec<Box<dyn Mapped<T> + 'a>>,
}

/// A case, whatever it brings, as something that brings a `T`.
trait Mapped<T>: Branch {
    fn take(&mut self) -> Option<T>;
}

struct Map<C, F> {
    case: C,
    map: Option<F>,
}

// SAFETY: the case's own.
unsafe impl<C: Case, F> Branch for Map<C, F> {
    fn attempt(&mut self) -> bool {
        self.case.attempt()
    }
    unsafe fn enter(&mut self, waiter: &crate::wait::Waiter, index: usize) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.case.enter(waiter, index) }
    }
    fn leave(&mut self) {
        self.case.leave();
    }
    unsafe fn finish(&mut self) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.case.finish() }
    }
    fn deadline(&self) -> towpath_loop::Instant {
        self.case.deadline()
    }
    fn needs_loop(&self) -> bool {
        self.case.needs_loop()
    }
    fn is_ready(&self) -> bool {
        self.case.is_ready()
    }
}

impl<T, C: Case, F: FnOnce(C::Output) -> T> Mapped<T> for Map<C, F> {
    fn take(&mut self) -> Option<T> {
        let output = self.case.output()?;
        self.map.take().map(|map| map(output))
    }
}

impl<'a, T> Select<'a, T> {
    /// Without cases.
    pub fn new() -> Select<'a, T> {
        Select { cases: Vec::new() }
    }

    /// One more case, and what is made of that which it brings.
    pub fn on<C: Case + 'a>(&mut self, case: C, map: impl FnOnce(C::Output) -> T + 'a) -> &mut Select<'a, T> {
        self.cases.push(Box::new(Map { case, map: Some(map) }));
        self
    }

    /// How many cases there are.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Waits for the first of them, which is taken out; the others stay, to be waited for again. `None` if there is none.
    ///
    /// # Errors
    /// If the task is cancelled, or past a deadline around this; `EDEADLK` as for `select!`. All cases stay.
    pub fn wait(&mut self) -> io::Result<Option<T>> {
        if self.cases.is_empty() { Ok(None) } else { self.choose(true) }
    }

    /// The first of them, if one is ready; it is taken out.
    ///
    /// # Errors
    /// As [`wait`](Select::wait).
    pub fn try_wait(&mut self) -> io::Result<Option<T>> {
        self.choose(false)
    }

    fn choose(&mut self, wait: bool) -> io::Result<Option<T>> {
        let mut branches: Vec<(usize, &mut dyn Branch)> = self
            .cases
            .iter_mut()
            .enumerate()
            .map(|(number, case)| {
                let branch: &mut dyn Branch = &mut **case;
                (number, branch)
            })
            .collect();
        let winner = choose(&mut branches, wait)?;
        Ok(winner.and_then(|number| self.cases.swap_remove(number).take()))
    }
}

impl<T> Default for Select<'_, T> {
    fn default() -> Self {
        Select::new()
    }
}

impl<T> fmt::Debug for Select<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select").field("cases", &self.cases.len()).finish_non_exhaustive()
    }
}
