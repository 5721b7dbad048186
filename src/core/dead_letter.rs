//! Rows that cannot be published as a leg: why, in words that hold nothing of the row, and how many are too many.

use std::collections::VecDeque;
use std::fmt;

/// The share of dead rows is taken over at least so many rows, where there are so many.
const ROWS: u64 = 1_000;

/// Fewer dead rows than this are never too many.
const DEAD_MIN: u64 = 20;

/// What becomes of a window's dead rows that are not among the dead letters yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadRows {
    /// They become dead letters.
    Buried,
    /// They wait, and the window is read again: the API is broken, and not some of its rows.
    Held,
}

/// A unit's newest rows that were published or buried, each counted once: whether it was dead.
#[derive(Clone, Debug, Default)]
pub struct Decided(VecDeque<bool>);

impl Decided {
    /// Takes note of rows that were committed.
    pub fn note(&mut self, published: u64, buried: u64) {
        let rows = (0..published.min(ROWS)).map(|_| false).chain((0..buried.min(ROWS)).map(|_| true));
        for is_dead in rows {
            if self.0.len() as u64 == ROWS {
                self.0.pop_front();
            }
            self.0.push_back(is_dead);
        }
    }

    /// How many there are of the newest `rows`, and how many of them are dead.
    fn newest(&self, rows: u64) -> (u64, u64) {
        let newest = self.0.iter().rev().take(usize::try_from(rows).unwrap_or(usize::MAX));
        newest.fold((0, 0), |(rows, dead), is_dead| (rows + 1, dead + u64::from(*is_dead)))
    }
}

/// A window's rows that were neither published nor buried before it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undecided {
    /// Rows that are no legs.
    pub dead: u64,
    /// New legs that are still to be published.
    pub legs: u64,
    /// New legs that were published page by page, and are among the unit's decided rows already.
    pub published: u64,
}

impl Undecided {
    /// What becomes of the dead rows, of which a share of `ratio_max` is let pass. A small window is judged together with
    /// the newest rows before it, so that neither order nor the cut of windows decides.
    pub fn verdict(&self, decided: &Decided, ratio_max: f64) -> DeadRows {
        let Self { dead, legs, published } = *self;
        let of_window = dead + legs + published;
        let (rows, dead) = if of_window >= ROWS {
            (of_window, dead)
        } else {
            let (rows, dead_before) = decided.newest(ROWS.saturating_sub(dead + legs));
            ((dead + legs + rows).max(of_window), dead + dead_before)
        };
        #[expect(clippy::cast_precision_loss, reason = "rows of a window")]
        let is_share_exceeded = dead as f64 > ratio_max * rows as f64;
        if self.dead > 0 && dead >= DEAD_MIN && is_share_exceeded { DeadRows::Held } else { DeadRows::Buried }
    }
}

/// Why a row is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The row is no JSON object, or one that cannot be taken apart.
    Unreadable,
    /// No text or whole number under `callId`.
    CallId,
    /// No text or whole number under `legId`.
    LegId,
    /// No instant after the epoch under `disconnectedTimeUTC`, in a row that is not under way.
    DisconnectTime,
    /// The encoded leg exceeds what the topic takes.
    TooLarge,
    /// The topic takes no record with this disconnect time as its timestamp.
    Timestamp,
    /// The brokers found the record invalid.
    Invalid,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unreadable,
        Self::CallId,
        Self::LegId,
        Self::DisconnectTime,
        Self::TooLarge,
        Self::Timestamp,
        Self::Invalid,
    ];

    /// The reason of a code; `None` for one that this version does not know.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Whether the row itself is to blame, and not what the topic takes.
    pub const fn is_the_rows(self) -> bool {
        matches!(self, Self::Unreadable | Self::CallId | Self::LegId | Self::DisconnectTime)
    }

    /// The `call-legs-error-code` header; stable, for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable-row",
            Self::CallId => "call-id-unusable",
            Self::LegId => "leg-id-unusable",
            Self::DisconnectTime => "disconnect-time-unusable",
            Self::TooLarge => "record-too-large",
            Self::Timestamp => "timestamp-refused",
            Self::Invalid => "record-refused",
        }
    }
}

/// The `call-legs-error-message` header; for people.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the row is not a JSON object that can be read",
            Self::CallId => "callId is missing, empty, or neither a text nor a whole number",
            Self::LegId => "legId is missing, empty, or neither a text nor a whole number",
            Self::DisconnectTime => "disconnectedTimeUTC is missing or no epoch-millisecond instant, and the call is not under way",
            Self::TooLarge => "the encoded leg is larger than the topic's max.message.bytes",
            Self::Timestamp => "the topic refuses the disconnect time as a timestamp (message.timestamp.before.max.ms, message.timestamp.after.max.ms)",
            Self::Invalid => "the brokers refuse the record as invalid",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATIO: f64 = 0.05;

    fn decided(published: u64, buried: u64) -> Decided {
        let mut decided = Decided::default();
        decided.note(published, buried);
        decided
    }

    fn of_window(dead: u64, legs: u64) -> Undecided {
        Undecided { dead, legs, published: 0 }
    }

    #[test]
    fn a_few_dead_rows_are_never_too_many() {
        for (dead, expected) in [(0, DeadRows::Buried), (19, DeadRows::Buried), (20, DeadRows::Held)] {
            assert_eq!(of_window(dead, 0).verdict(&Decided::default(), RATIO), expected);
        }
        assert_eq!(of_window(10, 0).verdict(&decided(0, 10), RATIO), DeadRows::Held, "the ten before it count");
        assert_eq!(of_window(0, 10).verdict(&decided(0, 500), RATIO), DeadRows::Buried, "there is nothing to hold");
    }

    #[test]
    fn the_share_is_that_of_the_window_and_of_what_was_decided_before_up_to_a_thousand_rows() {
        let verdict = |dead, legs, published, buried| of_window(dead, legs).verdict(&decided(published, buried), RATIO);
        assert_eq!(verdict(50, 0, 950, 0), DeadRows::Buried);
        assert_eq!(verdict(51, 0, 949, 0), DeadRows::Held);
        assert_eq!(verdict(51, 0, 9_000, 0), DeadRows::Held, "the newest thousand only");
        assert_eq!(verdict(51, 1_000, 0, 900), DeadRows::Buried, "a large window speaks for itself");
        assert_eq!(verdict(53, 1_000, 1_000, 0), DeadRows::Held);
        assert_eq!(of_window(1_000, 0).verdict(&Decided::default(), 1.0), DeadRows::Buried);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_whether_the_legs_were_published_before_the_window_is_judged(
            dead in 0u64..300, legs in 0u64..3_000, before in 0u64..1_500, buried in 0u64..100,
        ) {
            let mut decided = decided(before, buried);
            let at_once = of_window(dead, legs).verdict(&decided, RATIO);
            decided.note(legs, 0);
            prop_assert_eq!(Undecided { dead, legs: 0, published: legs }.verdict(&decided, RATIO), at_once);
        }

        #[test]
        fn what_is_held_stays_held_when_it_is_read_again(
            dead in 0u64..300, legs in 0u64..3_000, before in 1_000u64..1_500, more in 0u64..3_000,
        ) {
            let mut decided = decided(before, 0);
            let first = of_window(dead, legs).verdict(&decided, RATIO);
            decided.note(legs + more, 0);
            let again = of_window(dead, 0).verdict(&decided, RATIO);
            prop_assert!(first == DeadRows::Buried || again == DeadRows::Held);
        }
    }
}
