//! Rows to messages: a chunk of rows classified and put into messages, and everything noted that they say.
//!
//! Nothing is sent here, and nothing is remembered: the same rows may be put together anew after a take-over.

use std::collections::BTreeSet;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::fault::Fault;
use super::leg_message::{Origin, Parts};
use super::prepare::{Found as FoundRow, ReadyRow, What, is_after};
use super::publisher::{Publisher, REFUSED_KEPT};
use super::transaction::PageDraft;
use crate::config::{MessageTimestamp, Revisions};
use crate::core::dead_letter::{Budget, Reason};
use crate::core::dedupe::{Counts, Seen, Verdict, classify};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Entry, Trace};
use crate::core::lateness::{self, Found, Lateness};
use crate::core::leg::{How, Leg};
use crate::core::planner::Piece;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;
use crate::core::zone::{Contradiction, Texts, ZoneTally};
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, Destination, Message};
use crate::source::wire::{self, Row};
use crate::store::View;

/// In what context rows were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read<'a> {
    /// The unit.
    pub(super) unit: &'a str,
    /// The window and the kind of read.
    pub(super) piece: Piece,
    /// The span of time that the query asked for, margins included.
    pub(super) asked: Window,
    /// When the pass over the window began.
    pub(super) begun_at: UtcMillis,
    /// How far the unit is final at the most once the window is read: a call "In Progress" is awaited behind it.
    pub(super) makes_final_to: UtcMillis,
}

/// A row that cannot be published.
struct DeadRow {
    row: usize,
    reason: Reason,
    /// By when it may be forgotten; without a time of its own not before all that the query has asked for.
    at: UtcMillis,
}

/// What all messages of a chunk have in common.
pub(super) struct Making<'a> {
    read: Read<'a>,
    /// The unit's; `None` for one that is not in the journal.
    progress: Option<&'a Progress>,
    pub(super) generation: u32,
    final_to: UtcMillis,
    journal: [u8; 4],
    now: UtcMillis,
}

impl Making<'_> {
    fn classify(&self, seen: Option<Seen>, fingerprint: Fingerprint, at: UtcMillis) -> Verdict {
        let Some(progress) = self.progress else { return Verdict::New };
        match classify(seen, fingerprint, at, progress) {
            Verdict::BeyondHorizon if hooks::is_mutant(Mutant::ExpiryByWallClock) => Verdict::New,
            verdict => verdict,
        }
    }

    fn headers(&self, entry: Entry, at: UtcMillis) -> Vec<(&'static str, Bytes)> {
        let trace = Trace::bytes_of(self.journal, entry.seen, self.generation, at, self.read.unit);
        vec![(KeyHash::HEADER, entry.key.0.to_vec().into()), (Trace::HEADER, trace.into())]
    }
}

/// A chunk of rows, classified, and its messages.
pub(super) struct Batch {
    pub(super) counts: Counts,
    pub(super) messages: Vec<Message>,
    /// For each message the row that it came from.
    pub(super) rows: Vec<usize>,
    /// When the new legs were disconnected, and when they were received.
    pub(super) disconnected: Vec<(UtcMillis, UtcMillis)>,
    pub(super) lateness: Lateness,
    /// Why rows are buried that were not before.
    pub(super) buried: Vec<Reason>,
    /// Why the first row is held that is.
    pub(super) held_for: Option<Reason>,
    /// Every row, by its leg's identity or its own hash.
    pub(super) seen: Vec<KeyHash>,
    /// How many dead rows the unit may have after these.
    pub(super) budget: Budget,
    /// Of a sweep, the unit's own legs: published now or before.
    pub(super) swept: Vec<KeyHash>,
    /// What its rows say of the zone.
    pub(super) zone: ZoneTally,
    /// Of the published ones, those with a text that is not the instant beside it.
    pub(super) slips: u64,
    /// Of the published ones, those that say of themselves that they are still going on.
    pub(super) in_progress: u64,
    pub(super) page: PageDraft,
}

impl Batch {
    /// Takes note of a published leg, where what is read is to be compared with what was published.
    fn note_swept(&mut self, key: KeyHash, is_ours: bool, read: Read<'_>) {
        if read.piece.how == How::Sweep && is_ours {
            self.swept.push(key);
        }
    }
}

/// What a pass over a window's pages has seen.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Distinct rows, by the halves of their keys: a window has many.
    pub(super) rows: FxHashSet<u64>,
    /// Dead rows that were held back.
    pub(super) held: u64,
    /// Why the first of them is dead.
    pub(super) held_for: Option<Reason>,
    /// Of a sweep, the unit's own legs that were published.
    pub(super) legs: FxHashSet<KeyHash>,
    /// What its rows say of the zone; those that contradict are legs like others.
    pub(super) zone: ZoneTally,
}

impl Sightings {
    pub(super) fn take(&mut self, batch: &Batch) {
        self.rows.extend(batch.seen.iter().map(KeyHash::half));
        self.held += batch.counts.held;
        self.held_for = self.held_for.or(batch.held_for);
        self.legs.extend(&batch.swept);
        self.zone.add(batch.zone);
    }

    /// How the window contradicts our idea of the zone, if it does.
    pub(super) fn contradiction(&self) -> Option<Contradiction> {
        self.zone.contradiction()
    }
}

impl<C: Cluster, V: View> Publisher<C, V> {
    /// Why the brokers have refused the row, if that was not long ago.
    fn refusal(&self, raw: &[u8]) -> Option<Reason> {
        if self.refused.is_empty() {
            return None;
        }
        let (reason, since) = self.refused.get(&KeyHash::of_dead_row(raw))?;
        (since.elapsed() < REFUSED_KEPT).then_some(*reason)
    }

    /// Classifies a chunk of rows, and makes messages of what is new.
    pub(super) async fn batch(
        &self,
        rows: &[ReadyRow<'_>],
        read: Read<'_>,
        unburied: &BTreeSet<usize>,
    ) -> Result<Batch, Fault> {
        let making = self.making(read);
        let mut batch = Batch {
            counts: Counts::default(),
            messages: Vec::with_capacity(rows.len()),
            rows: Vec::with_capacity(rows.len()),
            disconnected: Vec::with_capacity(rows.len()),
            lateness: Lateness::default(),
            buried: Vec::new(),
            held_for: None,
            seen: rows.iter().map(|row| row.ready().key).collect(),
            budget: self.budget(read),
            swept: Vec::new(),
            zone: ZoneTally::default(),
            slips: 0,
            in_progress: 0,
            page: PageDraft::new(read.unit.to_owned(), making.generation),
        };
        let (legs, mut dead) = self.sort_out(rows, &making, &mut batch);
        let stored = self.owner.follower.find(legs.iter().map(|(row, _)| batch.seen[*row]).collect()).await?;
        // A leg may come twice in a chunk.
        let mut in_batch: FxHashMap<KeyHash, Seen> = FxHashMap::default();
        for ((row, found), stored) in legs.into_iter().zip(stored) {
            let (ready, key) = (rows[row], batch.seen[row]);
            let FoundRow { fingerprint, at, .. } = found;
            let stored = stored.filter(|_| !self.is_expired_by_mutant(at));
            let is_ours = stored.as_ref().is_none_or(|known| *known.unit == *read.unit);
            let stored = stored.map(|known| known.seen);
            let seen = in_batch.get(&key).copied().or(stored);
            let verdict = making.classify(seen, fingerprint, at);
            match verdict {
                Verdict::Duplicate => {
                    batch.note_swept(key, is_ours, read);
                    batch.counts.duplicate += 1;
                    // Another version's fingerprint was remembered: from now on ours is, and changes are noticed again.
                    if let Some(Seen { fingerprint: None, revision }) = seen.filter(|_| is_ours) {
                        let entry = Entry { key, seen: Seen { fingerprint: Some(fingerprint), revision } };
                        in_batch.insert(key, entry.seen);
                        batch.page.add(entry, within(at, read.piece.window), false);
                    }
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
                let refused = self.refusal(ready.raw());
                match refused.map_or_else(|| self.leg_message(ready, found, entry, &making), Err) {
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
            batch.note_swept(key, is_ours, read);
            // A changed leg of another unit counts for this one from now on.
            if verdict == Verdict::New || !is_ours {
                batch.page.add_new(entry, within(at, read.piece.window), false);
            } else {
                batch.page.add(entry, within(at, read.piece.window), false);
            }
            if verdict == Verdict::New {
                self.note_new(&mut batch, found, ready.seen_at(), &making);
            } else {
                batch.counts.revised += 1;
            }
        }
        let is_dead: BTreeSet<usize> =
            dead.iter().filter(|dead| dead.reason.is_the_rows()).map(|dead| dead.row).collect();
        (0..rows.len()).for_each(|row| batch.budget.note(is_dead.contains(&row)));
        self.bury(&mut batch, rows, dead, &making, unburied).await?;
        Ok(batch)
    }

    /// Tells legs that are this window's from dead rows, and counts the others.
    fn sort_out(
        &self,
        rows: &[ReadyRow<'_>],
        making: &Making<'_>,
        batch: &mut Batch,
    ) -> (Vec<(usize, FoundRow)>, Vec<DeadRow>) {
        let read = making.read;
        let (mut legs, mut dead) = (Vec::with_capacity(rows.len()), Vec::new());
        for (row, ready) in rows.iter().enumerate() {
            match &ready.ready().what {
                What::Leg(found, _) => {
                    // One in the margins is as telling: where it is found is what the API makes of the bounds.
                    batch.zone.note(found.texts, || ready.contradiction());
                    let is_in_margin = read.asked.contains(found.at) && !read.piece.window.contains(found.at);
                    let basis = self.terms.time_basis;
                    // Of a window of another time: one row dated 2099 would end every reader's event time for good.
                    if is_in_margin || is_after(found.at, found.disconnected, read.asked.end, basis) {
                        batch.counts.outside += 1;
                    } else if found.is_in_progress && found.at >= making.final_to.max(read.makes_final_to) {
                        batch.counts.unfinished += 1;
                    } else {
                        legs.push((row, *found));
                    }
                }
                What::Dead(_) if self.is_maybe_forgotten(read) => batch.counts.beyond_horizon += 1,
                What::Dead(reason) => dead.push(DeadRow { row, reason: *reason, at: last_of(read.asked) }),
                What::Unfinished => batch.counts.unfinished += 1,
            }
        }
        (legs, dead)
    }

    /// Whether a row without a time may have been buried and forgotten: the floor moves while an older period is read.
    fn is_maybe_forgotten(&self, read: Read<'_>) -> bool {
        let is_older = !read.piece.how.is_live();
        let Some(unit) = self.progress(read.unit).filter(|_| is_older) else { return false };
        read.asked.start < unit.progress.floor && unit.progress.coverage.contains(last_of(read.piece.window))
    }

    fn budget(&self, read: Read<'_>) -> Budget {
        self.budgets
            .get(&(read.unit.to_owned(), read.piece.how.is_live()))
            .cloned()
            .unwrap_or_else(|| Budget::new(self.terms.dead_ratio_max))
    }

    /// Counts a new leg, and how late and how odd it was.
    fn note_new(&self, batch: &mut Batch, found: FoundRow, seen_at: UtcMillis, making: &Making<'_>) {
        batch.counts.published += 1;
        batch.counts.late += u64::from(found.at < making.final_to);
        batch.slips += u64::from(matches!(found.texts, Texts::Slip | Texts::Contradict));
        if found.is_in_progress {
            // It was awaited on purpose, so it says nothing of how late legs are.
            batch.in_progress += 1;
        } else {
            batch.disconnected.push((found.disconnected, seen_at));
            self.note_lateness(&mut batch.lateness, found.at, seen_at, making);
        }
    }

    /// How late a new leg was, as far as this read can tell.
    fn note_lateness(&self, lateness: &mut Lateness, at: UtcMillis, seen_at: UtcMillis, making: &Making<'_>) {
        let Some(Progress { complete_to, final_to, .. }) = making.progress else { return };
        // The newest live read that came to its end began this long after what it made complete.
        let looked = complete_to.plus(self.terms.delays.settle);
        match making.read.piece.how {
            How::Poll | How::CatchUp => {
                let found = if at < *complete_to { Found::ByOverlap } else { Found::AtOnce };
                let at_most = lateness::at_most(at, looked, seen_at, self.terms.apart_max);
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

    fn is_expired_by_mutant(&self, at: UtcMillis) -> bool {
        hooks::is_mutant(Mutant::ExpiryByWallClock) && at < self.clock.now().minus(self.terms.delays.horizon)
    }

    /// What all messages of a chunk have in common.
    pub(super) fn making<'a>(&'a self, read: Read<'a>) -> Making<'a> {
        let unit = self.progress(read.unit);
        let progress = unit.map(|unit| &unit.progress);
        Making {
            read,
            progress,
            generation: unit.map_or(0, |unit| unit.generation),
            final_to: progress.map_or(UtcMillis::new(i64::MIN), |progress| progress.final_to),
            journal: Trace::journal_tag(&self.owner.terms.journal),
            now: self.clock.now(),
        }
    }

    /// The message of a new leg, or why it cannot be one.
    fn leg_message(
        &self,
        row: ReadyRow<'_>,
        found: FoundRow,
        entry: Entry,
        making: &Making<'_>,
    ) -> Result<Message, Reason> {
        let is_first = entry.seen.revision == 0;
        if let Some(new) = row.new_leg(making.generation, making.final_to).filter(|_| is_first) {
            return self.message(new, found, making);
        }
        // A revision; or known by its bytes and new all the same, as after a rewind; or the unit has come further since
        // the read began; or it does not fit.
        match wire::row(row.raw()) {
            Row::Leg(leg) => self.encode(&leg, found, row.seen_at(), entry, making),
            Row::Dead(_) | Row::Unfinished => Err(Reason::Invalid),
        }
    }

    /// The message of a new leg, or why the topic cannot take it.
    pub(super) fn encode(
        &self,
        leg: &Leg<'_>,
        found: FoundRow,
        seen_at: UtcMillis,
        entry: Entry,
        making: &Making<'_>,
    ) -> Result<Message, Reason> {
        let Making { read: Read { unit, piece, .. }, generation, final_to, .. } = *making;
        let origin = Origin { unit: unit.to_owned(), piece, generation, final_to };
        let mut memory = Vec::with_capacity(1024);
        let written = self.writer.write(leg, entry, (found.at, seen_at), &origin, &mut memory).map_err(|error| {
            tracing::warn!(unit, %error, "a leg cannot be encoded and goes to the dead letters");
            Reason::Invalid
        })?;
        self.message(written.parts(&memory.into()), found, making)
    }

    fn message(&self, leg: Parts, found: FoundRow, making: &Making<'_>) -> Result<Message, Reason> {
        let FoundRow { disconnected, .. } = found;
        let Parts { key, payload, headers } = leg;
        let timestamp = match self.terms.timestamp {
            MessageTimestamp::Disconnect => Some(disconnected),
            MessageTimestamp::Publish => None,
        };
        let cluster = &self.owner.follower.cluster;
        if timestamp.is_some_and(|timestamp| !cluster.takes_timestamp(Destination::Legs, timestamp, making.now)) {
            return Err(Reason::Timestamp);
        }
        let message = Message { destination: Destination::Legs, key, payload: Some(payload), timestamp, headers };
        if message.size_bytes() <= cluster.message_bytes_max(Destination::Legs) {
            Ok(message)
        } else {
            Err(Reason::TooLarge)
        }
    }

    /// Adds to a batch what is not yet among the dead letters.
    async fn bury(
        &self,
        batch: &mut Batch,
        rows: &[ReadyRow<'_>],
        dead: Vec<DeadRow>,
        making: &Making<'_>,
        unburied: &BTreeSet<usize>,
    ) -> Result<(), Fault> {
        if dead.is_empty() {
            return Ok(());
        }
        let keys: Vec<KeyHash> = dead.iter().map(|dead| KeyHash::of_dead_row(rows[dead.row].raw())).collect();
        let stored = self.owner.follower.find(keys.clone()).await?;
        let mut in_batch = BTreeSet::new();
        for ((key, stored), dead) in keys.into_iter().zip(stored).zip(dead) {
            if stored.is_none() && dead.reason.is_the_rows() && batch.budget.is_exceeded() {
                batch.counts.held += 1;
                batch.held_for.get_or_insert(dead.reason);
                continue;
            }
            batch.counts.dead += 1;
            if stored.is_some() || unburied.contains(&dead.row) || !in_batch.insert(key) {
                continue;
            }
            let entry = Entry { key, seen: Seen { fingerprint: None, revision: 0 } };
            batch.messages.push(self.dead_letter(entry, rows[dead.row], &dead, making));
            batch.rows.push(dead.row);
            batch.buried.push(dead.reason);
            batch.page.add_new(entry, dead.at, true);
        }
        Ok(())
    }

    fn dead_letter(&self, entry: Entry, row: ReadyRow<'_>, dead: &DeadRow, making: &Making<'_>) -> Message {
        let (raw, read) = (row.raw(), making.read);
        let row_hash: String = entry.key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut headers = making.headers(entry, dead.at);
        headers.extend([
            ("call-legs-error-code", dead.reason.code().into()),
            ("call-legs-error-message", dead.reason.to_string().into()),
            ("call-legs-unit", read.unit.to_owned().into()),
            ("call-legs-window", format!("{}/{}", read.piece.window.start, read.piece.window.end).into()),
            ("call-legs-row-bytes", raw.len().to_string().into()),
            ("call-legs-row-hash", row_hash.clone().into()),
        ]);
        let mut message = Message {
            destination: Destination::DeadLetters,
            key: row_hash.into(),
            payload: None,
            timestamp: Some(row.seen_at()),
            headers,
        };
        let bytes_max = self.owner.follower.cluster.message_bytes_max(Destination::DeadLetters);
        let room = bytes_max.saturating_sub(message.size_bytes());
        message.payload = Some(Bytes::copy_from_slice(&raw[..raw.len().min(room)]));
        message
    }
}

/// By when an identity may be forgotten: a time outside the window, which the API's filter should not
/// let through, counts as the window's edge.
pub(super) fn within(at: UtcMillis, window: Window) -> UtcMillis {
    at.clamp(window.start, last_of(window))
}

fn last_of(window: Window) -> UtcMillis {
    UtcMillis::new(window.end.as_millis() - 1).max(window.start)
}
