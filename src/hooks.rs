//! Where tests reach in: points at which the process can be killed, and mutants of the design.
//!
//! Without the feature `test-hooks`, which only tests have, every call here is nothing.

/// A wrong way to do it, for tests that show that it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// What the read-back finds is not adopted, and a doubtful commit is not followed by a new start.
    NoAdoption,
    /// The journal is read before the producer's init, not after it.
    ReadBeforeInit,
    /// The view is told before the commit's answer is known.
    ApplyBeforeCommit,
    /// A commit with an unknown outcome is aborted, and the page sent again.
    AbortAfterUnknownCommit,
    /// Progress is sent first in the transaction, before what it speaks of, and nothing is read back.
    ProgressFirst,
    /// A page is sent before its legs are acknowledged.
    PageBeforeLegs,
    /// Identities expire by the wall clock.
    ExpiryByWallClock,
    /// Identities expire by the floor alone, covered or not.
    ExpiryByFloorAlone,
    /// Legs are published as the API shows them, newest first.
    AsItComes,
    /// A unit that is behind reads from where live polls do, and the overlap after that.
    FromCompleteTo,
    /// Units that catch up are published each by itself.
    UnitAfterUnit,
    /// Late is what lies below what is final, and nothing else.
    LateBelowFinalOnly,
    /// Any row makes a window believed.
    AnyRowIsGood,
    /// The watermarks pass over what is not believed.
    HoldsPass,
    /// A leg from before its window is remembered at the window's beginning.
    AtTheWindowsEdge,
    /// What was read once, when it was new, counts as final.
    FirstReadIsFinal,
    /// A window that waited for others counts as read when it is published.
    BegunWhenPublished,
}

/// Dies here, as by kill -9, if `CALL_LEGS_DIE_AT` names this point (`name` or `name:<n>` for the n-th time).
#[inline]
pub fn point(name: &str) {
    #[cfg(feature = "test-hooks")]
    enabled::point(name);
    #[cfg(not(feature = "test-hooks"))]
    let _ = name;
}

/// Dies at a random instant within some milliseconds from here, if `CALL_LEGS_DIE_AT` names this point.
#[inline]
pub fn point_soon(name: &str) {
    #[cfg(feature = "test-hooks")]
    enabled::point_soon(name);
    #[cfg(not(feature = "test-hooks"))]
    let _ = name;
}

/// Whether a mutant is at work on this thread.
#[inline]
pub fn is_mutant(mutant: Mutant) -> bool {
    #[cfg(feature = "test-hooks")]
    return enabled::is_mutant(mutant);
    #[cfg(not(feature = "test-hooks"))]
    {
        let _ = mutant;
        false
    }
}

#[cfg(feature = "test-hooks")]
pub use enabled::with_mutant;

#[cfg(feature = "test-hooks")]
mod enabled {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::Mutant;

    thread_local! {
        static AT_WORK: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// Runs `work` on this thread with a mutant.
    pub fn with_mutant<R>(mutant: Option<Mutant>, work: impl FnOnce() -> R) -> R {
        AT_WORK.set(mutant);
        let result = work();
        AT_WORK.set(None);
        result
    }

    pub(super) fn is_mutant(mutant: Mutant) -> bool {
        AT_WORK.get() == Some(mutant)
    }

    fn is_reached(name: &str) -> bool {
        let Ok(wanted) = std::env::var("CALL_LEGS_DIE_AT") else { return false };
        let (wanted, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        wanted == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == times.parse().unwrap_or(1)
    }

    fn die() {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }

    pub(super) fn point(name: &str) {
        if is_reached(name) {
            die();
        }
    }

    pub(super) fn point_soon(name: &str) {
        if is_reached(name) {
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_micros(rand::random_range(0..5_000)));
                die();
            });
        }
    }
}
