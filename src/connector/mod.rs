//! The flow: own the journal, then for each unit plan → fetch → prepare → decide → publish.
//!
//! ```text
//!   read/                                      write/
//!   poller ─┐                                  writer, the only one that writes: one step after the other
//!   sweeper ├─ window ─▶ rows/ made ready ────▶  look up ─▶ core::chunk decides ─▶ messages ─▶ transaction ─▶ view
//!   backfiller ┘           └▶ merger, where units catch up: their windows in the order of time
//!                                   requests     StandingBy ─▶ TakingOver ─▶ Owning
//!   orders/  what an operator asks ───────────▶
//! ```
//!
//! Readers and orders know the writer, the writer knows neither. Only this module sees source, store, codec and sink
//! together.
//!
//! | folder or file | holds |
//! |---|---|
//! | `read` | when and what is read: one task for each unit and kind of read |
//! | `rows` | pages made ready: parsed, hashed, encoded, beside the transaction of the page before |
//! | `write` | who may write, and what: the writer, its requests, its transactions, the journal |
//! | `orders` | what an operator can ask |
//! | `serve` | one time of owning the journal: the writer's loop |
//! | `command` | a process that owns the journal for one order only |
//! | `fault` | every reason not to go on, and what follows from it |
//! | `stage` | the stages as spans of a trace |

mod command;
mod fault;
mod orders;
mod read;
mod rows;
mod serve;
mod stage;
mod write;

use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use fault::{ConnectorError, JournalFault, OrderError};
pub use orders::dead_letters::{DeadLetter, list_dead_letters};
pub use orders::order::{Answer, Order, OrderRequest, preview_backfill, preview_rewind};
pub use orders::replay::preview_replay;
pub use orders::survey::ReplayTerms;
pub use read::Pace;
pub use write::follower::{read_journal, verify_view};
pub use write::owner::{Identity, Terms};
pub use write::writer::RecordTerms;

use crate::clock::Clock;
use crate::config::StartFrom;
use crate::core::time::UtcMillis;
use crate::sink::Cluster;
use crate::source::Source;
use crate::store::View;
use crate::telemetry::status::UnitState;
use crate::telemetry::{Metrics, Role, StatusBoard};
use fault::Fault;
use read::ahead::Ahead;
use read::backfiller::Backfiller;
use read::fetch::Fetcher;
use read::merger::Merger;
use read::poll_timer::PollTimer;
use read::poller::Poller;
use read::priority::LivePriority;
use read::scroll::Scroller;
use read::sweeper::Sweeper;
use read::unit::UnitContext;
use rows::leg_message::LegWriter;
use rows::prepare::{PageTerms, Preparer};
use serve::{Serving, refuse};
use write::owner::Owner;
use write::request::{Queues, WriterHandle, queues};
use write::writer::{Purpose, Writer};

/// The connector, ready to run.
pub struct Connector<S, C, V> {
    /// Where legs come from.
    pub source: Arc<S>,
    /// Where they go.
    pub cluster: Arc<C>,
    /// What is remembered of the journal.
    pub view: Arc<V>,
    /// The wall clock and the dice.
    pub clock: Arc<dyn Clock>,
    /// What the owner of the journal works by.
    pub terms: Terms,
    /// How records are made.
    pub records: RecordTerms,
    /// How it polls.
    pub pace: Pace,
    /// Where a new journal starts.
    pub start_from: Option<StartFrom>,
    /// How things are.
    pub status: StatusBoard,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What operators ask for while it runs.
    pub orders: mpsc::Receiver<OrderRequest>,
}

impl<S: Source, C: Cluster, V: View> Connector<S, C, V> {
    /// Runs until told to stop, or until something ends it that no waiting mends.
    ///
    /// When told to stop, the transaction under way is finished, and the status says `stopped`; dropping
    /// the future abandons both, which loses nothing.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ConnectorError> {
        for unit in &self.terms.units {
            self.status.update_unit(unit, |status| status.enter(UnitState::Starting, "", self.clock.now()));
            self.metrics.add_unit(unit);
        }
        let mut writer = self.writer(&stop);
        loop {
            let worked = match self.open(&mut writer).await {
                Ok(()) => {
                    let worked = self.work(&mut writer, &stop).await;
                    // Count a fencing only if this instance was publishing.
                    self.metrics.fenced.inc_by(u64::from(matches!(worked, Err(Fault::Yielded))));
                    worked
                }
                Err(fault) => Err(fault),
            };
            match worked {
                Err(Fault::Yielded) => {
                    tracing::warn!("another instance has taken over: this one stands by");
                    self.forget_shown();
                }
                Ok(()) | Err(Fault::Stopped) => {
                    if let Err(fault) = writer.release().await {
                        tracing::warn!("the journal could not be given up: {fault}");
                    }
                    return Ok(());
                }
                Err(fault) => {
                    // Nobody should have to wait for our silence.
                    let _ = writer.give_up().await;
                    return Err(fault.into());
                }
            }
        }
    }

    /// Shows nothing any more of what this instance did while it owned the journal.
    fn forget_shown(&self) {
        let now = self.clock.now();
        self.status.update(|status| {
            // While Kafka is away the journal does not tell who owns it now.
            status.role = Role::Starting;
            status.owner_since = None;
            status.publishing_since = None;
            status.backfills.clear();
            // How a unit was for this instance says nothing when its turn comes again.
            status.units.values_mut().for_each(|unit| unit.enter(UnitState::Starting, "", now));
        });
    }

    /// Waits until this instance owns the journal, and refuses orders meanwhile.
    async fn open(&mut self, writer: &mut Writer<C, V>) -> Result<(), Fault> {
        let opening = writer.open(Purpose::READING);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return opened,
                Some(request) = self.orders.recv() => refuse(request.reply, &self.status),
            }
        }
    }

    /// What a unit's readers read with.
    fn scroller(&self, unit: &str, shared: &Shared, stop: &CancellationToken) -> Arc<Scroller<S>> {
        let unit = Arc::new(UnitContext {
            name: unit.to_owned(),
            pace: self.pace.clone(),
            timer: Arc::clone(&shared.timer),
            clock: Arc::clone(&self.clock),
            writer: shared.writer.clone(),
            status: self.status.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: stop.clone(),
            trouble: Mutex::default(),
            torn: Mutex::default(),
            good_polls: AtomicU32::default(),
        });
        let fetcher = Fetcher { unit, source: Arc::clone(&self.source), live: shared.live.clone() };
        let (ahead, longest_page) = (shared.ahead.clone(), Arc::clone(&shared.longest_page));
        Arc::new(Scroller::new(fetcher, ahead, longest_page))
    }

    fn ahead(&self) -> Ahead {
        let random = self.clock.nonce();
        let seed = u64::from_ne_bytes(std::array::from_fn(|byte| random[byte]));
        let writer = LegWriter::new(self.records.framing, &self.terms.journal);
        let (time_basis, zone) = (self.records.time_basis, self.pace.time_zone);
        let privacy = self.records.privacy.clone();
        Ahead::new(Preparer::new(PageTerms { writer, time_basis, zone, privacy, seed }))
    }

    fn writer(&self, stop: &CancellationToken) -> Writer<C, V> {
        let owner = Owner::new(
            Arc::clone(&self.cluster),
            Arc::clone(&self.view),
            self.terms.clone(),
            Arc::clone(&self.clock),
            self.status.clone(),
            stop.clone(),
        );
        Writer::new(
            owner,
            self.records.clone(),
            Arc::clone(&self.clock),
            self.status.clone(),
            Arc::clone(&self.metrics),
        )
    }

    /// Polls every unit, and beats, until told to stop or until one of them gives up.
    async fn work(&mut self, writer: &mut Writer<C, V>, stop: &CancellationToken) -> Result<(), Fault> {
        let (shared, queues) = self.shared(writer);
        let mut serving = Serving::begin(queues, shared.writer.clone(), writer, stop);
        let (merger, merge) = Merger::new(shared.writer.clone(), self.pace.request_every, serving.stop.clone());
        serving.workers.spawn(merger.run());
        for unit in &self.terms.units {
            let scroller = self.scroller(unit, &shared, &serving.stop);
            let sweeper = Sweeper::new(Arc::clone(&scroller), self.pace.sweeps.clone());
            serving.workers.spawn(Backfiller::new(Arc::clone(&scroller)).run());
            let from = writer.progress(unit).filter(|unit| unit.is_started()).map(|unit| unit.progress.final_to);
            let membership = merge.join(unit, from.unwrap_or(UtcMillis::new(i64::MIN)));
            serving.workers.spawn(Poller::new(scroller, merge.clone(), membership, self.start_from).run());
            serving.workers.spawn(sweeper.run());
        }
        drop((shared, merge));
        serving.run(writer, &mut self.orders, std::future::pending::<()>()).await.map(|_| ())
    }

    /// What the readers of one time of owning the journal share, and the writer's end of it.
    fn shared(&self, writer: &Writer<C, V>) -> (Shared, Queues) {
        let (handle, queues) = queues(self.pace.interval, writer.shown());
        let (live, longest_page) = (LivePriority::default(), Arc::default());
        let timer = Arc::new(PollTimer::new(&self.pace, &self.terms.units, self.status.clone()));
        (Shared { writer: handle, live, timer, ahead: self.ahead(), longest_page }, queues)
    }
}

/// What readers share.
struct Shared {
    writer: WriterHandle,
    live: LivePriority,
    timer: Arc<PollTimer>,
    ahead: Ahead,
    longest_page: Arc<AtomicUsize>,
}
