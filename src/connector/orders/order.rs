//! What an operator can ask of the owner: deliberate changes, each recorded in the journal.
//!
//! An order that changes what is published says what it would do before it does it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connector::fault::{Fault, OrderError};
use crate::connector::write::owner::Decision;
use crate::connector::write::writer::{Purpose, Writer};
use crate::core::dedupe::Counts;
use crate::core::journal::{Backfill, BackfillState, Change, ChangeKind, UnitProgress};
use crate::core::ledger::Ledger;
use crate::core::time::{UtcMillis, Window};
use crate::core::words::{count, length};
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::status::{UnitState, UnitStatus};

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
    /// Read a past period, as far as it was never read.
    Backfill {
        /// The unit; all that are configured without one.
        unit: Option<String>,
        /// From where, epoch milliseconds.
        from: UtcMillis,
        /// To where; exclusive.
        to: UtcMillis,
        /// Whether to do it, or only to say what it would do.
        confirmed: bool,
        /// Whether also what another unit, no longer read, may have published is read.
        forced: bool,
    },
    /// End the backfills that are not done.
    CancelBackfills {
        /// The unit; all of them without one.
        unit: Option<String>,
    },
    /// Parse dead letters again, and publish those that are legs now.
    Replay {
        /// Only those with this error code.
        code: Option<String>,
        /// Whether to do it, or only to say what it would do.
        confirmed: bool,
        /// Whether those that may have been published and forgotten are published, too.
        forced: bool,
    },
}

/// An order on its way to the owner.
#[derive(Debug)]
pub struct OrderRequest {
    /// What is asked.
    pub order: Order,
    /// The caller's name for this one order: asked again under the same name it is not carried out again.
    pub id: Option<String>,
    /// After this instant it is not begun.
    pub deadline: Option<Instant>,
    /// Where the answer goes; an order whose caller has gone is not begun.
    pub reply: oneshot::Sender<Answer>,
}

/// A unit of which an operator has accepted what the source shows.
pub(crate) struct AcceptedUnit {
    pub(crate) unit: String,
    /// What was held, and how many rows of it at least.
    pub(crate) held: Vec<(Window, u64)>,
    /// When it was accepted.
    pub(crate) at: Option<UtcMillis>,
    /// How far the unit was complete then.
    pub(crate) complete_to: UtcMillis,
}

impl AcceptedUnit {
    /// What became of it, as the unit is now.
    pub(crate) fn describe(&self, now: Option<&UnitStatus>, is_read_again: bool) -> String {
        let Self { unit, held, complete_to: before, .. } = self;
        let held: Vec<String> = held
            .iter()
            .map(|(window, rows)| format!("window {window} was held, {} of it", count(*rows, "row")))
            .collect();
        let held = if held.is_empty() { "no window was held".to_owned() } else { held.join(", ") };
        let after = now.and_then(|unit| unit.complete_to).unwrap_or(*before);
        let moved = match (is_read_again, after > *before) {
            (_, true) => format!("completeTo has moved from {before} to {after}"),
            (true, false) => format!("completeTo is still {before}"),
            (false, false) => {
                format!("completeTo is {before}, and it was not read again yet: call-legs status shows it")
            }
        };
        let state = now.filter(|unit| unit.state.is_not_believed());
        let state = state.map(|unit| format!("; its state is {}: {}", unit.state, unit.detail)).unwrap_or_default();
        format!("unit {unit}: {held}; {moved}{state}")
    }
}

/// What an order has done.
pub(crate) struct Done {
    /// In lines for the operator.
    pub(crate) said: String,
    /// The units whose polls are now to read again what was held.
    pub(crate) accepted: Vec<AcceptedUnit>,
}

impl From<String> for Done {
    fn from(said: String) -> Self {
        Self { said, accepted: Vec::new() }
    }
}

/// What an order has done, in lines for the operator.
pub type Answer = Result<String, OrderError>;

impl Order {
    /// What the journal is owned for, where it is owned for this order only.
    pub(crate) fn purpose(&self) -> Purpose {
        // What is read now has to be what was read before.
        let is_source_checked = matches!(self, Self::Backfill { .. });
        Purpose { is_an_order: true, decision: self.decision(), is_source_checked }
    }

    /// Whether it reads for long, and is carried out beside the writer.
    pub(crate) const fn is_long(&self) -> bool {
        matches!(self, Self::Verify | Self::Replay { .. })
    }

    /// What it decides about a journal that would be refused otherwise.
    fn decision(&self) -> Option<Decision> {
        match self {
            Self::Accept { .. } => Some(Decision::OutShrunk),
            Self::Adopt => Some(Decision::Adopt),
            // A rewind of one unit decides nothing for the others.
            Self::Rewind { .. }
            | Self::Rebuild
            | Self::Verify
            | Self::Backfill { .. }
            | Self::CancelBackfills { .. }
            | Self::Replay { .. } => None,
        }
    }
}

impl<C: Cluster, V: View> Writer<C, V> {
    /// Carries an order out.
    pub(crate) async fn carry_out(&mut self, order: Order) -> Result<Done, OrderError> {
        let said = match order {
            Order::Rewind { unit, to, confirmed } => self.rewind(&unit, to.floor_second(), confirmed).await,
            Order::Accept { unit } => {
                return self.accept(unit.as_deref()).await.map_err(failed)?.map_err(OrderError::Refused);
            }
            Order::Adopt if !self.has_begun => {
                return Err(OrderError::Refused(
                    "there is a journal: only one that is lost is rebuilt from the legs".to_owned(),
                ));
            }
            Order::Adopt => self.adopted().await.map(Ok),
            Order::Rebuild => self.rebuild().await.map(Ok),
            Order::Backfill { unit, from, to, confirmed, forced } => {
                let window = Window::new(from.floor_second(), to.floor_second());
                self.backfill(unit.as_deref(), window, confirmed, forced).await
            }
            Order::CancelBackfills { unit } => self.cancel_backfills(unit.as_deref()).await.map(Ok),
            // Both read for long, beside the writer.
            Order::Replay { .. } | Order::Verify => {
                return Err(OrderError::Failed("this order is carried out beside the others".to_owned()));
            }
        };
        said.map_err(failed)?.map(Done::from).map_err(OrderError::Refused)
    }

    /// Takes note of a past period to be read, of each unit that has not read all of it.
    async fn backfill(
        &mut self,
        unit: Option<&str>,
        window: Window,
        confirmed: bool,
        forced: bool,
    ) -> Result<Result<String, String>, Fault> {
        let planned = match plan_backfill(self.ledger(), &self.units(), unit, window, self.now(), forced) {
            Ok(planned) => planned,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !confirmed {
            return Ok(Ok(format!("{}. Nothing was changed: it was only asked", planned.effect)));
        }
        let mut lines = vec![planned.effect];
        for (unit, window) in planned.units {
            let (id, at) = (self.nonce(), self.now());
            let backfill = Backfill { id, unit, window, state: BackfillState::Running, at, counts: Counts::default() };
            self.note_backfill(&backfill).await?;
            lines.push(format!("unit {}: backfill {id} is asked for", backfill.unit));
        }
        Ok(Ok(lines.join("\n")))
    }

    async fn cancel_backfills(&mut self, unit: Option<&str>) -> Result<String, Fault> {
        let known = self.ledger().head.backfills.values();
        let running = known.filter(|known| known.state == BackfillState::Running);
        let ended: Vec<Backfill> =
            running.filter(|known| unit.is_none_or(|unit| known.unit == unit)).cloned().collect();
        for backfill in &ended {
            self.note_backfill(&Backfill { state: BackfillState::Cancelled, ..backfill.clone() }).await?;
        }
        let are = if ended.len() == 1 { "is" } else { "are" };
        Ok(format!("{} {are} cancelled; what was read stays read", count(ended.len() as u64, "backfill")))
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

    /// Goes on with what is there. What was held is read again by the units' polls, and then passes.
    async fn accept(&mut self, unit: Option<&str>) -> Result<Result<Done, String>, Fault> {
        let change = Some(Change { what: ChangeKind::Accepted, at: self.now() });
        let source = self.source();
        let known = self.ledger().head.units.values();
        let meant: Vec<UnitProgress> = known
            .filter(|known| unit.is_none_or(|unit| known.unit == unit) && known.is_started())
            .map(|known| UnitProgress { source, change: change.clone(), ..known.clone() })
            .collect();
        if meant.is_empty() {
            return Ok(Err("there is nothing to accept: no such unit was ever read".to_owned()));
        }
        let (accepted, others): (Vec<_>, Vec<_>) = meant.into_iter().partition(|unit| self.is_acceptable(&unit.unit));
        let unchanged: Vec<String> = others.iter().map(|unit| self.describe_unaccepted(&unit.unit)).collect();
        if accepted.is_empty() {
            return Ok(Ok(format!("nothing was changed\n{}", unchanged.join("\n")).into()));
        }
        let names: Vec<String> = accepted.iter().map(|unit| unit.unit.clone()).collect();
        let status = self.status.read();
        let held = |unit: &UnitProgress| {
            let held = status.units.get(&unit.unit).map(|unit| unit.held.clone()).unwrap_or_default();
            let at = unit.change.as_ref().map(|change| change.at);
            AcceptedUnit { unit: unit.unit.clone(), held, at, complete_to: unit.progress.complete_to }
        };
        let units = accepted.iter().map(held).collect();
        drop(status);
        self.change(accepted).await?;
        let names = names.join(", ");
        tracing::warn!(
            units = names,
            "accepted by an operator: reading goes on with the source and topics as they are"
        );
        let done = format!(
            "accepted for {names}: reading goes on from where it was, with the source and topics as they are now"
        );
        Ok(Ok(Done { said: [vec![done], unchanged].concat().join("\n"), accepted: units }))
    }

    /// Whether there is something to accept of a unit. Where nobody polls, only the next poll could tell.
    fn is_acceptable(&self, unit: &str) -> bool {
        let is_another_source = self.progress(unit).is_some_and(|known| known.source != self.source());
        is_another_source || self.owner.decision.is_some() || self.state_of(unit).0.is_not_believed()
    }

    fn describe_unaccepted(&self, unit: &str) -> String {
        let (state, detail) = self.state_of(unit);
        if detail.is_empty() {
            return format!("unit {unit}: nothing to accept, its state is {state}");
        }
        format!("unit {unit}: its state is {state}, which accepting does not change: {detail}")
    }

    fn state_of(&self, unit: &str) -> (UnitState, String) {
        let status = self.status.read();
        status.units.get(unit).map(|unit| (unit.state, unit.detail.clone())).unwrap_or_default()
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
            "the journal was rebuilt: {} of this connector, legs and dead letters, were found and are not published again; \
             what retention has deleted from the topic is published again if it is read again. {}",
            count(legs, "record"),
            if starts.is_empty() { "Reading starts at poll.start_from".to_owned() } else { starts.join("; ") }
        ))
    }

    async fn rebuild(&mut self) -> Result<String, Fault> {
        self.start_over().await?;
        let ledger = self.ledger();
        let entries: u64 = ledger.pages.values().map(|page| u64::from(page.entries)).sum();
        let pages = count(ledger.pages.len() as u64, "page");
        Ok(format!("the view was built anew from the journal: {pages} with {entries} identities"))
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

/// A backfill that can be carried out.
struct PlannedBackfill {
    /// The units that have something to read, and what of the period is theirs.
    units: Vec<(String, Window)>,
    /// What is read, in words.
    effect: String,
}

fn plan_backfill(
    ledger: &Ledger,
    units: &[String],
    unit: Option<&str>,
    window: Window,
    now: UtcMillis,
    forced: bool,
) -> Result<PlannedBackfill, String> {
    if window.is_empty() || window.end > now {
        return Err(format!("the period {window} is empty, or ends in the future"));
    }
    if let Some(unit) = unit.filter(|unit| !units.iter().any(|known| known == unit)) {
        return Err(format!("unit {unit} is not read: source.pbx_ids has {}", units.join(", ")));
    }
    let is_retired = |known: &&UnitProgress| {
        let coverage = &known.progress.coverage;
        !units.contains(&known.unit) && coverage.holes(window) != [window] && known.is_started()
    };
    if let Some(retired) = ledger.head.units.values().find(is_retired).filter(|_| !forced) {
        return Err(format!(
            "unit {}, which is no longer read, has read a part of {window}: its legs may have been forgotten and would be \
             published again; give another period, or go on with --force",
            retired.unit
        ));
    }
    let (mut to_read, mut lines) = (Vec::new(), Vec::new());
    for name in units.iter().filter(|name| unit.is_none_or(|unit| unit == *name)) {
        let Some(known) = ledger.head.units.get(name).filter(|known| known.is_started()) else {
            return Err(format!("unit {name} was never read: start the daemon first"));
        };
        // What polls still read is theirs, and covered when they have left it.
        let end = window.end.min(known.progress.final_to).max(window.start);
        let window = Window::new(window.start, end);
        let holes = known.progress.coverage.holes(window);
        let left: Duration = holes.iter().map(|hole| hole.length()).sum();
        if window.is_empty() {
            lines.push(format!(
                "unit {name} has read all before {}: what lies after it polls still read",
                known.progress.final_to
            ));
        } else if holes.is_empty() {
            lines.push(format!("unit {name} has read all of {window}"));
        } else {
            let left = length(left);
            lines.push(format!("unit {name} has still to read {left} of {window}"));
            to_read.push((name.clone(), window));
        }
    }
    let effect = lines.join("\n");
    if to_read.is_empty() { Err(effect) } else { Ok(PlannedBackfill { units: to_read, effect }) }
}

/// What a backfill would read, from what the journal says; nothing is claimed or written.
///
/// # Errors
/// When it makes no sense.
pub fn preview_backfill(
    ledger: &Ledger,
    units: &[String],
    unit: Option<&str>,
    window: Window,
    now: UtcMillis,
    forced: bool,
) -> Result<String, OrderError> {
    plan_backfill(ledger, units, unit, window, now, forced).map(|planned| planned.effect).map_err(OrderError::Refused)
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
