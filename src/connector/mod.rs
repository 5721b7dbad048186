//! The flow: own the journal, then for each unit plan → fetch → classify → encode → publish → commit.
//!
//! ```text
//!   unit A ─ poller: plan ─▶ fetch ─▶ prepare ─┐ pages, some ahead      stand by ─▶ take over ─▶ read back
//!   unit B ─ poller: plan ─▶ fetch ─▶ prepare ─┤                            ▲ owner        │
//!                                              ▼                            └──── doubt ───┤
//!                             publisher (one for all units) ───────────────────────────▶ commit
//!                             classify ─▶ messages ─▶ legs, status, page, progress: one transaction
//!                                │                                                │
//!                              view ◀──────────────── apply ◀─────────────────────┘
//! ```
//!
//! Only this module sees source, store, codec and sink together. Pollers decide when to read, the
//! publisher alone writes, and only while its owner holds the journal.
//!
//! | file | holds |
//! |---|---|
//! | `poller` | one unit's loop |
//! | `sweeper`, `backfiller` | one unit's slower re-reads, and the past periods that an operator asked for |
//! | `reader` | one window read whole, page by page |
//! | `ahead`, `prepare` | pages on their way: how many, made ready (parsed, hashed, encoded) meanwhile |
//! | `batch` | rows to messages: looked up, decided about by `core::chunk`, put together |
//! | `leg_message` | a leg's message, written: ahead, as it is if the leg is new, or once it is known what it is |
//! | `publisher` | messages to transactions; beats |
//! | `measure` | what status and metrics show of it |
//! | `owner`, `takeover` | who may write: standing by, claim, read-back, what follows a doubtful answer |
//! | `claim` | the records by which a process owns the journal |
//! | `transaction` | what goes into one transaction, in which order |
//! | `hourly` | what is written of whole hours that a sweep has compared |
//! | `order` | what an operator can ask of the owner |
//! | `command` | a process that owns the journal for one order only |
//! | `dead_letters`, `survey`, `replay` | dead letters: told of, parsed again, published |
//! | `follower` | the journal read and folded, the view kept up to date |
//! | `fault` | every reason not to go on, and what follows from it |
//! | `stage` | the stages as spans of a trace |

mod ahead;
mod backfiller;
mod batch;
mod claim;
mod command;
mod dead_letters;
mod fault;
mod follower;
mod hourly;
mod leg_message;
mod measure;
mod order;
mod owner;
mod poller;
mod prepare;
mod publisher;
mod reader;
mod replay;
mod stage;
mod survey;
mod sweeper;
mod takeover;
mod transaction;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono_tz::Tz;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use dead_letters::{DeadLetter, list_dead_letters};
pub use fault::JournalFault;
pub use follower::{read_journal, verify_view};
use order::Answers;
pub use order::{Answer, Order, OrderError, OrderRequest, preview_backfill, preview_rewind};
pub use owner::{Identity, Terms};
pub use publisher::RecordTerms;
pub use replay::preview_replay;
pub use survey::ReplayTerms;

use crate::clock::Clock;
use crate::config::StartFrom;
use crate::core::dead_letter::Reason;
use crate::core::ledger::Ledger;
use crate::core::planner::Sweep;
use crate::core::time::UtcMillis;
use crate::core::watermark::{Delays, Progress};
use crate::sink::{Cluster, SinkError};
use crate::source::Source;
use crate::store::{StoreError, View};
use crate::telemetry::status::UnitState;
use crate::telemetry::{Metrics, Role, StatusBoard};
use ahead::Ahead;
use backfiller::Backfiller;
use fault::Fault;
use leg_message::LegWriter;
use owner::Owner;
use poller::Poller;
use prepare::{PageTerms, Preparer};
use publisher::Publisher;
use reader::{Traffic, WindowReader};
use replay::Replay;
use sweeper::Sweeper;

/// The unit that stands for every PBX of the account.
const ALL_PBXES: &str = "allpbxes";

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
    /// Slower re-reads.
    pub sweeps: Vec<Sweep>,
}

/// What ends the connector; everything else it works through.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Kafka does not answer, or refuses.
    #[error(transparent)]
    Sink(SinkError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(StoreError),
    /// The journal cannot be right, or an operator has to decide.
    #[error(transparent)]
    Journal(JournalFault),
    /// A unit was never read, and the configuration does not say where to start.
    #[error("poll.start_from: unit {0} has never been read: say where to start, for example start_from = \"now-24h\"")]
    NoStart(String),
    /// An order could not be carried out.
    #[error(transparent)]
    Order(OrderError),
    /// Another instance is at work.
    #[error(
        "another instance owns the journal and is at work: {owner}, whose admin port is {admin}. Give the order there, or stop it first"
    )]
    OwnerAlive {
        /// The owner's host name.
        owner: String,
        /// Where its admin port listens.
        admin: String,
    },
    /// A defect: a worker ended by a panic.
    #[error("a worker ended unexpectedly: {0}")]
    Worker(String),
}

impl From<Fault> for ConnectorError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sink(error) => Self::Sink(error),
            Fault::Store(error) => Self::Store(error),
            Fault::Journal(fault) => Self::Journal(fault),
            Fault::NoStart(unit) => Self::NoStart(unit),
            other => Self::Worker(other.to_string()),
        }
    }
}

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
        let publisher = Arc::new(Mutex::new(self.publisher(&stop)));
        loop {
            let opened = {
                let mut publisher = publisher.lock().await;
                let opening = publisher.open(None);
                tokio::pin!(opening);
                loop {
                    tokio::select! {
                        biased;
                        opened = &mut opening => break opened,
                        Some(request) = self.orders.recv() => refuse(request.reply, &self.status),
                    }
                }
            };
            let worked = match opened {
                Ok(()) => {
                    let worked = self.work(&publisher, &stop).await;
                    // One that had not begun to publish was only too slow to claim.
                    self.metrics.fenced.inc_by(u64::from(matches!(worked, Err(Fault::Yielded))));
                    worked
                }
                Err(fault) => Err(fault),
            };
            match worked {
                Err(Fault::Yielded) => {
                    tracing::warn!("another instance has taken over: this one stands by");
                    let now = self.clock.now();
                    self.status.update(|status| {
                        // Whoever owns it now may not be told from the journal for as long as Kafka is away.
                        status.role = Role::Starting;
                        status.owner_since = None;
                        status.publishing_since = None;
                        status.backfills.clear();
                        for unit in status.units.values_mut() {
                            // How it was for this one says nothing when its turn comes again.
                            unit.enter(UnitState::Starting, "", now);
                        }
                    });
                }
                Ok(()) | Err(Fault::Stopped) => {
                    if let Err(fault) = publisher.lock().await.release().await {
                        tracing::warn!("the journal could not be given up: {fault}");
                    }
                    return Ok(());
                }
                Err(fault) => {
                    // Nobody should have to wait for our silence.
                    let _ = publisher.lock().await.give_up().await;
                    return Err(fault.into());
                }
            }
        }
    }

    fn reader(
        &self,
        unit: &str,
        publisher: &Arc<Mutex<Publisher<C, V>>>,
        (traffic, ahead): (&Traffic, &Ahead),
        stop: &CancellationToken,
    ) -> WindowReader<S, C, V> {
        WindowReader {
            unit: unit.to_owned(),
            source: Arc::clone(&self.source),
            publisher: Arc::clone(publisher),
            clock: Arc::clone(&self.clock),
            pace: self.pace.clone(),
            status: self.status.clone(),
            metrics: Arc::clone(&self.metrics),
            traffic: traffic.clone(),
            ahead: ahead.clone(),
            trouble: Arc::default(),
            torn: Arc::default(),
            stop: stop.clone(),
        }
    }

    fn ahead(&self) -> Ahead {
        let random = self.clock.nonce();
        let seed = u64::from_ne_bytes(std::array::from_fn(|byte| random[byte]));
        let writer = LegWriter::new(self.records.framing, &self.terms.journal);
        let (time_basis, zone) = (self.records.time_basis, self.pace.time_zone);
        Ahead::new(Preparer::new(PageTerms { writer, time_basis, zone, seed }))
    }

    fn publisher(&self, stop: &CancellationToken) -> Publisher<C, V> {
        let owner = Owner::new(
            Arc::clone(&self.cluster),
            Arc::clone(&self.view),
            self.terms.clone(),
            Arc::clone(&self.clock),
            self.status.clone(),
            stop.clone(),
        );
        Publisher::new(
            owner,
            self.records.clone(),
            Arc::clone(&self.clock),
            self.status.clone(),
            Arc::clone(&self.metrics),
        )
    }

    /// Polls every unit, and beats, until told to stop or until one of them gives up.
    async fn work(&mut self, publisher: &Arc<Mutex<Publisher<C, V>>>, stop: &CancellationToken) -> Result<(), Fault> {
        let mut workers = JoinSet::new();
        let traffic = Traffic::default();
        let ahead = self.ahead();
        for unit in &self.terms.units {
            let reader = self.reader(unit, publisher, (&traffic, &ahead), stop);
            let sweeper = Sweeper { reader: reader.clone(), sweeps: self.pace.sweeps.clone() };
            workers.spawn(Backfiller { reader: reader.clone() }.run());
            workers.spawn(Poller { reader, start_from: self.start_from }.run());
            workers.spawn(sweeper.run());
        }
        workers.spawn(beat(Arc::clone(publisher), self.terms.beat, stop.clone()));
        // One replay after the other: the next one finds what this one has done.
        let replaying = Arc::new(Mutex::new(()));
        let answers = Arc::new(std::sync::Mutex::new(Answers::default()));
        loop {
            tokio::select! {
                biased;
                ended = workers.join_next() => match ended {
                    // What the others have under way is dropped with the set, which loses nothing.
                    Some(ended) => ended.map_err(Fault::from)??,
                    None => return Ok(()),
                },
                Some(request) = self.orders.recv() => {
                    let answers = Arc::clone(&answers);
                    if let Order::Replay { code, confirmed, forced } = request.order.clone() {
                        let replaying = Arc::clone(&replaying);
                        let replay = replay_letters(Arc::clone(publisher), (code, confirmed, forced), stop.clone());
                        workers.spawn(async move {
                            let _one_at_a_time = replaying.lock().await;
                            answer_once(request, &answers, async |_| replay.await).await
                        });
                    } else {
                        let mut publisher = publisher.lock().await;
                        answer_once(request, &answers, async |order| Ok(publisher.carry_out(order).await)).await?;
                    }
                }
            }
        }
    }
}

/// Carries out a replay, of letters with an error code or of all.
async fn replay_letters<C: Cluster, V: View>(
    publisher: Arc<Mutex<Publisher<C, V>>>,
    (code, confirmed, forced): (Option<String>, bool, bool),
    stop: CancellationToken,
) -> Result<Result<String, OrderError>, Fault> {
    let reason = match code.as_deref().map(|code| Reason::from_code(code).ok_or(code)) {
        None => None,
        Some(Ok(reason)) => Some(reason),
        Some(Err(code)) => return Ok(Err(OrderError::Refused(format!("no dead letter has the error code {code}")))),
    };
    Replay::new(&publisher, reason, confirmed, forced, &stop).await.run().await
}

/// Carries an order out that was not carried out before and is still wanted, and answers it.
async fn answer_once(
    request: OrderRequest,
    answers: &std::sync::Mutex<Answers>,
    carry_out: impl AsyncFnOnce(Order) -> Result<Answer, Fault>,
) -> Result<(), Fault> {
    let answers = || answers.lock().unwrap_or_else(PoisonError::into_inner);
    let instead = answers().instead_of(&request);
    let OrderRequest { order, id, reply, .. } = request;
    let answer = match instead {
        Some(answer) => answer,
        None => {
            let answer = carry_out(order).await?;
            answers().note(id, &answer);
            answer
        }
    };
    // A caller that leaves meanwhile finds what was done in the journal.
    let _ = reply.send(answer);
    Ok(())
}

/// Answers an order that only an owner can carry out.
fn refuse(reply: oneshot::Sender<Result<String, OrderError>>, status: &StatusBoard) {
    let what = match status.read().role {
        Role::StandingBy { owner, admin } => format!("this instance stands by: ask the owner, {owner}, at {admin}"),
        _ => "this instance does not own the journal yet: try again in a moment".to_owned(),
    };
    let _ = reply.send(Err(OrderError::Refused(what)));
}

/// Writes every unit's status in time, also while no source answers.
async fn beat<C: Cluster, V: View>(
    publisher: Arc<Mutex<Publisher<C, V>>>,
    every: Duration,
    stop: CancellationToken,
) -> Result<(), Fault> {
    // A little early, so that what a beat itself takes makes it no later than promised.
    let mut interval = tokio::time::interval(every.mul_f64(0.9));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = interval.tick() => match publisher.lock().await.beat().await {
                Err(Fault::Stopped) => return Ok(()),
                beaten => beaten?,
            }
        }
    }
}

/// Where a unit starts that was never read.
///
/// In a new journal at `poll.start_from`. Beside units that were read already it continues what covers
/// it: names take over from `allpbxes`, `allpbxes` from the names; any other unit starts one overlap ago.
fn first_progress(
    unit: &str,
    ledger: &Ledger,
    now: UtcMillis,
    start_from: Option<StartFrom>,
    pace: &Pace,
) -> Result<Progress, Fault> {
    let units = &ledger.head.units;
    if units.contains_key(unit) {
        let start = start_from.ok_or_else(|| Fault::NoStart(unit.to_owned()))?.resolve(now);
        if start.clamped {
            tracing::warn!(unit, start = %start.at, "poll.start_from is older than the two years that the API keeps: starting at their edge");
        }
        tracing::info!(unit, start = %start.at, "reading starts");
        return Ok(Progress::starting_at(start.at, &pace.delays));
    }
    if !units.values().any(|unit| unit.is_started()) {
        // Renamed before anything was read: a new journal all the same.
        let start = start_from.ok_or_else(|| Fault::NoStart(unit.to_owned()))?.resolve(now);
        return Ok(Progress::starting_at(start.at, &pace.delays));
    }
    let started = |name: &str| units.get(name).filter(|unit| unit.is_started());
    if let Some(all) = started(ALL_PBXES) {
        tracing::info!(unit, complete_to = %all.progress.complete_to, "a new unit continues what was read of allpbxes");
        return Ok(all.progress.clone());
    }
    let recently = now.minus(pace.delays.overlap + pace.delays.settle).floor_second();
    let oldest = units.values().filter(|unit| unit.is_started()).map(|unit| unit.progress.final_to).min();
    let start = if unit == ALL_PBXES { oldest.map_or(recently, |oldest| oldest.min(recently)) } else { recently };
    tracing::warn!(unit, %start, "a new unit beside others starts one overlap ago, not at poll.start_from; what is older takes a rewind of this unit: call-legs state rewind");
    Ok(Progress::starting_at(start, &pace.delays))
}
