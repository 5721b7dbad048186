//! From the API's JSON to rows: a page taken apart, a row parsed, a bad row as a value; and what an
//! error says.
//!
//! ```text
//!   body ──page──▶ rows as raw text ──row──▶ a leg, a call under way, or why it is a dead letter
//! ```

mod loose;
mod number;
mod page;
#[cfg(test)]
mod reference;
mod row;
mod scan;

use std::collections::HashMap;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use serde_json::value::RawValue;

pub use page::{NotAPage, Page, page};
pub use row::{Row, fields_of, row, row_in, written};

/// Who wrote the body of an error answer, as far as it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Author {
    /// The API: JSON in one of its three shapes.
    Api,
    /// A gateway or proxy: HTML, JSON of another shape, or anything else.
    Other,
    /// There is no body.
    #[default]
    Unknown,
}

/// The fields of an error body that say what is wrong, from any of the API's three shapes.
#[derive(Debug, Default)]
pub struct ErrorBody {
    /// Whose words they are.
    pub author: Author,
    /// `code`, such as `SHA001`.
    pub code: String,
    /// `message`, `error_description` or `exception`.
    pub text: String,
}

/// Reads an error body leniently; anything else than the known shapes gives empty fields.
pub fn error_body(body: &[u8]) -> ErrorBody {
    if body.trim_ascii().is_empty() {
        return ErrorBody::default();
    }
    let body = String::from_utf8_lossy(body);
    let members = members(&body).unwrap_or_default();
    let text = |name: &str| text(&members, name).unwrap_or_default();
    let texts = ["exception", "error_description", "message"].map(text);
    let is_api = ["code", "error"].iter().any(|name| !text(name).is_empty())
        || ["status", "message"].iter().all(|name| !text(name).is_empty());
    let author = if is_api { Author::Api } else { Author::Other };
    ErrorBody { author, code: text("code"), text: texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default() }
}

/// The reply to the token call.
pub struct TokenReply {
    /// The bearer token.
    pub access_token: SecretString,
    /// Its life, where one is named that can be read.
    pub life: Option<Duration>,
}

/// Reads the reply to the token call; `None` where it holds no token. Nothing else in it matters so much.
pub fn token_reply(body: &[u8]) -> Option<TokenReply> {
    let body = String::from_utf8_lossy(body);
    let members = members(&body)?;
    let access_token = text(&members, "access_token").filter(|token| !token.is_empty())?.into();
    let seconds = text(&members, "expires_in").and_then(|seconds| seconds.trim().parse().ok());
    Some(TokenReply { access_token, life: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) })
}

/// The members of a JSON object, each as it was written, so that one that cannot be read harms no other.
fn members(object: &str) -> Option<HashMap<String, &RawValue>> {
    serde_json::from_str(object).ok()
}

/// A member that is a text or a number, as text.
fn text(members: &HashMap<String, &RawValue>, name: &str) -> Option<String> {
    match serde_json::from_str(members.get(name)?.get()).ok()? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use secrecy::ExposeSecret;

    use super::*;

    /// JSON of every type, among it what some libraries write and others cannot read.
    const ODD: [&str; 14] = [
        "null",
        "true",
        "0",
        "-1",
        "1e999",
        "1800.5",
        "12345678901234567890123",
        "\"\"",
        "\"soon\"",
        "\"\\ud800\"",
        "[]",
        "[1,{\"a\":[]}]",
        "{}",
        "{\"code\":\"SHA001\",\"error\":{}}",
    ];

    #[test]
    fn the_three_error_shapes_and_what_is_none_of_them() {
        let read = |body: &str| {
            let ErrorBody { author, code, text } = error_body(body.as_bytes());
            (author, code, text)
        };
        let owned = |author, code: &str, text: &str| (author, code.to_owned(), text.to_owned());
        for (body, code, text) in [
            (r#"{"status":400,"message":"Invalid 8x8-apikey","code":"SHA001"}"#, "SHA001", "Invalid 8x8-apikey"),
            (r#"{"error_description":"USER_NOTFOUND_ERROR","error":"invalid_grant"}"#, "", "USER_NOTFOUND_ERROR"),
            (r#"{"status":403,"error":"Access Denied","exception":"why","message":"m"}"#, "", "why"),
            (r#"{"status":404,"message":"No search context found"}"#, "", "No search context found"),
            (r#"{"code":105,"code":"SHA001","message":{"a":1},"details":["\ud800"]}"#, "SHA001", ""),
            (r#"{"code":105}"#, "105", ""),
        ] {
            assert_eq!(read(body), owned(Author::Api, code, text), "{body}");
        }
        for body in [
            "<html>",
            "upstream connect error",
            r#"{"message":"Forbidden"}"#,
            r#"{"statusCode":401,"message":"Access denied"}"#,
            r#"{"fault":{"faultstring":"Invalid ApiKey"}}"#,
            r#"{"error":{"code":403,"message":"denied"}}"#,
            r#"[{"code":"SHA001"}]"#,
            r#""code""#,
            "{}",
            "{",
        ] {
            let read = read(body);
            assert_eq!((read.0, read.1.as_str()), (Author::Other, ""), "{body}");
        }
        for body in ["", " \r\n"] {
            assert_eq!(read(body), owned(Author::Unknown, "", ""));
        }
    }

    #[test]
    fn a_life_is_read_however_it_is_written() {
        let life = |written: &str| {
            token_reply(format!(r#"{{"access_token":"t","expires_in":{written}}}"#).as_bytes()).unwrap().life
        };
        for written in ["1800", "\"1800\"", "1800.0", "1.8e3", "\" 1800 \"", "\"1.8e3\""] {
            assert_eq!(life(written), Some(Duration::from_secs(1800)), "{written}");
        }
        for written in
            ["null", "-1", "\"-1\"", "\"never\"", "\"\"", "true", "[1800]", "{}", "1e400", "\"NaN\"", "\"inf\""]
        {
            assert_eq!(life(written), None, "{written}");
        }
    }

    #[test]
    fn what_holds_no_token_is_no_reply() {
        for body in [
            "",
            "{}",
            "[]",
            "<html>",
            "null",
            r#"{"access_token":null}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":["t"]}"#,
        ] {
            assert!(token_reply(body.as_bytes()).is_none(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_other_part_of_a_reply_keeps_the_token_out(
            parts in vec((select(vec!["expires_in", "token_type", "scope", "error", "refresh_token"]), select(ODD.to_vec())), 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let mut parts: Vec<String> = parts.into_iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
            parts.insert(at.index(parts.len() + 1), r#""access_token":"the token""#.to_owned());
            let body = format!("{{{}}}", parts.join(","));
            let reply = token_reply(body.as_bytes());
            prop_assert_eq!(reply.map(|reply| reply.access_token.expose_secret().to_owned()), Some("the token".to_owned()), "{}", body);
        }

        #[test]
        fn no_other_part_of_an_error_hides_its_code(
            parts in vec((select(vec!["status", "message", "details", "error", "timeStamp", "exception"]), select(ODD.to_vec())), 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let mut parts: Vec<String> = parts.into_iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
            parts.insert(at.index(parts.len() + 1), r#""code":"SHA001""#.to_owned());
            let body = format!("{{{}}}", parts.join(","));
            let read = error_body(body.as_bytes());
            prop_assert_eq!((read.author, read.code.as_str()), (Author::Api, "SHA001"), "{}", body);
        }
    }
}
