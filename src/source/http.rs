//! The API over HTTP: builds requests, sends each once, and turns every answer into a page or an error.
//!
//! It does not decide when to try again; the one request it repeats is a report whose token turned
//! out to be rejected. No error carries a URL, a header or a body.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono_tz::Tz;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

use super::auth::{Login, Token, Tokens};
use super::body::collect;
use super::wire::{self, ErrorBody, Page};
use super::{Source, SourceError};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::core::budget::Budget;
use crate::core::query::QueryBounds;
use crate::core::retry::clamp_retry_after;
use crate::core::skew::Skew;
use crate::core::time::UtcMillis;

const API_KEY_HEADER: &str = "8x8-apikey";
const TOKEN_PATH: &str = "v1/oauth/token";
const REPORT_PATH: &str = "v2/call-legs";

/// A token reply is a few kilobytes; more is not one.
const TOKEN_BODY_MAX: usize = 1 << 20;

/// The API's client: one for all units, so that they share the token and the request budget.
pub struct Api {
    http: reqwest::Client,
    settings: config::Source,
    tokens: Tokens,
    budget: Mutex<Budget>,
    started: Instant,
    skew: Mutex<Option<Skew>>,
}

/// Why the client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA file cannot be used.
    #[error("source.ca_file: {0}")]
    CaFile(String),
    /// The TLS set-up of this machine.
    #[error("cannot set up the HTTP client: {0}")]
    Build(String),
}

impl Api {
    /// A client by these settings; nothing is sent yet.
    pub fn new(settings: config::Source) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("call-legs/", env!("CARGO_PKG_VERSION")))
            // A redirect could carry the key elsewhere, or turn the token call into a GET.
            .redirect(redirect::Policy::none())
            .timeout(settings.request_timeout)
            .https_only(settings.base_url.scheme() == "https");
        if let Some(path) = &settings.ca_file {
            let pem = std::fs::read(path)
                .map_err(|error| ClientError::CaFile(format!("cannot read {}: {error}", path.display())))?;
            let certificates = match reqwest::Certificate::from_pem_bundle(&pem) {
                Ok(certificates) if !certificates.is_empty() => certificates,
                _ => return Err(ClientError::CaFile(format!("{} holds no PEM certificates", path.display()))),
            };
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder.build().map_err(|error| ClientError::Build(causes(&error)))?;
        let budget = Mutex::new(Budget::new(settings.requests_per_minute, Duration::ZERO));
        Ok(Self { http, settings, tokens: Tokens::default(), budget, started: Instant::now(), skew: Mutex::new(None) })
    }

    async fn token(&self, rejected: Option<&Token>) -> Result<Token, SourceError> {
        self.tokens.fresh(rejected, || self.call_for_token()).await
    }

    async fn call_for_token(&self) -> Result<Login, SourceError> {
        // Read at every login, so that a rotated secret needs no restart.
        let password = self.settings.password.read().map_err(|error| SourceError::refused(error.to_string()))?;
        let form = [("username", self.settings.username.as_str()), ("password", password.expose_secret())];
        let request = self.http.post(self.url(TOKEN_PATH)).form(&form);
        let Answer { status, headers, body } = self.send(request, TOKEN_BODY_MAX).await?;
        if status != StatusCode::OK {
            return Err(explain(Call::Token, status, &headers, &wire::error_body(&body)));
        }
        let reply: wire::TokenReply = serde_json::from_slice(&body)
            .map_err(|_| SourceError::unreachable("the token call was answered by something that is no token reply"))?;
        let life = reply.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Login { bearer: reply.access_token, life })
    }

    async fn report(&self, parameters: &[(&str, String)], token: &Token) -> Result<Answer, SourceError> {
        let request = self.http.get(self.url(REPORT_PATH)).query(parameters).bearer_auth(token.bearer.expose_secret());
        self.send(request, usize::try_from(self.settings.max_body).unwrap_or(usize::MAX)).await
    }

    fn url(&self, path: &str) -> Url {
        // The base ends in a slash, and both paths are constants that join to any base, so the fallback is never taken.
        self.settings.base_url.join(path).unwrap_or_else(|_| self.settings.base_url.clone())
    }

    async fn send(&self, request: reqwest::RequestBuilder, body_max_bytes: usize) -> Result<Answer, SourceError> {
        let api_key = self.settings.api_key.read().map_err(|error| SourceError::refused(error.to_string()))?;
        let wait = lock(&self.budget).take(self.started.elapsed());
        tokio::time::sleep(wait).await;
        let sent = SystemClock.now();
        let mut response = request.header(API_KEY_HEADER, sensitive(&api_key)?).send().await.map_err(transport)?;
        if let Some(date) = date(response.headers()) {
            *lock(&self.skew) = Some(Skew::observed(sent, SystemClock.now(), date));
        }
        let body = collect(&mut response, body_max_bytes).await?;
        Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
    }

    fn parameters(
        &self,
        unit: &str,
        bounds: &QueryBounds,
        cursor: Option<&str>,
        rows: Option<usize>,
    ) -> Vec<(&'static str, String)> {
        let source = &self.settings;
        let page_size = rows.and_then(|rows| u32::try_from(rows).ok()).unwrap_or(u32::MAX).min(source.page_size);
        let zone: Tz = source.time_zone;
        let mut parameters = vec![
            ("pbxId", unit.to_owned()),
            ("startTime", bounds.start.clone()),
            ("endTime", bounds.end.clone()),
            ("timeZone", zone.name().to_owned()),
            ("pageSize", page_size.to_string()),
            ("isConnectTime", (source.time_basis == config::TimeBasis::Connect).to_string()),
            ("isSimplified", source.simplified.to_string()),
        ];
        let filters =
            [("caller", &source.callers), ("callee", &source.callees), ("callerOrCallee", &source.callers_or_callees)];
        parameters.extend(
            filters.into_iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| (name, values.join(","))),
        );
        parameters.extend(cursor.map(|cursor| ("scrollId", cursor.to_owned())));
        parameters
    }
}

impl Source for Api {
    async fn log_in(&self) -> Result<(), SourceError> {
        self.token(None).await.map(|_| ())
    }

    async fn fetch(
        &self,
        unit: &str,
        bounds: &QueryBounds,
        cursor: Option<&str>,
        rows: Option<usize>,
    ) -> Result<Page, SourceError> {
        let parameters = self.parameters(unit, bounds, cursor, rows);
        let mut token = self.token(None).await?;
        let mut answer = self.report(&parameters, &token).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            token = self.token(Some(&token)).await?;
            answer = self.report(&parameters, &token).await?;
        }
        let Answer { status, headers, body } = answer;
        if status != StatusCode::OK {
            let call = Call::Report { unit, scrolling: cursor.is_some() };
            return Err(explain(call, status, &headers, &wire::error_body(&body)));
        }
        wire::page(body).map_err(|error| {
            SourceError::unreachable(format!("the report was answered by something that is no page: {error}"))
        })
    }

    fn skew(&self) -> Option<Skew> {
        *lock(&self.skew)
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The guarded values are plain numbers, whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sensitive(secret: &SecretString) -> Result<reqwest::header::HeaderValue, SourceError> {
    let mut value = reqwest::header::HeaderValue::from_str(secret.expose_secret())
        .map_err(|_| SourceError::refused("source.api_key holds characters that no HTTP header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn date(headers: &HeaderMap) -> Option<UtcMillis> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(UtcMillis::new)
}

/// `Retry-After` in seconds or as a date; a date counts from the reply's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let now = date(headers).unwrap_or_else(|| SystemClock.now());
            until.saturating_sub(Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0)))
        }
    };
    Some(clamp_retry_after(asked))
}

/// An answer that did not come, or not whole.
pub(super) fn transport(error: reqwest::Error) -> SourceError {
    let error = error.without_url();
    let causes = causes(&error);
    let what = if error.is_timeout() {
        "the source did not answer within source.request_timeout"
    } else if causes.contains(UNTRUSTED) {
        "the source's certificate is not trusted: if a proxy opens TLS, or the authority is your own, name its certificate (a PEM file) in source.ca_file"
    } else if error.is_connect() {
        "cannot connect to the source (check source.base_url, name resolution, proxy and firewall)"
    } else if error.is_body() || error.is_decode() {
        "the source's answer broke off"
    } else {
        "the connection to the source broke (if this lasts: network, proxy, or the API itself)"
    };
    SourceError::unreachable(format!("{what}: {causes}"))
}

/// How the TLS library begins whatever it says of a certificate that it refuses.
const UNTRUSTED: &str = "invalid peer certificate";

/// The innermost causes, which name the fault; the outer ones only repeat that a request failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let separator = if text.is_empty() { "" } else { ": " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{error}");
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

/// Which call an answer belongs to.
enum Call<'a> {
    Token,
    Report { unit: &'a str, scrolling: bool },
}

/// Turns an error answer into one sentence of advice and what to do about it.
fn explain(call: Call<'_>, status: StatusCode, headers: &HeaderMap, body: &ErrorBody) -> SourceError {
    let number = status.as_u16();
    // Codes such as SHA001 are the vendor's own; anything longer could be an echo of the request.
    let code = Some(body.code.as_str()).filter(|code| {
        (1..=32).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    let code = code.map(|code| format!(", code {code}")).unwrap_or_default();
    let refused = |advice: String| SourceError::refused(format!("{advice} (HTTP {number}{code})"));
    match (number, &call) {
        (429, _) => SourceError::rate_limited("too many requests (HTTP 429): lower source.requests_per_minute if this lasts", retry_after(headers)),
        (408 | 500..=599, _) => {
            let mut error = SourceError::unreachable(format!("the source has a fault of its own (HTTP {number})"));
            error.recovery = super::Recovery::Retry { after: retry_after(headers) };
            error
        }
        (300..=399, _) => refused("the source redirects, which is not followed: set source.base_url to where it really is".to_owned()),
        (404 | 405, _) => refused("there is no such call at source.base_url: check it, up to and without /v1 or /v2".to_owned()),
        _ if body.code == "SHA001" || body.text.contains("8x8-apikey") => refused(
            "the API key is not valid: set source.api_key to the Key from the 8x8 Admin Console; the Secret is not needed".to_owned(),
        ),
        (_, Call::Token) => refused(
            "user name or password is refused: check source.username and source.password, and that this user has opened 8x8 Analytics in a browser once"
                .to_owned(),
        ),
        (401, Call::Report { .. }) => refused(
            "the source accepts no token, not even a fresh one: the user must have opened 8x8 Analytics in a browser once and have it at Supervisor level"
                .to_owned(),
        ),
        (403, Call::Report { unit, .. }) => refused(format!(
            "the user has no access to PBX {unit}: check source.pbx_ids, and the user's Analytics rights at Supervisor level for it"
        )),
        (400, Call::Report { unit, .. }) if body.code == "105-400-038" || body.text.contains("does not have access") => refused(format!(
            "the user may not read call legs of PBX {unit}: it needs an Analytics licence at Supervisor level for this PBX"
        )),
        (400, Call::Report { scrolling: true, .. }) => {
            SourceError::cursor_refused(format!("the source no longer accepts the page cursor (HTTP 400{code})"))
        }
        (_, Call::Report { unit, .. }) => {
            refused(format!("the source refuses the request for PBX {unit}: check source.pbx_ids, source.time_zone and the filters"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Recovery;
    use super::*;

    fn explained(call: Call<'_>, status: u16, body: &str) -> SourceError {
        explain(call, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &wire::error_body(body.as_bytes()))
    }

    #[test]
    fn every_refusal_tells_the_operator_what_to_do() {
        let page = |unit| Call::Report { unit, scrolling: false };
        for (call, status, body, expected) in [
            (
                Call::Token,
                400,
                r#"{"status":400,"message":"Invalid 8x8-apikey","code":"SHA001"}"#,
                "the Secret is not needed (HTTP 400, code SHA001)",
            ),
            (page("acme"), 400, r#"{"status":400,"message":"Invalid 8x8-apikey","code":"SHA001"}"#, "source.api_key"),
            (
                Call::Token,
                400,
                r#"{"error_description":"USER_NOTFOUND_ERROR","error":"invalid_grant"}"#,
                "in a browser once",
            ),
            (
                page("acme"),
                400,
                r#"{"message":"user(x@y) does not have access to api category(CDR) for pbxId(acme)","code":"105-400-038"}"#,
                "Supervisor level for this PBX",
            ),
            (page("acme"), 401, r#"{"error":"invalid_token"}"#, "not even a fresh one"),
            (
                page("acme"),
                403,
                r#"{"status":403,"error":"Access Denied","exception":"user(x@y) does not have access to pbxId(acme)"}"#,
                "no access to PBX acme",
            ),
            (page("acme"), 400, "<html>", "refuses the request for PBX acme"),
            (page("acme"), 302, "", "redirects"),
            (page("acme"), 404, "", "source.base_url"),
        ] {
            let error = explained(call, status, body);
            assert_eq!(error.recovery, Recovery::Refused, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.to_string().contains("x@y"), "no personal data: {error}");
        }
    }

    #[test]
    fn a_refused_cursor_means_the_window_is_read_again() {
        let error =
            explained(Call::Report { unit: "acme", scrolling: true }, 400, r#"{"status":400,"message":"bad scroll"}"#);
        assert_eq!(error.recovery, Recovery::Reread);
        let error = explained(Call::Report { unit: "acme", scrolling: true }, 400, r#"{"code":"SHA001"}"#);
        assert_eq!(error.recovery, Recovery::Refused);
    }

    #[test]
    fn an_echo_in_the_code_is_not_repeated() {
        assert!(!explained(Call::Token, 400, r#"{"code":"password=hunter2"}"#).to_string().contains("hunter2"));
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date_is_clamped() {
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
            retry_after(&headers).map(|after| after.as_secs())
        };
        assert_eq!(after("7"), Some(7));
        assert_eq!(after("0"), Some(1));
        assert_eq!(after("86400"), Some(300));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:57 GMT"), Some(20));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(1));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-5"), None);
    }
}
