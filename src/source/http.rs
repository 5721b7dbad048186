//! The API over HTTP: builds requests, sends each once, and turns every answer into a page or an error.
//!
//! It does not decide when to try again; the one request it repeats is a report whose token turned
//! out to be rejected. No error carries a URL, a header or a body.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono_tz::Tz;
use reqwest::header::{AGE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use super::auth::{Login, Token, Tokens};
use super::wire::{self, Author, ErrorBody, Page};
use super::{Recovery, Source, SourceError};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::core::budget::Budget;
use crate::core::leg::TimeBasis;
use crate::core::query::QueryBounds;
use crate::core::retry::clamp_retry_after;
use crate::core::skew::Skew;
use crate::core::time::UtcMillis;
use crate::http::{self, Answer, ClientError, Fault, secret_header};

const API_KEY_HEADER: &str = "8x8-apikey";
const TOKEN_PATH: &str = "v1/oauth/token";
const REPORT_PATH: &str = "v2/call-legs";
const CA_FILE: &str = "source.ca_file";

/// What a 204 says.
const EMPTY_PAGE: &[u8] = br#"{"data":[]}"#;

/// A token reply is a few kilobytes; more is not one.
const TOKEN_BODY_MAX: usize = 1 << 20;

/// The API's client: one for all units, so that they share the token and the request budget.
pub struct Api {
    http: Client,
    settings: config::Source,
    tokens: Tokens,
    budget: Mutex<Budget>,
    started: Instant,
    skew: Mutex<Option<Skew>>,
}

impl Api {
    /// A client by these settings; nothing is sent yet.
    pub fn new(settings: config::Source) -> Result<Self, ClientError> {
        let http = http::client(&http::Settings {
            url: &settings.base_url,
            ca_file: settings.ca_file.as_deref().map(|path| (CA_FILE, path)),
            identity: None,
            connect_timeout: settings.request_timeout,
            timeout: settings.request_timeout,
        })?;
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
        let Answer { status, headers, body, .. } = self.send(request, TOKEN_BODY_MAX).await?;
        if !status.is_success() {
            return Err(explain(Call::Token, status, &headers, &wire::error_body(&body)));
        }
        let wire::TokenReply { access_token, life } = wire::token_reply(&body).ok_or_else(|| {
            not_the_api(status, &body).unwrap_or_else(|| {
                SourceError::unreachable(format!(
                    "the token call was answered without a token (HTTP {})",
                    status.as_u16()
                ))
            })
        })?;
        if secret_header(access_token.expose_secret()).is_none() {
            return Err(SourceError::refused(
                "the source gives a token that no HTTP header can carry: check source.base_url, and the proxies and gateways between here and the API",
            ));
        }
        Ok(Login { bearer: access_token, life })
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
        let key = secret_header(api_key.expose_secret())
            .ok_or_else(|| SourceError::refused("source.api_key holds characters that no HTTP header can carry"))?;
        let sent = SystemClock.now();
        let answer = http::send(request.header(API_KEY_HEADER, key), body_max_bytes).await.map_err(broken)?;
        if let Some(date) = date(&answer.headers) {
            *lock(&self.skew) = Some(Skew::observed(sent, sent.plus(answer.headers_after), date));
        }
        Ok(answer)
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
            ("isConnectTime", (source.time_basis == TimeBasis::Connect).to_string()),
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
        let Answer { status, headers, body, .. } = answer;
        if !status.is_success() {
            let call = Call::Report { unit, scrolling: cursor.is_some() };
            return Err(explain(call, status, &headers, &wire::error_body(&body)));
        }
        if let Some(error) = not_the_api(status, &body) {
            return Err(error);
        }
        if status == StatusCode::PARTIAL_CONTENT {
            return Err(SourceError::unreachable("the report was answered by a part of a page (HTTP 206)"));
        }
        // No content is no legs; any other answer without a body is a broken one.
        let body = if status == StatusCode::NO_CONTENT { EMPTY_PAGE.into() } else { body };
        wire::page(body).map_err(|error| {
            SourceError::unreachable(format!("the report was answered by something that is no page: {error}"))
        })
    }

    fn skew(&self) -> Option<Skew> {
        *lock(&self.skew)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The guarded values are plain numbers, whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the source answered by its own clock: not where a cache did, with an answer of some age.
fn date(headers: &HeaderMap) -> Option<UtcMillis> {
    if headers.get_all(AGE).iter().any(|age| age.as_bytes().trim_ascii() != b"0") {
        return None;
    }
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(UtcMillis::new)
}

/// `Retry-After` in seconds or as a date; a date counts from the reply's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<f64>() {
        Ok(seconds) if seconds < 0.0 => return None,
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok().or((seconds > 0.0).then_some(Duration::MAX))?,
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let now = date(headers).unwrap_or_else(|| SystemClock.now());
            until.saturating_sub(Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0)))
        }
    };
    Some(clamp_retry_after(asked))
}

/// An answer that did not come, or not whole.
fn broken(error: http::Error) -> SourceError {
    let what = match error.fault {
        Fault::Silent => "the source did not answer within source.request_timeout",
        Fault::NoConnection => {
            "cannot connect to the source (check source.base_url, name resolution, proxy and firewall)"
        }
        Fault::CutShort => "the source's answer broke off",
        Fault::TooLarge => "a reply is too large: lower source.page_size or raise source.max_body",
        _ => "the connection to the source broke (if this lasts: network, proxy, or the API itself)",
    };
    let what = error.tls_advice("the source", ["source.base_url", CA_FILE]).unwrap_or_else(|| what.to_owned());
    let may_be_for_the_window = matches!(error.fault, Fault::Silent);
    SourceError { may_be_for_the_window, ..SourceError::unreachable(format!("{what}: {error}")) }
}

/// Which call an answer belongs to.
enum Call<'a> {
    Token,
    Report { unit: &'a str, scrolling: bool },
}

/// An answer whose body is no JSON object, whatever its status: it is none of the API's.
fn not_the_api(status: StatusCode, body: &[u8]) -> Option<SourceError> {
    let body = body.trim_ascii_start();
    (!body.is_empty() && !body.starts_with(b"{")).then(|| foreign(status, None))
}

fn foreign(status: StatusCode, after: Option<Duration>) -> SourceError {
    let error = SourceError::unreachable(format!(
        "a gateway's or proxy's page came, not the API's answer (HTTP {}): check source.base_url, and the proxies and gateways between here and the API",
        status.as_u16()
    ));
    let may_be_for_the_window = may_be_for_the_length(status.as_u16());
    SourceError { recovery: Recovery::Retry { after }, may_be_for_the_window, ..error }
}

/// Whether a status may mean that the window is too long, for the API or for a gateway before it.
const fn may_be_for_the_length(status: u16) -> bool {
    matches!(status, 400 | 408 | 413 | 414 | 422 | 500..)
}

/// Turns an error answer into one sentence of advice and what to do about it.
fn explain(call: Call<'_>, status: StatusCode, headers: &HeaderMap, body: &ErrorBody) -> SourceError {
    let number = status.as_u16();
    // Codes such as SHA001 are the vendor's own; anything longer could be an echo of the request.
    let code = Some(body.code.as_str()).filter(|code| {
        (1..=32).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    let code = code.map(|code| format!(", code {code}")).unwrap_or_default();
    let doubt = if body.author == Author::Unknown { ", without a word: it may be a gateway's or proxy's" } else { "" };
    let refused = |advice: &str| SourceError::refused(format!("{advice} (HTTP {number}{code}{doubt})"));
    let after = retry_after(headers);
    match (number, &call) {
        (429, _) => SourceError::rate_limited(
            "too many requests (HTTP 429): lower source.requests_per_minute if this lasts",
            after,
        ),
        (403, _) if after.is_some() => SourceError::rate_limited(
            "requests are refused for a while (HTTP 403 with Retry-After): lower source.requests_per_minute if this lasts",
            after,
        ),
        (408 | 425 | 500.., _) => {
            let error = SourceError::unreachable(format!(
                "the source, or a gateway before it, has a fault of its own (HTTP {number})"
            ));
            let may_be_for_the_window = may_be_for_the_length(number);
            SourceError { recovery: Recovery::Retry { after }, may_be_for_the_window, ..error }
        }
        _ if body.code == "SHA001" || body.text.contains("8x8-apikey") => refused(
            "the API key is not valid: set source.api_key to the Key from the 8x8 Admin Console; the Secret is not needed",
        ),
        (400, Call::Report { unit, .. })
            if body.code == "105-400-038" || body.text.contains("does not have access") =>
        {
            refused(&format!(
                "the user may not read call legs of PBX {unit}: it needs an Analytics licence at Supervisor level for this PBX"
            ))
        }
        // The same query without a cursor was accepted a moment ago.
        (400..=499, Call::Report { scrolling: true, .. }) if !matches!(number, 401 | 403 | 405 | 407) => {
            SourceError::cursor_refused(format!("the source no longer accepts the page cursor (HTTP {number}{code})"))
        }
        (300..=399, _) if number != 304 => {
            refused("the source redirects, which is not followed: set source.base_url to where it really is")
        }
        (304 | 407, _) => foreign(status, after),
        _ if body.author == Author::Other => foreign(status, after),
        (404 | 405 | 410, _) => {
            refused("there is no such call at source.base_url: check it, up to and without /v1 or /v2")
        }
        (400 | 401 | 403, Call::Token) => refused(
            "user name or password is refused: check source.username and source.password, and that this user has opened 8x8 Analytics in a browser once",
        ),
        (_, Call::Token) => refused("the source refuses the token call: check source.base_url"),
        (401, Call::Report { .. }) => refused(
            "the source accepts no token, not even a fresh one: the user must have opened 8x8 Analytics in a browser once and have it at Supervisor level",
        ),
        (403, Call::Report { unit, .. }) => refused(&format!(
            "the user has no access to PBX {unit}: check source.pbx_ids, and the user's Analytics rights at Supervisor level for it"
        )),
        (_, Call::Report { unit, .. }) => SourceError {
            may_be_for_the_window: may_be_for_the_length(number),
            ..refused(&format!(
                "the source refuses the request for PBX {unit}: check source.pbx_ids, source.time_zone and the filters"
            ))
        },
    }
}

#[cfg(test)]
mod tests;
