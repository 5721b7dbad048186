//! What keeps the owner from owning: decided once, here, carried as a value.
//!
//! | recovery | what follows |
//! |---|---|
//! | wait | a pause with jitter, then the same from the beginning |
//! | view | the view is emptied and built anew from the journal |
//! | stand by | another process owns the journal |
//! | fatal | one sentence, and the end |

use tokio::task::JoinError;

use crate::core::ledger::Inconsistency;
use crate::panics;
use crate::sink::SinkError;
use crate::store::StoreError;

/// Why a step of owning the journal failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Kafka is away, busy, or must be mended by an operator.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The view cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal cannot be right.
    #[error(transparent)]
    Journal(#[from] JournalFault),
    /// What became of our own transaction is unknown: start over.
    #[error("{0}")]
    Doubtful(String),
    /// Another process owns the journal.
    #[error("another process owns the journal")]
    Yielded,
    /// A unit was never read, and nothing says where to start.
    #[error("unit {0} has no start")]
    NoStart(String),
    /// A defect: a worker ended by a panic.
    #[error("{0}")]
    Worker(String),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
}

impl From<JoinError> for Fault {
    /// Without the words of the panic, which may hold a piece of a row.
    fn from(ended: JoinError) -> Self {
        Self::Worker(format!("a worker has ended: {}", panics::why(&ended)))
    }
}

/// What cannot be mended by waiting, in a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalFault {
    /// Its records do not continue each other.
    #[error(
        "kafka.journal: the journal is damaged: {what}. It cannot be told what was published: restore the topic, or delete journal and status and rebuild them from the legs with call-legs state adopt"
    )]
    Inconsistent {
        /// What is wrong.
        what: Inconsistency,
    },
    /// A record of it cannot be read.
    #[error(
        "kafka.journal: the record at offset {offset} cannot be read: {reason}. Use the version of call-legs that wrote it, or a newer one"
    )]
    Unreadable {
        /// Where.
        offset: i64,
        /// Why.
        reason: String,
    },
    /// The topic has no partition.
    #[error("kafka.journal: the topic is gone while the connector runs: it was deleted")]
    Gone,
    /// The brokers have lost what they had acknowledged.
    #[error(
        "kafka.journal: the view in state.dir knows page {view}, the journal ends with page {journal}: Kafka has lost records that it had acknowledged. Find out how far (call-legs state show); to go on with what Kafka has, delete state.dir, and legs of the lost pages that are still in the topic are adopted"
    )]
    ViewAhead {
        /// The view's newest page.
        view: u64,
        /// The journal's.
        journal: u64,
    },
    /// The same, told by the position alone.
    #[error(
        "kafka.journal: the view in state.dir has read up to offset {view}, the journal ends at {journal}: Kafka has lost records that it had acknowledged, or the topic was deleted and created again. Find out which (call-legs state show); to go on with what Kafka has, delete state.dir"
    )]
    ViewBeyond {
        /// The view's position.
        view: i64,
        /// The journal's end.
        journal: i64,
    },
    /// It was written on another cluster.
    #[error(
        "kafka.journal: the journal was begun on the cluster {journal}, and this is the cluster {here}: a copied or mirrored journal does not say what was published here. Point kafka.bootstrap_servers to the right cluster, or delete journal and status here and rebuild them with call-legs state adopt"
    )]
    OtherCluster {
        /// The journal's cluster.
        journal: String,
        /// The cluster that was reached.
        here: String,
    },
    /// The legs' topic is not the one that the journal speaks of.
    #[error(
        "topic {topic}: partition {partition} ends at {end}, but the journal has published up to {known}: the topic was deleted and created again, or truncated. To go on with the topic as it is: call-legs state accept; to publish again what is lost, after that: call-legs state rewind --unit U --to T"
    )]
    OutShrunk {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where it ends now.
        end: i64,
        /// Where it ended.
        known: i64,
    },
    /// There is no journal, but legs.
    #[error(
        "kafka.journal: the journal is empty, but topic {topic} is not: it is unknown what of it this connector has published. To rebuild the journal from the legs' own headers (also when another connector has filled the topic): call-legs state adopt"
    )]
    JournalMissing {
        /// The topic that is not empty.
        topic: String,
    },
    /// Other settings decide which legs the source shows.
    #[error(
        "source: time_basis, simplified or the filters have changed since unit {unit} was last read, so what was read covers something else. To go on from here with the new settings: call-legs state accept --unit {unit}; to read again from an instant on: call-legs state rewind --unit {unit} --to T"
    )]
    SourceChanged {
        /// The unit.
        unit: String,
    },
    /// Exactly once was asked for, or recorded, and is not to be had.
    #[error("kafka.delivery: {0}")]
    NoTransactions(String),
}

/// What ends the connector; everything else it works through.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Kafka does not answer, or refuses.
    #[error(transparent)]
    Sink(SinkError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(StoreError),
    /// The journal cannot be right, or an operator has to decide.
    #[error(transparent)]
    Journal(JournalFault),
    /// A unit was never read, and the configuration does not say where to start.
    #[error("poll.start_from: unit {0} has never been read: say where to start, for example start_from = \"now-24h\"")]
    NoStart(String),
    /// An order could not be carried out.
    #[error(transparent)]
    Order(OrderError),
    /// Another instance is at work.
    #[error(
        "another instance owns the journal and is at work: {owner}, whose admin port is {admin}. Give the order there, or stop it first"
    )]
    OwnerAlive {
        /// The owner's host name.
        owner: String,
        /// Where its admin port listens.
        admin: String,
    },
    /// A defect: a worker ended by a panic.
    #[error("a worker ended unexpectedly: {0}")]
    Worker(String),
}

impl From<Fault> for ConnectorError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sink(error) => Self::Sink(error),
            Fault::Store(error) => Self::Store(error),
            Fault::Journal(fault) => Self::Journal(fault),
            Fault::NoStart(unit) => Self::NoStart(unit),
            other => Self::Worker(other.to_string()),
        }
    }
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// The owner could not go on.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;

    /// Stands for any text, as in the tables of docs/operate.md; the digit 7 stands for any number.
    const ANY: &str = "…";

    fn any() -> String {
        ANY.to_owned()
    }

    /// An example of each, with the variants of [`JournalFault`] in their order.
    fn all() -> Vec<ConnectorError> {
        let path = || PathBuf::from(ANY);
        let journal = [
            JournalFault::Inconsistent { what: Inconsistency::Chain(7) },
            JournalFault::Unreadable { offset: 7, reason: any() },
            JournalFault::Gone,
            JournalFault::ViewAhead { view: 7, journal: 7 },
            JournalFault::ViewBeyond { view: 7, journal: 7 },
            JournalFault::OtherCluster { journal: any(), here: any() },
            JournalFault::OutShrunk { topic: any(), partition: 7, end: 7, known: 7 },
            JournalFault::JournalMissing { topic: any() },
            JournalFault::SourceChanged { unit: any() },
            JournalFault::NoTransactions(any()),
        ];
        let store = [
            StoreError::Io { doing: "create", path: path(), source: io::ErrorKind::PermissionDenied.into() },
            StoreError::InUse { path: path(), pid: Some(7) },
            StoreError::Broken { path: path(), reason: any() },
            StoreError::Damaged { path: path(), reason: any() },
            StoreError::Hangs { path: path() },
        ];
        let others = [ConnectorError::NoStart(any()), ConnectorError::OwnerAlive { owner: any(), admin: any() }];
        let journal = journal.into_iter().map(ConnectorError::Journal);
        journal.chain(store.into_iter().map(ConnectorError::Store)).chain(others).collect()
    }

    #[test]
    fn the_operators_page_says_what_to_do_about_each_end() {
        const PAGE: &str = include_str!("../../docs/operate.md");
        let rows = PAGE.lines().filter(|line| line.starts_with("| "));
        let quoted: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
        for error in all() {
            let said = error.to_string().replace('7', ANY);
            let is_said = |words: &&str| words.len() > 15 && said.contains(words.trim_end_matches([' ', '…']));
            assert!(quoted.iter().any(is_said), "docs/operate.md should have a row for: {said}");
        }
    }
}
