//! What is read from the file and the environment, and as what.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::config::{Credentials, Delivery, Framing, LogFormat, MessageTimestamp, SignIn, StartFrom};
use crate::core::leg::TimeBasis;

#[test]
fn defaults_fill_what_is_not_given() {
    let config = parse(MINIMAL, &[]).unwrap();
    assert_eq!(config.source.base_url.as_str(), "https://api.8x8.com/analytics/work/");
    assert_eq!(config.source.pbx_ids, ["allpbxes"]);
    assert_eq!(config.source.time_zone, chrono_tz::UTC);
    assert_eq!(config.source.page_size, 1000);
    assert_eq!(config.source.time_basis, TimeBasis::Disconnect);
    assert!(!config.source.simplified);
    assert!(config.source.callers.is_empty() && config.source.callees.is_empty());
    assert!(config.source.callers_or_callees.is_empty());
    assert_eq!(config.source.request_timeout, Duration::from_secs(30));
    assert_eq!(config.source.requests_per_minute, 60);
    assert_eq!(config.source.max_body, 64 << 20);
    assert_eq!(config.source.ca_file, None);
    assert_eq!(config.poll.interval, crate::config::PollInterval::Every(Duration::from_secs(120)));
    assert_eq!(config.poll.overlap, Duration::from_secs(1800));
    assert_eq!(config.poll.settle, Duration::from_secs(60));
    assert_eq!(config.poll.max_window, Duration::from_secs(31 * 86_400));
    assert_eq!(config.poll.clock_tolerance, Duration::from_secs(60));
    assert_eq!(config.poll.start_from, None);
    assert_eq!(config.kafka.bootstrap_servers, ["kafka:9092"]);
    assert_eq!(config.kafka.topic, "call-legs");
    assert_eq!(config.kafka.partitions, 6);
    assert_eq!(config.kafka.replication_factor, None);
    assert_eq!(config.kafka.timestamp, MessageTimestamp::Disconnect);
    assert_eq!(config.kafka.delivery, Delivery::Auto);
    assert!(config.kafka.sasl_password.is_none());
    assert!(config.kafka.topic_config.is_empty() && config.kafka.properties.is_empty());
    let Framing::Confluent(registry) = &config.avro.framing else { panic!("{:?}", config.avro.framing) };
    assert_eq!(registry.url.as_str(), "http://localhost:8081/");
    assert!(registry.register && registry.sign_in.is_none() && registry.ca_file.is_none());
    assert_eq!(config.state_dir().unwrap().to_str(), Some("/tmp/state"));
    assert_eq!(config.state.horizon, Duration::from_secs(8 * 86_400));
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Text));
    assert!(config.warnings().is_empty());
}

#[test]
fn the_environment_alone_is_enough_and_wins_over_the_file() {
    let alone = Config::load(None, MINIMAL_ENVIRONMENT).unwrap();
    assert_eq!(alone.source.page_size, 1000);

    let config = parse(
        &minimal_with("source.page_size = 5\nsource.time_basis = \"connect\""),
        &[("CALL_LEGS_SOURCE__PAGE_SIZE", "7"), ("CALL_LEGS_POLL__OVERLAP", "12h")],
    )
    .unwrap();
    assert_eq!(config.source.page_size, 7);
    assert_eq!(config.source.time_basis, TimeBasis::Connect);
    let origin = |key: &str| config.settings().iter().find(|setting| setting.key == key).unwrap().origin.as_str();
    assert_eq!(origin("source.page_size"), "CALL_LEGS_SOURCE__PAGE_SIZE");
    assert_eq!(origin("source.time_basis"), "c.toml, line 2");
    assert_eq!(origin("source.simplified"), "default");
}

#[test]
fn variables_without_two_underscores_belong_to_others() {
    let config = parse(
        MINIMAL,
        &[
            ("CALL_LEGS_SERVICE_HOST", "10.0.0.1"),
            ("CALL_LEGS_PORT_9464_TCP_ADDR", "10.0.0.1"),
            ("CALL_LEGS_CONFIG", "/etc/call-legs.toml"),
            ("CALL_LEGS__LEADING", "one of the two underscores is the prefix's"),
            ("SOURCE__PAGE_SIZE", "0"),
            ("call_legs_SOURCE__PAGE_SIZE", "0"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.unwrap().source.page_size, 1000);
}

#[test]
fn variables_that_are_not_utf_8_matter_only_when_they_are_ours() {
    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let with = |name: &[u8], value: &[u8]| Config::parse("c.toml", MINIMAL, [(bytes(name), bytes(value))]);
    assert!(with(b"LANG\xff", b"x").is_ok());
    assert!(with(b"LANG", b"\xff").is_ok());
    assert!(with(b"CALL_LEGS_OTHER", b"\xff").is_ok());
    let message = |name, value| with(name, value).unwrap_err().to_string();
    assert_eq!(
        message(b"CALL_LEGS_SOURCE__USERNAME", b"hunter2\xff"),
        "source.username (from CALL_LEGS_SOURCE__USERNAME) is not UTF-8 text"
    );
    assert_eq!(
        message(b"CALL_LEGS_SOURCE__PAGE\xff", b"hunter2"),
        "the name of the variable CALL_LEGS_SOURCE__PAGE\u{fffd} is not UTF-8 text"
    );
}

#[test]
fn texts_from_the_environment_stay_texts() {
    let config = parse(
        MINIMAL,
        &[
            ("CALL_LEGS_SOURCE__PASSWORD", "0123"),
            ("CALL_LEGS_SOURCE__API_KEY", "true"),
            ("CALL_LEGS_SOURCE__USERNAME", "[1]"),
            ("CALL_LEGS_KAFKA__TOPIC", "2024"),
            ("CALL_LEGS_SOURCE__CALLERS", "0101,true"),
            ("CALL_LEGS_KAFKA__PROPERTIES__SASL__USERNAME", "007"),
            ("CALL_LEGS_STATE__DIR", "1e3"),
        ],
    )
    .unwrap();
    assert_eq!(config.source.password.read().unwrap().expose_secret(), "0123");
    assert_eq!(config.source.api_key.read().unwrap().expose_secret(), "true");
    assert_eq!(*config.source.username, "[1]");
    assert_eq!(config.kafka.topic, "2024");
    assert_eq!(*config.source.callers, ["0101", "true"]);
    assert_eq!(config.kafka.properties["sasl.username"], "007");
    assert_eq!(config.state_dir().unwrap().to_str(), Some("1e3"));
}

#[test]
fn lists_from_the_environment_come_in_two_forms() {
    for (text, expected) in [
        ("a", vec!["a"]),
        ("a,b", vec!["a", "b"]),
        (" a , b c ", vec!["a", "b c"]),
        (r#"["a","b"]"#, vec!["a", "b"]),
        (r#" [ "a", 'b,'[0:0] ]"#, vec![]),
        (r#"["[a]"]"#, vec!["[a]"]),
    ] {
        let read = parse(MINIMAL, &[("CALL_LEGS_SOURCE__PBX_IDS", text)]);
        match expected.as_slice() {
            [] => assert!(read.is_err()),
            expected => assert_eq!(read.unwrap().source.pbx_ids, expected),
        }
    }
    let none = parse(&minimal_with("source.callers = [\"1\"]"), &[("CALL_LEGS_SOURCE__CALLERS", "")]).unwrap();
    assert!(none.source.callers.is_empty());
    let brokers = parse(&minimal_with("kafka.bootstrap_servers = [\"a:1\", \"b\"]"), &[]).unwrap();
    assert_eq!(brokers.kafka.bootstrap_servers, ["a:1", "b"]);
}

/// A broker as librdkafka takes it: by a name, an address of either kind, that of a link, with a port or without.
fn any_broker() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-z][a-z0-9-]{0,8}(\\.[a-z]{1,5})?",
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}%eth0.1]")),
    ];
    (host, proptest::option::of(1_u16..)).prop_map(|(host, port)| match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

proptest! {
    #[test]
    fn brokers_are_named_in_any_way_and_any_order(
        brokers in proptest::collection::vec(any_broker(), 1..4),
        space in "[ ]{0,2}",
    ) {
        let commas = format!("{space}{}{space}", brokers.join(&format!("{space},{space}")));
        let array = format!("{brokers:?}");
        let files = [format!("kafka.bootstrap_servers = {commas:?}"), format!("kafka.bootstrap_servers = {array}")];
        for file in files {
            prop_assert_eq!(&parse(&minimal_with(&file), &[]).unwrap().kafka.bootstrap_servers, &brokers);
        }
        for variable in [commas, array] {
            let read = parse(MINIMAL, &[("CALL_LEGS_KAFKA__BOOTSTRAP_SERVERS", &variable)]);
            prop_assert_eq!(&read.unwrap().kafka.bootstrap_servers, &brokers);
        }
    }
}

#[test]
fn properties_are_quoted_nested_or_from_the_environment() {
    let config = parse(
        &format!(
            "{MINIMAL}
[kafka.properties]
\"security.protocol\" = \"sasl_ssl\"
\"linger.ms\" = 20
\"socket.keepalive.enable\" = true
\"queue.buffering.max.ms\" = 0.5
\"sasl.username\" = \"overridden\"
log_level = 3
[kafka.properties.sasl]
mechanism = \"PLAIN\"
[kafka.topic_config]
retention.ms = -1
\"cleanup.policy\" = \"delete\"
"
        ),
        &[
            ("CALL_LEGS_KAFKA__PROPERTIES__SASL__USERNAME", "me"),
            ("CALL_LEGS_KAFKA__PROPERTIES__CLIENT.ID", "dots are fine too"),
            ("CALL_LEGS_KAFKA__TOPIC_CONFIG__CLEANUP__POLICY", "delete"),
        ],
    )
    .unwrap();
    let properties: Vec<_> =
        config.kafka.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        properties,
        [
            ("client.id", "dots are fine too"),
            ("linger.ms", "20"),
            ("log_level", "3"),
            ("queue.buffering.max.ms", "0.5"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "me"),
            ("security.protocol", "sasl_ssl"),
            ("socket.keepalive.enable", "true"),
        ]
    );
    assert_eq!(config.kafka.topic_config["retention.ms"], "-1");
    assert_eq!(config.kafka.topic_config["cleanup.policy"], "delete");
}

#[test]
fn every_other_choice_is_read() {
    let config = parse(
        &minimal_with(
            r#"source.base_url = "http://[::1]:8080"
source.api_key_file = "/run/key"
source.pbx_ids = ["A", "B"]
source.time_zone = "Europe/London"
source.page_size = 7_000
source.simplified = true
source.callers = ["1"]
source.callees = ["2"]
source.max_body = 1048576
source.ca_file = "ca.pem"
poll.settle = "0s"
poll.start_from = 2026-01-01T00:00:00Z
kafka.replication_factor = 3
kafka.timestamp = "publish"
kafka.delivery = "at-least-once"
kafka.sasl_password = "x"
avro.schema_registry_username = "r"
avro.schema_registry_password_file = "/run/r"
avro.register = false
log.level = "warn,call_legs=debug"
log.format = "json""#,
        )
        .replace("source.api_key = \"k\"\n", ""),
        &[],
    )
    .unwrap();
    assert_eq!(config.source.base_url.as_str(), "http://[::1]:8080/");
    assert_eq!(config.source.api_key.to_string(), "from file /run/key");
    assert_eq!(config.source.pbx_ids, ["A", "B"]);
    assert_eq!(config.source.time_zone, chrono_tz::Europe::London);
    assert_eq!(config.source.page_size, 7000);
    assert!(config.source.simplified);
    assert_eq!((config.source.callers[0].as_str(), config.source.callees[0].as_str()), ("1", "2"));
    assert_eq!(config.source.max_body, 1 << 20);
    assert_eq!(config.poll.settle, Duration::ZERO);
    assert!(matches!(config.poll.start_from, Some(StartFrom::At(at)) if at.as_millis() == 1_767_225_600_000));
    assert_eq!(config.kafka.replication_factor, Some(3));
    assert_eq!(config.kafka.timestamp, MessageTimestamp::Publish);
    assert_eq!(config.kafka.delivery, Delivery::AtLeastOnce);
    let Framing::Confluent(registry) = &config.avro.framing else { panic!("{:?}", config.avro.framing) };
    assert!(matches!(&registry.sign_in, Some(SignIn::Basic(Credentials { username, .. })) if username == "r"));
    assert!(!registry.register);
    assert_eq!(config.log.format, LogFormat::Json);

    let plain =
        parse(&minimal_with("avro.framing = \"single-object\"\nkafka.delivery = \"exactly-once\""), &[]).unwrap();
    assert!(matches!(plain.avro.framing, Framing::SingleObject(Some(_))));
    assert_eq!(plain.kafka.delivery, Delivery::ExactlyOnce);
}

#[test]
fn what_is_probably_not_meant_is_warned_about() {
    for (lines, warning) in [
        (
            "kafka.topic_config.\"message.timestamp.type\" = \"LogAppendTime\"",
            "kafka.topic_config.message.timestamp.type (from c.toml, line 1) replaces the timestamps of \
             kafka.timestamp = \"disconnect\"",
        ),
        (
            "avro.schema_registry_url = \"http://registry\"\navro.schema_registry_username = \"u\"\n\
             avro.schema_registry_password = \"p\"",
            "avro.schema_registry_url (from c.toml, line 1) is not https://: the registry's password travels in the clear",
        ),
        (
            "freshness.objective = \"119s\"",
            "freshness.objective (from c.toml, line 1) is shorter than poll.interval, for which a leg may have to wait: \
             it cannot be kept",
        ),
    ] {
        assert_eq!(parse(&minimal_with(lines), &[]).unwrap().warnings(), [warning], "{lines}");
    }
    for lines in ["log.level = \"2\"", "log.level = \"info,a\"", "log.level = \"a=debug\"", "log.level = \"[s]=warn\""]
    {
        assert!(parse(&minimal_with(lines), &[]).unwrap().warnings().is_empty(), "{lines}");
    }
}

#[test]
fn files_are_tried_when_the_configuration_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let secret = dir.path().join("secret");
    std::fs::write(&path, MINIMAL.replace("api_key =", "api_key_file =").replace("\"k\"", &format!("{secret:?}")))
        .unwrap();
    std::fs::write(&secret, "sesame\n").unwrap();
    let config = Config::load(Some(&path), NONE).unwrap();
    assert_eq!(config.source.api_key.read().unwrap().expose_secret(), "sesame");

    std::fs::remove_file(&secret).unwrap();
    let missing_ca = [("CALL_LEGS_SOURCE__CA_FILE", "/nonexistent")];
    let error = Config::load(Some(&path), missing_ca).unwrap_err();
    let name = path.display();
    assert_eq!(
        error.problems(),
        [
            format!("source.api_key_file (from {name}, line 3) names a file that cannot be read: No such file or directory (os error 2)"),
            "source.ca_file (from CALL_LEGS_SOURCE__CA_FILE) names a file that cannot be read: No such file or directory (os error 2)"
                .to_owned(),
        ]
    );
}

proptest! {
    #[test]
    fn no_file_and_no_variable_upsets_the_reader(
        text in "(\\[(source|kafka|kafka.properties|x)\\]\n|[a-z_.\"]{1,12} ?= ?[\"\\[]?[a-z0-9 ,]{0,9}[\"\\]]?\n){0,6}",
        name in "CALL_LEGS_(SOURCE|KAFKA|AVRO|X)?_{1,3}[A-Za-z_.]{0,12}",
        value in "\\PC{0,12}",
    ) {
        let _ = Config::parse("c.toml", &text, [(name, value)]);
    }

    #[test]
    fn a_password_arrives_as_it_was_given(password in "[^\\x00\r\n]{1,30}") {
        let config = parse(MINIMAL, &[("CALL_LEGS_SOURCE__PASSWORD", &password)]).unwrap();
        let read = config.source.password.read().unwrap();
        prop_assert_eq!(read.expose_secret(), &password);
    }
}

#[test]
fn the_requests_of_polls_are_held_against_the_budget() {
    let of = |lines: &str, rows: &[u64]| parse(&minimal_with(lines), &[]).unwrap().poll_requests(rows);
    let few = of("", &[]);
    assert!(!few.is_too_many());
    assert_eq!(
        few.to_string(),
        "polls of 1 unit take at least 1 request a minute, with one poll of each in 2 min; source.requests_per_minute = 60 allows them"
    );
    let lines = "source.pbx_ids = [\"a\", \"b\"]\npoll.interval = \"10s\"\nsource.requests_per_minute = 20";
    assert!(!of(lines, &[]).is_too_many());
    let many = of(lines, &[5_000]);
    assert!(many.is_too_many());
    assert_eq!(
        many.to_string(),
        "polls of 2 units take at least 42 requests a minute, with one poll of each in 10 s, more than source.requests_per_minute = 20 allows: polls will come later than poll.interval. Raise source.requests_per_minute, source.page_size or poll.interval"
    );
}
