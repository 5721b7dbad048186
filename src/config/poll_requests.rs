//! How many requests the polls take, beside how many they may.

use std::fmt;

use super::Config;
use crate::core::budget::polls_take;
use crate::core::words::{count, exact};

/// The requests of the polls in a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PollRequests {
    needed: f64,
    allowed: u32,
    units: u64,
    interval: std::time::Duration,
}

impl Config {
    /// The requests that polls take at their slowest where the overlap of each unit has so many rows; a unit that is left out has few.
    /// Catching up, sweeps and backfills take what is left.
    pub fn poll_requests(&self, overlap_rows: &[u64]) -> PollRequests {
        let units = self.source.pbx_ids.len();
        let rows = overlap_rows.iter().copied().chain(std::iter::repeat(0)).take(units);
        let interval = self.poll.interval.longest();
        PollRequests {
            needed: polls_take(interval, u64::from(self.source.page_size), rows),
            allowed: self.source.requests_per_minute,
            units: units as u64,
            interval,
        }
    }
}

impl PollRequests {
    /// Whether the polls need more than they may.
    pub fn is_too_many(&self) -> bool {
        self.needed > f64::from(self.allowed)
    }
}

/// A sentence, with what to do about too many.
impl fmt::Display for PollRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needed = self.needed.ceil() as u64;
        let (units, needed) = (count(self.units, "unit"), count(needed, "request"));
        write!(
            f,
            "polls of {units} take at least {needed} a minute, with one poll of each in {}",
            exact(self.interval)
        )?;
        let allowed = self.allowed;
        if self.is_too_many() {
            write!(
                f,
                ", more than source.requests_per_minute = {allowed} allows: polls will come later than poll.interval. Raise source.requests_per_minute, source.page_size or poll.interval"
            )
        } else {
            write!(f, "; source.requests_per_minute = {allowed} allows them")
        }
    }
}
