//! What operators run call-legs with, as their own tools see it: alert rules, manifests, the unit of systemd, the compose file.
//!
//! | module | shows |
//! |---|---|
//! | `alerts` | that the rules are right, that none fires in ordinary life, and that each can fire |
//! | `decoding` | that whatever is published is decoded by consumers' Avro libraries |
//! | `demo` | the demo at a terminal, in a pipe, without a Kafka that answers |
//! | `deployment` | that manifests, unit and compose file are valid, and the configurations within them are read |
//! | `links` | that every link of the documents leads to a file or heading that is there |
//! | `examples` | that what `config/examples` repeats is what it was taken from |
//! | `tools` | promtool, systemd-analyze and Python's validators, or one sentence about what to install |
//!
//! That the dashboard shows something takes a connector at work: `tests/kafka/dashboard.rs`.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test, and where")]

mod alerts;
mod decoding;
mod demo;
mod deployment;
mod examples;
mod links;
mod tools;
