//! Pages that were fetched ahead of what is published: made ready meanwhile, few in memory, put together for transactions.
//!
//! ```text
//!   fetch ─▶ room? ─▶ made ready, in a task ─▶ queue ─▶ as many rows as a transaction takes ─▶ publish
//!              ▲                                                                                  │
//!              └──────────────── room is given back once a page is published ─────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::connector::fault::Fault;
use crate::connector::rows::leg_message::Origin;
use crate::connector::rows::prepare::{Prepared, Preparer};
use crate::connector::write::request::PageRows;
use crate::core::time::UtcMillis;
use crate::source::Page;

/// How many KiB of pages may be in memory, for all polls together and for all other reads together: two of 5,000 legs, so
/// that one is made ready while the other is published. A larger page has all of it for itself.
const ROOM_KIB: u32 = 14 << 10;

/// How many bytes of rows go into one transaction at most; as Avro they are less.
const CHUNK_BYTES_MAX: usize = 8 << 20;

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
    room: OwnedSemaphorePermit,
}

impl Ahead {
    pub(crate) fn new(preparer: Preparer) -> Self {
        let room = || Arc::new(Semaphore::new(ROOM_KIB as usize));
        Self { preparer: Arc::new(preparer), live: room(), older: room() }
    }

    /// A way for the pages of one read.
    pub(crate) fn channel() -> (mpsc::Sender<Underway>, mpsc::Receiver<Underway>) {
        mpsc::channel(PAGES_MAX)
    }

    /// Waits until there is room for a page, and begins to make it ready.
    pub(crate) async fn begin(&self, page: Page, seen_at: UtcMillis, origin: &Arc<Origin>) -> Result<Underway, Fault> {
        let rooms = if origin.piece.how.is_live() { &self.live } else { &self.older };
        let kib = u32::try_from(page.size_bytes() >> 10).unwrap_or(ROOM_KIB).clamp(1, ROOM_KIB);
        // It is never closed.
        let room = Arc::clone(rooms).acquire_many_owned(kib).await.map_err(|_| Fault::Stopped)?;
        let (preparer, origin) = (Arc::clone(&self.preparer), Arc::clone(origin));
        let preparing = tokio::spawn(async move { preparer.prepare(page, seen_at, &origin).await });
        Ok(Underway { preparing: AbortOnDropHandle::new(preparing), room })
    }
}

/// Rows that are ready, in the order of their pages.
#[derive(Default)]
pub(crate) struct Queue {
    pages: VecDeque<(Arc<Prepared>, OwnedSemaphorePermit)>,
    /// How many rows of the first page are published.
    published: usize,
}

impl Queue {
    /// Takes in what is on its way, up to `rows_max` rows, but waits only where there is nothing; `false` at the end.
    pub(crate) async fn fill(&mut self, pages: &mut mpsc::Receiver<Underway>, rows_max: usize) -> Result<bool, Fault> {
        while self.len() < rows_max {
            let next = if self.pages.is_empty() { pages.recv().await } else { pages.try_recv().ok() };
            let Some(Underway { preparing, room }) = next else { break };
            let prepared = preparing.await.map_err(Fault::from)?;
            self.pages.push_back((Arc::new(prepared), room));
        }
        Ok(!self.pages.is_empty())
    }

    /// The rows of the next transaction, at most `rows_max`.
    pub(crate) fn chunk(&self, rows_max: usize) -> Vec<PageRows> {
        let (mut chunk, mut rows, mut bytes) = (Vec::new(), 0, 0);
        let mut from = self.published;
        for (page, _) in &self.pages {
            let mut until = from;
            for row in page.rows_from(from).take(rows_max - rows) {
                bytes += row.raw_bytes();
                if bytes > CHUNK_BYTES_MAX && rows > 0 {
                    break;
                }
                (until, rows) = (until + 1, rows + 1);
            }
            let is_whole = until == page.len();
            if until > from {
                chunk.push(PageRows { page: Arc::clone(page), from, until });
            }
            if !is_whole || rows == rows_max {
                break;
            }
            from = 0;
        }
        chunk
    }

    /// Drops as many rows as were published.
    pub(crate) fn drop_first(&mut self, rows: usize) {
        self.published += rows;
        while let Some((page, _)) = self.pages.front()
            && self.published >= page.len()
        {
            self.published -= page.len();
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
        queue.chunk(rows_max).iter().flat_map(PageRows::rows).map(|row| row.raw().len()).collect()
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
        assert_eq!(ahead.live.available_permits(), ROOM_KIB as usize, "all room is given back");
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
        let (ahead, large) = (ahead(), ROOM_KIB as usize * 1024);
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
