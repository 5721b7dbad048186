//! The feed: what the status topic tells about a unit, for those who have Kafka only.
//!
//! | a reader sees | it means |
//! |---|---|
//! | the newest status is older than three beats | the connector is down |
//! | `stopped` | it was stopped on purpose |
//! | fresh, `ok`, `complete_to` moves on, nothing published | no calls |
//! | fresh, `source_…` | the API is down, the connector is not |
//!
//! No state speaks of a degraded sink: a status takes the same way as the legs, so that silence says it.

use std::time::Duration;

use super::dedupe::Counts;
use super::journal::{Delivery, Nonce, OutOffsets};
use super::lateness::{Lateness, Recommendation};
use super::time::UtcMillis;

/// How many beats may be missing before an owner counts as gone.
pub const BEATS_MISSED_MAX: u32 = 3;

/// One unit's status.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitFeed {
    /// The unit, which is also the record's key.
    pub unit: String,
    /// Increased by each rewind; the watermarks never fall within one.
    pub generation: u32,
    /// The soft watermark: read once.
    pub complete_to: UtcMillis,
    /// The hard watermark: read again after the overlap.
    pub final_to: UtcMillis,
    /// From an open set, see [`state`].
    pub state: String,
    /// Since when it is in this state.
    pub since: UtcMillis,
    /// When a poll last read its window whole; `None` before the first.
    pub last_poll_ok: Option<UtcMillis>,
    /// When this was written, by the owner's clock.
    pub at: UtcMillis,
    /// How far a leg lies behind the newest one at the most, unless it is marked late; `None` where no order is promised.
    pub behind_max: Option<Duration>,
    /// In how many milliseconds the next status comes at the latest.
    pub next_beat_ms: u32,
    /// What became of all rows since the unit's first start.
    pub counts: Counts,
    /// What `complete_to` and `final_to` promise lies below these ends.
    pub out_offsets: OutOffsets,
    /// The owner's process.
    pub owner: Nonce,
    /// The owner's host name.
    pub host: String,
    /// How it publishes.
    pub delivery: Delivery,
    /// The program's version.
    pub version: String,
    /// How late the unit's legs are.
    pub lateness: Lateness,
    /// The overlap that would find nearly all of them.
    pub recommended: Option<Recommendation>,
}

/// The states that a unit's status can name; readers must expect others.
pub mod state {
    /// Every poll reads its window whole.
    pub const OK: &str = "ok";
    /// Reading older windows first.
    pub const CATCHING_UP: &str = "catching_up";
    /// The connector was stopped on purpose.
    pub const STOPPED: &str = "stopped";
}
