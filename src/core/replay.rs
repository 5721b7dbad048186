//! The replay rule: what becomes of a dead letter that is parsed again, given what is known of its leg.
//!
//! The dedupe rule drops what may have been published and forgotten. A replay is rare, so it can ask the topic itself
//! instead: what is nowhere in a topic of which nothing was ever deleted was never published.
//!
//! ```text
//!   remembered, replayed, or found in the topic ──────────────▶ known
//!   below no floor: it would be remembered ───────────────────▶ published
//!   below a floor, not in the topic ── the topic is whole ────▶ published
//!                                   └─ something was deleted ─▶ in doubt, unless forced
//! ```
//!
//! Stricter than the dedupe rule in one respect: below its unit's floor a leg is asked for also where that unit has no
//! coverage, and so it is below the floor of any other unit that has. Another unit, or one that was taken out and put
//! back, may have published it.

use std::collections::BTreeMap;
use std::fmt;

use super::time::{UtcMillis, Window};
use super::watermark::Progress;

/// What is known of the leg of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// It is remembered, was replayed, or is in the topic.
    pub is_known: bool,
    /// It may have been published and forgotten.
    pub may_be_forgotten: bool,
    /// Nothing was ever deleted from the topic that was searched for it.
    pub is_topic_whole: bool,
}

/// What becomes of the leg of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Published.
    Publish,
    /// Dropped: it is in the topic.
    Known,
    /// Left alone: it may have been in the topic.
    InDoubt,
}

/// Decides about a leg; `is_forced` says that an operator wants those in doubt, too.
pub const fn decide(evidence: Evidence, is_forced: bool) -> Verdict {
    if evidence.is_known {
        Verdict::Known
    } else if evidence.may_be_forgotten && !evidence.is_topic_whole && !is_forced {
        Verdict::InDoubt
    } else {
        Verdict::Publish
    }
}

/// Whether a leg of `own`'s unit that is not remembered may have been published all the same; `all` are all units.
pub fn may_be_forgotten<'a>(at: UtcMillis, own: &Progress, all: impl IntoIterator<Item = &'a Progress>) -> bool {
    at < own.floor || all.into_iter().any(|unit| at < unit.floor && unit.coverage.contains(at))
}

/// A leg's time on the axis of the windows: its own, as far as the read of `window`, which had found it, has asked for
/// that. A time beyond, which the API's filter should not have let through, counts as the window's edge.
pub fn time_in(at: UtcMillis, window: Window, asked: Window) -> UtcMillis {
    if window.is_empty() || asked.contains(at) {
        at
    } else {
        at.clamp(window.start, UtcMillis::new(window.end.as_millis() - 1))
    }
}

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Its leg was published.
    Published,
    /// Its leg was in the topic already.
    Known,
    /// An earlier replay had done with it.
    Replayed,
    /// Its row is still none that can be published.
    StillDead,
    /// It holds no more than a part of its row, or nothing, or another one than its hash says.
    Damaged,
    /// Its row was treated by another privacy policy than the one that holds now.
    OtherPolicy,
    /// Its leg may have been in the topic.
    InDoubt,
    /// Its unit is not read, so nobody would remember the leg.
    UnitNotRead,
    /// It is none of this connector's.
    Foreign,
}

impl Fate {
    const ALL: [Self; 9] = [
        Self::Published,
        Self::Known,
        Self::Replayed,
        Self::StillDead,
        Self::Damaged,
        Self::OtherPolicy,
        Self::InDoubt,
        Self::UnitNotRead,
        Self::Foreign,
    ];

    const fn words(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Known => "in the topic already",
            Self::Replayed => "replayed before",
            Self::StillDead => "still dead",
            Self::Damaged => "cut short, withheld or altered, so lost to a replay",
            Self::OtherPolicy => {
                "treated under another [privacy] or key, so left alone: they can be replayed with the one that they were written under"
            }
            Self::InDoubt => {
                "in doubt: older than what is remembered, and the topic has lost records among which they may have been; --force publishes them"
            }
            Self::UnitNotRead => "of units that are not read",
            Self::Foreign => "another connector's",
        }
    }
}

/// How many dead letters met which fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Fate, u64>);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, fate: Fate) {
        *self.0.entry(fate).or_default() += 1;
    }

    /// How many met this fate.
    pub fn of(&self, fate: Fate) -> u64 {
        self.0.get(&fate).copied().unwrap_or_default()
    }

    /// How many there are.
    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }
}

/// A line for the whole, and one for each fate that was met; published ones are always told of.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dead letters", self.all())?;
        for fate in Fate::ALL {
            let count = self.of(fate);
            if count > 0 || fate == Fate::Published {
                write!(f, "\n{count:>8}  {}", fate.words())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::watermark::Delays;
    use super::*;
    use std::time::Duration;

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    /// Covered from `from` on, floor at 5000.
    fn progress(from: i64) -> Progress {
        let second = Duration::from_secs(1);
        let delays = Delays { settle: Duration::ZERO, overlap: second * 1000, horizon: second * 3000 };
        let mut progress = Progress::starting_at(at(from), &delays);
        progress.advance(Window::new(at(from), at(9000)), at(9000), &delays);
        assert_eq!(progress.floor, at(5000));
        progress
    }

    #[test]
    fn each_case_of_the_rule() {
        use Verdict::{InDoubt, Known, Publish};
        for (is_known, may_be_forgotten, is_topic_whole, is_forced, expected) in [
            (true, false, true, false, Known),
            (true, true, false, true, Known),
            (false, false, true, false, Publish),
            (false, false, false, false, Publish),
            (false, true, true, false, Publish),
            (false, true, false, false, InDoubt),
            (false, true, false, true, Publish),
        ] {
            let evidence = Evidence { is_known, may_be_forgotten, is_topic_whole };
            assert_eq!(decide(evidence, is_forced), expected, "{evidence:?}, forced: {is_forced}");
        }
    }

    #[test]
    fn what_may_be_forgotten_lies_below_its_own_floor_or_in_what_another_has_read_and_left() {
        let (own, other) = (progress(7000), progress(1000));
        let behind = Progress { floor: at(2000), ..other.clone() };
        let forgotten = |seconds, own, all: &[&Progress]| may_be_forgotten(at(seconds), own, all.iter().copied());
        assert!(!forgotten(5000, &own, &[&own, &other]), "at the floor all is remembered");
        assert!(forgotten(4999, &own, &[&own]), "also where it was never read: it may have been, by another");
        assert!(forgotten(3000, &behind, &[&behind, &other]), "the other has read it and left it behind");
        assert!(!forgotten(3000, &behind, &[&behind, &own]), "nobody has");
    }

    #[test]
    fn a_time_beyond_what_was_asked_for_counts_as_the_windows_edge() {
        let (window, asked) = (Window::new(at(10), at(20)), Window::new(at(9), at(21)));
        let placed = |millis| time_in(UtcMillis::new(millis), window, asked).as_millis();
        assert_eq!([placed(15_000), placed(9_000), placed(20_999)], [15_000, 9_000, 20_999]);
        assert_eq!([placed(8_999), placed(21_000), placed(i64::MAX)], [10_000, 19_999, 19_999]);
        let unknown = Window::new(at(5), at(5));
        assert_eq!(time_in(at(7), unknown, unknown), at(7));
    }

    #[test]
    fn a_tally_tells_what_was_met_and_adds_up() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "0 dead letters\n       0  published");
        [Fate::StillDead, Fate::Known, Fate::StillDead].into_iter().for_each(|fate| tally.add(fate));
        assert_eq!(
            tally.to_string(),
            "3 dead letters\n       0  published\n       1  in the topic already\n       2  still dead"
        );
    }
}
