//! A client of the schema registry, speaking Confluent's REST protocol.
//!
//! It registers or looks up a schema, fetches one by its id and lists subjects. It neither retries
//! nor waits: errors say whether trying again can help, and the caller decides when. Ids are kept
//! once known, so that a registry that goes away later does no harm.
//!
//! It is its own client on `reqwest` because the one that exists, `schema_registry_converter` 6.0,
//! cannot do four things that are needed here: name the reasons for which a schema is incompatible
//! (its check returns a bare boolean and leaves the subject unencoded); tell a passing failure from
//! a final one (500, 504 and 429 count as final, and the status exists only inside a sentence);
//! bound an answer's size; and read the password anew for each request.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use url::{Position, Url};

use crate::http::{self, ClientError, Fault, Identity, secret_header};
use crate::oauth::{TokenClient, TokenError};

const URL: &str = "avro.schema_registry_url";
const CA_FILE: &str = "avro.schema_registry_ca_file";
const CERTIFICATE_FILE: &str = "avro.schema_registry_certificate_file";
const KEY_FILE: &str = "avro.schema_registry_key_file";

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
const MEDIA_TYPES: &str =
    "application/vnd.schemaregistry.v1+json, application/vnd.schemaregistry+json; q=0.9, application/json; q=0.8";

/// The largest answer that is read, in bytes. The largest there is lists the subjects of a registry
/// that ignores the prefix asked for: room for some 60,000 of them.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much of a registry's text an error keeps, in characters.
const MESSAGE_CHARS_MAX: usize = 600;

/// How many reasons for an incompatibility an error keeps.
const REASONS_MAX: usize = 10;

/// How many ids are remembered; the connector publishes to a handful of subjects.
const IDS_MAX: usize = 64;

/// The subject of a topic's values, by Confluent's TopicNameStrategy.
pub fn subject_of_values(topic: &str) -> String {
    format!("{topic}-value")
}

/// Reads the password or token for one request, so that a renewed one is used without a restart.
pub type PasswordSource = Arc<dyn Fn() -> io::Result<SecretString> + Send + Sync>;

/// What a registry asks for as basic authentication.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name; an API key with Confluent Cloud.
    pub username: String,
    /// Where the password comes from; the API secret with Confluent Cloud.
    pub password: PasswordSource,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// How the registry is told who asks.
#[derive(Clone)]
pub enum Authorization {
    /// Basic authentication.
    Basic(Credentials),
    /// A bearer token.
    Bearer(PasswordSource),
    /// A bearer token by client credentials, fetched for each request: there are a few at a start.
    OAuth(Arc<TokenClient>),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(..)")
    }
}

/// Where a registry is and how it is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The base URL; a path in it is kept, as Apicurio's `/apis/ccompat/v7` needs.
    pub url: Url,
    /// Who asks, where the registry wants to know.
    pub authorization: Option<Authorization>,
    /// PEM files of a client certificate and its key, where the registry asks for one by TLS.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a request may take from connecting to the answer's last byte.
    pub request_timeout: Duration,
}

/// A registry's client. It holds a pool of connections and the ids it was given; build it once.
pub struct Registry {
    http: Client,
    url: Url,
    host: String,
    authorization: Option<Authorization>,
    ids: Mutex<HashMap<(String, String), u32>>,
}

impl Registry {
    /// A client for the registry at `settings.url`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the CA file, the certificate or its key cannot be used.
    pub fn new(settings: Settings) -> Result<Self, ClientError> {
        let Settings { url, authorization, identity, ca_file, connect_timeout, request_timeout: timeout } = settings;
        let ca_file = ca_file.as_deref().map(|path| (CA_FILE, path));
        let identity = identity
            .as_ref()
            .map(|(certificate, key)| Identity { certificate: (CERTIFICATE_FILE, certificate), key: (KEY_FILE, key) });
        let http = http::client(&http::Settings { url: &url, ca_file, identity, connect_timeout, timeout })?;
        let host = url[Position::BeforeHost..Position::AfterPort].to_owned();
        Ok(Self { http, url, host, authorization, ids: Mutex::default() })
    }

    /// The subjects whose names start with `prefix`: the cheapest question that needs the registry
    /// to be there and to accept the credentials. Registries that do not know the prefix name all.
    ///
    /// # Errors
    /// Any [`RegistryError`].
    pub async fn subjects(&self, prefix: &str) -> Result<Vec<String>, RegistryError> {
        let mut request = self.request(Method::GET, &["subjects"], Step::List).await?;
        request.http = request.http.query(&[("subjectPrefix", prefix)]);
        let mut subjects: Vec<String> = request.send().await?;
        subjects.retain(|subject| subject.starts_with(prefix));
        Ok(subjects)
    }

    /// Registers an Avro schema under a subject and returns its id. A schema that is there already
    /// keeps its id. The answer is remembered.
    ///
    /// # Errors
    /// Any [`RegistryError`]. A schema that is incompatible with earlier ones of the subject is
    /// [`RegistryError::Refused`] with status 409 and the registry's reasons.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        self.id(subject, schema, &["subjects", subject, "versions"], Step::Register(subject)).await
    }

    /// The id of an Avro schema that is registered under a subject, for connectors that may not
    /// register. The answer is remembered.
    ///
    /// # Errors
    /// Any [`RegistryError`]; [`RegistryError::NotFound`] when the subject does not have the schema.
    pub async fn lookup(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        self.id(subject, schema, &["subjects", subject], Step::Lookup(subject)).await
    }

    /// The text of the Avro schema with this id. It is not remembered here.
    ///
    /// # Errors
    /// Any [`RegistryError`]; [`RegistryError::NotFound`] when there is no schema with this id.
    pub async fn schema_by_id(&self, id: u32) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            schema: String,
            // Left out when it is Avro.
            #[serde(default)]
            schema_type: Value,
        }
        let step = Step::Fetch(id);
        let Answer { schema, schema_type } =
            self.request(Method::GET, &["schemas", "ids", &id.to_string()], step).await?.send().await?;
        match schema_type.as_str() {
            Some(kind) if kind != "AVRO" => {
                Err(RegistryError::NotAvro { host: self.host.clone(), id, kind: legible(kind) })
            }
            _ => Ok(schema),
        }
    }

    /// The reasons for which the registry finds a schema incompatible with earlier ones of the
    /// subject; none when it finds it compatible or has no such subject. Nothing is registered.
    ///
    /// # Errors
    /// Any [`RegistryError`].
    pub async fn incompatibilities(&self, subject: &str, schema: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            is_compatible: bool,
            #[serde(default)]
            messages: Value,
        }
        let ask = async |path: &[&str]| -> Result<Vec<String>, RegistryError> {
            let mut request = self.request(Method::POST, path, Step::Compare(subject)).await?;
            request.http = request.http.query(&[("verbose", "true")]).body(json!({ "schema": schema }).to_string());
            let Answer { is_compatible, messages } = request.send().await?;
            if is_compatible {
                return Ok(Vec::new());
            }
            // Confluent appends the whole old schema to its reasons.
            let messages = messages.as_array().into_iter().flatten().filter_map(Value::as_str);
            let reasons = messages.filter(|message| !message.starts_with("{oldSchema:"));
            let reasons: Vec<_> = reasons.take(REASONS_MAX).map(legible).collect();
            // No reason must not look like no incompatibility.
            Ok(if reasons.is_empty() { vec!["the registry names none".to_owned()] } else { reasons })
        };
        // Without a version the registry compares as it does for registering, under a transitive
        // level with all versions. Older registries only compare with one.
        match ask(&["compatibility", "subjects", subject, "versions"]).await {
            Err(RegistryError::Refused(_) | RegistryError::NotFound(_)) => {}
            answered => return answered,
        }
        match ask(&["compatibility", "subjects", subject, "versions", "latest"]).await {
            // There is no version yet, so none to be incompatible with.
            Err(RegistryError::NotFound(_)) => Ok(Vec::new()),
            answered => answered,
        }
    }

    async fn id(&self, subject: &str, schema: &str, path: &[&str], step: Step<'_>) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            id: u32,
        }
        let key = (subject.to_owned(), schema.to_owned());
        if let Some(id) = self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*id);
        }
        let mut request = self.request(Method::POST, path, step).await?;
        // The type is left out: AVRO is the default, and old registries know no other.
        request.http = request.http.body(json!({ "schema": schema }).to_string());
        match request.send::<Answer>().await {
            Ok(Answer { id }) => {
                let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
                if ids.len() >= IDS_MAX {
                    ids.clear();
                }
                ids.insert(key, id);
                Ok(id)
            }
            Err(RegistryError::Refused(mut answer)) if answer.status == StatusCode::CONFLICT => {
                // The refusal stands whatever comes of asking for its reasons.
                answer.reasons = self.incompatibilities(subject, schema).await.unwrap_or_default();
                Err(RegistryError::Refused(answer))
            }
            Err(error) => Err(error),
        }
    }

    async fn request(&self, method: Method, path: &[&str], step: Step<'_>) -> Result<Request, RegistryError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Each part is percent-encoded as one segment: a subject may hold any character.
            segments.pop_if_empty().extend(path);
        }
        let mut http = self.http.request(method, url).header(ACCEPT, MEDIA_TYPES).header(CONTENT_TYPE, MEDIA_TYPE);
        let unreadable = |source| RegistryError::Password { host: self.host.clone(), source };
        http = match &self.authorization {
            None => http,
            Some(Authorization::Basic(Credentials { username, password })) => {
                http.basic_auth(username, Some(password().map_err(unreadable)?.expose_secret()))
            }
            Some(Authorization::Bearer(token)) => {
                let token = token().map_err(unreadable)?;
                if secret_header(token.expose_secret()).is_none() {
                    return Err(unreadable(io::Error::other("it holds characters that no HTTP header can carry")));
                }
                http.bearer_auth(token.expose_secret())
            }
            Some(Authorization::OAuth(tokens)) => http.bearer_auth(tokens.request().await?.bearer.expose_secret()),
        };
        Ok(Request { http, host: self.host.clone(), step: step.to_string() })
    }
}

/// What the registry is asked, as errors say it.
#[derive(Clone, Copy)]
enum Step<'a> {
    List,
    Register(&'a str),
    Lookup(&'a str),
    Fetch(u32),
    Compare(&'a str),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => f.write_str("to list subjects"),
            Self::Register(subject) => write!(f, "to register the schema under subject {subject}"),
            Self::Lookup(subject) => write!(f, "to look up the schema under subject {subject}"),
            Self::Fetch(id) => write!(f, "to fetch schema {id}"),
            Self::Compare(subject) => write!(f, "to compare the schema with those of subject {subject}"),
        }
    }
}

/// A request about to be sent, with what errors say of it.
struct Request {
    http: reqwest::RequestBuilder,
    host: String,
    step: String,
}

impl Request {
    async fn send<T: DeserializeOwned>(self) -> Result<T, RegistryError> {
        let Self { http, host, step } = self;
        let http::Answer { status, body, .. } = match http::send(http, ANSWER_BYTES_MAX).await {
            Ok(answer) => answer,
            Err(error) if error.fault == Fault::TooLarge => {
                return Err(RegistryError::Garbled { host, step, reason: error.to_string() });
            }
            Err(source) => {
                return Err(match source.tls_advice(&format!("the schema registry at {host}"), [URL, CA_FILE]) {
                    Some(advice) => RegistryError::Tls { advice, source },
                    None => RegistryError::Unreachable { host, step, source },
                });
            }
        };
        if status.is_success() {
            // The library's message quotes nothing but names the place, which is enough to find it.
            return serde_json::from_slice(&body).map_err(|error| RegistryError::Garbled {
                host,
                step,
                reason: format!("it is not the JSON expected: {}", legible(&error.to_string())),
            });
        }
        let answer = Box::new(Answer::new(host, step, status, &body));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized(answer),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => RegistryError::Unavailable(answer),
            _ if status.is_server_error() => RegistryError::Unavailable(answer),
            // 40401, 40402, 40403: no such subject, version, schema. A path that the server does
            // not have at all is 404 with another code, or none.
            StatusCode::NOT_FOUND if matches!(answer.code, Some(40_400..=40_499)) => RegistryError::NotFound(answer),
            _ => RegistryError::Refused(answer),
        })
    }
}

/// A foreign text made fit for one line of a log.
fn legible(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The registry's host, and its port if the URL names one.
    pub host: String,
    /// What was asked, as "to register the schema under subject calls-value".
    pub step: String,
    /// The HTTP status.
    pub status: StatusCode,
    /// The registry's own code, as 40401; absent when the answer is not in the registry's form.
    pub code: Option<i64>,
    /// The registry's own words, or the beginning of whatever came instead.
    pub message: String,
    /// For an incompatible schema, what is incompatible in the registry's own words.
    pub reasons: Vec<String>,
}

impl Answer {
    fn new(host: String, step: String, status: StatusCode, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let code = &json["error_code"];
        let code = code.as_i64().or_else(|| code.as_str()?.parse().ok());
        let message = match json["message"].as_str() {
            Some(message) => legible(message),
            None => legible(&String::from_utf8_lossy(body)),
        };
        Self { host, step, status, code, message, reasons: Vec::new() }
    }

    fn advice(&self) -> &'static str {
        match self.status.as_u16() {
            300..=399 => "; give the URL that it redirects to",
            404 => "; check the URL, which may need a path",
            409 => "; publish to another topic, or change the subject's compatibility level",
            _ => "",
        }
    }
}

/// As `409 (code 409) Schema being registered is incompatible: reason; reason`.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        if let Some(code) = self.code {
            write!(f, " (code {code})")?;
        }
        if !self.message.is_empty() {
            write!(f, " {}", self.message)?;
        }
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason}", if index == 0 { "; its reasons:" } else { ";" })?;
        }
        Ok(())
    }
}

/// Why the registry did not do what it was asked. No message holds a secret or a user's name.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No connection, no answer in time, or an answer that was cut off. Trying again can help.
    #[error("the schema registry at {host} cannot be reached {step}; check that it runs and that its URL is right")]
    Unreachable {
        /// The registry's host, and its port if the URL names one.
        host: String,
        /// What was asked.
        step: String,
        /// The HTTP client's error.
        source: http::Error,
    },
    /// A server whose certificate is not trusted, or without TLS. Trying again helps once that is mended.
    #[error("{advice}")]
    Tls {
        /// What is wrong, and what to do.
        advice: String,
        /// The HTTP client's error.
        source: http::Error,
    },
    /// The registry is there and cannot answer at the moment: 408, 429 or 5xx. Trying again can help.
    #[error("the schema registry at {} could not answer a request {}: {}", .0.host, .0.step, .0)]
    Unavailable(Box<Answer>),
    /// A success whose body is not what the protocol says. Trying again can help.
    #[error(
        "the schema registry at {host} gave an unusable answer to a request {step}: {reason}; check that its URL is right"
    )]
    Garbled {
        /// The registry's host, and its port if the URL names one.
        host: String,
        /// What was asked.
        step: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The registry does not have the subject or the schema that was asked for (code 404xx).
    #[error("the schema registry at {} has nothing for a request {}: {}; register the schema first", .0.host, .0.step, .0)]
    NotFound(Box<Answer>),
    /// The registry understood and said no: an incompatible schema (409), an invalid one (422), or
    /// the URL is not that of a registry (404, a redirect).
    #[error("the schema registry at {} refused a request {}: {}{}", .0.host, .0.step, .0, .0.advice())]
    Refused(Box<Answer>),
    /// The registry does not accept the credentials (401), or they do not suffice (403).
    #[error("the schema registry at {} denied a request {}: {}; check how the connector signs in (user and password, token, or client) and what it may do", .0.host, .0.step, .0)]
    Unauthorized(Box<Answer>),
    /// The token endpoint gives no token, so nothing was sent. Trying again can help.
    #[error(transparent)]
    NoToken(#[from] TokenError),
    /// The password or token cannot be read, so nothing was sent.
    #[error("the password or token for the schema registry at {host} cannot be read")]
    Password {
        /// The registry's host, and its port if the URL names one.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// A schema was asked for by its id, and it is one of another kind.
    #[error("schema {id} of the schema registry at {host} is {kind} and not Avro")]
    NotAvro {
        /// The registry's host, and its port if the URL names one.
        host: String,
        /// The id asked for.
        id: u32,
        /// The kind that the registry names, as PROTOBUF.
        kind: String,
    },
}

impl RegistryError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Unavailable(_)
            | Self::Garbled { .. }
            | Self::NoToken(_) => true,
            Self::NotFound(_)
            | Self::Refused(_)
            | Self::Unauthorized(_)
            | Self::Password { .. }
            | Self::NotAvro { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::codec::mock_registry::{Asked, MockRegistry, Reply, settings};

    const SCHEMA: &str = "{\"type\":\"string\"}";

    /// A registry that answers everything the same.
    async fn always(status: u16, body: &'static str) -> MockRegistry {
        MockRegistry::start(move |_| Reply::text(status, body)).await
    }

    fn incompatible(asked: &Asked, compared: Reply) -> Reply {
        match asked.target.split('/').nth(1) {
            Some("compatibility") => compared,
            _ => Reply::json(
                409,
                json!({"error_code": 409, "message": "Schema being registered is incompatible with an earlier schema"}),
            ),
        }
    }

    #[tokio::test]
    async fn registering_speaks_the_documented_protocol() {
        let mock = always(200, "{\"id\":42,\"version\":1,\"schemaType\":\"AVRO\"}").await;
        assert_eq!(mock.client().register("calls-value", SCHEMA).await.unwrap(), 42);

        let asked = &mock.requests()[0];
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/subjects/calls-value/versions"));
        assert_eq!(asked.headers["content-type"], "application/vnd.schemaregistry.v1+json");
        assert!(asked.headers["accept"].to_str().unwrap().starts_with("application/vnd.schemaregistry.v1+json"));
        assert!(!asked.headers.contains_key("authorization"));
        assert_eq!(asked.body, "{\"schema\":\"{\\\"type\\\":\\\"string\\\"}\"}");
    }

    #[tokio::test]
    async fn looking_up_does_not_register() {
        let mock =
            always(200, "{\"subject\":\"calls-value\",\"version\":3,\"id\":7,\"schema\":\"\\\"string\\\"\"}").await;
        assert_eq!(mock.client().lookup("calls-value", SCHEMA).await.unwrap(), 7);
        assert_eq!(mock.requests()[0].target, "/subjects/calls-value");
    }

    #[tokio::test]
    async fn a_known_id_outlives_the_registry() {
        let mut mock = always(200, "{\"id\":42}").await;
        let registry = mock.client();
        assert_eq!(registry.register("calls-value", SCHEMA).await.unwrap(), 42);
        mock.stop().await;
        assert_eq!(registry.register("calls-value", SCHEMA).await.unwrap(), 42);
        assert_eq!(registry.lookup("calls-value", SCHEMA).await.unwrap(), 42);
        let error = registry.register("status-value", SCHEMA).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unreachable { .. }) && error.is_retryable(), "{error}");
    }

    #[tokio::test]
    async fn subjects_are_encoded_and_a_path_in_the_url_is_kept() {
        let mock = always(200, "{\"id\":1}").await;
        for base in ["/apis/ccompat/v7", "/apis/ccompat/v7/"] {
            let mut settings = mock.settings.clone();
            settings.url.set_path(base);
            let registry = Registry::new(settings).unwrap();
            registry.register("a/b c?d#é%2F-value", SCHEMA).await.unwrap();
        }
        for asked in mock.requests() {
            assert_eq!(asked.target, "/apis/ccompat/v7/subjects/a%2Fb%20c%3Fd%23%C3%A9%252F-value/versions");
        }
    }

    #[tokio::test]
    async fn an_incompatible_schema_is_refused_with_the_registrys_reasons() {
        let mock = MockRegistry::start(|asked| {
            let messages = [
                "{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'unit' has no default'}",
                "{oldSchemaVersion: 1}",
                "{oldSchema: '{\"type\":\"record\"}'}",
                "{compatibility: 'BACKWARD_TRANSITIVE'}",
            ];
            incompatible(asked, Reply::json(200, json!({"is_compatible": false, "messages": messages})))
        })
        .await;
        let error = mock.client().register("calls-value", SCHEMA).await.unwrap_err();
        assert!(!error.is_retryable());
        let RegistryError::Refused(answer) = &error else { panic!("{error}") };
        assert_eq!((answer.status.as_u16(), answer.code), (409, Some(409)));
        assert_eq!(answer.reasons.len(), 3);
        let message = error.to_string();
        let host = answer.host.clone();
        assert_eq!(
            message,
            format!(
                "the schema registry at {host} refused a request to register the schema under subject calls-value: \
                 409 (code 409) Schema being registered is incompatible with an earlier schema; its reasons: \
                 {{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'unit' has no default'}}; \
                 {{oldSchemaVersion: 1}}; {{compatibility: 'BACKWARD_TRANSITIVE'}}; \
                 publish to another topic, or change the subject's compatibility level"
            )
        );
        assert_eq!(mock.requests()[1].target, "/compatibility/subjects/calls-value/versions?verbose=true");
        assert_eq!(mock.requests().len(), 2);
    }

    #[tokio::test]
    async fn a_registry_that_compares_with_one_version_only_is_asked_for_the_latest() {
        let mock = MockRegistry::start(|asked| {
            let compared = match asked.target.contains("/latest") {
                true => Reply::json(200, json!({"is_compatible": false, "messages": ["reader type: LONG"]})),
                false => Reply::json(405, json!({"error_code": 405, "message": "HTTP 405 Method Not Allowed"})),
            };
            incompatible(asked, compared)
        })
        .await;
        let error = mock.client().register("calls-value", SCHEMA).await.unwrap_err();
        assert!(error.to_string().contains("its reasons: reader type: LONG;"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_stands_without_reasons() {
        let mock = MockRegistry::start(|asked| incompatible(asked, Reply::text(500, ""))).await;
        let error = mock.client().register("calls-value", SCHEMA).await.unwrap_err();
        let RegistryError::Refused(answer) = error else { panic!("{error}") };
        assert_eq!(answer.reasons, Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_password_is_read_for_each_request_and_shown_in_no_error() {
        let mock = always(401, "{\"error_code\":40101,\"message\":\"Unauthorized\"}").await;
        let passwords = Mutex::new(vec!["second", "first"]);
        let mut settings = mock.settings.clone();
        settings.authorization = Some(Authorization::Basic(Credentials {
            username: "operator".to_owned(),
            password: Arc::new(move || {
                let next = passwords.lock().unwrap().pop();
                next.map(SecretString::from).ok_or_else(|| io::Error::other("no such file"))
            }),
        }));
        assert!(!format!("{settings:?}").contains("operator"));
        let registry = Registry::new(settings).unwrap();
        for _ in 0..2 {
            let error = registry.register("calls-value", SCHEMA).await.unwrap_err();
            assert!(matches!(error, RegistryError::Unauthorized(_)) && !error.is_retryable(), "{error}");
            let shown = format!("{error} {error:?}");
            assert!(!["operator", "first", "second"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
        let sent: Vec<_> = mock.requests().iter().map(|asked| asked.headers["authorization"].clone()).collect();
        // operator:first and operator:second in Base64.
        assert_eq!(sent, ["Basic b3BlcmF0b3I6Zmlyc3Q=", "Basic b3BlcmF0b3I6c2Vjb25k"]);

        let error = registry.register("calls-value", SCHEMA).await.unwrap_err();
        assert!(matches!(error, RegistryError::Password { .. }), "{error}");
        assert_eq!(mock.requests().len(), 2);
    }

    #[tokio::test]
    async fn a_bearer_token_is_read_for_each_request_and_one_of_an_endpoint_fetched_for_each() {
        let mock = MockRegistry::start(|asked| match asked.target.as_str() {
            "/token" => Reply::json(200, json!({"access_token": "fetched", "expires_in": 60})),
            "/refused" => Reply::json(401, json!({"error": "invalid_client"})),
            _ => Reply::text(401, "{\"error_code\":40101,\"message\":\"Unauthorized\"}"),
        })
        .await;
        let asked_with = async |authorization| {
            let settings = Settings { authorization: Some(authorization), ..mock.settings.clone() };
            let error = Registry::new(settings).unwrap().register("calls-value", SCHEMA).await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!["in-file", "fetched", "hunter2"].iter().any(|secret| shown.contains(secret)), "{shown}");
            (error, mock.requests().pop().unwrap())
        };
        let token = |text: &'static str| Authorization::Bearer(Arc::new(move || Ok(SecretString::from(text))));
        let (_, asked) = asked_with(token("in-file")).await;
        assert_eq!(asked.headers["authorization"], "Bearer in-file");
        let (error, _) = asked_with(token("in\nfile")).await;
        assert!(matches!(error, RegistryError::Password { .. }), "{error}");

        let none: [(&str, &str); 0] = [];
        let oauth = |path: &str| {
            let text = format!(
                "source.api_key = \"k\"\nsource.username = \"u\"\nsource.password = \"p\"\nstate.dir = \"/tmp\"\n\
                 kafka.bootstrap_servers = \"kafka\"\n[avro]\nschema_registry_url = {:?}\n\
                 oauth.token_url = {:?}\noauth.client_id = \"c\"\noauth.client_secret = \"hunter2\"\n",
                mock.settings.url.as_str(),
                mock.settings.url.join(path).unwrap().as_str(),
            );
            let config = crate::config::Config::parse("c.toml", &text, none).unwrap();
            let Some(crate::config::SignIn::OAuth(oauth)) = config.avro.framing.registry().unwrap().sign_in.clone()
            else {
                panic!("a client")
            };
            Authorization::OAuth(Arc::new(TokenClient::new(oauth, "the schema registry").unwrap()))
        };
        let (error, asked) = asked_with(oauth("/token")).await;
        assert_eq!(asked.headers["authorization"], "Bearer fetched");
        assert!(matches!(error, RegistryError::Unauthorized(_)), "{error}");
        let (error, _) = asked_with(oauth("/refused")).await;
        assert!(error.is_retryable());
        assert_eq!(
            error.to_string(),
            "the token endpoint refuses the client (HTTP 401, invalid_client), so the connector cannot sign in to the \
             schema registry: check avro.oauth.client_id and avro.oauth.client_secret"
        );
    }

    #[tokio::test]
    async fn statuses_are_sorted_by_whether_trying_again_helps() {
        for (status, retryable) in [
            (302, false),
            (404, false),
            (403, false),
            (408, true),
            (422, false),
            (429, true),
            (500, true),
            (503, true),
            (504, true),
        ] {
            let mock =
                MockRegistry::start(move |_| Reply::json(status, json!({"error_code": 7, "message": "why"}))).await;
            let error = mock.client().register("calls-value", SCHEMA).await.unwrap_err();
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert!(error.to_string().contains(&format!("{status} (code 7) why")), "{error}");
            assert_eq!(mock.requests().len(), 1, "a redirect is not followed, nothing is retried here");
        }
    }

    #[tokio::test]
    async fn no_optional_part_of_an_answer_keeps_the_rest_out() {
        const BODY: &str = "\u{feff}{\"error_code\":\"40403\",\"message\":{\"text\":\"gone\"}}";
        let error = always(404, BODY).await.client().lookup("calls-value", SCHEMA).await.unwrap_err();
        assert!(matches!(&error, RegistryError::NotFound(answer) if answer.code == Some(40_403)), "{error}");
        for odd in ["null", "7", "{}", "[null,\"AVRO\"]", "\"\""] {
            let body =
                format!("\u{feff}{{\"schema\":\"x\",\"schemaType\":{odd},\"is_compatible\":true,\"messages\":{odd}}}");
            let mock = MockRegistry::start(move |_| Reply::text(200, &body)).await;
            assert_eq!(mock.client().schema_by_id(1).await.is_ok(), odd != "\"\"", "{odd}");
            assert!(mock.client().incompatibilities("calls-value", SCHEMA).await.unwrap().is_empty(), "{odd}");
        }
    }

    #[tokio::test]
    async fn a_schema_that_is_not_there_differs_from_a_path_that_is_not_there() {
        let mock = always(404, "{\"error_code\":40403,\"message\":\"Schema not found\"}").await;
        let error = mock.client().lookup("calls-value", SCHEMA).await.unwrap_err();
        assert!(matches!(error, RegistryError::NotFound(_)) && !error.is_retryable(), "{error}");
        let error = error.to_string();
        assert!(error.ends_with("404 (code 40403) Schema not found; register the schema first"), "{error}");

        for elsewhere in ["{\"error_code\":404,\"message\":\"HTTP 404 Not Found\"}", "404 page not found"] {
            let error = always(404, elsewhere).await.client().lookup("calls-value", SCHEMA).await.unwrap_err();
            assert!(matches!(error, RegistryError::Refused(_)), "{error}");
            assert!(error.to_string().ends_with("; check the URL, which may need a path"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_new_subject_is_compatible_and_an_unexplained_incompatibility_is_one() {
        for none_yet in [40401, 40402] {
            let mock =
                MockRegistry::start(move |_| Reply::json(404, json!({"error_code": none_yet, "message": "Not found"})))
                    .await;
            assert!(mock.client().incompatibilities("calls-value", SCHEMA).await.unwrap().is_empty());
        }
        let mock = always(200, "{\"is_compatible\":true}").await;
        assert!(mock.client().incompatibilities("calls-value", SCHEMA).await.unwrap().is_empty());
        let mock = always(200, "{\"is_compatible\":false}").await;
        assert_eq!(mock.client().incompatibilities("calls-value", SCHEMA).await.unwrap(), ["the registry names none"]);
    }

    #[tokio::test]
    async fn what_is_no_answer_of_a_registry_is_quoted_in_one_short_line() {
        let page = "<html>\n<body>Bad\u{1b}[31m   Gateway</body>".to_owned() + &"x".repeat(10_000);
        let gateway = {
            let page = page.clone();
            MockRegistry::start(move |_| Reply::text(502, &page)).await
        };
        let error = gateway.client().register("calls-value", SCHEMA).await.unwrap_err();
        assert!(error.is_retryable());
        let message = error.to_string();
        assert!(message.contains("502 <html> <body>Bad [31m Gateway</body>x"), "{message}");
        assert!(message.chars().count() < 800 && !message.contains(char::is_control), "{message}");

        for garbage in ["<html>", "", "[]", "{\"id\":\"x\"}", "{\"id\":-1}", "{\"id\":4294967296}"] {
            let mock = MockRegistry::start(move |_| Reply::text(200, garbage)).await;
            let error = mock.client().register("calls-value", SCHEMA).await.unwrap_err();
            assert!(matches!(error, RegistryError::Garbled { .. }) && error.is_retryable(), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_larger_than_the_limit_is_not_read() {
        let mock = MockRegistry::start(|_| Reply::text(200, &" ".repeat(ANSWER_BYTES_MAX + 1))).await;
        let error = mock.client().subjects("").await.unwrap_err();
        assert!(error.to_string().contains("larger than 4194304 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_slow_registry_is_given_up_after_the_request_timeout() {
        let mock =
            MockRegistry::start(|_| Reply { delay: Duration::from_secs(60), ..Reply::text(200, "{\"id\":1}") }).await;
        let mut settings = mock.settings.clone();
        settings.request_timeout = Duration::from_millis(100);
        let error = Registry::new(settings).unwrap().register("calls-value", SCHEMA).await.unwrap_err();
        let RegistryError::Unreachable { source, .. } = &error else { panic!("{error}") };
        assert!(source.fault == Fault::Silent && error.is_retryable());
    }

    #[tokio::test]
    async fn a_cut_answer_is_retryable_and_names_no_url() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 4096]).await;
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":").await.unwrap();
        });
        let error = Registry::new(settings).unwrap().register("calls-value", SCHEMA).await.unwrap_err();
        let RegistryError::Unreachable { source, .. } = &error else { panic!("{error}") };
        assert!(error.is_retryable() && !source.to_string().contains("http://"), "{source}");
    }

    #[tokio::test]
    async fn schemas_are_fetched_by_id_and_only_avro_is_taken() {
        let mock = MockRegistry::start(|asked| match asked.target.as_str() {
            "/schemas/ids/1" => Reply::json(200, json!({"schema": SCHEMA})),
            "/schemas/ids/2" => Reply::json(200, json!({"schema": SCHEMA, "schemaType": "AVRO"})),
            "/schemas/ids/3" => Reply::json(200, json!({"schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF"})),
            _ => Reply::json(404, json!({"error_code": 40403, "message": "Schema 4 not found"})),
        })
        .await;
        let registry = mock.client();
        assert_eq!(registry.schema_by_id(1).await.unwrap(), SCHEMA);
        assert_eq!(registry.schema_by_id(2).await.unwrap(), SCHEMA);
        let error = registry.schema_by_id(3).await.unwrap_err();
        assert!(matches!(error, RegistryError::NotAvro { id: 3, .. }), "{error}");
        let error = registry.schema_by_id(4).await.unwrap_err();
        assert!(matches!(&error, RegistryError::NotFound(answer) if answer.code == Some(40403)), "{error}");
    }

    #[tokio::test]
    async fn subjects_are_those_with_the_prefix_even_if_the_registry_ignores_it() {
        let mock = always(200, "[\"calls-value\",\"other-value\"]").await;
        assert_eq!(mock.client().subjects("calls").await.unwrap(), ["calls-value"]);
        assert_eq!(mock.requests()[0].target, "/subjects?subjectPrefix=calls");
    }

    #[test]
    fn the_codec_is_shared_between_tasks() {
        fn shared<T: Send + Sync>() {}
        shared::<Registry>();
        shared::<crate::codec::Decoder>();
        shared::<crate::codec::LegEncoder>();
    }

    #[test]
    fn the_subject_follows_the_topic() {
        assert_eq!(subject_of_values("calls"), "calls-value");
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with_ca =
            |path: &std::path::Path| Registry::new(Settings { ca_file: Some(path.to_owned()), ..settings(1) }).err();
        assert!(with_ca("tests/data/authority.pem".as_ref()).is_none());
        let error = with_ca("Cargo.toml".as_ref()).unwrap().to_string();
        assert_eq!(error, "avro.schema_registry_ca_file: Cargo.toml holds no PEM certificates");
    }
}
