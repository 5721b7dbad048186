//! The dedupe rule: what becomes of a row, given what is remembered of it.
//!
//! The same rule serves every kind of read, whatever its bounds and however often it was killed.
//! Stored values decide, never a clock: with an expiry by the wall clock a leg could come twice.

use serde::{Deserialize, Serialize};

use super::identity::Fingerprint;
use super::time::UtcMillis;
use super::watermark::Progress;

/// What is remembered of a published leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Of its content when it was last looked at; `None` when an older version of the fingerprint
    /// was remembered, which compares equal to everything.
    pub fingerprint: Option<Fingerprint>,
    /// The newest revision published; 0 is the first publication.
    pub revision: u8,
}

impl Seen {
    /// The same, as far as it can be compared with the fingerprint of what was read: one that was made under another
    /// privacy policy counts as one of another version.
    pub fn beside(self, read: Fingerprint) -> Self {
        Self { fingerprint: self.fingerprint.filter(|seen| seen.is_comparable(read)), ..self }
    }
}

/// What becomes of a leg whose content changed after it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revisions {
    /// Counted.
    Ignore,
    /// Published again with the next revision, once for each change.
    Publish,
}

/// What becomes of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never seen: published.
    New,
    /// Seen with the same content: dropped.
    Duplicate,
    /// Seen with other content: remembered with the new content, so that each change counts once.
    Revised,
    /// Not remembered, but so old that it may have been forgotten after it was published: dropped.
    BeyondHorizon,
}

/// Decides about a leg disconnected at `disconnected`.
pub fn classify(seen: Option<Seen>, fingerprint: Fingerprint, disconnected: UtcMillis, progress: &Progress) -> Verdict {
    match seen.map(|seen| seen.beside(fingerprint)) {
        Some(seen) if seen.fingerprint.is_none_or(|seen| seen == fingerprint) => Verdict::Duplicate,
        Some(_) => Verdict::Revised,
        None if disconnected < progress.floor && progress.coverage.contains(disconnected) => Verdict::BeyondHorizon,
        None => Verdict::New,
    }
}

/// What became of fetched rows: every row is in exactly one of the counts. A dead row that is replayed counts once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// In the topic, acknowledged by Kafka.
    pub published: u64,
    /// Published before with the same content.
    pub duplicate: u64,
    /// Published before with other content.
    pub revised: u64,
    /// In the dead-letter topic, now or before: without usable callId, legId or disconnect time.
    pub dead: u64,
    /// Calls still going on, which are awaited: not completed and without a disconnect time, or "In Progress" and
    /// their time not final yet.
    pub unfinished: u64,
    /// Too old to be told from what was published and forgotten.
    pub beyond_horizon: u64,
    /// Dead, and too many to be buried: the API is broken, and not some of its rows. Read again.
    pub held: u64,
    /// In the margin by which the query reaches beyond its window, or later than that: other windows' rows.
    pub outside: u64,
    /// Of the published ones, those that lie in a period already called final; no count of its own.
    pub late: u64,
}

impl Counts {
    /// Each count with its name in logs, metrics and summaries.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("published", self.published),
            ("duplicate", self.duplicate),
            ("revised", self.revised),
            ("dead", self.dead),
            ("unfinished", self.unfinished),
            ("beyond_horizon", self.beyond_horizon),
            ("outside", self.outside),
            ("held", self.held),
        ]
    }

    /// How many rows were counted.
    pub fn fetched(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.duplicate += other.duplicate;
        self.revised += other.revised;
        self.dead += other.dead;
        self.unfinished += other.unfinished;
        self.beyond_horizon += other.beyond_horizon;
        self.outside += other.outside;
        self.held += other.held;
        self.late += other.late;
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::Window;
    use super::super::watermark::Delays;
    use super::*;
    use std::time::Duration;

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    /// Covered [1000, 9000), floor at 5000.
    fn progress() -> Progress {
        let second = Duration::from_secs(1);
        let delays = Delays { settle: Duration::ZERO, overlap: second * 1000, horizon: second * 3000 };
        let mut progress = Progress::starting_at(at(1000), &delays);
        progress.advance(Window::new(at(1000), at(9000)), at(9000), &delays);
        assert_eq!((progress.floor, progress.final_to), (at(5000), at(8000)));
        progress
    }

    #[test]
    fn each_case_of_the_rule() {
        let a = Fingerprint::from_bits(1);
        let seen = |fingerprint| Some(Seen { fingerprint: Some(fingerprint), revision: 0 });
        let verdict = |seen, seconds| classify(seen, a, at(seconds), &progress());
        assert_eq!(verdict(seen(a), 6000), Verdict::Duplicate);
        assert_eq!(verdict(seen(Fingerprint::from_bits(2)), 6000), Verdict::Revised);
        assert_eq!(verdict(None, 6000), Verdict::New, "between floor and final_to a late leg may appear");
        assert_eq!(verdict(None, 4999), Verdict::BeyondHorizon);
        assert_eq!(verdict(None, 5000), Verdict::New);
        assert_eq!(verdict(None, 999), Verdict::New, "below the floor but never covered");
        assert_eq!(verdict(seen(a), 4999), Verdict::Duplicate, "remembered beats the floor");
        assert_eq!(verdict(Some(Seen { fingerprint: None, revision: 0 }), 6000), Verdict::Duplicate);
        assert_eq!(verdict(seen(Fingerprint::keyed(1, 1)), 6000), Verdict::Duplicate, "of a privacy policy");
    }

    #[test]
    fn counts_add_up() {
        let mut counts = Counts {
            published: 1,
            duplicate: 2,
            revised: 3,
            dead: 4,
            unfinished: 5,
            beyond_horizon: 6,
            outside: 7,
            held: 8,
            late: 1,
        };
        counts += counts;
        assert_eq!(counts.fetched(), 72, "a late leg is one of the published");
    }
}
