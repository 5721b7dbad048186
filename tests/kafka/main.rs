//! The connector as users run it, the real binary against a real Apache Kafka and the simulated API.
//!
//! | module | shows |
//! |---|---|
//! | `records` | what arrives in Kafka, read by Java: fields, keys, partitions, headers, both framings, dead letters |
//! | `faults` | that nothing is lost or repeated: a faulty API, Kafka and the API away, kills and restarts |
//! | `commands` | `check`, `tail`, `schema`, the exit codes, health and readiness |
//! | `rig` | a sandbox, a topic of its own, a configuration and the child process, for all of them |

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test, and where")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod faults;
mod records;
mod rig;
