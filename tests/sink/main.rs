//! The sink against a real Apache Kafka: what its producers, readers and questions do on their own, below the connector.
//!
//! | module | shows |
//! |---|---|
//! | `transactions` | what is visible after a commit, an abort, a fencing; what an open transaction hides; a broker that goes away |
//! | `writing` | places, at-least-once, refusals for content, how long a commit takes |
//! | `reading` | stretches: their ends, what they leave out, what is no longer kept |
//! | `topics` | what the topics are created with, and which are refused |
//! | `rig` | topics of a test's own on a cluster, and messages for them |

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test, and where")]
#![expect(clippy::print_stdout, reason = "how long things take is worth reading, and too different to be asserted")]

#[path = "../support/mod.rs"]
mod support;

mod reading;
mod rig;
mod topics;
mod transactions;
mod writing;
