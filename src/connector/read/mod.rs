//! Reading: windows of the API, read whole, whose rows go to the writer.
//!
//! | file | holds |
//! |---|---|
//! | `poller` | one unit's polls |
//! | `sweeper`, `backfiller` | its slower re-reads, and the past periods that an operator asked for |
//! | `window` | one window read whole, page by page |
//! | `ahead` | pages on their way: how many, made ready meanwhile, put together for transactions |

pub(crate) mod ahead;
pub(crate) mod backfiller;
pub(crate) mod poller;
pub(crate) mod sweeper;
pub(crate) mod window;

use std::time::Duration;

use chrono_tz::Tz;

use crate::core::planner::Sweep;
use crate::core::watermark::Delays;

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
