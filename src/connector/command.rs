//! A command that becomes the owner: it owns the journal for one order, carries it out, and gives the journal up again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backfiller::Backfiller;
use super::fault::Fault;
use super::order::{Order, OrderError};
use super::publisher::Publisher;
use super::reader::Traffic;
use super::{Connector, ConnectorError, beat, replay_letters};
use crate::core::feed::BEATS_MISSED_MAX;
use crate::sink::Cluster;
use crate::source::Source;
use crate::store::View;
use crate::telemetry::Role;

impl<S: Source, C: Cluster, V: View> Connector<S, C, V> {
    /// Owns the journal for one order, carries it out, and gives the journal up again.
    ///
    /// Backfills are read to their end, or until told to stop; `asked` is given what the order has said first.
    ///
    /// # Errors
    /// Also when another instance is at work, which is then to be asked instead.
    pub async fn carry_out(
        mut self,
        order: Order,
        stop: CancellationToken,
        asked: impl FnOnce(&str),
    ) -> Result<String, ConnectorError> {
        let mut publisher = self.publisher(&stop);
        let mut changes = self.status.watch();
        {
            let opening = publisher.open(Some(&order));
            tokio::pin!(opening);
            let mut give_up_at: Option<Instant> = None;
            loop {
                tokio::select! {
                    biased;
                    opened = &mut opening => break opened?,
                    () = until(give_up_at) => return Err(self.owner_alive()),
                    Ok(()) = changes.changed() => {
                        let is_standing_by = matches!(changes.borrow_and_update().role, Role::StandingBy { .. });
                        if !is_standing_by {
                            give_up_at = None;
                        } else if give_up_at.is_none() {
                            // A dead owner's beats stop: within three of them it is found out, and taken over from.
                            give_up_at = Some(Instant::now() + self.terms.beat * (BEATS_MISSED_MAX + 2));
                        }
                    }
                }
            }
        }
        let is_to_be_read = matches!(order, Order::Backfill { confirmed: true, .. });
        let mut done = match order {
            Order::Replay { code, confirmed, forced } => {
                let shared = Arc::new(Mutex::new(publisher));
                let replayed = self.replay_alone(&shared, (code, confirmed, forced), &stop).await;
                publisher = sole(shared)?;
                match replayed {
                    Ok(done) => done,
                    Err(fault) => {
                        let _ = publisher.give_up().await;
                        return Err(self.ended_by(fault));
                    }
                }
            }
            order => publisher.carry_out(order).await,
        };
        if let Ok(said) = &mut done
            && is_to_be_read
        {
            asked(said);
            let shared = Arc::new(Mutex::new(publisher));
            let read = self.backfill_to_the_end(&shared, &stop).await;
            publisher = sole(shared)?;
            if let Err(fault) = read {
                let _ = publisher.give_up().await;
                return Err(self.ended_by(fault));
            }
            *said = String::new();
        }
        // After a refusal nothing is written but that the journal is free again.
        let released = if done.is_ok() { publisher.release().await } else { publisher.give_up().await };
        if let Err(fault) = released {
            tracing::warn!("the journal could not be given up: {fault}");
        }
        done.map_err(ConnectorError::Order)
    }

    fn ended_by(&self, fault: Fault) -> ConnectorError {
        match fault {
            Fault::Yielded => self.owner_alive(),
            fault => fault.into(),
        }
    }

    /// Replays dead letters, and beats, until it is done or until told to stop.
    async fn replay_alone(
        &self,
        publisher: &Arc<Mutex<Publisher<C, V>>>,
        order: (Option<String>, bool, bool),
        stop: &CancellationToken,
    ) -> Result<Result<String, OrderError>, Fault> {
        let mut beating = JoinSet::new();
        let ended = stop.child_token();
        beating.spawn(beat(Arc::clone(publisher), self.terms.beat, ended.clone()));
        let replaying = replay_letters(Arc::clone(publisher), order, stop.clone());
        tokio::pin!(replaying);
        let replayed = loop {
            tokio::select! {
                biased;
                replayed = &mut replaying => break replayed,
                Some(beaten) = beating.join_next() => {
                    if let Err(fault) = beaten.map_err(Fault::from).and_then(|ended| ended) {
                        break Err(fault);
                    }
                }
            }
        };
        // Only when nobody shares it the journal can be given up.
        ended.cancel();
        if replayed.is_err() {
            beating.shutdown().await;
        }
        while beating.join_next().await.is_some() {}
        replayed
    }

    /// Reads what backfills have still to read, and beats, until they are done or until told to stop.
    async fn backfill_to_the_end(
        &mut self,
        publisher: &Arc<Mutex<Publisher<C, V>>>,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        let mut workers = JoinSet::new();
        let ended = stop.child_token();
        for unit in &self.terms.units {
            let reader = self.reader(unit, publisher, (&Traffic::default(), &self.ahead()), &ended);
            workers.spawn(Backfiller { reader }.run());
        }
        workers.spawn(beat(Arc::clone(publisher), self.terms.beat, ended.clone()));
        loop {
            tokio::select! {
                biased;
                worker = workers.join_next() => {
                    let Some(worker) = worker else { return Ok(()) };
                    if let Err(fault) = worker.map_err(Fault::from).and_then(|ended| ended) {
                        // Only when all are gone the journal can be given up.
                        workers.shutdown().await;
                        return Err(fault);
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(1)), if !ended.is_cancelled() => {
                    let publisher = publisher.lock().await;
                    // What polls still have to read is left to the daemon.
                    if self.terms.units.iter().all(|unit| publisher.has_nothing_to_backfill(unit)) {
                        ended.cancel();
                    }
                }
            }
        }
    }

    fn owner_alive(&self) -> ConnectorError {
        let (owner, admin) = match self.status.read().role {
            Role::StandingBy { owner, admin } => (owner, admin),
            _ => ("unknown".to_owned(), "unknown".to_owned()),
        };
        ConnectorError::OwnerAlive { owner, admin }
    }
}

/// The publisher, when nobody else shares it any more.
fn sole<C: Cluster, V: View>(shared: Arc<Mutex<Publisher<C, V>>>) -> Result<Publisher<C, V>, ConnectorError> {
    Ok(Arc::into_inner(shared).ok_or(ConnectorError::Worker("an order goes on".to_owned()))?.into_inner())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
