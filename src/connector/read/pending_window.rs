//! A window that was read whole and is being published, beside the read of the next one.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::merger::{Membership, PublishResult};
use super::poll_progress::ReadOutcome;
use super::read_error::ReadError;
use super::unit::UnitContext;
use super::whole_read::WholeRead;
use crate::connector::fault::Fault;
use crate::core::dedupe::Counts;
use crate::core::planner::Piece;
use crate::core::watermark::Reach;

/// A window whose rows are being published.
pub(super) struct PendingWindow {
    piece: Piece,
    /// What the poll takes note of once the rows are published.
    outcome: Option<ReadOutcome>,
    rows: PendingRows,
}

/// How the rows of a window are published.
enum PendingRows {
    /// In the order of all units that catch up.
    Merged(oneshot::Receiver<PublishResult>),
    Alone(AbortOnDropHandle<PublishResult>),
}

/// A window whose rows are published.
pub(super) struct PublishedWindow {
    pub(super) piece: Piece,
    /// What the poll has not taken note of yet.
    pub(super) outcome: Option<ReadOutcome>,
    pub(super) counts: Counts,
    /// How far the unit has come, if that did not go with the rows.
    pub(super) reaches: Vec<Reach>,
}

impl PendingWindow {
    /// Begins to publish a window. The poll takes note of `outcome` once the rows are published.
    pub(super) fn publish(
        read: WholeRead,
        outcome: Option<ReadOutcome>,
        membership: Option<&Membership>,
        unit: &Arc<UnitContext>,
    ) -> Self {
        let piece = read.planned.piece;
        let rows = match membership {
            Some(membership) => PendingRows::Merged(membership.offer(read)),
            None => {
                let publishing = read.publish(Arc::clone(unit)).in_current_span();
                PendingRows::Alone(AbortOnDropHandle::new(tokio::spawn(publishing)))
            }
        };
        Self { piece, outcome, rows }
    }

    /// Waits until the pending window is published; for ever where none is pending.
    pub(super) async fn published(pending: &mut Option<Self>) -> Result<PublishedWindow, ReadError> {
        let Some(Self { rows, .. }) = pending else { return std::future::pending().await };
        let ended = match rows {
            PendingRows::Merged(rows) => rows.await.map_err(|_| Fault::Stopped)?,
            PendingRows::Alone(rows) => rows.await.map_err(Fault::from)?,
        };
        let Some(Self { piece, outcome, .. }) = pending.take() else { return std::future::pending().await };
        let (counts, reaches) = ended?;
        Ok(PublishedWindow { piece, outcome, counts, reaches })
    }
}
