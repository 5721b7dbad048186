//! One time of owning the journal: readers read, the writer does one step after the other, until something ends it.
//!
//! ```text
//!   stop ▶ a worker's end ▶ beat ▶ orders ▶ live requests ▶ old requests ▶ letters of a replay
//! ```
//!
//! In this order, between two steps; but letters of a replay wait for 16 requests at most. A step is never given up
//! half-way: what ends the ownership ends it after the step under way, and everybody who still waits for an answer is told
//! to stop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::fault::{Fault, OrderError};
use super::orders::once::Once;
use super::orders::order::{AcceptedUnit, Answer, Done, Order, OrderRequest};
use super::orders::replay::{Replay, ReplayStep};
use super::orders::survey::ReplayTerms;
use super::orders::verify::verify_beside;
use super::write::request::{Queues, WriterHandle};
use super::write::writer::Writer;
use crate::core::dead_letter::Reason;
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::status::Status;
use crate::telemetry::{Role, StatusBoard};

/// For so long an order to accept waits for the polls that follow from it.
const FOLLOWED_MAX: Duration = Duration::from_secs(60);

/// How many orders that read for long wait for the one before.
const LONG_ORDERS_MAX: usize = 4;

/// After so many requests letters of a replay go first, if there are any.
const REQUESTS_PER_LETTERS: u32 = 16;

/// What the writer serves during one time of owning the journal. Nothing of it is left for the next one.
pub(super) struct Serving {
    queues: Queues,
    replays: mpsc::Receiver<ReplayStep>,
    long_orders: mpsc::Sender<OrderRequest>,
    once: Once,
    /// Everything that sends requests.
    pub(super) workers: JoinSet<Result<(), Fault>>,
    beat: Duration,
    /// Ends the workers, and what they read.
    pub(super) stop: CancellationToken,
}

/// Carries out the orders that read for long, one after the other: the next one finds what this one has done.
pub(super) struct LongOrders<C, V> {
    pub(super) cluster: Arc<C>,
    pub(super) view: Arc<V>,
    pub(super) writer: WriterHandle,
    /// What a replay without a reason surveys.
    pub(super) replayed: ReplayTerms,
    steps: mpsc::Sender<ReplayStep>,
    stop: CancellationToken,
}

impl Serving {
    /// Begins, with the workers that carry out long orders.
    pub(super) fn begin<C: Cluster, V: View>(
        queues: Queues,
        writer: WriterHandle,
        owned: &Writer<C, V>,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let (steps, replays) = mpsc::channel(1);
        let (long_orders, asked) = mpsc::channel(LONG_ORDERS_MAX);
        let once = Once::default();
        let long = LongOrders {
            cluster: Arc::clone(&owned.owner.follower.cluster),
            view: Arc::clone(&owned.owner.follower.view),
            writer,
            replayed: ReplayTerms {
                journal: owned.owner.terms.journal.clone(),
                units: owned.units(),
                time_basis: owned.terms.time_basis,
                privacy: owned.terms.privacy.clone(),
                reason: None,
                is_forced: false,
            },
            steps,
            stop: stop.clone(),
        };
        let mut workers = JoinSet::new();
        workers.spawn(long.run(asked, once.clone()));
        let beat = owned.owner.terms.beat;
        Self { queues, replays, long_orders, once, workers, beat, stop }
    }

    /// Serves until told to stop, or until `done`, and gives what came of that; or until the writer or a worker cannot go on.
    pub(super) async fn run<C: Cluster, V: View, R>(
        mut self,
        writer: &mut Writer<C, V>,
        orders: &mut mpsc::Receiver<OrderRequest>,
        done: impl Future<Output = R>,
    ) -> Result<Option<R>, Fault> {
        let served = self.serve(writer, orders, done).await;
        let Self { queues, replays, long_orders, mut workers, stop, .. } = self;
        // Whoever waits for an answer is told to stop.
        drop((queues, replays, long_orders));
        stop.cancel();
        let mut ended = Ok(());
        while let Some(worker) = workers.join_next().await {
            ended = ended.and(worker.map_err(Fault::from).flatten());
        }
        match served {
            Ok(done) => ended.map(|()| Some(done)),
            Err(Fault::Stopped) => ended.map(|()| None),
            Err(fault) => Err(fault),
        }
    }

    async fn serve<C: Cluster, V: View, R>(
        &mut self,
        writer: &mut Writer<C, V>,
        orders: &mut mpsc::Receiver<OrderRequest>,
        done: impl Future<Output = R>,
    ) -> Result<R, Fault> {
        tokio::pin!(done);
        // A little early, so that what a beat itself takes makes it no later than promised.
        let mut beat = tokio::time::interval(self.beat.mul_f64(0.9));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut requests = 0;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Fault::Stopped),
                Some(ended) = self.workers.join_next() => ended.map_err(Fault::from)??,
                done = &mut done => return Ok(done),
                _ = beat.tick() => writer.beat().await?,
                Some(request) = orders.recv() => self.take_order(request, writer).await,
                Some(queued) = self.queues.next() => {
                    writer.step(queued.request).instrument(queued.span).await?;
                    requests += 1;
                    // A catch-up may never pause, and an operator waits for his letters.
                    if requests % REQUESTS_PER_LETTERS == 0 && let Ok(step) = self.replays.try_recv() {
                        writer.replay_step(step).await?;
                    }
                }
                Some(step) = self.replays.recv() => writer.replay_step(step).await?,
            }
        }
    }

    /// Carries an order out that was not carried out before and is still wanted, or has it carried out beside the writer.
    async fn take_order<C: Cluster, V: View>(&mut self, request: OrderRequest, writer: &mut Writer<C, V>) {
        if request.order.is_long() {
            if let Err(refused) = self.long_orders.try_send(request) {
                let what = "others of its kind are waiting already: try again later";
                let _ = refused.into_inner().reply.send(Err(OrderError::Failed(what.to_owned())));
            }
            return;
        }
        let Some((order, pending)) = self.once.begin(request) else { return };
        let done = writer.carry_out(order).await;
        writer.show();
        match done {
            Ok(Done { said, accepted }) if !accepted.is_empty() => {
                let (once, status, stop) = (self.once.clone(), writer.status.clone(), self.stop.clone());
                self.workers.spawn(async move {
                    let followed = what_followed(accepted, &status, &stop).await;
                    once.answer(pending, Ok([vec![said], followed].concat().join("\n")));
                    Ok(())
                });
            }
            done => self.once.answer(pending, done.map(|done| done.said)),
        }
    }
}

/// What polls have made of what was accepted, a line a unit, once they have read it again.
async fn what_followed(accepted: Vec<AcceptedUnit>, status: &StatusBoard, stop: &CancellationToken) -> Vec<String> {
    let mut changes = status.watch();
    let is_polled = |status: &Status| {
        accepted.iter().all(|known| status.units.get(&known.unit).is_some_and(|unit| unit.polled >= known.at))
    };
    let is_in_time = tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(FOLLOWED_MAX) => false,
        polled = changes.wait_for(is_polled) => polled.is_ok(),
    };
    let status = status.read();
    accepted.iter().map(|known| known.describe(status.units.get(&known.unit), is_in_time)).collect()
}

impl<C: Cluster, V: View> LongOrders<C, V> {
    async fn run(self, mut asked: mpsc::Receiver<OrderRequest>, once: Once) -> Result<(), Fault> {
        while let Some(request) = asked.recv().await {
            let Some((order, pending)) = once.begin(request) else { continue };
            let answer = self.carry_out(order).await;
            once.answer(pending, answer);
        }
        Ok(())
    }

    fn carry_out(&self, order: Order) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        match order {
            Order::Replay { code, confirmed, forced } => match self.replay(code.as_deref(), confirmed, forced) {
                Ok(replay) => Box::pin(replay.run()),
                Err(refused) => Box::pin(std::future::ready(Err(refused))),
            },
            _ => Box::pin(verify(self.cluster.clone(), self.view.clone(), self.writer.clone(), self.stop.clone())),
        }
    }

    /// A replay of letters with an error code, or of all.
    fn replay(&self, code: Option<&str>, is_confirmed: bool, is_forced: bool) -> Result<Replay<C>, OrderError> {
        let reason = match code.map(|code| Reason::from_code(code).ok_or(code)) {
            None => None,
            Some(Ok(reason)) => Some(reason),
            Some(Err(code)) => return Err(OrderError::Refused(format!("no dead letter has the error code {code}"))),
        };
        let terms = ReplayTerms { reason, is_forced, ..self.replayed.clone() };
        let (steps, cluster) = (self.steps.clone(), Arc::clone(&self.cluster));
        Ok(Replay { steps, cluster, terms, is_confirmed, stop: self.stop.clone() })
    }
}

/// Compares the view with the journal, until told to stop.
async fn verify<C: Cluster, V: View>(
    cluster: Arc<C>,
    view: Arc<V>,
    writer: WriterHandle,
    stop: CancellationToken,
) -> Answer {
    let compared = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Fault::Stopped),
        compared = verify_beside(cluster, view, writer) => compared,
    };
    compared.map_err(|fault| OrderError::Failed(fault.to_string()))
}

/// Answers an order that only an owner can carry out.
pub(super) fn refuse(reply: oneshot::Sender<Answer>, status: &StatusBoard) {
    let what = match status.read().role {
        Role::StandingBy { owner, admin } => format!("this instance stands by: ask the owner, {owner}, at {admin}"),
        _ => "this instance does not own the journal yet: try again in a moment".to_owned(),
    };
    let _ = reply.send(Err(OrderError::Refused(what)));
}
