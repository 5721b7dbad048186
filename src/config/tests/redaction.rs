//! No message, no debug output and no effective setting shows a secret; no message shows any value.

use proptest::prelude::*;

use super::*;
use crate::config::keys;
use crate::config::layer::Merged;
use crate::config::reader::Reader;

const VALUE: &str = "hunter2";

fn known_keys() -> Vec<String> {
    let (merged, problems) = Merged::new([]);
    let mut reader = Reader::new(merged, problems);
    let _ = keys::sections(&mut reader, true);
    reader.known().to_vec()
}

/// Neither an error nor a warning shows the value.
#[track_caller]
fn assert_silent(text: &str, variables: &[(&str, &str)]) {
    match parse(text, variables) {
        Ok(config) => assert!(!config.warnings().join("\n").contains(VALUE), "{:?}", config.warnings()),
        Err(error) => {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(VALUE), "{shown}");
            assert!(error.problems().iter().all(|problem| !problem.contains('\n')), "{shown}");
        }
    }
}

#[test]
fn no_message_shows_a_value_whatever_its_key_and_type() {
    for key in known_keys().into_iter().chain(["nonesuch.key".to_owned(), "kafka.properties.acks".to_owned()]) {
        for value in [
            "\"hunter2\"",
            "\" hunter2,hunter2 \"",
            "\"hunter2\\nhunter2\"",
            "[\"hunter2\", \"hunter2\"]",
            "[\"hunter2\", 1]",
            "[[\"hunter2\"]]",
            "[{ a = \"hunter2\" }]",
            "\"https://hunter2:hunter2@hunter2/?hunter2#hunter2\"",
            "\"hunter2=hunter2=hunter2\"",
            "\"[hunter2\"",
        ] {
            assert_silent(&minimal_with(&format!("{key} = {value}")), &[]);
            let variable = format!("CALL_LEGS_{}", key.replace('.', "__").to_ascii_uppercase());
            let plain = value.trim_matches('"').replace("\\n", "\n");
            assert_silent(MINIMAL, &[(&variable, &plain)]);
        }
    }
}

#[test]
fn what_is_read_correctly_is_not_shown_either() {
    let config = parse(
        &minimal_with(
            r#"source.api_key = "hunter2"
source.password = "hunter2"
source.username = "hunter2"
source.callers = ["hunter2"]
source.callees = ["hunter2", "hunter2"]
kafka.sasl_password = "hunter2"
kafka.properties."ssl.key.password" = "hunter2"
kafka.properties."sasl.jaas.config" = "hunter2"
kafka.properties."sasl.passwrd" = "hunter2"
kafka.properties."no.such.thing" = "hunter2"
kafka.properties."sasl.username" = "plain"
avro.schema_registry_username = "plain"
avro.schema_registry_password = "hunter2""#,
        ),
        &[],
    )
    .unwrap();
    let settings = config.settings();
    let shown = format!("{config:?} {settings:?}");
    assert!(!shown.contains(VALUE), "{shown}");
    let value = |key: &str| settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str());
    assert_eq!(value("source.api_key"), Some("set"));
    assert_eq!(value("source.username"), Some("set"));
    assert_eq!(value("source.callers"), Some("1 value"));
    assert_eq!(value("source.callees"), Some("2 values"));
    assert_eq!(value("kafka.properties.ssl.key.password"), Some("set"));
    assert_eq!(value("kafka.properties.sasl.passwrd"), Some("set"));
    assert_eq!(value("kafka.properties.sasl.username"), Some("plain"));
    assert_eq!(value("avro.schema_registry_password"), Some("set"));
}

#[test]
fn the_effective_settings_are_complete_and_in_the_documented_order() {
    let config = parse(
        &minimal_with("source.api_key_file = \"/run/key\"\nkafka.properties.linger.ms = 5")
            .replace("source.api_key = \"k\"\n", ""),
        &[],
    )
    .unwrap();
    let shown: Vec<_> =
        config.settings().iter().map(|setting| format!("{} = {}", setting.key, setting.value)).collect();
    assert_eq!(
        shown,
        [
            "source.base_url = https://api.8x8.com/analytics/work",
            "source.api_key = from file /run/key",
            "source.username = set",
            "source.password = set",
            "source.pbx_ids = allpbxes",
            "source.time_zone = UTC",
            "source.page_size = 1000",
            "source.time_basis = disconnect",
            "source.simplified = false",
            "source.callers = none",
            "source.callees = none",
            "source.callers_or_callees = none",
            "source.request_timeout = 30s",
            "source.requests_per_minute = 60",
            "source.max_body = 64MiB",
            "source.ca_file = not set",
            "poll.interval = 2m",
            "poll.overlap = 30m",
            "poll.settle = 1m",
            "poll.max_window = 31d",
            "poll.clock_tolerance = 60s",
            "poll.start_from = not set",
            "sweeps = every 1h 6h back, every 6h 24h back, every 24h 7d back",
            "freshness.objective = 5m",
            "policy.revisions = ignore",
            "privacy.drop = none",
            "privacy.hash = none",
            "privacy.key = not set",
            "dead_letter.max_ratio = 0.05",
            "dead_letter.raw = false",
            "kafka.bootstrap_servers = kafka:9092",
            "kafka.topic = call-legs",
            "kafka.partitions = 6",
            "kafka.replication_factor = the broker's default",
            "kafka.timestamp = disconnect",
            "kafka.delivery = auto",
            "kafka.journal = call-legs.journal",
            "kafka.beat = 10s",
            "kafka.sasl_password = not set",
            "kafka.oauth.token_url = not set",
            "kafka.oauth.client_id = not set",
            "kafka.oauth.client_secret = not set",
            "kafka.oauth.scope = not set",
            "kafka.oauth.ca_file = not set",
            "kafka.properties.linger.ms = 5",
            "avro.framing = confluent",
            "avro.schema_registry_url = http://localhost:8081",
            "avro.schema_registry_username = not set",
            "avro.schema_registry_password = not set",
            "avro.schema_registry_token = not set",
            "avro.oauth.token_url = not set",
            "avro.oauth.client_id = not set",
            "avro.oauth.client_secret = not set",
            "avro.oauth.scope = not set",
            "avro.oauth.ca_file = not set",
            "avro.schema_registry_ca_file = not set",
            "avro.schema_registry_certificate_file = not set",
            "avro.schema_registry_key_file = not set",
            "avro.register = true",
            "state.dir = /tmp/state",
            "state.horizon = 8d",
            "admin.listen = 127.0.0.1:9464",
            "admin.token = not set",
            "log.level = info",
            "log.format = text",
            "telemetry.otlp_endpoint = not set",
        ]
    );
}

proptest! {
    /// The parser's messages are its own words, wherever the syntax breaks.
    #[test]
    fn no_syntax_error_quotes_the_file(
        before in "[\\[\\]{}=\"'.,#\\\\ \n a-f0-9_:T+-]{0,12}",
        after in "[\\[\\]{}=\"'.,#\\\\ \n a-f0-9_:T+-]{0,12}",
    ) {
        for value in ["0xhunter2", "1979hunter2", "trhunter2", "\\uhunter2", "hunter2"] {
            let text = format!("x = {before}{value}{after}");
            if let Err(error) = Config::parse("c.toml", &text, NONE)
                && error.to_string().contains("not valid TOML")
            {
                prop_assert!(!error.to_string().contains("hunter2"), "{}", error);
                prop_assert_eq!(error.to_string().lines().count(), 1);
            }
        }
    }
}

#[test]
fn a_secret_in_a_file_that_everybody_may_read_is_warned_of() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("call-legs.toml"), dir.path().join("key"));
    std::fs::write(&key, "hunter2").unwrap();
    let in_files = format!("source.api_key_file = {key:?}\nsource.password_file = {key:?}\n");
    let minimal = minimal_with("");
    let without = minimal.replace("source.api_key = \"k\"\n", "").replace("source.password = \"p\"\n", "") + &in_files;
    let warnings = |text: &str, mode: u32, variables: &[(&str, &str)]| {
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Config::load(Some(&path), variables.iter().copied()).unwrap().warnings().to_vec()
    };
    for mode in [0o644, 0o604, 0o664, 0o777] {
        let said = warnings(&minimal, mode, &[]);
        let expected = format!("{} holds a secret, source.api_key, and every user", path.display());
        assert!(matches!(&said[..], [said] if said.starts_with(&expected) && said.contains("chmod o-r ")), "{said:?}");
    }
    for mode in [0o600, 0o640, 0o660] {
        assert_eq!(warnings(&minimal, mode, &[]), [""; 0], "{mode:o}");
    }
    assert_eq!(warnings(&without, 0o644, &[]), [""; 0], "the secrets are in files of their own");
    let variable = [("CALL_LEGS_ADMIN__TOKEN", "hunter2")];
    assert_eq!(warnings(&without, 0o644, &variable), [""; 0], "the secret is in the environment");
    for setting in [
        "admin.token = \"hunter2\"",
        "kafka.sasl_password = \"hunter2\"",
        "kafka.properties.\"ssl.key.password\" = \"hunter2\"",
        "kafka.properties.\"sasl.passwrd\" = \"hunter2\"",
    ] {
        let said = warnings(&format!("{setting}\n{without}"), 0o644, &[]);
        assert!(matches!(&said[..], [said] if !said.contains("hunter2")), "{setting}: {said:?}");
    }
}

#[test]
fn a_client_of_a_token_endpoint_shows_neither_secret_nor_extensions() {
    let config = parse(
        &minimal_with(
            r#"kafka.properties."security.protocol" = "sasl_ssl"
kafka.properties."sasl.mechanism" = "OAUTHBEARER"
kafka.oauth.token_url = "https://issuer.example/token"
kafka.oauth.client_id = "plain"
kafka.oauth.client_secret = "hunter2"
kafka.oauth.extensions.logicalCluster = "hunter2""#,
        ),
        &[],
    )
    .unwrap();
    let settings = config.settings();
    let shown = format!("{config:?} {settings:?}");
    assert!(!shown.contains(VALUE), "{shown}");
    let value = |key: &str| settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str());
    assert_eq!(value("kafka.oauth.client_id"), Some("plain"));
    assert_eq!(value("kafka.oauth.client_secret"), Some("set"));
    assert_eq!(value("kafka.oauth.extensions.logicalCluster"), Some("set"));
}
