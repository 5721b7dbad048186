//! Rows to messages: a chunk of rows parsed, classified and encoded, and everything noted that they say.
//!
//! Nothing is sent here, and nothing is remembered: the same rows may be put together anew after a take-over.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono_tz::Tz;

use super::fault::Fault;
use super::publisher::{Publisher, REFUSED_KEPT};
use super::transaction::PageDraft;
use crate::config::{MessageTimestamp, Revisions, TimeBasis};
use crate::core::dead_letter::{Budget, Reason};
use crate::core::dedupe::{Counts, Seen, Verdict, classify};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Entry, Trace};
use crate::core::lateness::{self, Found, Lateness};
use crate::core::leg::{How, Ingest, Leg, Value, position};
use crate::core::planner::Piece;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;
use crate::core::zone::{self, Contradiction};
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, Destination, Message};
use crate::source::wire::{self, Row};
use crate::store::View;

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
    /// When the pass over the window began.
    pub(super) begun_at: UtcMillis,
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
pub(super) struct Batch {
    pub(super) counts: Counts,
    pub(super) messages: Vec<Message>,
    /// For each message the row that it came from.
    pub(super) rows: Vec<usize>,
    /// When the new legs were disconnected.
    pub(super) disconnected: Vec<UtcMillis>,
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
    /// The first row that contradicts our idea of the zone.
    pub(super) contradiction: Option<Contradiction>,
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
    /// Distinct rows.
    pub(super) rows: HashSet<KeyHash>,
    /// Dead rows that were held back.
    pub(super) held: u64,
    /// Why the first of them is dead.
    pub(super) held_for: Option<Reason>,
    /// Of a sweep, the unit's own legs that were published.
    pub(super) legs: HashSet<KeyHash>,
    /// A row that contradicts our idea of the zone; it is a leg like others.
    pub(super) contradiction: Option<Contradiction>,
}

impl Sightings {
    pub(super) fn take(&mut self, batch: &Batch) {
        self.rows.extend(&batch.seen);
        self.held += batch.counts.held;
        self.held_for = self.held_for.or(batch.held_for);
        self.legs.extend(&batch.swept);
        self.contradiction = self.contradiction.or(batch.contradiction);
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

    /// Parses, classifies and encodes a chunk of rows.
    pub(super) async fn batch(
        &self,
        rows: &[&[u8]],
        read: Read<'_>,
        unburied: &BTreeSet<usize>,
    ) -> Result<Batch, Fault> {
        let generation = self.progress(read.unit).map_or(0, |unit| unit.generation);
        let mut batch = Batch {
            counts: Counts::default(),
            messages: Vec::new(),
            rows: Vec::new(),
            disconnected: Vec::new(),
            lateness: Lateness::default(),
            buried: Vec::new(),
            held_for: None,
            seen: Vec::with_capacity(rows.len()),
            budget: self.budget(read),
            swept: Vec::new(),
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
            let stored = stored.filter(|_| !self.is_expired_by_mutant(at));
            let is_ours = stored.as_ref().is_none_or(|known| *known.unit == *read.unit);
            let stored = stored.map(|known| known.seen);
            let seen = in_batch.get(&key).copied().or(stored);
            let fingerprint = Fingerprint::of_leg(&leg);
            let verdict = self.classify(seen, fingerprint, at, read);
            match verdict {
                Verdict::Duplicate => {
                    batch.note_swept(key, is_ours, read);
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
            batch.note_swept(key, is_ours, read);
            // A changed leg of another unit counts for this one from now on.
            if verdict == Verdict::New || !is_ours {
                batch.page.add_new(entry, within(at, read.piece.window), false);
            } else {
                batch.page.add(entry, within(at, read.piece.window), false);
            }
            if verdict == Verdict::New {
                batch.counts.published += 1;
                batch.counts.late += u64::from(at < self.final_to(read.unit));
                batch.disconnected.push(leg.disconnected);
                self.note_lateness(&mut batch.lateness, at, read);
            } else {
                batch.counts.revised += 1;
            }
        }
        let is_dead: BTreeSet<usize> =
            dead.iter().filter(|dead| dead.reason.is_the_rows()).map(|dead| dead.row).collect();
        (0..rows.len()).for_each(|row| batch.budget.note(is_dead.contains(&row)));
        self.bury(&mut batch, rows, dead, read, unburied).await?;
        Ok(batch)
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
            How::Backfill | How::Replay => {}
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
    pub(super) fn encode(&self, leg: &Leg<'_>, entry: Entry, at: UtcMillis, read: Read<'_>) -> Result<Message, Reason> {
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
            batch.messages.push(self.dead_letter(entry, rows[dead.row], &dead, read));
            batch.rows.push(dead.row);
            batch.buried.push(dead.reason);
            batch.page.add_new(entry, dead.at, true);
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
