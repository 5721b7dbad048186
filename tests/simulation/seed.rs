//! What every model shares: the dice, the true time, the switch for faults, and the trace of what happened.
//!
//! The dice are written out, because a library may change its stream of numbers with its version, and a seed
//! that once showed a fault has to show it for ever. They are thrown in the order in which the models act,
//! which the paused clock and the one thread of the runtime make a function of the seed.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use call_legs::core::time::UtcMillis;
use tokio::time::Instant;

/// The true time at which every simulation begins: 2026-03-10T12:00:00Z, far from any change of clocks.
pub(crate) const EPOCH_MS: i64 = 1_773_144_000_000;

/// How many lines of the trace are kept for the report of a failure.
const LINES_KEPT: usize = 400;

/// Locks, whatever happened to an earlier holder: a failed check must not hide behind a poisoned lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers that a seed decides: splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed);
        // Seeds are small numbers that differ in few bits.
        dice.roll();
        dice
    }

    /// Any number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number in `[low, high)`; `low` when that is empty.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = u64::try_from(high.saturating_sub(low)).unwrap_or(0);
        if width == 0 { low } else { low + (self.roll() % width).cast_signed() }
    }

    /// A number in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in `share` of all throws.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// One of `items`, which must not be empty.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.roll() % items.len() as u64).unwrap_or(0)]
    }

    /// Milliseconds in `[low, high)`.
    pub(crate) fn millis(&mut self, low: i64, high: i64) -> Duration {
        Duration::from_millis(self.between(low, high).unsigned_abs())
    }
}

struct Shared {
    dice: Dice,
    is_healed: bool,
    hash: u64,
    lines: VecDeque<String>,
    total: u64,
}

/// One run: everything in it that is not a model.
pub(crate) struct Run {
    started: Instant,
    is_printing: bool,
    shared: Mutex<Shared>,
}

impl Run {
    /// A run of `seed`; to be called inside a runtime whose clock is paused.
    pub(crate) fn new(seed: u64, is_printing: bool) -> Self {
        let shared = Shared {
            dice: Dice::new(seed),
            is_healed: false,
            hash: 0xcbf2_9ce4_8422_2325,
            lines: VecDeque::new(),
            total: 0,
        };
        Self { started: Instant::now(), is_printing, shared: Mutex::new(shared) }
    }

    /// Throws the dice.
    pub(crate) fn throw<R>(&self, with: impl FnOnce(&mut Dice) -> R) -> R {
        with(&mut lock(&self.shared).dice)
    }

    /// Whether a fault of this rate happens now; never once healed.
    pub(crate) fn is_faulty(&self, rate: f64) -> bool {
        let mut shared = lock(&self.shared);
        // Thrown also when healed, so that healing changes nothing else.
        let hit = shared.dice.chance(rate);
        hit && !shared.is_healed
    }

    /// Ends all faults, or lets them come again.
    pub(crate) fn heal(&self, is_healed: bool) {
        lock(&self.shared).is_healed = is_healed;
        self.note(format_args!("faults {}", if is_healed { "end" } else { "may happen" }));
    }

    /// For how long the run has gone on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The true time, which no participant's clock has to show.
    pub(crate) fn now(&self) -> UtcMillis {
        UtcMillis::new(EPOCH_MS).plus(self.elapsed())
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, what: impl Display) {
        let line = format!("{:>11.3} {what}", self.elapsed().as_secs_f64());
        if self.is_printing {
            eprintln!("{line}");
        }
        let mut shared = lock(&self.shared);
        for byte in line.bytes() {
            shared.hash = (shared.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        shared.total += 1;
        shared.lines.push_back(line);
        if shared.lines.len() > LINES_KEPT {
            shared.lines.pop_front();
        }
    }

    /// A hash of the whole trace and its length: equal for equal runs.
    pub(crate) fn trace_hash(&self) -> (u64, u64) {
        let shared = lock(&self.shared);
        (shared.hash, shared.total)
    }

    /// The trace's end, as far as it is kept.
    pub(crate) fn tail(&self) -> String {
        lock(&self.shared).lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Sleeps on the paused clock.
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_are_fixed_for_ever() {
        let mut dice = Dice::new(7);
        assert_eq!([dice.roll(), dice.roll()], [309_689_372_594_955_804, 16_616_101_746_815_609_346]);
    }
}
