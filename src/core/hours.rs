//! The hours: how many legs of each UTC hour of disconnect time the API showed, and how many were published.
//!
//! ```text
//!   page      ──▶ published, dead of its hours     summed up with the pages, and void with them
//!   sweep     ──▶ seen of each whole hour          beside what was published by then: a record of its own
//!                    └─ seen ≠ published: the hour is read once more, and then reported
//! ```
//!
//! They say nothing that the identities do not, but they say it in numbers that can be compared with the API, and
//! that no rule of dedupe has made. A page carries its own: a record beside it could be torn from it where a late
//! commit ends a part of a transaction. Kept from a unit's floor on: below it nothing is read again, and pages are
//! forgotten. A leg that another unit has published counts there.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Days, NaiveDate};
use serde::{Deserialize, Serialize};

use super::time::{UtcMillis, Window};

const HOUR_MS: i64 = 3_600_000;
const HOURS_A_DAY: i64 = 24;

/// An hour, by its number since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hour(i64);

impl Hour {
    /// By its number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The one that `at` is in.
    pub const fn of(at: UtcMillis) -> Self {
        Self(at.as_millis().div_euclid(HOUR_MS))
    }

    /// All its instants.
    pub const fn window(self) -> Window {
        let start = self.0.saturating_mul(HOUR_MS);
        Window::new(UtcMillis::new(start), UtcMillis::new(start.saturating_add(HOUR_MS)))
    }

    /// The day that it is in, and which hour of it.
    pub fn of_day(self) -> (Day, u8) {
        let hour = u8::try_from(self.0.rem_euclid(HOURS_A_DAY)).unwrap_or_default();
        (Day(i32::try_from(self.0.div_euclid(HOURS_A_DAY)).unwrap_or(i32::MAX)), hour)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.window().start.fmt(f)
    }
}

/// A UTC day, by its number since 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Day(pub i32);

impl Day {
    /// An hour of it, from 0 to 23.
    pub const fn hour(self, hour: u8) -> Hour {
        Hour(self.0 as i64 * HOURS_A_DAY + hour as i64)
    }

    /// The first instant after it.
    pub const fn end(self) -> UtcMillis {
        self.hour(23).window().end
    }

    fn date(self) -> Option<NaiveDate> {
        let epoch = DateTime::UNIX_EPOCH.date_naive();
        let days = Days::new(u64::from(self.0.unsigned_abs()));
        if self.0 < 0 { epoch.checked_sub_days(days) } else { epoch.checked_add_days(days) }
    }

    /// From its text.
    pub fn parse(text: &str) -> Option<Self> {
        let number = || text.parse().ok().map(Self).filter(|day| day.date().is_none());
        let date = || {
            let date: NaiveDate = text.parse().ok()?;
            let days = date.signed_duration_since(DateTime::UNIX_EPOCH.date_naive()).num_days();
            i32::try_from(days).ok().map(Self)
        };
        // One spelling each, since it is a part of keys.
        number().or_else(date).filter(|day| day.to_string() == text)
    }
}

/// The date, such as 2026-02-03; a number where the calendar has none.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.date() {
            Some(date) => date.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// Rows of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HourRows {
    /// Legs that were published.
    pub published: u64,
    /// Rows that were buried; one without a time of its own counts for the end of its window.
    pub dead: u64,
}

/// What a page adds to its hours: what no page before it had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageHours(pub BTreeMap<Hour, HourRows>);

impl PageHours {
    /// One leg more, or one dead row.
    pub fn note(&mut self, at: UtcMillis, is_dead: bool) {
        let rows = self.0.entry(Hour::of(at)).or_default();
        if is_dead {
            rows.dead += 1;
        } else {
            rows.published += 1;
        }
    }
}

/// An hour that was read as a whole, beside what was published of it by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Legs that the API showed.
    pub seen: u64,
    /// What was published and buried.
    pub rows: HourRows,
}

/// The hours of a day that were compared: a record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedDay {
    /// The unit.
    pub unit: String,
    /// The unit's generation then; a day of another one is void.
    pub generation: u32,
    /// The day.
    pub day: Day,
    /// By the hour of the day, from 0 to 23.
    pub hours: BTreeMap<u8, Compared>,
}

/// What is known of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HourCounts {
    /// What is in the topics.
    pub rows: HourRows,
    /// How it compared with the API, the last time.
    pub compared: Option<Compared>,
}

impl HourCounts {
    /// Whether the API shows what was published.
    pub fn agreement(self) -> Agreement {
        match self.compared {
            Some(compared) if compared.rows.published == self.rows.published => {
                match compared.seen.cmp(&self.rows.published) {
                    Ordering::Equal => Agreement::Same,
                    Ordering::Less => Agreement::Fewer,
                    Ordering::Greater => Agreement::More,
                }
            }
            // Or more was published since.
            _ => Agreement::NotCompared,
        }
    }
}

/// How what the API shows of an hour compares with what was published of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The hour was not yet read as a whole.
    NotCompared,
    /// It shows as many.
    Same,
    /// It shows fewer: they were deleted there, have moved to another hour, or are hidden.
    Fewer,
    /// It shows more, and all of them are known: they count for another hour, or the journal lacks something.
    More,
}

/// The hours of a unit from its floor on, as the journal's records add up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "PackedHours", from = "PackedHours")]
pub struct UnitHours {
    /// The unit's generation; what belongs to an older one is void.
    pub generation: u32,
    /// Those of which anything is known.
    pub hours: BTreeMap<Hour, HourCounts>,
}

/// As it is stored with every transaction, so without names: an hour, published, dead, and what was compared.
#[derive(Serialize, Deserialize)]
struct PackedHours(u32, Vec<PackedHour>);

type PackedHour = (Hour, u64, u64, Option<(u64, u64, u64)>);

impl From<UnitHours> for PackedHours {
    fn from(unit: UnitHours) -> Self {
        let hours = unit.hours.into_iter().map(|(hour, HourCounts { rows, compared })| {
            let compared = compared.map(|Compared { seen, rows }| (seen, rows.published, rows.dead));
            (hour, rows.published, rows.dead, compared)
        });
        Self(unit.generation, hours.collect())
    }
}

impl From<PackedHours> for UnitHours {
    fn from(PackedHours(generation, hours): PackedHours) -> Self {
        let hours = hours.into_iter().map(|(hour, published, dead, compared)| {
            let compared =
                compared.map(|(seen, published, dead)| Compared { seen, rows: HourRows { published, dead } });
            (hour, HourCounts { rows: HourRows { published, dead }, compared })
        });
        Self { generation, hours: hours.collect() }
    }
}

impl UnitHours {
    /// Takes in a page of `generation`.
    pub fn take_page(&mut self, generation: u32, page: &PageHours) {
        if self.is_of(generation) {
            for (hour, rows) in &page.0 {
                let known = &mut self.hours.entry(*hour).or_default().rows;
                known.published += rows.published;
                known.dead += rows.dead;
            }
        }
    }

    /// Takes in how a day's hours compared.
    pub fn take_day(&mut self, day: &ComparedDay) {
        if self.is_of(day.generation) {
            for (hour, compared) in &day.hours {
                self.hours.entry(day.day.hour(*hour)).or_default().compared = Some(*compared);
            }
        }
    }

    /// Forgets what is void, and the hours that end at or below the floor: nothing reads them again.
    pub fn forget(&mut self, generation: u32, floor: UtcMillis) {
        if self.is_of(generation) {
            self.hours.retain(|hour, _| floor < hour.window().end);
        }
    }

    fn is_of(&mut self, generation: u32) -> bool {
        if self.generation < generation {
            *self = Self { generation, hours: BTreeMap::new() };
        }
        self.generation == generation
    }

    /// The days of hours that were compared, with what is known of their other hours.
    pub fn days(&self, unit: &str, seen: &BTreeMap<Hour, Compared>) -> Vec<ComparedDay> {
        let mut days: BTreeMap<Day, BTreeMap<u8, Compared>> = BTreeMap::new();
        for hour in seen.keys() {
            days.entry(hour.of_day().0).or_default();
        }
        for (hour, counts) in &self.hours {
            if let (Some(compared), Some(day)) = (counts.compared, days.get_mut(&hour.of_day().0)) {
                day.insert(hour.of_day().1, compared);
            }
        }
        for (hour, compared) in seen {
            let (day, of_day) = hour.of_day();
            days.entry(day).or_default().insert(of_day, *compared);
        }
        let day = |(day, hours)| ComparedDay { unit: unit.to_owned(), generation: self.generation, day, hours };
        days.into_iter().map(day).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    proptest! {
        #[test]
        fn every_instant_is_in_its_hour_and_day(at in -1_000_000_000_000_000i64..1_000_000_000_000_000) {
            let at = UtcMillis::new(at);
            let hour = Hour::of(at);
            prop_assert!(hour.window().contains(at));
            let (day, of_day) = hour.of_day();
            prop_assert_eq!(day.hour(of_day), hour);
            prop_assert!(at < day.end() && Hour::of(day.end()).of_day() == (Day(day.0 + 1), 0));
        }

        #[test]
        fn a_day_comes_back_from_its_text(day: i32) {
            prop_assert_eq!(Day::parse(&Day(day).to_string()), Some(Day(day)));
        }

        /// However the same rows are spread over pages, the hours are the same.
        #[test]
        fn hours_add_up(rows in prop::collection::vec((0i64..200_000, any::<bool>(), 0usize..4), 0..60)) {
            let mut at_once = PageHours::default();
            let mut parts: [PageHours; 4] = Default::default();
            for (second, is_dead, part) in &rows {
                at_once.note(at(*second), *is_dead);
                parts[*part].note(at(*second), *is_dead);
            }
            let (mut one, mut many) = (UnitHours::default(), UnitHours::default());
            one.take_page(0, &at_once);
            parts.iter().for_each(|part| many.take_page(0, part));
            let sum: u64 = one.hours.values().map(|counts| counts.rows.published + counts.rows.dead).sum();
            prop_assert_eq!(sum, rows.len() as u64);
            prop_assert_eq!(many, one);
        }
    }

    #[test]
    fn days_read_as_dates() {
        assert_eq!(Day(0).to_string(), "1970-01-01");
        assert_eq!(Hour::of(at(1_643_898_472)).of_day().0.to_string(), "2022-02-03");
        assert_eq!(Hour::of(at(1_643_898_472)).to_string(), "2022-02-03T14:00:00Z");
        assert_eq!((Day::parse("2022-2-3"), Day::parse("34"), Day::parse("")), (None, None, None));
    }

    fn published(seconds: &[i64]) -> PageHours {
        let mut page = PageHours::default();
        seconds.iter().for_each(|second| page.note(at(*second), false));
        page
    }

    #[test]
    fn an_hour_is_compared_until_more_of_it_is_published() {
        let mut unit = UnitHours::default();
        unit.take_page(0, &published(&[3_600, 7_200]));
        let agreement = |unit: &UnitHours| unit.hours[&Hour(1)].agreement();
        assert_eq!(agreement(&unit), Agreement::NotCompared);
        let one = |seen| Compared { seen, rows: HourRows { published: 1, dead: 0 } };
        for (seen, expected) in [(0, Agreement::Fewer), (2, Agreement::More), (1, Agreement::Same)] {
            let days = unit.days("a", &[(Hour(1), one(seen))].into());
            assert_eq!(days.len(), 1);
            unit.take_day(&days[0]);
            assert_eq!(agreement(&unit), expected);
        }
        let days = unit.days("a", &[(Hour(2), one(1))].into());
        assert_eq!(days[0].hours.keys().collect::<Vec<_>>(), [&1, &2], "a day is written whole");
        unit.take_page(0, &published(&[3_700]));
        assert_eq!(agreement(&unit), Agreement::NotCompared);
    }

    #[test]
    fn what_is_below_the_floor_or_of_another_generation_is_gone() {
        let mut unit = UnitHours::default();
        unit.take_page(0, &published(&[0, 3_600, 7_200]));
        unit.forget(0, at(3_600));
        assert_eq!(unit.hours.keys().copied().collect::<Vec<_>>(), [Hour(1), Hour(2)]);
        let compared = Compared { seen: 1, rows: HourRows { published: 1, dead: 0 } };
        let day = unit.days("a", &[(Hour(1), compared)].into()).remove(0);
        unit.take_day(&day);
        let packed = serde_json::to_string(&unit).unwrap();
        assert_eq!(packed, "[0,[[1,1,0,[1,1,0]],[2,1,0,null]]]");
        assert_eq!(serde_json::from_str::<UnitHours>(&packed).unwrap(), unit);
        unit.forget(1, at(0));
        unit.take_page(0, &published(&[3_600]));
        unit.take_day(&day);
        assert_eq!(unit, UnitHours { generation: 1, hours: BTreeMap::new() });
    }
}
