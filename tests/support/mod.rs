//! The real parts for the integration tests: an Apache Kafka broker, a schema registry and a Java consumer, each provided on
//! a machine that has Rust, a JDK (17 or later) and Maven.
//!
//! | ask for | what is used, in this order |
//! |---|---|
//! | `kafka::kafka()` | `CALL_LEGS_TEST_KAFKA` (bootstrap servers); Docker, if its daemon answers; Kafka's jars from Maven Central |
//! | `kafka::Kafka::start_private()` | Kafka's jars: a broker of the test's own, which it may kill, stop, pause and start again |
//! | `secured::Secured::start()` | Kafka's jars: a broker with TLS, SCRAM, client certificates and an authorizer |
//! | `secured::by_tokens()` | Kafka's jars: a broker that takes the tokens of an `issuer::Issuer`, by OAUTHBEARER |
//! | `tls_front::start()` | TLS before a server that speaks none |
//! | `registry::registry()` | `CALL_LEGS_TEST_REGISTRY` (base URL); Apicurio Registry from Maven Central |
//! | `read_topic::read_topic_with_java()` | `ReadTopic.java`: what a consumer that shares no code with us finds in a topic |
//! | `late_records::late_records()` | `LateRecords.java`: how many records come too late for a Kafka Streams job |
//! | `example::abandoned_calls()` | Kafka's jars: the program of `config/examples/abandoned-calls`, compiled and run |
//! | `example::alarm()` | Python with what `config/examples/requirements.txt` names from PyPI: `config/examples/alarm.py` |
//! | `example::flink()`, `example::spark()` | Flink from Maven Central, Spark from PyPI: `config/examples/alarm.sql`, `spark.py` |
//!
//! A shared part starts once in a test process, when it is first asked for, and ends with that process, even one that is
//! killed. Jars, data and logs live below cargo's `target/tmp/real-parts/`; nothing is installed. The first run downloads
//! about 70 MB for Kafka and 120 MB for the registry.
//!
//! What cannot be provided ends the test process with one sentence that says what was tried and what to install; nothing is
//! skipped in silence.

#![allow(dead_code, unreachable_pub, reason = "each test binary compiles this module and uses its own part of it")]

use std::io::Write;
use std::time::Duration;

/// The longest that a test waits for anything. Far longer than anything takes, also on a busy machine; whoever waits says for
/// what.
pub const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Ends the test process with one sentence, past the harness, which would repeat it for every test.
pub fn no_test_can_run(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "\nNO TEST OF THIS SUITE IS JUDGED, for want of a real part: {why}");
    std::process::exit(101)
}

pub mod broker;
pub mod certificates;
mod container;
mod directories;
pub mod example;
pub mod issuer;
pub mod kafka;
pub mod late_records;
mod leash;
mod maven;
mod ports;
pub mod python;
pub mod read_topic;
pub mod registry;
pub mod secured;
pub mod tls_front;
