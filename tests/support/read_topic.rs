//! What a foreign consumer finds in a topic: `ReadTopic.java` with the Java client and Java Avro, run from its source file.
//!
//! It shows what others will read. It shares no code with the connector, so an error made both in writing and in reading
//! cannot hide.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{directories, leash, maven};

/// A few seconds of Java, then some hundred thousand messages.
const READ_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// Java gives up first: it knows how far it came.
const END_WAIT_MAX: Duration = Duration::from_secs(11 * 60);
const HEAP_MB_MAX: u32 = 256;

/// How the values of a topic are framed.
#[derive(Clone, Copy, Debug)]
pub enum Framing<'a> {
    /// Zero, a schema id, Avro; schemas come from the registry with this base URL.
    Confluent {
        /// As of `Registry::url`.
        registry: &'a str,
    },
    /// Avro's single-object encoding of one of the schemas in these `.avsc` files.
    SingleObject {
        /// All schemas that occur in the topic.
        schemas: &'a [&'a Path],
    },
    /// Anything: values come back as hexadecimal digits.
    Raw,
}

/// Which messages of transactions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed ones, up to the first open one.
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// All messages that a topic holds now, by partition and offset. The head of `ReadTopic.java` lists an object's members.
///
/// # Panics
///
/// When the topic does not exist, a message cannot be decoded to its last byte, or Java cannot be run.
#[track_caller]
pub fn read_topic_with_java(bootstrap: &str, topic: &str, framing: Framing<'_>, isolation: Isolation) -> Vec<Value> {
    match read(bootstrap, topic, framing, isolation) {
        Ok(messages) => messages,
        Err(error) => panic!("cannot read the topic {topic} of {bootstrap} with Java: {error}"),
    }
}

fn read(bootstrap: &str, topic: &str, framing: Framing<'_>, isolation: Isolation) -> Result<Vec<Value>, String> {
    let mut java = maven::java_command(HEAP_MB_MAX)?;
    java.arg("-cp").arg(maven::KAFKA.directory()?.join("*")).arg(maven::support_file("ReadTopic.java"));
    java.args(["--bootstrap", bootstrap, "--topic", topic, "--time-max-s", &READ_TIME_MAX.as_secs().to_string()]);
    if isolation == Isolation::ReadUncommitted {
        java.arg("--read-uncommitted");
    }
    match framing {
        Framing::Confluent { registry } => {
            java.args(["--registry", registry]);
        }
        Framing::SingleObject { schemas } => {
            for schema in schemas {
                java.arg("--schema").arg(schema);
            }
        }
        Framing::Raw => {
            java.arg("--raw");
        }
    }
    let directory = directories::scratch("read-topic")?;
    let messages = run(&java, &directory);
    let _ = fs::remove_dir_all(&directory);
    messages
}

fn run(java: &Command, directory: &Path) -> Result<Vec<Value>, String> {
    let log = directories::log_file("read-topic")?;
    let path = directory.join("messages.json");
    let output = File::create(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
    let status = leash::run(java, output, directories::open_log(&log)?, END_WAIT_MAX)
        .map_err(|error| format!("{error}; {}", directories::last_words(&log)))?;
    if !status.success() {
        return Err(format!("ReadTopic.java failed ({status}); {}", directories::last_words(&log)));
    }
    let lines = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let messages = lines.lines().map(|line| {
        serde_json::from_str(line).map_err(|error| format!("ReadTopic.java printed what is not JSON ({error}): {line}"))
    });
    messages.collect()
}
