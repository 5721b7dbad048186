//! What Kafka must allow the connector's user, and nothing beyond it. The tests hold this list against Kafka's own
//! authorizer; the command `kafka acls` prints it.

use super::topics;

/// A resource of Kafka and what has to be allowed on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What kind of resource it is.
    pub resource: Resource,
    /// Its name, literally.
    pub name: String,
    /// The operations, with the names that Kafka's protocol gives them, such as `DESCRIBE_CONFIGS`.
    pub operations: Vec<&'static str>,
}

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic,
    /// The id by which producers of transactions are told apart.
    TransactionalId,
}

/// What a connector needs that writes to the topic `legs` with this `journal`; `CREATE` only where the topics are not there.
/// `DESCRIBE` comes with these, and no group needs any right.
pub fn rights(legs: &str, journal: &str) -> Vec<Right> {
    let topic = |name: String, reads: bool| {
        let reads = if reads { Some("READ") } else { None };
        let operations = reads.into_iter().chain(["WRITE", "DESCRIBE_CONFIGS", "CREATE"]).collect();
        Right { resource: Resource::Topic, name, operations }
    };
    vec![
        topic(legs.to_owned(), true),
        topic(topics::dead_letters(legs), true),
        topic(journal.to_owned(), true),
        topic(topics::status(legs), false),
        Right {
            resource: Resource::TransactionalId,
            name: super::cluster::transactional_id(journal),
            operations: vec!["WRITE"],
        },
    ]
}
