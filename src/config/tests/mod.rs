//! The configuration as a whole: what is read, what is refused in which words, what is never shown.

mod example;
mod reading;
mod redaction;
mod refusals;

use super::{Config, ConfigError};

/// Everything that is required, and nothing else.
const MINIMAL: &str = r#"
[source]
api_key = "k"
username = "u"
password = "p"
[kafka]
bootstrap_servers = "kafka:9092"
[avro]
schema_registry_url = "http://localhost:8081"
[state]
dir = "/tmp/state"
"#;

/// The required settings as variables.
const MINIMAL_ENVIRONMENT: [(&str, &str); 6] = [
    ("CALL_LEGS_SOURCE__API_KEY", "k"),
    ("CALL_LEGS_SOURCE__USERNAME", "u"),
    ("CALL_LEGS_SOURCE__PASSWORD", "p"),
    ("CALL_LEGS_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092"),
    ("CALL_LEGS_AVRO__SCHEMA_REGISTRY_URL", "http://localhost:8081"),
    ("CALL_LEGS_STATE__DIR", "/tmp/state"),
];

/// No variables.
const NONE: [(&str, &str); 0] = [];

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse("c.toml", text, variables.iter().copied())
}

/// The minimal file with `lines` added, each `section.key = value` as TOML's dotted keys have it.
///
/// The lines come first, so that theirs are the line numbers from 1.
fn minimal_with(lines: &str) -> String {
    let mut text = format!("{lines}\n");
    for line in MINIMAL_DOTTED {
        let key_and_equals = &line[..=line.find('=').unwrap()];
        if !lines.lines().any(|given| given.starts_with(key_and_equals)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

const MINIMAL_DOTTED: [&str; 6] = [
    "source.api_key = \"k\"",
    "source.username = \"u\"",
    "source.password = \"p\"",
    "kafka.bootstrap_servers = \"kafka:9092\"",
    "avro.schema_registry_url = \"http://localhost:8081\"",
    "state.dir = \"/tmp/state\"",
];
