//! The example file holds every key with its default, and nothing else.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::*;
use crate::config::EXAMPLE;

/// The documented keys.
const CONTRACT: &[&str] = &[
    "source.base_url",
    "source.api_key",
    "source.api_key_file",
    "source.username",
    "source.password",
    "source.password_file",
    "source.pbx_ids",
    "source.time_zone",
    "source.page_size",
    "source.time_basis",
    "source.simplified",
    "source.callers",
    "source.callees",
    "source.callers_or_callees",
    "source.request_timeout",
    "source.requests_per_minute",
    "source.max_body",
    "source.ca_file",
    "poll.interval",
    "poll.overlap",
    "poll.settle",
    "poll.max_window",
    "poll.clock_tolerance",
    "poll.start_from",
    "sweeps",
    "freshness.objective",
    "policy.revisions",
    "privacy.drop",
    "privacy.hash",
    "privacy.mask",
    "privacy.key",
    "privacy.key_file",
    "dead_letter.max_ratio",
    "dead_letter.raw",
    "kafka.bootstrap_servers",
    "kafka.topic",
    "kafka.partitions",
    "kafka.replication_factor",
    "kafka.timestamp",
    "kafka.delivery",
    "kafka.journal",
    "kafka.beat",
    "kafka.sasl_password",
    "kafka.sasl_password_file",
    "kafka.oauth.token_url",
    "kafka.oauth.client_id",
    "kafka.oauth.client_secret",
    "kafka.oauth.client_secret_file",
    "kafka.oauth.scope",
    "kafka.oauth.ca_file",
    "kafka.oauth.extensions",
    "kafka.topic_config",
    "kafka.properties",
    "avro.framing",
    "avro.schema_registry_url",
    "avro.schema_registry_username",
    "avro.schema_registry_password",
    "avro.schema_registry_password_file",
    "avro.schema_registry_token",
    "avro.schema_registry_token_file",
    "avro.schema_registry_ca_file",
    "avro.schema_registry_certificate_file",
    "avro.schema_registry_key_file",
    "avro.oauth.token_url",
    "avro.oauth.client_id",
    "avro.oauth.client_secret",
    "avro.oauth.client_secret_file",
    "avro.oauth.scope",
    "avro.oauth.ca_file",
    "avro.register",
    "state.dir",
    "state.horizon",
    "admin.listen",
    "admin.token",
    "admin.token_file",
    "log.level",
    "log.format",
    "telemetry.otlp_endpoint",
];

/// What the example leaves to the operator.
const TO_BE_SET: [(&str, &str); 4] = [
    ("CALL_LEGS_SOURCE__API_KEY", "k"),
    ("CALL_LEGS_SOURCE__USERNAME", "u"),
    ("CALL_LEGS_SOURCE__PASSWORD", "p"),
    ("CALL_LEGS_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092"),
];

/// Keys without a default that the example sets to a placeholder.
const PLACEHOLDERS: [(&str, &str); 2] =
    [("CALL_LEGS_AVRO__SCHEMA_REGISTRY_URL", "http://localhost:8081"), ("CALL_LEGS_STATE__DIR", "/var/lib/call-legs")];

/// The example with every commented-out key in force; prose has a space behind its `#`, and an editor's directive a colon.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with([' ', ':']) => format!("{key}\n"),
        _ => format!("{line}\n"),
    };
    EXAMPLE.lines().map(line).collect()
}

#[test]
fn the_example_with_the_required_settings_is_the_defaults() {
    let example = parse(EXAMPLE, &TO_BE_SET).unwrap();
    let defaults = Config::parse("", "", TO_BE_SET.into_iter().chain(PLACEHOLDERS)).unwrap();
    let values = |config: &Config| -> Vec<_> {
        config.settings().iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect()
    };
    assert_eq!(values(&example), values(&defaults));
    assert!(example.warnings().is_empty());
}

#[test]
fn the_example_sets_every_key_that_has_a_default() {
    let example = parse(EXAMPLE, &TO_BE_SET).unwrap();
    for setting in example.settings().iter().filter(|setting| setting.origin == "default") {
        // The journal's name follows the topic's.
        let is_open =
            matches!(setting.value.as_str(), "not set" | "the broker's default") || setting.key == "kafka.journal";
        assert!(is_open, "{setting:?}");
    }
}

#[test]
fn the_example_mentions_every_key_of_the_contract_and_no_other() {
    let table: Table = uncommented().parse().unwrap();
    let mentioned: BTreeSet<String> = table
        .iter()
        .flat_map(|(section, keys)| match keys.as_table() {
            Some(keys) => keys.iter().flat_map(|(key, value)| keys_of(section, key, value)).collect(),
            // An array of tables is one key.
            None => vec![section.clone()],
        })
        .collect();
    let contract: BTreeSet<String> = CONTRACT.iter().map(|&key| key.to_owned()).collect();
    assert_eq!(mentioned, contract);
}

/// Of a table of keys each; of one whose names are free the table.
fn keys_of(section: &str, key: &str, value: &Value) -> Vec<String> {
    match value.as_table().filter(|_| key == "oauth") {
        Some(keys) => keys.keys().map(|name| format!("{section}.{key}.{name}")).collect(),
        None => vec![format!("{section}.{key}")],
    }
}

#[test]
fn the_commented_keys_are_known_and_their_examples_right() {
    // All of them at once gives each secret twice, which is all there is to say.
    let error = parse(&uncommented(), &[]).unwrap_err();
    let secrets = [
        "source.api_key",
        "source.password",
        "privacy.key",
        "kafka.sasl_password",
        "kafka.oauth.client_secret",
        "avro.schema_registry_password",
        "avro.schema_registry_token",
        "avro.oauth.client_secret",
        "admin.token",
    ];
    assert_eq!(error.problems().len(), secrets.len(), "{error}");
    for (problem, secret) in error.problems().iter().zip(secrets) {
        assert!(problem.starts_with(&format!("{secret} (")) && problem.ends_with("both given: keep one"), "{problem}");
    }
}
