//! What every Kafka client of the connector shares: its settings, and where librdkafka's words go.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use secrecy::ExposeSecret;

use super::SinkError;
use crate::config;

/// The settings of any client: ours, then the user's.
pub fn settings(kafka: &config::Kafka) -> Result<ClientConfig, SinkError> {
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
    if let Some(password) = &kafka.sasl_password {
        let password = password.read().map_err(|error| SinkError::Refused(error.to_string()))?;
        settings.set("sasl.password", password.expose_secret());
    }
    settings.set_log_level(RDKafkaLogLevel::Info);
    Ok(settings)
}

/// What librdkafka thinks of the settings, without their values, which its own words repeat.
pub fn refused(error: KafkaError) -> SinkError {
    SinkError::Refused(match error {
        KafkaError::ClientConfig(_, description, name, _) if description.starts_with("No such") => {
            format!("kafka.properties: librdkafka has no property {name}")
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("kafka.properties: librdkafka refuses the value of {name}"),
        other => format!("kafka.properties: {other}"),
    })
}

/// The newest trouble that a client had with its brokers, shared with whoever reports it.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>);

impl Trouble {
    /// The newest trouble in librdkafka's words, and its code.
    pub fn newest(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `what`, and the newest trouble behind it where there is one.
    pub fn explain(&self, what: &str) -> String {
        match self.newest() {
            Some((_, reason)) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }

    /// Whether the brokers refuse what we may do, which no waiting mends. A failed authentication is
    /// none: librdkafka calls time-outs of starting brokers so, too.
    pub fn is_refusal(&self) -> bool {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
        matches!(self.newest(), Some((TopicAuthorizationFailed | ClusterAuthorizationFailed, _)))
    }
}

/// Takes librdkafka's log lines and errors.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The newest error.
    pub trouble: Trouble,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    /// librdkafka repeats a lost connection every second; the connector says it once, itself.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if let Some(code) = error.rdkafka_error_code() {
            *self.trouble.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, reason.to_owned()));
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Err("tokens are fetched by librdkafka itself: set kafka.properties \"sasl.oauthbearer.method\" = \"oidc\""
            .into())
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::consumer::BaseConsumer;

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
