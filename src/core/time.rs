//! Instants and half-open windows on the UTC time line, in epoch milliseconds.
//!
//! Nothing here reads a clock: the present is always a parameter.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::hooks::{self, Mutant};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, as in the API's `…UTC` fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UtcMillis(i64);

impl UtcMillis {
    /// The instant `millis` milliseconds after the epoch.
    pub const fn new(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Seconds since the epoch, as metrics want them.
    pub fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// This instant moved later; saturates at the end of time.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// This instant moved earlier; saturates at the beginning of time.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// Milliseconds from `earlier` to here; negative when `earlier` is the later one.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to here, zero when `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.millis_since(earlier)).unwrap_or(0))
    }

    /// The last whole second at or before this instant.
    pub const fn floor_second(self) -> Self {
        Self(self.0.div_euclid(1000) * 1000)
    }

    /// This instant as a calendar time; `None` outside the years chrono knows.
    pub fn to_datetime(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.0)
    }
}

/// RFC 3339 in UTC, with milliseconds only where there are any.
impl fmt::Display for UtcMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_datetime() {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl From<DateTime<Utc>> for UtcMillis {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_millis())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A half-open span of disconnect time.
///
/// ```text
///   start           end
///     [──────────────)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The first instant inside.
    pub start: UtcMillis,
    /// The first instant after.
    pub end: UtcMillis,
}

impl Window {
    /// The window `[start, end)`; empty when `end` is not after `start`.
    pub const fn new(start: UtcMillis, end: UtcMillis) -> Self {
        Self { start, end }
    }

    /// Whether no instant lies inside.
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether `instant` lies inside.
    pub fn contains(self, instant: UtcMillis) -> bool {
        self.start <= instant && instant < self.end
    }

    /// The last instant inside; the start where none is.
    pub fn last(self) -> UtcMillis {
        UtcMillis::new(self.end.as_millis() - 1).max(self.start)
    }

    /// The instant itself, or the last one inside, if it lies behind that.
    pub fn not_after(self, instant: UtcMillis) -> UtcMillis {
        if hooks::is_mutant(Mutant::AtTheWindowsEdge) {
            return instant.clamp(self.start, self.last());
        }
        instant.min(self.last())
    }

    /// How long the window is.
    pub fn length(self) -> Duration {
        self.end.since(self.start)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_as_rfc_3339() {
        assert_eq!(UtcMillis::new(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(UtcMillis::new(1_643_898_472_253).to_string(), "2022-02-03T14:27:52.253Z");
    }

    #[test]
    fn floors_towards_the_past_also_before_the_epoch() {
        assert_eq!(UtcMillis::new(1_999).floor_second().as_millis(), 1_000);
        assert_eq!(UtcMillis::new(-1).floor_second().as_millis(), -1_000);
    }

    #[test]
    fn a_window_holds_its_start_and_not_its_end() {
        let window = Window::new(UtcMillis::new(10), UtcMillis::new(20));
        assert!(window.contains(window.start) && !window.contains(window.end));
        assert!(Window::new(window.end, window.start).is_empty());
    }
}
