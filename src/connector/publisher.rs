//! Classify, encode, publish: a page of rows becomes a transaction, and so does every step of a unit's progress.
//!
//! One for all units. Whatever is doubtful is looked at again: after a take-over the rows are
//! classified anew against what the journal then says, so that what came through is not sent twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use tokio::time::Instant;

use super::fault::Fault;
use super::order::Order;
use super::owner::{Decision, Owner};
use super::transaction::{CommitError, Draft, PAGE_ENTRIES_MAX, PageDraft};
use crate::clock::Clock;
use crate::codec::{Framing, LegEncoder};
use crate::config::{MessageTimestamp, Revisions, TimeBasis};
use crate::core::dead_letter::{Budget, Reason};
use crate::core::dedupe::{Counts, Seen, Verdict, classify};
use crate::core::feed::{UnitFeed, state};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{
    Backfill, BackfillState, Chain, Change, ChangeKind, Delivery, Entry, Nonce, OutOffsets, Record, Swept, Trace,
    UnitProgress,
};
use crate::core::lateness::{self, Found, Lateness};
use crate::core::ledger::Ledger;
use crate::core::leg::{How, Ingest, Leg, Value, position};
use crate::core::planner::Piece;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress};
use crate::core::zone::{self, Contradiction};
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, Destination, Message, Packing};
use crate::source::wire::{self, Row};
use crate::store::View;
use crate::telemetry::metrics::{UnitFoundLabels, UnitLabel, UnitResultLabels};
use crate::telemetry::status::BackfillStatus;
use crate::telemetry::{Metrics, StatusBoard};

/// When a transaction counts as overdue; a broker's restart takes about as long.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);

/// How often it is said again.
const OVERDUE_REPEATED: Duration = Duration::from_secs(300);

/// How long a row that the brokers refuse is not offered again; then the topic may have been mended.
const REFUSED_KEPT: Duration = Duration::from_secs(3600);

/// How many rows go into one transaction when each is sent in a record batch of its own.
const ALONE_MAX: usize = 100;

/// How many bytes of rows go into one transaction at most; as Avro they are less.
const CHUNK_BYTES_MAX: usize = 8 << 20;

/// How many backfills that have ended are kept in the journal.
const BACKFILLS_KEPT: usize = 20;

/// Less of the overlap left than this part of it is worth a warning.
const NEAR_THE_EDGE: u32 = 5;

/// After how long it is said again.
const WARNED_AGAIN: Duration = Duration::from_secs(3600);

/// How many such rows are remembered.
const REFUSED_KEPT_MAX: usize = 10_000;

/// How records are made; fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct RecordTerms {
    /// What stands before each datum.
    pub framing: Framing,
    /// What a record's timestamp is.
    pub timestamp: MessageTimestamp,
    /// On which of a leg's times the windows are cut.
    pub time_basis: TimeBasis,
    /// Settle, overlap and horizon.
    pub delays: Delays,
    /// A leg between whose two bounds of lateness there is more was found after a pause, and is no measure.
    pub apart_max: Duration,
    /// What becomes of a leg whose content changed after it was published.
    pub revisions: Revisions,
    /// The share of a unit's newest rows that may be dead.
    pub dead_ratio_max: f64,
}

/// Publishes for all units.
pub(super) struct Publisher<C: Cluster, V> {
    owner: Owner<C, V>,
    terms: RecordTerms,
    encoder: LegEncoder,
    clock: Arc<dyn Clock>,
    status: StatusBoard,
    metrics: Arc<Metrics>,
    /// Counted, and not yet in any progress.
    uncommitted: BTreeMap<String, Counts>,
    /// The state that was last told of each unit, and since when.
    told: BTreeMap<String, (&'static str, UtcMillis)>,
    /// Rows that the brokers have refused for their content, by the hash of their bytes: each refusal
    /// costs a transaction and a take-over, so they are not offered again for a while.
    refused: HashMap<KeyHash, (Reason, Instant)>,
    /// By unit: how many of its newest rows were dead.
    budgets: HashMap<String, Budget>,
    /// When it was said of a unit that its legs come near the overlap's edge.
    warned: BTreeMap<String, Instant>,
    /// Whether this process has begun the journal.
    pub(super) has_begun: bool,
}

/// In what context a page was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read<'a> {
    /// The unit.
    pub(super) unit: &'a str,
    /// The window and the kind of read.
    pub(super) piece: Piece,
    /// The span of time that the query asked for, margins included.
    pub(super) asked: Window,
    /// The zone in which it asked.
    pub(super) zone: Tz,
    /// When the page was received.
    pub(super) seen_at: UtcMillis,
}

/// A row that cannot be published.
struct DeadRow {
    row: usize,
    reason: Reason,
    /// By when it may be forgotten; without a time of its own not before all that the query has asked for.
    at: UtcMillis,
}

/// A chunk of rows, classified and encoded.
struct Batch {
    counts: Counts,
    messages: Vec<Message>,
    /// For each message the row that it came from.
    rows: Vec<usize>,
    /// When the new legs were disconnected.
    disconnected: Vec<UtcMillis>,
    lateness: Lateness,
    /// Every row, by its leg's identity or its own hash.
    seen: Vec<KeyHash>,
    /// How many dead rows the unit may have after these.
    budget: Budget,
    /// The first row that contradicts our idea of the zone.
    contradiction: Option<Contradiction>,
    page: PageDraft,
}

/// What a pass over a window's pages has seen.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Distinct rows.
    pub(super) rows: HashSet<KeyHash>,
    /// Dead rows that were held back.
    pub(super) held: u64,
    /// A row that contradicts our idea of the zone; it is a leg like others.
    pub(super) contradiction: Option<Contradiction>,
}

impl Sightings {
    fn take(&mut self, batch: &Batch) {
        self.rows.extend(&batch.seen);
        self.held += batch.counts.held;
        self.contradiction = self.contradiction.or(batch.contradiction);
    }
}

impl<C: Cluster, V: View> Publisher<C, V> {
    pub(super) fn new(
        owner: Owner<C, V>,
        terms: RecordTerms,
        clock: Arc<dyn Clock>,
        status: StatusBoard,
        metrics: Arc<Metrics>,
    ) -> Self {
        let encoder = LegEncoder::new();
        Self {
            owner,
            terms,
            encoder,
            clock,
            status,
            metrics,
            uncommitted: BTreeMap::new(),
            told: BTreeMap::new(),
            refused: HashMap::new(),
            budgets: HashMap::new(),
            warned: BTreeMap::new(),
            has_begun: false,
        }
    }

    /// Gives the journal up without another word.
    pub(super) async fn give_up(&mut self) -> Result<(), Fault> {
        self.owner.give_up().await
    }

    /// Waits until nobody else owns the journal, takes over, and begins a new journal where there is none.
    ///
    /// An operator's order may have decided about what would be refused.
    pub(super) async fn open(&mut self, order: Option<&Order>) -> Result<(), Fault> {
        self.owner.decision = order.and_then(Order::decision);
        self.owner.is_source_checked = order.is_none();
        self.owner.stand_by().await?;
        self.owner.own().await?;
        while self.owner.follower.ledger.head.genesis.is_none() {
            let opened = match self.owner.genesis().await {
                Ok(genesis) => {
                    tracing::info!(journal = %genesis.journal, "beginning a new journal");
                    self.has_begun = true;
                    let units = self.owner.terms.units.iter().map(|unit| self.unstarted(unit)).collect();
                    let draft = Draft { genesis: Some(Record::Genesis(genesis)), units, ..Draft::default() };
                    self.owner.commit(draft).await
                }
                Err(fault) => Err(fault.into()),
            };
            if self.go_on_after(opened).await? && self.owner.decision == Some(Decision::Adopt) {
                // Taking over once more reads the topics back, now that there is a journal.
                self.owner.session = None;
            }
            self.owner.own().await?;
        }
        self.announce_all();
        // A command changes nothing but what it was asked for.
        if order.is_some() { Ok(()) } else { self.tell_of_units_no_longer_read().await }
    }

    /// A unit's progress; `None` for one that is not in the journal.
    pub(super) fn progress(&self, unit: &str) -> Option<&UnitProgress> {
        self.owner.follower.ledger.head.units.get(unit)
    }

    /// What the journal adds up to.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.owner.follower.ledger
    }

    /// Commits what a read of `window`, begun at `begun` and finished, says of a unit's progress, and gives that;
    /// `None` when the unit was rewound meanwhile, so that the read says nothing any more.
    pub(super) async fn advance(
        &mut self,
        unit: &str,
        generation: u32,
        window: Window,
        begun: UtcMillis,
    ) -> Result<Option<Progress>, Fault> {
        let delays = self.terms.delays;
        self.alter(unit, generation, |unit| unit.progress.advance(window, begun, &delays)).await
    }

    /// Commits that a sweep was done; `None` as in [`Self::advance`].
    pub(super) async fn note_swept(
        &mut self,
        unit: &str,
        generation: u32,
        swept: Swept,
    ) -> Result<Option<Progress>, Fault> {
        self.alter(unit, generation, |unit| unit.note_swept(swept)).await
    }

    /// The backfill of a unit that comes next.
    pub(super) fn next_backfill(&self, unit: &str) -> Option<Backfill> {
        let known = self.ledger().head.backfills.values();
        let running = known.filter(|known| known.unit == unit && known.state == BackfillState::Running);
        running.min_by_key(|known| (known.at, known.id)).cloned()
    }

    /// Shows how far a backfill has come.
    pub(super) fn show_backfill(&self, id: Nonce) {
        let Some(backfill) = self.ledger().head.backfills.get(&id) else { return };
        let coverage = self.progress(&backfill.unit).map(|unit| unit.progress.coverage.clone()).unwrap_or_default();
        let left_ms = coverage.holes(backfill.window).iter().map(|hole| hole.length().as_millis()).sum::<u128>();
        let shown = BackfillStatus {
            id,
            unit: backfill.unit.clone(),
            window: backfill.window,
            left_ms: u64::try_from(left_ms).unwrap_or(u64::MAX),
            state: backfill.state,
            counts: backfill.counts,
            trouble: None,
        };
        self.status.update(|status| {
            status.backfills.insert(id, shown);
        });
    }

    /// Commits that a backfill has read a window whole; `false` when the unit was rewound meanwhile.
    pub(super) async fn cover(
        &mut self,
        unit: &str,
        generation: u32,
        window: Window,
        backfill: Nonce,
        counts: Counts,
    ) -> Result<bool, Fault> {
        loop {
            self.owner.own().await?;
            let Some(known) = self.progress(unit).filter(|known| known.generation == generation) else {
                return Ok(false);
            };
            if known.progress.coverage.holes(window).is_empty() {
                // A doubtful attempt had come through.
                return Ok(true);
            }
            let mut unit = self.with_uncommitted(known);
            unit.progress.coverage.add(window);
            let further = self.ledger().head.backfills.get(&backfill).cloned().map(|mut backfill| {
                backfill.counts += counts;
                Record::Backfill(backfill)
            });
            let draft = Draft { backfills: further.into_iter().collect(), units: vec![unit], ..Draft::default() };
            if self.commit_with_feeds(draft).await? {
                self.show_backfill(backfill);
                return Ok(true);
            }
        }
    }

    /// Commits what an operator wants backfilled, or what became of it.
    pub(super) async fn note_backfill(&mut self, backfill: &Backfill) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            if self.ledger().head.backfills.get(&backfill.id) == Some(backfill) {
                self.show_backfill(backfill.id);
                return Ok(());
            }
            // Those of long ago are of no interest any more.
            let known = self.ledger().head.backfills.values();
            let mut ended: Vec<&Backfill> = known.filter(|known| known.state != BackfillState::Running).collect();
            ended.sort_by_key(|known| std::cmp::Reverse(known.at));
            let forgotten = ended.iter().skip(BACKFILLS_KEPT).map(|known| Record::BackfillForgotten(known.id));
            let backfills = forgotten.chain([Record::Backfill(backfill.clone())]).collect();
            let units = self.progress(&backfill.unit).map(|unit| self.with_uncommitted(unit)).into_iter().collect();
            if self.commit_with_feeds(Draft { backfills, units, ..Draft::default() }).await? {
                self.show_backfill(backfill.id);
                return Ok(());
            }
        }
    }

    /// Commits a change of a unit's progress, where it changes anything, and gives what it then is.
    async fn alter(
        &mut self,
        unit: &str,
        generation: u32,
        change: impl Fn(&mut UnitProgress),
    ) -> Result<Option<Progress>, Fault> {
        loop {
            self.owner.own().await?;
            let Some(known) = self.progress(unit).filter(|known| known.generation == generation) else {
                return Ok(None);
            };
            let mut altered = known.clone();
            change(&mut altered);
            if altered == *known {
                return Ok(Some(altered.progress));
            }
            let progress = altered.progress.clone();
            let altered = self.with_uncommitted(&altered);
            if self.commit_progress(vec![altered]).await? {
                return Ok(Some(progress));
            }
        }
    }

    /// Starts a unit that was never read.
    pub(super) async fn begin(&mut self, unit: &str, progress: Progress) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let known = self.progress(unit).cloned().unwrap_or_else(|| self.unstarted(unit));
            // A doubtful attempt may have come through, or the view had to be built anew first.
            if known.is_started() {
                return Ok(());
            }
            let change = Some(Change { what: ChangeKind::Started, at: self.clock.now() });
            let source = self.owner.terms.source;
            let begun = UnitProgress { progress: progress.clone(), source, change, ..self.with_uncommitted(&known) };
            if self.commit_progress(vec![begun]).await? {
                return Ok(());
            }
        }
    }

    /// Writes every unit's progress and status, so that readers see that the connector lives.
    pub(super) async fn beat(&mut self) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let units = self.owner.terms.units.iter().filter_map(|unit| self.progress(unit));
            let mut units: Vec<UnitProgress> = units.map(|unit| self.with_uncommitted(unit)).collect();
            if units.is_empty() {
                // None of the configured units was ever read: the journal shows all the same that we live.
                units = self.ledger().head.units.values().cloned().collect();
            }
            if self.commit_progress(units).await? {
                return Ok(());
            }
        }
    }

    /// Says that the connector stops on purpose, and gives the journal up.
    pub(super) async fn release(&mut self) -> Result<(), Fault> {
        if self.owner.session.is_none() {
            return Ok(());
        }
        let units: Vec<UnitProgress> = self
            .owner
            .terms
            .units
            .iter()
            .filter_map(|unit| self.progress(unit))
            .map(|unit| self.with_uncommitted(unit))
            .collect();
        let feeds = units.iter().map(|unit| self.feed_in(unit, state::STOPPED, self.clock.now())).collect();
        let committed = self.owner.commit(Draft { units, feeds, ..Draft::default() }).await;
        if committed.is_err() {
            return Ok(());
        }
        self.owner.give_up().await
    }

    /// Commits units as an operator has changed them.
    pub(super) async fn change(&mut self, units: Vec<UnitProgress>) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let changed = units.iter().map(|unit| self.with_uncommitted(unit)).collect();
            if self.commit_progress(changed).await? {
                return Ok(());
            }
        }
    }

    /// Starts a unit whose published legs were adopted, from the oldest of them on.
    pub(super) async fn start_adopted(&mut self, unit: &str, oldest: UtcMillis) -> Result<(), Fault> {
        let known = self.progress(unit).cloned().unwrap_or_else(|| self.unstarted(unit));
        let progress = Progress::starting_at(oldest, &self.terms.delays);
        let change = Some(Change { what: ChangeKind::Adopted, at: self.clock.now() });
        let source = self.owner.terms.source;
        self.change(vec![UnitProgress { progress, source, change, ..known }]).await
    }

    /// Empties the view and builds it anew from the journal.
    pub(super) async fn start_over(&mut self) -> Result<(), Fault> {
        self.owner.own().await?;
        let rebuilt = self
            .owner
            .busy_with(async |follower| {
                follower.start_over().await?;
                follower.catch_up().await
            })
            .await;
        rebuilt.map(|_| ())
    }

    /// Compares the view with the journal, in words.
    pub(super) async fn verify(&mut self) -> Result<String, Fault> {
        self.owner.own().await?;
        let compared = self.owner.busy_with(async |follower| follower.verify().await).await?;
        Ok(compared.to_string())
    }

    pub(super) fn units(&self) -> Vec<String> {
        self.owner.terms.units.clone()
    }

    pub(super) fn source(&self) -> u64 {
        self.owner.terms.source
    }

    pub(super) fn nonce(&self) -> Nonce {
        Nonce(self.clock.nonce())
    }

    pub(super) fn now(&self) -> UtcMillis {
        self.clock.now()
    }

    /// Whether a commit came through; after a doubtful one whatever is needed before the same is tried again.
    async fn go_on_after(&mut self, committed: Result<(), CommitError>) -> Result<bool, Fault> {
        match committed {
            Ok(()) => Ok(true),
            Err(CommitError::Fault(fault)) => self.owner.recover_from(fault).await.map(|()| false),
            // Only legs and dead letters are refused for their content, and those are looked at before.
            Err(CommitError::Content(_)) => {
                let what = "Kafka refuses a record of the journal or the status for its content";
                self.owner.recover_from(Fault::Doubtful(what.to_owned())).await.map(|()| false)
            }
        }
    }

    /// The rows that go into the next transaction, at most `rows_max`, and those that do not.
    pub(super) fn split<'a, 'b>(&self, rows: &'a [&'b [u8]], rows_max: usize) -> (&'a [&'b [u8]], &'a [&'b [u8]]) {
        rows.split_at(chunk_length(rows).min(rows_max))
    }

    /// Publishes what is new of some rows in one transaction, counts every row, and takes note of what was seen.
    pub(super) async fn publish(
        &mut self,
        rows: &[&[u8]],
        read: Read<'_>,
        sightings: &mut Sightings,
    ) -> Result<Counts, Fault> {
        // By row: not even the dead letters take it.
        let mut unburied = BTreeSet::new();
        let mut packing = Packing::Shared;
        let started = Instant::now();
        loop {
            self.owner.own().await?;
            let batch = match self.batch(rows, read, &unburied).await {
                Ok(batch) => batch,
                Err(fault) => {
                    self.owner.recover_from(fault).await?;
                    continue;
                }
            };
            if batch.page.is_empty() && batch.messages.is_empty() {
                self.note_uncommitted(read.unit, batch.counts);
                self.note_published(&batch, read, None);
                sightings.take(&batch);
                return Ok(batch.counts);
            }
            let unit = self.progress(read.unit).cloned().unwrap_or_else(|| self.unstarted(read.unit));
            let mut unit = self.with_uncommitted(&unit);
            unit.counts += batch.counts;
            unit.lateness.add(&batch.lateness);
            let counts_after = unit.counts;
            let draft = Draft {
                feeds: vec![self.feed(&unit)],
                units: vec![unit],
                messages: &batch.messages,
                packing: Some(packing),
                page: Some(batch.page.clone()),
                ..Draft::default()
            };
            match commit_watched(&mut self.owner, draft, &self.status, started).await {
                Ok(()) => {
                    self.uncommitted.remove(read.unit);
                    self.note_published(&batch, read, Some(started));
                    sightings.take(&batch);
                    return Ok(batch.counts);
                }
                Err(CommitError::Content(positions)) => {
                    for (position, reason) in positions {
                        self.note_refusal(&batch, position, reason, rows, read, &mut unburied);
                    }
                    if rows.len() > ALONE_MAX {
                        // One acknowledgement a record must fit into a transaction's time.
                        let mut counts = Counts::default();
                        for part in rows.chunks(ALONE_MAX) {
                            counts += Box::pin(self.publish(part, read, sightings)).await?;
                        }
                        return Ok(counts);
                    }
                    packing = Packing::Alone;
                }
                Err(CommitError::Fault(fault)) => {
                    self.owner.recover_from(fault).await?;
                    self.owner.own().await?;
                    // Progress is the last record of its transaction: where it is, everything is.
                    if self.progress(read.unit).is_some_and(|unit| unit.counts == counts_after) {
                        tracing::info!(unit = read.unit, "the doubtful transaction had come through");
                        acknowledged(&self.status);
                        self.uncommitted.remove(read.unit);
                        self.note_published(&batch, read, Some(started));
                        sightings.take(&batch);
                        return Ok(batch.counts);
                    }
                }
            }
        }
    }

    fn note_refusal(
        &mut self,
        batch: &Batch,
        position: usize,
        reason: Reason,
        rows: &[&[u8]],
        read: Read<'_>,
        unburied: &mut BTreeSet<usize>,
    ) {
        let (Some(message), Some(&row)) = (batch.messages.get(position), batch.rows.get(position)) else { return };
        if message.destination == Destination::Legs {
            if self.refused.len() >= REFUSED_KEPT_MAX {
                self.refused.clear();
            }
            self.refused.insert(KeyHash::of_dead_row(rows[row]), (reason, Instant::now()));
        } else {
            tracing::warn!(
                unit = read.unit,
                code = reason.code(),
                "the dead-letter topic refuses a row: check its max.message.bytes"
            );
            unburied.insert(row);
        }
    }

    /// Why the brokers have refused the row, if that was not long ago.
    fn refusal(&self, raw: &[u8]) -> Option<Reason> {
        if self.refused.is_empty() {
            return None;
        }
        let (reason, since) = self.refused.get(&KeyHash::of_dead_row(raw))?;
        (since.elapsed() < REFUSED_KEPT).then_some(*reason)
    }

    /// Parses, classifies and encodes a chunk of rows.
    async fn batch(&self, rows: &[&[u8]], read: Read<'_>, unburied: &BTreeSet<usize>) -> Result<Batch, Fault> {
        let generation = self.progress(read.unit).map_or(0, |unit| unit.generation);
        let mut batch = Batch {
            counts: Counts::default(),
            messages: Vec::new(),
            rows: Vec::new(),
            disconnected: Vec::new(),
            lateness: Lateness::default(),
            seen: Vec::with_capacity(rows.len()),
            budget: self.budget(read.unit),
            contradiction: None,
            page: PageDraft::new(read.unit.to_owned(), generation),
        };
        let mut legs = Vec::with_capacity(rows.len());
        let mut dead = Vec::new();
        for (row, raw) in rows.iter().enumerate() {
            match wire::row(raw) {
                Row::Leg(leg) => {
                    let (at, key) = (time_of(&leg, self.terms.time_basis), KeyHash::of_leg(&leg));
                    batch.seen.push(key);
                    // One in the margins is as telling: where it is found is what the API makes of the bounds.
                    batch.contradiction =
                        batch.contradiction.or_else(|| contradiction(&leg, self.terms.time_basis, read.zone));
                    if read.asked.contains(at) && !read.piece.window.contains(at) {
                        batch.counts.outside += 1;
                    } else {
                        legs.push((row, key, leg, at));
                    }
                }
                Row::Dead(reason) => {
                    batch.seen.push(KeyHash::of_dead_row(raw));
                    if self.is_maybe_forgotten(read) {
                        batch.counts.beyond_horizon += 1;
                    } else {
                        dead.push(DeadRow { row, reason, at: last_of(read.asked) });
                    }
                }
                Row::Unfinished => {
                    batch.seen.push(KeyHash::of_dead_row(raw));
                    batch.counts.unfinished += 1;
                }
            }
        }
        let stored = self.owner.follower.find(legs.iter().map(|(_, key, _, _)| *key).collect()).await?;
        // A leg may come twice on a page.
        let mut in_batch: HashMap<KeyHash, Seen> = HashMap::new();
        for ((row, key, leg, at), stored) in legs.into_iter().zip(stored) {
            let stored = stored.map(|known| known.seen).filter(|_| !self.is_expired_by_mutant(at));
            let seen = in_batch.get(&key).copied().or(stored);
            let fingerprint = Fingerprint::of_leg(&leg);
            let verdict = self.classify(seen, fingerprint, at, read);
            match verdict {
                Verdict::Duplicate => {
                    batch.counts.duplicate += 1;
                    continue;
                }
                Verdict::BeyondHorizon => {
                    batch.counts.beyond_horizon += 1;
                    continue;
                }
                Verdict::New | Verdict::Revised => {}
            }
            let published = seen.map(|seen| seen.revision);
            // After the last number a leg keeps changing in silence, but for the count.
            let next = match (published, self.terms.revisions) {
                (None, _) => Some(0),
                (Some(_), Revisions::Ignore) => None,
                (Some(revision), Revisions::Publish) => revision.checked_add(1),
            };
            let revision = next.or(published).unwrap_or_default();
            let entry = Entry { key, seen: Seen { fingerprint: Some(fingerprint), revision } };
            if next.is_some() {
                match self.refusal(rows[row]).map_or_else(|| self.encode(&leg, entry, at, read), Err) {
                    Ok(message) => {
                        batch.messages.push(message);
                        batch.rows.push(row);
                    }
                    Err(reason) => {
                        dead.push(DeadRow { row, reason, at: within(at, read.piece.window) });
                        continue;
                    }
                }
            }
            in_batch.insert(key, entry.seen);
            batch.page.add(entry, within(at, read.piece.window), false);
            if verdict == Verdict::New {
                batch.counts.published += 1;
                batch.counts.late += u64::from(at < self.final_to(read.unit));
                batch.disconnected.push(leg.disconnected);
                self.note_lateness(&mut batch.lateness, at, read);
            } else {
                batch.counts.revised += 1;
            }
        }
        let is_dead: BTreeSet<usize> = dead.iter().map(|dead| dead.row).collect();
        (0..rows.len()).for_each(|row| batch.budget.note(is_dead.contains(&row)));
        self.bury(&mut batch, rows, dead, read, unburied).await?;
        Ok(batch)
    }

    /// Whether a row without a time may have been buried and forgotten: the floor moves while an older period is read.
    fn is_maybe_forgotten(&self, read: Read<'_>) -> bool {
        let is_older = matches!(read.piece.how, How::Sweep | How::Backfill);
        let Some(unit) = self.progress(read.unit).filter(|_| is_older) else { return false };
        read.asked.start < unit.progress.floor && unit.progress.coverage.contains(last_of(read.piece.window))
    }

    fn budget(&self, unit: &str) -> Budget {
        self.budgets.get(unit).cloned().unwrap_or_else(|| Budget::new(self.terms.dead_ratio_max))
    }

    /// How late a new leg was, as far as this read can tell.
    fn note_lateness(&self, lateness: &mut Lateness, at: UtcMillis, read: Read<'_>) {
        let Some(unit) = self.progress(read.unit) else { return };
        let Progress { complete_to, final_to, .. } = unit.progress;
        // The newest live read that came to its end began this long after what it made complete.
        let looked = complete_to.plus(self.terms.delays.settle);
        match read.piece.how {
            How::Poll | How::CatchUp => {
                let found = if at < complete_to { Found::ByOverlap } else { Found::AtOnce };
                let at_most = lateness::at_most(at, looked, read.seen_at, self.terms.apart_max);
                if found == Found::ByOverlap && at_most.is_some() {
                    lateness.note_left(at.since(final_to));
                }
                lateness.note(found, at_most);
            }
            // However long ago the sweep before was: it was too late for the polls.
            How::Sweep => lateness.note(Found::BySweep, Some(read.seen_at.since(at))),
            How::Backfill => {}
        }
    }

    fn classify(&self, seen: Option<Seen>, fingerprint: Fingerprint, at: UtcMillis, read: Read<'_>) -> Verdict {
        let Some(unit) = self.progress(read.unit) else { return Verdict::New };
        match classify(seen, fingerprint, at, &unit.progress) {
            Verdict::BeyondHorizon if hooks::is_mutant(Mutant::ExpiryByWallClock) => Verdict::New,
            verdict => verdict,
        }
    }

    fn is_expired_by_mutant(&self, at: UtcMillis) -> bool {
        hooks::is_mutant(Mutant::ExpiryByWallClock) && at < self.clock.now().minus(self.terms.delays.horizon)
    }

    fn final_to(&self, unit: &str) -> UtcMillis {
        self.progress(unit).map_or(UtcMillis::new(i64::MIN), |unit| unit.progress.final_to)
    }

    /// The message of a new leg, or why the topic cannot take it.
    fn encode(&self, leg: &Leg<'_>, entry: Entry, at: UtcMillis, read: Read<'_>) -> Result<Message, Reason> {
        let ingest = Ingest {
            first_seen: read.seen_at,
            how: read.piece.how,
            late: at < self.final_to(read.unit),
            revision: entry.seen.revision,
            window: read.piece.window,
        };
        let mut payload = Vec::with_capacity(640);
        self.terms.framing.write_header(&mut payload);
        self.encoder.encode(leg, &ingest, &mut payload).map_err(|error| {
            tracing::warn!(unit = read.unit, %error, "a leg cannot be encoded and goes to the dead letters");
            Reason::Invalid
        })?;
        let timestamp = match self.terms.timestamp {
            MessageTimestamp::Disconnect => Some(leg.disconnected),
            MessageTimestamp::Publish => None,
        };
        let cluster = &self.owner.follower.cluster;
        if timestamp.is_some_and(|timestamp| !cluster.takes_timestamp(Destination::Legs, timestamp, self.clock.now())) {
            return Err(Reason::Timestamp);
        }
        let message = Message {
            destination: Destination::Legs,
            key: leg.call_id().as_bytes().to_vec(),
            payload: Some(payload),
            timestamp,
            headers: self.headers(entry, within(at, read.piece.window), read),
        };
        if message.size_bytes() <= cluster.message_bytes_max(Destination::Legs) {
            Ok(message)
        } else {
            Err(Reason::TooLarge)
        }
    }

    fn headers(&self, entry: Entry, at: UtcMillis, read: Read<'_>) -> Vec<(&'static str, Vec<u8>)> {
        let trace = Trace {
            journal: Trace::journal_tag(&self.owner.terms.journal),
            seen: entry.seen,
            generation: self.progress(read.unit).map_or(0, |unit| unit.generation),
            at,
            unit: read.unit.to_owned(),
        };
        vec![(KeyHash::HEADER, entry.key.0.to_vec()), (Trace::HEADER, trace.to_bytes())]
    }

    /// Adds to a batch what is not yet among the dead letters.
    async fn bury(
        &self,
        batch: &mut Batch,
        rows: &[&[u8]],
        dead: Vec<DeadRow>,
        read: Read<'_>,
        unburied: &BTreeSet<usize>,
    ) -> Result<(), Fault> {
        if dead.is_empty() {
            return Ok(());
        }
        let keys: Vec<KeyHash> = dead.iter().map(|dead| KeyHash::of_dead_row(rows[dead.row])).collect();
        let stored = self.owner.follower.find(keys.clone()).await?;
        let mut in_batch = BTreeSet::new();
        for ((key, stored), dead) in keys.into_iter().zip(stored).zip(dead) {
            if stored.is_none() && batch.budget.is_exceeded() {
                batch.counts.held += 1;
                continue;
            }
            batch.counts.dead += 1;
            if stored.is_some() || unburied.contains(&dead.row) || !in_batch.insert(key) {
                continue;
            }
            let entry = Entry { key, seen: Seen { fingerprint: None, revision: 0 } };
            batch.messages.push(self.dead_letter(entry, rows[dead.row], &dead, read));
            batch.rows.push(dead.row);
            batch.page.add(entry, dead.at, true);
        }
        Ok(())
    }

    fn dead_letter(&self, entry: Entry, raw: &[u8], dead: &DeadRow, read: Read<'_>) -> Message {
        let row_hash: String = entry.key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut headers = self.headers(entry, dead.at, read);
        headers.extend([
            ("call-legs-error-code", dead.reason.code().into()),
            ("call-legs-error-message", dead.reason.to_string().into()),
            ("call-legs-unit", read.unit.into()),
            ("call-legs-window", format!("{}/{}", read.piece.window.start, read.piece.window.end).into()),
            ("call-legs-row-bytes", raw.len().to_string().into()),
            ("call-legs-row-hash", row_hash.clone().into_bytes()),
        ]);
        let mut message = Message {
            destination: Destination::DeadLetters,
            key: row_hash.into_bytes(),
            payload: None,
            timestamp: Some(read.seen_at),
            headers,
        };
        let bytes_max = self.owner.follower.cluster.message_bytes_max(Destination::DeadLetters);
        let room = bytes_max.saturating_sub(message.size_bytes());
        message.payload = Some(raw[..raw.len().min(room)].to_vec());
        message
    }

    /// Commits units' progress and status; `false` when it was doubtful and is to be tried again.
    async fn commit_progress(&mut self, units: Vec<UnitProgress>) -> Result<bool, Fault> {
        self.commit_with_feeds(Draft { units, ..Draft::default() }).await
    }

    /// Commits a draft, and with it the status of its units; `false` as in [`Self::commit_progress`].
    async fn commit_with_feeds(&mut self, draft: Draft<'_>) -> Result<bool, Fault> {
        let units = &draft.units;
        // Of units that are no longer read it was said that they stopped.
        let configured = self.units();
        let mut feeds: Vec<UnitFeed> =
            units.iter().filter(|unit| configured.contains(&unit.unit)).map(|unit| self.feed(unit)).collect();
        // A unit that was added and never read yet is told of, too.
        for unit in configured {
            if self.progress(&unit).is_none() && !feeds.iter().any(|feed| feed.unit == unit) {
                let unstarted = self.unstarted(&unit);
                feeds.push(self.feed(&unstarted));
            }
        }
        let attempted: Vec<(String, Counts)> = units.iter().map(|unit| (unit.unit.clone(), unit.counts)).collect();
        let draft = Draft { feeds, forgotten_units: self.owner.abandoned_units(), ..draft };
        let committed = commit_watched(&mut self.owner, draft, &self.status, Instant::now()).await;
        let is_through = self.go_on_after(committed).await?;
        if !is_through {
            // What was counted must not be counted again where it came through after all.
            self.owner.own().await?;
        }
        for (unit, counts) in attempted {
            if is_through || self.progress(&unit).is_some_and(|known| known.counts == counts) {
                self.uncommitted.remove(&unit);
            }
            self.announce(&unit);
        }
        Ok(is_through)
    }

    /// A unit's progress with what was counted since it was last written.
    fn with_uncommitted(&self, unit: &UnitProgress) -> UnitProgress {
        let mut unit = unit.clone();
        unit.counts += self.uncommitted.get(&unit.unit).copied().unwrap_or_default();
        unit
    }

    fn note_uncommitted(&mut self, unit: &str, counts: Counts) {
        *self.uncommitted.entry(unit.to_owned()).or_default() += counts;
    }

    /// A unit that the journal knows by name only.
    fn unstarted(&self, unit: &str) -> UnitProgress {
        UnitProgress {
            unit: unit.to_owned(),
            generation: 0,
            progress: Progress::starting_at(UtcMillis::new(0), &self.terms.delays),
            source: self.owner.terms.source,
            last_seq: 0,
            chain: Chain::default(),
            oldest_needed_seq: 0,
            out_offsets: OutOffsets::default(),
            counts: Counts::default(),
            lateness: Lateness::default(),
            sweeps: Vec::new(),
            change: None,
        }
    }

    /// Units that were taken out of the configuration stopped on purpose: silence would mean that we are down.
    async fn tell_of_units_no_longer_read(&mut self) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let head = &self.owner.follower.ledger.head;
            let retired = head.units.values().filter(|unit| !self.owner.terms.units.contains(&unit.unit));
            let units: Vec<UnitProgress> = retired.cloned().collect();
            if units.is_empty() {
                return Ok(());
            }
            let now = self.clock.now();
            let feeds = units.iter().map(|unit| self.feed_in(unit, state::STOPPED, now)).collect();
            let committed = self.owner.commit(Draft { units, feeds, ..Draft::default() }).await;
            if self.go_on_after(committed).await? {
                return Ok(());
            }
        }
    }

    fn feed(&mut self, unit: &UnitProgress) -> UnitFeed {
        let now = self.clock.now();
        let state = self.status.read().units.get(&unit.unit).map_or("starting", |status| status.state.as_str());
        let told = self.told.entry(unit.unit.clone()).or_insert((state, now));
        if told.0 != state {
            *told = (state, now);
        }
        let since = told.1;
        self.feed_in(unit, state, since)
    }

    fn feed_in(&self, unit: &UnitProgress, state: &str, since: UtcMillis) -> UnitFeed {
        let identity = &self.owner.terms.identity;
        let status = self.status.read();
        UnitFeed {
            unit: unit.unit.clone(),
            generation: unit.generation,
            complete_to: unit.progress.complete_to,
            final_to: unit.progress.final_to,
            state: state.to_owned(),
            since,
            last_poll_ok: status.units.get(&unit.unit).and_then(|status| status.last_poll_ok),
            at: self.clock.now(),
            next_beat_ms: u32::try_from(self.owner.terms.beat.as_millis()).unwrap_or(u32::MAX),
            counts: unit.counts,
            out_offsets: OutOffsets::default(),
            owner: identity.process,
            host: identity.host.clone(),
            delivery: status.delivery.unwrap_or(Delivery::AtLeastOnce),
            version: identity.version.clone(),
            lateness: unit.lateness.clone(),
            recommended: unit.lateness.recommend(self.terms.delays.settle),
        }
    }

    fn announce_all(&self) {
        self.owner.terms.units.iter().for_each(|unit| self.announce(unit));
    }

    fn announce(&self, unit: &str) {
        let Some(known) = self.progress(unit).filter(|unit| unit.is_started()) else { return };
        self.status.update_unit(unit, |status| {
            status.complete_to = Some(known.progress.complete_to);
            status.final_to = Some(known.progress.final_to);
        });
        let label = UnitLabel { unit: unit.to_owned() };
        self.metrics.complete_to.get_or_create(&label).set(known.progress.complete_to.as_seconds_f64());
        self.metrics.final_to.get_or_create(&label).set(known.progress.final_to.as_seconds_f64());
        if let Some(recommended) = known.lateness.recommend(self.terms.delays.settle) {
            self.metrics.recommended_overlap.get_or_create(&label).set(recommended.overlap.as_secs_f64());
        }
        if let Some(closest) = known.lateness.closest {
            self.metrics.overlap_left.get_or_create(&label).set(closest.as_secs_f64());
        }
    }

    /// Counts how late a batch's legs were, and warns before the overlap is too short.
    fn note_late(&mut self, lateness: &Lateness, unit: &str) {
        let histogram = self.metrics.lateness.get_or_create(&UnitLabel { unit: unit.to_owned() });
        for (bucket, count) in lateness.buckets.iter().enumerate() {
            (0..*count).for_each(|_| histogram.observe(lateness::edge(bucket).as_secs_f64()));
        }
        for (by, count) in [("overlap", lateness.by_overlap), ("sweep", lateness.by_sweep)] {
            if count > 0 {
                let labels = UnitFoundLabels { unit: unit.to_owned(), by };
                self.metrics.found_late.get_or_create(&labels).inc_by(count);
            }
        }
        let Some(left) = lateness.closest.filter(|left| *left < self.terms.delays.overlap / NEAR_THE_EDGE) else {
            return;
        };
        if self.warned.get(unit).is_some_and(|warned| warned.elapsed() < WARNED_AGAIN) {
            return;
        }
        self.warned.insert(unit.to_owned(), Instant::now());
        let known = self.progress(unit).and_then(|unit| unit.lateness.recommend(self.terms.delays.settle));
        tracing::warn!(
            unit,
            left_s = left.as_secs(),
            overlap_s = self.terms.delays.overlap.as_secs(),
            recommended_s = known.map(|known| known.overlap.as_secs()),
            "a leg turned up near the edge of poll.overlap: later ones are found by sweeps only; raise poll.overlap"
        );
    }

    /// Counts a chunk's rows, and how fresh its legs were when Kafka had them.
    fn note_published(&mut self, batch: &Batch, read: Read<'_>, started: Option<Instant>) {
        self.budgets.insert(read.unit.to_owned(), batch.budget.clone());
        self.status.update_unit(read.unit, |status| status.counts += batch.counts);
        for (result, count) in batch.counts.named() {
            let labels = UnitResultLabels { unit: read.unit.to_owned(), result };
            self.metrics.rows.get_or_create(&labels).inc_by(count);
        }
        self.note_late(&batch.lateness, read.unit);
        let Some(started) = started else { return };
        self.metrics.publish_duration.observe(started.elapsed().as_secs_f64());
        if read.piece.how == How::Poll {
            let histogram = self.metrics.freshness.get_or_create(&UnitLabel { unit: read.unit.to_owned() });
            let now = self.clock.now();
            batch.disconnected.iter().for_each(|at| histogram.observe(now.since(*at).as_secs_f64()));
        }
    }
}

/// Commits, and says so when the brokers take long.
async fn commit_watched<C: Cluster, V: View>(
    owner: &mut Owner<C, V>,
    draft: Draft<'_>,
    status: &StatusBoard,
    started: Instant,
) -> Result<(), CommitError> {
    let cluster = Arc::clone(&owner.follower.cluster);
    let committing = owner.commit(draft);
    tokio::pin!(committing);
    let mut overdue = tokio::time::interval_at(Instant::now() + OVERDUE_AFTER, OVERDUE_REPEATED);
    // Kept over failures: what counts is since when nothing got through.
    status.update(|status| {
        status.publishing_since.get_or_insert(started);
    });
    loop {
        tokio::select! {
            biased;
            committed = &mut committing => {
                if committed.is_ok() {
                    acknowledged(status);
                }
                return committed;
            }
            _ = overdue.tick() => {
                let waited_s = started.elapsed().as_secs();
                let trouble = cluster.trouble().unwrap_or_else(|| "no reason given".to_owned());
                tracing::warn!(waited_s, "Kafka owes acknowledgements, and polls wait for them: {trouble}");
                status.update(|status| status.sink_trouble = Some(trouble));
            }
        }
    }
}

/// How many of the rows go into the next transaction.
fn chunk_length(rows: &[&[u8]]) -> usize {
    let mut bytes = 0;
    let fitting = rows.iter().take(PAGE_ENTRIES_MAX).take_while(|row| {
        bytes += row.len();
        bytes <= CHUNK_BYTES_MAX
    });
    fitting.count().max(1)
}

fn acknowledged(status: &StatusBoard) {
    status.update(|status| {
        status.publishing_since = None;
        status.sink_trouble = None;
    });
}

/// A leg's time on the axis that the windows are cut on.
pub fn time_of(leg: &Leg<'_>, basis: TimeBasis) -> UtcMillis {
    match (basis, &leg.values[position::CONNECT_TIME]) {
        (TimeBasis::Connect, Value::Integer(connected)) if *connected > 0 => UtcMillis::new(*connected),
        _ => leg.disconnected,
    }
}

/// Whether a text beside a time that decides about windows contradicts our idea of the zone.
fn contradiction(leg: &Leg<'_>, basis: TimeBasis, zone: Tz) -> Option<Contradiction> {
    let connected = (basis == TimeBasis::Connect).then_some(position::CONNECT_TIME);
    [Some(position::DISCONNECTED_TIME), connected]
        .into_iter()
        .flatten()
        .find_map(|position| zone::contradiction(leg, position, zone))
}

/// By when an identity may be forgotten: a time outside the window, which the API's filter should not
/// let through, counts as the window's edge.
fn within(at: UtcMillis, window: Window) -> UtcMillis {
    at.clamp(window.start, last_of(window))
}

fn last_of(window: Window) -> UtcMillis {
    UtcMillis::new(window.end.as_millis() - 1).max(window.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connect_times_text_matters_only_where_windows_are_cut_on_it() {
        let row = |connected: &str, disconnected: &str| {
            format!(
                r#"{{"callId":"1","legId":"1","connectTimeUTC":1643898447539,"connectTime":"{connected}",
                "disconnectedTimeUTC":1643898472253,"disconnectedTime":"{disconnected}"}}"#
            )
        };
        let found = |raw: &str, basis| match wire::row(raw.as_bytes()) {
            Row::Leg(leg) => contradiction(&leg, basis, Tz::America__New_York).is_some(),
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
}
