//! What a unit did lately: its newest polls, its newest minutes, and why its rows were buried. For people who look;
//! whoever keeps more of it asks the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::time::UtcMillis;

/// How many polls are kept: two hours of them with the default interval.
pub const POLLS_MAX: usize = 60;

/// How many minutes are kept.
pub const MINUTES_MAX: usize = 60;

const MINUTE_MS: i64 = 60_000;

/// A poll that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PollNote {
    /// When it ended.
    pub at: UtcMillis,
    /// How: one of [`POLL_RESULTS`](super::labels::POLL_RESULTS).
    pub result: String,
    /// Rows fetched.
    pub fetched: u64,
    /// Legs published.
    pub published: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What was published in a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MinuteNote {
    /// When it began.
    pub from: UtcMillis,
    /// Legs that Kafka acknowledged in it, whatever read them.
    pub published: u64,
    /// The longest time from a leg's disconnect to that, in milliseconds; `None` where none was awaited.
    pub slowest_ms: Option<u64>,
}

/// What a unit did lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recent {
    /// The newest polls, oldest first.
    pub polls: VecDeque<PollNote>,
    /// The newest minutes in which something was published, oldest first.
    pub minutes: VecDeque<MinuteNote>,
    /// Dead letters since the process started, by error code.
    pub dead_letters: BTreeMap<String, u64>,
}

impl Recent {
    /// Takes note of a poll.
    pub fn note_poll(&mut self, poll: PollNote) {
        if self.polls.len() == POLLS_MAX {
            self.polls.pop_front();
        }
        self.polls.push_back(poll);
    }

    /// Takes note of legs that Kafka acknowledged at an instant, and how fresh they were.
    pub fn note_published(&mut self, at: UtcMillis, legs: u64, freshness: impl Iterator<Item = Duration>) {
        if legs == 0 {
            return;
        }
        let from = minute_of(at);
        // A clock that went back adds to what is there.
        if self.minutes.back().is_none_or(|newest| newest.from < from) {
            if self.minutes.len() == MINUTES_MAX {
                self.minutes.pop_front();
            }
            self.minutes.push_back(MinuteNote { from, published: 0, slowest_ms: None });
        }
        let Some(minute) = self.minutes.back_mut() else { return };
        minute.published += legs;
        let slowest = freshness.max().map(|slowest| u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
        minute.slowest_ms = minute.slowest_ms.max(slowest);
    }

    /// Takes note of a dead letter.
    pub fn note_dead_letter(&mut self, code: &str) {
        *self.dead_letters.entry(code.to_owned()).or_default() += 1;
    }

    /// The newest hour up to `now`, minute by minute, with those in which nothing was published.
    pub fn hour(&self, now: UtcMillis) -> Vec<MinuteNote> {
        let newest = minute_of(now).as_millis();
        let minutes = (0..MINUTES_MAX as i64).rev().map(|ago| UtcMillis::new(newest - ago * MINUTE_MS));
        let known = |from| self.minutes.iter().find(|minute| minute.from == from).cloned();
        minutes.map(|from| known(from).unwrap_or(MinuteNote { from, published: 0, slowest_ms: None })).collect()
    }
}

fn minute_of(at: UtcMillis) -> UtcMillis {
    UtcMillis::new(at.as_millis().div_euclid(MINUTE_MS) * MINUTE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> UtcMillis {
        UtcMillis::new(minute * MINUTE_MS + 1_234)
    }

    #[test]
    fn an_hour_is_whole_also_where_nothing_was_published() {
        let mut recent = Recent::default();
        recent.note_published(at(10), 2, [Duration::from_secs(3), Duration::from_secs(5)].into_iter());
        recent.note_published(at(10), 1, [Duration::from_secs(4)].into_iter());
        recent.note_published(at(11), 0, std::iter::empty());
        recent.note_published(at(12), 7, std::iter::empty());
        let hour = recent.hour(at(12));
        assert_eq!(hour.len(), MINUTES_MAX);
        let newest: Vec<_> = hour[57..].iter().map(|minute| (minute.published, minute.slowest_ms)).collect();
        assert_eq!(newest, [(3, Some(5_000)), (0, None), (7, None)]);
        assert!(hour[..57].iter().all(|minute| minute.published == 0));
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let mut recent = Recent::default();
        recent.note_published(at(10), 2, std::iter::empty());
        recent.note_published(at(9), 1, std::iter::empty());
        assert_eq!(recent.minutes.len(), 1);
        assert_eq!(recent.minutes[0].published, 3);
    }

    #[test]
    fn no_more_is_kept_than_is_shown() {
        let mut recent = Recent::default();
        for minute in 0..200 {
            recent.note_published(at(minute), 1, std::iter::empty());
            let (result, fetched) = ("ok".to_owned(), u64::try_from(minute).unwrap());
            recent.note_poll(PollNote { at: at(minute), result, fetched, published: 0, took_ms: 1 });
        }
        assert_eq!((recent.minutes.len(), recent.polls.len()), (MINUTES_MAX, POLLS_MAX));
        assert_eq!(recent.polls.back().unwrap().fetched, 199);
    }
}
