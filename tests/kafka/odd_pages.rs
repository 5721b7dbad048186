//! An API whose pages are odd: nothing is lost, what cannot be read is a dead letter, and no page is taken for the last
//! that does not say so.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use call_legs::sandbox::Sandbox;
use chrono::NaiveDateTime;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rdkafka::message::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::rig::{Identity, Rig, assert_complete, identities, identity, read_committed, sandbox_settings};
use super::support::kafka::kafka;

/// How many legs there are.
const LEGS: i64 = 10;

/// The leg that is odd, where one is.
const ODD_LEG: i64 = 5;

/// How many rows a page has.
const PAGE_SIZE: usize = 3;

/// What is odd.
#[derive(Clone, Copy, Debug)]
enum Odd {
    /// A part of one row is written otherwise.
    Row(&'static str, &'static [u8]),
    /// Every page has this for its meta, until it is mended.
    Meta(&'static str),
    /// The last page has.
    LastMeta(&'static str),
    /// Totals are texts, there are no cursors, and all rows come at once.
    TotalAsText,
    /// Every page begins with a byte order mark.
    Mark,
}

/// Ten legs that ended in the five minutes before it was started.
struct OddApi {
    odd: Odd,
    /// When each ended, and its row; in the order of the pages.
    rows: Vec<(i64, Vec<u8>)>,
    is_mended: AtomicBool,
    requests: AtomicUsize,
    /// Requests for the first page of a window, in the usual size.
    windows: AtomicUsize,
}

impl OddApi {
    fn new(odd: Odd) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let end = |number| i64::try_from(now).unwrap() - 30_000 * (LEGS + 1 - number);
        let rows = (1..=LEGS).rev().map(|number| {
            let row = format!(
                r#"{{"callId":"{}","legId":"1","startTimeUTC":{},"disconnectedTimeUTC":{},"talkTimeMS":24000,"callerName":"A Caller","status":"Completed","pbxId":"acme"}}"#,
                7000 + number,
                end(number) - 25_000,
                end(number)
            );
            let row = match odd {
                Odd::Row(from, to) if number == ODD_LEG => {
                    let (before, behind) = row.split_once(from).unwrap();
                    [before.as_bytes(), to, behind.as_bytes()].concat()
                }
                _ => row.into_bytes(),
            };
            (end(number), row)
        });
        let rows = rows.collect();
        Self {
            odd,
            rows,
            is_mended: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            windows: AtomicUsize::new(0),
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Vec<u8> {
        if request.uri().path().ends_with("token") {
            return br#"{"access_token":"t","token_type":"bearer","expires_in":1800}"#.to_vec();
        }
        let parameters: Vec<(String, String)> =
            url::form_urlencoded::parse(request.uri().query().unwrap().as_bytes()).into_owned().collect();
        let of = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let at = |name| {
            let at = NaiveDateTime::parse_from_str(of(name).unwrap(), "%Y-%m-%d %H:%M:%S").unwrap();
            at.and_utc().timestamp_millis()
        };
        let size: usize = of("pageSize").unwrap().parse().unwrap();
        let from: usize = of("scrollId").map_or(0, |cursor| cursor.strip_prefix("at-").unwrap().parse().unwrap());
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.windows.fetch_add(usize::from(from == 0 && size == PAGE_SIZE), Ordering::SeqCst);
        let span = at("startTime")..=at("endTime");
        let rows: Vec<&[u8]> =
            self.rows.iter().filter(|(end, _)| span.contains(end)).map(|(_, row)| row.as_slice()).collect();
        let size = if matches!(self.odd, Odd::TotalAsText) { usize::MAX } else { size };
        let page: Vec<&[u8]> = rows.iter().skip(from).take(size).copied().collect();
        let total = if page.is_empty() { 0 } else { rows.len() };
        let cursor = if page.is_empty() { "No Data".to_owned() } else { format!("at-{}", from + page.len()) };
        let meta = match self.odd {
            Odd::Meta(meta) if !self.is_mended.load(Ordering::SeqCst) => meta.to_owned(),
            Odd::LastMeta(meta) if page.is_empty() => meta.to_owned(),
            Odd::TotalAsText => format!(r#""meta":{{"totalRecordCount":"{total}"}},"#),
            _ => format!(r#""meta":{{"totalRecordCount":{total},"scrollId":"{cursor}"}},"#),
        };
        let mark = if matches!(self.odd, Odd::Mark) { "\u{feff}" } else { "" };
        [mark.as_bytes(), b"{", meta.as_bytes(), br#""data":["#, &page.join(&b','), b"]}"].concat()
    }
}

/// The connector before such an API.
struct Before {
    api: Arc<OddApi>,
    rig: Rig,
    _serving: AbortOnDropHandle<()>,
}

async fn before(odd: Odd) -> Before {
    let api = Arc::new(OddApi::new(odd));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("source.base_url = \"http://{}\"", listener.local_addr().unwrap());
    let serving = tokio::spawn(serve(listener, Arc::clone(&api)));
    let settings = [
        base_url.as_str(),
        "source.pbx_ids = [\"acme\"]",
        &format!("source.page_size = {PAGE_SIZE}"),
        "poll.start_from = \"now-30m\"",
        "sweeps = []",
    ];
    // What it simulates is not read.
    let sandbox = Sandbox::start(sandbox_settings(1, Duration::from_secs(3600))).await.unwrap();
    Before { api, rig: Rig::new(sandbox, kafka().bootstrap(), &settings), _serving: AbortOnDropHandle::new(serving) }
}

async fn serve(listener: TcpListener, api: Arc<OddApi>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let api = Arc::clone(&api);
        let service = service_fn(move |request| {
            let body = Full::new(Bytes::from(api.respond(&request)));
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl Before {
    async fn polls(&self, result: &str) -> f64 {
        self.rig.metric("call_legs_polls_total", &format!("result=\"{result}\"")).await
    }

    async fn polled(&self, result: &str, times: f64) {
        let before = self.polls(result).await;
        let what = format!("polls that are {result}, before {:?}", self.api.odd);
        self.rig.until(&what, async || self.polls(result).await >= before + times).await;
    }

    async fn legs_but(&self, odd: Option<i64>) {
        let legs: Vec<Identity> = (1..=LEGS)
            .filter(|number| Some(*number) != odd)
            .map(|number| identity("acme", &(7000 + number).to_string(), "1"))
            .collect();
        assert_complete(&identities(kafka().bootstrap(), &self.rig.topic).await, &legs, false);
    }

    fn dead_letters(&self) -> Vec<Vec<u8>> {
        let topic = format!("{}.dead-letter", self.rig.topic);
        read_committed(kafka().bootstrap(), &topic).iter().map(|letter| letter.payload().unwrap().to_vec()).collect()
    }

    fn odd_row(&self) -> Vec<u8> {
        self.api.rows[usize::try_from(LEGS - ODD_LEG).unwrap()].1.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_no_json_is_a_dead_letter_and_its_neighbours_are_legs() {
    for (from, to) in [
        ("A Caller", &b"A\tCaller"[..]),
        ("24000", b"NaN"),
        ("A Caller", br"A\x43aller"),
        (r#""acme"}"#, br#""acme",}"#),
    ] {
        let before = before(Odd::Row(from, to)).await;
        let _daemon = before.rig.start();
        before.polled("ok", 3.0).await;
        before.legs_but(Some(ODD_LEG)).await;
        assert_eq!(before.dead_letters(), [before.odd_row()]);
        assert_eq!(before.polls("incomplete").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_an_end_is_found_within_a_second_and_looked_for_once() {
    let before = before(Odd::Row("A Caller", br#"5" tall"#)).await;
    let _daemon = before.rig.start();
    before.polled("ok", 3.0).await;
    before.legs_but(Some(ODD_LEG)).await;
    let (windows, polls) = (before.api.windows.load(Ordering::SeqCst), before.polls("ok").await);
    before.polled("ok", 5.0).await;
    let (windows, polls) = (before.api.windows.load(Ordering::SeqCst) - windows, before.polls("ok").await - polls);
    // Its second and the two beside it, in whose margins it is, what is between, and a poll that has begun.
    assert!(windows as f64 <= 7.0 * (polls + 1.0), "{windows} windows in {polls} polls");
    assert_eq!(before.dead_letters(), [before.odd_row()], "once");
    before.legs_but(Some(ODD_LEG)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_utf8_marks_and_odd_metas_keep_nothing_back() {
    for odd in [
        Odd::Row("A Caller", b"A \xffCaller"),
        Odd::Mark,
        Odd::TotalAsText,
        Odd::LastMeta(r#""meta":"ok","#),
        Odd::LastMeta(r#""meta":null,"#),
        Odd::LastMeta(r#""meta":[],"#),
        Odd::LastMeta(""),
    ] {
        let before = before(odd).await;
        let _daemon = before.rig.start();
        before.polled("ok", 2.0).await;
        before.legs_but(None).await;
        assert_eq!((before.dead_letters().len(), before.polls("incomplete").await), (0, 0.0), "{odd:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_without_cursor_and_total_are_never_taken_for_the_last() {
    for meta in ["", r#""meta":"ok","#, r#""meta":{"totalRecordCount":"many","scrollId":null},"#] {
        let before = before(Odd::Meta(meta)).await;
        let _daemon = before.rig.start();
        before.polled("incomplete", 2.0).await;
        let (requests, polls) = (before.api.requests.load(Ordering::SeqCst), before.polls("incomplete").await);
        before.polled("incomplete", 3.0).await;
        let requests = before.api.requests.load(Ordering::SeqCst) - requests;
        let polls = before.polls("incomplete").await - polls;
        assert!(requests as f64 <= 16.0 * (polls + 1.0), "{requests} requests in {polls} polls");
        assert_eq!(before.polls("ok").await, 0.0, "{meta}");
        let found = identities(kafka().bootstrap(), &before.rig.topic).await;
        assert!(found.len() > PAGE_SIZE, "{} legs, and the first page has {PAGE_SIZE}", found.len());
        assert!(before.rig.metric("call_legs_unit_state", "state=\"source_incomplete\"").await > 0.0);
        assert!(before.rig.log().contains("neither a page cursor nor a total"), "{}", before.rig.last_words());

        before.api.is_mended.store(true, Ordering::SeqCst);
        before.polled("ok", 2.0).await;
        before.legs_but(None).await;
        assert!(before.dead_letters().is_empty());
    }
}
