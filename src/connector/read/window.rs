//! One window, read to its last page: published page by page while the next ones are on their way, or whole, in order.
//!
//! How a request is repeated and when it is given up is decided here; what is read and what follows from it
//! is the matter of `poller`, `sweeper` and `backfiller`.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use tracing::field::Empty;

use super::Pace;
use super::ahead::{Ahead, Queue, Room, Underway};
use super::whole::{Said, WholeWindow};
use crate::clock::Clock;
use crate::connector::fault::Fault;
use crate::connector::rows::leg_message::Origin;
use crate::connector::stage::{Failed, count, stage, traced};
use crate::connector::write::request::{
    Judged, JudgedRows, Lane, Request, Rows, RowsOutcome, RowsRequest, UnitRows, Verdict, WriterHandle,
};
use crate::connector::write::transaction::PAGE_ENTRIES_MAX;
use crate::core::course::Leniency;
use crate::core::dead_letter::{DeadRows, Undecided};
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::pagination::{Fault as ScrollFault, PageMeta, PageSize, Scroll, Step, Torn};
use crate::core::parts::TornWindows;
use crate::core::planner::Piece;
use crate::core::poll::{Judgement, WindowEnd, WindowTally};
use crate::core::query::{QueryBounds, query_bounds};
use crate::core::retry::Backoff;
use crate::core::shape::{Doubt, Shape};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Reach;
use crate::core::zone::Contradiction;
use crate::source::{Failure, Page, Recovery, Source, SourceError};
use crate::telemetry::labels::{UnitLabel, UnitResultLabels};
use crate::telemetry::status::UnitState;
use crate::telemetry::{Metrics, Repeated, StatusBoard};

/// How often a request is sent before the read is given up and the unit pauses.
const ATTEMPTS_MAX: u32 = 6;

/// Between attempts at the same request.
const REQUEST_BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) };

/// A longer pause within a poll is shown and not only counted.
const WORTH_SHOWING: Duration = Duration::from_secs(10);

/// A longer window may be refused for its length.
const LONG_WINDOW: Duration = Duration::from_secs(3600);

/// A window that shows more rows than it has announced is taken for one of so many times as many.
const GROWTH_GUESSED: u64 = 4;

/// How many rows of an older period go into one transaction: then a poll that is due comes first.
const OLD_ROWS_MAX: usize = 1_000;

/// Between reads while the source does not answer.
const UNREACHABLE_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };

/// Between reads while the source refuses us: an operator has to act, and logins may be counted.
const REFUSED_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(300) };

/// Why a read was given up.
pub(crate) enum ReadError {
    Source(SourceError),
    /// The unit was rewound while it was read: what was planned is void.
    Replaced,
    Fault(Fault),
}

impl Failed for ReadError {
    fn failure(&self) -> Option<String> {
        match self {
            Self::Source(error) => Some(error.to_string()),
            Self::Replaced => None,
            Self::Fault(fault) => fault.failure(),
        }
    }
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Live reads come first: whoever reads an older period waits with every request while one is under way, for as long
/// as two polls may take.
#[derive(Clone, Default)]
pub(crate) struct Traffic(Arc<Live>);

#[derive(Default)]
struct Live {
    reads: AtomicUsize,
    ended: Notify,
}

/// A live read that is under way.
pub(crate) struct LiveRead(Arc<Live>);

impl Traffic {
    /// Begins a live read, which ends when the value is dropped.
    pub(crate) fn begin_live(&self) -> LiveRead {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        LiveRead(Arc::clone(&self.0))
    }

    /// Returns when no live read is under way.
    async fn quiet(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.0.reads.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for LiveRead {
    fn drop(&mut self) {
        if self.0.reads.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

/// Reads windows of one unit.
pub(crate) struct WindowReader<S> {
    pub(crate) unit: String,
    pub(crate) source: Arc<S>,
    pub(crate) writer: WriterHandle,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pace: Pace,
    pub(crate) status: StatusBoard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traffic: Traffic,
    pub(crate) ahead: Ahead,
    /// What keeps the unit's polls from reading.
    pub(crate) trouble: Arc<std::sync::Mutex<Repeated>>,
    /// Where pages of the unit could not be taken apart.
    pub(crate) torn: Arc<std::sync::Mutex<TornWindows>>,
    /// How many rows the longest page has had, of all units.
    pub(crate) longest_page: Arc<AtomicUsize>,
    /// How many polls of the unit in a row have believed their newest window.
    pub(crate) good_polls: Arc<AtomicU32>,
    pub(crate) stop: CancellationToken,
}

impl<S> Clone for WindowReader<S> {
    fn clone(&self) -> Self {
        Self {
            unit: self.unit.clone(),
            source: Arc::clone(&self.source),
            writer: self.writer.clone(),
            clock: Arc::clone(&self.clock),
            pace: self.pace.clone(),
            status: self.status.clone(),
            metrics: Arc::clone(&self.metrics),
            traffic: self.traffic.clone(),
            ahead: self.ahead.clone(),
            trouble: Arc::clone(&self.trouble),
            torn: Arc::clone(&self.torn),
            longest_page: Arc::clone(&self.longest_page),
            good_polls: Arc::clone(&self.good_polls),
            stop: self.stop.clone(),
        }
    }
}

/// A read as it was planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedRead {
    pub(crate) piece: Piece,
    /// The unit's generation, and how far it was final, when the read was planned.
    pub(crate) generation: u32,
    pub(crate) final_to: UtcMillis,
    /// How far the unit is final at the most once the piece is read.
    pub(crate) makes_final_to: UtcMillis,
    /// How far the unit was complete before the poll: what older legs of it are measured by.
    pub(crate) looked_to: UtcMillis,
    /// What of it is believed in any case.
    pub(crate) leniency: Leniency,
    /// What becomes of its dead rows.
    pub(crate) dead_rows: DeadRows,
}

/// What is read page by page, and what came of it so far.
pub(crate) struct Pass<'a> {
    pub(crate) planned: PlannedRead,
    /// A window that announces more rows is not read.
    pub(crate) rows_max: Option<u64>,
    /// What became of the rows, summed up over all passes.
    pub(crate) counts: &'a mut Counts,
    /// What the newest pass has seen.
    pub(crate) tally: WindowTally,
    /// How many pages were asked for, over all passes.
    pub(crate) requests: usize,
    /// Why the window is not believed, if it was read whole.
    pub(crate) doubt: Option<Doubt>,
}

/// How much a window may have that is read whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeMax {
    pub(crate) rows: u64,
    pub(crate) bytes: usize,
    /// Whether room is taken for it.
    pub(crate) takes_room: bool,
}

/// A window that was read whole and is not published yet.
pub(crate) struct Collected {
    pub(crate) planned: PlannedRead,
    rows: WholeWindow,
    /// When the newest pass began.
    begun_at: UtcMillis,
    pub(crate) ended: Result<WindowEnd, SourceError>,
    pub(crate) pages: PagesSeen,
    /// What is thought of it.
    pub(crate) judgement: Judgement,
    /// How far the unit has come once it is published.
    pub(crate) reaches: Vec<Reach>,
}

/// Pages of a window, over all passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PagesSeen {
    /// How many were asked for.
    pub(crate) requests: usize,
    /// How many of them had rows.
    pub(crate) with_rows: usize,
    /// How many rows the longest had.
    pub(crate) longest: usize,
}

/// Which windows a scroll gives up before it publishes anything of them.
#[derive(Clone, Copy)]
enum ScrollMax {
    /// Of more announced rows.
    Rows(Option<u64>),
    Whole(WholeMax),
}

/// Which page of a window is asked for.
#[derive(Clone, Copy)]
struct PageAsked<'a> {
    cursor: Option<&'a str>,
    /// How many rows at the most; the source decides without it.
    rows: Option<usize>,
    is_live: bool,
}

/// What came of one pass over a window's pages.
struct Scrolled {
    ended: WindowEnd,
    /// How many rows there should have been, as far as that is known.
    total: Option<u64>,
    pages: PagesSeen,
    /// Whether a page could not be taken apart.
    is_torn: bool,
    /// For all its pages, where they were read whole.
    room: Option<Room>,
}

impl<S: Source> WindowReader<S> {
    /// The unit's progress, as of the writer's last step.
    pub(crate) fn progress(&self) -> Option<Arc<UnitProgress>> {
        self.writer.progress(&self.unit)
    }

    /// Reads a piece page by page, once more if the first pass was not whole and the same window may end otherwise.
    ///
    /// Its legs are published as they come. Whether its dead rows are buried is known at its end: then it is read once more.
    pub(crate) async fn read(&self, pass: &mut Pass<'_>) -> Result<WindowEnd, ReadError> {
        let window = pass.planned.piece.window;
        let bounds = self.bounds(window)?;
        let published = pass.counts.published;
        let first = self.read_once(pass, &bounds).await;
        let (mut ended, _) = if self.is_read_again(window, &first, pass.tally.rows.len() as u64) {
            // Where a row comes twice once more, the API has it twice.
            self.read_once(pass, &bounds).await?
        } else {
            first?
        };
        pass.doubt = self.doubt(pass.tally.shape, pass.planned.leniency);
        if pass.tally.held > 0 && pass.doubt.is_none() {
            let counted = Undecided { dead: pass.tally.held, legs: 0, published: pass.counts.published - published };
            if self.judge(pass.planned, JudgedRows::Counted(counted)).await?.dead_rows == DeadRows::Buried {
                pass.planned.dead_rows = DeadRows::Buried;
                (ended, _) = self.read_once(pass, &bounds).await?;
            }
        }
        pass.doubt = pass.tally.dead_doubt().or(pass.doubt);
        Ok(ended)
    }

    /// Why a window with such rows is not believed, but for the share of dead rows.
    fn doubt(&self, shape: Shape, leniency: Leniency) -> Option<Doubt> {
        match leniency {
            Leniency::None => shape.doubt(&self.pace.belief),
            Leniency::Released => shape.without_dead_rows().doubt(&self.pace.belief),
            Leniency::Accepted => None,
        }
    }

    /// What becomes of dead rows of which nobody knows yet.
    async fn judge(&self, planned: PlannedRead, rows: JudgedRows) -> Result<Verdict, Fault> {
        if planned.leniency != Leniency::None {
            return Ok(Verdict { dead_rows: DeadRows::Buried, undecided: 0 });
        }
        let lane = if planned.piece.how.is_live() { Lane::Live } else { Lane::Old };
        let judged = Judged { unit: self.unit.clone(), rows };
        self.writer.ask(lane, |reply| Request::Judge(judged, reply)).await
    }

    /// Reads a piece whole, with the same second pass, and publishes nothing yet. A read that breaks off keeps its rows.
    ///
    /// # Errors
    /// Only such as leave nothing to publish.
    pub(crate) async fn collect(&self, planned: PlannedRead, max: WholeMax) -> Result<Collected, ReadError> {
        let window = planned.piece.window;
        let bounds = self.bounds(window)?;
        let mut collected = Collected {
            planned,
            rows: WholeWindow::new(bounds.asked, self.pace.belief.time_basis),
            begun_at: self.clock.now(),
            ended: Ok(WindowEnd::Whole),
            pages: PagesSeen::default(),
            judgement: Judgement::default(),
            reaches: Vec::new(),
        };
        for is_second in [false, true] {
            if is_second {
                collected.rows.begin_second_pass();
            }
            let ended = self.collect_once(&mut collected, &bounds, max).await;
            let is_read_again = !is_second && self.is_read_again(window, &ended, collected.rows.rows_of_pass());
            collected.ended = match ended {
                Ok((ended, _)) => Ok(ended),
                Err(ReadError::Source(error)) => Err(error),
                Err(error) => return Err(error),
            };
            if !is_read_again {
                break;
            }
        }
        collected.rows.sort();
        if matches!(collected.ended, Ok(WindowEnd::TooManyRows(_))) {
            self.ahead.forget();
        } else {
            self.judge_whole(&mut collected).await?;
        }
        Ok(collected)
    }

    /// Judges a window before its first row is published.
    async fn judge_whole(&self, collected: &mut Collected) -> Result<(), Fault> {
        let Collected { planned, rows, judgement, .. } = collected;
        let Said { shape, contradiction, dead_for } = rows.says();
        let mut doubt = self.doubt(shape, planned.leniency);
        planned.dead_rows = if shape.no_legs == 0 {
            DeadRows::Buried
        } else if doubt.is_some() {
            DeadRows::Held
        } else {
            let Verdict { dead_rows, undecided } = self.judge(*planned, rows.judged()).await?;
            doubt = (dead_rows == DeadRows::Held).then_some(Doubt::Dead(undecided, dead_for));
            dead_rows
        };
        *judgement = Judgement { shape, contradiction, doubt };
        Ok(())
    }

    fn bounds(&self, window: Window) -> Result<QueryBounds, SourceError> {
        query_bounds(window, self.pace.time_zone).ok_or_else(|| {
            SourceError::refused(format!("window {window} is outside the calendar: check this machine's clock"))
        })
    }

    /// Whether a second pass over a window may end better than the first, of so many distinct rows.
    fn is_read_again(&self, window: Window, first: &Result<(WindowEnd, Option<u64>), ReadError>, rows: u64) -> bool {
        match first {
            Ok((WindowEnd::Broken(fault), _)) if fault.is_mended_by_halves() => false,
            Ok((WindowEnd::Broken(fault), _)) => {
                tracing::info!(unit = self.unit, %window, %fault, "reading the window again");
                true
            }
            // Rows that move from page to page are seen twice, and may hide others that were not seen at all.
            &Ok((_, Some(total))) if rows < total => {
                tracing::debug!(unit = self.unit, %window, rows, total, "the API gave rows twice: reading the window again");
                true
            }
            Err(ReadError::Source(error)) if error.recovery == Recovery::Reread => {
                tracing::info!(unit = self.unit, %window, %error, "reading the window again");
                true
            }
            _ => false,
        }
    }

    /// One pass over a window's pages, all of which are kept.
    async fn collect_once(
        &self,
        collected: &mut Collected,
        bounds: &QueryBounds,
        max: WholeMax,
    ) -> Result<(WindowEnd, Option<u64>), ReadError> {
        let (piece, origin) = (collected.planned.piece, self.origin(collected.planned));
        let (pages, mut received) = Ahead::channel();
        let Collected { rows, begun_at, .. } = collected;
        *begun_at = self.clock.now();
        // It has room from the first pass.
        let max = WholeMax { takes_room: max.takes_room && rows.room.is_none(), ..max };
        let keeping = async {
            while let Some(page) = received.recv().await {
                rows.add(page.ready().await?);
            }
            Ok::<(), Fault>(())
        };
        let (scrolled, kept) = tokio::join!(self.scroll(bounds, pages, &origin, ScrollMax::Whole(max)), keeping);
        kept?;
        let Scrolled { ended, total, pages, is_torn, room } = scrolled?;
        rows.room = rows.room.take().or(room);
        collected.pages.add(pages);
        self.torn().note(piece.window, is_torn);
        Ok((ended, total))
    }

    /// Publishes a window that was read whole, by itself; gives what became of its rows, and how far the unit has come if
    /// that did not go with them.
    pub(crate) async fn publish_whole(self, mut collected: Collected) -> Result<(Counts, Vec<Reach>), ReadError> {
        let mut counts = Counts::default();
        while let Some(count) = collected.rows.chunk_len(PAGE_ENTRIES_MAX) {
            counts += self.publish(Lane::Live, collected.take_unit_rows(&self.unit, count, true)).await?.0;
        }
        Ok((counts, collected.reaches))
    }

    /// One pass over a window's pages; gives how it ended, and how many rows there should have been.
    async fn read_once(
        &self,
        pass: &mut Pass<'_>,
        bounds: &QueryBounds,
    ) -> Result<(WindowEnd, Option<u64>), ReadError> {
        pass.tally = WindowTally::default();
        let (pages, received) = Ahead::channel();
        let (piece, origin) = (pass.planned.piece, self.origin(pass.planned));
        let (begun_at, max) = (self.clock.now(), ScrollMax::Rows(pass.rows_max));
        let scrolling = {
            let (reader, bounds) = (self.clone(), bounds.clone());
            let scrolling = async move { reader.scroll(&bounds, pages, &origin, max).await };
            // A task of its own, so that neither waits while the other computes.
            AbortOnDropHandle::new(tokio::spawn(scrolling.in_current_span()))
        };
        self.publish_pages(pass, bounds.asked, begun_at, received).await?;
        let Scrolled { ended, total, pages, is_torn, .. } = scrolling.await.map_err(Fault::from)??;
        pass.requests += pages.requests;
        self.torn().note(piece.window, is_torn);
        Ok((ended, total))
    }

    /// Fetches page after page.
    async fn scroll(
        &self,
        bounds: &QueryBounds,
        pages: mpsc::Sender<Underway>,
        origin: &Arc<Origin>,
        max: ScrollMax,
    ) -> Result<Scrolled, ReadError> {
        let (mut scroll, mut size) = (Scroll::default(), PageSize::default());
        let (mut cursor, mut seen, mut is_torn, mut room) = (None, PagesSeen::default(), false, None);
        let (mut rows, mut bytes) = (0, 0);
        let is_narrow = self.torn().is_narrow(origin.piece.window);
        let ended = loop {
            let asked = PageAsked { cursor: cursor.as_deref(), rows: size.rows(), is_live: origin.piece.how.is_live() };
            let mut page = self.fetch(bounds, asked).await?;
            seen.note(page.len());
            tracing::debug!(unit = self.unit, rows = page.len(), total = page.total, "page");
            (rows, bytes) = (rows + page.len() as u64, bytes + page.size_bytes());
            if let Some(rows) = max.exceeded(cursor.is_none().then_some(page.total).flatten(), rows, bytes) {
                break WindowEnd::TooManyRows(rows);
            }
            // In a longer window the rows before are used, and its halves have the others.
            let torn = page.rest().map(|rest| if is_narrow { size.on_torn(page.len(), rest) } else { Torn::GiveUp });
            is_torn |= torn.is_some();
            match torn {
                Some(Torn::AskAgain) => continue,
                Some(Torn::Take) => page.bury_rest(),
                Some(Torn::GiveUp) | None => {}
            }
            size.on_used();
            let longest = self.longest_page.fetch_max(page.len(), Ordering::Relaxed);
            let step = match torn {
                Some(Torn::GiveUp) => Step::Broken(ScrollFault::Torn),
                _ => scroll.on_page(PageMeta {
                    rows: page.len(),
                    total: page.total,
                    cursor: page.cursor.as_deref(),
                    is_torn: torn.is_some(),
                    is_short: page.len() < longest,
                }),
            };
            if !page.is_empty() {
                if let ScrollMax::Whole(WholeMax { takes_room: true, .. }) = max
                    && room.is_none()
                {
                    let wanted = in_all(page.total, rows, bytes);
                    room = Some(self.until_stopped(self.ahead.room(wanted, true)).await??);
                }
                let underway = match max {
                    ScrollMax::Whole(_) => self.ahead.begin_within(page, self.clock.now(), origin),
                    ScrollMax::Rows(_) => {
                        self.until_stopped(self.ahead.begin(page, self.clock.now(), origin)).await??
                    }
                };
                // Where the publishing side has given up, it says why.
                pages.send(underway).await.map_err(|_| Fault::Stopped)?;
            }
            match step {
                Step::Next(next) => cursor = Some(next),
                Step::Whole => break WindowEnd::Whole,
                Step::Broken(fault) => break WindowEnd::Broken(fault),
            }
        };
        let total = scroll.total().filter(|_| !matches!(ended, WindowEnd::TooManyRows(_)));
        Ok(Scrolled { ended, total, pages: seen, is_torn, room })
    }

    async fn publish_pages(
        &self,
        pass: &mut Pass<'_>,
        asked: Window,
        begun_at: UtcMillis,
        mut pages: mpsc::Receiver<Underway>,
    ) -> Result<(), ReadError> {
        let planned = pass.planned;
        let is_live = planned.piece.how.is_live();
        let (lane, rows_max) = if is_live { (Lane::Live, PAGE_ENTRIES_MAX) } else { (Lane::Old, OLD_ROWS_MAX) };
        let mut queue = Queue::default();
        while queue.fill(&mut pages, rows_max).await? {
            let rows = queue.chunk(rows_max);
            let taken = rows.places.len();
            let tally = Some(Box::new(std::mem::take(&mut pass.tally)));
            let rows = UnitRows { tally, ..planned.unit_rows(&self.unit, asked, begun_at, rows) };
            let (counts, tally) = self.publish(lane, rows).await?;
            *pass.counts += counts;
            pass.tally = tally.map(|tally| *tally).unwrap_or_default();
            queue.drop_first(taken);
        }
        Ok(())
    }

    /// What the messages of a read's legs say.
    fn origin(&self, planned: PlannedRead) -> Arc<Origin> {
        let PlannedRead { piece, generation, final_to, .. } = planned;
        let behind = self.writer.newest().zip(self.pace.behind_max).map(|(newest, max)| newest.minus(max));
        let late_before = behind.map_or(final_to, |behind| behind.max(final_to));
        Arc::new(Origin { unit: self.unit.clone(), piece, generation, late_before })
    }

    /// Has rows published in one transaction; gives what became of them, and what the pass has seen with them.
    async fn publish(&self, lane: Lane, rows: UnitRows) -> Result<(Counts, Option<Box<WindowTally>>), ReadError> {
        let outcomes =
            self.writer.ask(lane, |reply| Request::Publish(vec![RowsRequest { units: vec![rows], reply }])).await?;
        match outcomes.into_iter().next() {
            Some(RowsOutcome::Done { counts, tally }) => Ok((counts, tally)),
            Some(RowsOutcome::Replaced) | None => Err(ReadError::Replaced),
        }
    }

    /// One page, however often it has to be asked for within reason.
    async fn fetch(&self, bounds: &QueryBounds, asked: PageAsked<'_>) -> Result<Page, ReadError> {
        let span = stage!("fetch", unit = self.unit, window = %bounds.asked, rows = Empty);
        let fetched = traced(span.clone(), self.fetch_patiently(bounds, asked)).await;
        if let Ok(page) = &fetched {
            span.record("rows", count(page.len()));
        }
        fetched
    }

    async fn fetch_patiently(&self, bounds: &QueryBounds, asked: PageAsked<'_>) -> Result<Page, ReadError> {
        let PageAsked { cursor, rows, is_live } = asked;
        let mut attempts = 0;
        loop {
            if !is_live {
                // A catch-up of days must not keep everything else from ever being read.
                let quiet = tokio::time::timeout(self.pace.interval * 2, self.traffic.quiet());
                let _ = self.until_stopped(quiet).await?;
            }
            attempts += 1;
            let sent = Instant::now();
            let answer = self.until_stopped(self.source.fetch(&self.unit, bounds, cursor, rows)).await?;
            self.note_request(answer.as_ref().map_or_else(|error| error.failure.as_str(), |_| "ok"), sent);
            match answer {
                Ok(page) => {
                    self.status.update_unit(&self.unit, |status| status.repeating.clear());
                    return Ok(page);
                }
                Err(error) => self.pause_or_give_up(error, attempts, is_live).await?,
            }
        }
    }

    /// The newest second only: to hear from the source when there is nothing to read.
    pub(crate) async fn ask(&self, window: Window) -> Result<(), ReadError> {
        let bounds = query_bounds(window, self.pace.time_zone)
            .ok_or_else(|| SourceError::refused("the present is outside the calendar: check this machine's clock"))?;
        let newest = PageAsked { cursor: None, rows: None, is_live: true };
        self.fetch(&bounds, newest).await.map(|_| ())
    }

    /// Whether a window was refused for its length: then the source answers for its last hour. Asks once, without patience.
    ///
    /// # Errors
    /// When the source does not answer for that either.
    pub(crate) async fn is_for_the_length(&self, error: &SourceError, window: Window) -> Result<bool, ReadError> {
        if !error.may_be_for_the_window || window.length() <= LONG_WINDOW {
            return Ok(false);
        }
        let bounds = self.bounds(Window::new(window.end.minus(LONG_WINDOW), window.end))?;
        let sent = Instant::now();
        let answer = self.until_stopped(self.source.fetch(&self.unit, &bounds, None, None)).await?;
        self.note_request(answer.as_ref().map_or_else(|error| error.failure.as_str(), |_| "ok"), sent);
        answer?;
        let length = humantime::format_duration(window.length());
        let unit = &self.unit;
        tracing::info!(
            unit,
            "the source refuses a window of {length} and takes one of an hour, so shorter ones are read: {error}"
        );
        Ok(true)
    }

    /// A token, however often it has to be asked for within reason.
    pub(crate) async fn log_in(&self) -> Result<(), ReadError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.until_stopped(self.source.log_in()).await? {
                Ok(()) => return Ok(()),
                Err(error) => self.pause_or_give_up(error, attempts, true).await?,
            }
        }
    }

    /// Waits until the same request is worth sending again, or gives the error back.
    async fn pause_or_give_up(&self, error: SourceError, attempts: u32, is_live: bool) -> Result<(), ReadError> {
        let Recovery::Retry { after } = error.recovery else { return Err(error.into()) };
        if attempts >= ATTEMPTS_MAX {
            return Err(error.into());
        }
        let pause = after.unwrap_or_else(|| REQUEST_BACKOFF.pause(attempts, self.clock.dice()));
        if pause >= WORTH_SHOWING && is_live {
            if self.trouble().failed(error.failure.as_str()).is_some() {
                tracing::warn!(unit = self.unit, again_in_s = pause.as_secs(), "waiting: {error}");
            }
            self.show(state_of(error.failure), &error.to_string());
        } else {
            tracing::debug!(unit = self.unit, %error, attempts, pause_ms = pause.as_millis(), "the request is sent again");
            self.status.update_unit(&self.unit, |status| status.repeating = error.to_string());
        }
        self.until_stopped(tokio::time::sleep(pause)).await
    }

    /// How long to wait after a read that failed, for the `failures`th time in a row.
    pub(crate) fn pause_after(&self, error: &SourceError, failures: u32) -> Duration {
        let backoff = if error.failure == Failure::Refused { REFUSED_BACKOFF } else { UNREACHABLE_BACKOFF };
        match error.recovery {
            Recovery::Retry { after: Some(after) } => after,
            _ => backoff.pause(failures, self.clock.dice()),
        }
    }

    pub(crate) async fn until_stopped<R>(&self, work: impl Future<Output = R>) -> Result<R, ReadError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Fault::Stopped.into()),
            result = work => Ok(result),
        }
    }

    /// The smaller of the local and the server's time, when the local clock shows `local`.
    pub(crate) fn earlier_now(&self, local: UtcMillis) -> UtcMillis {
        self.source.skew().map_or(local, |skew| skew.earlier_now(local))
    }

    pub(crate) fn clocks_differ(&self) -> bool {
        let skew = self.source.skew();
        self.metrics.clock_skew.set(skew.map_or(0.0, |skew| skew.seconds()));
        skew.is_some_and(|skew| skew.exceeds(self.pace.clock_tolerance))
    }

    pub(crate) fn describe_skew(&self) -> String {
        let seconds = self.source.skew().map_or(0.0, |skew| skew.seconds());
        format!(
            "the source's clock is {:.0} s {} ours, beyond poll.clock_tolerance: legs are published, the watermarks wait; check this machine's time synchronisation",
            seconds.abs(),
            if seconds > 0.0 { "ahead of" } else { "behind" }
        )
    }

    /// What the rows of a window say about the zone that they were asked for in.
    pub(crate) fn describe_contradiction(&self, window: Window, contradiction: Contradiction) -> String {
        format!(
            "window {window}: the rows contradict source.time_zone: {contradiction}, so the API may read a query's times otherwise than they are meant: legs are published, the watermarks wait; {}",
            contradiction.advice()
        )
    }

    /// How many legs of a window the journal knows.
    pub(crate) async fn legs_known(&self, lane: Lane, window: Window) -> Result<u64, Fault> {
        let unit = self.unit.clone();
        self.writer.ask(lane, |reply| Request::PublishedWithin(unit, window, reply)).await
    }

    /// What keeps the unit's polls from reading.
    pub(crate) fn trouble(&self) -> MutexGuard<'_, Repeated> {
        // Its values are plain, whole at every instant.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next window to read, by what is known to be torn: that is read by itself.
    pub(crate) fn next_window(&self, next: impl FnOnce(&TornWindows) -> Option<Piece>) -> Option<Piece> {
        next(&self.torn())
    }

    fn torn(&self) -> MutexGuard<'_, TornWindows> {
        // Whole windows, in any state; one that is missing costs some requests.
        self.torn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how the unit is.
    pub(crate) fn show(&self, state: UnitState, detail: &str) {
        let now = self.clock.now();
        self.status.update_unit(&self.unit, |status| {
            status.enter(state, detail, now);
            status.repeating.clear();
        });
    }

    fn note_request(&self, result: &'static str, sent: Instant) {
        self.metrics.source_requests.get_or_create(&UnitResultLabels { unit: self.unit.clone(), result }).inc();
        self.metrics
            .source_request_duration
            .get_or_create(&UnitLabel { unit: self.unit.clone() })
            .observe(sent.elapsed().as_secs_f64());
    }
}

impl PlannedRead {
    fn unit_rows(self, unit: &str, asked: Window, begun_at: UtcMillis, rows: Rows) -> UnitRows {
        let Self { piece, generation, makes_final_to, looked_to, dead_rows, .. } = self;
        UnitRows {
            unit: unit.to_owned(),
            generation,
            piece,
            asked,
            begun_at,
            makes_final_to,
            looked_to,
            dead_rows,
            rows,
            reaches: Vec::new(),
            tally: None,
        }
    }

    /// A read of an older period that is final to this instant; of which so much is believed in any case.
    pub(crate) const fn older(piece: Piece, generation: u32, final_to: UtcMillis, leniency: Leniency) -> Self {
        let dead_rows = first_dead_rows(leniency);
        Self { piece, generation, final_to, makes_final_to: final_to, looked_to: final_to, leniency, dead_rows }
    }
}

/// What becomes of the dead rows of a window that is not judged yet.
pub(crate) const fn first_dead_rows(leniency: Leniency) -> DeadRows {
    match leniency {
        Leniency::None => DeadRows::Held,
        Leniency::Released | Leniency::Accepted => DeadRows::Buried,
    }
}

impl Collected {
    /// A window without a row.
    #[cfg(test)]
    pub(crate) fn empty(piece: Piece) -> Self {
        let start = piece.window.start;
        let planned = PlannedRead::older(piece, 0, start, Leniency::None);
        Self {
            planned,
            rows: WholeWindow::new(piece.window, crate::core::leg::TimeBasis::Disconnect),
            begun_at: start,
            ended: Ok(WindowEnd::Whole),
            pages: PagesSeen::default(),
            judgement: Judgement::default(),
            reaches: Vec::new(),
        }
    }

    /// The rows that are still to be published.
    pub(crate) const fn rows(&self) -> &WholeWindow {
        &self.rows
    }

    /// So many of the first rows, for a transaction; with the last ones of a window all of which is published now goes how
    /// far the unit has come.
    pub(crate) fn take_unit_rows(&mut self, unit: &str, count: usize, is_whole: bool) -> UnitRows {
        let rows = self.rows.take(count);
        let is_last = is_whole && self.rows.first_time().is_none();
        let reaches = if is_last { std::mem::take(&mut self.reaches) } else { Vec::new() };
        UnitRows { reaches, ..self.planned.unit_rows(unit, self.rows.asked(), self.begun_at, rows) }
    }
}

impl PagesSeen {
    fn note(&mut self, rows: usize) {
        self.add(Self { requests: 1, with_rows: usize::from(rows > 0), longest: rows });
    }

    pub(crate) fn add(&mut self, more: Self) {
        let Self { requests, with_rows, longest } = more;
        self.requests += requests;
        self.with_rows += with_rows;
        self.longest = self.longest.max(longest);
    }
}

impl ScrollMax {
    /// How many rows a window has that is given up: at least so many, by what its first page announces or by what has come.
    fn exceeded(self, announced: Option<u64>, rows: u64, bytes: usize) -> Option<u64> {
        match self {
            Self::Rows(max) => announced.filter(|announced| max.is_some_and(|max| *announced > max)),
            Self::Whole(WholeMax { rows: max, bytes: bytes_max, .. }) => {
                let in_all = in_all(announced, rows, bytes);
                // Later pages announce nothing here: what has come exceeds it, and nobody knows by how much.
                let is_untrue = rows > max + max / 4 || bytes > bytes_max + bytes_max / 4;
                let by_bytes = (in_all > bytes_max).then(|| scaled(max, in_all, bytes_max));
                match announced {
                    // All of it is here.
                    Some(announced) if announced <= rows => None,
                    Some(announced) => Some(announced).filter(|announced| *announced > max).max(by_bytes),
                    None => is_untrue.then(|| rows.max(max).saturating_mul(GROWTH_GUESSED)),
                }
            }
        }
    }
}

/// How many bytes so many announced rows are, as those are that have come.
fn in_all(announced: Option<u64>, rows: u64, bytes: usize) -> usize {
    announced
        .map_or(bytes, |announced| scaled(bytes as u64, announced as usize, rows.max(1) as usize) as usize)
        .max(bytes)
}

fn scaled(value: u64, by: usize, of: usize) -> u64 {
    let scaled = u128::from(value) * by as u128 / of.max(1) as u128;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Why a window is not believed, and what to do.
pub(crate) fn describe_doubt(window: Window, doubt: Doubt) -> String {
    let found = match doubt {
        Doubt::Dead(held, reason) => {
            let because = reason.map(|reason| format!(", the first because {reason}")).unwrap_or_default();
            format!(
                "window {window}: {held} rows cannot be legs{because}. So many of its rows are taken for a fault of the API \
                 (dead_letter.max_ratio), so they are not buried yet"
            )
        }
        Doubt::NoneGood(rows) => format!("window {window}: none of its {rows} rows is a leg of that time"),
        Doubt::Astray { astray, rows } => format!(
            "window {window}: {astray} of its {rows} rows are legs of another time, so the API serves something else than was \
             asked for, or goes by another time than source.time_basis says"
        ),
    };
    format!(
        "{found}. Its legs are published, the watermarks wait, it is read again; look whether the API has changed. \
         To go on with what it shows: call-legs state accept"
    )
}

/// What a failure makes of a unit.
pub(crate) fn state_of(failure: Failure) -> UnitState {
    match failure {
        Failure::Refused => UnitState::SourceAuth,
        Failure::RateLimited => UnitState::SourceRateLimited,
        Failure::Cursor => UnitState::SourceIncomplete,
        Failure::Unreachable => UnitState::SourceUnreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_to_end_has_not_failed() {
        assert_eq!(ReadError::from(Fault::Stopped).failure(), None);
        assert_eq!(ReadError::Replaced.failure(), None);
    }

    #[test]
    fn no_text_has_a_run_of_spaces() {
        let window = Window::new(UtcMillis::new(0), UtcMillis::new(1_000));
        for doubt in [Doubt::Dead(3, None), Doubt::NoneGood(5), Doubt::Astray { astray: 20, rows: 30 }] {
            let text = describe_doubt(window, doubt);
            assert!(!text.contains("  "), "{text}");
        }
    }
}
