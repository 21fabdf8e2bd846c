//! A worker's mailbox: tasks that other threads have made ready, and tasks that nobody has started yet, from the worker
//! itself and from others.
//!
//! The list of ready tasks is intrusive: a task is in it at most once (`Header::mailed`), so waking allocates nothing.
//! Pushing onto an empty list is what wakes the worker; who finds others there knows that somebody does.

use std::collections::VecDeque;
use std::ptr::{self, NonNull};
use std::sync::PoisonError;

use crate::std_or_loom::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::std_or_loom::{Mutex, Remote};
use crate::steal::Queue;
use crate::task::{Header, TaskRef};

/// What other threads may reach of a worker.
pub(crate) struct Mailbox {
    /// Newest first.
    ready: AtomicPtr<Header>,
    /// Tasks that the worker has spawned.
    pub(crate) spawned: Queue,
    /// Tasks that others have put here to be started.
    injected: Injected,
    /// The same, of tasks that must be started here.
    bound: Injected,
    /// Tasks that live here, published by the worker for those who place others.
    pub(crate) live: AtomicUsize,
    pub(crate) remote: Remote,
}

impl Mailbox {
    /// The mailbox of a loop's worker. `shared` if there are other workers, which may take tasks away.
    pub(crate) fn new(remote: impl Into<Remote>, shared: bool) -> Mailbox {
        Mailbox {
            ready: AtomicPtr::new(ptr::null_mut()),
            spawned: Queue::new(shared),
            injected: Injected::new(),
            bound: Injected::new(),
            live: AtomicUsize::new(0),
            remote: remote.into(),
        }
    }

    /// Makes a task ready that lives here. From any thread.
    pub(crate) fn push_ready(&self, task: &Header) {
        if task.mailed.swap(true, Ordering::AcqRel) {
            // In the list, and its worker has yet to look at what the caller did: the swap orders the two.
            return;
        }
        let node = task.to_ref().into_raw().as_ptr();
        let mut head = self.ready.load(Ordering::Relaxed);
        loop {
            task.next_mail.store(head, Ordering::Relaxed);
            match self.ready.compare_exchange_weak(head, node, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        if head.is_null() {
            self.remote.wake();
        }
    }

    /// Whether tasks were made ready.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.load(Ordering::Relaxed).is_null()
    }

    /// Takes all the tasks out that were made ready, oldest first. For the worker alone.
    pub(crate) fn take_ready(&self, mut each: impl FnMut(TaskRef)) {
        if self.ready.load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut newest = self.ready.swap(ptr::null_mut(), Ordering::AcqRel);
        let mut oldest: *mut Header = ptr::null_mut();
        while let Some(node) = NonNull::new(newest) {
            // SAFETY: the list owns a reference to each of its tasks, and the swap made the list ours.
            let task = unsafe { node.as_ref() };
            newest = task.next_mail.load(Ordering::Relaxed);
            task.next_mail.store(oldest, Ordering::Relaxed);
            oldest = node.as_ptr();
        }
        while let Some(node) = NonNull::new(oldest) {
            // SAFETY: the list's reference, taken over.
            let task = unsafe { TaskRef::from_raw(node) };
            oldest = task.next_mail.load(Ordering::Relaxed);
            // From here on it can be put in again. Before the worker looks at the task, so that no news are missed.
            task.mailed.swap(false, Ordering::AcqRel);
            each(task);
        }
    }

    /// Adds a task that has not started. From any thread.
    ///
    /// # Errors
    /// Gives it back if the worker takes no more.
    pub(crate) fn inject(&self, task: TaskRef) -> Result<(), TaskRef> {
        self.injected.push(task)
    }

    /// [`inject`](Mailbox::inject), of a task that nobody may take away.
    pub(crate) fn bind(&self, task: TaskRef) -> Result<(), TaskRef> {
        self.bound.push(task)
    }

    /// Takes the oldest task that was injected.
    pub(crate) fn pop_injected(&self) -> Option<TaskRef> {
        self.injected.pop()
    }

    /// Takes the oldest task that must be started here.
    pub(crate) fn pop_bound(&self) -> Option<TaskRef> {
        self.bound.pop()
    }

    /// Calls `f` with each task that was injected and has not been taken out.
    pub(crate) fn for_each_injected(&self, mut f: impl FnMut(&TaskRef)) {
        for tasks in [&self.injected, &self.bound] {
            tasks.with(|queue| queue.iter().flatten().for_each(&mut f));
        }
    }

    /// Moves the older half of the tasks that have not started to the queue of a worker that has nothing to do. True if
    /// there were any.
    ///
    /// # Safety
    /// The caller owns `thief`.
    pub(crate) unsafe fn steal_into(&self, thief: &Queue) -> bool {
        // SAFETY: passed on to the caller.
        if unsafe { self.spawned.steal_into(thief) } {
            return true;
        }
        if self.injected.len() == 0 {
            return false;
        }
        let stolen = self.injected.with(|queue| {
            let queue = queue.as_mut()?;
            let rest = queue.split_off(queue.len().div_ceil(2));
            Some(std::mem::replace(queue, rest))
        });
        let stolen = stolen.unwrap_or_default();
        let any = !stolen.is_empty();
        for task in stolen {
            // SAFETY: passed on to the caller.
            unsafe { thief.push(task) };
        }
        any
    }

    /// Takes no more tasks from others, and returns those that have not started.
    pub(crate) fn close(&self) -> VecDeque<TaskRef> {
        let mut rest = self.injected.with(Option::take).unwrap_or_default();
        rest.extend(self.bound.with(Option::take).unwrap_or_default());
        rest
    }

    /// How many tasks have not started.
    pub(crate) fn unstarted(&self) -> usize {
        self.stealable() + self.bound.len()
    }

    /// How many of them other workers may take.
    pub(crate) fn stealable(&self) -> usize {
        self.spawned.len() + self.injected.len()
    }
}

/// Tasks to be started, from any thread.
struct Injected {
    /// `None` once the worker has shut down.
    queue: Mutex<Option<VecDeque<TaskRef>>>,
    /// How many there are, to be looked at without the lock.
    waiting: AtomicUsize,
}

impl Injected {
    fn new() -> Injected {
        Injected { queue: Mutex::new(Some(VecDeque::new())), waiting: AtomicUsize::new(0) }
    }

    fn push(&self, task: TaskRef) -> Result<(), TaskRef> {
        self.with(|queue| match queue {
            Some(queue) => {
                queue.push_back(task);
                Ok(())
            }
            None => Err(task),
        })
    }

    fn pop(&self) -> Option<TaskRef> {
        if self.len() == 0 {
            return None;
        }
        self.with(|queue| queue.as_mut()?.pop_front())
    }

    fn len(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Option<VecDeque<TaskRef>>) -> R) -> R {
        // Nothing under the lock panics, but for want of memory.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut queue);
        self.waiting.store(queue.as_ref().map_or(0, VecDeque::len), Ordering::Release);
        result
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use towpath_loop::Loop;

    use super::*;
    use crate::task::Rare;

    fn task() -> TaskRef {
        // SAFETY: it borrows nothing, and is `Send`.
        unsafe { TaskRef::new(None, || ()) }.0
    }

    fn ids(mailbox: &Mailbox) -> Vec<u64> {
        let mut ids = Vec::new();
        mailbox.take_ready(|task| ids.push(task.id));
        ids
    }

    #[test]
    fn ready_tasks_come_once_and_oldest_first() {
        let mailbox = Mailbox::new(Loop::new().unwrap().remote(), true);
        let tasks = [task(), task(), task()];
        for n in [1, 0, 1, 2, 0] {
            mailbox.push_ready(&tasks[n]);
        }
        assert_eq!(ids(&mailbox), [tasks[1].id, tasks[0].id, tasks[2].id]);
        assert_eq!(ids(&mailbox), []);
        mailbox.push_ready(&tasks[1]);
        assert_eq!(ids(&mailbox), [tasks[1].id], "out of the list, it can be put in again");
    }

    #[test]
    fn a_task_can_be_put_in_again_while_it_is_looked_at() {
        let mailbox = Mailbox::new(Loop::new().unwrap().remote(), true);
        mailbox.push_ready(&task());
        let mut taken = 0;
        mailbox.take_ready(|task| {
            taken += 1;
            mailbox.push_ready(&task);
        });
        mailbox.take_ready(|_| taken += 1);
        assert_eq!(taken, 2);
    }

    #[test]
    fn the_older_half_is_stolen_and_a_closed_mailbox_gives_back() {
        let loop_ = Loop::new().unwrap();
        let [a, b] = [0; 2].map(|_| Mailbox::new(loop_.remote(), true));
        let tasks: Vec<_> = (0..5).map(|_| task()).collect();
        let id = |task: Option<TaskRef>| tasks.iter().position(|t| Some(t.id) == task.as_ref().map(|t| t.id));
        tasks.iter().for_each(|task| assert!(a.inject(task.clone()).is_ok()));
        // SAFETY: nobody else is here.
        unsafe {
            assert!(a.steal_into(&b.spawned));
            assert_eq!((a.unstarted(), b.unstarted()), (2, 3));
            assert_eq!([id(a.pop_injected()), id(b.spawned.pop())], [Some(3), Some(0)]);
            assert!(
                a.steal_into(&b.spawned) && !a.steal_into(&b.spawned),
                "the last one can be stolen as well"
            );
            assert_eq!((a.unstarted(), b.unstarted()), (0, 3));
            assert_eq!([0; 4].map(|_| id(b.spawned.pop())), [Some(1), Some(2), Some(4), None]);
        }
        assert!(a.inject(tasks[0].clone()).is_ok());
        assert_eq!(a.close().len(), 1);
        assert_eq!(id(a.inject(tasks[0].clone()).err()), Some(0));
        // SAFETY: as above.
        assert!(a.pop_injected().is_none() && unsafe { !a.steal_into(&b.spawned) } && a.close().is_empty());
    }

    /// A real sleep of a real loop: a wake-up that is lost hangs the test.
    #[test]
    fn wakes_from_three_threads_reach_a_worker_that_sleeps() {
        const EACH: usize = 100_000;
        let loop_ = Loop::new().unwrap();
        let mailbox = Mailbox::new(loop_.remote(), true);
        let tasks = [task(), task()];
        let news = [0; 2].map(AtomicUsize::new);
        let (news, mailbox, tasks) = (&news, &mailbox, &tasks);
        thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || {
                    for n in 0..EACH {
                        let n = (n + thread) % 2;
                        news[n].fetch_add(1, Ordering::Relaxed);
                        mailbox.push_ready(&tasks[n]);
                        if thread == 0 {
                            // Leaves the worker time to fall asleep.
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut seen = 0;
            while seen < 3 * EACH {
                mailbox.take_ready(|task| {
                    let n = tasks.iter().position(|t| t.id == task.id).unwrap();
                    seen += news[n].swap(0, Ordering::Relaxed);
                });
                if seen < 3 * EACH {
                    loop_.tick(None).unwrap();
                }
            }
            assert_eq!(seen, 3 * EACH);
        });
    }

    #[test]
    fn under_stress_each_injected_task_is_started_once_or_given_back() {
        const TASKS: usize = 50_000;
        let loop_ = Loop::new().unwrap();
        let mailboxes = &[0; 3].map(|_| Mailbox::new(loop_.remote(), true));
        let counts: &Vec<_> = &(0..TASKS).map(|_| AtomicUsize::new(0)).collect();
        let (next, barrier) = (&AtomicUsize::new(0), &Barrier::new(5));
        let count = |task: TaskRef| {
            counts[task.name().unwrap().parse::<usize>().unwrap()].fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    barrier.wait();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= TASKS {
                            break;
                        }
                        let options = Rare::with(Some(n.to_string().into()), None);
                        // SAFETY: it borrows nothing, and is `Send`.
                        let (task, _) = unsafe { TaskRef::new(options, || ()) };
                        mailboxes[n % 3].inject(task).unwrap_or_else(count);
                    }
                });
            }
            for me in 0..3 {
                scope.spawn(move || {
                    barrier.wait();
                    let mine = &mailboxes[me];
                    // SAFETY: its queue is this thread's.
                    let pop = || mine.pop_injected().or_else(|| unsafe { mine.spawned.pop() });
                    // Closes while the spawners are still at it.
                    while next.load(Ordering::Relaxed) < TASKS / 2 {
                        std::iter::from_fn(pop).for_each(count);
                        // SAFETY: as above.
                        unsafe { mailboxes[(me + 1) % 3].steal_into(&mine.spawned) };
                    }
                    mine.close().into_iter().chain(std::iter::from_fn(pop)).for_each(count);
                });
            }
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::Ordering::Relaxed;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, mailbox, read, settled, value};

    /// `wakers` of each of `tasks` leave it news, which is no more than a count, and make it ready. The worker looks
    /// after the tasks that it is given until it has had all news. Nobody rings but on an empty list.
    fn deliver(tasks: usize, wakers: usize) {
        let home = mailbox();
        let tasks: Vec<_> = (0..tasks).map(|_| (settled(&home), Arc::new(AtomicUsize::new(0)))).collect();
        let threads: Vec<_> = (0..wakers)
            .flat_map(|_| tasks.iter().cloned())
            .map(|(task, news)| {
                thread::spawn(move || {
                    news.fetch_add(1, Relaxed);
                    task.wake();
                })
            })
            .collect();
        let (mut seen, mut lists) = (0, 0);
        while seen < threads.len() {
            let mut given = Vec::new();
            home.take_ready(|task| {
                assert!(!given.contains(&task.id), "a task is in the list twice");
                given.push(task.id);
                let (_, news) = tasks.iter().find(|(other, _)| other.id == task.id).unwrap();
                // Not a read-modify-write, which would see the news without being told.
                let had = news.load(Relaxed);
                seen += had;
                news.fetch_sub(had, Relaxed);
            });
            if !given.is_empty() {
                lists += 1;
            } else {
                home.remote.wait();
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        home.take_ready(|_| lists += 1);
        assert!(home.remote.rings() <= lists, "more rings than lists");
        drop(tasks);
        assert_eq!(Arc::strong_count(&home), 1, "a reference to a task is lost");
    }

    #[test]
    fn loom_two_wakes_of_a_task_are_not_lost() {
        check(3, || deliver(1, 2));
    }

    #[test]
    fn loom_wakes_of_two_tasks_are_not_lost() {
        check(3, || deliver(2, 1));
    }

    #[test]
    fn loom_three_wakes_of_a_task_are_not_lost() {
        check(2, || deliver(1, 3));
    }

    /// A task whose result and closure loom watches, and that counts its starts.
    fn task(starts: &Arc<AtomicUsize>) -> TaskRef {
        let (starts, value) = (starts.clone(), value(7));
        let body = move || {
            assert_eq!(read(&value), 7);
            starts.fetch_add(1, Relaxed);
        };
        // SAFETY: it borrows nothing, and is `Send`.
        unsafe { TaskRef::new(None, body) }.0
    }

    fn start(task: &TaskRef) {
        // SAFETY: whoever takes a task out of a queue runs it; that it came out twice loom would see.
        unsafe { task.run() }
    }

    /// Refuses it, as shutting down does.
    fn refuse(task: &TaskRef, refused: &AtomicUsize) {
        refused.fetch_add(1, Relaxed);
        // SAFETY: as for `start`.
        unsafe { task.refuse(Box::new(())) }
    }

    #[test]
    fn loom_each_injected_task_is_started_once() {
        check(3, || {
            let (a, b, starts) = (mailbox(), mailbox(), Arc::new(AtomicUsize::new(0)));
            let tasks = [task(&starts), task(&starts)];
            let spawner = thread::spawn({
                let a = a.clone();
                move || tasks.into_iter().for_each(|task| assert!(a.inject(task).is_ok()))
            });
            let thief = thread::spawn({
                let (a, b) = (a.clone(), b.clone());
                // SAFETY: the queue of `b` is this thread's.
                move || unsafe {
                    a.steal_into(&b.spawned);
                    b.spawned.pop().iter().for_each(start);
                }
            });
            a.pop_injected().iter().for_each(start);
            spawner.join().unwrap();
            thief.join().unwrap();
            let left = a.unstarted() + b.unstarted();
            assert_eq!(starts.load(Relaxed) + left, 2);
            // SAFETY: the thief is gone.
            let stolen = std::iter::from_fn(|| unsafe { b.spawned.pop() });
            assert_eq!(a.close().into_iter().chain(stolen).inspect(start).count(), left);
        });
    }

    #[test]
    fn loom_a_mailbox_that_closes_gives_each_task_back_or_has_started_it() {
        check(3, || {
            let (a, b) = (mailbox(), mailbox());
            let (starts, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let tasks = [task(&starts), task(&starts)];
            let spawner = thread::spawn({
                let (a, refused) = (a.clone(), refused.clone());
                move || {
                    tasks
                        .into_iter()
                        .filter_map(|task| a.inject(task).err())
                        .for_each(|task| refuse(&task, &refused))
                }
            });
            let thief = thread::spawn({
                let (a, b, refused) = (a.clone(), b.clone(), refused.clone());
                // SAFETY: the queue of `b` is this thread's.
                move || unsafe {
                    a.steal_into(&b.spawned);
                    b.spawned.pop().iter().for_each(start);
                    while let Some(task) = b.spawned.pop() {
                        refuse(&task, &refused);
                    }
                }
            });
            a.pop_injected().iter().for_each(start);
            a.close().iter().for_each(|task| refuse(task, &refused));
            spawner.join().unwrap();
            thief.join().unwrap();
            assert_eq!(starts.load(Relaxed) + refused.load(Relaxed), 2);
            assert_eq!(a.unstarted() + b.unstarted(), 0);
        });
    }
}
