//! The simulated API's rows, rendered beforehand, and a server that does nothing but hand them out.
//!
//! A page is a slice of one text of all rows, so serving one costs next to nothing: what is measured is the client.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use call_legs::core::time::UtcMillis;
use call_legs::sandbox::Settings;
use call_legs::sandbox::api::{Credentials, Request};
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::source::wire;
use chrono::NaiveDateTime;
use hyper::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::form_urlencoded;

/// The only unit of a tape.
pub(crate) const UNIT: &str = "acme-east";

/// The API's largest page.
const PAGE_ROWS_MAX: usize = 7_000;

/// All rows of a unit as JSON, in the order of their times.
pub(crate) struct Tape {
    /// The rows with commas between.
    text: Bytes,
    /// For each row where it begins and ends in the text, and its time in milliseconds.
    rows: Vec<(usize, usize, i64)>,
}

impl Tape {
    /// Renders `legs` rows that end in the `span` before `origin`.
    pub(crate) fn render(legs: u64, span: std::time::Duration, origin: UtcMillis, seed: u64) -> Self {
        let dataset = DatasetSettings { seed, legs, span, pbxes: vec![UNIT.to_owned()], ..DatasetSettings::default() };
        let settings = Settings { dataset, ..Settings::default() };
        let api = settings.api(origin).expect("a generated dataset needs nothing");
        let token = api.answer(origin, &Request::token(api.credentials()));
        let token: serde_json::Value = serde_json::from_slice(&token.body).expect("a token reply is JSON");
        let token = token["access_token"].as_str().expect("it holds a token").to_owned();
        let text = |at: UtcMillis| at.to_datetime().expect("a date").format("%Y-%m-%d %H:%M:%S").to_string();
        let hour = std::time::Duration::from_secs(3600);
        let (start, end) = (text(origin.minus(span + hour)), text(origin.plus(hour)));
        let page_size = PAGE_ROWS_MAX.to_string();
        let mut found: Vec<(i64, Bytes)> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut parameters = vec![
                ("pbxId", UNIT),
                ("startTime", start.as_str()),
                ("endTime", end.as_str()),
                ("timeZone", "UTC"),
                ("pageSize", page_size.as_str()),
            ];
            parameters.extend(cursor.as_deref().map(|cursor| ("scrollId", cursor)));
            let answer = api.answer(origin, &Request::report(api.credentials(), &token, &parameters));
            let page = wire::page(answer.body.into()).expect("the simulated API's page");
            if page.is_empty() {
                break;
            }
            for row in page.rows() {
                let wire::Row::Leg(leg) = wire::row_in(row, None) else { panic!("a row that is no leg") };
                found.push((leg.disconnected.as_millis(), Bytes::copy_from_slice(row.as_bytes())));
            }
            cursor = page.cursor;
        }
        // The API has an order of its own; the tape looks windows up.
        found.sort_by_key(|(at, _)| *at);
        let mut text = Vec::with_capacity(found.iter().map(|(_, row)| row.len() + 1).sum());
        let mut rows = Vec::with_capacity(found.len());
        for (at, row) in found {
            if !text.is_empty() {
                text.push(b',');
            }
            rows.push((text.len(), text.len() + row.len(), at));
            text.extend_from_slice(&row);
        }
        Self { text: Bytes::from(text), rows }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many bytes of JSON they are.
    pub(crate) fn json_bytes(&self) -> usize {
        self.text.len()
    }

    /// A page of the rows in `[from, to]` (milliseconds), from row `first` on, of the `shown` oldest; and where it ends.
    fn page(&self, from: i64, to: i64, first: usize, page_size: usize, shown: usize) -> (Pieces, usize) {
        let start = self.rows.partition_point(|(_, _, at)| *at < from).min(shown);
        let end = self.rows.partition_point(|(_, _, at)| *at <= to).min(shown);
        let first = first.max(start).min(end);
        let last = (first + page_size).min(end);
        let (total, cursor, rows) = match self.rows.get(first..last) {
            Some([one]) => (end - start, last.to_string(), self.text.slice(one.0..one.1)),
            Some([begin, .., until]) => (end - start, last.to_string(), self.text.slice(begin.0..until.1)),
            _ => (0, "No Data".to_owned(), Bytes::new()),
        };
        let head = format!("{{\"meta\":{{\"totalRecordCount\":{total},\"scrollId\":\"{cursor}\"}},\"data\":[");
        (Pieces::new([Bytes::from(head), rows, Bytes::from_static(b"]}")]), last)
    }
}

/// A body of some pieces, sent as they are.
pub(crate) struct Pieces {
    pieces: std::vec::IntoIter<Bytes>,
    bytes_left: u64,
}

impl Pieces {
    fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: Vec<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let bytes_left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into_iter(), bytes_left }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.bytes_left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}

/// Serves a tape. Polls wait at a gate, so that one can be measured alone.
pub(crate) struct Server {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// A window as it was asked for, in milliseconds.
#[derive(Clone, Copy)]
struct Asked {
    from: i64,
    to: i64,
}

struct Shared {
    tape: Arc<Tape>,
    /// How many polls may begin.
    allowed: watch::Sender<usize>,
    /// How many have asked to.
    asked: watch::Sender<usize>,
    /// The first window that was asked for, and the newest one.
    windows: Mutex<Option<(Asked, Asked)>>,
    /// How many of the tape's rows are shown, the oldest first.
    shown: AtomicUsize,
    /// When a page was handed out that holds the newest of them.
    first_shown: Mutex<Option<Instant>>,
}

impl Server {
    pub(crate) async fn start(tape: Arc<Tape>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            tape,
            allowed: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            windows: Mutex::new(None),
            shown: AtomicUsize::new(usize::MAX),
            first_shown: Mutex::new(None),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, address, accepting }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets one poll more begin.
    pub(crate) fn allow_poll(&self) {
        self.shared.allowed.send_modify(|allowed| *allowed += 1);
    }

    /// Lets all begin.
    pub(crate) fn open(&self) {
        self.shared.allowed.send_replace(usize::MAX);
    }

    /// Waits until the `number`th poll asks to begin; everything before it is done then.
    pub(crate) async fn asked(&self, number: usize) {
        let mut asked = self.shared.asked.subscribe();
        asked.wait_for(|asked| *asked >= number).await.expect("the server lives");
    }

    /// Shows no more than the oldest rows, so many of them.
    pub(crate) fn show_only(&self, rows: usize) {
        *lock(&self.shared.first_shown) = None;
        self.shared.shown.store(rows, Ordering::SeqCst);
    }

    /// When the newest of the shown rows was first handed out.
    pub(crate) fn first_shown(&self) -> Instant {
        lock(&self.shared.first_shown).expect("it was asked for")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // As the connector's client does.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Shared, request: hyper::Request<Incoming>) -> Response<Pieces> {
    let json = |body: Pieces| {
        Response::builder().header("Content-Type", "application/json").body(body).expect("a plain response")
    };
    if request.uri().path().ends_with("/token") {
        let reply = r#"{"access_token":"bench","token_type":"bearer","expires_in":86400}"#;
        return json(Pieces::new([Bytes::from_static(reply.as_bytes())]));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let value = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let millis = |name: &str| {
        let text = value(name).unwrap_or_default();
        let time = NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S").expect("a query's bound");
        time.and_utc().timestamp_millis()
    };
    let (from, to) = (millis("startTime"), millis("endTime") + 999);
    let cursor = value("scrollId").and_then(|cursor| cursor.parse().ok());
    if cursor.is_none() {
        wait_at_gate(shared, Asked { from, to }).await;
    }
    let page_size = value("pageSize").and_then(|size| size.parse().ok()).unwrap_or(50);
    let shown = shared.shown.load(Ordering::SeqCst);
    let (page, last) = shared.tape.page(from, to, cursor.unwrap_or(0), page_size, shown);
    if last >= shown {
        lock(&shared.first_shown).get_or_insert_with(Instant::now);
    }
    json(page)
}

/// A poll begins with a window from the first instant on. A shorter one, right behind such a one, is a part of it.
async fn wait_at_gate(shared: &Shared, asked: Asked) {
    let is_poll = {
        let mut windows = lock(&shared.windows);
        let is_first = windows.is_none();
        let (first, newest) = windows.get_or_insert((asked, asked));
        let is_part = newest.from == asked.from && asked.to < newest.to;
        *newest = asked;
        is_first || (asked.from == first.from && !is_part)
    };
    if is_poll {
        let mut number = 0;
        shared.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut allowed = shared.allowed.subscribe();
        allowed.wait_for(|allowed| *allowed >= number).await.expect("the server lives");
    }
}

/// Whom the simulated API lets in; the tape lets in everybody.
pub(crate) fn credentials() -> Credentials {
    Credentials::default()
}
