//! The view: the journal's entries where they are found fast, and nothing that Kafka does not have.
//!
//! ```text
//!   commit ──▶ Kafka has it ──▶ apply ──▶ the view has it, stamped with the journal's position
//! ```
//!
//! It may be deleted, damaged or old at any time: what is missing is read from the journal again.
//! What is in it and when it is written is decided elsewhere.
//!
//! All of it lies in sled. Ten million entries take some 50 bytes of disk each, and their filters 23 MiB of memory:
//!
//! | module | holds |
//! |---|---|
//! | [`sled_view`] | the view: opening with care, and what happens when the files cannot be used |
//! | [`files`], [`apply`] | what there is and how it is asked; how it changes |
//! | [`database`] | a sled database, opened and written with care |
//! | [`head`] | what changes with every apply: one batch, all or nothing |
//! | [`recent`] | the newest entries in memory |
//! | [`slice`] | older entries, in sled trees that never change, and why few of them have to be read |
//! | [`packed`] | bytes and checksums |
//! | [`disk`] | how files refuse, and how they are listed, synced and deleted |
//! | [`instance`], [`lock`] | the state directory's number, token and lock |

mod apply;
mod database;
mod disk;
mod files;
mod head;
mod instance;
mod lock;
mod packed;
mod recent;
mod sled_view;
mod slice;
#[cfg(test)]
mod tests;

pub use instance::{Instance, Token};
pub use lock::StateLock;
pub use sled_view::SledView;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

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
    pub unit: Arc<str>,
    /// The unit's generation then.
    pub generation: u32,
}

/// The view of the journal, or a simulation of it.
pub trait View: Send + Sync + 'static {
    /// What was applied last, whole and consistent; `None` when there is nothing, or nothing usable.
    fn load(&self) -> impl Future<Output = Result<Option<Ledger>, StoreError>> + Send;

    /// What is remembered of each key, in the order of the keys; where a key is on several pages, the newest.
    fn find(&self, keys: Vec<KeyHash>) -> impl Future<Output = Result<Vec<Option<Remembered>>, StoreError>> + Send;

    /// Remembers the pages' entries and the head at once, then forgets what the head no longer needs.
    ///
    /// Returns when it is durable. A crash before that leaves the old head, with which the same may be
    /// applied again. Applying the same page twice changes nothing.
    fn apply(&self, pages: Vec<Page>, head: Head) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Empties the view.
    fn wipe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The entries whose keys follow `after`, in the order of the keys, for the comparison with the journal:
    /// so many at once as memory allows, and none only at the end.
    fn entries_after(
        &self,
        after: Option<KeyHash>,
    ) -> impl Future<Output = Result<Vec<(KeyHash, Remembered)>, StoreError>> + Send;
}

impl StoreError {
    /// Whether the store may be emptied and tried again: nothing is lost by it, and a full disk is full for a while.
    pub fn is_waited_for(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Broken { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge),
            Self::InUse { .. }
            | Self::OthersDirectory { .. }
            | Self::Damaged { .. }
            | Self::OtherLayout { .. }
            | Self::Hangs { .. } => false,
        }
    }
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
    /// This is root, and the files are another user's, who could not open what root writes.
    #[error(
        "state.dir: {} belongs to the user with the id {user}, who could not open what root writes there: run this command as that user, for example with sudo -u '#{user}'", path.display()
    )]
    OthersDirectory {
        /// The directory.
        path: PathBuf,
        /// The owner's id.
        user: u32,
    },
    /// The files are not what was written, or the disk is lost; the view is to be wiped.
    #[error("state.dir: the store in {} cannot be used: {reason}", path.display())]
    Broken {
        /// The store's directory.
        path: PathBuf,
        /// In words for a log line.
        reason: String,
    },
    /// The same, for those who only compare it with the journal: it was left as it is.
    #[error(
        "state.dir: the store in {} is damaged: {reason}. Nothing is lost: the next start builds it anew from the journal, as call-legs state rebuild does now", path.display()
    )]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// Another version has written the files, for those who only compare them with the journal.
    #[error("state.dir: the store in {} was written by another version: the next start builds it anew from the journal", path.display())]
    OtherLayout {
        /// The store's directory.
        path: PathBuf,
    },
    /// sled does not come back from opening its files; they are deleted, and only a new process is rid of it.
    #[error("state.dir: sled hangs while it opens {}, which was deleted: start again", path.display())]
    Hangs {
        /// The store's directory.
        path: PathBuf,
    },
}
