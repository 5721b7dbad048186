//! The connector as users run it, the real binary against a real Apache Kafka and the simulated API.
//!
//! | module | shows |
//! |---|---|
//! | `records` | what arrives in Kafka, read by Java: fields, keys, partitions, headers, both framings, dead letters |
//! | `faults` | that nothing is lost or repeated: a faulty API, Kafka and the API away, kills and restarts |
//! | `crash` | the crash matrix: kills at every step of a transaction, four ways to come back |
//! | `backfill` | past periods that an operator asks for |
//! | `dead_letters` | dead letters told of and replayed, with kills, twice, forgotten and in doubt |
//! | `long_past` | a long past, read beside live legs while its owner is killed |
//! | `odd_rows` | rows that are odd in a field: what of them is published, and that none holds the rest |
//! | `late` | legs that turn up late: overlap, sweeps, what is measured of them |
//! | `odd_pages` | an API whose pages are odd: rows that are no JSON, texts for numbers, no cursor, a byte order mark |
//! | `judged` | an API that shows rubbish, or the same old page, for a while: it is not believed, and nothing is lost |
//! | `cost` | how many requests and rows it takes: a long and sparse past, an API that refuses long windows, kills, a long overlap |
//! | `order` | the order of a catch-up, as a Kafka Streams job sees it |
//! | `days_late` | legs up to three days late, on scaled time |
//! | `ownership` | two instances, a paused owner, state directories that are lost, damaged, old or foreign |
//! | `state` | what operators can ask of the journal, and what is refused until they decide |
//! | `journals`, `write_journals` | that this build reads what earlier ones have written, and goes on with it |
//! | `audit` | that the audit finds a run equal, and every damage done to it |
//! | `dashboard` | every panel of the dashboard, and the alert rules, by a Prometheus that watches a run |
//! | `commands` | `check`, `tail`, `schema`, the exit codes, health and readiness, the log level |
//! | `status_page`, `browser` | what an operator sees of each state: the page, in a browser, the command, the log |
//! | `secrecy` | that nothing that is logged, shown or said holds a secret or anything of a row |
//! | `privacy` | a privacy policy: no topic tells what it treats, and its changes revise nothing |
//! | `downstream` | the example of a consumer, which tells quiet phones from an API or a connector that is down |
//! | `examples` | the other examples of consumers: `alarm.py`, Flink SQL, Spark |
//! | `secured` | a Kafka with TLS, SCRAM and client certificates; what keeps the connector out, and how it gets in again |
//! | `tokens` | a Kafka that takes OAuth tokens, over several of their lives; what keeps the connector out |
//! | `https` | TLS to the source and the schema registry, by an authority of one's own |
//! | `odd_http` | an API whose statuses, headers and token replies are odd, or those of a gateway |
//! | `allowed` | the least that a user of Kafka must be allowed, and what is said where it is not |
//! | `otlp` | traces and metrics as a collector gets them, and one that goes away |
//! | `soak` | kills at random, for as long as one likes |
//! | `watch` | for how long readers wait for what is in a topic |
//! | `arrivals` | how fresh live legs are when a consumer has them |
//! | `front` | a server before the sandbox, which answers itself what a test wants it to |
//! | `rig` | a sandbox, a topic of its own, a configuration and the child process, for all of them |

#![allow(clippy::excessive_nesting, clippy::too_many_lines, reason = "a test is one story, told from its beginning")]
#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test, and where")]

#[path = "../support/mod.rs"]
mod support;

mod allowed;
mod arrivals;
mod audit;
mod backfill;
mod browser;
mod commands;
mod cost;
mod crash;
mod dashboard;
mod days_late;
mod dead_letters;
mod downstream;
mod examples;
mod faults;
mod front;
mod https;
mod journals;
mod judged;
mod late;
mod long_past;
mod odd_http;
mod odd_pages;
mod odd_rows;
mod order;
mod otlp;
mod ownership;
mod privacy;
mod records;
mod rig;
mod secrecy;
mod secured;
mod soak;
mod state;
mod status_page;
mod tokens;
mod watch;
mod write_journals;
