//! What a snapshot holds: the status page, `/status.json` and the command `status` show it.
//!
//! What the feed tells too has the feed's names ([`status.avsc`](crate::codec::schema::status)): what is the process's
//! stands at the top, what is a unit's with the unit. Instants are epoch milliseconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::recent::{MinuteNote, PollNote};
use super::status::BackfillStatus;
use crate::config::Setting;
use crate::core::dedupe::Counts;
use crate::core::time::{UtcMillis, Window};

/// How things are, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As they should be.
    Good,
    /// Not yet, or not here: nobody has to act.
    #[default]
    Working,
    /// Somebody should look.
    Bad,
}

/// One sentence or two that say how things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headline {
    /// How they are.
    pub level: Level,
    /// In words.
    pub sentence: String,
}

/// What a process is to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleShown {
    /// Not known yet.
    Starting,
    /// It publishes.
    Owner,
    /// Another one does.
    StandingBy,
}

/// The instance that publishes while this one stands by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Its host name.
    pub host: String,
    /// Where its admin port listens.
    pub admin: String,
}

/// How the connector is at one instant.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When it was taken.
    pub at: UtcMillis,
    /// How things are, in words.
    pub headline: Headline,
    /// The process's number.
    pub owner: String,
    /// The process's host name.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// When the process started.
    pub started_at: UtcMillis,
    /// What it is to the journal.
    pub role: RoleShown,
    /// Since when it owns the journal, while it does.
    pub owner_since: Option<UtcMillis>,
    /// Who publishes while this one stands by.
    pub publisher: Option<Elsewhere>,
    /// How it publishes, once that is known.
    pub delivery: Option<String>,
    /// How often at the latest every unit's status is written, in milliseconds.
    pub next_beat_ms: u64,
    /// How far a leg lies behind the newest one at the most, unless it is marked late, in milliseconds.
    #[serde(default)]
    pub order_within_ms: Option<u64>,
    /// Whether `/readyz` says ready.
    pub ready: bool,
    /// Why not, a line each.
    pub reasons: Vec<String>,
    /// Steps that should have ended by now: `/healthz` is bad.
    pub stuck: Vec<String>,
    /// What the start waits for.
    pub waiting_for: Option<String>,
    /// Whether it was told to stop.
    pub stopping: bool,
    /// How long Kafka has owed an acknowledgement, in milliseconds; 0 while it owes none.
    pub kafka_waiting_ms: u64,
    /// The newest trouble with Kafka while it lasts.
    pub kafka_trouble: Option<String>,
    /// How long the disk of the state directory has not done its work, in milliseconds; 0 while it does.
    pub disk_waiting_ms: u64,
    /// How that shows.
    pub disk_trouble: Option<String>,
    /// `freshness.objective`, in milliseconds.
    pub freshness_objective_ms: u64,
    /// How often units are polled: `poll.interval`, or what `"auto"` has chosen, in milliseconds.
    pub poll_interval_ms: u64,
    /// Why it is so, where `poll.interval` is `"auto"`.
    #[serde(default)]
    pub poll_interval_reason: Option<String>,
    /// `poll.overlap`, in milliseconds.
    pub poll_overlap_ms: u64,
    /// Every configured unit; none while standing by, since those are the owner's.
    pub units: Vec<UnitSnapshot>,
    /// Those that this process has looked at, by number.
    pub backfills: Vec<BackfillStatus>,
    /// The effective configuration, without secrets and personal data.
    pub settings: Vec<Setting>,
}

/// How one unit is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitSnapshot {
    /// The unit.
    pub unit: String,
    /// Its state, by the feed's names.
    pub state: String,
    /// Whether that is a state in which it does its work.
    pub good: bool,
    /// Since when.
    pub since: Option<UtcMillis>,
    /// What an operator should know about a state that is not good.
    pub detail: String,
    /// Why a request is being repeated, while one is.
    pub repeating: String,
    /// When the source is asked again, while a failure is waited out.
    #[serde(default)]
    pub tried_again_at: Option<UtcMillis>,
    /// Increased by each rewind.
    pub generation: u32,
    /// The soft watermark.
    pub complete_to: Option<UtcMillis>,
    /// The hard watermark.
    pub final_to: Option<UtcMillis>,
    /// When a poll last read its window whole.
    pub last_poll_ok: Option<UtcMillis>,
    /// What became of all rows since the unit's first start.
    pub counts: CountsShown,
    /// Up to where to read before trusting the watermarks.
    pub out_offsets: Vec<OutOffset>,
    /// How late its legs are.
    pub lateness: LatenessShown,
    /// Whole hours of which a sweep has seen fewer legs than were published.
    pub hours_fewer: u64,
    /// And more.
    pub hours_more: u64,
    /// Whole hours that a sweep has compared.
    pub hours_compared: u64,
    /// What was read and published completely, oldest first.
    pub coverage: Vec<Window>,
    /// The newest polls, oldest first.
    pub polls: Vec<PollNote>,
    /// The newest hour, minute by minute.
    pub minutes: Vec<MinuteNote>,
    /// Dead letters since the process started, by error code.
    pub dead_letters: BTreeMap<String, u64>,
}

/// What became of rows.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CountsShown {
    /// All of them.
    pub fetched: u64,
    /// By what became of them.
    #[serde(flatten)]
    pub each: Counts,
}

/// The end of what was published to one partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutOffset {
    /// `legs` or `dead-letters`.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The end.
    pub offset: i64,
}

/// How late legs are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatenessShown {
    /// Legs whose lateness was measured.
    pub samples: u64,
    /// Legs found thanks to the overlap.
    pub by_overlap: u64,
    /// Legs found by a sweep.
    pub by_sweep: u64,
    /// How much of the overlap was left at the closest, in milliseconds.
    pub closest_to_edge_ms: Option<u64>,
    /// The overlap that finds 99.9 % of all legs, in milliseconds.
    pub recommended_overlap_ms: Option<u64>,
    /// How certain that is, 0 to 1.
    pub confidence: Option<f64>,
}
