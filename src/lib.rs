//! call-legs: polls the 8x8 Work Analytics call-legs API and publishes every call leg to Kafka.
//!
//! # The flow
//!
//! ```text
//!                 ┌────────────────────── connector ──────────────────────┐
//!                 │  per unit:  plan ─▶ fetch      one for all units:      │
//!   8x8 API ──▶ source ─────────────────▶ classify ─▶ encode ─▶ publish ─▶ sink ──▶ Kafka
//!   (or sandbox)  │                          ▲          │         │        │
//!                 │                          │        codec       ▼        │
//!                 │                        store ◀─────────── commit       │
//!                 └────────────────────────────────────────────────────────┘
//!   clock, telemetry (metrics, status, logs) ──▶ admin port
//! ```
//!
//! # Where to find what
//!
//! | module | holds |
//! |---|---|
//! | [`core`] | what is decided: windows, watermarks, paging, identity, dedupe, retries. Pure |
//! | [`connector`] | the flow: one poller a unit, one publisher for all; the only place that knows all adapters |
//! | [`source`] | the 8x8 API: HTTP, token, errors turned into advice, JSON turned into rows |
//! | [`store`] | what is remembered, in sled; the lock on the state directory |
//! | [`codec`] | Avro: the schema, encoding, framing, the schema registry, decoding for `tail` |
//! | [`sink`] | Kafka: producer, topics, a reader for `tail` |
//! | [`telemetry`], [`admin`] | metrics, status, logs; the port that shows them |
//! | [`config`] | file and environment, checked as a whole |
//! | [`daemon`], [`cli`], [`error`] | the parts put together, the commands, the exit codes |
//! | [`sandbox`] | the simulated API, for the demo and the tests |
//!
//! # What holds, and where
//!
//! - Nothing in [`core`] reads a clock, draws a random number, does I/O or waits.
//! - Adapters know [`core`] and their own library, never one another. JSON stays in `source::wire`,
//!   librdkafka in [`sink`], sled in [`store`], `apache_avro` in [`codec`].
//! - Only [`connector::Publisher`] writes to sink and store: first Kafka's acknowledgement, then the
//!   identities, then, when a window was read whole, its watermark.
//! - Every row ends in exactly one of the counts of [`core::dedupe::Counts`].
//! - No log line, error or page holds a secret, or anything of a row.
//! - Nothing but the commands and the tests knows [`sandbox`].
//!
//! # A leg's way
//!
//! The poller of its unit plans a poll: from the final watermark to now, cut into pieces
//! ([`core::planner`]). A piece becomes a query ([`core::query`]), whose pages are fetched one ahead
//! ([`source`]) until the scroll ends ([`core::pagination`]). The publisher parses the page's rows
//! ([`source::wire`]), asks the store what it knows ([`store`]), decides ([`core::dedupe`]), encodes
//! what is new ([`codec`]), sends it and waits for the acknowledgements ([`sink`]), and remembers it.
//! At the end of the piece the watermarks move ([`core::watermark`]).
//!
//! # A crash's way
//!
//! Before the acknowledgement: the leg is neither remembered nor below a watermark, and is read and
//! sent again. Between acknowledgement and flush: the same, and it is in Kafka twice. Between flush
//! and watermark: it is read again and dropped as a duplicate. After: it is not read again but for
//! the overlap.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connector;
pub mod core;
pub mod daemon;
pub mod error;
pub mod sandbox;
pub mod sink;
pub mod source;
pub mod store;
pub mod telemetry;
