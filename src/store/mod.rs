//! The view: the journal's entries where they are found fast, in sled, and nothing that Kafka does not have.
//!
//! ```text
//!   commit ──▶ Kafka has it ──▶ apply ──▶ the view has it, stamped with the journal's position
//! ```
//!
//! It may be deleted, damaged or old at any time: what is missing is read from the journal again.
//! What is in it and when it is written is decided elsewhere.

mod databases;
mod instance;
mod lock;
mod packed;
mod sled_view;
#[cfg(test)]
mod tests;

pub use instance::{Instance, Token};
pub use lock::StateLock;
pub use sled_view::SledView;

use std::future::Future;
use std::path::PathBuf;

use crate::core::dedupe::Seen;
use crate::core::identity::KeyHash;
use crate::core::journal::{Page, Seq};
use crate::core::ledger::{Head, Ledger};

/// An entry as it is remembered; whether it still counts is [`Ledger::is_live`]'s to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// What is known of the leg or dead row.
    pub seen: Seen,
    /// The page it was on.
    pub seq: Seq,
    /// The unit it was read for.
    pub unit: String,
    /// The unit's generation then.
    pub generation: u32,
}

/// The view of the journal, or a simulation of it.
pub trait View: Send + Sync + 'static {
    /// What was applied last, whole and consistent; `None` when there is nothing, or nothing usable.
    fn load(&self) -> impl Future<Output = Result<Option<Ledger>, StoreError>> + Send;

    /// What is remembered of each key, in the order of the keys; where a key is on several pages, the newest.
    fn find(&self, keys: Vec<KeyHash>) -> impl Future<Output = Result<Vec<Option<Remembered>>, StoreError>> + Send;

    /// Remembers the pages' entries, then the head, then forgets what the head no longer needs.
    ///
    /// Returns when it is durable. A crash in between leaves the old head, with which the same may be
    /// applied again. Applying the same page twice changes nothing.
    fn apply(&self, pages: Vec<Page>, head: Head) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Empties the view.
    fn wipe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Every entry, for the comparison with the journal; in any order.
    fn all(&self) -> impl Future<Output = Result<Vec<(KeyHash, Remembered)>, StoreError>> + Send;
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("state.dir: cannot {doing} {}: {source}", path.display())]
    Io {
        /// A verb.
        doing: &'static str,
        /// What it was about.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// Another process works there.
    #[error("state.dir: {} is in use by another call-legs{}: stop it, or give this one a directory of its own", path.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who, if it could be read.
        pid: Option<u32>,
    },
    /// sled cannot read its own files, or lost the disk; the view is to be wiped.
    #[error("state.dir: the store in {} cannot be used: {reason}", path.display())]
    Broken {
        /// The database's directory.
        path: PathBuf,
        /// In sled's words.
        reason: String,
    },
    /// sled does not come back from opening its files; they are deleted, and only a new process is rid of it.
    #[error("state.dir: sled hangs while it opens {}, which was deleted: start again", path.display())]
    Hangs {
        /// The database's directory.
        path: PathBuf,
    },
}
