//! The sections of the configuration as validated, typed values.
//!
//! What a value means is said here; its key, its default and its limits are in `keys`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use url::Url;

use super::guarantee;
use super::personal::Personal;
use super::secret::Secret;
use super::start_from::StartFrom;
use crate::core::dedupe::Revisions;
use crate::core::leg::TimeBasis;
use crate::core::poll_pace::{INTERVAL_MAX, INTERVAL_MIN};

/// `[source]`: the 8x8 Work Analytics API.
#[derive(Clone, Debug)]
pub struct Source {
    /// The API's base URL, with a slash at its end, so that `join("v2/call-legs")` appends.
    pub base_url: Url,
    /// Sent with every request as `8x8-apikey`.
    pub api_key: Secret,
    /// Who logs in.
    pub username: Personal<String>,
    /// The password of `username`.
    pub password: Secret,
    /// The PBXs by name, each read for itself; or `allpbxes` alone.
    pub pbx_ids: Vec<String>,
    /// The zone in which the API reads the query's bounds and writes its zoned times.
    pub time_zone: Tz,
    /// Rows asked for in one page.
    pub page_size: u32,
    /// Which of a leg's times the query's bounds refer to.
    pub time_basis: TimeBasis,
    /// Whether the API leaves out child calls and some other legs.
    pub simplified: bool,
    /// Only legs of these callers; empty for all.
    pub callers: Personal<Vec<String>>,
    /// Only legs to these callees; empty for all.
    pub callees: Personal<Vec<String>>,
    /// Only legs with one of these at either end; empty for all, and when one of the two above is not.
    pub callers_or_callees: Personal<Vec<String>>,
    /// How long one request may take, from the connection to the last byte.
    pub request_timeout: Duration,
    /// The most requests in any minute, logins included.
    pub requests_per_minute: u32,
    /// The largest body taken, in bytes, after decompression.
    pub max_body: u64,
    /// Certificates (PEM) trusted beside the usual ones.
    pub ca_file: Option<PathBuf>,
}

/// `[poll]`: what is read when.
#[derive(Clone, Debug)]
pub struct Poll {
    /// From the beginning of one read to that of the next.
    pub interval: PollInterval,
    /// How far back each read repeats the earlier ones; whole seconds.
    pub overlap: Duration,
    /// How long before a read its window's newest end is not trusted to be complete; whole seconds.
    pub settle: Duration,
    /// The longest window that one query spans; whole seconds.
    pub max_window: Duration,
    /// By how much this machine's clock and the API's may differ.
    pub clock_tolerance: Duration,
    /// Where the first read ever begins. Needed then, and never used again.
    pub start_from: Option<StartFrom>,
}

/// `poll.interval`: how often every unit is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollInterval {
    /// A poll begins so long after the one before.
    Every(Duration),
    /// `"auto"`: as often as the budget of requests allows.
    Auto,
}

impl PollInterval {
    /// The longest time between two polls that read the overlap: what the guarantees count with.
    pub const fn longest(self) -> Duration {
        match self {
            Self::Every(interval) => interval,
            Self::Auto => INTERVAL_MAX,
        }
    }

    /// The shortest time between two polls.
    pub const fn shortest(self) -> Duration {
        match self {
            Self::Every(interval) => interval,
            Self::Auto => INTERVAL_MIN,
        }
    }
}

/// `[freshness]`: what is promised to consumers, and measured.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// From a leg's disconnect to Kafka, at most.
    pub objective: Duration,
}

/// `[dead_letter]`: rows that cannot be legs.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter {
    /// The share of a window's rows that may be dead, or of another time, before it is not believed; 0 to 1.
    pub max_ratio: f64,
    /// Whether rows that cannot be read are published as they came, although there is a privacy policy.
    pub raw: bool,
}

/// `[policy]`: what becomes of legs that are not simply new.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What becomes of a leg whose content changed after it was published.
    pub revisions: Revisions,
}

/// `[kafka]`: the topic and the way to it.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// The brokers to ask first, each `host:port` or `host`.
    pub bootstrap_servers: Vec<String>,
    /// The topic of the legs; the topics beside it have its name with a suffix.
    pub topic: String,
    /// Partitions of the topic, when it is created.
    pub partitions: i32,
    /// Replicas of the topics that are created; without it as many as the brokers' default.
    pub replication_factor: Option<i32>,
    /// What a message's timestamp is.
    pub timestamp: MessageTimestamp,
    /// The guarantee to publish with.
    pub delivery: Delivery,
    /// The connector's own topic; two accounts that share a topic of legs have one each.
    pub journal: String,
    /// How often at the latest every unit's status is written.
    pub beat: Duration,
    /// The password of the property `sasl.username`.
    pub sasl_password: Option<Secret>,
    /// Where tokens for SASL's OAUTHBEARER come from; given exactly where that is the mechanism.
    pub oauth: Option<OAuth>,
    /// SASL extensions that go with each token.
    pub oauth_extensions: Properties,
    /// Settings of the topic, when it is created.
    pub topic_config: BTreeMap<String, String>,
    /// Properties of librdkafka, none of those that the guarantee rests on.
    pub properties: Properties,
}

/// `[kafka.oauth]`, `[avro.oauth]`: a client of an OAuth 2.0 token endpoint, by client credentials.
#[derive(Clone, Debug)]
pub struct OAuth {
    /// The names of its keys, for messages.
    pub keys: &'static OAuthKeys,
    /// The token endpoint, as given.
    pub token_url: Url,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// What the token is asked to be good for, in the words of the endpoint.
    pub scope: Option<String>,
    /// Certificates (PEM) trusted beside the usual ones.
    pub ca_file: Option<PathBuf>,
}

/// The keys of an [`OAuth`] in full.
#[derive(Debug)]
pub struct OAuthKeys {
    /// Of the token endpoint.
    pub token_url: &'static str,
    /// Of the client's id.
    pub client_id: &'static str,
    /// Of the client's secret, and with `_file` of its file.
    pub client_secret: &'static str,
    /// Of the scope.
    pub scope: &'static str,
    /// Of the certificates.
    pub ca_file: &'static str,
}

/// What a message's timestamp is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageTimestamp {
    /// When the leg was disconnected.
    Disconnect,
    /// When the message was published.
    Publish,
}

/// The guarantee to publish with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Exactly once, and at least once on a cluster that is proven unable to.
    Auto,
    /// Exactly once, or not at all.
    ExactlyOnce,
    /// At least once.
    AtLeastOnce,
}

/// Properties of librdkafka; `Debug` hides the values that may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(pub(super) BTreeMap<String, String>);

impl Deref for Properties {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(properties: I) -> Self {
        Self(properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value)| (name, if guarantee::is_secret(name) { "[secret]" } else { value });
        f.debug_map().entries(self.iter().map(|(name, value)| (name.as_str(), value.as_str())).map(shown)).finish()
    }
}

/// `[avro]`: how a record's schema is found by its reader.
#[derive(Clone, Debug)]
pub struct Avro {
    /// What precedes the Avro bytes of a record.
    pub framing: Framing,
}

/// What precedes the Avro bytes of a record.
#[derive(Clone, Debug)]
pub enum Framing {
    /// A zero byte and the schema's number in the registry.
    Confluent(Registry),
    /// The schema's fingerprint, as Avro's specification has it. A registry is asked only by
    /// readers, about records that were framed for one before.
    SingleObject(Option<Registry>),
}

impl Framing {
    /// The schema registry, where one is named.
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Confluent(registry) => Some(registry),
            Self::SingleObject(registry) => registry.as_ref(),
        }
    }
}

/// The schema registry.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Its URL, as given.
    pub url: Url,
    /// How to sign in, where the registry asks.
    pub sign_in: Option<SignIn>,
    /// The PEM files of a client certificate and its key, where the registry asks for one by TLS.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Certificates (PEM) trusted beside the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Whether schemas are registered; otherwise they have to be there.
    pub register: bool,
}

/// How the connector signs in to the schema registry.
#[derive(Clone, Debug)]
pub enum SignIn {
    /// With a user's name and password.
    Basic(Credentials),
    /// With a token that somebody else renews.
    Token(Secret),
    /// With a token from an endpoint.
    OAuth(OAuth),
}

/// A user of the schema registry.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user's name, or the name of an API key.
    pub username: String,
    /// The user's password, or the API key's secret.
    pub password: Secret,
}

/// `[state]`: what is kept on disk.
#[derive(Clone, Debug)]
pub struct State {
    /// The directory of the state, this process's alone. Only [`Config::read`](super::Config::read) leaves it out.
    pub dir: Option<PathBuf>,
    /// How long the identities of published legs are kept; whole seconds, never less than the overlap.
    pub horizon: Duration,
}

/// `[admin]`: the port for health, metrics and commands.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What looking takes; without one everybody may.
    pub token: Option<Secret>,
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// A level or other filter directives of tracing-subscriber's, checked.
    pub level: String,
    /// The form of a log line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[telemetry]`: where traces and metrics go besides.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// An OpenTelemetry collector that takes OTLP over HTTP, with a slash at its end; without one nothing is sent.
    pub otlp_endpoint: Option<Url>,
}
