//! Backfills of one unit: past periods that an operator asked for, read once, oldest first.
//!
//! ```text
//!   asked for   [────────────────────────────)
//!   covered           [────)      [─────────────── live ─────── final_to
//!   read        [────)      [────)
//! ```
//!
//! Only what coverage lacks is read, in windows that are halved until none is huge, and always behind the polls. How
//! far it has come is the unit's coverage, so a crash at any instant costs the window under way.

use std::time::Duration;

use super::fault::Fault;
use super::publisher::Publisher;
use super::reader::{Pass, ReadError, WindowReader};
use super::stage::{root, traced};
use super::transaction::Draft;
use crate::core::dedupe::Counts;
use crate::core::journal::{Backfill, BackfillState, Nonce, Record, UnitProgress};
use crate::core::leg::How;
use crate::core::parts::SPAN_MIN;
use crate::core::planner::{Piece, backfill_holes};
use crate::core::poll::{WindowEnd, WindowTally};
use crate::core::time::Window;
use crate::sink::Cluster;
use crate::source::{Source, SourceError};
use crate::store::View;
use crate::telemetry::status::BackfillStatus;
use crate::telemetry::status::UnitState;
use crate::telemetry::{Repeated, Streak};

/// How often it looks for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A window that announces more rows is halved before it is read.
const ROWS_MAX: u64 = 10_000;

/// A window that held fewer is followed by one of twice the length.
const ROWS_MIN: u64 = ROWS_MAX / 4;

/// How many backfills that have ended are kept in the journal.
const BACKFILLS_KEPT: usize = 20;

/// Backfills one unit.
pub(super) struct Backfiller<S, C: Cluster, V> {
    pub(super) reader: WindowReader<S, C, V>,
}

impl<S: Source, C: Cluster, V: View> Backfiller<S, C, V> {
    /// Backfills whatever is asked for, until told to stop.
    pub(super) async fn run(self) -> Result<(), Fault> {
        let mut failures = 0;
        let mut repeated = Repeated::default();
        let mut span = self.reader.pace.window_max;
        // Of windows that could not be covered: what was published of them is a duplicate when they are read again.
        let mut carried: (Option<Nonce>, Counts) = Default::default();
        loop {
            let mut pause = Duration::ZERO;
            match self.step(&mut span, &mut carried).await {
                Ok(true) => {
                    failures = 0;
                    if let Some(Streak { failures, lasted }) = repeated.works() {
                        let lasted_s = lasted.as_secs();
                        tracing::info!(unit = self.reader.unit, failures, lasted_s, "the backfill goes on");
                    }
                }
                Ok(false) => {
                    pause = LOOK_EVERY;
                    // Whatever there was is done, or was taken back.
                    let _ = repeated.works();
                }
                Err(ReadError::Replaced) => {}
                Err(ReadError::Source(error)) => {
                    failures += 1;
                    pause = self.reader.pause_after(&error, failures);
                    let again_in_s = pause.as_secs();
                    if let Some(Streak { failures, .. }) = repeated.failed(error.failure.as_str()) {
                        tracing::warn!(unit = self.reader.unit, failures, again_in_s, "the backfill waits: {error}");
                    }
                    self.show_trouble(&error.to_string());
                }
                Err(ReadError::Fault(Fault::Stopped)) => return Ok(()),
                Err(ReadError::Fault(fault)) => return Err(fault),
            }
            tokio::select! {
                biased;
                () = self.reader.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether the unit's polls do not believe what the source shows.
    fn shows_nothing(&self) -> bool {
        let status = self.reader.status.read();
        status.units.get(&self.reader.unit).is_some_and(|unit| unit.state == UnitState::SourceEmpty)
    }

    /// Reads the next window, if there is one; `false` when there is nothing to do for a while.
    async fn step(&self, span: &mut Duration, (of, counts): &mut (Option<Nonce>, Counts)) -> Result<bool, ReadError> {
        let (unit, backfill) = {
            let publisher = self.reader.publisher.lock().await;
            let backfill = publisher.next_backfill(&self.reader.unit);
            if let Some(backfill) = &backfill {
                publisher.show_backfill(backfill.id);
            }
            (publisher.progress(&self.reader.unit).cloned(), backfill)
        };
        let Some((unit, backfill)) = unit.filter(UnitProgress::is_started).zip(backfill) else { return Ok(false) };
        let Some(hole) = backfill_holes(backfill.window, &unit.progress).first().copied() else {
            // After a rewind polls read a part of it again, which is covered when they have left it.
            return self.finish_if_covered(&unit, &backfill).await;
        };
        let window = Window::new(hole.start, hole.start.plus(*span).min(hole.end));
        let trace = root!("backfill", unit = self.reader.unit, %window);
        traced(trace, self.read_window(window, &unit, &backfill, span, (of, counts))).await.map(|()| true)
    }

    /// Reads a window and has it covered, or finds out that it is to be halved.
    async fn read_window(
        &self,
        window: Window,
        unit: &UnitProgress,
        backfill: &Backfill,
        span: &mut Duration,
        (of, counts): (&mut Option<Nonce>, &mut Counts),
    ) -> Result<(), ReadError> {
        if of.replace(backfill.id) != Some(backfill.id) {
            *counts = Counts::default();
        }
        let mut pass = Pass {
            piece: Piece { window, how: How::Backfill },
            generation: unit.generation,
            final_to: unit.progress.final_to,
            makes_final_to: unit.progress.final_to,
            rows_max: (window.length() > SPAN_MIN).then_some(ROWS_MAX),
            counts,
            tally: WindowTally::default(),
            requests: 0,
        };
        let ended = self.reader.read(&mut pass).await?;
        let rows = pass.tally.rows.len() as u64;
        let is_halved = match &ended {
            WindowEnd::TooManyRows => true,
            WindowEnd::Broken(fault) => fault.is_mended_by_halves() && window.length() > SPAN_MIN,
            WindowEnd::Whole => false,
        };
        if is_halved {
            *span = (window.length() / 2).max(SPAN_MIN);
            tracing::debug!(unit = self.reader.unit, %window, "a window of a backfill is halved");
            return Ok(());
        }
        match ended {
            WindowEnd::Broken(fault) => {
                return Err(
                    SourceError::unreachable(format!("window {window} could not be read whole: {fault}")).into()
                );
            }
            WindowEnd::Whole if pass.tally.held > 0 => {
                let what = format!("too many rows of window {window} cannot be legs, beyond dead_letter.max_ratio");
                return Err(SourceError::unreachable(what).into());
            }
            WindowEnd::Whole if let Some(found) = pass.tally.contradiction() => {
                let what = self.reader.describe_contradiction(window, found);
                return Err(SourceError::unreachable(what).into());
            }
            WindowEnd::Whole if rows == 0 && self.shows_nothing() => {
                let what =
                    "the source shows nothing at present, where it had shown legs: a past without any is not believed";
                return Err(SourceError::unreachable(what).into());
            }
            WindowEnd::Whole | WindowEnd::TooManyRows => {}
        }
        if rows < ROWS_MIN {
            *span = (*span * 2).min(self.reader.pace.window_max);
        }
        let mut publisher = self.reader.publisher.lock().await;
        let counts = std::mem::take(counts);
        if !publisher.cover(&self.reader.unit, unit.generation, window, backfill.id, counts).await? {
            return Err(ReadError::Replaced);
        }
        tracing::debug!(unit = self.reader.unit, %window, rows, published = counts.published, "a window was backfilled");
        Ok(())
    }

    async fn finish_if_covered(&self, unit: &UnitProgress, backfill: &Backfill) -> Result<bool, ReadError> {
        if !unit.progress.coverage.holes(backfill.window).is_empty() {
            return Ok(false);
        }
        let done = Backfill { state: BackfillState::Done, ..backfill.clone() };
        self.reader.publisher.lock().await.note_backfill(&done).await?;
        let Counts { published, duplicate, dead, beyond_horizon, .. } = backfill.counts;
        let (unit_name, window) = (&self.reader.unit, backfill.window);
        tracing::info!(unit = unit_name, %window, published, duplicate, dead, beyond_horizon, "a backfill is done");
        Ok(true)
    }

    fn show_trouble(&self, trouble: &str) {
        self.reader.status.update(|status| {
            let of_unit = status.backfills.values_mut().filter(|shown| shown.unit == self.reader.unit);
            of_unit
                .filter(|shown| shown.state == BackfillState::Running)
                .for_each(|shown| shown.trouble = Some(trouble.to_owned()));
        });
    }
}

impl<C: Cluster, V: View> Publisher<C, V> {
    /// The backfill of a unit that comes next.
    pub(super) fn next_backfill(&self, unit: &str) -> Option<Backfill> {
        let known = self.ledger().head.backfills.values();
        let running = known.filter(|known| known.unit == unit && known.state == BackfillState::Running);
        running.min_by_key(|known| (known.at, known.id)).cloned()
    }

    /// Whether backfills of a unit have nothing to read at present.
    pub(super) fn has_nothing_to_backfill(&self, unit: &str) -> bool {
        let Some(known) = self.progress(unit) else { return true };
        let running = self
            .ledger()
            .head
            .backfills
            .values()
            .filter(|backfill| backfill.unit == unit && backfill.state == BackfillState::Running);
        running.into_iter().all(|backfill| {
            backfill_holes(backfill.window, &known.progress).is_empty()
                && !known.progress.coverage.holes(backfill.window).is_empty()
        })
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
            windows: self.status.read().backfills.get(&id).map_or(0, |shown| shown.windows),
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
            let draft = Draft { notes: further.into_iter().collect(), units: vec![unit], ..Draft::default() };
            if self.commit_with_feeds(draft).await? {
                self.show_backfill(backfill);
                self.status.update(|status| {
                    if let Some(shown) = status.backfills.get_mut(&backfill) {
                        shown.windows += 1;
                    }
                });
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
            let notes = forgotten.chain([Record::Backfill(backfill.clone())]).collect();
            let units = self.progress(&backfill.unit).map(|unit| self.with_uncommitted(unit)).into_iter().collect();
            if self.commit_with_feeds(Draft { notes, units, ..Draft::default() }).await? {
                self.show_backfill(backfill.id);
                return Ok(());
            }
        }
    }
}
