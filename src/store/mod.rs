//! What the connector remembers between polls: published identities and each unit's progress.
//!
//! The store keeps and finds; what is kept when, and what it means, is decided elsewhere.

mod lock;
mod sled_store;

pub use lock::StateLock;
pub use sled_store::SledStore;

use std::path::PathBuf;

use crate::core::dedupe::Seen;
use crate::core::identity::KeyHash;
use crate::core::time::UtcMillis;
use crate::core::watermark::Progress;

/// An identity to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of the leg or of the dead row.
    pub key: KeyHash,
    /// The instant by which it is forgotten: its disconnect time, brought into the window it was read in.
    pub at: UtcMillis,
    /// What is known of it.
    pub seen: Seen,
}

/// The store, or a simulation of it. All calls block; those that write return when it is durable.
pub trait Store: Send + Sync + 'static {
    /// What is remembered of each key, in the order of the keys.
    fn seen(&self, keys: &[KeyHash]) -> Result<Vec<Option<Seen>>, StoreError>;

    /// Remembers entries, replacing what is known of the same keys.
    fn remember(&self, entries: &[Entry]) -> Result<(), StoreError>;

    /// How far a unit has come, `None` when it never started.
    fn progress(&self, unit: &str) -> Result<Option<Progress>, StoreError>;

    /// Stores how far a unit has come.
    fn set_progress(&self, unit: &str, progress: &Progress) -> Result<(), StoreError>;

    /// Forgets identities below `floor`; whole days only, so some stay longer.
    fn forget_below(&self, floor: UtcMillis) -> Result<(), StoreError>;
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
    /// Written by another version.
    #[error("state.dir: {} has layout {found}, and this version reads layout {expected}: use the version that wrote it", path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// The layout found.
        found: String,
        /// The layout known.
        expected: &'static str,
    },
    /// sled cannot read its own files, or lost the disk.
    #[error("state.dir: the store in {} cannot be used: {reason}", path.display())]
    Broken {
        /// The database's directory.
        path: PathBuf,
        /// In sled's words.
        reason: String,
    },
}
