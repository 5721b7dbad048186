//! From the API's JSON to rows: a page taken apart, a row parsed, a bad row as a value; and what an
//! error says.
//!
//! ```text
//!   body ──page──▶ rows as raw text ──row──▶ a leg, a call under way, or why it is a dead letter
//! ```

mod loose;
mod page;
#[cfg(test)]
mod reference;
mod row;
mod scan;

use serde::Deserialize;

pub use page::{NotAPage, Page, page};
pub use row::{Row, row, row_in};

/// The fields of an error body that say what is wrong, from any of the API's three shapes.
#[derive(Debug, Default)]
pub struct ErrorBody {
    /// `code`, such as `SHA001`.
    pub code: String,
    /// `error`, such as `invalid_grant`.
    pub error: String,
    /// `message`, `error_description` or `exception`.
    pub text: String,
}

/// Reads an error body leniently; anything else than the known shapes gives empty fields.
pub fn error_body(body: &[u8]) -> ErrorBody {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return ErrorBody::default() };
    let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let texts = ["exception", "error_description", "message"].map(text);
    ErrorBody {
        code: text("code"),
        error: text("error"),
        text: texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
    }
}

/// The reply to the token call.
#[derive(Deserialize)]
pub struct TokenReply {
    /// The bearer token.
    pub access_token: secrecy::SecretString,
    /// Its life in seconds.
    #[serde(default)]
    pub expires_in: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_error_shapes_and_rubbish() {
        let read = |body: &str| {
            let ErrorBody { code, error, text } = error_body(body.as_bytes());
            (code, error, text)
        };
        let owned = |code: &str, error: &str, text: &str| (code.to_owned(), error.to_owned(), text.to_owned());
        assert_eq!(
            read(r#"{"status":400,"message":"Invalid 8x8-apikey","code":"SHA001"}"#),
            owned("SHA001", "", "Invalid 8x8-apikey")
        );
        assert_eq!(
            read(r#"{"error_description":"USER_NOTFOUND_ERROR","error":"invalid_grant"}"#),
            owned("", "invalid_grant", "USER_NOTFOUND_ERROR")
        );
        assert_eq!(
            read(r#"{"status":403,"error":"Access Denied","exception":"why","message":"m"}"#),
            owned("", "Access Denied", "why")
        );
        assert_eq!(read("<html>"), owned("", "", ""));
    }
}
