//! What every Kafka client of the connector shares: its settings, and where librdkafka's words go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use secrecy::ExposeSecret;

use super::SinkError;
use super::sign_in::{SignsIn, Tokens};
use super::trouble::{self, Trouble, is_refusal};
use crate::config;
use crate::telemetry::KafkaFigures;

/// How many errors of one consumer are taken at a time.
const NEWS_MAX: usize = 1_000;
/// How long log lines of one consumer are taken at a time.
const NEWS_WAIT: Duration = Duration::from_millis(1);

/// The settings of any client: ours, then the user's.
pub fn settings(kafka: &config::Kafka) -> Result<ClientConfig, SinkError> {
    let mut settings = settings_without_password(kafka);
    if let Some(password) = &kafka.sasl_password {
        // It could be read at the start: a file that is away now is being replaced.
        let password = password.read().map_err(|error| SinkError::Unavailable(error.to_string()))?;
        settings.set("sasl.password", password.expose_secret());
    }
    Ok(settings)
}

/// Asks librdkafka whether it knows the properties and takes their values; no file is opened and nobody is called.
///
/// # Errors
/// With the property that is refused.
pub fn check_properties(kafka: &config::Kafka) -> Result<(), SinkError> {
    settings_without_password(kafka).create_native_config().map(drop).map_err(refused)
}

fn settings_without_password(kafka: &config::Kafka) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", kafka.bootstrap_servers.join(","))
        .set("client.id", "call-legs")
        .set("allow.auto.create.topics", "false")
        // The default of ten seconds keeps a client waiting long after the brokers are back.
        .set("reconnect.backoff.max.ms", "1000");
    for (name, value) in kafka.properties.iter() {
        settings.set(name, value);
    }
    // Broken connections are told by log lines alone: see `Context::breaks`.
    settings.set("log.connection.close", "true");
    settings.set_log_level(RDKafkaLogLevel::Info);
    settings
}

/// A client, which gets its tokens where Kafka takes tokens. A producer has a context of its own around this one.
pub(super) fn create<T: FromClientConfigAndContext<Context> + SignsIn + 'static>(
    settings: &ClientConfig,
    context: &Context,
) -> Result<Arc<T>, SinkError> {
    let client = Arc::new(T::from_config_and_context(settings, context.clone()).map_err(refused)?);
    context.keep_signed_in(&client);
    Ok(client)
}

/// Hands librdkafka's log lines and errors to the context of a consumer that reads nothing.
pub fn take_news(consumer: &BaseConsumer<Context>) {
    // A poll takes log lines until its time is over, and returns with each error.
    let _ = (0..NEWS_MAX).take_while(|_| consumer.poll(NEWS_WAIT).is_some()).count();
}

/// What librdkafka thinks of the settings, without their values, which its own words repeat.
pub fn refused(error: KafkaError) -> SinkError {
    SinkError::Refused(match error {
        KafkaError::ClientConfig(_, description, name, _) if description.starts_with("No such") => {
            format!("kafka.properties: librdkafka has no property {name}")
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("kafka.properties: librdkafka refuses the value of {name}"),
        KafkaError::ClientCreation(words) => match words.split_once(" failed: ") {
            Some((name, why)) if name.starts_with("ssl.") && !name.contains(' ') => format!(
                "kafka.properties: what {name} names cannot be used ({why}): it must be a PEM file that this user may read, and a key must be that of its certificate"
            ),
            _ => format!("kafka.properties: {words}"),
        },
        other => format!("kafka.properties: {other}"),
    })
}

/// Takes librdkafka's log lines and errors.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The newest error of this client.
    pub trouble: Trouble,
    /// The newest error of any of several clients.
    shared: Trouble,
    breaks: Arc<AtomicU64>,
    /// What producers tell.
    figures: Arc<KafkaFigures>,
    tokens: Option<Tokens>,
}

impl Context {
    /// The context of the clients of this Kafka.
    ///
    /// # Errors
    /// When there can be no tokens.
    pub fn new(kafka: &config::Kafka) -> Result<Self, SinkError> {
        Ok(Self { tokens: Tokens::of(kafka)?, ..Self::default() })
    }

    /// The context of another client that tells its trouble to `shared` as well, and gets the same tokens.
    pub fn within(&self, shared: &Trouble) -> Self {
        Self {
            shared: shared.clone(),
            tokens: self.tokens.clone(),
            figures: Arc::clone(&self.figures),
            ..Self::default()
        }
    }

    /// Gives a client its tokens from now on, where Kafka takes tokens.
    pub(super) fn keep_signed_in<T: SignsIn + 'static>(&self, client: &Arc<T>) {
        if let Some(tokens) = &self.tokens {
            tokens.keep(client, [self.trouble.clone(), self.shared.clone()]);
        }
    }

    /// What producers with this context tell.
    pub fn figures(&self) -> Arc<KafkaFigures> {
        Arc::clone(&self.figures)
    }

    /// How often a connection in use broke, or a request was not answered in time: whoever compares
    /// two counts knows whether a request may have been sent twice between. A connection that did not
    /// come about is none of these.
    pub fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Acquire)
    }

    fn tell(&self, code: RDKafkaErrorCode, words: &str) {
        self.trouble.set(code, words);
        self.shared.set(code, words);
    }

    /// The brokers have done as asked, whatever was before.
    pub fn relieved(&self) {
        self.trouble.clear();
        self.shared.clear();
    }

    /// What failed, with the newest trouble behind it, as the error that this trouble makes it.
    pub fn failed(&self, what: &str) -> SinkError {
        self.as_error(self.trouble.explain(what))
    }

    fn as_error(&self, sentence: String) -> SinkError {
        if self.trouble.is_refusal() { SinkError::Refused(sentence) } else { SinkError::Unavailable(sentence) }
    }

    /// The same about a question that was not answered.
    pub fn unanswered(&self, error: &KafkaError) -> SinkError {
        if let Some(code) = error.rdkafka_error_code().filter(|code| is_refusal(*code)) {
            return SinkError::Refused(format!("Kafka does not let this user ask ({code})"));
        }
        self.as_error(self.trouble.explain_silence(error))
    }
}

impl ClientContext for Context {
    /// librdkafka repeats a lost connection every second, and calls a fenced producer an emergency: what
    /// matters of it the connector says once, itself.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if is_break(facility, message) {
            self.breaks.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(code) = trouble::logged(facility, message) {
            self.tell(code, message);
        }
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn stats(&self, statistics: Statistics) {
        let brokers = statistics.brokers.values();
        let round_trip = brokers.clone().filter_map(|broker| broker.rtt.as_ref()).map(|rtt| rtt.avg).max();
        let failed = brokers.map(|broker| broker.txerrs + broker.rxerrs + broker.req_timeouts).sum();
        let round_trip = Duration::from_micros(round_trip.and_then(|us| u64::try_from(us).ok()).unwrap_or_default());
        self.figures.note(&statistics.name, statistics.msg_cnt, round_trip, failed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode::{GroupAuthorizationFailed, PartitionEOF};
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        match error.rdkafka_error_code() {
            // An end is no trouble. librdkafka looks for its group's coordinator even where no group
            // is used, and ours use none.
            None | Some(PartitionEOF | GroupAuthorizationFailed) => {}
            // The sum of what was told before, which says more.
            Some(RDKafkaErrorCode::AllBrokersDown) if self.trouble.newest().is_some() => {}
            Some(code) => self.tell(code, reason),
        }
    }
}

impl ConsumerContext for Context {}

/// Whether a log line tells of a connection that broke while it was in use, or of requests that were
/// not answered in time. librdkafka makes errors only of connections that do not come about.
fn is_break(facility: &str, message: &str) -> bool {
    match facility {
        "FAIL" => message.contains("in state UP"),
        "REQTMOUT" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_in_use_can_break() {
        for (facility, message, expected) in [
            ("FAIL", "[thrd:b:9092/1]: b:9092/1: Disconnected (after 12ms in state UP)", true),
            ("FAIL", "[thrd:b:9092/1]: b:9092/1: Connect to ipv4#… failed (after 2ms in state CONNECT)", false),
            ("REQTMOUT", "[thrd:b:9092/1]: b:9092/1: Timed out EndTxnRequest in flight", true),
            ("TERMINATE", "[thrd:app]: Terminating instance", false),
        ] {
            assert_eq!(is_break(facility, message), expected, "{message}");
        }
    }

    #[test]
    fn refused_settings_are_named_without_their_values() {
        for (name, value, expected) in [
            ("sasl.pasword", "hunter2", "kafka.properties: librdkafka has no property sasl.pasword"),
            ("security.protocol", "hunter2", "kafka.properties: librdkafka refuses the value of security.protocol"),
        ] {
            let created: Result<BaseConsumer, KafkaError> = ClientConfig::new().set(name, value).create();
            let message = refused(created.err().unwrap()).to_string();
            assert!(!message.contains("hunter2"), "{message}");
            assert_eq!(message, expected);
        }
    }
}
