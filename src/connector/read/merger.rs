//! Publishes the windows of units that catch up, in the order of time over all of them: see [`Merge`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ahead::CHUNK_BYTES_MAX;
use super::read_error::ReadError;
use super::whole_read::WholeRead;
use crate::connector::fault::Fault;
use crate::connector::write::request::{Lane, Request, RowsOutcome, RowsRequest, UnitRows, WriterHandle};
use crate::connector::write::transaction::PAGE_ENTRIES_MAX;
use crate::core::dedupe::Counts;
use crate::core::merge::{Merge, SortedRows, Step};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Reach;

/// So long a unit may keep the front while others wait; waits for our own request budget come on top.
const PATIENCE: Duration = Duration::from_secs(300);

/// So many requests a window takes, about: each waits for those of all units.
const REQUESTS_A_WINDOW: u32 = 4;

/// What became of a window: of its rows, and how far the unit has come if that did not go with them.
pub(super) type PublishResult = Result<(Counts, Vec<Reach>), ReadError>;

/// Where units that catch up take part in the merge.
#[derive(Clone)]
pub(crate) struct MergeHandle {
    news: mpsc::UnboundedSender<News>,
    members: Arc<AtomicUsize>,
}

/// A unit that takes part, until this is dropped.
pub(crate) struct Membership {
    unit: String,
    handle: MergeHandle,
}

/// What the merge is told.
enum News {
    Joined(String, UtcMillis),
    Left(String),
    /// A unit's window was read.
    Offered(Box<Offer>),
    /// A unit's window was read and published by itself.
    Read(String, Window),
    /// The API refuses a unit.
    Refused(String),
}

struct Offer {
    unit: String,
    read: WholeRead,
    done: oneshot::Sender<PublishResult>,
}

/// A window that is being published.
struct Waiting {
    offer: Offer,
    counts: Counts,
}

/// Publishes what units that catch up have read; one task for all of them.
pub(crate) struct Merger {
    pub(crate) writer: WriterHandle,
    /// From one request to the next, as the budget of requests has it.
    pub(crate) request_every: Duration,
    pub(crate) stop: CancellationToken,
    news: mpsc::UnboundedReceiver<News>,
    merge: Merge<Waiting>,
}

impl MergeHandle {
    /// A unit takes part that is read from there on; where that is not known yet, from the beginning of time.
    pub(crate) fn join(&self, unit: &str, from: UtcMillis) -> Membership {
        // The merge ends with the ownership only, and then nobody misses it.
        let _ = self.news.send(News::Joined(unit.to_owned(), from));
        self.members.fetch_add(1, Ordering::Relaxed);
        Membership { unit: unit.to_owned(), handle: self.clone() }
    }
}

impl Membership {
    /// How many units take part.
    pub(crate) fn members(&self) -> usize {
        self.handle.members.load(Ordering::Relaxed).max(1)
    }

    /// Has a window published that was read whole; its end comes when all of it lies below the front and is published.
    pub(crate) fn offer(&self, read: WholeRead) -> oneshot::Receiver<PublishResult> {
        let (done, published) = oneshot::channel();
        let offer = Offer { unit: self.unit.clone(), read, done };
        let _ = self.handle.news.send(News::Offered(Box::new(offer)));
        published
    }

    /// The API refuses the unit: somebody has to mend that, and the others do not wait for it.
    pub(crate) fn note_refused(&self) {
        let _ = self.handle.news.send(News::Refused(self.unit.clone()));
    }

    /// A window was read and published by itself.
    pub(crate) fn note_read(&self, window: Window) {
        let _ = self.handle.news.send(News::Read(self.unit.clone(), window));
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let _ = self.handle.news.send(News::Left(self.unit.clone()));
        self.handle.members.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SortedRows for Waiting {
    fn first_time(&self) -> Option<UtcMillis> {
        self.offer.read.rows().first_time()
    }

    fn count_before(&self, end: UtcMillis, max: usize) -> usize {
        self.offer.read.rows().count_before(end, max)
    }
}

impl Merger {
    /// The merge, and where units take part in it.
    pub(crate) fn new(writer: WriterHandle, request_every: Duration, stop: CancellationToken) -> (Self, MergeHandle) {
        let (sender, news) = mpsc::unbounded_channel();
        let merger = Self { writer, request_every, stop, news, merge: Merge::default() };
        (merger, MergeHandle { news: sender, members: Arc::default() })
    }

    /// Publishes until told to stop, or until nobody is left who could take part.
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        let started = Instant::now();
        let mut rows_max = PAGE_ENTRIES_MAX;
        loop {
            while let Ok(news) = self.news.try_recv() {
                self.note(news);
            }
            let members = u32::try_from(self.merge.len()).unwrap_or(u32::MAX);
            let patience = PATIENCE + self.request_every.saturating_mul(members.saturating_mul(REQUESTS_A_WINDOW));
            match self.merge.step(started.elapsed(), patience, rows_max) {
                Step::Publish(counts) if rows_max > 1 && self.bytes(&counts) > CHUNK_BYTES_MAX => rows_max /= 2,
                Step::Publish(counts) => {
                    rows_max = PAGE_ENTRIES_MAX;
                    match self.publish(counts).await {
                        Err(Fault::Stopped) => return Ok(()),
                        published => published?,
                    }
                }
                Step::Done(unit) => {
                    if let Some(Waiting { offer, counts }) = self.merge.take(&unit) {
                        let _ = offer.done.send(Ok((counts, offer.read.reaches)));
                    }
                }
                Step::Wait(patience) => {
                    let waiting = tokio::time::sleep(patience.unwrap_or(Duration::MAX));
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return Ok(()),
                        news = self.news.recv() => match news {
                            Some(news) => self.note(news),
                            None => return Ok(()),
                        },
                        () = waiting => {}
                    }
                }
            }
        }
    }

    fn note(&mut self, news: News) {
        match news {
            News::Joined(unit, from) => self.merge.join(&unit, from),
            News::Left(unit) => self.merge.leave(&unit),
            News::Offered(offer) => {
                let (unit, window) = (offer.unit.clone(), offer.read.planned.piece.window);
                let waiting = Waiting { offer: *offer, counts: Counts::default() };
                self.merge.offer(&unit, window, waiting);
            }
            News::Read(unit, window) => self.merge.read(&unit, window),
            News::Refused(unit) => self.merge.leave_out(&unit),
        }
    }

    fn bytes(&mut self, counts: &[(String, usize)]) -> usize {
        let of_unit = |(unit, count): &(String, usize)| {
            self.merge.rows(unit).map_or(0, |waiting| waiting.offer.read.rows().bytes(*count))
        };
        counts.iter().map(of_unit).sum()
    }

    /// Publishes the first rows of units' windows in one transaction.
    async fn publish(&mut self, counts: Vec<(String, usize)>) -> Result<(), Fault> {
        let mut units: Vec<UnitRows> = Vec::with_capacity(counts.len());
        for (unit, count) in counts {
            // Else the unit would be ahead of the others, whose rows would be late then.
            let is_whole = self.merge.is_below_front(&unit);
            if let Some(Waiting { offer, .. }) = self.merge.rows(&unit) {
                units.push(offer.read.take_unit_rows(&unit, count, is_whole));
            }
        }
        let names: Vec<String> = units.iter().map(|rows| rows.unit.clone()).collect();
        let ask = |reply| Request::Publish(vec![RowsRequest { units, reply }]);
        let outcomes = self.writer.ask(Lane::Live, ask).await?;
        let outcomes: BTreeMap<String, RowsOutcome> = names.into_iter().zip(outcomes).collect();
        for (unit, outcome) in outcomes {
            match outcome {
                RowsOutcome::Done { counts, .. } => {
                    if let Some(waiting) = self.merge.rows(&unit) {
                        waiting.counts += counts;
                    }
                }
                RowsOutcome::Replaced => {
                    if let Some(Waiting { offer, .. }) = self.merge.take(&unit) {
                        let _ = offer.done.send(Err(ReadError::Replaced));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::connector::write::request::{Shown, queues};
    use crate::core::leg::How;
    use crate::core::planner::Piece;

    fn whole_read(start: i64, end: i64) -> WholeRead {
        let window = Window::new(UtcMillis::new(start), UtcMillis::new(end));
        WholeRead::empty(Piece { window, how: How::CatchUp })
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_that_cannot_be_read_keeps_the_others_waiting_for_five_minutes_and_a_refused_one_not_at_all() {
        for is_refused in [false, true] {
            let (writer, _queues) = queues(Duration::from_secs(60), watch::channel(Shown::default()).1);
            let (merger, handle) = Merger::new(writer, Duration::from_secs(1), CancellationToken::new());
            let running = tokio::spawn(merger.run());
            let (failing, well) = (handle.join("failing", UtcMillis::new(0)), handle.join("well", UtcMillis::new(0)));
            assert_eq!(well.members(), 2);
            let started = Instant::now();
            let mut published = well.offer(whole_read(0, 100));
            if is_refused {
                failing.note_refused();
            } else {
                for _ in 0..5 {
                    let waited = tokio::time::timeout(Duration::from_secs(60), &mut published).await;
                    assert!(waited.is_err(), "after {:?}", started.elapsed());
                    assert!(
                        failing.offer(whole_read(0, 10)).await.is_ok(),
                        "what it reads below the front is published"
                    );
                }
            }
            assert!(published.await.unwrap().is_ok());
            let waited = started.elapsed();
            assert_eq!(waited >= PATIENCE, !is_refused, "{waited:?}");
            assert!(waited < PATIENCE + Duration::from_secs(90));
            drop((failing, well, handle));
            running.await.unwrap().unwrap();
        }
    }
}
