//! Access: who may look, and who may order.
//!
//! Orders change what is published, so they take the owner's token, which lies in the state directory, and take it as a
//! bearer token only. Where `admin.token` is set, looking takes that token, or the owner's as bearer; probes take none. A
//! browser has no other way to show a token than HTTP Basic: there `admin.token` is the password, of any user.
//!
//! A port on a loopback address is for this machine's programs. A browser is one of them, and a page of another site could
//! make it ask here under that site's own name, and read the answer (DNS rebinding): there a host must be named as this
//! machine is.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;

use crate::config::Secret;
use crate::panics;
use crate::store::Token;

const ORDERS_TAKE: &str = "orders take the token in the state directory\n";
const LOOKING_TAKES: &str =
    "this takes admin.token, as a bearer token or as the password of HTTP Basic; /readyz and /healthz take none\n";
const NOT_FROM_HERE: &str = "this port listens on a loopback address and answers under the names of this machine only: ask for localhost or 127.0.0.1, or change admin.listen\n";
const CHALLENGE: &str = r#"Basic realm="call-legs", charset="UTF-8""#;

/// What opens the admin port.
#[derive(Clone)]
pub struct Keys {
    /// The owner's token, in the state directory.
    pub owner: Arc<Token>,
    /// `admin.token`; without one everybody may look.
    pub looking: Option<Secret>,
}

/// Lets pass whoever shows the owner's token.
pub(super) async fn orders(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    // Never what a browser keeps, and sends along with what any page makes it send.
    match bearer(request.headers()) {
        Some(token) if keys.owner.matches(token) => next.run(request).await,
        _ => (StatusCode::UNAUTHORIZED, ORDERS_TAKE).into_response(),
    }
}

/// Lets pass whoever may look.
pub(super) async fn looking(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    let Some(secret) = keys.looking else { return next.run(request).await };
    if bearer(request.headers()).is_some_and(|token| keys.owner.matches(token)) {
        return next.run(request).await;
    }
    let token = shown(request.headers());
    // Read again each time, so that it can be replaced without a restart.
    let read = tokio::task::spawn_blocking(move || secret.read());
    let known = match read.await {
        Ok(Ok(known)) => known,
        unreadable => {
            // Why is for the log alone: whoever asks may be anybody.
            let why =
                unreadable.map_or_else(|ended| panics::why(&ended).to_owned(), |read| format!("{:?}", read.err()));
            tracing::warn!("the admin port lets nobody look: {why}");
            return (StatusCode::INTERNAL_SERVER_ERROR, "the token cannot be read: the log says why\n").into_response();
        }
    };
    if token.is_some_and(|token| Token::is_same(known.expose_secret(), &token)) {
        return next.run(request).await;
    }
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, CHALLENGE)], LOOKING_TAKES).into_response()
}

/// Lets pass whoever names this machine, or nobody.
pub(super) async fn from_here(request: Request, next: Next) -> Response {
    let named = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let named_in_full = request.uri().authority().map(Authority::as_str);
    if named.chain(named_in_full).all(is_this_machine) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, NOT_FROM_HERE).into_response()
}

/// Whether a `Host` is this machine by its very name, or a loopback address.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_local = |address: IpAddr| address.to_canonical().is_loopback();
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_local)
}

/// The token that a request bears.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The token that a request shows, in either way.
fn shown(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = value.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => bearer(headers).map(str::to_owned),
        "basic" => {
            let pair = String::from_utf8(STANDARD.decode(shown.trim()).ok()?).ok()?;
            pair.split_once(':').map(|(_, password)| password.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_few_names() {
        for host in [
            "localhost",
            "localhost.",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "127.255.1.2",
            "[::1]",
            "[::1]:9464",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "attacker.example",
            "localhost.attacker.example",
            "notlocalhost",
            "127.0.0.1.attacker.example:9464",
            "localhost@attacker.example",
            "127.0.0.1:9464@attacker.example",
            "localhost/attacker",
            "localhost, attacker.example",
            "0.0.0.0:9464",
            "[::]:9464",
            "10.0.0.1",
            "192.168.1.1:9464",
            "[fe80::1]",
            "[::ffff:10.0.0.1]",
            "2130706433",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn a_token_is_shown_as_bearer_or_as_password() {
        for (value, token) in [
            ("Bearer secret", Some("secret")),
            ("bearer secret", Some("secret")),
            // me:sec:ret
            ("Basic bWU6c2VjOnJldA==", Some("sec:ret")),
            ("Basic !!", None),
            ("Digest secret", None),
            ("secret", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            assert_eq!(shown(&headers).as_deref(), token, "{value}");
        }
        assert_eq!(shown(&HeaderMap::new()), None);
    }
}
