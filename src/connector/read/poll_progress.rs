//! What of a poll counts as read, and how far the unit has come by it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clocks::ReadStart;
use super::plan::{PlannedRead, first_dead_rows};
use super::poll_report::CatchUpReport;
use super::read_error::ReadError;
use super::unit::UnitContext;
use crate::connector::write::request::{Lane, Reached, Request};
use crate::core::course::{Course, Leniency};
use crate::core::dedupe::Counts;
use crate::core::leg::How;
use crate::core::planner::{Cycle, Piece};
use crate::core::poll::{Hold, Judgement, Outcome, Poll, WindowEnd, WindowRead};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Reach};
use crate::hooks::{self, Mutant};
use crate::source::{Recovery, SourceError};
use crate::telemetry::labels::UnitLabel;

/// How far a poll has come.
pub(super) struct PollProgress {
    pub(super) unit: Arc<UnitContext>,
    pub(super) generation: u32,
    /// How far the unit is final, as the journal has it.
    pub(super) final_to: UtcMillis,
    /// How far the unit was complete before a live poll, behind all holds.
    pub(super) looked_to: Option<UtcMillis>,
    /// When an operator has last accepted what the source shows.
    pub(super) accepted_at: Option<UtcMillis>,
    pub(super) poll: Poll<Cycle>,
    /// As of the newest window that counts as read.
    pub(super) course: Course,
    /// As of the newest window that is published.
    pub(super) settled: Course,
    pub(super) catch_up: CatchUpReport,
    /// What became of the rows that are published.
    pub(super) counts: Counts,
    /// How many rows were read.
    pub(super) rows: u64,
    /// The first window that could not be read.
    pub(super) failed: Option<SourceError>,
}

/// What came of the read of a window.
pub(super) struct ReadOutcome {
    pub(super) piece: Piece,
    pub(super) ended: Result<WindowEnd, SourceError>,
    pub(super) judgement: Judgement,
    pub(super) leniency: Leniency,
    pub(super) begun: UtcMillis,
    pub(super) clocks_differ: bool,
}

impl PollProgress {
    /// A read of a window that is still to be made.
    pub(super) fn planned(&self, piece: Piece, start: ReadStart) -> PlannedRead {
        // As of the beginning: what the answers tell of the server's clock makes less final, never more.
        let Delays { settle, overlap, .. } = self.unit.pace.delays;
        let leniency = self.course.leniency(piece.window, start.earlier, self.accepted_at);
        let looked_to = self.course.looked_to(piece.window);
        PlannedRead {
            piece,
            generation: self.generation,
            final_to: self.final_to,
            makes_final_to: start.earlier.minus(settle).minus(overlap),
            looked_to: self.looked_to.map_or(looked_to, |before| before.min(looked_to)),
            leniency,
            dead_rows: first_dead_rows(leniency),
        }
    }

    /// Takes note of how many pages of the newest window were asked for.
    pub(super) fn note_requests(&mut self, window: Window, requests: usize) {
        self.poll.note_requests(requests, self.course.is_held(window));
    }

    /// Takes note of a window that was read and is published.
    pub(super) async fn note_published(&mut self, outcome: ReadOutcome) -> Result<(), ReadError> {
        let piece = outcome.piece;
        let reaches = self.note(outcome).await?;
        self.settle(piece, reaches).await
    }

    /// Takes note of a window that was read; gives how far the unit has come once the window is published.
    pub(super) async fn note(&mut self, outcome: ReadOutcome) -> Result<Vec<Reach>, ReadError> {
        let ReadOutcome { piece, ended, mut judgement, leniency, begun, clocks_differ } = outcome;
        let unit = &self.unit;
        self.rows += judgement.shape.rows;
        let end = match ended {
            // As far as the source shows it, that is all there is.
            Ok(WindowEnd::Broken(_)) if leniency == Leniency::Accepted => Some(WindowEnd::Whole),
            Ok(end) => Some(end),
            // The newer windows are read first; then this is told with the poll's end.
            Err(error) if error.recovery != Recovery::Refused && self.failed.is_none() => {
                tracing::debug!(unit = unit.name, window = %piece.window, "a window could not be read: {error}");
                self.failed = Some(error.of(piece.window));
                None
            }
            Err(error) => return Err(error.into()),
        };
        if leniency == Leniency::Accepted {
            judgement.contradiction = None;
        }
        let legs_known = match end {
            // Only then does it matter: the window was read whole, and no window has shown a good row.
            Some(WindowEnd::Whole) if self.poll.shows_no_legs() && judgement.shape.good() == 0 => {
                unit.legs_known(Lane::Live, piece.window).await?
            }
            _ => 0,
        };
        let is_before_overlap = self.looked_to.is_some_and(|looked_to| looked_to <= piece.window.start)
            && self.poll.windows().has_overlap_left();
        let read = WindowRead { piece, end, judgement, begun, clocks_differ, legs_known, is_before_overlap };
        match self.poll.note(&read) {
            Outcome::Waits => {}
            Outcome::Held(Some(_)) if hooks::is_mutant(Mutant::HoldsPass) => {
                return Ok(self.believe(vec![(piece.window, begun)]));
            }
            Outcome::Held(why) => {
                tracing::debug!(unit = unit.name, window = %piece.window, ?why, "a window is held");
                self.course.hold(piece.window, why, begun, unit.pace.interval, &unit.pace.delays);
            }
            Outcome::Halved => {
                tracing::debug!(unit = unit.name, window = %piece.window, ?end, "a window of a poll is halved");
            }
            Outcome::Advance(windows) => {
                if leniency == Leniency::Released {
                    self.tell_released(piece.window);
                }
                return Ok(self.believe(windows));
            }
        }
        Ok(Vec::new())
    }

    /// Takes note that a window's rows are published, and moves the journal's watermarks if that did not go with the rows.
    pub(super) async fn settle(&mut self, piece: Piece, reaches: Vec<Reach>) -> Result<(), ReadError> {
        self.advance(reaches).await?;
        self.settled.clone_from(&self.course);
        // A unit with a hole or without a source never looks well in between.
        if piece.how == How::CatchUp && self.poll.is_smooth() && self.course.why().is_none() {
            self.catch_up.tell(&self.unit, self.course.newest().complete_to, self.counts.published);
        }
        Ok(())
    }

    /// Ends a poll all of whose windows were read; gives why the watermarks wait, if they do.
    pub(super) async fn close(&mut self) -> Result<Option<Hold>, ReadError> {
        let windows = self.poll.close();
        let reaches = self.believe(windows);
        self.advance(reaches).await?;
        let hold = self.poll.hold();
        let is_all_in_doubt = matches!(hold, Some(Hold::Empty(..) | Hold::ClockSkew | Hold::TimeZone(..)));
        self.course.end_poll(!is_all_in_doubt && self.course.is_newest_believed());
        self.unit.good_polls.store(self.course.good_polls(), Ordering::Relaxed);
        Ok(hold.or_else(|| self.course.why().and_then(|held| held.why)))
    }

    /// How far the unit has come once these windows are published, each by a read that began then.
    fn believe(&mut self, windows: Vec<(Window, UtcMillis)>) -> Vec<Reach> {
        let believe = |(window, begun)| self.course.believe(window, begun, &self.unit.pace.delays);
        windows.into_iter().flat_map(believe).collect()
    }

    /// Moves the journal's watermarks.
    async fn advance(&self, reaches: Vec<Reach>) -> Result<(), ReadError> {
        if reaches.is_empty() {
            return Ok(());
        }
        let reached = Reached { unit: self.unit.name.clone(), generation: self.generation, reaches };
        let advanced = self.unit.writer.ask(Lane::Live, |reply| Request::Advance(reached, reply)).await?;
        advanced.map(|_| ()).ok_or(ReadError::Replaced)
    }

    /// Says and counts that a window passes although it has too many dead rows.
    fn tell_released(&self, window: Window) {
        let unit = &self.unit.name;
        self.unit.metrics.released_windows.get_or_create(&UnitLabel { unit: unit.clone() }).inc();
        tracing::warn!(
            unit,
            %window,
            "its dead rows were held for six hours, in which newer windows were read well: they are dead letters now, and the window passes"
        );
    }
}
