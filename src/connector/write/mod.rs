//! Writing: one writer for all units, which does one step after the other.
//!
//! | file | holds |
//! |---|---|
//! | `request` | what readers ask, the two queues, what they see of the writer |
//! | `steps`, `publish`, `backfills` | the steps: progress, rows, backfills |
//! | `writer` | the writer itself: opening, beats, release, the status of units |
//! | `batch` | rows to messages: looked up, decided about by `core::chunk`, put together |
//! | `transaction`, `hourly` | what goes into one transaction, in which order; the hours that a sweep has compared |
//! | `owner`, `recover` | who may write: standing by, the session; what follows from a fault |
//! | `takeover`, `claim` | claim, read-back; the records by which a process owns the journal |
//! | `follower` | the journal read and folded, the view kept up to date |
//! | `measure` | what status and metrics show of it |

pub(crate) mod backfills;
pub(crate) mod batch;
pub(crate) mod claim;
pub(crate) mod follower;
pub(crate) mod hourly;
pub(crate) mod measure;
pub(crate) mod owner;
pub(crate) mod publish;
pub(crate) mod recover;
pub(crate) mod request;
pub(crate) mod steps;
pub(crate) mod takeover;
pub(crate) mod transaction;
pub(crate) mod writer;
