//! call-legs: polls the 8x8 Work Analytics call-legs API and publishes every call leg to Kafka.
//!
//! # The flow
//!
//! ```text
//!                  ┌──────────────────────── connector ───────────────────────────┐
//!                  │  read, for each unit:         write, one for all units:      │
//!   8x8 API ──▶ source: plan ─▶ fetch ─▶ rows ─▶ request ─▶ decide ─▶ commit ───▶ sink ──▶ Kafka:
//!   (or sandbox)   │                      │                   ▲         │         │       legs, dead letters,
//!                  │                    codec                 │         ▼         │       status, journal:
//!                  │                                         view ◀── apply       │       one transaction
//!                  │                                          ▲                   │
//!                  │         stand by ─▶ take over ─▶ fold ───┴───────────────── sink ◀── journal
//!                  │  orders ───────────────────────────────▶ write               │
//!                  └──────────────────────────────────────────────────────────────┘
//!   clock, telemetry (metrics, status, logs) ──▶ admin port ◀── operators' orders
//!                └─ metrics, traces ─▶ a collector, where one is configured
//! ```
//!
//! # Where to find what
//!
//! | module | holds |
//! |---|---|
//! | [`core`] | what is decided: windows, watermarks, paging, identity, dedupe, the journal's records and what they add up to. Pure |
//! | [`connector`] | the flow: `read` has one poller, sweeper and backfiller for each unit, `write` one writer for all, `orders` what an operator asks; the only place that knows all adapters |
//! | [`source`] | the 8x8 API: HTTP, token, errors turned into advice, JSON turned into rows |
//! | [`sink`] | Kafka: producers, committed records, topics, a reader for `tail` |
//! | [`store`] | the view of the journal, in sled; the state directory's lock, number and token |
//! | [`codec`] | Avro: schemas, encoding, framing, the schema registry, decoding for `tail`; the journal's and the feed's bytes |
//! | [`audit`] | the API and the topic compared leg by leg, for the command |
//! | [`telemetry`], [`admin`] | metrics, status, logs, traces; the port that shows them and takes orders |
//! | [`config`] | file and environment, checked as a whole |
//! | [`daemon`], [`cli`], [`error`] | the parts put together, the commands, the exit codes |
//! | [`sandbox`] | the simulated API, for the demo and the tests |
//! | [`http`] | the HTTP client of the source, the schema registry and the commands |
//! | [`oauth`] | tokens by client credentials, for Kafka and the schema registry |
//! | [`panics`] | what is told of a defect |
//! | [`hooks`] | where tests reach in; nothing in a release build |
//!
//! # What holds, and where
//!
//! `docs/design.md` has the design, its reasons and the invariants that the tests cite.
//!
//! - Kafka has everything: the view may be deleted at any instant ([`store`]).
//! - Legs, dead letters, page, progress and status are one transaction, in which the page waits for its legs and
//!   progress is the journal's last; the view is told after the commit (`connector::write::transaction`).
//! - Nothing is published between a producer's init and the end of the read-back (`connector::write::takeover`).
//! - Any answer but a clean one drops the producer; nothing is ever aborted by us (`connector::write::owner`).
//! - No transaction waits for HTTP: what goes into one is in memory before it begins.
//! - Nothing in [`core`] reads a clock, draws a random number, does I/O or waits.
//! - Adapters know [`core`] and their own library, never one another. JSON of the API stays in `source::wire`,
//!   librdkafka in [`sink`], sled in [`store`], `apache_avro` in [`codec`].
//! - Every row ends in exactly one of the counts of [`core::dedupe::Counts`], a replayed dead letter in one more.
//! - No log line, error, page or span holds a secret, or anything of a row.
//! - Nothing but the commands and the tests knows [`sandbox`].
//!
//! # A leg's way
//!
//! The poller of its unit plans a poll (`connector::read::poller`): what is new, then the overlap; or everything from the
//! final watermark on, where the unit is behind ([`core::planner`]); how often it does so may follow from the budget of
//! requests ([`core::poll_pace`]). A window becomes a query ([`core::query`]), whose pages
//! are fetched with patience ([`source`], `connector::read::fetch`) until the scroll ends ([`core::pagination`],
//! `connector::read::scroll`). Each page is made ready in a task of its own
//! (`connector::rows::prepare`): its rows are parsed ([`source::wire`]), hashed ([`core::identity`]) and encoded
//! ([`codec`]). A window that was read whole is put into the order of time (`connector::read::whole`); those of units that
//! catch up are merged ([`core::merge`], `connector::read::merger`). The rows go to the writer
//! (`connector::write::request`), which asks the view what it knows
//! ([`store`]), decides ([`core::chunk`]), and commits what is new with the identities, the unit's
//! progress and its status in one transaction ([`sink`]); then the view is told. [`core::shape`] says whether a window is
//! believed, [`core::poll`] what counts as read, and [`core::course`] how polls go on behind what does not. The watermarks
//! move ([`core::watermark`]) with a window's last rows, or in a transaction of their own.
//!
//! # A crash's way
//!
//! Whatever the instant, the open transaction is fenced and aborted by the next start's init, or it
//! had come through as a whole. The next start claims the journal, reads it to its own claim, folds
//! it ([`core::ledger`]) into the view, reads the topics of legs from where the journal accounts for
//! them, adopts what the journal does not know, and polls from the final watermark; what was
//! published is known, whatever became of the state directory.

#![cfg_attr(
    test,
    allow(clippy::excessive_nesting, clippy::too_many_lines, reason = "a test is one story, told from its beginning")
)]

pub mod admin;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connector;
pub mod core;
pub mod daemon;
pub mod error;
pub mod hooks;
pub mod http;
pub mod oauth;
pub mod panics;
pub mod sandbox;
pub mod sink;
pub mod source;
pub mod store;
pub mod telemetry;
