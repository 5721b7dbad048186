//! From a window on the UTC time line to the query's bounds: wall-clock texts in the source's time zone.
//!
//! The API takes `YYYY-MM-DD HH:MM:SS` in a named zone and documents neither whether its bounds are
//! inclusive nor how it reads a local time that occurs twice. So the query always asks for more than
//! the window: a second at each end, and where a bound falls into a repeated hour, up to that hour's
//! edge. Rows are then classed by their UTC milliseconds, never by the query's bounds.

use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta, TimeZone};
use chrono_tz::Tz;

use super::time::{UtcMillis, Window};

/// By how much a query reaches beyond its window at each end.
const WIDENED_BY: Duration = Duration::from_secs(1);

/// How the API writes a query bound.
const FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// The two bounds of a query as the API takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryBounds {
    /// `startTime`
    pub start: String,
    /// `endTime`
    pub end: String,
    /// The span of time that they mean: the window and the margins around it, whose rows are the
    /// neighbouring windows'.
    pub asked: Window,
}

/// The bounds whose answer holds every leg of `window`, whichever way the API treats its bounds.
///
/// `window` is expected on whole seconds; `None` when it lies outside the calendar.
pub fn query_bounds(window: Window, zone: Tz) -> Option<QueryBounds> {
    let start = local(window.start.minus(WIDENED_BY), zone)?;
    let end = local(window.end.plus(WIDENED_BY), zone)?;
    let start = leave_repeated_hour(start, zone, TimeDelta::seconds(-1));
    let end = leave_repeated_hour(end, zone, TimeDelta::seconds(1));
    // Each has one meaning now. The last second is asked for as a whole.
    let asked_from = zone.from_local_datetime(&start).single()?.to_utc();
    let asked_to = zone.from_local_datetime(&end).single()?.to_utc();
    Some(QueryBounds {
        start: start.format(FORMAT).to_string(),
        end: end.format(FORMAT).to_string(),
        asked: Window::new(asked_from.into(), UtcMillis::from(asked_to).plus(Duration::from_secs(1))),
    })
}

fn local(instant: UtcMillis, zone: Tz) -> Option<NaiveDateTime> {
    let utc = instant.floor_second().to_datetime()?.naive_utc();
    Some(zone.from_utc_datetime(&utc).naive_local())
}

/// The nearest wall-clock time in the direction of `step` that has one meaning only.
///
/// ```text
///   wall clock   00:59:59 │ 01:00 ── occurs twice ── 01:59:59 │ 02:00:00
///                start ◀──┘           (a bound in here)       └──▶ end
/// ```
fn leave_repeated_hour(mut local: NaiveDateTime, zone: Tz, step: TimeDelta) -> NaiveDateTime {
    while zone.from_local_datetime(&local).single().is_none() {
        local += step;
    }
    local
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> UtcMillis {
        chrono::DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
    }

    fn bounds(start: &str, end: &str, zone: &str) -> (String, String) {
        let found = query_bounds(Window::new(utc(start), utc(end)), zone.parse().unwrap()).unwrap();
        (found.start, found.end)
    }

    fn texts(start: &str, end: &str) -> (String, String) {
        (start.to_owned(), end.to_owned())
    }

    #[test]
    fn a_plain_window_is_widened_by_a_second_at_each_end() {
        assert_eq!(
            bounds("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "UTC"),
            texts("2026-03-01 09:59:59", "2026-03-01 11:00:01")
        );
        assert_eq!(
            bounds("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "America/New_York"),
            texts("2026-03-01 04:59:59", "2026-03-01 06:00:01")
        );
    }

    #[test]
    fn a_bound_inside_a_repeated_hour_moves_outwards() {
        // New York's clocks go back from 02:00 EDT to 01:00 EST at 06:00 UTC on 2026-11-01.
        let expected = texts("2026-11-01 00:59:59", "2026-11-01 02:00:00");
        assert_eq!(bounds("2026-11-01T05:20:00Z", "2026-11-01T05:40:00Z", "America/New_York"), expected);
        assert_eq!(bounds("2026-11-01T06:20:00Z", "2026-11-01T06:40:00Z", "America/New_York"), expected);
        // Lord Howe Island repeats half an hour only: 02:00 +11 to 01:30 +10:30 at 15:00 UTC.
        assert_eq!(
            bounds("2026-04-04T14:40:00Z", "2026-04-04T15:10:00Z", "Australia/Lord_Howe"),
            texts("2026-04-05 01:29:59", "2026-04-05 02:00:00")
        );
    }

    proptest! {
        /// Whichever reading of a repeated local time the API takes, the query spans the window.
        #[test]
        fn every_instant_of_the_window_lies_between_the_bounds_in_every_reading(
            zone in prop::sample::select(vec![
                "UTC", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "America/St_Johns",
            ]),
            start_s in 1_300_000_000i64..1_900_000_000,
            // Half of the cases start within two hours of a change of New York's, London's or Lord Howe's clocks.
            near in prop::option::of((prop::sample::select(vec![1_793_512_800i64, 1_792_893_600, 1_775_314_800, 1_772_953_200, 1_325_239_200]), -7_200i64..7_200)),
            length_s in 1i64..200_000,
        ) {
            let zone: Tz = zone.parse().unwrap();
            let start_s = near.map_or(start_s, |(change, by)| change + by);
            let window = Window::new(UtcMillis::new(start_s * 1000), UtcMillis::new((start_s + length_s) * 1000));
            let found = query_bounds(window, zone).unwrap();
            let readings = |text: &str| {
                let local = NaiveDateTime::parse_from_str(text, FORMAT).unwrap();
                let read = zone.from_local_datetime(&local);
                [read.earliest(), read.latest()].map(|time| time.expect("a bound is never a skipped time").timestamp_millis())
            };
            for start in readings(&found.start) {
                prop_assert!(start < window.start.as_millis());
            }
            for end in readings(&found.end) {
                prop_assert!(end > window.end.as_millis());
            }
            prop_assert!(found.asked.start < window.start && window.end < found.asked.end);
            prop_assert_eq!(readings(&found.start)[0], found.asked.start.as_millis());
            prop_assert_eq!(readings(&found.end)[1] + 1_000, found.asked.end.as_millis());
        }
    }
}
