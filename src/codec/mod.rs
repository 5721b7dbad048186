//! Avro out, and back in: what a message's value is made of.
//!
//! ```text
//!   Leg + Ingest ──encode──▶ datum ──framing──▶ message value       (the daemon)
//!   message value ──framing──▶ datum ──decode──▶ JSON               (tail, demo)
//!                    registry: schema ⇄ id, for the framing that wants one
//! ```
//!
//! The schema itself is `schemas/call-leg.avsc`; it is part of the program and not read at run
//! time. Nothing here knows Kafka, the API's JSON or when a thing is published.

pub mod decode;
pub mod encode;
pub mod framing;
pub mod registry;
pub mod schema;

#[cfg(test)]
mod mock_registry;
#[cfg(test)]
mod sample;

pub use decode::{DecodeError, Decoder};
pub use encode::{EncodeError, LegEncoder};
pub use framing::{Framed, Framing, FramingError};
pub use registry::{Registry, RegistryError};
pub use schema::PublishedSchema;
