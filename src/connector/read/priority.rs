//! Live reads come first: older reads leave them the budget of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A reader of an older period waits with every request while a live read of any unit is under way.
#[derive(Clone, Default)]
pub(crate) struct LivePriority(Arc<LiveReads>);

#[derive(Default)]
struct LiveReads {
    under_way: AtomicUsize,
    ended: Notify,
}

/// A live read that is under way.
pub(crate) struct LiveRead(Arc<LiveReads>);

impl LivePriority {
    /// Begins a live read, which ends when the value is dropped.
    pub(super) fn begin(&self) -> LiveRead {
        self.0.under_way.fetch_add(1, Ordering::SeqCst);
        LiveRead(Arc::clone(&self.0))
    }

    /// Returns when no live read is under way.
    pub(super) async fn quiet(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.0.under_way.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for LiveRead {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_once_the_last_of_several_live_reads_has_ended() {
        let live = LivePriority::default();
        live.quiet().await;
        let (first, second) = (live.begin(), live.begin());
        let quiet = live.quiet();
        tokio::pin!(quiet);
        let mut is_quiet = async || tokio::time::timeout(Duration::from_secs(1), &mut quiet).await.is_ok();
        assert!(!is_quiet().await);
        drop(first);
        assert!(!is_quiet().await);
        drop(second);
        assert!(is_quiet().await);
    }
}
