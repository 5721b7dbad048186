//! What is refused, and in which words.

use super::*;

#[track_caller]
fn refused(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    match parse(text, variables) {
        Ok(_) => panic!("not refused: {text} {variables:?}"),
        Err(error) => assert_eq!(error.problems(), expected, "{text} {variables:?}"),
    }
}

/// Each line of the file, beside all that is required, and what is said to it.
#[test]
fn values_in_the_file() {
    for (lines, expected) in [
        ("source.page_size = 0", "source.page_size (from c.toml, line 1) must be a whole number between 1 and 7000"),
        ("source.page_size = 7001", "source.page_size (from c.toml, line 1) must be a whole number between 1 and 7000"),
        ("source.page_size = 1.5", "source.page_size (from c.toml, line 1) must be a whole number between 1 and 7000"),
        ("source.page_size = [1]", "source.page_size (from c.toml, line 1) must be a whole number between 1 and 7000"),
        (
            "source.page_size = 99999999999999999999",
            "source.page_size (from c.toml, line 1) must be a whole number between 1 and 7000",
        ),
        (
            "source.base_url = \"http://api.8x8.com\"",
            "source.base_url (from c.toml, line 1) must be an https:// URL (http:// to this machine only) without user, query or fragment",
        ),
        ("source.api_key = 123", "source.api_key (from c.toml, line 1) must be a text (in quotes) that is not empty"),
        (
            "source.api_key = \"\\n\"",
            "source.api_key (from c.toml, line 1) must be a text (in quotes) that is not empty",
        ),
        (
            "source.username = \" \"",
            "source.username (from c.toml, line 1) must be a text (in quotes) that is not empty",
        ),
        (
            "source.api_key_file = \"f\"",
            "source.api_key (from c.toml, line 2) and source.api_key_file (from c.toml, line 1) are both given: keep one",
        ),
        ("source.pbx_ids = []", PBX_IDS),
        ("source.pbx_ids = [\"allpbxes\", \"a\"]", PBX_IDS),
        ("source.pbx_ids = [\"a\", \"AllPBXes\"]", PBX_IDS),
        ("source.pbx_ids = [\"a\", \" a\"]", PBX_IDS),
        ("source.pbx_ids = [\"a,b\"]", PBX_IDS),
        ("source.pbx_ids = [\"a\", \"\"]", PBX_IDS),
        ("source.pbx_ids = [1]", PBX_IDS),
        (
            "source.time_zone = \"Mars/Olympus\"",
            "source.time_zone (from c.toml, line 1) must be an IANA time zone such as \"UTC\" or \"Europe/London\"",
        ),
        (
            "source.time_basis = \"start\"",
            "source.time_basis (from c.toml, line 1) must be \"disconnect\" or \"connect\"",
        ),
        (
            "source.time_basis = \"connect\"\npoll.overlap = \"719m\"",
            "source.time_basis (from c.toml, line 1) can be \"connect\" only with a poll.overlap of at least 12h: a leg appears when it ends, hours after it was connected",
        ),
        ("source.simplified = \"yes\"", "source.simplified (from c.toml, line 1) must be true or false"),
        (
            "source.callers = [\"\"]",
            "source.callers (from c.toml, line 1) must be a list of at most 125 texts such as [\"1001\", \"1002\"], none empty or with a comma",
        ),
        (
            "source.callers_or_callees = [\"1\"]\nsource.callees = [\"2\"]",
            "source.callers_or_callees (from c.toml, line 1) excludes source.callers and source.callees: the API takes one or the others",
        ),
        (
            "source.request_timeout = \"0s\"",
            "source.request_timeout (from c.toml, line 1) must be a duration from 1s to 10m, written like 90s, 2m, 36h or 8d",
        ),
        (
            "source.request_timeout = 30",
            "source.request_timeout (from c.toml, line 1) must be a duration from 1s to 10m, written like 90s, 2m, 36h or 8d",
        ),
        (
            "source.requests_per_minute = 0",
            "source.requests_per_minute (from c.toml, line 1) must be a whole number between 1 and 6000",
        ),
        (
            "source.max_body = \"1KB\"",
            "source.max_body (from c.toml, line 1) must be a size from 1MiB to 1GiB, written like 64MiB, 10MB or a whole number of bytes",
        ),
        ("source.ca_file = \"\"", "source.ca_file (from c.toml, line 1) must be a path (in quotes)"),
        (
            "poll.interval = \"999ms\"",
            "poll.interval (from c.toml, line 1) must be a duration from 1s to 24h, written like 90s, 2m, 36h or 8d, or \"auto\"",
        ),
        (
            "poll.overlap = \"0s\"",
            "poll.overlap (from c.toml, line 1) must be a duration from 1s to 30d, written like 90s, 2m, 36h or 8d, in whole seconds",
        ),
        (
            "poll.settle = \"1500ms\"",
            "poll.settle (from c.toml, line 1) must be a duration from 0s to 24h, written like 90s, 2m, 36h or 8d, in whole seconds",
        ),
        (
            "poll.max_window = \"59s\"",
            "poll.max_window (from c.toml, line 1) must be a duration from 1m to 731d, written like 90s, 2m, 36h or 8d, in whole seconds",
        ),
        (
            "poll.clock_tolerance = \"0s\"",
            "poll.clock_tolerance (from c.toml, line 1) must be a duration from 1s to 1h, written like 90s, 2m, 36h or 8d",
        ),
        (
            "poll.start_from = 2026-01-01",
            "poll.start_from (from c.toml, line 1) must be \"now\", a time ago such as \"now-24h\", or an instant in RFC 3339 such as \"2026-01-31T00:00:00Z\"",
        ),
        (
            "sweeps = \"1h\"",
            "sweeps (from c.toml, line 1) must be tables such as [[sweeps]] with every = \"1h\" (1s to 30d) and lookback = \"6h\" (1s to 730d, whole seconds), no two with the same lookback; or sweeps = [] for none",
        ),
        (
            "sweeps = [{every = \"1h\"}]",
            "sweeps (from c.toml, line 1) must be tables such as [[sweeps]] with every = \"1h\" (1s to 30d) and lookback = \"6h\" (1s to 730d, whole seconds), no two with the same lookback; or sweeps = [] for none",
        ),
        (
            "sweeps = [{every = \"1h\", lookback = \"0s\"}]",
            "sweeps (from c.toml, line 1) must be tables such as [[sweeps]] with every = \"1h\" (1s to 30d) and lookback = \"6h\" (1s to 730d, whole seconds), no two with the same lookback; or sweeps = [] for none",
        ),
        (
            "sweeps = [{every = \"1h\", lookback = \"6h\"}, {every = \"2h\", lookback = \"6h\"}]",
            "sweeps (from c.toml, line 1) must be tables such as [[sweeps]] with every = \"1h\" (1s to 30d) and lookback = \"6h\" (1s to 730d, whole seconds), no two with the same lookback; or sweeps = [] for none",
        ),
        (
            "sweeps = [{every = \"1h\", lookback = \"9d\"}]",
            "sweeps (from c.toml, line 1) must not look back further than state.horizon: an older leg could not be told from one that was published and forgotten",
        ),
        (
            "dead_letter.max_ratio = 1.01",
            "dead_letter.max_ratio (from c.toml, line 1) must be a number between 0 and 1",
        ),
        (
            "kafka.bootstrap_servers = \"\"",
            "kafka.bootstrap_servers (from c.toml, line 1) must name one or more brokers, such as \"kafka-1:9092,kafka-2:9092\" or [\"kafka-1:9092\", \"kafka-2:9092\"]",
        ),
        (
            "kafka.topic = 2024",
            "kafka.topic (from c.toml, line 1) must be 1 to 237 of the characters a-z, A-Z, 0-9, dot, underscore and dash (in quotes), not . or ..",
        ),
        ("kafka.partitions = 0", "kafka.partitions (from c.toml, line 1) must be a whole number between 1 and 10000"),
        (
            "kafka.replication_factor = 0",
            "kafka.replication_factor (from c.toml, line 1) must be a whole number between 1 and 32767",
        ),
        ("kafka.timestamp = \"now\"", "kafka.timestamp (from c.toml, line 1) must be \"disconnect\" or \"publish\""),
        (
            "kafka.delivery = \"once\"",
            "kafka.delivery (from c.toml, line 1) must be \"auto\" or \"exactly-once\" or \"at-least-once\"",
        ),
        (
            "kafka.properties.acks = \"1\"",
            "kafka.properties.acks (from c.toml, line 1) cannot be set: only acks=all, which is set, keeps an acknowledged record when a broker is lost",
        ),
        (
            "kafka.properties.max.in.flight = 6",
            "kafka.properties.max.in.flight (from c.toml, line 1) must be a whole number from 1 to 5: with more than 5 requests in flight brokers no longer recognise a repeated one",
        ),
        (
            "kafka.properties.x = [1]",
            "kafka.properties.x (from c.toml, line 1) must be a text, a number, true or false",
        ),
        (
            "kafka.properties.\"sasl.password\" = \"x\"\nkafka.sasl_password = \"y\"",
            "kafka.properties.sasl.password (from c.toml, line 1) and kafka.sasl_password are both given: keep one",
        ),
        (
            "kafka.properties.\"a.b\" = 1\nkafka.properties.a.b = 2",
            "kafka.properties.a.b is given twice: by c.toml, line 2 and by c.toml, line 1",
        ),
        (
            "kafka.topic_config.\"cleanup.policy\" = \"compact,delete\"",
            "kafka.topic_config.cleanup.policy (from c.toml, line 1) must not compact the topic: its key is the call's id, \
             so only the newest leg of each call would be kept",
        ),
        ("avro.framing = \"raw\"", "avro.framing (from c.toml, line 1) must be \"confluent\" or \"single-object\""),
        (
            "avro.schema_registry_url = \"https://a:b@registry\"",
            "avro.schema_registry_url (from c.toml, line 1) must be an http:// or https:// URL without user, query or fragment",
        ),
        (
            "avro.schema_registry_username = \"u\"",
            "avro.schema_registry_username (from c.toml, line 1) needs avro.schema_registry_password or _file beside it",
        ),
        (
            "avro.schema_registry_password_file = \"f\"",
            "avro.schema_registry_password_file (from c.toml, line 1) needs avro.schema_registry_username beside it",
        ),
        (
            "state.horizon = \"29m\"",
            "state.horizon (from c.toml, line 1) must be at least poll.overlap: a leg read again after its identity was forgotten could not be told from a new one",
        ),
        (
            "admin.listen = \"9464\"",
            "admin.listen (from c.toml, line 1) must be an IP address and a port such as \"127.0.0.1:9464\" or \"[::]:9464\"",
        ),
        (
            "log.level = \"inf\"",
            "log.level (from c.toml, line 1) names no level: off, error, warn, info, debug or trace, or module=level",
        ),
        (
            "log.level = \"call_legs=loud\"",
            "log.level (from c.toml, line 1) must be off, error, warn, info, debug, trace, or tracing filter directives such as \"info,rdkafka=debug\"",
        ),
        ("log.format = \"xml\"", "log.format (from c.toml, line 1) must be \"text\" or \"json\""),
    ] {
        refused(&minimal_with(lines), &[], &[expected]);
    }
}

const PBX_IDS: &str = "source.pbx_ids (from c.toml, line 1) must be a list of different PBX names, at least one and none empty or with a comma, or [\"allpbxes\"] alone";

#[test]
fn filters_take_the_apis_125_values() {
    let numbers = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    assert!(parse(MINIMAL, &[("CALL_LEGS_SOURCE__CALLEES", &numbers(125))]).is_ok());
    assert!(parse(MINIMAL, &[("CALL_LEGS_SOURCE__CALLEES", &numbers(126))]).is_err());
}

#[test]
fn unknown_keys_with_the_nearest_known_one() {
    for (lines, expected) in [
        (
            "source.pagesize = 1",
            "source.pagesize (from c.toml, line 1) is not a known key; did you mean source.page_size?",
        ),
        (
            "source.interval = \"2m\"",
            "source.interval (from c.toml, line 1) is not a known key; did you mean poll.interval?",
        ),
        (
            "source.password_fil = \"f\"",
            "source.password_fil (from c.toml, line 1) is not a known key; did you mean source.password_file?",
        ),
        (
            "sorce.page_size = 1",
            "sorce.page_size (from c.toml, line 1) is not a known key; did you mean source.page_size?",
        ),
        ("source.page_size.rows = 1", "source.page_size.rows (from c.toml, line 1) is not a known key"),
        ("page_size = 1", "page_size (from c.toml, line 1) is not a known key; did you mean source.page_size?"),
        ("kafka.property.acks = 1", "kafka.property.acks (from c.toml, line 1) is not a known key"),
        (
            "kafka.bootstrap = \"a\"",
            "kafka.bootstrap (from c.toml, line 1) is not a known key; did you mean kafka.bootstrap_servers?",
        ),
        ("source.zzz = 1", "source.zzz (from c.toml, line 1) is not a known key"),
        ("metrics = {}", "metrics (from c.toml, line 1) is not a known key"),
        ("\"a\\nb\" = 1", "a\\nb (from c.toml, line 1) is not a known key"),
        ("admin = 5", "admin (from c.toml, line 1) is a section of settings, not a setting"),
        (
            "kafka.properties = \"a=b\"",
            "kafka.properties (from c.toml, line 1) is a section of settings, not a setting",
        ),
    ] {
        refused(&minimal_with(lines), &[], &[expected]);
    }
}

#[test]
fn empty_known_sections_are_fine() {
    assert!(parse(&minimal_with("admin = {}\nkafka.properties.sasl = {}\nkafka.topic_config = {}"), &[]).is_ok());
}

#[test]
fn values_and_keys_in_the_environment() {
    for (name, value, expected) in [
        (
            "CALL_LEGS_SOURCE__PAGE_SIZE",
            "lots",
            "source.page_size (from CALL_LEGS_SOURCE__PAGE_SIZE) must be a whole number between 1 and 7000",
        ),
        (
            "CALL_LEGS_SOURCE__PAGE_SIZE",
            "",
            "source.page_size (from CALL_LEGS_SOURCE__PAGE_SIZE) must be a whole number between 1 and 7000",
        ),
        (
            "CALL_LEGS_SOURCE__PAGESIZE",
            "1",
            "source.pagesize (from CALL_LEGS_SOURCE__PAGESIZE) is not a known key; did you mean source.page_size?",
        ),
        ("CALL_LEGS_METRICS__PORT", "1", "metrics.port (from CALL_LEGS_METRICS__PORT) is not a known key"),
        (
            "CALL_LEGS_SOURCE__PASSWORD",
            "",
            "source.password (from CALL_LEGS_SOURCE__PASSWORD) must be a text (in quotes) that is not empty",
        ),
        (
            "CALL_LEGS_SOURCE__PASSWORD_FILE",
            "f",
            "source.password (from c.toml, line 5) and source.password_file (from CALL_LEGS_SOURCE__PASSWORD_FILE) are both given: keep one",
        ),
        (
            "CALL_LEGS_SOURCE__PBX_IDS",
            "",
            "source.pbx_ids (from CALL_LEGS_SOURCE__PBX_IDS) must be a list of different PBX names, at least one and none empty or with a comma, or [\"allpbxes\"] alone",
        ),
        (
            "CALL_LEGS_KAFKA__PROPERTIES",
            "x",
            "kafka.properties (from CALL_LEGS_KAFKA__PROPERTIES) is a section of settings, not a setting",
        ),
        (
            "CALL_LEGS_KAFKA__PROPERTIES__ENABLE__IDEMPOTENCE",
            "false",
            "kafka.properties.enable.idempotence (from CALL_LEGS_KAFKA__PROPERTIES__ENABLE__IDEMPOTENCE) cannot be set: it is always on: without it a retried request writes records twice or out of order",
        ),
        (
            "CALL_LEGS_KAFKA__PROPERTIES__",
            "x",
            "kafka.properties. (from CALL_LEGS_KAFKA__PROPERTIES__) is not a known key",
        ),
        ("CALL_LEGS_ADMIN__", "x", "admin. (from CALL_LEGS_ADMIN__) is not a known key"),
        ("CALL_LEGS___", "x", ". (from CALL_LEGS___) is not a known key"),
    ] {
        refused(MINIMAL, &[(name, value)], &[expected]);
    }
}

#[test]
fn what_is_required_is_named_with_its_variable() {
    refused(
        "",
        &[],
        &[
            "source.api_key or source.api_key_file is required: set it in the file, or CALL_LEGS_SOURCE__API_KEY in the environment",
            "source.username is required: set it in the file, or CALL_LEGS_SOURCE__USERNAME in the environment",
            "source.password or source.password_file is required: set it in the file, or CALL_LEGS_SOURCE__PASSWORD in the environment",
            "kafka.bootstrap_servers is required: set it in the file, or CALL_LEGS_KAFKA__BOOTSTRAP_SERVERS in the environment",
            "avro.schema_registry_url is required for avro.framing = \"confluent\"",
            "state.dir is required: set it in the file, or CALL_LEGS_STATE__DIR in the environment",
        ],
    );
}

#[test]
fn all_problems_are_reported_in_one_go() {
    refused(
        &minimal_with("source.page_size = 0\nkafka.topic = \"\"\nlog.colour = true\npoll.overlap = \"9d\""),
        &[("CALL_LEGS_ADMIN__LISTEN", "x"), ("CALL_LEGS_LOG__FORMAT", "xml")],
        &[
            "source.page_size (from c.toml, line 1) must be a whole number between 1 and 7000",
            "kafka.topic (from c.toml, line 2) must be 1 to 237 of the characters a-z, A-Z, 0-9, dot, underscore and dash (in quotes), not . or ..",
            "admin.listen (from CALL_LEGS_ADMIN__LISTEN) must be an IP address and a port such as \"127.0.0.1:9464\" or \"[::]:9464\"",
            "log.format (from CALL_LEGS_LOG__FORMAT) must be \"text\" or \"json\"",
            "state.horizon must be at least poll.overlap: a leg read again after its identity was forgotten could not be told from a new one",
            "log.colour (from c.toml, line 3) is not a known key",
        ],
    );
}

#[test]
fn broken_toml_is_shown_by_its_place_only() {
    for (text, expected) in [
        ("[source]\napi_key = hunter2\n", "c.toml, line 2, column 11: not valid TOML: "),
        ("[source]\napi_key = \"hunter2\n", "c.toml, line 2, column "),
        ("[source]\nhunter2\n", "c.toml, line 2, column "),
        ("[source]\na = 1\na = \"hunter2\"\n", "c.toml, line 3, column 1: not valid TOML: duplicate key"),
        ("[hunter2", "c.toml, line 1, column "),
    ] {
        let error = parse(text, &[]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
    }
}

/// As a template, or a shell, would have it.
#[test]
fn the_name_of_a_variable_is_no_value() {
    let said = |key: &str, place: &str, variable: &str| {
        format!(
            "{key} (from {place}) is a ${{…}}, which nothing replaces: leave the key out, and set {variable} in the environment"
        )
    };
    for (line, key, variable) in [
        ("source.api_key = \"${API_KEY}\"", "source.api_key", "CALL_LEGS_SOURCE__API_KEY"),
        ("source.page_size = \"${SIZE}\"", "source.page_size", "CALL_LEGS_SOURCE__PAGE_SIZE"),
        ("source.pbx_ids = [\"a\", \"${PBX}\"]", "source.pbx_ids", "CALL_LEGS_SOURCE__PBX_IDS"),
        (
            "kafka.properties.\"sasl.username\" = \"${USER}\"",
            "kafka.properties.sasl.username",
            "CALL_LEGS_KAFKA__PROPERTIES__SASL__USERNAME",
        ),
    ] {
        refused(&minimal_with(line), &[], &[&said(key, "c.toml, line 1", variable)]);
    }
    let (variable, text) = ("CALL_LEGS_SOURCE__PASSWORD", minimal_with("source.page_size = 10"));
    refused(&text, &[(variable, "${PASSWORD}")], &[&said("source.password", variable, variable)]);
    // A password may well hold one.
    parse(&minimal_with("source.password = \"a${b}\""), &[]).unwrap();
}

#[test]
fn who_only_looks_needs_no_state_directory() {
    let without = minimal_with("state.horizon = \"8d\"").replace("state.dir = \"/tmp/state\"", "");
    refused(&without, &[], &["state.dir is required: set it in the file, or CALL_LEGS_STATE__DIR in the environment"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &without).unwrap();
    let config = Config::read(Some(file.path()), NONE).unwrap();
    assert_eq!(
        config.state_dir().unwrap_err().to_string(),
        "state.dir is required: set it in the file, or CALL_LEGS_STATE__DIR in the environment"
    );
}

#[test]
fn a_sign_in_that_contradicts_itself_is_refused_in_one_sentence() {
    const BEARER: &str = "kafka.properties.\"sasl.mechanism\" = \"OAUTHBEARER\"\n";
    const SASL: &str = "kafka.properties.\"security.protocol\" = \"sasl_ssl\"\n";
    const OAUTH: &str = "kafka.oauth.token_url = \"https://issuer/token\"\nkafka.oauth.client_id = \"c\"\nkafka.oauth.client_secret = \"s\"\n";
    let sound = |parts: &[&str]| parse(&minimal_with(&parts.concat()), &[]);
    assert!(sound(&[SASL, BEARER, OAUTH]).is_ok());
    assert!(sound(&[SASL, "kafka.properties.\"sasl.mechanisms\" = \"PLAIN\""]).is_ok());
    for (parts, key, expected) in [
        (vec![SASL, BEARER], "kafka.properties.sasl.mechanism", "is OAUTHBEARER and needs kafka.oauth.token_url"),
        (
            vec![BEARER, OAUTH],
            "kafka.properties.sasl.mechanism",
            "needs \"sasl_ssl\" for kafka.properties.security.protocol",
        ),
        (vec![SASL, BEARER, OAUTH, "kafka.sasl_password = \"x\""], "kafka.sasl_password", "is not for OAUTHBEARER"),
        (
            vec![SASL, OAUTH, "kafka.properties.\"sasl.mechanism\" = \"SCRAM-SHA-256\""],
            "kafka.oauth.token_url",
            "needs \"OAUTHBEARER\" for kafka.properties.sasl.mechanism",
        ),
        (vec![OAUTH], "kafka.oauth.token_url", "needs \"OAUTHBEARER\""),
        (vec![SASL], "kafka.properties.security.protocol", "needs kafka.properties.sasl.mechanism beside it"),
        (
            vec![SASL, "kafka.properties.\"sasl.mechanism\" = \"GSSAPI\""],
            "kafka.properties.sasl.mechanism",
            "must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER: Kerberos (GSSAPI) needs libsasl2, which is not built in",
        ),
        (
            vec!["kafka.properties.\"sasl.oauthbearer.method\" = \"oidc\""],
            "kafka.properties.sasl.oauthbearer.method",
            "cannot be set: librdkafka's own OAuth client is not built in",
        ),
        (
            vec!["kafka.properties.\"enable.sasl.oauthbearer.unsecure.jwt\" = true"],
            "kafka.properties.enable.sasl.oauthbearer.unsecure.jwt",
            "cannot be set: an unsigned token proves nothing",
        ),
        (
            vec!["kafka.oauth.client_id = \"c\""],
            "kafka.oauth.client_id",
            "needs kafka.oauth.token_url and kafka.oauth.client_secret beside it",
        ),
        (
            vec!["kafka.oauth.token_url = \"http://issuer/token\""],
            "kafka.oauth.token_url",
            "must be an https:// URL (http:// to this machine only)",
        ),
        (
            vec![SASL, BEARER, OAUTH, "kafka.oauth.extensions.auth = \"x\""],
            "kafka.oauth.extensions.auth",
            "must have a name of the letters",
        ),
        (vec!["kafka.oauth.extensions.a = \"x\""], "kafka.oauth.extensions.a", "needs kafka.oauth.token_url beside it"),
        (
            vec![
                "avro.schema_registry_token = \"t\"\navro.schema_registry_username = \"u\"\navro.schema_registry_password = \"p\"",
            ],
            "avro.schema_registry_username",
            "and avro.schema_registry_token are both given: keep one way",
        ),
        (
            vec!["avro.schema_registry_key_file = \"k\""],
            "avro.schema_registry_key_file",
            "needs avro.schema_registry_certificate_file beside it",
        ),
    ] {
        let error = sound(&parts).unwrap_err();
        let [problem] = error.problems() else { panic!("{parts:?}: {error}") };
        assert!(problem.starts_with(&format!("{key} (from ")) && problem.contains(expected), "{problem}");
    }
}

/// What is said to a privacy policy.
#[test]
fn privacy_policies() {
    let key = "privacy.key = \"0123456789abcdef\"";
    for (lines, expected) in [
        (
            "privacy.hash = [\"caller\", \"calee\"]",
            "privacy.hash (from c.toml, line 1) has as item 2 no field of a leg, nor extra; did you mean callee?",
        ),
        ("privacy.drop = [\"\"]", "privacy.drop (from c.toml, line 1) has as item 1 no field of a leg, nor extra"),
        (
            "privacy.drop = 7",
            "privacy.drop (from c.toml, line 1) must be a list of field names such as [\"caller\", \"callee\"]",
        ),
        (
            "privacy.mask.callerID = 4",
            "privacy.mask.callerID (from c.toml, line 1) is no field of a leg, nor extra; did you mean callerId?",
        ),
        (
            "privacy.mask.caller = 0",
            "privacy.mask.caller (from c.toml, line 1) must be a whole number between 1 and 64: how many characters at the end are shown",
        ),
        (
            "privacy.hash = [\"callId\"]",
            "privacy.hash (from c.toml, line 1) names callId, which cannot be treated: a leg is recognised by callId, legId and pbxId, or it would be published again",
        ),
        (
            "privacy.drop = [\"connectTime\"]",
            "privacy.drop (from c.toml, line 1) names connectTime, which cannot be treated: legs are read, ordered and forgotten by their times",
        ),
        (
            "privacy.mask.talkTimeMS = 2",
            "privacy.mask.talkTimeMS (from c.toml, line 1) names talkTimeMS, which holds a number, so it can only be dropped",
        ),
        ("privacy.hash = [\"extra\"]", "privacy.hash (from c.toml, line 1) names extra, which can only be dropped"),
        (
            "privacy.drop = [\"caller\"]\nprivacy.hash = [\"caller\"]",
            "privacy.hash (from c.toml, line 2) names caller as privacy.drop does: a field has one rule",
        ),
        ("privacy.drop = [\"dnis\", \"dnis\"]", "privacy.drop (from c.toml, line 1) names dnis twice"),
    ] {
        refused(&minimal_with(&format!("{lines}\n{key}")), &[], &[expected]);
    }
    refused(
        &minimal_with("privacy.drop = [\"extra\"]"),
        &[],
        &[
            "privacy.key or privacy.key_file is required with privacy.drop: values, contents and dead rows are hashed with it, so that nobody finds them by trying",
        ],
    );
}

#[test]
fn the_key_of_a_policy_is_there_and_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let text = minimal_with(&format!("privacy.hash = [\"caller\"]\nprivacy.key_file = {path:?}"));
    let problems = || {
        let checked = parse(&text, &[]).unwrap().check_files();
        checked.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let named = "privacy.key_file (from c.toml, line 2) names a file ";
    assert!(problems().starts_with(&format!("{named}that cannot be read: ")), "{}", problems());
    std::fs::write(&path, "fifteen bytes..\n").unwrap();
    assert!(problems().starts_with(&format!("{named}whose content is shorter than 16 bytes")), "{}", problems());
    std::fs::write(&path, "sixteen bytes...\n").unwrap();
    assert_eq!(problems(), "");
    let unused = parse(&minimal_with("privacy.key = \"short\""), &[]).unwrap();
    assert!(unused.check_files().is_ok());
    assert!(unused.warnings()[0].contains("is not used"), "{:?}", unused.warnings());
}

#[test]
fn a_policy_is_what_the_section_says() {
    let lines = "privacy.drop = [\"callerName\", \"extra\"]\nprivacy.hash = \"caller, callee\"\nprivacy.mask = { dnis = 4 }\nprivacy.key = \"0123456789abcdef\"";
    let config = parse(&minimal_with(lines), &[]).unwrap();
    let named: Vec<String> =
        config.privacy.rules.iter().map(|(target, rule)| format!("{} {rule:?}", target.name())).collect();
    assert_eq!(named, ["caller Hash", "callerName Drop", "callee Hash", "dnis Mask(4)", "extra Drop"]);
    assert!(config.privacy.policy().unwrap().id().is_some());
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert_eq!(parse(MINIMAL, &[]).unwrap().privacy.policy().unwrap().id(), None);
}
