//! A row's zoned texts, held against our own idea of the time zone.
//!
//! A row names an instant twice: in milliseconds, and as what the clocks of the query's zone showed.
//!
//! ```text
//!   disconnectedTimeUTC   1643898472253
//!   disconnectedTime      "2022-02-03T09:27:52.253-0500"     asked for in America/New_York
//! ```
//!
//! Where the two are different instants, or where our zone database has another offset, the API may
//! have read the query's bounds, which are wall-clock times too, otherwise than they were meant. The
//! milliseconds are what counts for the leg, whatever its text says. What is not in this form
//! contradicts nothing: the vendor promises none.

use std::fmt;
use std::ops::Range;

use chrono::{NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;

use super::leg::{FIELDS, Leg, Value};
use super::time::UtcMillis;

/// From how far apart text and milliseconds are different instants: a text that is rounded to seconds
/// says nothing about a zone.
const APART_MS: i64 = 1_000;

/// How long a text is.
const LENGTH: usize = "2022-02-03T09:27:52.253-0500".len();

/// What stands between its numbers, and where.
const MARKS: [(usize, u8); 6] = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.')];

/// A text that the API cannot have written with our idea of the zone; of the row it holds no more than
/// the offset and by how much the instants differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Where the instant is in [`FIELDS`]; its text comes next.
    position: usize,
    /// The zone that was asked for.
    zone: Tz,
    /// The text's offset from UTC, in seconds.
    written_s: i32,
    /// That of the zone at the instant.
    expected_s: i32,
    /// The text's instant minus the milliseconds'.
    apart_ms: i64,
}

/// Whether the text beside the instant at `position` contradicts it, or our idea of `zone`.
///
/// It is asked of every row that is read, and allocates nothing.
pub fn contradiction(leg: &Leg<'_>, position: usize, zone: Tz) -> Option<Contradiction> {
    let (Value::Integer(millis), Value::Text(text)) = (leg.values.get(position)?, leg.values.get(position + 1)?) else {
        return None;
    };
    let written = Written::parse(text)?;
    // An instant of 0 has not come.
    let instant = UtcMillis::new(*millis).to_datetime().filter(|_| *millis > 0)?;
    let expected_s = zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc();
    let apart_ms = written.millis - millis;
    let is_agreed = written.offset_s == expected_s && apart_ms.abs() < APART_MS;
    (!is_agreed).then_some(Contradiction { position, zone, written_s: written.offset_s, expected_s, apart_ms })
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
        let found = contradiction(&leg(position::DISCONNECTED_TIME, millis, text), position::DISCONNECTED_TIME, zone);
        found.map(|contradiction| contradiction.to_string())
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
            contradiction(&connected, position::CONNECT_TIME, Tz::America__New_York).unwrap().to_string(),
            "connectTime is 3600 s after connectTimeUTC"
        );
    }

    #[test]
    fn what_is_in_no_known_form_contradicts_nothing() {
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
            assert_eq!(said(1_643_898_472_253, text, Tz::UTC), None, "{text}");
        }
        let text = "2022-02-03T09:27:52.253-0500";
        assert_eq!(said(0, text, Tz::UTC), None, "an instant that has not come");
        assert_eq!(said(i64::MAX, text, Tz::UTC), None);
        let mut without = leg(position::DISCONNECTED_TIME, 1_643_898_472_253, text);
        without.values[position::DISCONNECTED_TIME + 1] = Value::Null;
        assert_eq!(contradiction(&without, position::DISCONNECTED_TIME, Tz::UTC), None);
    }

    #[test]
    fn a_text_rounded_to_seconds_contradicts_nothing() {
        assert_eq!(said(1_643_898_472_253, "2022-02-03T14:27:52.000+0000", Tz::UTC), None);
        assert_eq!(said(1_643_898_472_999, "2022-02-03T14:27:53.000+0000", Tz::UTC), None);
        assert!(said(1_643_898_472_000, "2022-02-03T14:27:53.000+0000", Tz::UTC).is_some());
    }

    proptest! {
        #[test]
        fn what_our_own_zone_database_writes_is_never_contradicted(
            zone in select(ZONES.to_vec()),
            // Half of the instants are within about a day of 2026-10-25T01:00Z, when London's clocks are set back.
            millis in prop_oneof![1i64..4_000_000_000_000, 1_792_800_000_000i64..1_793_000_000_000],
        ) {
            prop_assert_eq!(said(millis, &written(millis, zone), zone), None);
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
            let moved = (local.fixed_offset() + TimeDelta::minutes(by_minutes)).format(FORMAT).to_string();
            let expected = format!("{} s {}", 60 * by_minutes.abs(), if by_minutes < 0 { "before" } else { "after" });
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
