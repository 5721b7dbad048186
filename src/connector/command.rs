//! A command that becomes the owner: it owns the journal for one order, carries it out, and gives the journal up again.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fault::{Fault, OrderError};
use super::orders::order::{Answer, Order, OrderRequest};
use super::read::backfiller::Backfiller;
use super::serve::Serving;
use super::write::request::{Lane, Request, WriterHandle};
use super::write::writer::Writer;
use super::{Connector, ConnectorError};
use crate::core::feed::BEATS_MISSED_MAX;
use crate::sink::Cluster;
use crate::source::Source;
use crate::store::View;
use crate::telemetry::Role;

/// How often it is looked whether backfills are done.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
        let mut writer = self.writer(&stop);
        self.open_or_give_up(&mut writer, &order).await?;
        let is_to_be_read = matches!(order, Order::Backfill { confirmed: true, .. });
        let carried_out = if order.is_long() {
            self.carry_out_beside(&mut writer, order, &stop).await
        } else {
            Ok(writer.carry_out(order).await.map(|done| done.said))
        };
        let worked = match carried_out {
            Ok(Ok(said)) if is_to_be_read => {
                asked(&said);
                self.backfill_to_the_end(&mut writer, &stop).await.map(|()| Ok(String::new()))
            }
            carried_out => carried_out,
        };
        let done = match worked {
            Ok(done) => done,
            Err(fault) => {
                let _ = writer.give_up().await;
                return Err(self.ended_by(fault));
            }
        };
        // After a refusal nothing is written but that the journal is free again.
        let released = if done.is_ok() { writer.release().await } else { writer.give_up().await };
        if let Err(fault) = released {
            tracing::warn!("the journal could not be given up: {fault}");
        }
        done.map_err(ConnectorError::Order)
    }

    /// Waits until this process owns the journal, or until it is clear that another one is at work.
    async fn open_or_give_up(&self, writer: &mut Writer<C, V>, order: &Order) -> Result<(), ConnectorError> {
        let mut changes = self.status.watch();
        let opening = writer.open(order.purpose());
        tokio::pin!(opening);
        let mut give_up_at: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return Ok(opened?),
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

    fn ended_by(&self, fault: Fault) -> ConnectorError {
        match fault {
            Fault::Yielded => self.owner_alive(),
            fault => fault.into(),
        }
    }

    /// Carries an order out that reads for long, and beats, until it is done or until told to stop.
    async fn carry_out_beside(
        &mut self,
        writer: &mut Writer<C, V>,
        order: Order,
        stop: &CancellationToken,
    ) -> Result<Answer, Fault> {
        let (shared, queues) = self.shared(writer);
        let serving = Serving::begin(queues, shared.writer, writer, stop);
        let (orders, mut asked) = mpsc::channel(1);
        let (reply, mut answer) = oneshot::channel();
        let _ = orders.send(OrderRequest { order, id: None, deadline: None, reply }).await;
        let answered = match serving.run(writer, &mut asked, &mut answer).await? {
            Some(answered) => answered.ok(),
            // Told to stop, it has said so, if it had begun.
            None => answer.try_recv().ok(),
        };
        let nothing_done = || Err(OrderError::Failed("stopped: nothing was done".to_owned()));
        Ok(answered.unwrap_or_else(nothing_done))
    }

    /// Reads what backfills have still to read, and beats, until they are done or until told to stop.
    async fn backfill_to_the_end(&mut self, writer: &mut Writer<C, V>, stop: &CancellationToken) -> Result<(), Fault> {
        let (shared, queues) = self.shared(writer);
        let mut serving = Serving::begin(queues, shared.writer.clone(), writer, stop);
        for unit in &self.terms.units {
            serving.workers.spawn(Backfiller::new(self.scroller(unit, &shared, &serving.stop)).run());
        }
        let (_orders, mut nothing_asked) = mpsc::channel(1);
        let units = self.terms.units.clone();
        let done = async {
            // What polls still have to read is left to the daemon.
            while !has_backfilled(&shared.writer, &units).await? {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        serving.run(writer, &mut nothing_asked, done).await?.unwrap_or(Ok(()))
    }

    fn owner_alive(&self) -> ConnectorError {
        let (owner, admin) = match self.status.read().role {
            Role::StandingBy { owner, admin } => (owner, admin),
            _ => ("unknown".to_owned(), "unknown".to_owned()),
        };
        ConnectorError::OwnerAlive { owner, admin }
    }
}

/// Whether the backfills of all units have nothing to read at present.
async fn has_backfilled(writer: &WriterHandle, units: &[String]) -> Result<bool, Fault> {
    for unit in units {
        if !writer.ask(Lane::Old, |reply| Request::HasBackfilled(unit.clone(), reply)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
