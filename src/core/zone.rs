//! A row's zoned texts, held against our own idea of the time zone.
//!
//! A row names an instant twice: in milliseconds, and as what the clocks of the query's zone showed.
//!
//! ```text
//!   disconnectedTimeUTC   1643898472253
//!   disconnectedTime      "2022-02-03T09:27:52.253-0500"     asked for in America/New_York
//! ```
//!
//! Where our zone database has another offset, or where the two instants are as far apart as two zones can be, the
//! API may have read the query's bounds, which are wall-clock times too, otherwise than they were meant: such a row
//! contradicts our idea of the zone. One row may be a slip of the API, so a window contradicts only if more than a
//! tenth of its rows do. A text that is another instant by anything else is a slip, and says nothing of the zone.
//!
//! The milliseconds are what counts for the leg, whatever its text says. What is not in this form says nothing: the
//! vendor promises none.

use std::fmt;
use std::ops::Range;

use chrono::{NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;

use super::leg::{FIELDS, Leg, Value};
use super::time::UtcMillis;

/// From how far apart text and milliseconds are different instants: a text may be rounded to seconds.
const APART_MS: i64 = 1_000;

/// Zones differ by whole quarters of an hour, and by 26 hours at the most.
const QUARTER_MS: i64 = 15 * 60 * 1_000;
const QUARTERS_MAX: i64 = 26 * 4;

/// How long a text is.
const LENGTH: usize = "2022-02-03T09:27:52.253-0500".len();

/// What stands between its numbers, and where.
const MARKS: [(usize, u8); 6] = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.')];

/// A text that the API cannot have written with our idea of the zone; of the row it holds no more than
/// the offset and by how much the instants differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Where the instant is in [`FIELDS`]; its text comes next.
    pub(super) position: usize,
    /// The zone that was asked for.
    pub(super) zone: Tz,
    /// The text's offset from UTC, in seconds.
    pub(super) written_s: i32,
    /// That of the zone at the instant.
    pub(super) expected_s: i32,
    /// The text's instant minus the milliseconds'.
    pub(super) apart_ms: i64,
}

/// What a row's texts say of our idea of the zone, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Texts {
    /// There is none in the known form.
    Silent,
    /// They are the milliseconds' instants, with the zone's offset.
    Agree,
    /// One is another instant, by a difference that no two zones have.
    Slip,
    /// One cannot have been written with our idea of the zone.
    Contradict,
}

/// What the text beside the instant at `position` says of `zone`, and how it contradicts that, if it does.
///
/// It is asked of every row that is read, and allocates nothing.
pub fn judge(leg: &Leg<'_>, position: usize, zone: Tz) -> (Texts, Option<Contradiction>) {
    let silent = (Texts::Silent, None);
    let (Some(Value::Integer(millis)), Some(Value::Text(text))) =
        (leg.values.get(position), leg.values.get(position + 1))
    else {
        return silent;
    };
    let Some(written) = Written::parse(text) else { return silent };
    // An instant of 0 has not come.
    let Some(instant) = UtcMillis::new(*millis).to_datetime().filter(|_| *millis > 0) else { return silent };
    let expected_s = zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc();
    let apart_ms = written.millis - millis;
    if written.offset_s != expected_s || is_between_zones(apart_ms) {
        let contradiction = Contradiction { position, zone, written_s: written.offset_s, expected_s, apart_ms };
        return (Texts::Contradict, Some(contradiction));
    }
    (if apart_ms.abs() < APART_MS { Texts::Agree } else { Texts::Slip }, None)
}

/// Whether two instants are as far apart as the same clock time in two zones can be.
fn is_between_zones(apart_ms: i64) -> bool {
    let quarters = (apart_ms.abs() + QUARTER_MS / 2) / QUARTER_MS;
    (1..=QUARTERS_MAX).contains(&quarters) && (apart_ms.abs() - quarters * QUARTER_MS).abs() < APART_MS
}

/// What the rows of a window say of our idea of the zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneTally {
    /// Rows with a text in the known form.
    readable: u64,
    /// Those of them that contradict.
    contradicting: u64,
    /// How the first of these does.
    first: Option<Contradiction>,
}

impl ZoneTally {
    /// Counts a row; where it contradicts, `contradiction` says how.
    pub fn note(&mut self, texts: Texts, contradiction: impl FnOnce() -> Option<Contradiction>) {
        self.readable += u64::from(texts != Texts::Silent);
        if texts == Texts::Contradict {
            self.contradicting += 1;
            self.first = self.first.or_else(contradiction);
        }
    }

    /// Adds what was counted of more rows.
    pub fn add(&mut self, other: Self) {
        self.readable += other.readable;
        self.contradicting += other.contradicting;
        self.first = self.first.or(other.first);
    }

    /// How the window contradicts our idea of the zone: if more than a tenth of its rows do that could.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.first.filter(|_| self.contradicting.saturating_mul(10) > self.readable)
    }
}

impl Contradiction {
    /// What an operator can do.
    pub fn advice(&self) -> &'static str {
        if self.zone == Tz::UTC {
            "set source.time_zone to the zone that the API writes, or ask 8x8"
        } else {
            "set source.time_zone = \"UTC\", or install a call-legs with newer time zone rules"
        }
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (zone, apart_s) = (self.zone, self.apart_ms / 1_000);
        let [instant, text] =
            [self.position, self.position + 1].map(|at| FIELDS.get(at).map_or("", |field| field.name));
        if self.written_s == self.expected_s {
            let side = if apart_s < 0 { "before" } else { "after" };
            return write!(f, "{text} is {} s {side} {instant}", apart_s.abs());
        }
        let [written, expected] = [self.written_s, self.expected_s].map(Shown);
        write!(f, "{text} has the offset {written} where {zone} has {expected}")
    }
}

/// An offset in seconds as the texts have it.
struct Shown(i32);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minutes) = (if self.0 < 0 { '-' } else { '+' }, self.0.abs() / 60);
        write!(f, "{sign}{:02}{:02}", minutes / 60, minutes % 60)
    }
}

/// What a text says.
struct Written {
    /// The instant, in epoch milliseconds, by the text's own offset.
    millis: i64,
    offset_s: i32,
}

impl Written {
    /// Reads a text of exactly the one form, digit by digit: chrono's parser takes several times as long.
    fn parse(text: &str) -> Option<Self> {
        let bytes: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
        if MARKS.iter().any(|(at, mark)| bytes[*at] != *mark) {
            return None;
        }
        let number = |digits: Range<usize>| {
            bytes[digits]
                .iter()
                .try_fold(0, |number: u32, digit| digit.is_ascii_digit().then(|| 10 * number + u32::from(digit - b'0')))
        };
        let year = i32::try_from(number(0..4)?).ok()?;
        let date = NaiveDate::from_ymd_opt(year, number(5..7)?, number(8..10)?)?;
        let local = date.and_hms_milli_opt(number(11..13)?, number(14..16)?, number(17..19)?, number(20..23)?)?;
        let (hours, minutes) = (number(24..26)?, number(26..28)?);
        let sign = match bytes[23] {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        if hours > 23 || minutes > 59 {
            return None;
        }
        let offset_s = sign * i32::try_from(3_600 * hours + 60 * minutes).ok()?;
        Some(Self { millis: local.and_utc().timestamp_millis() - i64::from(offset_s) * 1_000, offset_s })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use chrono::{DateTime, TimeDelta};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::leg::{FIELD_COUNT, position};
    use super::*;

    const FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.3f%z";

    const ZONES: [Tz; 6] = [
        Tz::UTC,
        Tz::America__New_York,
        Tz::Europe__London,
        Tz::Australia__Lord_Howe,
        Tz::Pacific__Apia,
        Tz::Asia__Kathmandu,
    ];

    fn leg(at: usize, millis: i64, text: &str) -> Leg<'_> {
        let mut values = [const { Value::Null }; FIELD_COUNT];
        values[at] = Value::Integer(millis);
        values[at + 1] = Value::Text(Cow::Borrowed(text));
        Leg { values, extra: Vec::new(), disconnected: UtcMillis::new(millis) }
    }

    fn said(millis: i64, text: &str, zone: Tz) -> Option<String> {
        let (texts, found) = judge(&leg(position::DISCONNECTED_TIME, millis, text), position::DISCONNECTED_TIME, zone);
        assert_eq!(texts == Texts::Contradict, found.is_some());
        found.map(|contradiction| contradiction.to_string())
    }

    fn texts(millis: i64, text: &str, zone: Tz) -> Texts {
        judge(&leg(position::DISCONNECTED_TIME, millis, text), position::DISCONNECTED_TIME, zone).0
    }

    fn written(millis: i64, zone: Tz) -> String {
        DateTime::from_timestamp_millis(millis).unwrap().with_timezone(&zone).format(FORMAT).to_string()
    }

    #[test]
    fn the_vendors_sample_agrees_with_new_york_only() {
        let (millis, text) = (1_643_898_472_253, "2022-02-03T09:27:52.253-0500");
        assert_eq!(said(millis, text, Tz::America__New_York), None);
        assert_eq!(said(millis, text, Tz::UTC).unwrap(), "disconnectedTime has the offset -0500 where UTC has +0000");
        assert_eq!(
            said(millis, text, Tz::Asia__Kathmandu).unwrap(),
            "disconnectedTime has the offset -0500 where Asia/Kathmandu has +0545"
        );
        assert_eq!(
            said(millis + 3_600_000, text, Tz::America__New_York).unwrap(),
            "disconnectedTime is 3600 s before disconnectedTimeUTC"
        );
        let connected = leg(position::CONNECT_TIME, millis, "2022-02-03T10:27:52.253-0500");
        assert_eq!(
            judge(&connected, position::CONNECT_TIME, Tz::America__New_York).1.unwrap().to_string(),
            "connectTime is 3600 s after connectTimeUTC"
        );
    }

    #[test]
    fn what_is_in_no_known_form_says_nothing() {
        for text in [
            "",
            "0",
            "2022-02-03T09:27:52.253Z",
            "2022-02-03T09:27:52.253-05:00",
            "2022-02-03 09:27:52.253-0500",
            "2022-02-03T09:27:52-0500",
            "2022-02-30T09:27:52.253-0500",
            "2022-02-03T24:27:52.253-0500",
            "2022-02-03T09:27:60.253-0500",
            "2022-02-03T09:27:52.253-2400",
            "2022-02-03T09:27:52.253-0560",
            "2022-02-03T09:27:52.253 0500",
            "2022-02-03T09:27:5\u{e9}.253-0500",
            "+022-02-03T09:27:52.253-0500",
        ] {
            assert_eq!(texts(1_643_898_472_253, text, Tz::UTC), Texts::Silent, "{text}");
        }
        let text = "2022-02-03T09:27:52.253-0500";
        assert_eq!(texts(0, text, Tz::UTC), Texts::Silent, "an instant that has not come");
        assert_eq!(texts(i64::MAX, text, Tz::UTC), Texts::Silent);
        let mut without = leg(position::DISCONNECTED_TIME, 1_643_898_472_253, text);
        without.values[position::DISCONNECTED_TIME + 1] = Value::Null;
        assert_eq!(judge(&without, position::DISCONNECTED_TIME, Tz::UTC), (Texts::Silent, None));
    }

    #[test]
    fn a_text_rounded_to_seconds_agrees() {
        assert_eq!(texts(1_643_898_472_253, "2022-02-03T14:27:52.000+0000", Tz::UTC), Texts::Agree);
        assert_eq!(texts(1_643_898_472_999, "2022-02-03T14:27:53.000+0000", Tz::UTC), Texts::Agree);
        assert_eq!(texts(1_643_898_472_999, "2022-02-03T15:27:52.000+0000", Tz::UTC), Texts::Contradict, "an hour");
        assert_eq!(texts(1_643_898_472_000, "2022-02-03T14:27:53.000+0000", Tz::UTC), Texts::Slip);
    }

    #[test]
    fn a_window_contradicts_if_more_than_a_tenth_of_its_readable_rows_do() {
        let (_, found) = judge(
            &leg(position::DISCONNECTED_TIME, 1_643_898_472_253, "2022-02-03T09:27:52.253-0500"),
            position::DISCONNECTED_TIME,
            Tz::UTC,
        );
        let tally = |rows: &[(Texts, u64)]| {
            let mut whole = ZoneTally::default();
            for (texts, count) in rows {
                let mut part = ZoneTally::default();
                (0..*count).for_each(|_| part.note(*texts, || found));
                whole.add(part);
            }
            whole.contradiction().is_some()
        };
        for (rows, contradicts) in [
            (&[][..], false),
            (&[(Texts::Agree, 300), (Texts::Slip, 1)], false),
            (&[(Texts::Slip, 300)], false),
            (&[(Texts::Silent, 300)], false),
            (&[(Texts::Contradict, 1)], true),
            (&[(Texts::Silent, 300), (Texts::Contradict, 1)], true),
            (&[(Texts::Agree, 8), (Texts::Contradict, 1)], true),
            (&[(Texts::Agree, 9), (Texts::Contradict, 1)], false),
            (&[(Texts::Agree, 4), (Texts::Slip, 5), (Texts::Contradict, 1)], false),
            (&[(Texts::Contradict, 31), (Texts::Agree, 270)], true),
            (&[(Texts::Contradict, 30), (Texts::Agree, 270)], false),
        ] {
            assert_eq!(tally(rows), contradicts, "{rows:?}");
        }
    }

    proptest! {
        #[test]
        fn what_our_own_zone_database_writes_is_never_contradicted(
            zone in select(ZONES.to_vec()),
            // Half of the instants are within about a day of 2026-10-25T01:00Z, when London's clocks are set back.
            millis in prop_oneof![1i64..4_000_000_000_000, 1_792_800_000_000i64..1_793_000_000_000],
        ) {
            prop_assert_eq!(texts(millis, &written(millis, zone), zone), Texts::Agree);
        }

        /// By whole quarters of an hour two zones may differ, by anything else only clocks and slips.
        #[test]
        fn a_text_of_another_instant_speaks_of_the_zone_by_whole_quarters_only(
            zone in select(ZONES.to_vec()),
            millis in 1_000_000_000_000i64..4_000_000_000_000,
            (quarters, off_ms) in prop_oneof![
                (-150i64..=150, -999i64..=999),
                (-150i64..=150, 1_000i64..=899_000),
                (Just(0i64), -60_000i64..=60_000),
                (-100_000i64..=100_000, -999i64..=999),
            ],
        ) {
            let apart_ms = quarters * 900_000 + off_ms;
            let instant = DateTime::from_timestamp_millis(millis).unwrap();
            let local = instant.with_timezone(&zone).fixed_offset() + TimeDelta::milliseconds(apart_ms);
            let expected = if off_ms.abs() >= 1_000 {
                Texts::Slip
            } else if quarters == 0 {
                Texts::Agree
            } else if quarters.abs() <= 104 {
                Texts::Contradict
            } else {
                Texts::Slip
            };
            prop_assert_eq!(texts(millis, &local.format(FORMAT).to_string(), zone), expected, "{}", apart_ms);
        }

        #[test]
        fn another_offset_is_contradicted_and_so_is_another_instant(
            zone in select(ZONES.to_vec()),
            // Since 1972 no zone's offset has seconds.
            millis in 63_072_000_000i64..4_000_000_000_000,
            by_minutes in prop_oneof![-720i64..0, 1i64..720],
        ) {
            let instant = DateTime::from_timestamp_millis(millis).unwrap();
            let local = instant.with_timezone(&zone);
            let other_s = local.offset().fix().local_minus_utc() + 60 * by_minutes as i32;
            if let Some(other) = chrono::FixedOffset::east_opt(other_s) {
                let same_instant = instant.with_timezone(&other).format(FORMAT).to_string();
                prop_assert!(said(millis, &same_instant, zone).unwrap().contains("has the offset"));
            }
            let by_quarters = if by_minutes.abs() < 15 { by_minutes.signum() } else { by_minutes / 15 };
            let moved = (local.fixed_offset() + TimeDelta::minutes(15 * by_quarters)).format(FORMAT).to_string();
            let expected = format!("{} s {}", 900 * by_quarters.abs(), if by_minutes < 0 { "before" } else { "after" });
            prop_assert!(said(millis, &moved, zone).unwrap().contains(&expected));
        }

        /// What chrono reads otherwise, or not at all, is in another form.
        #[test]
        fn a_text_is_read_as_chrono_reads_it(
            date in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]",
            time in "[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{3}[+-][0-2][0-9][0-6][0-9]",
        ) {
            let text = format!("{date}T{time}");
            let ours = Written::parse(&text).map(|written| (written.millis, written.offset_s));
            let theirs = DateTime::parse_from_str(&text, FORMAT).ok();
            let theirs = theirs.map(|read| (read.timestamp_millis(), read.offset().local_minus_utc()));
            // chrono knows leap seconds.
            prop_assert!(ours == theirs || text[17..19] == *"60", "{ours:?} {theirs:?}");
        }

        #[test]
        fn no_text_is_too_odd_to_be_read(text in ".{0,40}", millis in any::<i64>(), zone in select(ZONES.to_vec())) {
            let _ = said(millis, &text, zone);
        }
    }
}
