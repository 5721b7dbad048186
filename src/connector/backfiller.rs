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
use super::publisher::Sightings;
use super::reader::{Pass, ReadError, WindowReader};
use crate::core::dedupe::Counts;
use crate::core::journal::{Backfill, BackfillState, UnitProgress};
use crate::core::leg::How;
use crate::core::pagination::Step;
use crate::core::planner::{Piece, backfill_holes};
use crate::core::time::Window;
use crate::sink::Cluster;
use crate::source::{Source, SourceError};
use crate::store::View;

/// How often it looks for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A window that announces more rows is halved before it is read.
const ROWS_MAX: u64 = 10_000;

/// A window that held fewer is followed by one of twice the length.
const ROWS_MIN: u64 = ROWS_MAX / 4;

/// The shortest window: the API's bounds are whole seconds.
const SPAN_MIN: Duration = Duration::from_secs(1);

/// Backfills one unit.
pub(super) struct Backfiller<S, C: Cluster, V> {
    pub(super) reader: WindowReader<S, C, V>,
}

impl<S: Source, C: Cluster, V: View> Backfiller<S, C, V> {
    /// Backfills whatever is asked for, until told to stop.
    pub(super) async fn run(self) -> Result<(), Fault> {
        let mut failures = 0;
        let mut span = self.reader.pace.window_max;
        loop {
            let mut pause = Duration::ZERO;
            match self.step(&mut span).await {
                Ok(true) => failures = 0,
                Ok(false) => pause = LOOK_EVERY,
                Err(ReadError::Replaced) => {}
                Err(ReadError::Source(error)) => {
                    failures += 1;
                    pause = self.reader.pause_after(&error, failures);
                    let again_in_s = pause.as_secs();
                    tracing::warn!(unit = self.reader.unit, failures, again_in_s, "the backfill waits: {error}");
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

    /// Reads the next window, if there is one; `false` when there is nothing to do for a while.
    async fn step(&self, span: &mut Duration) -> Result<bool, ReadError> {
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
            // What polls still read is theirs; the rest of the period is covered when they have left it.
            return self.finish_if_covered(&unit, &backfill).await;
        };
        let window = Window::new(hole.start, hole.start.plus(*span).min(hole.end));
        let mut counts = Counts::default();
        let mut pass = Pass {
            piece: Piece { window, how: How::Backfill },
            generation: unit.generation,
            rows_max: (window.length() > SPAN_MIN).then_some(ROWS_MAX),
            counts: &mut counts,
            sightings: Sightings::default(),
        };
        let step = self.reader.read(&mut pass).await?;
        let rows = pass.sightings.rows.len() as u64;
        match step {
            Step::Next(_) => {
                // Too many rows were announced.
                *span = (window.length() / 2).max(SPAN_MIN);
                tracing::debug!(unit = self.reader.unit, %window, "a window of a backfill is halved");
                return Ok(true);
            }
            Step::Broken(fault) => {
                return Err(
                    SourceError::unreachable(format!("window {window} could not be read whole: {fault}")).into()
                );
            }
            Step::Whole if pass.sightings.held > 0 => {
                let what = format!("too many rows of window {window} cannot be legs, beyond dead_letter.max_ratio");
                return Err(SourceError::unreachable(what).into());
            }
            Step::Whole if let Some(found) = pass.sightings.contradiction => {
                let what = self.reader.describe_contradiction(window, found);
                return Err(SourceError::unreachable(what).into());
            }
            Step::Whole => {}
        }
        if rows < ROWS_MIN {
            *span = (*span * 2).min(self.reader.pace.window_max);
        }
        let mut publisher = self.reader.publisher.lock().await;
        if !publisher.cover(&self.reader.unit, unit.generation, window, backfill.id, counts).await? {
            return Err(ReadError::Replaced);
        }
        tracing::debug!(unit = self.reader.unit, %window, rows, published = counts.published, "a window was backfilled");
        Ok(true)
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
