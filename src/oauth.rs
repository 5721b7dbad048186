//! Tokens by OAuth 2.0 client credentials (RFC 6749, 4.4), for Kafka and the schema registry.
//!
//! It asks the token endpoint once and keeps nothing: who needs a token, and when, is its caller's matter. No error of it
//! holds a secret, a token or the endpoint's own words.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::config::OAuth;
use crate::http::{self, Answer, ClientError, Fault, secret_header};

/// Connecting to the endpoint, and a whole request to it. librdkafka waits for the first token within a question of ten
/// seconds.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(8));

/// A token with its claims is a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Endpoints should name a token's life (RFC 6749, 5.1); one that does not gets a careful one.
const LIFE_UNNAMED: Duration = Duration::from_secs(300);

/// An answer that names more is not believed.
const LIFE_MAX: Duration = Duration::from_secs(86_400);

/// A token, and for how long after the request it is good.
pub struct Token {
    /// Goes behind `Bearer`. Only characters that a header takes.
    pub bearer: SecretString,
    /// From before the request.
    pub life: Duration,
}

/// Why there is no token: the cause, what follows, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}, so the connector cannot sign in to {server}: {advice}")]
pub struct TokenError {
    cause: String,
    server: &'static str,
    advice: String,
}

/// A client of one token endpoint.
pub struct TokenClient {
    http: Client,
    settings: OAuth,
    /// For which server the tokens are, in words.
    server: &'static str,
}

impl TokenClient {
    /// A client by these settings, for tokens that `server` takes; nothing is sent yet.
    ///
    /// # Errors
    /// When the file of authorities cannot be used.
    pub fn new(settings: OAuth, server: &'static str) -> Result<Self, ClientError> {
        let (connect_timeout, timeout) = TIMEOUTS;
        let ca_file = settings.ca_file.as_deref().map(|path| (settings.keys.ca_file, path));
        let url = &settings.token_url;
        let http = http::client(&http::Settings { url, ca_file, identity: None, connect_timeout, timeout })?;
        Ok(Self { http, settings, server })
    }

    /// Asks for a new token. The secret's file is read at each request.
    ///
    /// # Errors
    /// With one sentence. Any of them may pass by itself, or when an operator has mended what it names.
    pub async fn request(&self) -> Result<Token, TokenError> {
        let OAuth { keys, token_url, client_id, client_secret, scope, .. } = &self.settings;
        let secret = client_secret.read().map_err(|error| self.error(error.to_string(), "mend it".to_owned()))?;
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let request = self.http.post(token_url.clone()).header(ACCEPT, HeaderValue::from_static("application/json"));
        // As Kafka's own clients do it, and every endpoint must take it (RFC 6749, 2.3.1).
        let request = request.basic_auth(client_id, Some(secret.expose_secret())).form(&form);
        let Answer { status, body, .. } =
            http::send(request, ANSWER_BYTES_MAX).await.map_err(|error| self.unanswered(&error))?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        granted(&body).ok_or_else(|| {
            let cause = format!("the token endpoint answers without a usable token (HTTP {})", status.as_u16());
            self.error(cause, format!("check {}", keys.token_url))
        })
    }

    fn error(&self, cause: String, advice: String) -> TokenError {
        TokenError { cause, server: self.server, advice }
    }

    fn unanswered(&self, error: &http::Error) -> TokenError {
        let keys = self.settings.keys;
        let host = self.settings.token_url.host_str().unwrap_or_default();
        let endpoint = format!("the token endpoint at {host}");
        if let Some(advice) = error.tls_advice(&endpoint, [keys.token_url, keys.ca_file]) {
            let (cause, advice) = advice.split_once(": ").unwrap_or((&advice, ""));
            return self.error(format!("{cause} ({error})"), advice.to_owned());
        }
        let cause = match error.fault {
            Fault::Silent => format!("{endpoint} does not answer within {} s", TIMEOUTS.1.as_secs()),
            Fault::TooLarge => format!("{endpoint} answers with something that is no token: {error}"),
            _ => format!("{endpoint} cannot be reached ({error})"),
        };
        self.error(cause, format!("check {}, name resolution, proxy and firewall", keys.token_url))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> TokenError {
        #[derive(Default, Deserialize)]
        struct Refusal {
            #[serde(default)]
            error: String,
        }
        let keys = self.settings.keys;
        let Refusal { error } = serde_json::from_slice(body).unwrap_or_default();
        // The codes of RFC 6749, 5.2; anything else could be an echo of the request.
        let code = ["invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"]
            .into_iter()
            .chain(["unsupported_grant_type", "access_denied", "server_error", "temporarily_unavailable"])
            .find(|code| *code == error);
        let number = status.as_u16();
        let said = code.map_or_else(|| format!("HTTP {number}"), |code| format!("HTTP {number}, {code}"));
        let (cause, advice) = match (number, code) {
            (_, Some("invalid_scope")) => ("refuses the scope", format!("check {}", keys.scope)),
            (408 | 429 | 500.., _) | (_, Some("server_error" | "temporarily_unavailable")) => {
                ("has a fault of its own", "it is asked again; if it lasts, ask who runs it".to_owned())
            }
            (300..=399, _) => ("redirects, which is not followed", format!("set {} to where it is", keys.token_url)),
            (404 | 405 | 410, _) => ("is not there", format!("check {}", keys.token_url)),
            (_, Some("unsupported_grant_type" | "unauthorized_client")) => (
                "does not let this client use client credentials",
                format!("allow that grant to the client of {}", keys.client_id),
            ),
            _ => ("refuses the client", format!("check {} and {}", keys.client_id, keys.client_secret)),
        };
        self.error(format!("the token endpoint {cause} ({said})"), advice)
    }
}

/// The token of an answer, if it has one that a request can carry.
fn granted(body: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: SecretString,
        /// Seconds, which some endpoints write as a text.
        #[serde(default)]
        expires_in: Value,
    }
    let Granted { access_token: bearer, expires_in } = serde_json::from_slice(body).ok()?;
    let text = bearer.expose_secret();
    if text.is_empty() || !text.is_ascii() || secret_header(text).is_none() {
        return None;
    }
    let seconds = expires_in.as_f64().or_else(|| expires_in.as_str()?.parse().ok());
    let life = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LIFE_UNNAMED);
    Some(Token { bearer, life: life.clamp(Duration::from_secs(1), LIFE_MAX) })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::Request;
    use axum::http::Response;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;

    /// What endpoints say of themselves, and what an echo of the request would hold.
    const SECRETS: [&str; 3] = ["hunter2", "Y2xpZW50Omh1bnRlcjI=", "the-token"];

    /// A client of an endpoint that answers so, and what that endpoint was sent.
    async fn endpoint(status: u16, body: &'static str) -> (TokenClient, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let app = Router::new().fallback(async move |request: Request| {
            let (parts, body_sent) = request.into_parts();
            let sent = axum::body::to_bytes(body_sent, usize::MAX).await.unwrap();
            let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
            let sent = String::from_utf8(sent.to_vec()).unwrap();
            seen.lock().unwrap().push(format!("{} {} {sent}", parts.uri, header("authorization")));
            Response::builder().status(status).body(axum::body::Body::from(body)).unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/oauth2/token", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (client(&url), asked)
    }

    fn client(url: &str) -> TokenClient {
        let text = format!(
            "source.api_key = \"k\"\nsource.username = \"u\"\nsource.password = \"p\"\nstate.dir = \"/tmp\"\n\
             avro.framing = \"single-object\"\nkafka.bootstrap_servers = \"kafka\"\n\
             kafka.properties.\"security.protocol\" = \"sasl_ssl\"\nkafka.properties.\"sasl.mechanism\" = \"OAUTHBEARER\"\n\
             [kafka.oauth]\ntoken_url = {url:?}\nclient_id = \"client\"\nclient_secret = \"hunter2\"\nscope = \"legs write\"\n"
        );
        let none: [(&str, &str); 0] = [];
        let config = Config::parse("c.toml", &text, none).unwrap();
        TokenClient::new(config.kafka.oauth.unwrap(), "Kafka").unwrap()
    }

    async fn refusal(status: u16, body: &'static str) -> String {
        let said = endpoint(status, body).await.0.request().await.err().unwrap().to_string();
        assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{said}");
        said
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_the_protocol_has_it() {
        for (body, life_s) in [
            (r#"{"access_token":"the-token","token_type":"Bearer","expires_in":3599}"#, 3599),
            (r#"{"access_token":"the-token","expires_in":"3599"}"#, 3599),
            (r#"{"access_token":"the-token"}"#, 300),
            (r#"{"access_token":"the-token","expires_in":0}"#, 1),
            (r#"{"access_token":"the-token","expires_in":-5}"#, 300),
            (r#"{"access_token":"the-token","expires_in":1e300}"#, 300),
            (r#"{"access_token":"the-token","expires_in":1e9}"#, 86_400),
        ] {
            let (client, asked) = endpoint(200, body).await;
            let token = client.request().await.unwrap();
            assert_eq!((token.bearer.expose_secret(), token.life.as_secs()), ("the-token", life_s), "{body}");
            let expected = "/oauth2/token Basic Y2xpZW50Omh1bnRlcjI= grant_type=client_credentials&scope=legs+write";
            assert_eq!(*asked.lock().unwrap(), [expected]);
        }
    }

    #[tokio::test]
    async fn each_failure_is_one_sentence_with_its_key_and_without_any_secret() {
        let cannot = ", so the connector cannot sign in to Kafka: ";
        for (status, body, cause, advice) in [
            (
                401,
                r#"{"error":"invalid_client","error_description":"client:hunter2"}"#,
                "the token endpoint refuses the client (HTTP 401, invalid_client)",
                "check kafka.oauth.client_id and kafka.oauth.client_secret",
            ),
            (
                400,
                r#"{"error":"hunter2"}"#,
                "the token endpoint refuses the client (HTTP 400)",
                "check kafka.oauth.client_id and kafka.oauth.client_secret",
            ),
            (
                400,
                r#"{"error":"invalid_scope"}"#,
                "the token endpoint refuses the scope (HTTP 400, invalid_scope)",
                "check kafka.oauth.scope",
            ),
            (
                400,
                r#"{"error":"unauthorized_client"}"#,
                "the token endpoint does not let this client use client credentials (HTTP 400, unauthorized_client)",
                "allow that grant to the client of kafka.oauth.client_id",
            ),
            (404, "hunter2", "the token endpoint is not there (HTTP 404)", "check kafka.oauth.token_url"),
            (
                302,
                "",
                "the token endpoint redirects, which is not followed (HTTP 302)",
                "set kafka.oauth.token_url to where it is",
            ),
            (
                503,
                "hunter2",
                "the token endpoint has a fault of its own (HTTP 503)",
                "it is asked again; if it lasts, ask who runs it",
            ),
            (
                200,
                "<html>hunter2",
                "the token endpoint answers without a usable token (HTTP 200)",
                "check kafka.oauth.token_url",
            ),
            (
                200,
                r#"{"access_token":"the-token\n"}"#,
                "the token endpoint answers without a usable token (HTTP 200)",
                "check kafka.oauth.token_url",
            ),
            (
                200,
                r#"{"access_token":"the-tokén"}"#,
                "the token endpoint answers without a usable token (HTTP 200)",
                "check kafka.oauth.token_url",
            ),
        ] {
            assert_eq!(refusal(status, body).await, format!("{cause}{cannot}{advice}"));
        }
        let gone = client("http://127.0.0.1:9/token").request().await.err().unwrap().to_string();
        assert!(gone.starts_with("the token endpoint at 127.0.0.1 cannot be reached ("), "{gone}");
        assert!(gone.ends_with("check kafka.oauth.token_url, name resolution, proxy and firewall"), "{gone}");
    }
}
