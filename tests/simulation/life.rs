//! One incarnation of a process, from its start to its end: what can be killed and paused.
//!
//! Every call of a model passes through [`Life::cross`] before its request leaves and after its answer came. There
//! a paused life waits and a dead one stays for ever, whether or not its tasks have been dropped yet; what it had
//! sent before is on its way all the same.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use call_legs::core::time::UtcMillis;
use std::sync::Arc;
use tokio::sync::Notify;

use crate::seed::{Run, lock};

/// A process's wall clock: the true time and how far it is off.
#[derive(Default)]
pub(crate) struct WallClock(AtomicI64);

impl WallClock {
    /// How far the clock is ahead of the true time, in milliseconds.
    pub(crate) fn ahead_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Sets it so far ahead of the true time.
    pub(crate) fn set_ahead_ms(&self, ahead_ms: i64) {
        self.0.store(ahead_ms, Ordering::SeqCst);
    }

    /// What it shows when the true time is `now`.
    pub(crate) fn show(&self, now: UtcMillis) -> UtcMillis {
        UtcMillis::new(now.as_millis() + self.ahead_ms())
    }
}

#[derive(Default)]
struct State {
    is_dead: bool,
    is_paused: bool,
    crossings: u64,
    dies_at: Option<u64>,
}

/// An incarnation.
pub(crate) struct Life {
    /// Its number; lives are counted over all processes of a run.
    pub(crate) number: u32,
    /// The process's wall clock, which outlives it.
    pub(crate) wall: Arc<WallClock>,
    run: Arc<Run>,
    state: Mutex<State>,
    changed: Notify,
}

impl Life {
    /// A new incarnation of a process; `dies_at` is the crossing at which it is killed.
    pub(crate) fn new(run: Arc<Run>, number: u32, wall: Arc<WallClock>, dies_at: Option<u64>) -> Self {
        let state = State { dies_at, ..State::default() };
        Self { number, wall, run, state: Mutex::new(state), changed: Notify::new() }
    }

    /// A life that nobody ends.
    #[cfg(test)]
    pub(crate) fn plain(run: &Arc<Run>, number: u32) -> Arc<Self> {
        Arc::new(Self::new(Arc::clone(run), number, Arc::default(), None))
    }

    /// Where the outer world may stop this life.
    pub(crate) async fn cross(&self) {
        {
            let mut state = lock(&self.state);
            state.crossings += 1;
            if state.dies_at.is_some_and(|at| at <= state.crossings) && !state.is_dead {
                state.is_dead = true;
                self.run.note(format_args!("life {} is killed at crossing {}", self.number, state.crossings));
                self.changed.notify_waiters();
            }
        }
        loop {
            let changed = self.changed.notified();
            let (is_dead, is_paused) = {
                let state = lock(&self.state);
                (state.is_dead, state.is_paused)
            };
            if is_dead {
                std::future::pending::<()>().await;
            }
            if !is_paused {
                return;
            }
            changed.await;
        }
    }

    /// Kills it, as by kill -9.
    pub(crate) fn kill(&self) {
        lock(&self.state).is_dead = true;
        self.changed.notify_waiters();
    }

    /// Takes back that it is to be killed.
    pub(crate) fn spare(&self) {
        lock(&self.state).dies_at = None;
    }

    /// Stops or resumes it, as by SIGSTOP and SIGCONT.
    pub(crate) fn pause(&self, is_paused: bool) {
        let mut state = lock(&self.state);
        state.is_paused = is_paused;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether it was killed.
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.state).is_dead
    }

    /// Returns once it is dead.
    pub(crate) async fn died(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_dead() {
                return;
            }
            changed.await;
        }
    }

    /// What the process's clock shows.
    pub(crate) fn now(&self) -> UtcMillis {
        self.wall.show(self.run.now())
    }
}
