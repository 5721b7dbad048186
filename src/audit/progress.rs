//! How far an audit has come, and why it has no answer.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::codec::DecodeError;
use crate::connector::ConnectorError;
use crate::core::words::count;
use crate::sink::SinkError;
use crate::source::SourceError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The period cannot be compared.
    #[error("{0}")]
    Period(String),
    /// The API refuses, or does not answer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Kafka refuses, or does not answer.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] ConnectorError),
    /// Nothing was ever published.
    #[error("kafka.journal: {0} holds no journal: nothing was published yet that could be compared")]
    NoJournal(String),
    /// The registry does not give the schema of a record.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// How much was read, for whoever waits.
#[derive(Debug, Default)]
pub struct Progress {
    records: AtomicU64,
    rows: AtomicU64,
    windows_read: AtomicU64,
    windows: AtomicU64,
    waiting_for: Mutex<Option<String>>,
}

impl Progress {
    pub(super) fn add_records(&self, count: usize) {
        self.records.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn add_rows(&self, count: usize) {
        self.rows.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn expect_windows(&self, count: usize) {
        self.windows.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn end_window(&self) {
        self.windows_read.fetch_add(1, Ordering::Relaxed);
    }

    /// The share that is done, between 0 and 1: mostly requests to the API are waited for.
    pub fn share(&self) -> f64 {
        let (read, all) = (self.windows_read.load(Ordering::Relaxed), self.windows.load(Ordering::Relaxed));
        read as f64 / all.max(1) as f64
    }

    pub(super) fn wait_for(&self, what: Option<String>) {
        // A text is whole at every instant.
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// How much was read, and what is waited for.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (records, rows) = (self.records.load(Ordering::Relaxed), self.rows.load(Ordering::Relaxed));
        write!(f, "{} of Kafka and {} of the API read", count(records, "record"), count(rows, "row"))?;
        let (read, all) = (self.windows_read.load(Ordering::Relaxed), self.windows.load(Ordering::Relaxed));
        if all > 0 {
            write!(f, "; {read} of {} compared", count(all, "window"))?;
        }
        match &*self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(what) => write!(f, "; waiting: {what}"),
            None => Ok(()),
        }
    }
}
