//! An API whose answers are odd, or whose statuses, headers and token replies are those of a gateway: each is read for
//! what it is, and told so.
//!
//! The odd API is a front before the simulated one, which knows what is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::Response;
use call_legs::sandbox::Sandbox;
use tokio::net::TcpListener;
use url::Url;

use super::rig::{Rig, assert_complete, identities, sandbox_settings};
use super::secured::text;
use super::support::kafka::kafka;

/// An answer on its way through the front.
pub(super) struct Answer {
    /// Of the token call, not of a report.
    pub(super) is_token: bool,
    /// Whether the request had a cursor.
    pub(super) has_cursor: bool,
    /// How many reports with a cursor came before.
    cursors: u32,
    status: u16,
    headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

/// A front before the API at `base_url`, which changes its answers; it lives as long as the runtime. Gives its own base URL.
pub(super) async fn front(base_url: &str, change: fn(&mut Answer)) -> String {
    let api = Url::parse(base_url).unwrap();
    let (client, cursors) = (reqwest::Client::builder().no_proxy().build().unwrap(), Arc::new(AtomicU32::new(0)));
    let path = api.path().to_owned();
    let app = Router::new().fallback(async move |request: Request| {
        let (parts, body) = request.into_parts();
        let target = api.join(parts.uri.path_and_query().unwrap().as_str()).unwrap();
        let has_cursor = target.query().is_some_and(|query| query.contains("scrollId="));
        let mut forwarded =
            client.request(parts.method, target.clone()).body(to_bytes(body, usize::MAX).await.unwrap());
        for name in ["8x8-apikey", "authorization", "content-type"] {
            forwarded =
                parts.headers.get(name).into_iter().fold(forwarded, |request, value| request.header(name, value));
        }
        let answered = forwarded.send().await.unwrap();
        let mut answer = Answer {
            is_token: target.path().ends_with("/token"),
            has_cursor,
            cursors: cursors.fetch_add(u32::from(has_cursor), Ordering::Relaxed),
            status: answered.status().as_u16(),
            headers: Vec::new(),
            body: answered.text().await.unwrap(),
        };
        change(&mut answer);
        let response = Response::builder().status(answer.status);
        let response =
            answer.headers.into_iter().fold(response, |response, (name, value)| response.header(name, value));
        response.body(Body::from(answer.body)).unwrap()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}{path}")
}

/// A world whose API is changed so, and whose windows have several pages.
async fn rig(change: fn(&mut Answer)) -> Rig {
    let sandbox = Sandbox::start(sandbox_settings(60, Duration::from_secs(3600))).await.unwrap();
    let base_url = front(&sandbox.base_url(), change).await;
    let settings = [&format!("source.base_url = {base_url:?}"), "source.page_size = 7"];
    Rig::new(sandbox, kafka().bootstrap(), &settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_are_read_for_what_they_are() {
    for (name, change) in [
        (
            "a life written as text",
            (|answer| answer.body = answer.body.replace(":1800", ":\"1800\"")) as fn(&mut Answer),
        ),
        ("no life at all", |answer| answer.body = answer.body.replace(":1800", ":{\"seconds\":[]}")),
        ("byte order marks", |answer| answer.body.insert(0, '\u{feff}')),
        ("no content for no legs", |answer| {
            if answer.body.contains("\"data\":[]") {
                (answer.status, answer.body) = (204, String::new());
            }
        }),
        ("a cursor that is gone at first", |answer| {
            if answer.has_cursor && answer.cursors == 0 {
                (answer.status, answer.body) =
                    (404, "{\"status\":404,\"message\":\"No search context found\"}".to_owned());
            }
        }),
        ("a cursor that is gone for a gateway", |answer| {
            if answer.has_cursor && answer.cursors == 2 {
                (answer.status, answer.body) = (410, "<html>Gone</html>".to_owned());
            }
        }),
        ("the date of a cache", |answer| {
            answer.headers = vec![("date", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()), ("age", "86400".to_owned())];
        }),
        ("a pause asked for with 403", |answer| {
            if answer.has_cursor && answer.cursors == 1 {
                (answer.status, answer.body) = (403, "<html>slow down</html>".to_owned());
                answer.headers = vec![("retry-after", "1".to_owned())];
            }
        }),
    ] {
        let rig = rig(change).await;
        let daemon = rig.start();
        rig.polled_whole(1).await;
        let (status, page) = rig.page("/readyz").await.unwrap();
        assert_eq!(status, 200, "{name}: {page}");
        assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
        for untrue in ["source.pbx_ids", "there is no such call", "is refused: check"] {
            assert!(!rig.log().contains(untrue), "{name}: {}", rig.last_words());
        }
        assert!(daemon.terminate().0.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_page_is_told_as_one_and_waited_out() {
    let rig = rig(|answer| {
        (answer.status, answer.body) = (403, "<html>Access to hunter2 is blocked</html>".to_owned());
    })
    .await;
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(3));
    let said = text(&checked);
    assert!(said.contains("FAIL  token: a gateway's or proxy's page came, not the API's answer (HTTP 403)"), "{said}");
    assert!(!said.contains("hunter2") && !said.contains("user name or password"), "{said}");
    let _daemon = rig.start();
    rig.until("words", async || {
        rig.page("/readyz")
            .await
            .is_some_and(|(_, page)| page.contains("source_unreachable: a gateway's or proxy's page came"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_no_header_can_carry_is_told_at_once() {
    let rig = rig(|answer| {
        if answer.is_token {
            answer.body = "{\"access_token\":\"hunter2\\n\",\"expires_in\":1800}".to_owned();
        }
    })
    .await;
    let said = text(&rig.run(&["check"]));
    assert!(said.contains("FAIL  token: the source gives a token that no HTTP header can carry"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
