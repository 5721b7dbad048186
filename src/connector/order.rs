//! What an operator can ask of the owner: deliberate changes, each recorded in the journal.
//!
//! An order that changes what is published says what it would do before it does it.

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::owner::Decision;
use super::publisher::Publisher;
use crate::core::journal::{Change, ChangeKind, UnitProgress};
use crate::core::ledger::Ledger;
use crate::core::time::UtcMillis;
use crate::sink::Cluster;
use crate::store::View;

/// A deliberate change, or a question about the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order")]
pub enum Order {
    /// Publish again what a unit's legs were from an instant on.
    Rewind {
        /// The unit.
        unit: String,
        /// From where, epoch milliseconds.
        to: UtcMillis,
        /// Whether to do it, or only to say what it would do.
        confirmed: bool,
    },
    /// Go on although the source's filters have changed, or the topic was truncated.
    Accept {
        /// The unit; all of them without one.
        unit: Option<String>,
    },
    /// Rebuild the journal from the headers of the legs in the topic.
    Adopt,
    /// Build the view anew from the journal.
    Rebuild,
    /// Compare the view with the journal.
    Verify,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// The owner could not go on.
    #[error("{0}")]
    Failed(String),
}

impl Order {
    /// What it decides about a journal that would be refused otherwise.
    pub(super) fn decision(&self) -> Option<Decision> {
        match self {
            Self::Accept { .. } => Some(Decision::OutShrunk),
            Self::Adopt => Some(Decision::Adopt),
            // A rewind of one unit decides nothing for the others.
            Self::Rewind { .. } | Self::Rebuild | Self::Verify => None,
        }
    }
}

impl<C: Cluster, V: View> Publisher<C, V> {
    /// Carries an order out; gives what was done, in lines for the operator.
    pub(super) async fn carry_out(&mut self, order: Order) -> Result<String, OrderError> {
        let done = match order {
            Order::Rewind { unit, to, confirmed } => self.rewind(&unit, to.floor_second(), confirmed).await,
            Order::Accept { unit } => self.accept(unit.as_deref()).await,
            Order::Adopt if !self.has_begun => {
                return Err(OrderError::Refused(
                    "there is a journal: only one that is lost is rebuilt from the legs".to_owned(),
                ));
            }
            Order::Adopt => return self.adopted().await.map_err(failed),
            Order::Rebuild => self.rebuild().await.map(Ok),
            Order::Verify => self.verify().await.map(Ok),
        };
        done.map_err(failed)?.map_err(OrderError::Refused)
    }

    /// Voids a unit's pages and takes its watermarks back, so that what is read from there is published again.
    async fn rewind(&mut self, unit: &str, to: UtcMillis, confirmed: bool) -> Result<Result<String, String>, Fault> {
        let Rewind { known, to, effect } = match plan_rewind(self.ledger(), &self.units(), unit, to) {
            Ok(planned) => planned,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !confirmed {
            return Ok(Ok(unconfirmed(&effect)));
        }
        let mut progress = known.progress.clone();
        progress.coverage.cut(to);
        (progress.complete_to, progress.final_to, progress.floor) = (to, to, to);
        let change = Some(Change { what: ChangeKind::Rewound, at: self.now() });
        let source = self.source();
        let rewound = UnitProgress { generation: known.generation + 1, progress, source, change, ..known };
        self.change(vec![rewound]).await?;
        tracing::warn!(unit, %to, "rewound by an operator: {effect}");
        Ok(Ok(effect))
    }

    async fn accept(&mut self, unit: Option<&str>) -> Result<Result<String, String>, Fault> {
        let change = Some(Change { what: ChangeKind::Accepted, at: self.now() });
        let source = self.source();
        let accepted: Vec<UnitProgress> = self
            .ledger()
            .head
            .units
            .values()
            .filter(|known| unit.is_none_or(|unit| known.unit == unit) && known.is_started())
            .map(|known| UnitProgress { source, change: change.clone(), ..known.clone() })
            .collect();
        if accepted.is_empty() {
            return Ok(Err("there is nothing to accept: no such unit was ever read".to_owned()));
        }
        let names: Vec<String> = accepted.iter().map(|unit| unit.unit.clone()).collect();
        self.change(accepted).await?;
        let names = names.join(", ");
        tracing::warn!(
            units = names,
            "accepted by an operator: reading goes on with the source and topics as they are"
        );
        Ok(Ok(format!(
            "accepted for {names}: reading goes on from where it was, with the source and topics as they are now"
        )))
    }

    /// What became of the adoption that opening the journal has done.
    async fn adopted(&mut self) -> Result<String, Fault> {
        let legs: u64 = self.ledger().pages.values().map(|page| u64::from(page.entries)).sum();
        let mut starts = Vec::new();
        for unit in self.units() {
            let pages = self.ledger().pages.values().filter(|page| page.unit == unit);
            let Some(oldest) = pages.map(|page| page.first).min().map(UtcMillis::floor_second) else { continue };
            if self.progress(&unit).is_some_and(UnitProgress::is_started) {
                continue;
            }
            self.start_adopted(&unit, oldest).await?;
            starts.push(format!("unit {unit} is read again from {oldest} on"));
        }
        starts.sort();
        Ok(format!(
            "the journal was rebuilt: {legs} legs and dead letters of this connector were found and are not published again; \
             what retention has deleted from the topic is published again if it is read again. {}",
            if starts.is_empty() { "Reading starts at poll.start_from".to_owned() } else { starts.join("; ") }
        ))
    }

    async fn rebuild(&mut self) -> Result<String, Fault> {
        self.start_over().await?;
        let ledger = self.ledger();
        let entries: u64 = ledger.pages.values().map(|page| u64::from(page.entries)).sum();
        Ok(format!("the view was built anew from the journal: {} pages with {entries} entries", ledger.pages.len()))
    }
}

/// A rewind that can be carried out.
struct Rewind {
    known: UnitProgress,
    /// Where reading starts again; not after the final watermark.
    to: UtcMillis,
    /// What is published again, in words.
    effect: String,
}

fn plan_rewind(ledger: &Ledger, units: &[String], unit: &str, to: UtcMillis) -> Result<Rewind, String> {
    let Some(known) = ledger.head.units.get(unit).filter(|unit| unit.is_started()).cloned() else {
        let names: Vec<&str> = ledger.head.units.keys().map(String::as_str).collect();
        return Err(format!("unit {unit} was never read; the journal knows {}", names.join(", ")));
    };
    if !units.iter().any(|name| name == unit) {
        return Err(format!("unit {unit} is no longer read: only an entry of source.pbx_ids can be rewound"));
    }
    if to > known.progress.complete_to {
        return Err(format!(
            "unit {unit} has been read up to {} only: a rewind goes back, not forward",
            known.progress.complete_to
        ));
    }
    // What lies between the watermarks was read once only, and is still to be read again.
    let to = to.min(known.progress.final_to);
    let pages = ledger.pages.values().filter(|page| page.unit == unit && page.generation == known.generation);
    let again: u64 = pages.filter(|page| page.last >= to).map(|page| u64::from(page.entries)).sum();
    let effect = format!(
        "unit {unit} is read again from {to} on, and every leg of it disconnected since is published a second time, \
         under generation {}: up to {again} that the journal remembers, and older ones that it has forgotten; not \
         those that another unit, such as allpbxes, has published",
        known.generation + 1
    );
    Ok(Rewind { known, to, effect })
}

fn unconfirmed(effect: &str) -> String {
    format!("{effect}. Nothing was changed: add --yes to do it")
}

/// What a rewind would do, from what the journal says; nothing is claimed or written.
///
/// # Errors
/// When it makes no sense.
pub fn preview_rewind(ledger: &Ledger, units: &[String], unit: &str, to: UtcMillis) -> Result<String, OrderError> {
    let planned = plan_rewind(ledger, units, unit, to.floor_second()).map_err(OrderError::Refused)?;
    Ok(unconfirmed(&planned.effect))
}

fn failed(fault: Fault) -> OrderError {
    OrderError::Failed(fault.to_string())
}
