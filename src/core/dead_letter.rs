//! Rows that cannot be published as a leg: why, in words that hold nothing of the row, and how many are too many.

use std::collections::VecDeque;
use std::fmt;

/// Over how many of the newest rows dead ones are counted.
const ROWS: usize = 1_000;

/// Fewer dead rows than this are never too many.
const DEAD_MIN: usize = 20;

/// How many of a unit's rows may be dead: beyond it the API is broken, and not some of its rows.
#[derive(Clone, Debug)]
pub struct Budget {
    ratio_max: f64,
    newest: VecDeque<bool>,
    dead: usize,
}

impl Budget {
    /// Of the last 1,000 rows at most this share may be dead.
    pub fn new(ratio_max: f64) -> Self {
        Self { ratio_max, newest: VecDeque::with_capacity(ROWS), dead: 0 }
    }

    /// Takes note of the next row.
    pub fn note(&mut self, is_dead: bool) {
        if self.newest.len() == ROWS {
            self.dead -= usize::from(self.newest.pop_front() == Some(true));
        }
        self.newest.push_back(is_dead);
        self.dead += usize::from(is_dead);
    }

    /// Whether there are too many dead rows.
    pub fn is_exceeded(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
        let allowed = self.ratio_max * self.newest.len() as f64;
        #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
        let dead = self.dead as f64;
        self.dead >= DEAD_MIN && dead > allowed
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
    use super::*;

    fn after(rows: impl IntoIterator<Item = bool>) -> Budget {
        let mut budget = Budget::new(0.05);
        rows.into_iter().for_each(|is_dead| budget.note(is_dead));
        budget
    }

    #[test]
    fn a_few_dead_rows_are_never_too_many() {
        assert!(!after([true; 19]).is_exceeded());
        assert!(after([true; 20]).is_exceeded());
    }

    #[test]
    fn the_share_counts_over_the_newest_rows() {
        let mixed = |good: usize, dead: usize| std::iter::repeat_n(false, good).chain(std::iter::repeat_n(true, dead));
        assert!(!after(mixed(950, 50)).is_exceeded());
        assert!(after(mixed(949, 51)).is_exceeded());
        assert!(!after(mixed(0, 500).chain(mixed(1_000, 0))).is_exceeded(), "what was long ago is forgotten");
        assert!(!Budget::new(1.0).is_exceeded());
    }
}
