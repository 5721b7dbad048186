//! The flow: recover, then for each unit plan → fetch → classify → encode → publish → commit.
//!
//! ```text
//!   unit A ─ poller: plan ─▶ fetch page n+1 ─┐ pages, one ahead
//!   unit B ─ poller: plan ─▶ fetch ──────────┤
//!                                            ▼
//!                             publisher (one for all units, a page at a time)
//!                             classify ─▶ encode ─▶ publish ─▶ commit
//!                                │                     │          │
//!                              store                 sink       store: identities, then the watermark
//! ```
//!
//! Only this module sees source, store, codec and sink together. Pollers decide when to read, the
//! publisher alone writes: it owns sink and store, so that what is remembered is what Kafka has.

mod poller;
mod publisher;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use publisher::{Destinations, Publisher};

use crate::clock::Clock;
use crate::config::StartFrom;
use crate::core::watermark::{Delays, Progress};
use crate::sink::Sink;
use crate::source::Source;
use crate::store::{Store, StoreError};
use crate::telemetry::{Metrics, StatusBoard};
use poller::Poller;

/// How the connector polls.
#[derive(Clone, Debug)]
pub struct Pace {
    /// From the start of one poll of a unit to the start of the next.
    pub interval: Duration,
    /// The longest window read at once.
    pub window_max: Duration,
    /// How far the server's clock may be from ours before the watermarks wait.
    pub clock_tolerance: Duration,
    /// The zone of the query's bounds.
    pub time_zone: Tz,
    /// Settle, overlap and horizon.
    pub delays: Delays,
}

/// What ends the connector; everything else it works through.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A unit was never read, and the configuration does not say where to start.
    #[error("poll.start_from: unit {0} has never been read: say where to start, for example start_from = \"now-24h\"")]
    NoStart(String),
    /// A defect: a worker ended by a panic.
    #[error("a worker ended unexpectedly: {0}")]
    Worker(String),
}

/// The connector, ready to run.
pub struct Connector<S, K, T> {
    /// Where legs come from.
    pub source: Arc<S>,
    /// Where they go, and what is remembered.
    pub publisher: Publisher<K, T>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The units, each an entry of `source.pbx_ids`.
    pub units: Vec<String>,
    /// How it polls.
    pub pace: Pace,
    /// Where a new unit starts.
    pub start_from: Option<StartFrom>,
    /// How things are.
    pub status: StatusBoard,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl<S: Source, K: Sink, T: Store> Connector<S, K, T> {
    /// Runs until told to stop, or until something ends it that no waiting mends.
    ///
    /// When told to stop, pages under way are finished; dropping the future abandons them, which
    /// loses nothing, since progress is stored last.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ConnectorError> {
        let recovered = self.recover().await?;
        let publisher = Arc::new(Mutex::new(self.publisher));
        let mut pollers = JoinSet::new();
        for (unit, recovered) in recovered {
            let poller = Poller {
                unit,
                recovered,
                start_from: self.start_from,
                source: Arc::clone(&self.source),
                publisher: Arc::clone(&publisher),
                clock: Arc::clone(&self.clock),
                pace: self.pace.clone(),
                status: self.status.clone(),
                metrics: Arc::clone(&self.metrics),
                stop: stop.clone(),
            };
            pollers.spawn(poller.run());
        }
        while let Some(ended) = pollers.join_next().await {
            ended.map_err(|error| ConnectorError::Worker(error.to_string()))??;
        }
        Ok(())
    }

    /// How far each unit had come; `None` for one that was never read.
    async fn recover(&mut self) -> Result<Vec<(String, Option<Progress>)>, ConnectorError> {
        let mut recovered = Vec::with_capacity(self.units.len());
        for unit in &self.units {
            let progress = self.publisher.recover(unit).await?;
            match &progress {
                Some(progress) => {
                    tracing::info!(unit, complete_to = %progress.complete_to, final_to = %progress.final_to, "reading goes on");
                }
                None if self.start_from.is_none() => return Err(ConnectorError::NoStart(unit.clone())),
                None => {}
            }
            self.status.update_unit(unit, |_| {});
            recovered.push((unit.clone(), progress));
        }
        Ok(recovered)
    }
}
