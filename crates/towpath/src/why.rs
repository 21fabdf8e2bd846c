//! What a task waits for, in two words that it leaves behind when it suspends.
//!
//! Only where the loop does not know it: an operation's slot says which operation it is, see `dump::collect`.

/// What is waited for, and which of its kind.
#[derive(Clone, Copy)]
pub(crate) struct Why {
    pub(crate) reason: &'static Reason,
    /// As the reason says.
    pub(crate) which: usize,
}

/// A kind of thing to wait for.
pub(crate) struct Reason {
    pub(crate) name: &'static str,
    pub(crate) which: Which,
}

/// How to read [`Why::which`].
pub(crate) enum Which {
    Nothing,
    /// A task's id.
    Task,
    /// An address.
    Object,
}

impl Reason {
    /// Of which there is one.
    pub(crate) const fn plain(name: &'static str) -> Reason {
        Reason { name, which: Which::Nothing }
    }

    /// Known by an address.
    pub(crate) const fn object(name: &'static str) -> Reason {
        Reason { name, which: Which::Object }
    }
}

impl Why {
    /// Nothing yet.
    pub(crate) const NOTHING: Why = Why::plain(&Reason::plain("nothing"));
    pub(crate) const PARK: Why = Why::plain(&Reason::plain("unpark"));
    pub(crate) const SCOPE: Why = Why::plain(&Reason::plain("the tasks of a scope"));
    pub(crate) const SELECT: Why = Why::plain(&Reason::plain("select"));
    pub(crate) const DUMP: Why = Why::plain(&Reason::plain("a dump"));
    /// Something that others do.
    pub(crate) const OTHER: Why = Why::plain(&Reason::plain("another task"));

    pub(crate) const fn plain(reason: &'static Reason) -> Why {
        Why { reason, which: 0 }
    }

    /// The end of a task.
    pub(crate) fn join(task: u64) -> Why {
        Why { reason: &Reason { name: "join", which: Which::Task }, which: task as usize }
    }

    /// An object of whichever kind, by its address.
    #[inline(always)]
    pub(crate) fn object<T: ?Sized>(reason: &'static Reason, object: &T) -> Why {
        Why { reason, which: std::ptr::from_ref(object).addr() }
    }
}
