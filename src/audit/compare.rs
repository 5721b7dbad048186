//! The comparison: what the topic holds of a period beside what the API shows of it, leg by leg. Pure.
//!
//! ```text
//!   topic ─▶ Records, all of them ─▶ sorted by identity ─┐
//!                                                        ├─▶ Comparison ─▶ Findings
//!   API ───▶ rows, one after the other ──────────────────┘
//! ```
//!
//! The topic comes first and is kept, as identities and hashes, some 90 bytes a leg; rows are looked
//! up as they come and forgotten. That order is also what makes it right beside a connector at work:
//! the journal's watermarks are read before the topic, so that what they promise is in it, and the
//! topic before the API, so that what was published is still to be seen there.
//!
//! For each day and unit, `api = matched + missing + not due + dead legs` and
//! `topic = matched + extra + uncompared`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use super::content::{Content, Parts};
use crate::core::coverage::Coverage;
use crate::core::dedupe::Revisions;
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::privacy::Privacy;
use crate::core::time::{UtcMillis, Window};

/// How many differences are described; the others are counted.
pub const LISTED_MAX: usize = 20;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What is compared, and by which rules.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The period, on the axis of the windows.
    pub period: Window,
    /// The units, in the report's order.
    pub units: Vec<UnitTerms>,
    /// What becomes of a leg that changes after it was published.
    pub revisions: Revisions,
    /// How personal values are treated: by its key dead rows are hashed.
    pub privacy: Privacy,
    /// The partitions of legs whose beginning is no longer kept.
    pub cut: BTreeSet<i32>,
}

/// What the journal says of a unit.
#[derive(Clone, Debug)]
pub struct UnitTerms {
    /// Its name.
    pub name: String,
    /// What lies below has to be in the topic: the final watermark.
    pub due_to: UtcMillis,
    /// What was read completely.
    pub coverage: Coverage,
    /// Below it what was published may have been forgotten, so that nothing new is published there.
    pub floor: UtcMillis,
}

/// A unit's position in [`Terms::units`].
pub type UnitIndex = u16;

/// A leg's record in the topic.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The identity.
    pub key: KeyHash,
    /// What it says; `None` when its value cannot be decoded.
    pub content: Option<Content>,
    /// Of the content that was read, as the record's trace has it.
    pub fingerprint: Option<Fingerprint>,
    /// A hash of the record's key.
    pub call: u64,
    /// The leg's time on the axis of the windows.
    pub at: UtcMillis,
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// The unit's generation.
    pub generation: u32,
    /// The leg's revision.
    pub revision: u8,
    /// The unit that published it; `None` for one that is not compared.
    pub unit: Option<UnitIndex>,
    /// Whether the API shows the leg: found by the comparison, for the newest record of a leg only.
    pub is_shown: bool,
}

/// A dead letter.
#[derive(Clone, Copy, Debug)]
pub struct Buried {
    /// The hash of the row.
    pub key: KeyHash,
    /// By when all that its query had asked for is over.
    pub at: UtcMillis,
    /// The unit's generation.
    pub generation: u32,
    /// The unit that published it; `None` for one that is not compared.
    pub unit: Option<UnitIndex>,
}

/// What was found in the topics.
#[derive(Debug, Default)]
pub struct Records {
    /// Records of legs, in any order.
    pub legs: Vec<Published>,
    /// Dead letters, in any order.
    pub dead: Vec<Buried>,
}

/// A leg that the API shows.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The identity.
    pub key: KeyHash,
    /// Its time on the axis of the windows.
    pub at: UtcMillis,
    /// What its record should hold, personal values treated.
    pub parts: &'a Parts,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// `callId`
    pub call_id: &'a str,
    /// `legId`
    pub leg_id: &'a str,
    /// The row as it came.
    pub raw: &'a [u8],
}

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(i64);

impl Day {
    /// The day of an instant.
    pub const fn of(at: UtcMillis) -> Self {
        Self(at.as_millis().div_euclid(DAY_MS))
    }
}

/// As `2026-02-03`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UtcMillis::new(self.0.saturating_mul(DAY_MS)).to_datetime() {
            Some(day) => write!(f, "{}", day.format("%Y-%m-%d")),
            None => write!(f, "day {}", self.0),
        }
    }
}

/// What was counted, of a day and unit or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Distinct legs that the API shows.
    pub api: u64,
    /// Distinct legs that the topic has.
    pub topic: u64,
    /// Of the API's, those that the topic lacks and that are still to be read, or read again.
    pub not_due: u64,
    /// Of the API's, those that the topic lacks.
    pub missing: u64,
    /// Of the missing ones, those of a time that the journal does not claim to have read.
    pub never_read: u64,
    /// Of the topic's, those that the API does not show.
    pub extra: u64,
    /// Of the topic's, those whose newest content is not the API's although it should be.
    pub differing: u64,
    /// Of the topic's, those that the API has changed since they were published, which need not be published again.
    pub revised: u64,
    /// Records too many: of an identity, generation and revision that an earlier record has.
    pub twice: u64,
    /// Legs whose revisions have gaps or are out of order, and calls whose legs are in several partitions.
    pub disorder: u64,
    /// Distinct rows and legs of the API that are among the dead letters.
    pub dead: u64,
    /// Distinct rows of the API that can be no leg, and are not among the dead letters.
    pub unburied: u64,
    /// Distinct rows of the API that are calls still going on.
    pub unfinished: u64,
    /// Of the topic's, those that the API did not show in windows that could not be read whole.
    pub uncompared: u64,
    /// Of the missing ones, those that were read, and lie below the floor: nothing publishes them any more.
    pub beyond_horizon: u64,
}

impl Tally {
    /// Each count with its name in the report.
    pub fn named(&self) -> [(&'static str, u64); 15] {
        [
            ("api", self.api),
            ("topic", self.topic),
            ("not due", self.not_due),
            ("missing", self.missing),
            ("never read", self.never_read),
            ("extra", self.extra),
            ("differing", self.differing),
            ("revised", self.revised),
            ("twice", self.twice),
            ("disorder", self.disorder),
            ("dead", self.dead),
            ("unburied", self.unburied),
            ("unfinished", self.unfinished),
            ("uncompared", self.uncompared),
            ("beyond horizon", self.beyond_horizon),
        ]
    }

    /// How many of the counts' items should not be.
    pub fn differences(&self) -> u64 {
        self.missing + self.extra + self.differing + self.twice + self.disorder + self.unburied
    }

    /// Of the API's legs, those that could be judged.
    pub fn compared(&self) -> u64 {
        self.api - self.not_due
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.api += other.api;
        self.topic += other.topic;
        self.not_due += other.not_due;
        self.missing += other.missing;
        self.never_read += other.never_read;
        self.extra += other.extra;
        self.differing += other.differing;
        self.revised += other.revised;
        self.twice += other.twice;
        self.disorder += other.disorder;
        self.dead += other.dead;
        self.unburied += other.unburied;
        self.unfinished += other.unfinished;
        self.uncompared += other.uncompared;
        self.beyond_horizon += other.beyond_horizon;
    }
}

/// What is wrong with a leg or a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The API shows it, the topic lacks it.
    Missing,
    /// A row that can be no leg is not among the dead letters.
    Unburied,
    /// The topic has it, the API does not show it.
    Extra,
    /// The topic's newest record does not hold what the API says.
    Differing,
    /// An identity is in the topic twice under one generation and revision.
    Twice,
    /// A leg's revisions have gaps, or are not in the order of the offsets.
    Revisions,
    /// A call's legs are in several partitions.
    Scattered,
    /// The API has changed the leg since; no difference.
    Revised,
}

impl Kind {
    const DIFFERENCES: [Self; 7] =
        [Self::Missing, Self::Unburied, Self::Extra, Self::Differing, Self::Twice, Self::Revisions, Self::Scattered];

    /// The name in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unburied => "unburied",
            Self::Extra => "extra",
            Self::Differing => "differing",
            Self::Twice => "twice",
            Self::Revisions => "revisions",
            Self::Scattered => "scattered",
            Self::Revised => "revised",
        }
    }
}

/// One difference, described. It holds no value of a row but callId and legId.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What is wrong.
    pub kind: Kind,
    /// The unit.
    pub unit: UnitIndex,
    /// The day of the leg's time.
    pub day: Day,
    /// callId and legId, as far as they are known yet.
    pub leg: Option<(String, String)>,
    /// The hash of a row that can be no leg: the key that its dead letter should have.
    pub row: Option<KeyHash>,
    /// Partition and offset of the record.
    pub place: Option<(i32, i64)>,
    /// What the record should hold.
    pub expected: Option<Parts>,
    /// The names of what it holds otherwise.
    pub fields: Vec<&'static str>,
    /// More, in words.
    pub detail: &'static str,
}

/// What the comparison has found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// By day and unit.
    pub days: BTreeMap<(Day, UnitIndex), Tally>,
    /// The first differences, of each kind some.
    pub differences: Vec<Difference>,
    /// The first legs that were revised.
    pub revised: Vec<Difference>,
}

impl Findings {
    /// All of it together.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.days.values().for_each(|tally| total += *tally);
        total
    }
}

/// The comparison under way: the topic's side is complete, the API's comes row by row.
#[derive(Debug)]
pub struct Comparison {
    terms: Terms,
    /// Sorted by identity, generation, revision, place.
    legs: Vec<Published>,
    /// Sorted by key and generation.
    dead: Vec<Buried>,
    /// Legs that the topic lacks, so that each counts once however often it is shown.
    lacking: HashSet<KeyHash>,
    /// Rows that are no legs, for the same reason.
    rows: HashSet<KeyHash>,
    /// Windows that could not be read whole.
    unread: Vec<(UnitIndex, Window)>,
    days: BTreeMap<(Day, UnitIndex), Tally>,
    listed: BTreeMap<Kind, Vec<Difference>>,
}

impl Comparison {
    /// Begins with what was found in the topics.
    pub fn new(terms: Terms, records: Records) -> Self {
        let Records { mut legs, mut dead } = records;
        legs.sort_unstable_by_key(|record| {
            (record.key, record.generation, record.revision, record.offset, record.partition)
        });
        dead.sort_unstable_by_key(|letter| (letter.key, letter.generation));
        Self {
            terms,
            legs,
            dead,
            lacking: HashSet::new(),
            rows: HashSet::new(),
            unread: Vec::new(),
            days: BTreeMap::new(),
            listed: BTreeMap::new(),
        }
    }

    /// Takes a leg that the API shows for `unit`; one that was shown before says nothing new.
    pub fn see_leg(&mut self, unit: UnitIndex, shown: &Shown<'_>) {
        let day = Day::of(shown.at);
        let Some(newest) = self.newest(shown.key) else { return self.see_lacking(unit, day, shown) };
        let record = &mut self.legs[newest];
        if record.is_shown {
            return;
        }
        // Another unit may have published it, such as allpbxes before the names.
        (record.is_shown, record.unit, record.at) = (true, Some(unit), shown.at);
        let record = *record;
        self.tally(day, unit).api += 1;
        let Some((kind, detail)) = self.judge(unit, &record, shown) else { return };
        let tally = self.tally(day, unit);
        *(if kind == Kind::Revised { &mut tally.revised } else { &mut tally.differing }) += 1;
        self.list(kind, || Difference {
            leg: Some((shown.call_id.to_owned(), shown.leg_id.to_owned())),
            place: Some((record.partition, record.offset)),
            expected: Some(shown.parts.clone()),
            ..Difference::new(kind, unit, day, detail)
        });
    }

    /// Where the newest record of a leg is.
    fn newest(&self, key: KeyHash) -> Option<usize> {
        let last = self.legs.partition_point(|record| record.key <= key).checked_sub(1)?;
        (self.legs[last].key == key).then_some(last)
    }

    /// What is wrong with a record whose leg the API shows, if anything is.
    fn judge(&self, unit: UnitIndex, record: &Published, shown: &Shown<'_>) -> Option<(Kind, &'static str)> {
        let Some(content) = record.content else { return Some((Kind::Differing, "its value cannot be decoded")) };
        let expected = shown.parts.content();
        if content == expected {
            return None;
        }
        if content.watched == expected.watched {
            // The connector takes these for no change of the leg, whatever the policy.
            return Some((Kind::Revised, "in fields that are not looked at to see whether a leg has changed"));
        }
        let Some(fingerprint) = record.fingerprint else {
            return Some((
                Kind::Revised,
                "another version of call-legs has published it, and reads some values otherwise",
            ));
        };
        if !fingerprint.is_comparable(shown.fingerprint) {
            return Some((Kind::Revised, "it was published under another [privacy] or key"));
        }
        if fingerprint == shown.fingerprint {
            return Some((Kind::Differing, "the API has not changed it since it was published"));
        }
        let is_due = self.terms.units.get(usize::from(unit)).is_some_and(|unit| shown.at < unit.due_to);
        match self.terms.revisions {
            Revisions::Publish if is_due => Some((Kind::Differing, "the API has changed it since")),
            Revisions::Publish => Some((Kind::Revised, "it is still to be read again")),
            Revisions::Ignore => Some((Kind::Revised, "ignored by policy")),
        }
    }

    fn see_lacking(&mut self, unit: UnitIndex, day: Day, shown: &Shown<'_>) {
        if !self.lacking.insert(shown.key) {
            return;
        }
        let Some(terms) = self.terms.units.get(usize::from(unit)) else { return };
        let (is_due, is_read) = (shown.at < terms.due_to, terms.coverage.contains(shown.at));
        let is_beyond_horizon = is_read && shown.at < terms.floor;
        // The topic may not take it, or the encoder: then its row was buried.
        let is_dead = self.is_buried(shown.raw);
        let tally = self.tally(day, unit);
        tally.api += 1;
        if is_dead {
            tally.dead += 1;
            return;
        }
        if !is_due {
            tally.not_due += 1;
            return;
        }
        tally.missing += 1;
        tally.never_read += u64::from(!is_read);
        tally.beyond_horizon += u64::from(is_beyond_horizon);
        let detail = match (is_read, is_beyond_horizon) {
            (false, _) => "of a time that the journal does not claim to have read",
            (true, true) => "beyond the horizon: it turned up later than state.horizon, or was lost",
            (true, false) => "",
        };
        self.list(Kind::Missing, || Difference {
            leg: Some((shown.call_id.to_owned(), shown.leg_id.to_owned())),
            ..Difference::new(Kind::Missing, unit, day, detail)
        });
    }

    /// Takes a row of the API that can be no leg, from the query for `asked`, the span that was asked for `window`.
    pub fn see_dead(&mut self, unit: UnitIndex, window: Window, asked: Window, raw: &[u8]) {
        let key = self.terms.privacy.dead_row(raw);
        if !self.rows.insert(key) {
            return;
        }
        let day = Day::of(window.start);
        if self.is_buried(raw) {
            self.tally(day, unit).dead += 1;
            return;
        }
        // Its own time is not known: it has to be in the topic only if all that was asked for has.
        if self.terms.units.get(usize::from(unit)).is_some_and(|unit| asked.end <= unit.due_to) {
            self.tally(day, unit).unburied += 1;
            self.list(Kind::Unburied, || Difference {
                row: Some(key),
                ..Difference::new(Kind::Unburied, unit, day, "")
            });
        } else {
            // It may be due for another unit.
            self.rows.remove(&key);
        }
    }

    /// Takes a row of the API that is a call still going on.
    pub fn see_unfinished(&mut self, unit: UnitIndex, window: Window, raw: &[u8]) {
        if self.rows.insert(self.terms.privacy.dead_row(raw)) {
            self.tally(Day::of(window.start), unit).unfinished += 1;
        }
    }

    /// Takes note of a window that could not be read whole: what the API did not show there, it may have.
    pub fn see_unread(&mut self, unit: UnitIndex, window: Window) {
        self.unread.push((unit, window));
    }

    /// What was found, now that the API has shown everything.
    pub fn finish(mut self) -> Findings {
        let legs = std::mem::take(&mut self.legs);
        for group in legs.chunk_by(|one, other| one.key == other.key) {
            self.finish_leg(group);
        }
        let dead = std::mem::take(&mut self.dead);
        for letters in dead.chunk_by(|one, other| (one.key, one.generation) == (other.key, other.generation)) {
            let Some((unit, letter)) = letters.iter().find_map(|letter| Some((letter.unit?, letter))) else { continue };
            if letters.len() > 1 && self.terms.period.contains(letter.at) {
                self.tally(Day::of(letter.at), unit).twice += letters.len() as u64 - 1;
                let detail = "a dead letter";
                self.list(Kind::Twice, || Difference {
                    row: Some(letter.key),
                    ..Difference::new(Kind::Twice, unit, Day::of(letter.at), detail)
                });
            }
        }
        self.finish_calls(legs);
        let revised = self.listed.remove(&Kind::Revised).unwrap_or_default();
        Findings { days: self.days, differences: fair_share(&self.listed), revised }
    }

    /// Whose leg a record is of, if it counts: the API shows it, or it lies in the period and was published for a unit
    /// that is compared.
    fn home(&self, record: &Published) -> Option<(UnitIndex, Day)> {
        let is_counted = record.is_shown || self.terms.period.contains(record.at);
        record.unit.filter(|_| is_counted).map(|unit| (unit, Day::of(record.at)))
    }

    /// Judges the records of one leg, which come in the order of generation, revision, place.
    fn finish_leg(&mut self, group: &[Published]) {
        let Some(newest) = group.last() else { return };
        let Some((unit, day)) = self.home(newest) else { return };
        self.tally(day, unit).topic += 1;
        let of = |record: &Published, kind, detail| Difference {
            place: Some((record.partition, record.offset)),
            ..Difference::new(kind, unit, day, detail)
        };
        if !newest.is_shown {
            if self.unread.iter().any(|(other, window)| *other == unit && window.contains(newest.at)) {
                self.tally(day, unit).uncompared += 1;
            } else {
                self.tally(day, unit).extra += 1;
                self.list(Kind::Extra, || of(newest, Kind::Extra, ""));
            }
        }
        let version = |record: &Published| (record.generation, record.revision);
        for records in group.chunk_by(|one, other| version(one) == version(other)) {
            if let [_, .., last] = records {
                self.tally(day, unit).twice += records.len() as u64 - 1;
                self.list(Kind::Twice, || of(last, Kind::Twice, ""));
            }
        }
        // Of records that are there twice the first counts here.
        let versions = group.chunk_by(|one, other| version(one) == version(other));
        let firsts: Vec<&Published> = versions.filter_map(|records| records.first()).collect();
        let lacks_beginning =
            firsts.first().is_some_and(|first| first.revision > 0 && !self.terms.cut.contains(&first.partition));
        if lacks_beginning || firsts.windows(2).any(|pair| !continues(pair[0], pair[1])) {
            self.tally(day, unit).disorder += 1;
            self.list(Kind::Revisions, || of(newest, Kind::Revisions, ""));
        }
    }

    /// Looks for calls whose legs are in several partitions.
    fn finish_calls(&mut self, mut legs: Vec<Published>) {
        legs.sort_unstable_by_key(|record| (record.call, record.partition, record.offset));
        for call in legs.chunk_by(|one, other| one.call == other.call) {
            let [first, .., last] = call else { continue };
            if first.partition == last.partition {
                continue;
            }
            let Some(((unit, day), record)) = call.iter().find_map(|record| Some((self.home(record)?, record))) else {
                continue;
            };
            self.tally(day, unit).disorder += 1;
            self.list(Kind::Scattered, || Difference {
                place: Some((record.partition, record.offset)),
                ..Difference::new(Kind::Scattered, unit, day, "")
            });
        }
    }

    /// Whether a row is among the dead letters, buried under the privacy policy or before there was one.
    fn is_buried(&self, raw: &[u8]) -> bool {
        let privacy = &self.terms.privacy;
        let keys = [Some(privacy.dead_row(raw)), privacy.dead_row_before(raw)];
        keys.into_iter().flatten().any(|key| self.dead.binary_search_by_key(&key, |letter| letter.key).is_ok())
    }

    fn tally(&mut self, day: Day, unit: UnitIndex) -> &mut Tally {
        self.days.entry((day, unit)).or_default()
    }

    fn list(&mut self, kind: Kind, difference: impl FnOnce() -> Difference) {
        let listed = self.listed.entry(kind).or_default();
        if listed.len() < LISTED_MAX {
            listed.push(difference());
        }
    }
}

impl Difference {
    fn new(kind: Kind, unit: UnitIndex, day: Day, detail: &'static str) -> Self {
        Self { kind, unit, day, leg: None, row: None, place: None, expected: None, fields: Vec::new(), detail }
    }
}

/// Whether a record is the next version of the same leg.
fn continues(earlier: &Published, later: &Published) -> bool {
    let is_next = u16::from(later.revision) == u16::from(earlier.revision) + 1;
    // Offsets of different partitions have no order; that they differ is told of the call.
    let is_after = later.partition != earlier.partition || later.offset > earlier.offset;
    later.generation != earlier.generation || (is_next && is_after)
}

/// The first differences, of each kind as many as there is room for, so that none hides behind another.
fn fair_share(listed: &BTreeMap<Kind, Vec<Difference>>) -> Vec<Difference> {
    let of = |kind: &Kind| listed.get(kind).map_or(&[][..], Vec::as_slice);
    let ranks = (0..LISTED_MAX).flat_map(|rank| Kind::DIFFERENCES.iter().filter_map(move |kind| of(kind).get(rank)));
    let mut share: Vec<Difference> = ranks.take(LISTED_MAX).cloned().collect();
    share.sort_by_key(|difference| difference.kind);
    share
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::core::leg::{FIELD_COUNT, Leg, Value, position};

    const PERIOD: Window = Window::new(UtcMillis::new(10_000), UtcMillis::new(20_000));
    const DUE_TO: UtcMillis = UtcMillis::new(15_000);
    const EARLY: UtcMillis = UtcMillis::new(12_000);
    const LATE: UtcMillis = UtcMillis::new(17_000);
    const OUTSIDE: UtcMillis = UtcMillis::new(25_000);

    /// Two units: all of the first is due, of the second what lies before [`DUE_TO`].
    fn terms(revisions: Revisions) -> Terms {
        let unit = |name: &str, due_to| UnitTerms {
            name: name.to_owned(),
            due_to,
            coverage: [Window::new(PERIOD.start, due_to)].into_iter().collect(),
            floor: UtcMillis::new(i64::MIN),
        };
        Terms {
            period: PERIOD,
            units: vec![unit("a", PERIOD.end), unit("b", DUE_TO)],
            revisions,
            privacy: Privacy::default(),
            cut: BTreeSet::from([7]),
        }
    }

    /// The leg `number` as its variant `variant` says it.
    fn leg(number: u8, variant: u8) -> Leg<'static> {
        let mut values = [const { Value::Null }; FIELD_COUNT];
        values[position::CALL_ID] = Value::Text(Cow::Owned(number.to_string()));
        values[position::LEG_ID] = Value::Text(Cow::Borrowed("1"));
        values[position::STATUS] = Value::Text(Cow::Owned(variant.to_string()));
        Leg { values, extra: Vec::new(), disconnected: EARLY }
    }

    /// A record of [`leg`], published by the first unit.
    fn record(number: u8, variant: u8, offset: i64) -> Published {
        let leg = leg(number, variant);
        Published {
            key: KeyHash::of_leg(&leg),
            content: Some(Parts::of_leg(&leg).content()),
            fingerprint: Some(Fingerprint::of_leg(&leg)),
            call: u64::from(number),
            at: EARLY,
            partition: 0,
            offset,
            generation: 0,
            revision: 0,
            unit: Some(0),
            is_shown: false,
        }
    }

    fn show(comparison: &mut Comparison, unit: UnitIndex, number: u8, variant: u8, at: UtcMillis) {
        let leg = leg(number, variant);
        comparison.see_leg(
            unit,
            &Shown {
                key: KeyHash::of_leg(&leg),
                at,
                parts: &Parts::of_leg(&leg),
                fingerprint: Fingerprint::of_leg(&leg),
                call_id: leg.call_id(),
                leg_id: leg.leg_id(),
                raw: &raw(number, variant),
            },
        );
    }

    fn raw(number: u8, variant: u8) -> Vec<u8> {
        vec![number, variant]
    }

    fn buried(raw: &[u8]) -> Buried {
        Buried { key: KeyHash::of_dead_row(raw), at: EARLY, generation: 0, unit: Some(0) }
    }

    fn comparison(legs: Vec<Published>, dead: Vec<Buried>) -> Comparison {
        Comparison::new(terms(Revisions::Ignore), Records { legs, dead })
    }

    fn kinds(findings: &Findings) -> Vec<Kind> {
        findings.differences.iter().map(|difference| difference.kind).collect()
    }

    #[test]
    fn a_topic_that_holds_what_the_api_shows_is_equal() {
        let mut comparison = comparison(vec![record(1, 0, 0), record(2, 0, 1)], vec![]);
        for number in [2, 1, 2] {
            show(&mut comparison, 0, number, 0, EARLY);
        }
        let findings = comparison.finish();
        assert_eq!(findings.total(), Tally { api: 2, topic: 2, ..Tally::default() });
        assert_eq!(findings.differences, []);
    }

    #[test]
    fn what_only_one_side_has_is_missing_or_extra() {
        let mut comparison = comparison(vec![record(1, 0, 0), Published { at: OUTSIDE, ..record(2, 0, 1) }], vec![]);
        show(&mut comparison, 0, 3, 0, EARLY);
        show(&mut comparison, 0, 3, 0, EARLY);
        let findings = comparison.finish();
        assert_eq!(findings.total(), Tally { api: 1, topic: 1, missing: 1, extra: 1, ..Tally::default() });
        assert_eq!(kinds(&findings), [Kind::Missing, Kind::Extra]);
        assert_eq!(findings.differences[0].leg, Some(("3".to_owned(), "1".to_owned())));
        assert_eq!(findings.differences[1].place, Some((0, 0)));
    }

    #[test]
    fn what_is_not_due_is_not_missing_and_what_was_never_read_is_told_apart() {
        let mut comparison = comparison(vec![], vec![]);
        show(&mut comparison, 1, 1, 0, LATE);
        show(&mut comparison, 1, 2, 0, EARLY);
        comparison.terms.units[0].coverage = Coverage::default();
        show(&mut comparison, 0, 3, 0, LATE);
        let total = comparison.finish().total();
        assert_eq!(total, Tally { api: 3, not_due: 1, missing: 2, never_read: 1, ..Tally::default() });
        assert_eq!((total.differences(), total.compared()), (2, 2));
    }

    #[test]
    fn what_turned_up_beyond_the_horizon_is_missing_and_named() {
        let mut comparison = comparison(vec![], vec![]);
        comparison.terms.units[1].floor = DUE_TO;
        show(&mut comparison, 1, 1, 0, EARLY);
        let findings = comparison.finish();
        assert_eq!(findings.total(), Tally { api: 1, missing: 1, beyond_horizon: 1, ..Tally::default() });
        assert!(findings.differences[0].detail.contains("beyond the horizon"));
    }

    #[test]
    fn a_window_that_was_not_read_whole_makes_nothing_extra() {
        let mut comparison = comparison(vec![record(1, 0, 0)], vec![]);
        comparison.see_unread(1, PERIOD);
        let mut other =
            Comparison::new(terms(Revisions::Ignore), Records { legs: vec![record(1, 0, 0)], dead: vec![] });
        other.see_unread(0, PERIOD);
        assert_eq!(comparison.finish().total(), Tally { topic: 1, extra: 1, ..Tally::default() }, "another unit's");
        assert_eq!(other.finish().total(), Tally { topic: 1, uncompared: 1, ..Tally::default() });
    }

    #[test]
    fn records_of_another_unit_stand_for_a_leg_and_are_never_extra() {
        let of_all = |number, offset| Published { unit: None, ..record(number, 0, offset) };
        let mut comparison = comparison(vec![of_all(1, 0), of_all(2, 1)], vec![]);
        show(&mut comparison, 1, 1, 0, LATE);
        let findings = comparison.finish();
        assert_eq!(findings.days[&(Day::of(LATE), 1)], Tally { api: 1, topic: 1, ..Tally::default() });
        assert_eq!(findings.days.len(), 1);
    }

    #[test]
    fn other_content_is_a_revision_unless_the_api_has_not_changed() {
        let changed_on_the_way = Published { content: Some(Parts::of_leg(&leg(2, 9)).content()), ..record(2, 0, 1) };
        let records = || vec![record(1, 0, 0), changed_on_the_way, Published { content: None, ..record(3, 0, 2) }];
        let judged = |revisions| {
            let mut comparison = Comparison::new(terms(revisions), Records { legs: records(), dead: vec![] });
            show(&mut comparison, 0, 1, 1, EARLY);
            show(&mut comparison, 0, 2, 0, EARLY);
            show(&mut comparison, 0, 3, 0, EARLY);
            comparison.finish()
        };
        let ignored = judged(Revisions::Ignore);
        assert_eq!(ignored.total(), Tally { api: 3, topic: 3, revised: 1, differing: 2, ..Tally::default() });
        assert_eq!(ignored.revised[0].leg, Some(("1".to_owned(), "1".to_owned())));
        assert_eq!(ignored.revised[0].expected, Some(Parts::of_leg(&leg(1, 1))));
        let published = judged(Revisions::Publish);
        assert_eq!(published.total(), Tally { api: 3, topic: 3, differing: 3, ..Tally::default() });
    }

    #[test]
    fn the_newest_record_is_the_one_that_counts() {
        let of =
            |variant, offset, generation, revision| Published { generation, revision, ..record(1, variant, offset) };
        // The second generation was published with the first content again, and then revised.
        let mut comparison = comparison(vec![of(2, 3, 1, 1), of(0, 0, 0, 0), of(5, 1, 0, 1), of(1, 2, 1, 0)], vec![]);
        show(&mut comparison, 0, 1, 2, EARLY);
        assert_eq!(comparison.finish().total(), Tally { api: 1, topic: 1, ..Tally::default() });
    }

    #[test]
    fn the_same_version_again_is_there_twice_and_another_generation_is_not() {
        let again = Published { offset: 2, ..record(1, 0, 0) };
        let rewound = Published { generation: 1, offset: 3, ..record(1, 0, 0) };
        let mut comparison =
            comparison(vec![again, record(1, 0, 0), rewound], vec![buried(b"x"), buried(b"x"), buried(b"y")]);
        show(&mut comparison, 0, 1, 0, EARLY);
        let findings = comparison.finish();
        assert_eq!(findings.total(), Tally { api: 1, topic: 1, twice: 2, ..Tally::default() });
        assert_eq!(findings.differences[0].place, Some((0, 2)), "the later one");
        assert_eq!(findings.differences[1].row, Some(KeyHash::of_dead_row(b"x")));
    }

    #[test]
    fn revisions_have_no_gaps_and_come_in_order() {
        let disorder = |versions: &[(u8, i64, i32)]| {
            let of = |&(revision, offset, partition)| Published { revision, partition, ..record(1, 0, offset) };
            let mut comparison = comparison(versions.iter().map(of).collect(), vec![]);
            show(&mut comparison, 0, 1, 0, EARLY);
            comparison.finish().total().disorder
        };
        assert_eq!(disorder(&[(0, 0, 0), (1, 5, 0), (2, 6, 0)]), 0);
        assert_eq!(disorder(&[(0, 0, 0), (2, 5, 0)]), 1, "a gap");
        assert_eq!(disorder(&[(0, 5, 0), (1, 0, 0)]), 1, "the wrong order");
        assert_eq!(disorder(&[(1, 0, 0)]), 1, "no beginning");
        assert_eq!(disorder(&[(1, 0, 7)]), 0, "whose beginning was deleted with its partition's");
        assert_eq!(disorder(&[(0, 0, 0), (1, 5, 1)]), 1, "two partitions, which is told of the call only");
    }

    #[test]
    fn rows_that_can_be_no_leg_are_looked_for_among_the_dead_letters() {
        let mut comparison = comparison(vec![], vec![buried(b"x"), buried(&raw(4, 0))]);
        let early = Window::new(PERIOD.start, DUE_TO);
        let asked = Window::new(PERIOD.start, DUE_TO);
        for _ in 0..2 {
            comparison.see_dead(0, early, asked, b"x");
            comparison.see_dead(1, early, asked, b"y");
            comparison.see_dead(1, early, Window::new(PERIOD.start, LATE), b"z");
            comparison.see_unfinished(0, early, b"u");
        }
        // A leg that the topic does not take.
        show(&mut comparison, 0, 4, 0, EARLY);
        let findings = comparison.finish();
        assert_eq!(findings.total(), Tally { api: 1, dead: 2, unburied: 1, unfinished: 1, ..Tally::default() });
        assert_eq!(findings.differences[0].row, Some(KeyHash::of_dead_row(b"y")));
    }

    #[test]
    fn no_kind_of_difference_hides_behind_another() {
        let mut comparison = comparison(vec![record(200, 0, 0), record(200, 0, 1)], vec![]);
        (0..100).for_each(|number| show(&mut comparison, 0, number, 0, EARLY));
        let findings = comparison.finish();
        assert_eq!(findings.total().missing, 100);
        assert_eq!(findings.differences.len(), LISTED_MAX);
        let of = |kind| kinds(&findings).iter().filter(|found| **found == kind).count();
        assert_eq!((of(Kind::Missing), of(Kind::Extra), of(Kind::Twice)), (LISTED_MAX - 2, 1, 1));
    }

    #[test]
    fn days_are_utc() {
        assert_eq!(Day::of(UtcMillis::new(1_643_898_472_253)).to_string(), "2022-02-03");
        assert_eq!(Day::of(UtcMillis::new(-1)).to_string(), "1969-12-31");
    }

    /// A record of the model: which leg, what it says, what its trace says that it says, where, when, whose.
    #[derive(Clone, Debug)]
    struct ModelRecord {
        number: u8,
        variant: u8,
        read_as: u8,
        generation: u32,
        revision: u8,
        partition: i32,
        at: UtcMillis,
        unit: Option<UnitIndex>,
    }

    prop_compose! {
        fn model_record()(
            number in 0u8..6,
            (variant, read_as) in (0u8..3, 0u8..3),
            generation in 0u32..2,
            revision in 0u8..3,
            partition in prop::sample::select(vec![0, 0, 0, 1, 7]),
            at in prop::sample::select(vec![EARLY, LATE, OUTSIDE]),
            unit in prop::sample::select(vec![Some(0), Some(1), None]),
        ) -> ModelRecord {
            ModelRecord { number, variant, read_as, generation, revision, partition, at, unit }
        }
    }

    /// What is expected, leg by leg and by the words of the documentation.
    fn expected(records: &[ModelRecord], shown: &[(UnitIndex, u8, u8, UtcMillis)]) -> Tally {
        let mut tally = Tally::default();
        for number in 0u8..8 {
            let mut of: Vec<(usize, &ModelRecord)> =
                records.iter().enumerate().filter(|(_, record)| record.number == number).collect();
            of.sort_by_key(|(offset, record)| (record.generation, record.revision, *offset));
            let first_shown = shown.iter().find(|(_, shown, ..)| *shown == number);
            let newest = of.last().map(|(_, record)| *record);
            match (first_shown, newest) {
                (None, None) => continue,
                (Some(&(unit, _, _, at)), None) => {
                    tally.api += 1;
                    *(if unit == 1 && at >= DUE_TO { &mut tally.not_due } else { &mut tally.missing }) += 1;
                    continue;
                }
                (Some(&(_, _, variant, _)), Some(newest)) => {
                    tally.api += 1;
                    tally.topic += 1;
                    let is_same = newest.variant == variant;
                    tally.differing += u64::from(!is_same && newest.read_as == variant);
                    tally.revised += u64::from(!is_same && newest.read_as != variant);
                }
                (None, Some(newest)) if PERIOD.contains(newest.at) && newest.unit.is_some() => {
                    tally.topic += 1;
                    tally.extra += 1;
                }
                (None, Some(_)) => {}
            }
            let counts = |record: &ModelRecord| PERIOD.contains(record.at) && record.unit.is_some();
            if first_shown.is_some() || newest.is_some_and(counts) {
                let versions: BTreeSet<(u32, u8)> = of.iter().map(|(_, one)| (one.generation, one.revision)).collect();
                tally.twice += (of.len() - versions.len()) as u64;
                let first_of =
                    |version: (u32, u8)| of.iter().find(|(_, one)| (one.generation, one.revision) == version).copied();
                let (mut is_wrong, mut previous) = (false, None::<(usize, &ModelRecord)>);
                for version in versions {
                    let (offset, record) = first_of(version).unwrap();
                    is_wrong |= match previous {
                        None => record.revision > 0 && record.partition != 7,
                        Some((_, earlier)) if earlier.generation != record.generation => false,
                        Some((before, earlier)) => {
                            record.revision != earlier.revision + 1
                                || (record.partition == earlier.partition && offset < before)
                        }
                    };
                    previous = Some((offset, record));
                }
                tally.disorder += u64::from(is_wrong);
            }
            let partitions: BTreeSet<i32> = of.iter().map(|(_, record)| record.partition).collect();
            let is_ours = first_shown.is_some() || of.iter().any(|(_, record)| counts(record));
            tally.disorder += u64::from(partitions.len() > 1 && is_ours);
        }
        tally
    }

    proptest! {
        #[test]
        fn every_leg_is_judged_as_documented(
            records in prop::collection::vec(model_record(), 0..14),
            shown in prop::collection::vec(
                (0u16..2, 0u8..8, 0u8..3, prop::sample::select(vec![EARLY, LATE])), 0..14),
        ) {
            let published = records.iter().zip(0i64..).map(|(model, offset)| Published {
                fingerprint: Some(Fingerprint::of_leg(&leg(model.number, model.read_as))),
                partition: model.partition,
                generation: model.generation,
                revision: model.revision,
                at: model.at,
                unit: model.unit,
                ..record(model.number, model.variant, offset)
            });
            let mut comparison = comparison(published.collect(), vec![]);
            comparison.terms.units[1].coverage = [PERIOD].into_iter().collect();
            for &(unit, number, variant, at) in &shown {
                show(&mut comparison, unit, number, variant, at);
            }
            let findings = comparison.finish();
            let total = findings.total();
            prop_assert_eq!(total, expected(&records, &shown));
            let matched = total.topic - total.extra - total.uncompared;
            prop_assert_eq!(total.api, matched + total.missing + total.not_due);
            prop_assert_eq!(findings.differences.is_empty(), total.differences() == 0);
            prop_assert_eq!(findings.revised.is_empty(), total.revised == 0);
        }
    }
}
