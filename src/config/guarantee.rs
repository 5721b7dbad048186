//! The librdkafka properties that the delivery guarantee rests on, which are therefore not free.
//!
//! Some of these librdkafka would refuse by itself, as late as when the producer is made; the others
//! it would take, and records would be lost, doubled or reordered without a word.

/// What may be given for a property.
enum Allowed {
    /// Nothing: the connector sets it, or needs its default.
    Never,
    /// A whole number in this range.
    Between(u32, u32),
    /// One of these words.
    Words(&'static [&'static str]),
}

/// Properties under all their names, what is allowed, and why nothing else.
const RESERVED: &[(&[&str], Allowed, &str)] = &[
    (
        &["bootstrap.servers", "metadata.broker.list"],
        Allowed::Never,
        "the brokers are named by kafka.bootstrap_servers, for every client alike",
    ),
    (
        &["acks", "request.required.acks"],
        Allowed::Never,
        "only acks=all, which is set, keeps an acknowledged record when a broker is lost",
    ),
    (
        &["enable.idempotence"],
        Allowed::Never,
        "it is always on: without it a retried request writes records twice or out of order",
    ),
    (
        &["transactional.id"],
        Allowed::Never,
        "it is derived from the topic, so that a second connector fences the first instead of publishing beside it",
    ),
    (
        &["isolation.level"],
        Allowed::Never,
        "what was published is told from what was aborted by reading committed records only",
    ),
    (
        &["enable.gapless.guarantee"],
        Allowed::Never,
        "a gap is mended by reading the window again; this would end the producer for good instead",
    ),
    (
        &["max.in.flight", "max.in.flight.requests.per.connection"],
        Allowed::Between(1, 5),
        "with more than 5 requests in flight brokers no longer recognise a repeated one",
    ),
    (
        &["retries", "message.send.max.retries"],
        Allowed::Between(1, i32::MAX as u32),
        "without a retry a passing fault is a doubtful write",
    ),
    (
        &["queuing.strategy"],
        Allowed::Words(&["fifo"]),
        "the order of sending is the order in which a call's legs are read",
    ),
    (
        &["queue.buffering.backpressure.threshold"],
        Allowed::Between(1, 1),
        "the idempotent producer takes no other value",
    ),
    (
        &["partitioner"],
        Allowed::Words(&["murmur2_random"]),
        "a call's legs keep their order only in one partition, chosen by the key as Java's clients choose it",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        Allowed::Never,
        "a record is kept until the brokers take it, however long they are away",
    ),
    (
        &["batch.size", "message.max.bytes", "message.copy.max.bytes"],
        Allowed::Never,
        "it follows the topics' max.message.bytes",
    ),
    (
        &["delivery.report.only.error"],
        Allowed::Never,
        "a transaction is committed after every record's report, those of success among them",
    ),
    (
        &["allow.auto.create.topics"],
        Allowed::Never,
        "the connector creates its topics itself, with the settings that they need",
    ),
    (
        &["api.version.request", "api.version.fallback.ms", "broker.version.fallback"],
        Allowed::Never,
        "a client that does not ask what the brokers can do takes transactions for unsupported",
    ),
    (&["auto.offset.reset"], Allowed::Never, "a read that starts elsewhere than asked for must fail, not skip records"),
    (
        &[
            "group.id",
            "group.instance.id",
            "group.protocol",
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "offset.store.method",
            "enable.partition.eof",
        ],
        Allowed::Never,
        "the connector reads its own topics by position and belongs to no consumer group",
    ),
    (
        &["enable.sasl.oauthbearer.unsecure.jwt"],
        Allowed::Never,
        "an unsigned token proves nothing; [kafka.oauth] fetches signed ones",
    ),
    (
        &["test.mock.num.brokers", "test.mock.broker.rtt"],
        Allowed::Never,
        "records would go to a simulated cluster in memory and be gone",
    ),
];

/// The SASL mechanisms that this build of librdkafka has.
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER];

/// The mechanism that takes `[kafka.oauth]`.
pub(super) const OAUTHBEARER: &str = "OAUTHBEARER";

/// The names of the property that chooses the mechanism.
pub(super) const MECHANISM: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];

/// What the names of librdkafka's own OAuth client begin with: it needs libcurl, which is not built in, would ask the
/// endpoint for each of the connector's clients, and would keep the secret that it was given at its start.
const OAUTH_PREFIX: &str = "sasl.oauthbearer.";

/// Why the property `name` cannot be `value`; `None` when it can.
pub(super) fn refusal(name: &str, value: &str) -> Option<String> {
    if name.starts_with(OAUTH_PREFIX) {
        return Some(
            "cannot be set: librdkafka's own OAuth client is not built in, the tokens are fetched by [kafka.oauth]: set kafka.oauth.token_url, kafka.oauth.client_id and kafka.oauth.client_secret_file"
                .to_owned(),
        );
    }
    if MECHANISM.contains(&name) && !MECHANISMS.contains(&value) {
        return Some(format!(
            "must be {}: Kerberos (GSSAPI) needs libsasl2, which is not built in, and brokers have no others",
            MECHANISMS.join(", ").replace(", OAUTHBEARER", " or OAUTHBEARER")
        ));
    }
    let (_, allowed, reason) = RESERVED.iter().find(|(names, ..)| names.contains(&name))?;
    match allowed {
        Allowed::Never => Some(format!("cannot be set: {reason}")),
        Allowed::Between(least, most) => {
            let fits = value.parse().is_ok_and(|number: u32| (*least..=*most).contains(&number));
            let range =
                if least == most { least.to_string() } else { format!("a whole number from {least} to {most}") };
            (!fits).then(|| format!("must be {range}: {reason}"))
        }
        Allowed::Words(words) => (!words.contains(&value)).then(|| format!("must be {}: {reason}", words.join(" or "))),
    }
}

/// Properties whose values hold no secret whatever they are, and are shown; in the order of the alphabet.
const SHOWN: &[&str] = &[
    "batch.num.messages",
    "broker.address.family",
    "broker.address.ttl",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "debug",
    "enable.metrics.push",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "linger.ms",
    "log.connection.close",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "message.send.max.retries",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.metadata.refresh.interval.ms",
    "transaction.timeout.ms",
];

/// Whether the value of the property `name` may be a secret, and is never shown: of every property that is not known to hold
/// none, since a misspelt one may hold any.
pub(super) fn is_secret(name: &str) -> bool {
    SHOWN.binary_search(&name).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_the_guarantee_is_refused_under_each_of_its_names() {
        let never = RESERVED.iter().filter(|(_, allowed, _)| matches!(allowed, Allowed::Never));
        for name in never.flat_map(|(names, ..)| names.iter()) {
            assert!(refusal(name, "all").is_some_and(|text| text.starts_with("cannot be set: ")), "{name}");
        }
        for (name, right, wrong) in [
            ("max.in.flight", "5", "6"),
            ("max.in.flight.requests.per.connection", "1", "0"),
            ("retries", "10", "0"),
            ("message.send.max.retries", "2147483647", "many"),
            ("queuing.strategy", "fifo", "lifo"),
            ("queue.buffering.backpressure.threshold", "1", "2"),
            ("partitioner", "murmur2_random", "random"),
        ] {
            assert_eq!(refusal(name, right), None, "{name}");
            assert!(refusal(name, wrong).is_some_and(|text| text.starts_with("must be ")), "{name}");
        }
    }

    #[test]
    fn the_rest_is_free() {
        for name in ["linger.ms", "compression.type", "security.protocol", "sasl.username", "client.id"] {
            assert_eq!(refusal(name, "x"), None, "{name}");
        }
    }

    /// A client can be made with each that is taken, and with none that is refused.
    #[test]
    fn the_mechanisms_are_those_of_this_build() {
        let client = |mechanism: &str| {
            let mut settings = rdkafka::ClientConfig::new();
            settings.set("security.protocol", "sasl_plaintext").set("sasl.mechanism", mechanism);
            settings.set("sasl.username", "u").set("sasl.password", "p");
            settings.create::<rdkafka::consumer::BaseConsumer>()
        };
        for mechanism in MECHANISMS {
            assert!(client(mechanism).is_ok() && refusal("sasl.mechanisms", mechanism).is_none(), "{mechanism}");
        }
        for mechanism in ["GSSAPI", "scram-sha-512", "DIGEST-MD5"] {
            assert!(client(mechanism).is_err(), "{mechanism}");
            let refused = refusal("sasl.mechanism", mechanism).unwrap();
            assert!(refused.starts_with("must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER: "), "{refused}");
        }
        let oidc = rdkafka::ClientConfig::new()
            .set("sasl.oauthbearer.method", "oidc")
            .create::<rdkafka::consumer::BaseConsumer>();
        assert!(oidc.is_err() && refusal("sasl.oauthbearer.method", "oidc").is_some());
    }

    #[test]
    fn only_what_is_known_to_hold_no_secret_is_shown() {
        assert!(SHOWN.is_sorted());
        for name in [
            "sasl.password",
            "sasl.passwrd",
            "sasl.pasword",
            "sasl.pwd",
            "sasl.pass",
            "Sasl.Password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "ssl.keystore.pw",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.secrt",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.token.endpoint.url",
            "sasl.jaas.config",
            "sasl.kerberos.kinit.cmd",
            "some.tokn",
            "client.ids",
            "",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "sasl.mechanism", "ssl.ca.location", "linger.ms", "socket.timeout.ms"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
