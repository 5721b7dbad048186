//! What a client's newest trouble with its brokers was, as a sentence for an operator.
//!
//! librdkafka tells of a connection that does not come about by words alone, the same words for a year. Those
//! behind which a setting stands are known here, and answered with what to do; all others are passed on. No
//! word of it holds a secret: librdkafka repeats none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The newest trouble that a client had with its brokers, shared with whoever reports it.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Troubles>>);

#[derive(Debug, Default)]
struct Troubles {
    newest: Option<Known>,
    /// Why there is no token to sign in with, which is behind whatever else is wrong.
    sign_in: Option<String>,
}

/// A trouble as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    code: RDKafkaErrorCode,
    sentence: String,
    kind: Kind,
}

/// What a sentence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// librdkafka's words.
    Words,
    /// It says what to do, and stands for itself.
    Advice,
    /// The same of a broker that cannot be reached where it says that it listens.
    Unreached,
}

impl Trouble {
    /// The newest trouble.
    pub fn newest(&self) -> Option<String> {
        self.known().map(|known| known.sentence)
    }

    /// `what`, and the newest trouble behind it where there is one.
    pub fn explain(&self, what: &str) -> String {
        match self.known() {
            Some(known) => format!("{what}: {}", known.sentence),
            None => what.to_owned(),
        }
    }

    /// Why a question was not answered: the trouble alone, where it says what to do.
    pub fn explain_silence(&self, error: &KafkaError) -> String {
        match self.known() {
            Some(known) if known.kind != Kind::Words => known.sentence,
            Some(known) => format!("Kafka does not answer: {}", known.sentence),
            None => format!("Kafka does not answer ({error})"),
        }
    }

    /// Whether the brokers refuse what we may do, which no waiting mends. A failed authentication is
    /// none: librdkafka calls time-outs of starting brokers so, too.
    pub fn is_refusal(&self) -> bool {
        self.known().is_some_and(|known| is_refusal(known.code))
    }

    /// Whether the client cannot get in, which one with newer secrets or certificates might. Brokers that are
    /// merely gone keep nobody out.
    pub fn is_kept_out(&self) -> bool {
        self.known().is_some_and(|known| {
            known.kind == Kind::Advice && known.code != RDKafkaErrorCode::AllBrokersDown && !is_refusal(known.code)
        })
    }

    /// The sentence about a broker that cannot be reached where it says that it listens, if that is the newest trouble.
    pub fn unreached(&self) -> Option<String> {
        self.known().filter(|known| known.kind == Kind::Unreached).map(|known| known.sentence)
    }

    /// Forgets it: the brokers have done as asked.
    pub fn clear(&self) {
        self.lock().newest = None;
    }

    /// Notes why there is no token to sign in with, or that there is one.
    pub(super) fn set_sign_in(&self, sentence: Option<String>) {
        self.lock().sign_in = sentence;
    }

    /// Takes librdkafka's words for the newest trouble.
    pub fn set(&self, code: RDKafkaErrorCode, words: &str) {
        let Words { broker, is_advertised, what } = Words::of(words);
        let (kind, sentence) = if is_advertised && is_about_reaching(what) {
            (Kind::Unreached, unreached(broker, what))
        } else if is_without_tls(words, what) {
            (Kind::Advice, without_tls(broker, what))
        } else if let Some(advice) = advice(broker, what) {
            (Kind::Advice, advice)
        } else if broker.is_empty() {
            (Kind::Words, what.to_owned())
        } else {
            (Kind::Words, format!("{broker}: {what}"))
        };
        self.lock().newest = Some(Known { code, sentence, kind });
    }

    fn known(&self) -> Option<Known> {
        let troubles = self.lock();
        match &troubles.sign_in {
            Some(sentence) => {
                Some(Known { code: RDKafkaErrorCode::Authentication, sentence: sentence.clone(), kind: Kind::Advice })
            }
            None => troubles.newest.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer means that this user may not, which no waiting mends.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
}

/// The trouble behind a log line of which librdkafka makes no error: a topic that may not be written to within a
/// transaction.
pub(super) fn logged(facility: &str, message: &str) -> Option<RDKafkaErrorCode> {
    (facility == "ADDPARTS" && message.contains("Topic authorization failed"))
        .then_some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

/// What librdkafka says of a broker, without what changes from time to time.
///
/// ```text
/// [thrd:…]: sasl_ssl://kafka-1:9093/bootstrap: SSL handshake failed: … (after 9ms in state SSL_HANDSHAKE)
///                      └── broker ─┘           └─────── what ───────┘
/// ```
///
/// Behind the slash stands the number of a broker of which the cluster has told where it listens. A coordinator is named
/// by its role, and where it listens stands in the words.
struct Words<'a> {
    broker: &'a str,
    /// Whether the brokers themselves say that it listens there.
    is_advertised: bool,
    what: &'a str,
}

impl<'a> Words<'a> {
    fn of(words: &'a str) -> Self {
        let what = words.rsplit_once(" (after ").map_or(words, |(what, _)| what);
        let what = match what.split_once("]: ") {
            Some((thread, rest)) if thread.starts_with("[thrd:") => rest,
            _ => what,
        };
        let Some((name, said)) = what.split_once(": ").filter(|(name, _)| name.contains('/')) else {
            return Self { broker: "", is_advertised: false, what };
        };
        let name = name.split_once("://").map_or(name, |(_, name)| name);
        let (broker, number) = name.split_once('/').unwrap_or((name, ""));
        let is_advertised = number.parse::<u32>().is_ok();
        if !broker.contains(':')
            && let Some((address, said)) = said.split_once(": ").filter(|(address, _)| is_address(address))
        {
            return Self { broker: address, is_advertised, what: said };
        }
        Self { broker, is_advertised, what: said }
    }
}

fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').map(|(_, port)| port);
    !text.contains(' ') && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Whether the words are about a connection that does not come about, before anything was said on it.
fn is_about_reaching(what: &str) -> bool {
    ["Failed to resolve", "Connect to ", "Connection setup timed out in state CONNECT"]
        .iter()
        .any(|words| what.starts_with(words))
}

/// What to do about a broker that does not listen where it says.
fn unreached(broker: &str, what: &str) -> String {
    format!(
        "Kafka's broker {broker} cannot be reached from here ({what}). {broker} is its advertised listener: if that broker is up, change its advertised.listeners to an address that this machine can resolve and reach, or mend DNS or the firewall"
    )
}

/// Whether a broker closes the connection where this client begins to speak TLS. Librdkafka asks about a plain listener
/// only if the close comes after its first look at the connection, but always names the state.
fn is_without_tls(words: &str, what: &str) -> bool {
    what.contains("PLAINTEXT broker listener?")
        || what.starts_with("Disconnected") && words.contains(" in state SSL_HANDSHAKE")
}

fn without_tls(broker: &str, what: &str) -> String {
    format!("Kafka at {broker} closes the connection ({what}): check kafka.properties.security.protocol, and the port")
}

/// What to do, where a setting of ours or of the brokers stands behind the words.
fn advice(broker: &str, what: &str) -> Option<String> {
    let says = |words: &str| what.contains(words);
    if let Some((topic, _)) = what.strip_prefix("Failed to add partition \"").and_then(|rest| rest.split_once('"')) {
        return Some(format!("topic {topic}: Kafka does not let this user write to it: grant WRITE on it"));
    }
    // By RFC 7628, 3.2.2; what the brokers miss in the token only their own log says.
    if says("SASL authentication error") && says("\"status\"") {
        return Some(format!(
            "Kafka at {broker} refuses the token ({}): compare kafka.oauth.scope, and issuer and audience of the token, with what the brokers expect, whose log says more",
            last(what)
        ));
    }
    if says("SASL authentication error") {
        return Some(format!(
            "Kafka at {broker} refuses the user ({}): check kafka.properties.sasl.username, kafka.properties.sasl.mechanism and the password in kafka.sasl_password_file",
            last(what)
        ));
    }
    if says("mechanism handshake failed") {
        return Some(format!(
            "Kafka at {broker} does not take this SASL mechanism ({}): change kafka.properties.sasl.mechanism",
            last(what)
        ));
    }
    if says("certificate verify failed") {
        return Some(format!(
            "the certificate of Kafka at {broker} is not trusted: it is signed by an unknown authority, is for another name, or has expired. Name a PEM file with the authority in kafka.properties.ssl.ca.location"
        ));
    }
    if says("SSL alert number") {
        return Some(format!(
            "Kafka at {broker} refuses this client's certificate, or misses it ({}): name a certificate that it trusts in kafka.properties.ssl.certificate.location, and its key in kafka.properties.ssl.key.location",
            what.rsplit("::").next().unwrap_or(what)
        ));
    }
    // Nothing more is said where brokers close a connection that speaks no TLS to them.
    if says("brokers are down") {
        return Some(
            "Kafka closes every connection without a word: if it goes on, check kafka.properties.security.protocol, and the ports in kafka.bootstrap_servers"
                .to_owned(),
        );
    }
    None
}

/// The last part of a chain of causes.
fn last(what: &str) -> &str {
    what.split_once(": ").map_or(what, |(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: RDKafkaErrorCode, words: &str) -> String {
        let trouble = Trouble::default();
        trouble.set(code, words);
        trouble.explain_silence(&KafkaError::Canceled)
    }

    #[test]
    fn words_are_told_with_their_broker_and_without_what_changes() {
        for (words, expected) in [
            (
                "ssl://nonesuch.invalid:9092/bootstrap: Failed to resolve 'nonesuch.invalid:9092': Name or service not known (after 1ms in state CONNECT, 1 identical error(s) suppressed)",
                "Kafka does not answer: nonesuch.invalid:9092: Failed to resolve 'nonesuch.invalid:9092': Name or service not known",
            ),
            (
                "kafka-1:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
                "Kafka does not answer: kafka-1:9092: Connect to ipv4#10.0.0.1:9092 failed: Connection refused",
            ),
            ("something: else", "Kafka does not answer: something: else"),
        ] {
            assert_eq!(told(RDKafkaErrorCode::BrokerTransportFailure, words), expected);
        }
        assert!(!told(RDKafkaErrorCode::BrokerTransportFailure, "something").contains("check"));
    }

    #[test]
    fn a_broker_without_tls_is_told_from_one_that_hangs_up_later() {
        let expected = "Kafka at kafka-1:9092 closes the connection (";
        for what in [
            "SSL handshake failed: Disconnected: connection reset by peer: connecting to a PLAINTEXT broker listener? (after 3ms in state SSL_HANDSHAKE)",
            "Disconnected: SSL connection closed by peer (after 0ms in state SSL_HANDSHAKE)",
            "Disconnected: connection closed by peer (after 0ms in state SSL_HANDSHAKE, 1 identical error(s) suppressed)",
        ] {
            let said = told(RDKafkaErrorCode::BrokerTransportFailure, &format!("sasl_ssl://kafka-1:9092/1: {what}"));
            assert!(said.starts_with(expected) && said.contains("check kafka.properties.security.protocol"), "{said}");
        }
        for what in [
            "Disconnected: SSL connection closed by peer (after 600042ms in state UP)",
            "SSL handshake failed: certificate unknown (after 3ms in state SSL_HANDSHAKE)",
        ] {
            let said = told(RDKafkaErrorCode::BrokerTransportFailure, &format!("sasl_ssl://kafka-1:9092/1: {what}"));
            assert!(!said.contains("security.protocol"), "{said}");
        }
    }

    #[test]
    fn a_broker_that_cannot_be_reached_is_named_by_its_advertised_listener() {
        for (words, broker, why) in [
            (
                "nonesuch.invalid:9092/1: Failed to resolve 'nonesuch.invalid:9092': Name or service not known (after 1ms in state CONNECT)",
                "nonesuch.invalid:9092",
                "Failed to resolve 'nonesuch.invalid:9092': Name or service not known",
            ),
            (
                "[thrd:sasl_ssl://kafka-2:9093/2]: sasl_ssl://kafka-2:9093/2: Connect to ipv6#[fd00::2]:9093 failed: No route to host (after 3ms in state CONNECT)",
                "kafka-2:9093",
                "Connect to ipv6#[fd00::2]:9093 failed: No route to host",
            ),
            (
                "10.9.9.9:9092/17: Connection setup timed out in state CONNECT (after 30001ms in state CONNECT)",
                "10.9.9.9:9092",
                "Connection setup timed out in state CONNECT",
            ),
            (
                "[thrd:TxnCoordinator]: TxnCoordinator/3: kafka-3:9092: Failed to resolve 'kafka-3:9092': No address associated with hostname (after 1ms in state CONNECT)",
                "kafka-3:9092",
                "Failed to resolve 'kafka-3:9092': No address associated with hostname",
            ),
        ] {
            let trouble = Trouble::default();
            trouble.set(RDKafkaErrorCode::BrokerTransportFailure, words);
            let said = trouble.explain_silence(&KafkaError::Canceled);
            assert!(
                said.starts_with(&format!(
                    "Kafka's broker {broker} cannot be reached from here ({why}). {broker} is its advertised listener: "
                )),
                "{said}"
            );
            assert!(said.contains("advertised.listeners"), "{said}");
            assert_eq!(trouble.unreached(), Some(said));
            assert!(!trouble.is_kept_out(), "a newer password changes nothing: {words}");
        }
        for words in [
            "kafka-1:9092/bootstrap: Failed to resolve 'kafka-1:9092': Name or service not known (after 1ms in state CONNECT)",
            "kafka-1:9092/1: Disconnected (after 12ms in state UP)",
            "kafka-1:9092/1: Connection setup timed out in state AUTH_REQ (after 30001ms in state AUTH_REQ)",
        ] {
            let trouble = Trouble::default();
            trouble.set(RDKafkaErrorCode::BrokerTransportFailure, words);
            assert_eq!(trouble.unreached(), None, "{words}");
        }
    }

    #[test]
    fn a_topic_that_may_not_be_written_to_is_a_refusal_and_nothing_that_keeps_out() {
        let line = "[thrd:TxnCoordinator]: TxnCoordinator/1: Failed to add partition \"legs\" [0] to transaction: Broker: Topic authorization failed";
        let code = logged("ADDPARTS", line).unwrap();
        let trouble = Trouble::default();
        trouble.set(code, line);
        assert!(trouble.is_refusal() && !trouble.is_kept_out());
        assert_eq!(
            trouble.explain("nothing is published"),
            "nothing is published: topic legs: Kafka does not let this user write to it: grant WRITE on it"
        );
        assert!(logged("FAIL", line).is_none());
    }

    #[test]
    fn a_token_that_is_refused_is_told_from_a_password_and_one_that_is_missing_from_both() {
        let trouble = Trouble::default();
        trouble.set(
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://kafka-1:9093/1: SASL authentication error: {\"status\":\"invalid_token\"} (after 9ms in state AUTH_REQ)",
        );
        let refused = trouble.newest().unwrap();
        assert!(
            refused.starts_with("Kafka at kafka-1:9093 refuses the token ({\"status\":\"invalid_token\"}): "),
            "{refused}"
        );
        trouble.set_sign_in(Some("there is none".to_owned()));
        assert_eq!(trouble.newest().unwrap(), "there is none");
        assert!(trouble.is_kept_out());
        trouble.set_sign_in(None);
        assert_eq!(trouble.newest().unwrap(), refused);
    }

    #[test]
    fn who_is_kept_out_may_get_in_with_a_newer_secret() {
        let trouble = Trouble::default();
        assert!(!trouble.is_kept_out());
        trouble.set(
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://kafka-1:9093/1: SASL authentication error: Authentication failed (after 9ms in state AUTH_REQ)",
        );
        assert!(trouble.is_kept_out() && !trouble.is_refusal());
        trouble.set(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert!(!trouble.is_kept_out());
        trouble.clear();
        assert!(!trouble.is_kept_out());
    }
}
