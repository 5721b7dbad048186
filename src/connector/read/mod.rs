//! Reading: windows of the API, read whole, whose rows go to the writer.
//!
//! | file | holds |
//! |---|---|
//! | `poller` | the loop of one unit's polls: what a poll plans, and the pause after it |
//! | `unit_poll` | one poll: which windows are read whole, which page by page, and which in shorter ones |
//! | `poll_progress` | what of a poll counts as read, and how far the unit has come by it |
//! | `poll_report` | what is told of a poll |
//! | `pending_window` | a window that is being published, beside the read of the next one |
//! | `merger` | the windows of units that catch up, published in the order of time over all of them |
//! | `sweeper`, `backfiller` | a unit's slower re-reads, and the past periods that an operator asked for |
//! | `plan` | a read as it was planned |
//! | `paged_read` | one window read page by page; each page is published as it comes |
//! | `whole_read`, `whole` | one window read whole before it is published; its rows and their order |
//! | `doubt` | whether a window is believed |
//! | `scroll` | one pass over a window's pages |
//! | `ahead` | pages on their way: how many, made ready meanwhile, put together for transactions |
//! | `fetch` | one request, with patience |
//! | `poll_timer` | how often units are polled |
//! | `priority` | older reads wait for live ones |
//! | `clocks` | the local clock and the source's |
//! | `unit` | what the readers of one unit share |
//! | `read_error` | why a read was given up |

pub(crate) mod ahead;
pub(crate) mod backfiller;
mod clocks;
mod doubt;
pub(crate) mod fetch;
pub(crate) mod merger;
mod paged_read;
mod pending_window;
mod plan;
mod poll_progress;
mod poll_report;
pub(crate) mod poll_timer;
pub(crate) mod poller;
pub(crate) mod priority;
mod read_error;
pub(crate) mod scroll;
pub(crate) mod sweeper;
pub(crate) mod unit;
mod unit_poll;
mod whole;
mod whole_read;

use std::time::Duration;

use chrono_tz::Tz;

use crate::core::planner::Sweep;
use crate::core::shape::Belief;
use crate::core::time::UtcMillis;
use crate::core::watermark::Delays;

/// How the connector polls.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The longest time from one poll of a unit that reads the overlap to the next.
    pub interval: Duration,
    /// Where the budget decides how often units are polled: how many requests a minute it has. Else it is `interval`.
    pub poll_budget: Option<u32>,
    /// The longest window read at once.
    pub window_max: Duration,
    /// How far a leg lies behind the newest at the most, unless it is marked late; `None` where no order is promised.
    pub behind_max: Option<Duration>,
    /// From one request to the next, as the budget of requests has it.
    pub request_every: Duration,
    /// How many rows a page is asked for.
    pub page_rows: usize,
    /// How many rows a window has at most that is read whole.
    pub window_rows: u64,
    /// How far the server's clock may be from ours before the watermarks wait.
    pub clock_tolerance: Duration,
    /// The zone of the query's bounds.
    pub time_zone: Tz,
    /// Settle, overlap and horizon.
    pub delays: Delays,
    /// Slower re-reads.
    pub sweeps: Vec<Sweep>,
    /// When a window that was read whole is believed.
    pub belief: Belief,
}

impl Pace {
    /// Whether so much is to be read that the unit catches up, and its polls are not live.
    pub(crate) fn is_behind(&self, complete_to: UtcMillis, bound: UtcMillis) -> bool {
        bound.since(complete_to) > self.delays.settle + self.interval * 2
    }
}
