//! A page made ready: its rows parsed and hashed, and the message of each leg written as it is if the leg is new.
//!
//! ```text
//!   page ─▶ known by its bytes? ─┬─ no ──▶ parse, treat ─▶ identity, fingerprint, time ─▶ message
//!                                └─ yes ─▶ identity, fingerprint, time, as they were found before
//! ```
//!
//! Nothing here asks the view, the journal or the clock, so that a page is made ready in a task of its own, beside the
//! transaction of the page before. What was found depends on a row's bytes alone: in the overlap of two polls most rows
//! come again as they were, and are not parsed again. Whether a leg is new is not decided here, nor what may have changed
//! since the read began: a message that says otherwise than is decided then is not used (see [`ReadyRow::new_leg`]).

use std::cmp::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono_tz::Tz;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::leg_message::{LegWriter, Origin, Parts, RowTimes, Written};
use crate::core::chunk::LegFacts;
use crate::core::dead_letter::Reason;
use crate::core::dedupe::Seen;
use crate::core::identity::KeyHash;
use crate::core::journal::Entry;
use crate::core::leg::{Leg, TimeBasis, position, time_of};
use crate::core::privacy::Privacy;
use crate::core::time::UtcMillis;
use crate::core::zone::{self, Contradiction, Texts};
use crate::source::Page;
use crate::source::wire::{self, Row};

/// Half of how many rows are remembered by their bytes: 9 MB for all, and the overlap of twenty legs a second.
const KNOWN_MAX: usize = 57_000;

/// A leg's message takes at most this percentage of its JSON text, as a rule; where it takes more, the memory grows.
const MESSAGE_PERCENT: usize = 60;

/// How many rows are looked at before others have their turn: a fraction of a millisecond.
const ROWS_AT_ONCE: usize = 128;

/// Makes pages ready; one for all units.
pub(crate) struct Preparer {
    terms: PageTerms,
    known: Mutex<KnownRows>,
}

/// How pages are made ready; fixed for the life of the process.
#[derive(Clone, Debug)]
pub(crate) struct PageTerms {
    pub(crate) writer: LegWriter,
    pub(crate) time_basis: TimeBasis,
    pub(crate) zone: Tz,
    /// How personal values are treated.
    pub(crate) privacy: Privacy,
    /// Random, so that nobody can make two rows that are taken for one.
    pub(crate) seed: u64,
}

/// A page whose rows are ready to be classified.
pub(crate) struct Prepared {
    page: Page,
    /// When it was received.
    seen_at: UtcMillis,
    rows: Vec<Ready>,
    /// What goes into messages, one leg after the other.
    messages: Bytes,
    generation: u32,
    late_before: UtcMillis,
    /// The rows that contradict our idea of the zone, by their places on the page.
    contradictions: Vec<(usize, Contradiction)>,
}

/// What was found of a row.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// The leg's identity, or the row's own hash.
    pub(crate) key: KeyHash,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A leg; where it was known by its bytes it has no message.
    Leg(LegFacts, Option<Written>),
    Dead(Reason),
    Unfinished,
}

/// A row of a page that is ready.
#[derive(Clone, Copy)]
pub(crate) struct ReadyRow<'a> {
    page: &'a Prepared,
    index: usize,
}

impl Preparer {
    pub(crate) fn new(terms: PageTerms) -> Self {
        Self { terms, known: Mutex::default() }
    }

    /// Makes a page ready, with a pause for others every few rows.
    pub(crate) async fn prepare(&self, page: Page, seen_at: UtcMillis, origin: &Origin) -> Prepared {
        let hashes: Vec<RowHash> = page.rows().map(|row| self.hash(row.as_bytes())).collect();
        let known = self.known().find(&hashes);
        let new = known.iter().filter(|known| known.is_none()).count();
        let new_percent = new * 100 / hashes.len().max(1);
        let mut messages = Vec::with_capacity(page.size_bytes() / 100 * new_percent / 100 * MESSAGE_PERCENT);
        let (mut rows, mut contradictions, mut learnt) = (Vec::with_capacity(page.len()), Vec::new(), Vec::new());
        let (mut spare, mut scratch) = (None, Vec::new());
        for (index, (hash, known)) in hashes.into_iter().zip(known).enumerate() {
            if let Some((key, found)) = known {
                rows.push(Ready { key, what: What::Leg(found, None) });
                continue;
            }
            let row = page.row(index);
            let of_raw = || KeyHash::of_dead_row(row.as_bytes());
            rows.push(match wire::row_in(row, spare.take()) {
                Row::Leg(mut leg) => {
                    self.terms.privacy.treat(&mut leg);
                    let (found, contradiction) = self.found(&leg, &mut scratch);
                    let key = KeyHash::of_leg(&leg);
                    match contradiction {
                        Some(contradiction) => contradictions.push((index, contradiction)),
                        None => learnt.push((hash, (key, found))),
                    }
                    let entry = Entry { key, seen: Seen { fingerprint: Some(found.fingerprint), revision: 0 } };
                    let times = RowTimes { at: found.at, seen_at };
                    // What does not fit the schema is tried again where it can be buried.
                    let written = self.terms.writer.write(&leg, entry, times, origin, &mut messages).ok();
                    spare = Some(leg);
                    Ready { key, what: What::Leg(found, written) }
                }
                Row::Dead(reason) => Ready { key: of_raw(), what: What::Dead(reason) },
                Row::Unfinished => Ready { key: of_raw(), what: What::Unfinished },
            });
            if index % ROWS_AT_ONCE == ROWS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        drop(spare);
        self.known().learn(learnt);
        let Origin { generation, late_before, .. } = *origin;
        Prepared { page, seen_at, rows, messages: messages.into(), generation, late_before, contradictions }
    }

    /// What a treated leg says, and how its texts contradict our idea of the zone, if they do.
    fn found(&self, leg: &Leg<'_>, scratch: &mut Vec<u8>) -> (LegFacts, Option<Contradiction>) {
        let PageTerms { time_basis, zone, .. } = self.terms;
        let (texts, contradiction) = judge_texts(leg, time_basis, zone);
        let found = LegFacts {
            fingerprint: self.terms.privacy.fingerprint_in(leg, scratch),
            at: time_of(leg, time_basis),
            disconnected: leg.disconnected,
            texts,
            is_in_progress: leg.is_in_progress(),
        };
        (found, contradiction)
    }

    fn hash(&self, raw: &[u8]) -> RowHash {
        let hash = xxh3_128_with_seed(raw, self.terms.seed).to_ne_bytes();
        let [low, high] = [0, 8].map(|start| u64::from_ne_bytes(std::array::from_fn(|byte| hash[start + byte])));
        (low, high)
    }

    /// Forgets all rows.
    pub(crate) fn forget(&self) {
        *self.known() = KnownRows::default();
    }

    fn known(&self) -> MutexGuard<'_, KnownRows> {
        // What a panic leaves is true of each row all the same.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared {
    /// A row.
    pub(crate) const fn row(&self, index: usize) -> ReadyRow<'_> {
        ReadyRow { page: self, index }
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many bytes its body has.
    pub(crate) fn size_bytes(&self) -> usize {
        self.page.size_bytes()
    }
}

impl<'a> ReadyRow<'a> {
    /// The bytes that the API sent.
    pub(crate) fn raw(self) -> &'a [u8] {
        self.page.page.row(self.index).as_bytes()
    }

    /// How many they are.
    pub(crate) fn raw_bytes(self) -> usize {
        self.page.page.row_bytes(self.index)
    }

    /// When they were received.
    pub(crate) fn seen_at(self) -> UtcMillis {
        self.page.seen_at
    }

    pub(crate) fn ready(self) -> &'a Ready {
        &self.page.rows[self.index]
    }

    /// What in it contradicts our idea of the zone.
    pub(crate) fn contradiction(self) -> Option<Contradiction> {
        // In the order of the rows: where the zone is wrong, every row has one.
        let contradictions = &self.page.contradictions;
        let found = contradictions.binary_search_by_key(&self.index, |(index, _)| *index).ok()?;
        contradictions.get(found).map(|(_, contradiction)| *contradiction)
    }

    /// What an order by time goes by, oldest first; what is no leg comes last.
    pub(crate) fn time(self) -> UtcMillis {
        match &self.ready().what {
            What::Leg(leg, _) => leg.disconnected,
            What::Dead(_) | What::Unfinished => UtcMillis::new(i64::MAX),
        }
    }

    /// Whether it was not known by its bytes, so that its leg may be new.
    pub(crate) fn has_message(self) -> bool {
        matches!(self.page.rows[self.index].what, What::Leg(_, Some(_)))
    }

    /// Legs of the same instant are ordered by their call IDs and leg IDs.
    pub(crate) fn cmp_ids(self, other: Self) -> Ordering {
        let by_key = self.message_key().zip(other.message_key()).map(|(a, b)| a.cmp(b));
        by_key.filter(|order| order.is_ne()).unwrap_or_else(|| self.ids().cmp(&other.ids()))
    }

    /// The key of its message, which is the call ID.
    fn message_key(self) -> Option<&'a [u8]> {
        let What::Leg(_, Some(written)) = &self.ready().what else { return None };
        Some(written.key(&self.page.messages))
    }

    fn ids(self) -> (String, String) {
        match wire::row(self.raw()) {
            Row::Leg(leg) => (leg.call_id().to_owned(), leg.leg_id().to_owned()),
            Row::Dead(_) | Row::Unfinished => Default::default(),
        }
    }

    /// The leg's message, where it has one and its unit is as the message says: of this generation and final so far.
    pub(crate) fn new_leg(self, generation: u32, late_before: UtcMillis) -> Option<Parts> {
        let What::Leg(found, Some(written)) = &self.ready().what else { return None };
        let is_late = |late_before| found.at < late_before;
        if self.page.generation != generation || is_late(self.page.late_before) != is_late(late_before) {
            return None;
        }
        Some(written.parts(&self.page.messages))
    }
}

/// A row's bytes, hashed.
type RowHash = (u64, u64);

/// What was found of legs by their rows' bytes: the newest, in two halves, of which the older is forgotten as a whole.
#[derive(Default)]
struct KnownRows {
    young: FxHashMap<RowHash, (KeyHash, LegFacts)>,
    old: FxHashMap<RowHash, (KeyHash, LegFacts)>,
}

impl KnownRows {
    fn find(&mut self, hashes: &[RowHash]) -> Vec<Option<(KeyHash, LegFacts)>> {
        hashes.iter().map(|hash| self.young.get(hash).copied().or_else(|| self.find_old(hash))).collect()
    }

    fn find_old(&mut self, hash: &RowHash) -> Option<(KeyHash, LegFacts)> {
        let found = self.old.remove(hash)?;
        self.learn([(*hash, found)]);
        Some(found)
    }

    fn learn(&mut self, learnt: impl IntoIterator<Item = (RowHash, (KeyHash, LegFacts))>) {
        for (hash, found) in learnt {
            if self.young.len() >= KNOWN_MAX {
                std::mem::swap(&mut self.young, &mut self.old);
                self.young.clear();
            }
            self.young.insert(hash, found);
        }
    }
}

/// What the texts beside the times that decide about windows say of the zone.
fn judge_texts(leg: &Leg<'_>, basis: TimeBasis, zone: Tz) -> (Texts, Option<Contradiction>) {
    let disconnected = zone::judge(leg, position::DISCONNECTED_TIME, zone);
    if basis == TimeBasis::Disconnect {
        return disconnected;
    }
    let connected = zone::judge(leg, position::CONNECT_TIME, zone);
    (disconnected.0.max(connected.0), disconnected.1.or(connected.1))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ops::Range;

    use bytes::Bytes;

    use super::*;
    use crate::codec::{Framing, LegEncoder};
    use crate::core::identity::Fingerprint;
    use crate::core::journal::Trace;
    use crate::core::leg::{How, Ingest};
    use crate::core::planner::Piece;
    use crate::core::time::Window;

    const FRAMING: Framing = Framing::Confluent { schema_id: 7 };

    pub(crate) fn terms() -> PageTerms {
        let writer = LegWriter::new(FRAMING, "journal");
        let privacy = Privacy::default();
        PageTerms { writer, time_basis: TimeBasis::Disconnect, zone: Tz::UTC, privacy, seed: 7 }
    }

    /// Of a read in the middle of which [`row`]'s legs are, all of them late.
    pub(crate) fn origin_of_polls() -> Origin {
        let window = Window::new(UtcMillis::new(1_643_898_000_000), UtcMillis::new(1_643_899_000_000));
        let late_before = UtcMillis::new(1_643_898_472_254);
        Origin { unit: "u".to_owned(), piece: Piece { window, how: How::Poll }, generation: 3, late_before }
    }

    #[test]
    fn the_connect_times_text_matters_only_where_windows_are_cut_on_it() {
        let row = |connected: &str, disconnected: &str| {
            format!(
                r#"{{"callId":"1","legId":"1","connectTimeUTC":1643898447539,"connectTime":"{connected}",
                "disconnectedTimeUTC":1643898472253,"disconnectedTime":"{disconnected}"}}"#
            )
        };
        let found = |raw: &str, basis| match wire::row(raw.as_bytes()) {
            Row::Leg(leg) => judge_texts(&leg, basis, Tz::America__New_York).0 == Texts::Contradict,
            other => panic!("expected a leg, got {other:?}"),
        };
        let right = ("2022-02-03T09:27:27.539-0500", "2022-02-03T09:27:52.253-0500");
        let utc = ("2022-02-03T14:27:27.539+0000", "2022-02-03T14:27:52.253+0000");
        for (raw, on_connect, on_disconnect) in [
            (row(right.0, right.1), false, false),
            (row(utc.0, right.1), true, false),
            (row(right.0, utc.1), true, true),
            (row("0", right.1), false, false),
        ] {
            assert_eq!(found(&raw, TimeBasis::Connect), on_connect, "{raw}");
            assert_eq!(found(&raw, TimeBasis::Disconnect), on_disconnect, "{raw}");
        }
    }

    fn page(rows: &[String]) -> Page {
        wire::page(format!(r#"{{"data":[{}]}}"#, rows.join(",")).into()).unwrap()
    }

    fn row(call: usize, more: &str) -> String {
        format!(
            r#"{{"callId":"{call}","legId":"1","disconnectedTimeUTC":1643898472253,"disconnectedTime":"2022-02-03T14:27:52.253+0000"{more}}}"#
        )
    }

    #[tokio::test]
    async fn a_row_that_comes_again_is_found_the_same_and_is_not_parsed() {
        let (preparer, origin) = (Preparer::new(terms()), origin_of_polls());
        let rows = [
            row(1, ""),
            row(2, r#","callerName":"ann""#),
            row(2, r#","callerName":"bob""#),
            row(4, r#","status":"In Progress""#).replace("52.253+", "50.253+"),
            "7".to_owned(),
            row(3, r#","status":"In Progress""#).replace("1643898472253", "null"),
        ];
        let first = preparer.prepare(page(&rows), UtcMillis::new(1), &origin).await;
        let again = preparer.prepare(page(&rows), UtcMillis::new(2), &origin).await;
        for (first, again) in (0..first.len()).map(|index| (first.row(index), again.row(index))) {
            assert_eq!((first.raw(), first.ready().key), (again.raw(), again.ready().key));
            match (&first.ready().what, &again.ready().what) {
                (What::Leg(found, Some(_)), What::Leg(known, None)) => assert_eq!(found, known),
                (What::Dead(found), What::Dead(again)) => assert_eq!(found, again),
                (What::Unfinished, What::Unfinished) => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(again.seen_at(), UtcMillis::new(2));
        }
        let [a, b] = [1, 2].map(|index| match &again.rows[index].what {
            What::Leg(found, _) => found.fingerprint,
            other => panic!("{other:?}"),
        });
        assert_ne!(a, b, "one identity, two contents");
        let What::Leg(slip, None) = &again.rows[3].what else { panic!("a leg that is known") };
        assert_eq!((slip.texts, slip.is_in_progress), (Texts::Slip, true), "known by its bytes, it says the same");
    }

    #[tokio::test]
    async fn a_new_leg_s_message_is_used_only_while_it_says_what_is_so() {
        let (origin, seen_at) = (origin_of_polls(), UtcMillis::new(5));
        let prepared = Preparer::new(terms()).prepare(page(&[row(1, ""), row(2, "")]), seen_at, &origin).await;
        let second = prepared.row(1);
        let message = second.new_leg(3, origin.late_before).unwrap();

        let Row::Leg(leg) = wire::row(second.raw()) else { panic!("a leg") };
        let Origin { piece: Piece { window, how }, .. } = origin;
        let ingest = Ingest { first_seen: seen_at, how, late: true, revision: 0, window };
        let mut payload = Vec::new();
        FRAMING.write_header(&mut payload);
        LegEncoder::new().encode(&leg, &ingest, &mut payload).unwrap();
        let seen = Seen { fingerprint: Some(Fingerprint::of_leg(&leg)), revision: 0 };
        let trace = Trace::bytes_of(Trace::journal_tag("journal"), seen, 3, leg.disconnected, "u");
        assert_eq!((&*message.key, &*message.payload), (&b"2"[..], &*payload));
        let identity = Bytes::copy_from_slice(&KeyHash::of_leg(&leg).0);
        assert_eq!(message.headers, [(KeyHash::HEADER, identity), (Trace::HEADER, trace.into())]);

        let later = origin.late_before.plus(std::time::Duration::from_secs(1));
        assert!(second.new_leg(3, later).is_some(), "it stays late");
        assert!(second.new_leg(3, leg.disconnected).is_none(), "it is no longer late");
        assert!(second.new_leg(4, origin.late_before).is_none(), "the unit was rewound");
    }

    #[tokio::test]
    async fn a_row_that_contradicts_the_zone_says_so_each_time() {
        let preparer = Preparer::new(PageTerms { zone: Tz::America__New_York, ..terms() });
        let origin = origin_of_polls();
        for _ in 0..2 {
            let prepared = preparer.prepare(page(&[row(1, ""), row(2, "")]), UtcMillis::new(1), &origin).await;
            assert!((0..2).all(|index| prepared.row(index).contradiction().is_some()));
        }
    }

    #[test]
    fn the_newest_rows_are_remembered_and_the_others_forgotten() {
        let mut known = KnownRows::default();
        let instant = UtcMillis::new(0);
        let found = LegFacts {
            fingerprint: Fingerprint::from_bits(1),
            at: instant,
            disconnected: instant,
            texts: Texts::Agree,
            is_in_progress: false,
        };
        let rows = |range: Range<u64>| range.map(|number| ((number, 0), (KeyHash([1; 16]), found)));
        let many = KNOWN_MAX as u64;
        known.learn(rows(0..many));
        assert!(known.find(&[(0, 0)])[0].is_some());
        known.learn(rows(many..2 * many));
        assert!(known.find(&[(0, 0), (many, 0), (2 * many, 0)]).iter().map(Option::is_some).eq([true, true, false]));
        known.learn(rows(2 * many..4 * many));
        assert!(known.find(&[(1, 0), (many, 0)]).iter().all(Option::is_none));
        assert!(known.young.len() + known.old.len() <= 2 * KNOWN_MAX);
    }
}
