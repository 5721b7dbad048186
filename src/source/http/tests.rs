//! What is made of answers: each status, odd headers and bodies, and what no error may repeat.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::net::TcpListener;

use super::super::Failure;
use super::*;
use crate::config::Config;
use crate::core::time::Window;

const TOKEN: &str = r#"{"access_token":"the token","expires_in":1800}"#;
const PAGE: &str = r#"{"meta":{"totalRecordCount":1,"scrollId":"No Data"},"data":[{}]}"#;
/// Codes and words of the API, and what gateways and proxies say.
const OURS: &str = r#"{"status":0,"message":"why","code":"105-400-000"}"#;
const THEIRS: [&str; 4] = ["<html><h1>Forbidden</h1>", "upstream connect error", r#"{"message":"Forbidden"}"#, "[]"];

/// A reply: its status, its headers, its body.
type Reply = (u16, &'static [(&'static str, &'static str)], &'static str);

/// An API that answers the token call so, and reports so; it lives as long as the runtime. And how often it was asked.
async fn api(token: Reply, report: Reply) -> (Api, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let app = Router::new().fallback(async move |request: Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let (status, headers, body) = if request.uri().path().ends_with(TOKEN_PATH) { token } else { report };
        let reply =
            headers.iter().fold(Response::builder().status(status), |reply, (name, value)| reply.header(*name, *value));
        reply.body(Body::from(body)).unwrap()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (client(address), asked)
}

fn client(address: SocketAddr) -> Api {
    let lines = [
        &format!("source.base_url = \"http://{address}/analytics/work\""),
        "source.api_key = \"the-key\"",
        "source.username = \"the-user\"",
        "source.password = \"the-password\"",
        "kafka.bootstrap_servers = \"kafka:9092\"",
        "avro.framing = \"single-object\"",
        "state.dir = \"/tmp\"",
    ];
    let nothing: [(&str, &str); 0] = [];
    Api::new(Config::parse("c.toml", &lines.join("\n"), nothing).unwrap().source).unwrap()
}

/// What becomes of one report.
async fn reported(token: Reply, report: Reply, cursor: Option<&str>) -> Result<Page, SourceError> {
    let bounds =
        crate::core::query::query_bounds(Window::new(UtcMillis::new(0), UtcMillis::new(60_000)), Tz::UTC).unwrap();
    api(token, report).await.0.fetch("acme", &bounds, cursor, None).await
}

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
        (page("acme"), 400, OURS, "refuses the request for PBX acme"),
        (page("acme"), 302, "<html>", "redirects"),
        (page("acme"), 404, "", "source.base_url"),
        (page("acme"), 410, OURS, "source.base_url"),
        (page("acme"), 403, "", "HTTP 403, without a word: it may be a gateway's or proxy's"),
        (page("acme"), 400, r#"{"message":"Invalid 8x8-apikey"}"#, "the API key is not valid"),
        (Call::Token, 422, OURS, "refuses the token call"),
    ] {
        let error = explained(call, status, body);
        assert_eq!(error.recovery, Recovery::Refused, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("x@y"), "no personal data: {error}");
    }
}

#[test]
fn a_cursor_that_is_refused_or_gone_means_that_the_window_is_read_again() {
    let scrolling = || Call::Report { unit: "acme", scrolling: true };
    for status in [400, 404, 409, 410, 414, 422] {
        for body in THEIRS.into_iter().chain([OURS, "", r#"{"status":404,"message":"No search context found"}"#]) {
            let error = explained(scrolling(), status, body);
            assert_eq!(
                (error.recovery, error.failure),
                (Recovery::Reread, Failure::Cursor),
                "{status} {body}: {error}"
            );
        }
    }
    for (status, body) in
        [(400, r#"{"code":"SHA001"}"#), (400, r#"{"code":"105-400-038"}"#), (401, OURS), (403, OURS), (405, OURS)]
    {
        assert_eq!(explained(scrolling(), status, body).recovery, Recovery::Refused, "{status} {body}");
    }
}

#[test]
fn what_is_not_the_apis_own_is_called_what_it_is() {
    for status in [304, 400, 401, 403, 404, 405, 407, 410, 413, 418, 451] {
        for body in THEIRS {
            for call in [Call::Token, Call::Report { unit: "acme", scrolling: false }] {
                let error = explained(call, status, body);
                assert_eq!(
                    (error.recovery, error.failure),
                    (Recovery::Retry { after: None }, Failure::Unreachable),
                    "{error}"
                );
                let expected = format!("a gateway's or proxy's page came, not the API's answer (HTTP {status})");
                assert!(error.to_string().starts_with(&expected), "{error}");
            }
        }
    }
}

#[test]
fn a_refusal_that_names_nothing_else_may_be_for_the_windows_length_whoever_wrote_it() {
    let page = || Call::Report { unit: "acme", scrolling: false };
    for status in [400, 413, 414, 422, 500, 502, 504] {
        for body in THEIRS.into_iter().chain([OURS, ""]) {
            assert!(explained(page(), status, body).may_be_for_the_window, "{status} {body}");
        }
    }
    for (status, body) in [
        (400, r#"{"code":"SHA001"}"#),
        (400, r#"{"code":"105-400-038"}"#),
        (401, OURS),
        (403, OURS),
        (403, "<html>"),
        (404, OURS),
        (429, ""),
    ] {
        assert!(!explained(page(), status, body).may_be_for_the_window, "{status} {body}");
    }
}

#[test]
fn retry_after_is_obeyed_whatever_refuses() {
    let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
    let after = Some(Duration::from_secs(7));
    let told = |call: Call<'_>, status: u16, body: &str| {
        let error = explain(call, StatusCode::from_u16(status).unwrap(), &headers, &wire::error_body(body.as_bytes()));
        (error.recovery, error.failure)
    };
    for body in THEIRS.into_iter().chain([OURS, ""]) {
        for (status, failure) in [
            (429, Failure::RateLimited),
            (403, Failure::RateLimited),
            (408, Failure::Unreachable),
            (503, Failure::Unreachable),
        ] {
            for scrolling in [false, true] {
                let expected = (Recovery::Retry { after }, failure);
                assert_eq!(told(Call::Token, status, body), expected, "{status} {body}");
                assert_eq!(told(Call::Report { unit: "acme", scrolling }, status, body), expected, "{status} {body}");
            }
        }
    }
    assert_eq!(told(Call::Token, 418, THEIRS[0]), (Recovery::Retry { after }, Failure::Unreachable));
    let soon = HeaderMap::from_iter([(RETRY_AFTER, "soon".parse().unwrap())]);
    let page = Call::Report { unit: "acme", scrolling: false };
    assert_eq!(
        explain(page, StatusCode::FORBIDDEN, &soon, &wire::error_body(OURS.as_bytes())).recovery,
        Recovery::Refused
    );
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
    assert_eq!(after("2.5"), Some(2));
    assert_eq!(after("99999999999999999999999"), Some(300));
    assert_eq!(after("NaN"), None);
    assert_eq!(after("Sun, 06 Nov 1994 08:49:57 GMT"), Some(20));
    assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(1));
    assert_eq!(after("soon"), None);
    assert_eq!(after("-5"), None);
}

#[tokio::test]
async fn no_success_is_a_refusal() {
    let token = (201, &[][..], TOKEN);
    for (status, body, rows) in [
        (200, PAGE, Some(1)),
        (201, PAGE, Some(1)),
        (203, "\u{feff}{\"data\":[1,2]}", Some(2)),
        (204, "", Some(0)),
        (200, "", None),
        (202, "", None),
        (205, "", None),
        (206, "{\"data\":[1,", None),
        (206, PAGE, None),
        (200, "{}", None),
    ] {
        for cursor in [None, Some("c")] {
            match reported(token, (status, &[], body), cursor).await {
                Ok(page) => {
                    assert_eq!((Some(page.len()), page.cursor.is_none()), (rows, rows != Some(1)), "{status} {body}")
                }
                Err(error) => {
                    assert_eq!(rows, None, "{status} {body}: {error}");
                    assert_eq!(error.failure, Failure::Unreachable, "{status} {body}: {error}");
                }
            }
        }
    }
    for body in THEIRS.into_iter().filter(|body| !body.starts_with('{')) {
        for error in [
            reported(token, (200, &[], body), None).await.unwrap_err(),
            reported((200, &[], body), (200, &[], PAGE), None).await.unwrap_err(),
        ] {
            assert_eq!(error.failure, Failure::Unreachable);
            assert!(
                error.to_string().starts_with("a gateway's or proxy's page came, not the API's answer (HTTP 200)"),
                "{error}"
            );
        }
    }
    for (status, body) in [(200, ""), (204, ""), (200, "{\"error\":\"no\"}")] {
        let error = reported((status, &[], body), (200, &[], PAGE), None).await.unwrap_err();
        let expected = format!("the token call was answered without a token (HTTP {status})");
        assert_eq!((error.failure, error.to_string()), (Failure::Unreachable, expected));
    }
}

#[tokio::test]
async fn a_reply_is_read_behind_a_byte_order_mark() {
    let token = (200, &[][..], "\u{feff}{\"access_token\":\"t\",\"expires_in\":\"1800\"}");
    assert_eq!(reported(token, (200, &[], "\u{feff}{\"data\":[{}]}"), None).await.unwrap().len(), 1);
    let error = reported(token, (400, &[], "\u{feff}{\"code\":\"SHA001\"}"), None).await.unwrap_err();
    assert!(error.to_string().contains("the API key is not valid"), "{error}");
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_refused_at_once() {
    for token in
        [r#"{"access_token":"a\nb"}"#, r#"{"access_token":"t\u0000"}"#, r#"{"access_token":"t\r\n","expires_in":1800}"#]
    {
        let (api, asked) = api((200, &[], token), (200, &[], PAGE)).await;
        for _ in 0..2 {
            let error = api.log_in().await.unwrap_err();
            assert_eq!(error.recovery, Recovery::Refused);
            assert!(error.to_string().starts_with("the source gives a token that no HTTP header can carry"), "{error}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn the_clock_of_a_cache_is_not_the_sources() {
    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    for (headers, is_used) in [
        (&[DATE][..], true),
        (&[DATE, ("age", "0")], true),
        (&[DATE, ("age", "1")], false),
        (&[DATE, ("age", "86400")], false),
        (&[DATE, ("age", "0"), ("age", "30")], false),
        (&[DATE, ("age", "old")], false),
        (&[("date", "yesterday")], false),
    ] {
        let (api, _) = api((200, headers, TOKEN), (200, &[], PAGE)).await;
        api.log_in().await.unwrap();
        assert_eq!(api.skew().is_some(), is_used, "{headers:?}");
    }
}

#[tokio::test]
async fn failures_on_the_way_are_told_in_words_without_urls() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = client(nobody).log_in().await.unwrap_err();
    assert!(error.to_string().starts_with("cannot connect to the source (check source.base_url"), "{error}");
    assert!(error.to_string().ends_with("tcp connect error: Connection refused (os error 111)"), "{error}");
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
}

proptest! {
    #[test]
    fn no_error_repeats_a_secret_or_a_body(
        status in 300_u16..=599,
        call in 0..3_usize,
        shape in select(vec![
            "<html>SECRET", "SECRET", r#"{"message":"SECRET"}"#, r#"{"code":"SECRET=1","message":"SECRET"}"#, r#"{"error":"SECRET","error_description":"SECRET"}"#,
            r#"{"status":1,"error":"SECRET","exception":"user(SECRET) does not have access","message":"SECRET"}"#, r#"{"code":"SHA001","message":"SECRET"}"#,
        ]),
    ) {
        let call = [Call::Token, Call::Report { unit: "acme", scrolling: false }, Call::Report { unit: "acme", scrolling: true }].into_iter().nth(call);
        let error = explained(call.unwrap(), status, shape);
        prop_assert!(!format!("{error} {error:?}").contains("SECRET"), "{}", error);
    }
}
