//! A request and its answer as plain values, without a connection between them.

use bytes::Bytes;
use serde_json::Value;
use url::form_urlencoded;

use super::Credentials;

/// The header that carries the API key.
pub(crate) const API_KEY_HEADER: &str = "8x8-apikey";

/// A request to the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path, with or without `/analytics/work` in front.
    pub path: String,
    /// What follows the question mark, still encoded.
    pub query: String,
    /// Names in any case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// The request for an access token.
    pub fn token(credentials: &Credentials) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("username", &credentials.username);
        form.append_pair("password", &credentials.password);
        Self {
            method: "POST".to_owned(),
            path: "/v1/oauth/token".to_owned(),
            query: String::new(),
            headers: vec![(API_KEY_HEADER.to_owned(), credentials.api_key.clone())],
            body: Bytes::from(form.finish()),
        }
    }

    /// The request for a page of call legs.
    pub fn report(credentials: &Credentials, token: &str, parameters: &[(&str, &str)]) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        Self {
            method: "GET".to_owned(),
            path: "/v2/call-legs".to_owned(),
            query: query.finish(),
            headers: vec![
                ("Authorization".to_owned(), format!("Bearer {token}")),
                (API_KEY_HEADER.to_owned(), credentials.api_key.clone()),
            ],
            body: Bytes::new(),
        }
    }

    /// The first header called `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether it asks for call legs, not for a token.
    pub fn is_report(&self) -> bool {
        self.path.ends_with("/call-legs")
    }
}

/// The API's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Names and values, without `Date` and `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// An answer with a JSON text.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        let headers = vec![("Content-Type", "application/json;charset=UTF-8".to_owned())];
        Self { status, headers, body: body.into() }
    }

    /// An answer with a JSON value.
    pub(crate) fn value(status: u16, body: &Value) -> Self {
        Self::json(status, body.to_string())
    }

    /// The body as text; empty if it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// The first header called `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}
