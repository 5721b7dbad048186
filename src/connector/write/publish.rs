//! Rows published: planned, committed, and planned anew from the same rows until it is known what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::zip;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::Empty;

use super::batch::Batch;
use super::owner::acknowledged;
use super::request::{Read, RowsOutcome, UnitRows};
use super::transaction::{CommitError, Draft};
use super::writer::{ALONE_MAX, Writer, commit_watched};
use crate::connector::fault::Fault;
use crate::connector::rows::prepare::{ReadyRow, What};
use crate::connector::stage::{count, stage, traced};
use crate::core::dead_letter::Reason;
use crate::core::dedupe::Counts;
use crate::core::feed::UnitFeed;
use crate::core::identity::KeyHash;
use crate::core::journal::UnitProgress;
use crate::core::leg::How;
use crate::core::poll::WindowTally;
use crate::core::time::UtcMillis;
use crate::core::watermark::Reach;
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, Destination, Message, Packing};
use crate::store::View;

/// How long a unit's status, once written with its legs, need not be written with more of them.
const TOLD_KEPT: Duration = Duration::from_secs(1);

/// How many rows that the brokers refuse are remembered.
const REFUSED_KEPT_MAX: usize = 10_000;

/// One unit's rows of a request, on their way into a transaction.
struct Part<'a> {
    /// Its place in the request.
    index: usize,
    read: Read<'a>,
    rows: Vec<ReadyRow<'a>>,
    /// Rows that not even the dead letters take.
    unburied: BTreeSet<usize>,
    /// How far the unit has come with these rows.
    reaches: &'a [Reach],
    /// What the pass has seen, where that is to be known.
    tally: Option<Box<WindowTally>>,
    /// What became of the rows.
    counts: Counts,
}

/// Where a message comes from: which part, and which of its rows.
#[derive(Clone, Copy)]
struct FromRow {
    part: usize,
    row: usize,
}

/// A row whose message the brokers refuse for its content.
struct Refusal {
    from: FromRow,
    destination: Destination,
    reason: Reason,
}

impl<'a> Part<'a> {
    fn new(index: usize, rows: &'a UnitRows, tally: Option<Box<WindowTally>>) -> Self {
        let (unburied, counts, reaches) = (BTreeSet::new(), Counts::default(), &rows.reaches[..]);
        Self { index, read: rows.read(), rows: rows.rows.iter().collect(), unburied, reaches, tally, counts }
    }

    /// The same with some of the rows; what the pass has seen goes with them.
    fn with(&mut self, rows: Vec<ReadyRow<'a>>, reaches: &'a [Reach]) -> Self {
        let (index, read, tally) = (self.index, self.read, self.tally.take());
        Self { index, read, rows, unburied: BTreeSet::new(), reaches, tally, counts: Counts::default() }
    }
}

/// Whether a unit's newest window is published with these.
fn has_newest(parts: &[Part<'_>], unit: &str) -> bool {
    parts.iter().any(|part| part.read.unit == unit && part.read.piece.how == How::Poll && !part.reaches.is_empty())
}

impl<C: Cluster, V: View> Writer<C, V> {
    /// Publishes what is new of units' rows in one transaction, counts every row, and takes note of what was seen.
    pub(crate) async fn publish(&mut self, mut units: Vec<UnitRows>) -> Result<Vec<RowsOutcome>, Fault> {
        let tallies: Vec<Option<Box<WindowTally>>> = units.iter_mut().map(|rows| rows.tally.take()).collect();
        let is_current =
            |rows: &UnitRows| self.progress(&rows.unit).is_some_and(|unit| unit.generation == rows.generation);
        let current = zip(&units, tallies).enumerate().filter(|(_, (rows, _))| is_current(rows));
        let mut parts: Vec<Part<'_>> = current.map(|(index, (rows, tally))| Part::new(index, rows, tally)).collect();
        if let Some(first) = parts.first() {
            let (unit, window) = (first.read.unit, first.read.piece.window);
            let rows = count(parts.iter().map(|part| part.rows.len()).sum::<usize>());
            let span = stage!("publish", unit, %window, rows, published = Empty);
            traced(span.clone(), self.publish_until_known(&mut parts)).await?;
            span.record("published", count(parts.iter().map(|part| part.counts.published).sum::<u64>()));
        }
        let mut outcomes: Vec<RowsOutcome> = units.iter().map(|_| RowsOutcome::Replaced).collect();
        for Part { index, counts, tally, .. } in parts {
            outcomes[index] = RowsOutcome::Done { counts, tally };
        }
        Ok(outcomes)
    }

    /// Tries it until it is known what became of the rows. The same rows are planned anew after every doubt.
    async fn publish_until_known(&mut self, parts: &mut [Part<'_>]) -> Result<(), Fault> {
        let mut packing = Packing::Shared;
        let started = Instant::now();
        loop {
            self.owner.own().await?;
            let mut batches = match self.batches(parts).await {
                Ok(batches) => batches,
                Err(fault) => {
                    self.owner.recover_from(fault).await?;
                    continue;
                }
            };
            let (messages, from_rows) = take_messages(parts, &mut batches);
            let (units, newest) = (self.units_after(parts, &batches), self.ledger().newest);
            if units.is_empty() {
                self.note_done(parts, &batches, &[], started);
                return Ok(());
            }
            let after: Vec<UnitProgress> = units.clone();
            // What moves while a window is read is counts only: where transactions follow upon each other, the feed's
            // readers need not have them all.
            let untold: Vec<&UnitProgress> =
                units.iter().filter(|unit| has_newest(parts, &unit.unit) || !self.is_told(&unit.unit)).collect();
            let feeds: Vec<UnitFeed> = untold.iter().map(|unit| self.feed(unit)).collect();
            let told: Vec<String> = feeds.iter().map(|feed| feed.unit.clone()).collect();
            let draft = Draft {
                feeds,
                units,
                messages: &messages,
                packing: Some(packing),
                pages: batches.iter().map(|batch| batch.plan.page.clone()).collect(),
                ..Draft::default()
            };
            match commit_watched(&mut self.owner, draft, &self.status).await {
                Ok(()) => {
                    self.told.extend(told.into_iter().map(|unit| (unit, Instant::now())));
                    self.note_behind(parts, &from_rows, newest);
                    self.note_done(parts, &batches, &after, started);
                    return Ok(());
                }
                Err(CommitError::Content(positions)) => {
                    let refusal = |(position, reason): (usize, Reason)| {
                        let (message, from) = (messages.get(position)?, *from_rows.get(position)?);
                        Some(Refusal { from, destination: message.destination, reason })
                    };
                    for refusal in positions.into_iter().filter_map(refusal) {
                        self.note_refusal(parts, &refusal);
                    }
                    if parts.iter().map(|part| part.rows.len()).sum::<usize>() > ALONE_MAX {
                        return self.publish_by_few(parts).await;
                    }
                    packing = Packing::Alone;
                }
                Err(CommitError::Fault(fault)) => {
                    self.owner.recover_from(fault).await?;
                    self.owner.own().await?;
                    // Progress is the last record of its transaction: where it is, everything is.
                    let has_come = |after: &UnitProgress| {
                        let now = self.progress(&after.unit);
                        now.is_some_and(|now| now.counts == after.counts && now.progress == after.progress)
                    };
                    if after.iter().all(has_come) {
                        let units: Vec<&str> = after.iter().map(|after| after.unit.as_str()).collect();
                        tracing::info!(unit = units.join(", "), "the doubtful transaction had come through");
                        acknowledged(&self.status);
                        self.note_behind(parts, &from_rows, newest);
                        self.note_done(parts, &batches, &after, started);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Publishes rows a few at a time, in the order of their times: one acknowledgement a record must fit into a
    /// transaction's time.
    async fn publish_by_few(&mut self, parts: &mut [Part<'_>]) -> Result<(), Fault> {
        let rows = |(part, of): (usize, &Part<'_>)| (0..of.rows.len()).map(move |row| FromRow { part, row });
        let mut in_order: Vec<FromRow> = parts.iter().enumerate().flat_map(rows).collect();
        in_order.sort_by_key(|from| parts[from.part].rows[from.row].time());
        for few in in_order.chunks(ALONE_MAX) {
            let mut of_parts: BTreeMap<usize, Vec<ReadyRow<'_>>> = BTreeMap::new();
            few.iter().for_each(|from| of_parts.entry(from.part).or_default().push(parts[from.part].rows[from.row]));
            let some = |(part, rows): (&usize, &Vec<_>)| parts[*part].with(rows.clone(), &[]);
            let mut few: Vec<Part<'_>> = of_parts.iter().map(some).collect();
            Box::pin(self.publish_until_known(&mut few)).await?;
            for (part, Part { tally, counts, .. }) in zip(of_parts.keys(), few) {
                parts[*part].tally = tally;
                parts[*part].counts += counts;
            }
        }
        // Only now all rows of their windows are there.
        let reached = parts.iter_mut().filter(|part| !part.reaches.is_empty());
        let mut reached: Vec<Part<'_>> = reached.map(|part| part.with(Vec::new(), part.reaches)).collect();
        Box::pin(self.publish_until_known(&mut reached)).await
    }

    /// Decides about all parts' rows; what is published for one unit is known to the units behind it.
    async fn batches(&self, parts: &[Part<'_>]) -> Result<Vec<Batch>, Fault> {
        let mut before = Vec::with_capacity(parts.len());
        for Part { read, rows, unburied, .. } in parts {
            let span = stage!("classify", unit = read.unit, rows = count(rows.len()), messages = Empty);
            let batch = traced(span.clone(), self.batch(rows, *read, unburied, &before)).await?;
            span.record("messages", count(batch.messages.len()));
            before.push(batch);
        }
        Ok(before)
    }

    /// The units' progress once their batches are published; of those that have nothing to publish and come no further none.
    fn units_after(&self, parts: &[Part<'_>], batches: &[Batch]) -> Vec<UnitProgress> {
        let after = |(part, batch): (&Part<'_>, &Batch)| {
            let unit = self.progress(part.read.unit).cloned().unwrap_or_else(|| self.unstarted(part.read.unit));
            let mut progress = unit.progress.clone();
            part.reaches.iter().for_each(|reach| progress.reach(reach, &self.terms.delays));
            if batch.is_empty() && progress == unit.progress {
                return None;
            }
            let mut unit = UnitProgress { progress, ..self.with_uncommitted(&unit) };
            unit.counts += batch.plan.counts;
            unit.lateness.add(&batch.plan.lateness);
            Some(unit)
        };
        zip(parts, batches).filter_map(after).collect()
    }

    /// Whether a unit's status was just written with its legs.
    fn is_told(&self, unit: &str) -> bool {
        self.told.get(unit).is_some_and(|told| told.elapsed() < TOLD_KEPT)
    }

    /// Takes note of how far legs lay behind the newest one published before each; they are in the order of the messages.
    fn note_behind(&self, parts: &[Part<'_>], from_rows: &[FromRow], mut newest: Option<UtcMillis>) {
        let of_parts: Vec<_> = parts.iter().map(|part| self.metrics.leg_behind(part.read.unit)).collect();
        for from in from_rows {
            let row = parts[from.part].rows[from.row];
            if let What::Leg(leg, _) = &row.ready().what {
                let behind = newest.map_or(Duration::ZERO, |newest| newest.since(leg.at));
                of_parts[from.part].observe(behind.as_secs_f64());
                newest = newest.max(Some(leg.at));
            }
        }
    }

    /// Takes note of what became of the parts, which is known now.
    fn note_done(&mut self, parts: &mut [Part<'_>], batches: &[Batch], written: &[UnitProgress], started: Instant) {
        for (part, batch) in zip(parts, batches) {
            let plan = &batch.plan;
            if written.iter().any(|unit| unit.unit == part.read.unit) {
                self.uncommitted.remove(part.read.unit);
            } else {
                self.note_uncommitted(part.read.unit, plan.counts);
            }
            self.note_published(plan, part.read, (!batch.is_empty()).then_some(started));
            if let Some(tally) = &mut part.tally {
                tally.add(plan, part.rows.iter().map(|row| row.ready().key));
            }
            part.counts += plan.counts;
        }
    }

    /// Takes note of a row whose message the brokers refuse.
    fn note_refusal(&mut self, parts: &mut [Part<'_>], refusal: &Refusal) {
        let Refusal { from: FromRow { part, row }, destination, reason } = *refusal;
        let part = &mut parts[part];
        if destination == Destination::Legs {
            if self.refused.len() >= REFUSED_KEPT_MAX {
                self.refused.clear();
            }
            self.refused.insert(KeyHash::of_dead_row(part.rows[row].raw()), (reason, Instant::now()));
        } else {
            let (unit, code) = (part.read.unit, reason.code());
            tracing::warn!(unit, code, "the dead-letter topic refuses a row: check its max.message.bytes");
            part.unburied.insert(row);
        }
    }
}

/// The messages of all batches in the order of their times, and where they come from.
fn take_messages(parts: &[Part<'_>], batches: &mut [Batch]) -> (Vec<Message>, Vec<FromRow>) {
    let (mut messages, mut from_rows) = (Vec::new(), Vec::new());
    for (part, batch) in batches.iter_mut().enumerate() {
        from_rows.extend(batch.rows.iter().map(|&row| FromRow { part, row }));
        if messages.is_empty() {
            messages = std::mem::take(&mut batch.messages);
        } else {
            messages.append(&mut batch.messages);
        }
    }
    let time = |from: &FromRow| parts[from.part].rows[from.row].time();
    if !from_rows.is_sorted_by_key(time) && !hooks::is_mutant(Mutant::AsItComes) {
        let mut in_order: Vec<(FromRow, Message)> = zip(from_rows, messages).collect();
        in_order.sort_by_key(|(from, _)| time(from));
        (from_rows, messages) = in_order.into_iter().unzip();
    }
    (messages, from_rows)
}
