//! Requests: what readers ask of the writer, and the two queues in which they wait.
//!
//! ```text
//!   poller ────────────────▶ live queue ─┐
//!   sweeper, backfiller ───▶ old queue ──┴─▶ writer: one request after the other ─▶ the answer, by oneshot
//!                                               └─▶ every unit's progress, by watch
//! ```
//!
//! A request is done whole, or its answer never comes: then the writer has ended, and with it whoever reads. The writer
//! waits for no reader. An old request goes first once it has waited for two intervals, and then a live one: a catch-up of
//! days must not keep everything else from ever being read, nor old requests the polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Span;

use crate::config::StartFrom;
use crate::connector::fault::Fault;
use crate::connector::rows::prepare::{Prepared, ReadyRow};
use crate::core::dead_letter::{DeadRows, Undecided};
use crate::core::dedupe::Counts;
use crate::core::hours::{Compared, Hour, HourCounts};
use crate::core::journal::{Backfill, Nonce, Seq, Swept, UnitProgress};
use crate::core::planner::Piece;
use crate::core::poll::WindowTally;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Progress, Reach};

/// How many requests wait in a queue before whoever has another one waits, too.
const QUEUE_MAX: usize = 64;

/// How many rows of several units' polls go into one transaction at most.
const JOINED_ROWS_MAX: usize = 1_000;

/// Where the answer to a request goes.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What the writer is asked.
pub(crate) enum Request {
    /// Publish what is new of some rows, in one transaction; several such requests of different units may go together.
    Publish(Vec<RowsRequest>),
    /// Start a unit that was never read.
    Begin(FirstStart, Reply<UnitProgress>),
    /// Take what was read for read; `None` when the unit was rewound meanwhile.
    Advance(Reached, Reply<Option<Progress>>),
    /// What becomes of a window's dead rows that are not among the dead letters yet.
    Judge(Judged, Reply<Verdict>),
    /// Take note of what a sweep has seen; `None` as above.
    NoteSwept(SweptHours, Reply<Option<Progress>>),
    /// Take a window of a backfill for read; `false` when the unit was rewound meanwhile.
    Cover(CoveredWindow, Reply<bool>),
    /// Take note of how a backfill is.
    NoteBackfill(Backfill, Reply<()>),
    /// The backfill of a unit that comes next.
    NextBackfill(String, Reply<Option<Backfill>>),
    /// Whether the backfills of a unit have nothing to read at present.
    HasBackfilled(String, Reply<bool>),
    /// How many legs of a window of a unit were published.
    PublishedWithin(String, Window, Reply<u64>),
    /// What was published and seen of an hour.
    Hour(String, Hour, Reply<Option<HourCounts>>),
    /// Which of these pages of the journal still count.
    WhichCount(Vec<PageOf>, Reply<Vec<bool>>),
}

/// A unit's first start.
pub(crate) struct FirstStart {
    pub(crate) unit: String,
    /// The present, as the earlier of two clocks has it.
    pub(crate) now: UtcMillis,
    pub(crate) start_from: Option<StartFrom>,
}

/// What polls of a unit have read, oldest first.
pub(crate) struct Reached {
    pub(crate) unit: String,
    pub(crate) generation: u32,
    pub(crate) reaches: Vec<Reach>,
}

/// What becomes of a window's dead rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) dead_rows: DeadRows,
    /// How many of them are not among the dead letters.
    pub(crate) undecided: u64,
}

/// A window of a unit that has dead rows.
pub(crate) struct Judged {
    pub(crate) unit: String,
    pub(crate) rows: JudgedRows,
}

/// Its rows, as far as it takes them to judge it.
pub(crate) enum JudgedRows {
    /// All of them, of which nothing is published yet, and how often each came that is no leg, by half its key.
    Whole(Rows, FxHashMap<u64, u64>),
    /// How many were undecided, where its legs are published.
    Counted(Undecided),
}

/// What a sweep of a unit has seen.
pub(crate) struct SweptHours {
    pub(crate) unit: String,
    pub(crate) generation: u32,
    /// The sweep, if it is done.
    pub(crate) swept: Option<Swept>,
    pub(crate) hours: BTreeMap<Hour, Compared>,
}

/// A window of a unit that a backfill has read.
pub(crate) struct CoveredWindow {
    pub(crate) unit: String,
    pub(crate) generation: u32,
    pub(crate) window: Window,
    pub(crate) backfill: Nonce,
    /// What became of its rows.
    pub(crate) counts: Counts,
}

/// Which page of the journal, and whose.
#[derive(Clone, Debug)]
pub(crate) struct PageOf {
    pub(crate) seq: Seq,
    pub(crate) unit: String,
    pub(crate) generation: u32,
}

/// Rows that go into one transaction.
pub(crate) struct RowsRequest {
    /// Of different units.
    pub(crate) units: Vec<UnitRows>,
    /// What became of each.
    pub(crate) reply: Reply<Vec<RowsOutcome>>,
}

/// Rows of one unit's read.
pub(crate) struct UnitRows {
    pub(crate) unit: String,
    /// The unit's generation when the read was planned.
    pub(crate) generation: u32,
    pub(crate) piece: Piece,
    /// The span of time that the query asked for, margins included.
    pub(crate) asked: Window,
    /// When the pass over the window began.
    pub(crate) begun_at: UtcMillis,
    /// How far the unit is final at the most once the window is read.
    pub(crate) makes_final_to: UtcMillis,
    /// How far the unit was complete before the poll: what older legs of it are measured by.
    pub(crate) looked_to: UtcMillis,
    /// What becomes of its dead rows.
    pub(crate) dead_rows: DeadRows,
    pub(crate) rows: Rows,
    /// How far the unit has come once all rows of its window are published; of the last ones.
    pub(crate) reaches: Vec<Reach>,
    /// What the pass has seen before these rows, where that is to be known.
    pub(crate) tally: Option<Box<WindowTally>>,
}

/// In what context rows were read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read<'a> {
    /// The unit.
    pub(crate) unit: &'a str,
    /// The window and the kind of read.
    pub(crate) piece: Piece,
    /// The span of time that the query asked for, margins included.
    pub(crate) asked: Window,
    /// When the pass over the window began.
    pub(crate) begun_at: UtcMillis,
    /// How far the unit is final at the most once the window is read: a call "In Progress" is awaited behind it.
    pub(crate) makes_final_to: UtcMillis,
    /// How far the unit was complete before the poll: what older legs of it are measured by.
    pub(crate) looked_to: UtcMillis,
    /// What becomes of its dead rows.
    pub(crate) dead_rows: DeadRows,
}

/// Rows of pages, in the order in which they are published.
#[derive(Clone, Default)]
pub(crate) struct Rows {
    pub(crate) pages: Vec<Arc<Prepared>>,
    pub(crate) places: Vec<RowPlace>,
}

/// A row's place: which of the pages, and which of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowPlace {
    pub(crate) page: u32,
    pub(crate) row: u32,
}

/// What became of a unit's rows.
pub(crate) enum RowsOutcome {
    /// They were published, or known to be.
    Done {
        /// Of these rows.
        counts: Counts,
        /// What the pass has seen, these rows among it, where that was asked for.
        tally: Option<Box<WindowTally>>,
    },
    /// The unit was rewound while it was read: the rows are of another generation.
    Replaced,
}

impl RowsRequest {
    /// How many rows it has.
    fn len(&self) -> usize {
        self.units.iter().map(|unit| unit.rows.places.len()).sum()
    }

    fn has(&self, unit: &str) -> bool {
        self.units.iter().any(|rows| rows.unit == unit)
    }
}

impl UnitRows {
    /// In what context the rows were read.
    pub(crate) fn read(&self) -> Read<'_> {
        let &Self { ref unit, piece, asked, begun_at, makes_final_to, looked_to, dead_rows, .. } = self;
        Read { unit, piece, asked, begun_at, makes_final_to, looked_to, dead_rows }
    }
}

impl Rows {
    /// The rows themselves.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ReadyRow<'_>> {
        self.places.iter().map(|place| self.pages[place.page as usize].row(place.row as usize))
    }
}

/// A request that waits for its turn.
pub(crate) struct Queued {
    pub(crate) request: Request,
    /// In whose trace it is done.
    pub(crate) span: Span,
    since: Instant,
}

/// Which queue a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Of a poll.
    Live,
    /// Of whatever reads an older period.
    Old,
}

/// The writer's end of the queues, for one time of owning the journal.
pub(crate) struct Queues {
    live: mpsc::Receiver<Queued>,
    old: mpsc::Receiver<Queued>,
    /// The first request of each queue, once it was looked at.
    first_live: Option<Queued>,
    first_old: Option<Queued>,
    /// Whether the last request was an old one that went before live ones: then a live one is next, if there is any.
    was_old_first: bool,
    /// How long an old request waits for live ones.
    patience: Duration,
}

/// What readers know of the writer.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    live: mpsc::Sender<Queued>,
    old: mpsc::Sender<Queued>,
    shown: watch::Receiver<Shown>,
}

/// What everybody may see of the writer, as of its last step.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    /// The units of the journal.
    pub(crate) units: BTreeMap<String, Arc<UnitProgress>>,
    /// How often the view was emptied.
    pub(crate) wipes: u64,
    /// The time of the newest leg that was published.
    pub(crate) newest: Option<UtcMillis>,
}

/// Both ends of new queues; `interval` is that of polls.
pub(crate) fn queues(interval: Duration, shown: watch::Receiver<Shown>) -> (WriterHandle, Queues) {
    let ((live, live_out), (old, old_out)) = (mpsc::channel(QUEUE_MAX), mpsc::channel(QUEUE_MAX));
    let queues = Queues {
        live: live_out,
        old: old_out,
        first_live: None,
        first_old: None,
        was_old_first: false,
        patience: interval * 2,
    };
    (WriterHandle { live, old, shown }, queues)
}

impl Queues {
    /// The next request; `None` when nobody is left who could ask. Cancel-safe: dropping the future loses no request.
    pub(crate) async fn next(&mut self) -> Option<Queued> {
        if self.first_old.is_none() {
            self.first_old = self.old.try_recv().ok();
        }
        let is_old_next = !std::mem::take(&mut self.was_old_first);
        let has_waited = |first: &mut Queued| is_old_next && first.since.elapsed() >= self.patience;
        if let Some(first) = self.first_old.take_if(has_waited) {
            self.was_old_first = true;
            return Some(first);
        }
        if let Some(live) = self.first_live.take().or_else(|| self.live.try_recv().ok()) {
            return Some(self.joined(live));
        }
        if let Some(first) = self.first_old.take() {
            return Some(first);
        }
        tokio::select! {
            biased;
            Some(live) = self.live.recv() => Some(self.joined(live)),
            Some(old) = self.old.recv() => Some(old),
            else => None,
        }
    }

    /// Rows, and with them those of other units' polls that wait behind them, as far as one transaction takes them.
    fn joined(&mut self, mut first: Queued) -> Queued {
        let Request::Publish(joined) = &mut first.request else { return first };
        while let Ok(next) = self.live.try_recv() {
            match next.request {
                Request::Publish(more) if may_join(joined, &more) => joined.extend(more),
                request => {
                    self.first_live = Some(Queued { request, ..next });
                    break;
                }
            }
        }
        first
    }
}

fn may_join(joined: &[RowsRequest], more: &[RowsRequest]) -> bool {
    let rows: usize = joined.iter().chain(more).map(RowsRequest::len).sum();
    let units = || more.iter().flat_map(|request| &request.units);
    rows <= JOINED_ROWS_MAX && !units().any(|rows| joined.iter().any(|request| request.has(&rows.unit)))
}

impl WriterHandle {
    /// Has the writer do something, and gives its answer.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when the writer has ended; why, it says itself.
    pub(crate) async fn ask<T>(&self, lane: Lane, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Fault> {
        let queue = if lane == Lane::Live { &self.live } else { &self.old };
        let (reply, answer) = oneshot::channel();
        let queued = Queued { request: request(reply), span: Span::current(), since: Instant::now() };
        queue.send(queued).await.map_err(|_| Fault::Stopped)?;
        answer.await.map_err(|_| Fault::Stopped)
    }

    /// A unit's progress, as of the writer's last step.
    pub(crate) fn progress(&self, unit: &str) -> Option<Arc<UnitProgress>> {
        self.shown.borrow().units.get(unit).cloned()
    }

    /// What the writer shows, as it changes.
    pub(crate) fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.clone()
    }

    /// The time of the newest leg that was published, as of the writer's last step.
    pub(crate) fn newest(&self) -> Option<UtcMillis> {
        self.shown.borrow().newest
    }

    /// How often the view was emptied.
    pub(crate) fn wipes(&self) -> u64 {
        self.shown.borrow().wipes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::rows::prepare::Preparer;
    use crate::connector::rows::prepare::tests::{origin_of_polls, terms};
    use crate::source::wire;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn new() -> (WriterHandle, Queues) {
        queues(INTERVAL, watch::channel(Shown::default()).1)
    }

    fn ask(handle: &WriterHandle, lane: Lane, unit: &str) -> tokio::task::JoinHandle<Result<Option<Backfill>, Fault>> {
        let (handle, unit) = (handle.clone(), unit.to_owned());
        tokio::spawn(async move { handle.ask(lane, |reply| Request::NextBackfill(unit, reply)).await })
    }

    async fn unit_of_next(queues: &mut Queues) -> String {
        match queues.next().await.unwrap().request {
            Request::NextBackfill(unit, _) => unit,
            _ => panic!("another request"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_go_first_but_an_old_request_that_has_waited_for_two_goes_before_them() {
        let (handle, mut queues) = new();
        let _asked =
            [ask(&handle, Lane::Old, "old"), ask(&handle, Lane::Old, "older"), ask(&handle, Lane::Live, "live")];
        tokio::task::yield_now().await;
        assert_eq!(unit_of_next(&mut queues).await, "live");
        // A catch-up that never pauses.
        let _next = [ask(&handle, Lane::Live, "live"), ask(&handle, Lane::Live, "live")];
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(unit_of_next(&mut queues).await, "live");
        tokio::time::sleep(INTERVAL).await;
        // One old request between two of polls, which must not starve either.
        let next = [unit_of_next(&mut queues).await, unit_of_next(&mut queues).await, unit_of_next(&mut queues).await];
        assert_eq!(next, ["old", "live", "older"]);
    }

    /// Has rows of a unit published, so many as if there were.
    async fn publish(handle: &WriterHandle, unit: &str, rows: usize) -> oneshot::Receiver<Vec<RowsOutcome>> {
        let origin = origin_of_polls();
        let page = Preparer::new(terms())
            .prepare(wire::page(r#"{"data":[]}"#.into()).unwrap(), UtcMillis::new(1), &origin)
            .await;
        let rows = UnitRows {
            unit: unit.to_owned(),
            generation: 0,
            piece: origin.piece,
            asked: origin.piece.window,
            begun_at: UtcMillis::new(1),
            makes_final_to: UtcMillis::new(1),
            looked_to: UtcMillis::new(1),
            dead_rows: DeadRows::Buried,
            rows: Rows { pages: vec![Arc::new(page)], places: vec![RowPlace { page: 0, row: 0 }; rows] },
            reaches: Vec::new(),
            tally: None,
        };
        let (reply, answer) = oneshot::channel();
        let request = Request::Publish(vec![RowsRequest { units: vec![rows], reply }]);
        let queued = Queued { request, span: Span::none(), since: Instant::now() };
        assert!(handle.live.send(queued).await.is_ok());
        answer
    }

    async fn units_of_next(queues: &mut Queues) -> Vec<String> {
        match queues.next().await.unwrap().request {
            Request::Publish(requests) => {
                requests.into_iter().flat_map(|request| request.units).map(|rows| rows.unit).collect()
            }
            Request::NextBackfill(unit, _) => vec![unit],
            _ => panic!("another request"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rows_of_different_units_that_wait_go_into_one_transaction_as_far_as_they_fit() {
        let (handle, mut queues) = new();
        let rows = [("a", 1), ("b", 2), ("a", 3), ("c", 500), ("d", 498), ("e", JOINED_ROWS_MAX), ("f", 1)];
        for (unit, rows) in rows {
            publish(&handle, unit, rows).await;
        }
        let _question = ask(&handle, Lane::Live, "question");
        tokio::task::yield_now().await;
        publish(&handle, "g", 1).await;
        for expected in [&["a", "b"][..], &["a", "c"], &["d"], &["e"], &["f"], &["question"], &["g"]] {
            assert_eq!(units_of_next(&mut queues).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_to_wait_for_the_next_request_loses_none() {
        let (handle, mut queues) = new();
        let _asked = [ask(&handle, Lane::Live, "a"), ask(&handle, Lane::Old, "b"), ask(&handle, Lane::Old, "c")];
        let mut seen = Vec::new();
        while seen.len() < 3 {
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => {}
                unit = unit_of_next(&mut queues) => seen.push(unit),
            }
        }
        assert_eq!(seen, ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_writer_that_ends_is_told_to_stop() {
        let (handle, mut queues) = new();
        let (waiting, taken) = (ask(&handle, Lane::Old, "waiting"), ask(&handle, Lane::Live, "taken"));
        tokio::task::yield_now().await;
        drop(queues.next().await.unwrap());
        drop(queues);
        for asked in [waiting, taken, ask(&handle, Lane::Live, "late")] {
            assert!(matches!(asked.await.unwrap(), Err(Fault::Stopped)));
        }
    }
}
