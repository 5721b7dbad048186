//! Backfills of one unit: past periods that an operator asked for, read once, oldest first.
//!
//! ```text
//!   asked for   [────────────────────────────)
//!   covered           [────)      [─────────────── live ─────── final_to
//!   read        [────)      [────)
//! ```
//!
//! Only what coverage lacks is read, in windows that are cut until none is huge, and always behind the polls. How
//! far it has come is the unit's coverage, so a crash at any instant costs the window under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::doubt::{describe_contradiction, describe_doubt};
use super::paged_read::PagedRead;
use super::plan::PlannedRead;
use super::read_error::ReadError;
use super::scroll::Scroller;
use super::unit::UnitContext;
use crate::connector::fault::Fault;
use crate::connector::stage::{root, traced};
use crate::connector::write::request::{CoveredWindow, Lane, Request};
use crate::core::course::{Leniency, Polls};
use crate::core::dedupe::Counts;
use crate::core::journal::{Backfill, BackfillState, Nonce, UnitProgress};
use crate::core::leg::How;
use crate::core::planner::{Piece, backfill_holes};
use crate::core::poll::{TELLING_LEGS, WindowEnd};
use crate::core::shape::Doubt;
use crate::core::time::{UtcMillis, Window};
use crate::core::window_length::{SPAN_MIN, WindowLength};
use crate::source::{Source, SourceError};
use crate::telemetry::status::UnitState;
use crate::telemetry::{Repeated, Streak};

/// How often it looks for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A window that announces more rows is cut before it is read.
const ROWS_MAX: u64 = 10_000;

/// Backfills one unit.
pub(crate) struct Backfiller<S> {
    unit: Arc<UnitContext>,
    scroller: Arc<Scroller<S>>,
}

/// Where the backfills of a unit have come to.
struct Course {
    /// How long the next window is.
    length: WindowLength,
    /// The backfill that was read last.
    of: Option<Nonce>,
    /// Of its windows that could not be covered: what was published of them is a duplicate when they are read again.
    counts: Counts,
    /// The beginning of the window whose dead rows are held, and since when they are.
    held: Option<(UtcMillis, UtcMillis)>,
}

impl<S: Source> Backfiller<S> {
    pub(crate) fn new(scroller: Arc<Scroller<S>>) -> Self {
        Self { unit: Arc::clone(&scroller.fetcher.unit), scroller }
    }

    /// Backfills whatever is asked for, until told to stop.
    pub(crate) async fn run(self) -> Result<(), Fault> {
        let mut failures = 0;
        let mut repeated = Repeated::default();
        let mut course = Course {
            length: WindowLength::new(self.unit.pace.window_max),
            of: None,
            counts: Counts::default(),
            held: None,
        };
        loop {
            let mut pause = Duration::ZERO;
            match self.step(&mut course).await {
                Ok(true) => {
                    failures = 0;
                    if let Some(Streak { failures, lasted }) = repeated.works() {
                        let lasted_s = lasted.as_secs();
                        tracing::info!(unit = self.unit.name, failures, lasted_s, "the backfill goes on");
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
                    pause = self.scroller.fetcher.pause_after(&error, failures);
                    let again_in_s = pause.as_secs();
                    if let Some(Streak { failures, .. }) = repeated.failed(error.failure.as_str()) {
                        tracing::warn!(unit = self.unit.name, failures, again_in_s, "the backfill waits: {error}");
                    }
                    self.show_trouble(&error.to_string());
                }
                Err(ReadError::Fault(Fault::Stopped)) => return Ok(()),
                Err(ReadError::Fault(fault)) => return Err(fault),
            }
            tokio::select! {
                biased;
                () = self.unit.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether the unit's polls do not believe what the source shows.
    fn shows_nothing(&self) -> bool {
        let status = self.unit.status.read();
        status.units.get(&self.unit.name).is_some_and(|unit| unit.state == UnitState::SourceEmpty)
    }

    /// Whether a window without a leg is not believed.
    async fn is_silence_doubtful(&self, window: Window) -> Result<bool, Fault> {
        Ok(self.shows_nothing() || self.unit.legs_known(Lane::Old, window).await? >= TELLING_LEGS)
    }

    /// What of a window is believed in any case, where dead rows of one that begins there are held since then.
    fn leniency(&self, window: Window, unit: &UnitProgress, held: Option<(UtcMillis, UtcMillis)>) -> Leniency {
        let held_since = held.filter(|(start, _)| *start == window.start).map(|(_, since)| since);
        let good = self.unit.good_polls.load(Ordering::Relaxed);
        Leniency::of(window, unit.accepted_at(), held_since, Polls { good, now: self.unit.clock.now() })
    }

    /// Reads the next window, if there is one; `false` when there is nothing to do for a while.
    async fn step(&self, course: &mut Course) -> Result<bool, ReadError> {
        let name = self.unit.name.clone();
        let next = self.unit.writer.ask(Lane::Old, |reply| Request::NextBackfill(name, reply)).await?;
        // As of the answer, or later.
        let unit = self.unit.progress().filter(|unit| unit.is_started());
        let Some((unit, backfill)) = unit.zip(next) else { return Ok(false) };
        let Some(hole) = backfill_holes(backfill.window, &unit.progress).first().copied() else {
            // After a rewind polls read a part of it again, which is covered when they have left it.
            return self.finish_if_covered(&unit, &backfill).await;
        };
        let window = Window::new(hole.start, hole.start.plus(course.length.next()).min(hole.end));
        let trace = root!("backfill", unit = self.unit.name, %window);
        traced(trace, self.read_window(window, &unit, &backfill, course)).await.map(|()| true)
    }

    /// Reads a window and has it covered, or finds out that it is to be halved.
    async fn read_window(
        &self,
        window: Window,
        unit: &UnitProgress,
        backfill: &Backfill,
        course: &mut Course,
    ) -> Result<(), ReadError> {
        if course.of.replace(backfill.id) != Some(backfill.id) {
            course.counts = Counts::default();
        }
        let (piece, generation, final_to) =
            (Piece { window, how: How::Backfill }, unit.generation, unit.progress.final_to);
        let planned = PlannedRead::older(piece, generation, final_to, self.leniency(window, unit, course.held));
        let rows_max = (window.length() > SPAN_MIN).then_some(ROWS_MAX);
        let mut read = PagedRead::new(planned, rows_max, &mut course.counts);
        let ended = match read.read(&self.scroller).await {
            Err(ReadError::Source(error)) if self.scroller.fetcher.is_for_the_length(&error, window).await? => {
                course.length.on_refused(window);
                return Ok(());
            }
            ended => ended?,
        };
        let rows = read.tally.rows.len() as u64;
        match ended {
            WindowEnd::TooManyRows(rows) => {
                course.length.on_too_many(window, rows, ROWS_MAX);
                tracing::debug!(unit = self.unit.name, %window, rows, "a window of a backfill is cut");
                return Ok(());
            }
            WindowEnd::Broken(fault) if fault.is_mended_by_halves() && window.length() > SPAN_MIN => {
                course.length.halve(window);
                tracing::debug!(unit = self.unit.name, %window, "a window of a backfill is halved");
                return Ok(());
            }
            WindowEnd::Broken(_) | WindowEnd::Whole => {}
        }
        match ended {
            WindowEnd::Broken(fault) => {
                return Err(
                    SourceError::unreachable(format!("window {window} could not be read whole: {fault}")).into()
                );
            }
            WindowEnd::Whole if let Some(doubt @ Doubt::Dead(..)) = read.doubt => {
                let held = course.held.filter(|(start, _)| *start == window.start);
                course.held = held.or_else(|| Some((window.start, self.unit.clock.now())));
                return Err(SourceError::unreachable(describe_doubt(window, doubt)).into());
            }
            WindowEnd::Whole if let Some(found) = read.tally.contradiction() => {
                let what = describe_contradiction(window, found);
                return Err(SourceError::unreachable(what).into());
            }
            WindowEnd::Whole if let Some(doubt) = read.doubt => {
                return Err(SourceError::unreachable(describe_doubt(window, doubt)).into());
            }
            WindowEnd::Whole if read.tally.shape.good() == 0 && self.is_silence_doubtful(window).await? => {
                let what =
                    "the source shows nothing at present, where it had shown legs: a past without any is not believed";
                return Err(SourceError::unreachable(what).into());
            }
            WindowEnd::Whole | WindowEnd::TooManyRows(_) => course.held = None,
        }
        course.length.on_read(window, rows, ROWS_MAX);
        let (generation, backfill, counts) = (unit.generation, backfill.id, std::mem::take(&mut course.counts));
        let covered = CoveredWindow { unit: self.unit.name.clone(), generation, window, backfill, counts };
        if !self.unit.writer.ask(Lane::Old, |reply| Request::Cover(covered, reply)).await? {
            return Err(ReadError::Replaced);
        }
        tracing::debug!(unit = self.unit.name, %window, rows, published = counts.published, "a window was backfilled");
        Ok(())
    }

    async fn finish_if_covered(&self, unit: &UnitProgress, backfill: &Backfill) -> Result<bool, ReadError> {
        if !unit.progress.coverage.holes(backfill.window).is_empty() {
            return Ok(false);
        }
        let done = Backfill { state: BackfillState::Done, ..backfill.clone() };
        self.unit.writer.ask(Lane::Old, |reply| Request::NoteBackfill(done, reply)).await?;
        let Counts { published, duplicate, dead, beyond_horizon, .. } = backfill.counts;
        let (unit_name, window) = (&self.unit.name, backfill.window);
        tracing::info!(unit = unit_name, %window, published, duplicate, dead, beyond_horizon, "a backfill is done");
        Ok(true)
    }

    fn show_trouble(&self, trouble: &str) {
        self.unit.status.update(|status| {
            let of_unit = status.backfills.values_mut().filter(|shown| shown.unit == self.unit.name);
            of_unit
                .filter(|shown| shown.state == BackfillState::Running)
                .for_each(|shown| shown.trouble = Some(trouble.to_owned()));
        });
    }
}
