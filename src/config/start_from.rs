//! Where the very first read begins. The present is a parameter: no clock is read here.

use std::time::Duration;

use chrono::DateTime;

use crate::core::time::UtcMillis;

/// How far back the API answers: it silently leaves out what is older than two years. Without a
/// leap day, so that the clamped instant is on the safe side of the vendor's count, whichever it is.
pub const HISTORY_MAX: Duration = Duration::from_secs(730 * 24 * 60 * 60);

/// The configured start: an instant, or a span before the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// This instant; it may lie in the future.
    At(UtcMillis),
    /// So long before the present; zero for `now`.
    Ago(Duration),
}

/// A start that has met the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first instant to read, on a whole second.
    pub at: UtcMillis,
    /// Whether it was moved to [`HISTORY_MAX`] before the present, which deserves a warning.
    pub clamped: bool,
}

impl StartFrom {
    /// Reads `now`, `now-24h` or an instant in RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "now" {
            return Some(Self::Ago(Duration::ZERO));
        }
        if let Some(span) = text.strip_prefix("now").and_then(|rest| rest.trim_start().strip_prefix('-')) {
            return humantime::parse_duration(span.trim_start()).ok().map(Self::Ago);
        }
        DateTime::parse_from_rfc3339(text).ok().map(|time| Self::At(time.to_utc().into()))
    }

    /// The first instant to read when the present is `now`.
    pub fn resolve(self, now: UtcMillis) -> Start {
        let wanted = match self {
            Self::At(instant) => instant,
            Self::Ago(span) => now.minus(span),
        };
        let oldest = now.minus(HISTORY_MAX);
        Start { at: wanted.max(oldest).floor_second(), clamped: wanted < oldest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> UtcMillis {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
    }

    #[test]
    fn reads_the_three_forms() {
        assert_eq!(StartFrom::parse("now"), Some(StartFrom::Ago(Duration::ZERO)));
        assert_eq!(StartFrom::parse("now-24h"), Some(StartFrom::Ago(Duration::from_secs(86_400))));
        assert_eq!(StartFrom::parse("now - 8d"), Some(StartFrom::Ago(Duration::from_secs(8 * 86_400))));
        let instant = StartFrom::At(utc("2026-01-01T05:00:00Z"));
        assert_eq!(StartFrom::parse("2026-01-01T00:00:00-05:00"), Some(instant));
        for wrong in ["", "yesterday", "now+1h", "now-", "now24h", "2026-01-01", "2026-01-01T00:00:00"] {
            assert_eq!(StartFrom::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn resolves_against_the_present_on_whole_seconds() {
        let now = utc("2026-07-01T12:00:00.700Z");
        let start = |text: &str| StartFrom::parse(text).unwrap().resolve(now);
        assert_eq!(start("now"), Start { at: utc("2026-07-01T12:00:00Z"), clamped: false });
        assert_eq!(start("now-24h"), Start { at: utc("2026-06-30T12:00:00Z"), clamped: false });
        assert_eq!(start("2026-01-01T00:00:00.999Z"), Start { at: utc("2026-01-01T00:00:00Z"), clamped: false });
        assert_eq!(start("2030-01-01T00:00:00Z"), Start { at: utc("2030-01-01T00:00:00Z"), clamped: false });
        assert_eq!(start("now-730d"), Start { at: utc("2024-07-01T12:00:00Z"), clamped: false });
        assert_eq!(start("now-731d"), Start { at: utc("2024-07-01T12:00:00Z"), clamped: true });
        assert_eq!(start("1999-01-01T00:00:00Z"), Start { at: utc("2024-07-01T12:00:00Z"), clamped: true });
    }

    proptest! {
        #[test]
        fn a_start_is_whole_and_never_out_of_the_apis_reach(now in 0i64..4_000_000_000_000, ago_ms in 0u64..u64::MAX) {
            let now = UtcMillis::new(now);
            let start = StartFrom::Ago(Duration::from_millis(ago_ms)).resolve(now);
            prop_assert_eq!(start.at, start.at.floor_second());
            prop_assert!(start.at >= now.minus(HISTORY_MAX).floor_second());
            prop_assert_eq!(start.clamped, Duration::from_millis(ago_ms) > HISTORY_MAX);
        }
    }
}
