//! One unit, as its poller, sweeper and backfiller share it.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Pace;
use super::poll_timer::PollTimer;
use super::read_error::ReadError;
use crate::clock::Clock;
use crate::connector::fault::Fault;
use crate::connector::write::request::{Lane, Request, RowsOutcome, RowsRequest, UnitRows, WriterHandle};
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::parts::TornWindows;
use crate::core::planner::Piece;
use crate::core::poll::WindowTally;
use crate::core::time::Window;
use crate::telemetry::status::UnitState;
use crate::telemetry::{Metrics, Repeated, StatusBoard};

/// What the readers of one unit share.
pub(crate) struct UnitContext {
    pub(crate) name: String,
    pub(crate) pace: Pace,
    pub(crate) timer: Arc<PollTimer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) writer: WriterHandle,
    pub(crate) status: StatusBoard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
    /// The failures that keep the unit's polls from reading.
    pub(crate) trouble: Mutex<Repeated>,
    /// The windows with pages that could not be taken apart.
    pub(crate) torn: Mutex<TornWindows>,
    /// How many polls of the unit in a row have believed their newest window.
    pub(crate) good_polls: AtomicU32,
}

impl UnitContext {
    /// The unit's progress, as of the writer's last step.
    pub(super) fn progress(&self) -> Option<Arc<UnitProgress>> {
        self.writer.progress(&self.name)
    }

    /// How many legs of a window the journal knows.
    pub(super) async fn legs_known(&self, lane: Lane, window: Window) -> Result<u64, Fault> {
        let unit = self.name.clone();
        self.writer.ask(lane, |reply| Request::PublishedWithin(unit, window, reply)).await
    }

    /// Has rows published in one transaction; gives what became of them, and the tally of the pass with these rows.
    pub(super) async fn publish(
        &self,
        lane: Lane,
        rows: UnitRows,
    ) -> Result<(Counts, Option<Box<WindowTally>>), ReadError> {
        let outcomes =
            self.writer.ask(lane, |reply| Request::Publish(vec![RowsRequest { units: vec![rows], reply }])).await?;
        match outcomes.into_iter().next() {
            Some(RowsOutcome::Done { counts, tally }) => Ok((counts, tally)),
            Some(RowsOutcome::Replaced) | None => Err(ReadError::Replaced),
        }
    }

    /// Does some work, unless told to stop before its end.
    pub(super) async fn until_stopped<R>(&self, work: impl Future<Output = R>) -> Result<R, ReadError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Fault::Stopped.into()),
            result = work => Ok(result),
        }
    }

    /// Shows the unit's state.
    pub(super) fn show(&self, state: UnitState, detail: &str) {
        let now = self.clock.now();
        self.status.update_unit(&self.name, |status| {
            status.enter(state, detail, now);
            status.repeating.clear();
        });
    }

    /// The same of a failure, after which the source is asked again when `pause` is over.
    pub(super) fn show_failure(&self, state: UnitState, detail: &str, pause: Duration) {
        self.show(state, detail);
        let at = self.clock.now().plus(pause);
        self.status.update_unit(&self.name, |status| status.tried_again_at = Some(at));
    }

    /// The failures that keep the unit's polls from reading.
    pub(super) fn trouble(&self) -> MutexGuard<'_, Repeated> {
        // A poisoned lock is fine: the values are plain, and whole at every instant.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The windows with pages that could not be taken apart.
    pub(super) fn torn(&self) -> MutexGuard<'_, TornWindows> {
        // A poisoned lock is fine: the windows in it are whole, and a missing one costs some requests.
        self.torn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next window to read. A window that is known to be torn is read by itself.
    pub(super) fn next_window(&self, next: impl FnOnce(&TornWindows) -> Option<Piece>) -> Option<Piece> {
        next(&self.torn())
    }
}
