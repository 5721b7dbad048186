//! Rows to messages: looks up what is known of a chunk of rows, has [`chunk`] decide, and makes the messages.
//!
//! Nothing is sent here, and nothing is remembered: the same rows may be put together anew after a take-over.

use std::collections::BTreeSet;
use std::iter::zip;

use bytes::Bytes;

use super::request::Read;
use super::writer::{REFUSED_KEPT, RecordTerms, Writer};
use crate::config::MessageTimestamp;
use crate::connector::fault::Fault;
use crate::connector::rows::dead_row::{LetterRow, PRIVACY_HEADER};
use crate::connector::rows::leg_message::{Origin, Parts, RowTimes};
use crate::connector::rows::prepare::{ReadyRow, What};
use crate::core::chunk::{
    self, ChunkContext, ChunkPlan, ChunkPolicy, ChunkRow, InFlight, KnownLeg, LegFacts, Letter, Publication, RowKey,
    RowKind,
};
use crate::core::dead_letter::Reason;
use crate::core::identity::KeyHash;
use crate::core::journal::{Entry, Trace};
use crate::core::leg::Leg;
use crate::core::time::UtcMillis;
use crate::core::watermark::Progress;
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, Destination, Message};
use crate::source::wire::{self, Row};
use crate::store::{Remembered, View};

/// What all messages of a chunk have in common.
pub(crate) struct Making<'a> {
    read: Read<'a>,
    pub(crate) generation: u32,
    late_before: UtcMillis,
    journal: [u8; 4],
    now: UtcMillis,
}

impl Making<'_> {
    fn headers(&self, entry: Entry, at: UtcMillis) -> Vec<(&'static str, Bytes)> {
        let trace = Trace::bytes_of(self.journal, entry.seen, self.generation, at, self.read.unit);
        vec![(KeyHash::HEADER, entry.key.0.to_vec().into()), (Trace::HEADER, trace.into())]
    }
}

/// A chunk of rows, decided, and its messages.
pub(crate) struct Batch {
    pub(crate) plan: ChunkPlan,
    pub(crate) messages: Vec<Message>,
    /// For each message the row that it came from.
    pub(crate) rows: Vec<usize>,
}

impl Batch {
    /// Whether nothing of it is to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.plan.page.is_empty() && self.rows.is_empty()
    }
}

impl<C: Cluster, V: View> Writer<C, V> {
    /// Why a leg cannot be published, as far as that is known before it is encoded.
    fn refusal(&self, raw: &[u8], leg: &LegFacts, now: UtcMillis) -> Option<Reason> {
        let refused = if self.refused.is_empty() { None } else { self.refused.get(&KeyHash::of_dead_row(raw)) };
        let refused = refused.filter(|(_, since)| since.elapsed() < REFUSED_KEPT).map(|(reason, _)| *reason);
        refused.or_else(|| (!self.takes_timestamp(leg.disconnected, now)).then_some(Reason::Timestamp))
    }

    /// Whether the topic takes a leg that was disconnected then.
    fn takes_timestamp(&self, disconnected: UtcMillis, now: UtcMillis) -> bool {
        let cluster = &self.owner.follower.cluster;
        self.terms.timestamp == MessageTimestamp::Publish
            || cluster.takes_timestamp(Destination::Legs, disconnected, now)
    }

    /// Decides about a chunk of rows, and makes messages of what is to be published; `before` are other units' rows that
    /// come into the same transaction.
    pub(crate) async fn batch(
        &self,
        rows: &[ReadyRow<'_>],
        read: Read<'_>,
        unburied: &BTreeSet<usize>,
        before: &[Batch],
    ) -> Result<Batch, Fault> {
        let (making, in_flight) = (self.making(read), InFlight::of(before.iter().map(|batch| &batch.plan)));
        let mut facts: Vec<ChunkRow> = rows.iter().map(|row| self.facts(*row, making.now)).collect();
        let found = self.owner.follower.find(facts.iter().map(|row| row.key).collect()).await?;
        let known: Vec<Option<KnownLeg>> = zip(&facts, found)
            .map(|(row, known)| {
                let known = known.filter(|_| !self.is_expired_by_mutant(row)).map(|known| known_leg(&known, read));
                in_flight.leg(row.key).or(known)
            })
            .collect();
        let progress = self.progress_for(read);
        let context = self.context(read, &making, &progress);
        let (mut plan, mut messages) = loop {
            let plan = chunk::plan(&facts, &known, &context);
            match self.leg_messages(&plan, rows, &facts, &making) {
                Ok(messages) => break (plan, messages),
                Err(refusals) => refusals.into_iter().for_each(|(row, reason)| facts[row].refused = Some(reason)),
            }
        };
        let mut from_rows: Vec<usize> = plan.publish.iter().map(|publication| publication.row).collect();
        let row_keys = self.row_keys(&plan, rows, &in_flight).await?;
        for letter in plan.bury(&row_keys, unburied, read.dead_rows) {
            messages.push(self.dead_letter(letter, rows[letter.dead.row], &making));
            from_rows.push(letter.dead.row);
        }
        Ok(Batch { plan, messages, rows: from_rows })
    }

    /// What is known of a row before it is decided about.
    fn facts(&self, row: ReadyRow<'_>, now: UtcMillis) -> ChunkRow {
        let ready = row.ready();
        let (kind, refused) = match &ready.what {
            What::Leg(leg, _) => (RowKind::Leg(*leg), self.refusal(row.raw(), leg, now)),
            What::Dead(reason) => (RowKind::Dead(*reason), None),
            What::Unfinished => (RowKind::Unfinished, None),
        };
        ChunkRow { key: ready.key, kind, seen_at: row.seen_at(), contradiction: row.contradiction(), refused }
    }

    /// The unit's progress; one that is not in the journal has none.
    fn progress_for(&self, read: Read<'_>) -> Progress {
        let unstarted = || Progress::starting_at(UtcMillis::new(0), &self.terms.delays);
        let mut progress = self.progress(read.unit).map_or_else(unstarted, |unit| unit.progress.clone());
        if hooks::is_mutant(Mutant::ExpiryByWallClock) {
            progress.floor = UtcMillis::new(i64::MIN);
        }
        progress
    }

    fn context<'a>(&self, read: Read<'a>, making: &Making<'_>, progress: &'a Progress) -> ChunkContext<'a> {
        let RecordTerms { time_basis, delays, apart_max, revisions, .. } = self.terms;
        let policy = ChunkPolicy { time_basis, revisions, settle: delays.settle, apart_max };
        let Read { unit, piece, asked, makes_final_to, looked_to, .. } = read;
        ChunkContext {
            unit,
            generation: making.generation,
            progress,
            late_before: making.late_before,
            piece,
            asked,
            makes_final_to,
            looked_to,
            policy,
        }
    }

    /// What is remembered of a plan's dead rows.
    async fn row_keys(
        &self,
        plan: &ChunkPlan,
        rows: &[ReadyRow<'_>],
        in_flight: &InFlight,
    ) -> Result<Vec<RowKey>, Fault> {
        if plan.dead.is_empty() {
            return Ok(Vec::new());
        }
        let privacy = &self.terms.privacy;
        let raw = || plan.dead.iter().map(|dead| rows[dead.row].raw());
        let keys: Vec<KeyHash> = raw().map(|raw| privacy.dead_row(raw)).collect();
        let mut known = self.are_known(keys.clone()).await?;
        // A row that was buried before there was a privacy policy is not buried again.
        let before: Vec<KeyHash> = raw().filter_map(|raw| privacy.dead_row_before(raw)).collect();
        if !before.is_empty() {
            zip(&mut known, self.are_known(before).await?).for_each(|(known, before)| *known |= before);
        }
        let row_key = |(key, known)| RowKey { key, is_known: known || in_flight.has_dead(key) };
        Ok(zip(keys, known).map(row_key).collect())
    }

    async fn are_known(&self, keys: Vec<KeyHash>) -> Result<Vec<bool>, Fault> {
        Ok(self.owner.follower.find(keys).await?.iter().map(Option::is_some).collect())
    }

    fn is_expired_by_mutant(&self, row: &ChunkRow) -> bool {
        let RowKind::Leg(leg) = row.kind else { return false };
        hooks::is_mutant(Mutant::ExpiryByWallClock) && leg.at < self.clock.now().minus(self.terms.delays.horizon)
    }

    /// The messages of a plan's legs; or which of them cannot be published, and why.
    fn leg_messages(
        &self,
        plan: &ChunkPlan,
        rows: &[ReadyRow<'_>],
        facts: &[ChunkRow],
        making: &Making<'_>,
    ) -> Result<Vec<Message>, Vec<(usize, Reason)>> {
        let (mut messages, mut refused) = (Vec::with_capacity(plan.publish.len()), Vec::new());
        for Publication { row, entry } in &plan.publish {
            let RowKind::Leg(leg) = facts[*row].kind else { continue };
            match self.leg_message(rows[*row], leg, *entry, making) {
                Ok(message) => messages.push(message),
                Err(reason) => refused.push((*row, reason)),
            }
        }
        if refused.is_empty() { Ok(messages) } else { Err(refused) }
    }

    /// What all messages of a chunk have in common.
    pub(crate) fn making<'a>(&'a self, read: Read<'a>) -> Making<'a> {
        let unit = self.progress(read.unit);
        Making {
            read,
            generation: unit.map_or(0, |unit| unit.generation),
            late_before: self.late_before(read.unit),
            journal: Trace::journal_tag(&self.owner.terms.journal),
            now: self.clock.now(),
        }
    }

    /// The message of a new leg, or why it cannot be one.
    fn leg_message(
        &self,
        row: ReadyRow<'_>,
        found: LegFacts,
        entry: Entry,
        making: &Making<'_>,
    ) -> Result<Message, Reason> {
        let is_first = entry.seen.revision == 0;
        if let Some(new) = row.new_leg(making.generation, making.late_before).filter(|_| is_first) {
            return self.message(new, found, making);
        }
        // A revision; or known by its bytes and new all the same, as after a rewind; or the unit has come further since
        // the read began; or it does not fit.
        match wire::row(row.raw()) {
            Row::Leg(mut leg) => {
                self.terms.privacy.treat(&mut leg);
                self.encode(&leg, found, row.seen_at(), entry, making)
            }
            Row::Dead(_) | Row::Unfinished => Err(Reason::Invalid),
        }
    }

    /// The message of a new leg, or why the topic cannot take it.
    pub(crate) fn encode(
        &self,
        leg: &Leg<'_>,
        found: LegFacts,
        seen_at: UtcMillis,
        entry: Entry,
        making: &Making<'_>,
    ) -> Result<Message, Reason> {
        let Making { read: Read { unit, piece, .. }, generation, late_before, .. } = *making;
        let origin = Origin { unit: unit.to_owned(), piece, generation, late_before };
        let mut memory = Vec::with_capacity(1024);
        let written = self
            .leg_writer
            .write(leg, entry, RowTimes { at: found.at, seen_at }, &origin, &mut memory)
            .map_err(|error| {
                tracing::warn!(unit, %error, "a leg cannot be encoded and goes to the dead letters");
                Reason::Invalid
            })?;
        self.message(written.parts(&memory.into()), found, making)
    }

    fn message(&self, leg: Parts, found: LegFacts, making: &Making<'_>) -> Result<Message, Reason> {
        let LegFacts { disconnected, .. } = found;
        let Parts { key, payload, headers } = leg;
        let timestamp = match self.terms.timestamp {
            MessageTimestamp::Disconnect => Some(disconnected),
            MessageTimestamp::Publish => None,
        };
        if !self.takes_timestamp(disconnected, making.now) {
            return Err(Reason::Timestamp);
        }
        let message = Message { destination: Destination::Legs, key, payload: Some(payload), timestamp, headers };
        if message.size_bytes() <= self.owner.follower.cluster.message_bytes_max(Destination::Legs) {
            Ok(message)
        } else {
            Err(Reason::TooLarge)
        }
    }

    fn dead_letter(&self, letter: Letter, row: ReadyRow<'_>, making: &Making<'_>) -> Message {
        let (read, Letter { dead, entry }) = (making.read, letter);
        let held = LetterRow::of(row.raw(), &self.terms.privacy, self.terms.are_unreadable_rows_shown);
        let row_hash: String = entry.key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut headers = making.headers(entry, dead.at);
        headers.extend([
            ("call-legs-error-code", dead.reason.code().into()),
            ("call-legs-error-message", dead.reason.to_string().into()),
            ("call-legs-unit", read.unit.to_owned().into()),
            ("call-legs-window", format!("{}/{}", read.piece.window.start, read.piece.window.end).into()),
            ("call-legs-row-bytes", held.row_bytes.to_string().into()),
            ("call-legs-row-hash", row_hash.clone().into()),
        ]);
        headers.extend(held.privacy.map(|privacy| (PRIVACY_HEADER, privacy.into())));
        let mut message = Message {
            destination: Destination::DeadLetters,
            key: row_hash.into(),
            payload: None,
            timestamp: Some(row.seen_at()),
            headers,
        };
        let bytes_max = self.owner.follower.cluster.message_bytes_max(Destination::DeadLetters);
        let room = bytes_max.saturating_sub(message.size_bytes());
        message.payload = Some(Bytes::copy_from_slice(&held.bytes[..held.bytes.len().min(room)]));
        message
    }
}

fn known_leg(known: &Remembered, read: Read<'_>) -> KnownLeg {
    KnownLeg { seen: known.seen, is_ours: *known.unit == *read.unit }
}
