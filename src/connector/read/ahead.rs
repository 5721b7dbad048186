//! Pages that were fetched ahead of what is published: made ready meanwhile, few in memory, put together for transactions.
//!
//! ```text
//!   fetch ─▶ room? ─▶ made ready, in a task ─▶ queue ─▶ as many rows as a transaction takes ─▶ publish
//!              ▲                                                                                  │
//!              └──────────────── room is given back once a page is published ─────────────────────┘
//! ```
//!
//! A window that is read whole takes its room as a whole, once its first page tells how much that is; for the first page
//! room is taken before, and given back. Nobody waits for room while holding some. Catch-ups take none: how long their
//! windows are keeps them within their share.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::connector::fault::Fault;
use crate::connector::rows::leg_message::Origin;
use crate::connector::rows::prepare::{Prepared, Preparer};
use crate::connector::write::request::{RowPlace, Rows};
use crate::core::time::UtcMillis;
use crate::source::Page;

/// How many KiB of pages of live polls may be in memory. A larger page has all of it for itself.
const LIVE_KIB: u32 = 6 << 10;

/// The same in bytes.
pub(crate) const LIVE_BYTES: usize = (LIVE_KIB as usize) << 10;

/// The same for whatever reads an older period.
const OLDER_KIB: u32 = 4 << 10;

/// How many bytes of pages of all catch-ups may be in memory: two windows of each unit, so that one is read while the
/// other is published.
pub(crate) const CATCH_UP_BYTES: usize = 14 << 20;

/// So many bytes of pages are enough for a transaction where a window is published page by page: pages for the next one are
/// fetched meanwhile.
const PAGED_BYTES: usize = LIVE_BYTES / 2;

/// How many bytes of rows go into one transaction at most; as Avro they are less.
pub(crate) const CHUNK_BYTES_MAX: usize = 8 << 20;

/// More pages than there is ever room for.
const PAGES_MAX: usize = 1 << 10;

/// Where pages are made ready, for all units.
#[derive(Clone)]
pub(crate) struct Ahead {
    preparer: Arc<Preparer>,
    live: Arc<Semaphore>,
    older: Arc<Semaphore>,
}

/// A page on its way.
pub(crate) struct Underway {
    preparing: AbortOnDropHandle<Prepared>,
    room: Option<OwnedSemaphorePermit>,
}

/// Room for pages, until it is dropped.
pub(crate) type Room = OwnedSemaphorePermit;

impl Ahead {
    pub(crate) fn new(preparer: Preparer) -> Self {
        let room = |kib: u32| Arc::new(Semaphore::new(kib as usize));
        Self { preparer: Arc::new(preparer), live: room(LIVE_KIB), older: room(OLDER_KIB) }
    }

    /// A way for the pages of one read.
    pub(crate) fn channel() -> (mpsc::Sender<Underway>, mpsc::Receiver<Underway>) {
        mpsc::channel(PAGES_MAX)
    }

    /// Waits until there is room for a page, and begins to make it ready.
    pub(crate) async fn begin(&self, page: Page, seen_at: UtcMillis, origin: &Arc<Origin>) -> Result<Underway, Fault> {
        let room = self.room(page.size_bytes(), origin.piece.how.is_live()).await?;
        Ok(Underway { room: Some(room), ..self.begin_within(page, seen_at, origin) })
    }

    /// Begins to make a page ready for which there is room.
    pub(crate) fn begin_within(&self, page: Page, seen_at: UtcMillis, origin: &Arc<Origin>) -> Underway {
        let (preparer, origin) = (Arc::clone(&self.preparer), Arc::clone(origin));
        let preparing = tokio::spawn(async move { preparer.prepare(page, seen_at, &origin).await });
        Underway { preparing: AbortOnDropHandle::new(preparing), room: None }
    }

    /// Forgets which rows came before: some of them are not published, and are to come in order.
    pub(crate) fn forget(&self) {
        self.preparer.forget();
    }

    /// Waits until there is room for pages of so many bytes; for more than there ever is, until all of it is free.
    pub(crate) async fn room(&self, bytes: usize, is_live: bool) -> Result<Room, Fault> {
        let (rooms, max) = if is_live { (&self.live, LIVE_KIB) } else { (&self.older, OLDER_KIB) };
        let kib = u32::try_from(bytes >> 10).unwrap_or(max).clamp(1, max);
        // It is never closed.
        Arc::clone(rooms).acquire_many_owned(kib).await.map_err(|_| Fault::Stopped)
    }
}

impl Underway {
    /// The page, once it is ready.
    pub(crate) async fn ready(self) -> Result<Prepared, Fault> {
        self.preparing.await.map_err(Fault::from)
    }
}

/// As many rows from `places` on as one transaction takes.
pub(crate) fn chunk_len(pages: &[Arc<Prepared>], places: &[RowPlace], rows_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |place: &&RowPlace| {
        bytes += pages[place.page as usize].row(place.row as usize).raw_bytes();
        bytes <= CHUNK_BYTES_MAX
    };
    // A row that is too large for it goes by itself.
    places.iter().take(rows_max).take_while(fits).count().max(1).min(places.len())
}

/// Rows that are ready, in the order of their pages.
#[derive(Default)]
pub(crate) struct Queue {
    pages: VecDeque<(Arc<Prepared>, Option<Room>)>,
    /// How many rows of the first page are published.
    published: usize,
    /// How many bytes the pages have.
    bytes: usize,
}

impl Queue {
    /// Takes in what is on its way, up to `rows_max` rows or half the room, but waits only where there is nothing; `false` at
    /// the end.
    pub(crate) async fn fill(&mut self, pages: &mut mpsc::Receiver<Underway>, rows_max: usize) -> Result<bool, Fault> {
        while self.len() < rows_max && self.bytes < PAGED_BYTES {
            let next = if self.pages.is_empty() { pages.recv().await } else { pages.try_recv().ok() };
            let Some(Underway { preparing, room }) = next else { break };
            let prepared = preparing.await.map_err(Fault::from)?;
            self.bytes += prepared.size_bytes();
            self.pages.push_back((Arc::new(prepared), room));
        }
        Ok(!self.pages.is_empty())
    }

    /// The rows of the next transaction, at most `rows_max`.
    pub(crate) fn chunk(&self, rows_max: usize) -> Rows {
        let (mut pages, mut places) = (Vec::new(), Vec::new());
        let mut from = self.published;
        for (number, (page, _)) in (0..).zip(&self.pages) {
            let wanted = page.len().min(from + rows_max - places.len());
            places.extend(
                (from..wanted).filter_map(|row| Some(RowPlace { page: number, row: u32::try_from(row).ok()? })),
            );
            pages.push(Arc::clone(page));
            if places.len() == rows_max {
                break;
            }
            from = 0;
        }
        places.truncate(chunk_len(&pages, &places, rows_max));
        Rows { pages, places }
    }

    /// Drops as many rows as were published.
    pub(crate) fn drop_first(&mut self, rows: usize) {
        self.published += rows;
        while let Some((page, _)) = self.pages.front()
            && self.published >= page.len()
        {
            self.published -= page.len();
            self.bytes -= page.size_bytes();
            self.pages.pop_front();
        }
    }

    fn len(&self) -> usize {
        self.pages.iter().map(|(page, _)| page.len()).sum::<usize>() - self.published
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::rows::prepare::tests::{origin_of_polls, terms};
    use crate::core::leg::How;
    use crate::core::planner::Piece;
    use crate::source::wire;

    fn page(rows: &[usize]) -> Page {
        let rows: Vec<String> = rows.iter().map(|bytes| format!("{:?}", "x".repeat(*bytes - 2))).collect();
        wire::page(format!(r#"{{"data":[{}]}}"#, rows.join(",")).into()).unwrap()
    }

    fn ahead() -> Ahead {
        Ahead::new(Preparer::new(terms()))
    }

    fn origin(how: How) -> Arc<Origin> {
        Arc::new(Origin { piece: Piece { how, ..origin_of_polls().piece }, ..origin_of_polls() })
    }

    fn lengths(queue: &Queue, rows_max: usize) -> Vec<usize> {
        queue.chunk(rows_max).iter().map(|row| row.raw().len()).collect()
    }

    #[tokio::test]
    async fn rows_of_several_pages_go_together_in_their_order() {
        let (ahead, (sender, mut pages)) = (ahead(), Ahead::channel());
        for rows in [&[11, 12, 13][..], &[21, 22], &[31]] {
            sender.send(ahead.begin(page(rows), UtcMillis::new(1), &origin(How::Poll)).await.unwrap()).await.unwrap();
        }
        drop(sender);
        let mut queue = Queue::default();
        assert!(queue.fill(&mut pages, 4).await.unwrap());
        assert_eq!(lengths(&queue, 4), [11, 12, 13, 21]);
        queue.drop_first(4);
        assert!(queue.fill(&mut pages, 4).await.unwrap());
        assert_eq!(lengths(&queue, 4), [22, 31]);
        queue.drop_first(2);
        assert!(!queue.fill(&mut pages, 4).await.unwrap());
        assert_eq!(ahead.live.available_permits(), LIVE_KIB as usize, "all room is given back");
    }

    #[tokio::test]
    async fn a_transaction_takes_few_large_rows_and_one_in_any_case() {
        let (ahead, (sender, mut pages)) = (ahead(), Ahead::channel());
        let large = CHUNK_BYTES_MAX + 1;
        sender
            .send(ahead.begin(page(&[10, large, 20]), UtcMillis::new(1), &origin(How::Poll)).await.unwrap())
            .await
            .unwrap();
        let mut queue = Queue::default();
        queue.fill(&mut pages, 9).await.unwrap();
        for expected in [10, large, 20] {
            assert_eq!(lengths(&queue, 9), [expected]);
            queue.drop_first(1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_waits_for_room_but_not_for_that_of_older_reads() {
        let (ahead, large) = (ahead(), LIVE_KIB as usize * 1024);
        let older = ahead.begin(page(&[large * 2]), UtcMillis::new(1), &origin(How::Backfill)).await.unwrap();
        let first = ahead.begin(page(&[large]), UtcMillis::new(1), &origin(How::Poll)).await.unwrap();
        let polls = origin(How::Poll);
        let second = ahead.begin(page(&[10]), UtcMillis::new(1), &polls);
        tokio::pin!(second);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(1), &mut second).await;
        assert!(waited.is_err(), "there is no room");
        drop(first);
        assert!(second.await.is_ok());
        drop(older);
    }
}
