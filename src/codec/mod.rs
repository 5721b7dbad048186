//! Avro out, and back in: what a message's value is made of.
//!
//! ```text
//!   Leg + Ingest ──encode──▶ datum ──framing──▶ message value       (the daemon)
//!   message value ──framing──▶ datum ──decode──▶ JSON               (tail, demo)
//!                    registry: schema ⇄ id, for the framing that wants one
//! ```
//!
//! The status of a unit goes the leg's way ([`feed`]); the journal's records are private and framed
//! with their fingerprint always ([`journal`]). The schemas are those in `schemas/`; they are part of
//! the program and not read at run time. Nothing here knows Kafka, the API's JSON or when a thing is
//! published.

mod datum;
pub mod decode;
pub mod encode;
pub mod feed;
pub mod framing;
pub mod journal;
pub mod registry;
pub mod schema;
mod values;

#[cfg(test)]
mod mock_registry;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod sample;

pub use decode::{DecodeError, Decoder};
pub use encode::{EncodeError, LegEncoder};
pub use feed::FeedEncoder;
pub use framing::{Framed, Framing, FramingError};
pub use journal::{JournalCodec, JournalDecodeError};
pub use registry::{Registry, RegistryError};
pub use schema::PublishedSchema;
