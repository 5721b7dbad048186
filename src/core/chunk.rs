//! What becomes of a chunk of rows: two pure passes, with a look-up before each.
//!
//! ```text
//!   rows, and what is known of their keys ──▶ plan ─▶ legs to publish, entries to remember, dead rows, counts
//!   dead rows, and what is known of their hashes ──▶ bury ─▶ dead letters
//! ```
//!
//! Between the two the legs are encoded. A leg that cannot be encoded, or that the topic cannot take, is marked as refused,
//! and the chunk is planned again: what comes after it in the chunk is decided as if it had not been published.

use std::collections::BTreeSet;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::dead_letter::{DeadRows, Reason};
use super::dedupe::{Counts, Revisions, Seen, Verdict, classify};
use super::identity::{Fingerprint, KeyHash};
use super::journal::Entry;
use super::lateness::{self, Found, Lateness};
use super::leg::{How, TimeBasis};
use super::page_draft::PageDraft;
use super::planner::Piece;
use super::shape::Shape;
use super::time::{UtcMillis, Window};
use super::watermark::Progress;
use super::zone::{Contradiction, Texts, ZoneTally};

/// A row, as far as it is known before the decision.
#[derive(Clone, Debug)]
pub struct ChunkRow {
    /// The leg's identity, or the row's own hash.
    pub key: KeyHash,
    /// What the row is.
    pub kind: RowKind,
    /// When it was received.
    pub seen_at: UtcMillis,
    /// How it contradicts our idea of the time zone, if it does.
    pub contradiction: Option<Contradiction>,
    /// Why its leg cannot be published, if that is known.
    pub refused: Option<Reason>,
}

/// What a row is.
#[derive(Clone, Copy, Debug)]
pub enum RowKind {
    /// A leg.
    Leg(LegFacts),
    /// Not a leg, and why.
    Dead(Reason),
    /// A call without an end, which is awaited.
    Unfinished,
}

/// What a leg's bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegFacts {
    /// Of its content.
    pub fingerprint: Fingerprint,
    /// Its time on the axis of the windows.
    pub at: UtcMillis,
    /// When it was disconnected.
    pub disconnected: UtcMillis,
    /// What the texts beside its times say of the zone.
    pub texts: Texts,
    /// Whether its status says that the call is still going on: the time is not the last then.
    pub is_in_progress: bool,
}

/// What is remembered of a leg's identity.
#[derive(Clone, Copy, Debug)]
pub struct KnownLeg {
    /// Its content and newest revision.
    pub seen: Seen,
    /// Whether the unit of this read published it.
    pub is_ours: bool,
}

/// What is remembered of a dead row.
#[derive(Clone, Copy, Debug)]
pub struct RowKey {
    /// The hash of its bytes.
    pub key: KeyHash,
    /// Whether it is among the dead letters.
    pub is_known: bool,
}

/// How rows are decided about; fixed for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPolicy {
    /// On which of a leg's times the windows are cut.
    pub time_basis: TimeBasis,
    /// What becomes of a leg whose content changed after it was published.
    pub revisions: Revisions,
    /// `poll.settle`.
    pub settle: Duration,
    /// A leg between whose two bounds of lateness there is more was found after a pause, and is no measure.
    pub apart_max: Duration,
}

/// What was read, and for which unit.
#[derive(Clone, Copy, Debug)]
pub struct ChunkContext<'a> {
    /// The unit.
    pub unit: &'a str,
    /// The unit's generation.
    pub generation: u32,
    /// How far the unit has come.
    pub progress: &'a Progress,
    /// A leg from before it is marked late.
    pub late_before: UtcMillis,
    /// The window and the kind of read.
    pub piece: Piece,
    /// The span of time that the query asked for, margins included.
    pub asked: Window,
    /// How far the unit is final at the most once the window is read: a call "In Progress" is awaited behind it.
    pub makes_final_to: UtcMillis,
    /// How far the unit was complete before the poll: what older legs of it are measured by.
    pub looked_to: UtcMillis,
    /// How rows are decided about.
    pub policy: ChunkPolicy,
}

/// A leg to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The row that it comes from.
    pub row: usize,
    /// What the journal remembers of it.
    pub entry: Entry,
}

/// A row that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadRow {
    /// The row.
    pub row: usize,
    /// Why.
    pub reason: Reason,
    /// Its time; without one of its own the end of what the query has asked for.
    pub at: UtcMillis,
    /// It is not forgotten before the floor has come here.
    pub kept_to: UtcMillis,
}

/// A dead row to put among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The row.
    pub dead: DeadRow,
    /// What the journal remembers of it.
    pub entry: Entry,
}

/// What becomes of a chunk.
#[derive(Clone, Debug)]
pub struct ChunkPlan {
    /// What became of every row, once the dead ones are buried.
    pub counts: Counts,
    /// The legs to publish, in the order of their rows.
    pub publish: Vec<Publication>,
    /// The rows to bury: first those that are no legs, then those whose legs are refused.
    pub dead: Vec<DeadRow>,
    /// When the new legs were disconnected, and when they were received.
    pub disconnected: Vec<(UtcMillis, UtcMillis)>,
    /// How late the new legs were.
    pub lateness: Lateness,
    /// Why rows are buried that were not before.
    pub buried: Vec<Reason>,
    /// Why the first row is held that is.
    pub held_for: Option<Reason>,
    /// What kinds of rows they are.
    pub shape: Shape,
    /// Of a sweep, the unit's own legs: published now or before.
    pub swept: Vec<KeyHash>,
    /// What the rows say of the zone.
    pub zone: ZoneTally,
    /// Of the new legs, those with a text that is not the instant beside it.
    pub slips: u64,
    /// Of the new legs, those that say of themselves that they are still going on.
    pub in_progress: u64,
    /// What the journal is to remember.
    pub page: PageDraft,
}

/// What chunks of other units will have the journal remember, that come into the same transaction before this one.
#[derive(Default)]
pub struct InFlight {
    legs: FxHashMap<KeyHash, Seen>,
    dead: FxHashSet<KeyHash>,
}

impl InFlight {
    /// What these plans will have remembered, once their dead rows are buried.
    pub fn of<'a>(plans: impl Iterator<Item = &'a ChunkPlan>) -> Self {
        let mut in_flight = Self::default();
        for plan in plans {
            in_flight.legs.extend(plan.page.legs().iter().map(|entry| (entry.key, entry.seen)));
            in_flight.dead.extend(plan.page.dead());
        }
        in_flight
    }

    /// What will be remembered of a leg's identity, by another unit.
    pub fn leg(&self, key: KeyHash) -> Option<KnownLeg> {
        self.legs.get(&key).map(|&seen| KnownLeg { seen, is_ours: false })
    }

    /// Whether a dead row will be among the dead letters.
    pub fn has_dead(&self, key: KeyHash) -> bool {
        self.dead.contains(&key)
    }
}

/// Decides about rows in their order; `known` is what is remembered of each row's key.
///
/// # Panics
/// When `known` is shorter than `rows`.
pub fn plan(rows: &[ChunkRow], known: &[Option<KnownLeg>], context: &ChunkContext<'_>) -> ChunkPlan {
    let is_maybe_forgotten = context.is_row_maybe_forgotten();
    let mut planner = Planner {
        context,
        in_chunk: FxHashMap::default(),
        refused: Vec::new(),
        plan: ChunkPlan {
            counts: Counts::default(),
            publish: Vec::with_capacity(rows.len()),
            dead: Vec::new(),
            disconnected: Vec::with_capacity(rows.len()),
            lateness: Lateness::default(),
            buried: Vec::new(),
            held_for: None,
            shape: Shape { rows: rows.len() as u64, ..Shape::default() },
            swept: Vec::new(),
            zone: ZoneTally::default(),
            slips: 0,
            in_progress: 0,
            page: PageDraft::new(context.unit.to_owned(), context.generation),
        },
    };
    for (index, row) in rows.iter().enumerate() {
        match row.kind {
            RowKind::Leg(leg) => planner.sort_out(index, row, leg, known[index]),
            RowKind::Dead(reason) => {
                planner.plan.shape.no_legs += 1;
                if is_maybe_forgotten {
                    planner.plan.counts.beyond_horizon += 1;
                } else {
                    planner.plan.dead.push(context.dead_row_without_a_time(index, reason));
                }
            }
            RowKind::Unfinished => planner.plan.counts.unfinished += 1,
        }
    }
    planner.plan.dead.append(&mut planner.refused);
    planner.plan
}

impl ChunkContext<'_> {
    /// Whether a row without a time may have been buried and forgotten: the floor moves while an older period is read.
    fn is_row_maybe_forgotten(&self) -> bool {
        let is_older = !self.piece.how.is_live();
        let is_below_floor = self.asked.start < self.progress.floor;
        is_older && is_below_floor && self.progress.coverage.contains(self.piece.window.last())
    }

    /// The margins of the next window show it as well. A window of history lies below the floor, by which the row would be
    /// forgotten at once: it is remembered like what is read now.
    fn dead_row_without_a_time(&self, row: usize, reason: Reason) -> DeadRow {
        let at = self.asked.last();
        DeadRow { row, reason, at, kept_to: at.max(self.progress.final_to) }
    }
}

/// A plan in the making.
struct Planner<'a> {
    context: &'a ChunkContext<'a>,
    /// A leg may come twice in a chunk.
    in_chunk: FxHashMap<KeyHash, Seen>,
    refused: Vec<DeadRow>,
    plan: ChunkPlan,
}

impl Planner<'_> {
    /// Tells a leg that is this window's from the others.
    fn sort_out(&mut self, index: usize, row: &ChunkRow, leg: LegFacts, known: Option<KnownLeg>) {
        let ChunkContext { progress, piece, asked, makes_final_to, policy, .. } = *self.context;
        // A leg in the margins is as telling: where it is found is what the API makes of the bounds.
        self.plan.zone.note(leg.texts, || row.contradiction);
        self.plan.shape.astray += u64::from(is_astray(leg.at, leg.disconnected, asked, policy.time_basis));
        let is_in_margin = asked.contains(leg.at) && !piece.window.contains(leg.at);
        // Of a window of another time: one row dated 2099 would end every reader's event time for good.
        if is_in_margin || is_after(leg.at, leg.disconnected, asked.end, policy.time_basis) {
            self.plan.counts.outside += 1;
        } else if leg.is_in_progress && leg.at >= progress.final_to.max(makes_final_to) {
            self.plan.counts.unfinished += 1;
        } else {
            self.decide(index, row, leg, known);
        }
    }

    /// Decides about a leg of this window.
    fn decide(&mut self, index: usize, row: &ChunkRow, leg: LegFacts, known: Option<KnownLeg>) {
        let key = row.key;
        let earlier = self.in_chunk.get(&key).copied();
        let is_ours = earlier.is_some() || known.is_none_or(|known| known.is_ours);
        let seen = earlier.or(known.map(|known| known.seen)).map(|seen| seen.beside(leg.fingerprint));
        let remembered = Seen { fingerprint: Some(leg.fingerprint), revision: 0 };
        match classify(seen, leg.fingerprint, leg.at, self.context.progress) {
            Verdict::BeyondHorizon => self.plan.counts.beyond_horizon += 1,
            Verdict::Duplicate => {
                self.note_swept(key, is_ours);
                self.plan.counts.duplicate += 1;
                // Another version's fingerprint was remembered: from now on ours is, and changes are noticed again.
                if let Some(Seen { fingerprint: None, revision }) = seen.filter(|_| is_ours) {
                    self.remember(Entry { key, seen: Seen { revision, ..remembered } }, leg.at, false);
                }
            }
            Verdict::New => {
                if self.publish(index, row, leg, Entry { key, seen: remembered }) {
                    self.remember(Entry { key, seen: remembered }, leg.at, true);
                    self.note_swept(key, is_ours);
                    self.note_new(leg, row.seen_at);
                }
            }
            Verdict::Revised => {
                let published = seen.map_or(0, |seen| seen.revision);
                let next = match self.context.policy.revisions {
                    Revisions::Ignore => None,
                    // After the last number a leg keeps changing in silence, but for the count.
                    Revisions::Publish => published.checked_add(1),
                };
                let entry = Entry { key, seen: Seen { revision: next.unwrap_or(published), ..remembered } };
                if next.is_none() || self.publish(index, row, leg, entry) {
                    // From now on a revised leg that another unit published belongs to this unit.
                    self.remember(entry, leg.at, !is_ours);
                    self.note_swept(key, is_ours);
                    self.plan.counts.revised += 1;
                }
            }
        }
    }

    /// Puts a leg among those to publish; `false` if it is refused, and goes to the dead rows.
    fn publish(&mut self, row: usize, facts: &ChunkRow, leg: LegFacts, entry: Entry) -> bool {
        if let Some(reason) = facts.refused {
            // A changed leg of old: its letter may have been written, and forgotten since.
            if classify(None, leg.fingerprint, leg.at, self.context.progress) == Verdict::BeyondHorizon {
                self.plan.counts.beyond_horizon += 1;
                return false;
            }
            let at = self.context.piece.window.not_after(leg.at);
            self.refused.push(DeadRow { row, reason, at, kept_to: at });
            return false;
        }
        self.plan.publish.push(Publication { row, entry });
        true
    }

    /// Remembers an entry; it counts among the hour's legs if it is new to the unit.
    fn remember(&mut self, entry: Entry, at: UtcMillis, is_new: bool) {
        self.in_chunk.insert(entry.key, entry.seen);
        // A leg from before the window keeps its own time: by that it is forgotten, and by that it would be read again.
        let at = self.context.piece.window.not_after(at);
        if is_new {
            self.plan.page.add_new(entry, at, false);
        } else {
            self.plan.page.add(entry, at, false);
        }
    }

    /// Takes note of a published leg, where what is read is to be compared with what was published.
    fn note_swept(&mut self, key: KeyHash, is_ours: bool) {
        if self.context.piece.how == How::Sweep && is_ours {
            self.plan.swept.push(key);
        }
    }

    /// Counts a new leg, and how late and how odd it was.
    fn note_new(&mut self, leg: LegFacts, seen_at: UtcMillis) {
        self.plan.counts.published += 1;
        self.plan.counts.late += u64::from(leg.at < self.context.late_before);
        self.plan.slips += u64::from(matches!(leg.texts, Texts::Slip | Texts::Contradict));
        if leg.is_in_progress {
            // It was awaited on purpose, so it says nothing of how late legs are.
            self.plan.in_progress += 1;
        } else {
            self.plan.disconnected.push((leg.disconnected, seen_at));
            self.note_lateness(leg.at, seen_at);
        }
    }

    /// How late a new leg was, as far as this read can tell.
    fn note_lateness(&mut self, at: UtcMillis, seen_at: UtcMillis) {
        let Progress { final_to, .. } = self.context.progress;
        let (looked_to, policy, lateness) = (self.context.looked_to, self.context.policy, &mut self.plan.lateness);
        // The newest live read that came to its end began this long after what it made complete.
        let looked = looked_to.plus(policy.settle);
        match self.context.piece.how {
            How::Poll | How::CatchUp => {
                let found = if at < looked_to { Found::ByOverlap } else { Found::AtOnce };
                let at_most = lateness::at_most(at, looked, seen_at, policy.apart_max);
                if found == Found::ByOverlap && at_most.is_some() {
                    lateness.note_left(at.since(*final_to));
                }
                lateness.note(found, at_most);
            }
            // However long ago the sweep before was: it was too late for the polls.
            How::Sweep => lateness.note(Found::BySweep, Some(seen_at.since(at))),
            How::Backfill | How::Replay => {}
        }
    }
}

impl ChunkPlan {
    /// Decides about the dead rows: which become dead letters, which are there already, and which are held because their
    /// window is not believed. `row_keys` is what is remembered of each; `unburied` are rows that not even that topic takes.
    ///
    /// # Panics
    /// When `row_keys` is shorter than the dead rows.
    pub fn bury(&mut self, row_keys: &[RowKey], unburied: &BTreeSet<usize>, dead_rows: DeadRows) -> Vec<Letter> {
        let (mut letters, mut in_chunk) = (Vec::new(), BTreeSet::new());
        for (index, dead) in self.dead.iter().enumerate() {
            let RowKey { key, is_known } = row_keys[index];
            if !is_known && dead.reason.is_the_rows() && dead_rows == DeadRows::Held {
                self.counts.held += 1;
                self.held_for.get_or_insert(dead.reason);
                continue;
            }
            self.counts.dead += 1;
            if is_known || unburied.contains(&dead.row) || !in_chunk.insert(key) {
                continue;
            }
            let entry = Entry { key, seen: Seen { fingerprint: None, revision: 0 } };
            letters.push(Letter { dead: *dead, entry });
            self.buried.push(dead.reason);
            self.page.add_new(entry, dead.at, true);
            self.page.keep_to(dead.kept_to);
        }
        letters
    }
}

/// Whether a leg's time lies behind all that a query has asked for, up to `asked_to`: the poll of that time reads it.
///
/// By which time the API finds a leg that was never connected, where windows are cut on connect times, nobody knows.
pub fn is_after(at: UtcMillis, disconnected: UtcMillis, asked_to: UtcMillis, basis: TimeBasis) -> bool {
    at >= asked_to && (basis == TimeBasis::Disconnect || at != disconnected)
}

/// Whether a leg's time lies outside the span that a query asked for, as far as anybody knows by what it was found.
pub fn is_astray(at: UtcMillis, disconnected: UtcMillis, asked: Window, basis: TimeBasis) -> bool {
    !asked.contains(at) && (basis == TimeBasis::Disconnect || at != disconnected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::watermark::Delays;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(second: i64) -> UtcMillis {
        UtcMillis::new(second * 1_000)
    }

    fn key(leg: u8) -> KeyHash {
        KeyHash([leg; 16])
    }

    fn seen(content: u64, revision: u8) -> Seen {
        Seen { fingerprint: Some(Fingerprint::from_bits(content)), revision }
    }

    fn ours(content: u64, revision: u8) -> Option<KnownLeg> {
        Some(KnownLeg { seen: seen(content, revision), is_ours: true })
    }

    fn facts(content: u64, second: i64) -> LegFacts {
        LegFacts {
            fingerprint: Fingerprint::from_bits(content),
            at: at(second),
            disconnected: at(second),
            texts: Texts::Agree,
            is_in_progress: false,
        }
    }

    fn row(key: KeyHash, kind: RowKind) -> ChunkRow {
        ChunkRow { key, kind, seen_at: at(10_000), contradiction: None, refused: None }
    }

    fn leg(number: u8, content: u64, second: i64) -> ChunkRow {
        row(key(number), RowKind::Leg(facts(content, second)))
    }

    /// Complete to 9000, final to 8000, covered from 1000 on, floor at 5000.
    fn progress() -> Progress {
        let delays = Delays { settle: Duration::ZERO, overlap: SECOND * 1_000, horizon: SECOND * 3_000 };
        let mut progress = Progress::starting_at(at(1_000), &delays);
        progress.advance(Window::new(at(1_000), at(9_000)), at(9_000), &delays);
        assert_eq!((progress.floor, progress.final_to, progress.complete_to), (at(5_000), at(8_000), at(9_000)));
        progress
    }

    /// A poll of [8000, 10000), asked for with a margin of a second.
    fn context(progress: &Progress) -> ChunkContext<'_> {
        let window = Window::new(at(8_000), at(10_000));
        ChunkContext {
            unit: "acme",
            generation: 1,
            progress,
            late_before: progress.final_to,
            piece: Piece { window, how: How::Poll },
            asked: Window::new(at(7_999), at(10_001)),
            makes_final_to: at(8_500),
            looked_to: progress.complete_to,
            policy: ChunkPolicy {
                time_basis: TimeBasis::Disconnect,
                revisions: Revisions::Publish,
                settle: Duration::ZERO,
                apart_max: SECOND * 5_000,
            },
        }
    }

    #[test]
    fn a_changed_leg_that_is_refused_is_not_buried_where_its_letter_may_be_forgotten() {
        let progress = progress();
        // Below the floor and above it, published before with another content.
        let refused = |second| ChunkRow { refused: Some(Reason::TooLarge), ..leg(1, 8, second) };
        for (second, buried) in [(4_000, 0), (8_200, 1)] {
            let window = Window::new(at(second - 100), at(second + 100));
            let piece = Piece { window, how: How::Sweep };
            let context = ChunkContext { piece, asked: window, ..context(&progress) };
            let plan = plan(&[refused(second)], &[ours(7, 0)], &context);
            assert_eq!((plan.dead.len() as u64, plan.counts.beyond_horizon), (buried, 1 - buried), "{second}");
            assert!(plan.publish.is_empty());
        }
    }

    #[test]
    fn what_one_unit_has_in_flight_another_unit_knows_already() {
        let progress = progress();
        let rows = [leg(1, 7, 9_000), leg(2, 7, 9_001), row(key(9), RowKind::Dead(Reason::Unreadable))];
        let mut first = plan(&rows, &[None; 3], &context(&progress));
        assert_eq!(first.bury(&[RowKey { key: key(9), is_known: false }], &BTreeSet::new(), DeadRows::Buried).len(), 1);
        let in_flight = InFlight::of([&first].into_iter());

        let rows = [leg(1, 7, 9_000), leg(2, 8, 9_001), leg(3, 7, 9_002)];
        let known: Vec<Option<KnownLeg>> = rows.iter().map(|row| in_flight.leg(row.key)).collect();
        let second = plan(&rows, &known, &ChunkContext { unit: "other", ..context(&progress) });
        let Counts { published, duplicate, revised, .. } = second.counts;
        assert_eq!((published, duplicate, revised), (1, 1, 1));
        let entries: Vec<Entry> = second.publish.iter().map(|publication| publication.entry).collect();
        assert_eq!(entries, [Entry { key: key(2), seen: seen(8, 1) }, Entry { key: key(3), seen: seen(7, 0) }]);
        assert!(in_flight.has_dead(key(9)) && !in_flight.has_dead(key(1)));
    }

    fn of_a(how: How, context: ChunkContext<'_>) -> ChunkContext<'_> {
        ChunkContext { piece: Piece { how, ..context.piece }, ..context }
    }

    fn planned(rows: &[ChunkRow], known: &[Option<KnownLeg>], context: &ChunkContext<'_>) -> ChunkPlan {
        plan(rows, known, context)
    }

    fn published(plan: &ChunkPlan) -> Vec<(usize, u8)> {
        plan.publish.iter().map(|leg| (leg.row, leg.entry.seen.revision)).collect()
    }

    fn remembered(plan: &ChunkPlan) -> Vec<Entry> {
        plan.page.legs().to_vec()
    }

    fn unknown(rows: &[DeadRow]) -> Vec<RowKey> {
        rows.iter().map(|dead| RowKey { key: key(100 + u8::try_from(dead.row).unwrap()), is_known: false }).collect()
    }

    #[test]
    fn what_is_new_is_published_and_what_is_known_is_not() {
        let progress = progress();
        let rows = [leg(1, 7, 8_100), leg(2, 7, 8_200), leg(3, 8, 9_300), leg(1, 7, 8_100), leg(4, 9, 9_400)];
        let known = [None, ours(7, 0), ours(7, 2), None, None];
        let plan = planned(&rows, &known, &context(&progress));
        assert_eq!(published(&plan), [(0, 0), (2, 3), (4, 0)], "each once, a changed one with the next revision");
        assert_eq!((plan.counts.published, plan.counts.revised, plan.counts.duplicate), (2, 1, 2));
        let [first, revised, last] = [(1, 7, 0), (3, 8, 3), (4, 9, 0)]
            .map(|(number, content, revision)| Entry { key: key(number), seen: seen(content, revision) });
        assert_eq!(remembered(&plan), [first, revised, last]);
        assert_eq!(plan.disconnected, [(at(8_100), at(10_000)), (at(9_400), at(10_000))], "a revision is not fresh");
    }

    #[test]
    fn a_leg_that_was_published_under_another_privacy_policy_is_remembered_anew_and_not_revised() {
        let progress = progress();
        let keyed = |policy, hash| Fingerprint::keyed(policy, hash);
        let read = |number, fingerprint| {
            let facts = LegFacts { fingerprint, ..facts(1, 8_100) };
            row(key(number), RowKind::Leg(facts))
        };
        let known = |fingerprint| {
            let seen = Seen { fingerprint: Some(fingerprint), revision: 2 };
            Some(KnownLeg { seen, is_ours: true })
        };
        let rows = [read(1, keyed(1, 7)), read(2, keyed(1, 7)), read(3, keyed(1, 7)), read(4, keyed(1, 7))];
        let known = [known(Fingerprint::from_bits(7)), known(keyed(2, 7)), known(keyed(1, 7)), known(keyed(1, 8))];
        let plan = planned(&rows, &known, &context(&progress));
        assert_eq!((plan.counts.duplicate, plan.counts.revised), (3, 1));
        assert_eq!(published(&plan), [(3, 3)]);
        let anew = |number, revision| {
            let seen = Seen { fingerprint: Some(keyed(1, 7)), revision };
            Entry { key: key(number), seen }
        };
        assert_eq!(remembered(&plan), [anew(1, 2), anew(2, 2), anew(4, 3)]);
    }

    #[test]
    fn a_row_of_another_window_is_left_to_the_read_of_that_window() {
        let progress = progress();
        let rows = [leg(1, 1, 7_999), leg(2, 1, 8_000), leg(3, 1, 9_999), leg(4, 1, 10_000), leg(5, 1, 4_000_000)];
        let plan = planned(&rows, &[None; 5], &context(&progress));
        assert_eq!(published(&plan), [(1, 0), (2, 0)]);
        assert_eq!(plan.counts.outside, 3);
        // From before the span it is a leg like others, and the journal has it at its own time.
        let plan = planned(&[leg(1, 1, 7_000)], &[None], &context(&progress));
        assert_eq!((published(&plan), plan.counts.late), (vec![(0, 0)], 1));
        assert_eq!(plan.page.span(), (at(7_000), at(7_000)));
    }

    #[test]
    fn a_leg_after_the_query_s_end_is_another_window_s_unless_nobody_knows_by_what_it_was_found() {
        let at = UtcMillis::new;
        for basis in [TimeBasis::Disconnect, TimeBasis::Connect] {
            assert!(!is_after(at(99), at(99), at(100), basis));
            assert!(is_after(at(100), at(500), at(100), basis), "connected");
        }
        assert!(is_after(at(100), at(100), at(100), TimeBasis::Disconnect));
        assert!(!is_after(at(100), at(100), at(100), TimeBasis::Connect), "never connected");
    }

    #[test]
    fn a_call_in_progress_is_awaited_until_its_time_is_final() {
        let progress = progress();
        let in_progress = |second| {
            let facts = LegFacts { is_in_progress: true, ..facts(1, second) };
            row(key(1), RowKind::Leg(facts))
        };
        let is_awaited = |second, makes_final_to| {
            let context = ChunkContext { makes_final_to: at(makes_final_to), ..context(&progress) };
            let plan = planned(&[in_progress(second)], &[None], &context);
            assert_eq!(plan.counts.unfinished + plan.counts.published, 1);
            assert_eq!((plan.in_progress, plan.lateness.buckets.len()), (plan.counts.published, 0), "no measure");
            plan.counts.unfinished == 1
        };
        assert!(is_awaited(8_500, 8_500));
        assert!(!is_awaited(8_499, 8_500));
        assert!(is_awaited(8_499, 8_000));
        assert!(is_awaited(8_000, 7_000) && !is_awaited(7_500, 7_000), "nor before what is final already");
    }

    #[test]
    fn a_fingerprint_of_another_version_is_replaced_unless_another_unit_has_it() {
        let progress = progress();
        for (is_ours, expected) in [(true, vec![Entry { key: key(1), seen: seen(7, 2) }]), (false, vec![])] {
            let known = KnownLeg { seen: Seen { fingerprint: None, revision: 2 }, is_ours };
            let plan = planned(&[leg(1, 7, 9_000)], &[Some(known)], &context(&progress));
            assert_eq!((plan.counts.duplicate, remembered(&plan)), (1, expected));
            assert!(plan.publish.is_empty());
        }
    }

    #[test]
    fn a_change_is_remembered_whether_or_not_it_is_published() {
        let progress = progress();
        let context = context(&progress);
        let ignored = ChunkPolicy { revisions: Revisions::Ignore, ..context.policy };
        for (policy, revision, expected) in
            [(ignored, 0, None), (ignored, 255, None), (context.policy, 254, Some(255)), (context.policy, 255, None)]
        {
            let context = ChunkContext { policy, ..context };
            let plan = planned(&[leg(1, 8, 9_000)], &[ours(7, revision)], &context);
            assert_eq!(published(&plan), expected.map(|revision| (0, revision)).into_iter().collect::<Vec<_>>());
            let entry = Entry { key: key(1), seen: seen(8, expected.unwrap_or(revision)) };
            assert_eq!((plan.counts.revised, remembered(&plan)), (1, vec![entry]));
        }
    }

    #[test]
    fn a_sweep_compares_the_unit_s_own_legs_only() {
        let progress = progress();
        let theirs = |content| Some(KnownLeg { seen: seen(content, 0), is_ours: false });
        let rows = [leg(1, 1, 9_000), leg(2, 1, 9_000), leg(3, 1, 9_000), leg(4, 1, 9_000)];
        let known = [None, ours(1, 0), theirs(1), theirs(2)];
        let plan = planned(&rows, &known, &of_a(How::Sweep, context(&progress)));
        assert_eq!(plan.swept, [key(1), key(2)]);
        assert!(planned(&rows, &known, &context(&progress)).swept.is_empty());
        assert_eq!(plan.page.published(), 2, "a revised leg that another unit published is this unit's from now on");
    }

    #[test]
    fn lateness_is_measured_by_what_was_looked_at_before() {
        let progress = progress();
        let measured = |how, second| planned(&[leg(1, 1, second)], &[None], &of_a(how, context(&progress))).lateness;
        let by_overlap = measured(How::Poll, 8_400);
        assert_eq!((by_overlap.by_overlap, by_overlap.closest), (1, Some(SECOND * 400)));
        assert_eq!(measured(How::CatchUp, 9_000).by_overlap, 0, "not looked at before");
        let swept = measured(How::Sweep, 8_400);
        assert_eq!((swept.by_sweep, swept.by_overlap, swept.closest), (1, 0, None));
        assert_eq!(measured(How::Backfill, 8_400), Lateness::default());
        let late = |second| planned(&[leg(1, 1, second)], &[None], &context(&progress)).counts.late;
        assert_eq!((late(7_000), late(8_000), late(8_999)), (1, 0, 0), "what was complete was not final yet");
    }

    #[test]
    fn a_refused_leg_leaves_no_trace_but_a_dead_row() {
        let progress = progress();
        let mut rows = [leg(1, 7, 9_000), leg(1, 8, 9_001), leg(2, 7, 9_002)];
        rows[0].refused = Some(Reason::TooLarge);
        let mut plan = planned(&rows, &[None, None, ours(7, 0)], &context(&progress));
        assert_eq!(published(&plan), [(1, 0)], "what follows is decided as if the first had not been there");
        assert_eq!(plan.dead, [DeadRow { row: 0, reason: Reason::TooLarge, at: at(9_000), kept_to: at(9_000) }]);
        assert_eq!((plan.counts.published, plan.disconnected.len()), (1, 1));
        let letters = plan.bury(&unknown(&plan.dead.clone()), &BTreeSet::new(), DeadRows::Buried);
        assert_eq!((letters.len(), plan.counts.dead, plan.counts.fetched()), (1, 1, 3));
        rows[2].refused = Some(Reason::Timestamp);
        assert_eq!(planned(&rows, &[None, None, ours(7, 0)], &context(&progress)).counts.duplicate, 1, "it is there");
    }

    #[test]
    fn a_dead_row_is_buried_once() {
        let progress = progress();
        let rows: Vec<ChunkRow> = (0..4).map(|number| row(key(number), RowKind::Dead(Reason::CallId))).collect();
        let mut plan = planned(&rows, &[None; 4], &context(&progress));
        let one = |is_known| RowKey { key: key(9), is_known };
        let other = RowKey { key: key(8), is_known: true };
        let letters = plan.bury(
            &[one(false), one(false), other, RowKey { key: key(7), is_known: false }],
            &[3].into(),
            DeadRows::Buried,
        );
        assert_eq!(letters.iter().map(|letter| letter.dead.row).collect::<Vec<_>>(), [0]);
        let expected = Entry { key: key(9), seen: Seen { fingerprint: None, revision: 0 } };
        assert_eq!((letters[0].entry, letters[0].dead.at), (expected, UtcMillis::new(10_000_999)));
        assert_eq!((plan.counts.dead, plan.buried.len(), plan.page.len()), (4, 1, 1));
    }

    #[test]
    fn dead_rows_are_held_but_for_those_that_are_buried_already_or_are_not_to_blame() {
        let progress = progress();
        let mut rows: Vec<ChunkRow> = (0..30).map(|number| row(key(number), RowKind::Dead(Reason::LegId))).collect();
        rows.push(ChunkRow { refused: Some(Reason::TooLarge), ..leg(50, 1, 9_000) });
        let mut plan = plan(&rows, &[None; 31], &context(&progress));
        let mut keys = unknown(&plan.dead);
        keys[3].is_known = true;
        let letters = plan.bury(&keys, &BTreeSet::new(), DeadRows::Held);
        assert_eq!((plan.counts.held, plan.counts.dead, plan.held_for), (29, 2, Some(Reason::LegId)));
        assert_eq!(letters.iter().map(|letter| letter.dead.row).collect::<Vec<_>>(), [30]);
        assert_eq!(plan.counts.fetched(), 31);
    }

    #[test]
    fn a_dead_row_of_an_older_period_may_have_been_buried_and_forgotten() {
        let progress = progress();
        let rows = [row(key(1), RowKind::Dead(Reason::CallId))];
        let counts = |how, from, to| {
            let window = Window::new(at(from), at(to));
            let context = ChunkContext { piece: Piece { window, how }, asked: window, ..context(&progress) };
            planned(&rows, &[None], &context).counts.beyond_horizon
        };
        assert_eq!(counts(How::Sweep, 4_999, 5_100), 1);
        assert_eq!(counts(How::Sweep, 5_000, 5_100), 0, "above the floor nothing is forgotten");
        assert_eq!(counts(How::Backfill, 500, 900), 0, "never read");
        assert_eq!(counts(How::Poll, 4_999, 5_100), 0);
    }

    #[test]
    fn a_dead_row_of_history_is_remembered_until_the_next_window_is_read() {
        let progress = progress();
        let kept_to = |how, from, to| {
            let window = Window::new(at(from), at(to));
            let context = ChunkContext { piece: Piece { window, how }, asked: window, ..context(&progress) };
            let mut plan = planned(&[row(key(1), RowKind::Dead(Reason::CallId))], &[None], &context);
            plan.bury(&[RowKey { key: key(9), is_known: false }], &BTreeSet::new(), DeadRows::Buried);
            plan.page.span().1
        };
        assert_eq!(kept_to(How::Backfill, 500, 900), progress.final_to, "the floor is far above the window");
        assert_eq!(kept_to(How::Poll, 8_000, 10_000), at(10_000).minus(Duration::from_millis(1)));
    }

    /// Some legs in and around the window, few identities, few contents, and dead rows between them.
    fn rows() -> impl Strategy<Value = Vec<ChunkRow>> {
        let reasons = prop_oneof![4 => Just(None), 1 => Just(Some(Reason::TooLarge))];
        let a_leg = (0u8..6, 0u64..3, 7_990i64..10_010, any::<bool>(), reasons).prop_map(
            |(number, content, second, is_in_progress, refused)| ChunkRow {
                kind: RowKind::Leg(LegFacts {
                    is_in_progress: is_in_progress && number == 0,
                    ..facts(content, second)
                }),
                refused,
                ..leg(number, 0, 0)
            },
        );
        let dead = (50u8..54).prop_map(|number| row(key(number), RowKind::Dead(Reason::CallId)));
        let unfinished = (60u8..62).prop_map(|number| row(key(number), RowKind::Unfinished));
        vec(prop_oneof![8 => a_leg, 2 => dead, 1 => unfinished], 0..40)
    }

    /// What is remembered of identities, theirs and ours.
    fn memory() -> impl Strategy<Value = BTreeMap<KeyHash, KnownLeg>> {
        let known = (option::of(0u64..3), 0u8..3, any::<bool>()).prop_map(|(content, revision, is_ours)| {
            let fingerprint = content.map(Fingerprint::from_bits);
            KnownLeg { seen: Seen { fingerprint, revision }, is_ours }
        });
        vec(option::of(known), 6)
            .prop_map(|known| (0..).zip(known).filter_map(|(number, known)| Some((key(number), known?))).collect())
    }

    /// Plans and buries, and remembers what was decided.
    fn publish_all(rows: &[ChunkRow], memory: &mut BTreeMap<KeyHash, KnownLeg>, how: How) -> (ChunkPlan, Vec<Letter>) {
        let progress = progress();
        let known: Vec<_> = rows.iter().map(|row| memory.get(&row.key).copied()).collect();
        let mut plan = planned(rows, &known, &of_a(how, context(&progress)));
        let row_keys: Vec<RowKey> = plan
            .dead
            .iter()
            .map(|dead| {
                let key = KeyHash([rows[dead.row].key.0[0] | 0x80; 16]);
                RowKey { key, is_known: memory.contains_key(&key) }
            })
            .collect();
        let letters = plan.bury(&row_keys, &BTreeSet::new(), DeadRows::Buried);
        let entries = remembered(&plan).into_iter().chain(letters.iter().map(|letter| letter.entry));
        memory.extend(entries.map(|entry| (entry.key, KnownLeg { seen: entry.seen, is_ours: true })));
        (plan, letters)
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_count_and_every_message_in_the_page(rows in rows(), memory in memory()) {
            let (plan, letters) = publish_all(&rows, &mut memory.clone(), How::Poll);
            prop_assert_eq!(plan.counts.fetched(), rows.len() as u64);
            let names: BTreeSet<_> =
                plan.publish.iter().map(|leg| (leg.entry.key, leg.entry.seen.revision)).collect();
            prop_assert_eq!(names.len(), plan.publish.len(), "no revision twice");
            let entries = remembered(&plan);
            prop_assert!(plan.publish.iter().all(|leg| entries.contains(&leg.entry)));
            prop_assert_eq!(plan.page.len(), entries.len() + letters.len());
            prop_assert!(plan.publish.iter().all(|leg| rows[leg.row].refused.is_none()));
            for leg in &plan.publish {
                let before = memory.get(&leg.entry.key).map(|known| known.seen);
                prop_assert!(before.is_none_or(|seen| seen.revision < leg.entry.seen.revision), "{before:?}");
            }
        }

        #[test]
        fn the_same_rows_once_more_give_nothing_new(rows in rows(), mut memory in memory()) {
            // As after a doubtful commit that had come through. Of two contents in one chunk the last is remembered.
            let mut last = BTreeMap::new();
            for (index, row) in rows.iter().enumerate() {
                last.insert(row.key, index);
            }
            let rows: Vec<ChunkRow> =
                rows.iter().enumerate().filter(|(index, row)| last[&row.key] == *index).map(|(_, row)| row.clone()).collect();
            publish_all(&rows, &mut memory, How::Poll);
            let (again, letters) = publish_all(&rows, &mut memory, How::Poll);
            prop_assert!(again.publish.is_empty() && letters.is_empty() && again.page.is_empty());
            prop_assert_eq!(again.counts.published + again.counts.revised, 0);
        }

        #[test]
        fn where_a_chunk_is_cut_changes_nothing(
            rows in rows(),
            memory in memory(),
            cut in 0usize..40,
            how in prop_oneof![Just(How::Poll), Just(How::Sweep), Just(How::Backfill)],
        ) {
            let (first, second) = rows.split_at(cut.min(rows.len()));
            let (mut of_whole, mut of_parts) = (memory.clone(), memory);
            let (whole, letters) = publish_all(&rows, &mut of_whole, how);
            let (a, a_letters) = publish_all(first, &mut of_parts, how);
            let (b, b_letters) = publish_all(second, &mut of_parts, how);
            prop_assert_eq!(published(&whole).len(), published(&a).len() + published(&b).len());
            prop_assert_eq!(letters.len(), a_letters.len() + b_letters.len());
            let mut counts = a.counts;
            counts += b.counts;
            prop_assert_eq!(whole.counts, counts);
            prop_assert_eq!(format!("{of_whole:?}"), format!("{of_parts:?}"));
            let swept: Vec<_> = a.swept.iter().chain(&b.swept).copied().collect();
            prop_assert_eq!(whole.swept, swept);
            let mut lateness = a.lateness;
            lateness.add(&b.lateness);
            prop_assert_eq!(whole.lateness, lateness);
        }
    }
}
