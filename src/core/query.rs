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
/// `None` when the window lies outside the calendar.
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
    use std::collections::BTreeSet;

    use chrono::{DateTime, Offset};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::super::planner::{Cycle, bound, sweep_pieces};
    use super::super::watermark::{Delays, Progress};
    use super::super::window_length::WindowLength;
    use super::*;

    fn utc(text: &str) -> UtcMillis {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
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

    #[test]
    fn a_skipped_day_lies_between_the_bounds() {
        // Apia went from the end of 29 December 2011 straight to the 31st, at 10:00 UTC on the 30th.
        assert_eq!(
            bounds("2011-12-30T09:00:00Z", "2011-12-30T11:00:00Z", "Pacific/Apia"),
            texts("2011-12-29 22:59:59", "2011-12-31 01:00:01")
        );
        assert_eq!(
            bounds("2011-12-30T10:00:00Z", "2011-12-30T10:00:01Z", "Pacific/Apia"),
            texts("2011-12-29 23:59:59", "2011-12-31 00:00:02")
        );
    }

    const SECOND_MS: i64 = 1_000;
    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 24 * HOUR_MS;

    /// Two changes a year, half an hour's among them, a skipped day, a change at a minute past midnight; none at all.
    const ZONES: [Tz; 7] = [
        Tz::America__New_York,
        Tz::Europe__London,
        Tz::Australia__Lord_Howe,
        Tz::Pacific__Apia,
        Tz::America__St_Johns,
        Tz::Asia__Kathmandu,
        Tz::UTC,
    ];

    /// How far a zone's clocks are ahead of UTC, in milliseconds.
    fn offset_ms(zone: Tz, at: i64) -> i64 {
        let utc = DateTime::from_timestamp_millis(at).unwrap().naive_utc();
        i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()) * SECOND_MS
    }

    /// When a zone's clocks change, from 2009 to 2032; of a zone whose clocks do not, some instant.
    fn changes(zone: Tz) -> Vec<i64> {
        let (from, to) = (utc("2009-01-01T00:00:00Z").as_millis(), utc("2033-01-01T00:00:00Z").as_millis());
        let days = (from..to).step_by(DAY_MS as usize);
        let change_within = |day: i64| {
            let (mut before, mut after) = (day, day + DAY_MS);
            if offset_ms(zone, before) == offset_ms(zone, after) {
                return None;
            }
            while after - before > 1 {
                let middle = i64::midpoint(before, after);
                *(if offset_ms(zone, middle) == offset_ms(zone, day) { &mut before } else { &mut after }) = middle;
            }
            Some(after)
        };
        let found: Vec<i64> = days.filter_map(change_within).collect();
        if found.is_empty() { vec![from] } else { found }
    }

    /// A zone and one of its changes.
    fn change() -> impl Strategy<Value = (Tz, i64)> {
        let all: Vec<(Tz, Vec<i64>)> = ZONES.map(|zone| (zone, changes(zone))).into();
        (select(all), any::<Index>()).prop_map(|((zone, changes), index)| (zone, *index.get(&changes)))
    }

    #[test]
    fn the_changes_are_those_that_the_newspapers_announced() {
        let has = |zone, text: &str| changes(zone).contains(&utc(text).as_millis());
        assert!(
            has(Tz::America__New_York, "2026-11-01T06:00:00Z") && has(Tz::America__New_York, "2026-03-08T07:00:00Z")
        );
        assert!(has(Tz::Europe__London, "2026-10-25T01:00:00Z") && has(Tz::Europe__London, "2026-03-29T01:00:00Z"));
        assert!(has(Tz::Australia__Lord_Howe, "2026-04-04T15:00:00Z"));
        assert!(has(Tz::Pacific__Apia, "2011-12-30T10:00:00Z") && has(Tz::Pacific__Apia, "2012-03-31T14:00:00Z"));
        assert_eq!(changes(Tz::America__New_York).len(), 48);
    }

    /// Of two instants that a wall-clock time could mean, the one that the API takes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Taken {
        Earlier,
        Later,
        /// None: the request is refused.
        Neither,
    }

    /// How the API reads a query: everything that the vendor leaves open.
    #[derive(Clone, Copy, Debug)]
    struct Reading {
        /// Of a time that occurs twice.
        repeated: Taken,
        /// Of a time that never occurs: the clocks not yet set forward, or already.
        skipped: Taken,
        is_start_inside: bool,
        is_end_inside: bool,
        /// Whether a leg's milliseconds are cut before it is compared.
        are_millis_cut: bool,
    }

    impl Reading {
        fn all() -> Vec<Self> {
            let mut all = Vec::new();
            for repeated in [Taken::Earlier, Taken::Later] {
                for skipped in [Taken::Earlier, Taken::Later, Taken::Neither] {
                    for flags in 0..8 {
                        let [is_start_inside, is_end_inside, are_millis_cut] = [1, 2, 4].map(|bit| flags & bit != 0);
                        all.push(Self { repeated, skipped, is_start_inside, is_end_inside, are_millis_cut });
                    }
                }
            }
            all
        }

        /// The instant that a bound means, in milliseconds; found by trying the offsets around it, and not as the
        /// query's bounds were made.
        fn instant(self, text: &str, zone: Tz) -> Option<i64> {
            let wall = NaiveDateTime::parse_from_str(text, FORMAT).unwrap().and_utc().timestamp_millis();
            // The farthest zone is 14 hours away, so a change that matters to this time lies in between.
            let around = [wall - 26 * HOUR_MS, wall + 26 * HOUR_MS].map(|at| wall - offset_ms(zone, at));
            let valid: BTreeSet<i64> = around.into_iter().filter(|at| at + offset_ms(zone, *at) == wall).collect();
            let (taken, of) = match valid.len() {
                0 => (self.skipped, around.into()),
                _ => (self.repeated, valid),
            };
            match taken {
                Taken::Earlier => of.first().copied(),
                Taken::Later => of.last().copied(),
                Taken::Neither => None,
            }
        }

        /// The first and the last millisecond of legs that the API finds by a query; `None` when it refuses.
        fn answered(self, query: &QueryBounds, zone: Tz) -> Option<(i64, i64)> {
            let (start, end) = (self.instant(&query.start, zone)?, self.instant(&query.end, zone)?);
            let unit = if self.are_millis_cut { SECOND_MS } else { 1 };
            let first = if self.is_start_inside { start } else { start + unit };
            let after_last = if self.is_end_inside { end + unit } else { end };
            (start <= end).then_some((first, after_last - 1))
        }
    }

    /// Whatever way the API reads the query, its answer spans the window, and the query says what it means.
    fn assert_spans(window: Window, zone: Tz) -> Result<(), TestCaseError> {
        let query = query_bounds(window, zone).unwrap();
        for reading in Reading::all() {
            let Some((first, last)) = reading.answered(&query, zone) else {
                return Err(TestCaseError::fail(format!("{reading:?} refuses {query:?} for {window} in {zone}")));
            };
            let (from, to) = (window.start.as_millis(), window.end.as_millis() - 1);
            prop_assert!(first <= from && to <= last, "{reading:?} of {query:?} misses a part of {window} in {zone}");
            let (asked_from, asked_to) = (query.asked.start.as_millis(), query.asked.end.as_millis());
            prop_assert!(asked_from <= first && last < asked_to, "{reading:?} of {query:?} finds more than was asked");
        }
        Ok(())
    }

    const DELAYS: Delays = Delays {
        settle: Duration::from_millis(1_500),
        overlap: Duration::from_secs(1_800),
        horizon: Duration::from_secs(30 * 86_400),
    };

    /// A leg is found by a query where it lies inside the query's window and in the API's answer.
    fn note_found(legs: &[i64], window: Window, reading: Reading, zone: Tz, found: &mut BTreeSet<i64>) {
        let query = query_bounds(window, zone).unwrap();
        let Some((first, last)) = reading.answered(&query, zone) else { return };
        let is_found = |leg: &&i64| (first..=last).contains(*leg) && window.contains(UtcMillis::new(**leg));
        found.extend(legs.iter().filter(is_found));
    }

    proptest! {
        #[test]
        fn every_instant_of_a_window_is_inside_what_the_api_understands(
            (zone, change) in change(),
            // Half of the windows start within three hours of the change.
            by_ms in prop_oneof![-3 * HOUR_MS..3 * HOUR_MS, -3 * DAY_MS..3 * DAY_MS],
            length_ms in prop_oneof![1..2 * HOUR_MS, 1..3 * DAY_MS],
        ) {
            let start = change + by_ms;
            assert_spans(Window::new(UtcMillis::new(start), UtcMillis::new(start + length_ms)), zone)?;
        }

        #[test]
        fn windows_that_meet_at_a_change_or_at_an_edge_of_its_hour_are_spanned(
            (zone, change) in change(),
            halves in -4i64..=4,
            by_ms in prop_oneof![Just(0), -2 * SECOND_MS..=2 * SECOND_MS],
            length_ms in prop_oneof![Just(1), Just(SECOND_MS), Just(HOUR_MS / 2), Just(HOUR_MS), Just(DAY_MS)],
        ) {
            let edge = change + halves * HOUR_MS / 2 + by_ms;
            assert_spans(Window::new(UtcMillis::new(edge - length_ms), UtcMillis::new(edge)), zone)?;
            assert_spans(Window::new(UtcMillis::new(edge), UtcMillis::new(edge + length_ms)), zone)?;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The chain of windows that polls and sweeps make of a unit's progress has no gap at a change.
        #[test]
        fn polls_and_sweeps_across_a_change_find_every_leg(
            (zone, change) in change(),
            reading in select(Reading::all()),
            before_ms in 1..3 * DAY_MS,
            legs_ms in prop::collection::vec(prop_oneof![-2 * HOUR_MS..2 * HOUR_MS, -3 * DAY_MS..3 * DAY_MS], 1..200),
            polls_ms in prop::collection::vec(prop_oneof![1..HOUR_MS, 1..DAY_MS], 1..25),
            window_max_s in prop_oneof![600u64..7_200, 600u64..200_000],
        ) {
            let window_max = Duration::from_secs(window_max_s);
            let start = UtcMillis::new(change - before_ms);
            let legs: Vec<i64> = legs_ms.iter().map(|by| change + by).collect();
            let mut progress = Progress::starting_at(start, &DELAYS);
            let (mut by_polls, mut by_sweep) = (BTreeSet::new(), BTreeSet::new());
            let mut now = start;
            for pause_ms in polls_ms {
                now = now.plus(Duration::from_millis(pause_ms as u64));
                for piece in Cycle::behind(progress.marks(), bound(now), &DELAYS, WindowLength::new(window_max)) {
                    note_found(&legs, piece.window, reading, zone, &mut by_polls);
                    progress.advance(piece.window, now.floor_second(), &DELAYS);
                }
            }
            for piece in sweep_pieces(&progress, DELAYS.horizon, window_max) {
                note_found(&legs, piece.window, reading, zone, &mut by_sweep);
            }
            for leg in legs {
                let at = UtcMillis::new(leg);
                let (is_complete, is_final) =
                    (start <= at && at < progress.complete_to, start <= at && at < progress.final_to);
                prop_assert!(!is_complete || by_polls.contains(&leg), "polls miss {at} in {zone}");
                prop_assert!(!is_final || by_sweep.contains(&leg), "a sweep misses {at} in {zone}");
            }
        }
    }
}
