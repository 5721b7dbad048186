//! The admin port: the status page, health, readiness and metrics, rendered from plain snapshots; and operators' orders.
//!
//! | file | holds |
//! |---|---|
//! | `access` | who may look, and who may order |
//! | `server` | how many connections there may be, and for how long |
//! | `page`, `drawing` | the status page and its drawings; `page.css` and `page.js` are part of it |

mod access;
mod drawing;
mod page;
mod server;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use url::form_urlencoded;

pub use access::Keys;
use server::Limits;

use crate::clock::{Clock, SystemClock};
use crate::connector::{Order, OrderError, OrderRequest};
use crate::telemetry::shown::Snapshot;
use crate::telemetry::snapshot::Process;
use crate::telemetry::{Metrics, StatusBoard, plain_text};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// Where orders are posted: JSON of an [`Order`], with the owner's token as bearer; the answer is text.
pub const ORDERS: &str = "/orders";

/// Where backfills are shown, with the owner's token as bearer: JSON, a list of
/// [`BackfillStatus`](crate::telemetry::status::BackfillStatus).
pub const BACKFILLS: &str = "/backfills";

/// Where the snapshot is shown: JSON of a [`Snapshot`].
pub const STATUS: &str = "/status.json";

/// Where a probe asks whether the workers are alive: 200, or 503 with the steps that one is stuck in.
pub const HEALTHZ: &str = "/healthz";

/// What the pages are rendered from.
#[derive(Clone)]
pub struct Pages {
    /// How things are.
    pub status: StatusBoard,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What does not change.
    pub process: Arc<Process>,
    /// Who may look, and order.
    pub keys: Keys,
    /// Where orders go.
    pub orders: mpsc::Sender<OrderRequest>,
}

/// Listens for operators and their tools.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stopped`.
pub async fn serve(listener: TcpListener, pages: Pages, stopped: impl Future<Output = ()> + Send + 'static) {
    let probes = Router::new().route(HEALTHZ, get(healthz)).route("/readyz", get(readyz));
    let looking = Router::new()
        .route("/", get(status_page))
        .route(STATUS, get(status_json))
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(pages.keys.clone(), access::looking));
    let orders = Router::new()
        .route(ORDERS, post(order))
        .route(BACKFILLS, get(backfills))
        .route_layer(from_fn_with_state(pages.keys.clone(), access::orders));
    let mut routes = probes.merge(looking).merge(orders);
    if listener.local_addr().is_ok_and(|address| address.ip().is_loopback()) {
        routes = routes.layer(from_fn(access::from_here));
    }
    let routes = routes.layer(map_response(guarded)).with_state(pages);
    server::serve(listener, routes, Limits::default(), stopped).await;
}

/// Nothing that is shown is kept, or taken for something else.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Pages {
    fn snapshot(&self) -> Snapshot {
        let (status, recent) = (self.status.read(), self.status.recent());
        Snapshot::take(&self.process, status, recent, SystemClock.now(), Instant::now())
    }
}

async fn status_page(State(pages): State<Pages>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, HTML), (header::CONTENT_SECURITY_POLICY, page::POLICY.as_str())];
    let query = query.unwrap_or_default();
    let chosen = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "unit").map(|(_, unit)| unit);
    (headers, page::page(&pages.snapshot(), chosen.as_deref()))
}

async fn status_json(State(pages): State<Pages>) -> Json<Snapshot> {
    Json(pages.snapshot())
}

/// 503 only when a worker is stuck, so that restarting is the right answer to it.
async fn healthz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.status.read().stuck(Instant::now()).as_slice() {
        [] => (StatusCode::OK, "healthy\n".to_owned()),
        stuck => (StatusCode::SERVICE_UNAVAILABLE, format!("stuck in: {}\n", stuck.join(", "))),
    }
}

/// 200 when this instance publishes as it should, or could take over at once: what starts and replaces instances waits for
/// no more. `?owner` asks whether it publishes.
async fn readyz(State(pages): State<Pages>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let status = pages.status.read();
    let is_owner_asked_for = query.is_some_and(|query| query.split('&').any(|key| key == "owner" || key == "owner="));
    match status.reasons_not_ready(Instant::now()).as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        reasons if status.is_warm_standby() && !is_owner_asked_for => {
            (StatusCode::OK, format!("ready to take over\n{}\n", reasons.join("\n")))
        }
        reasons => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", reasons.join("\n"))),
    }
}

/// OpenMetrics, or the older text format for tools that ask for it.
async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> impl IntoResponse {
    let page = pages.metrics.render(&pages.status.read(), Instant::now());
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if plain_text::is_preferred(accept) {
        ([(header::CONTENT_TYPE, plain_text::CONTENT_TYPE)], plain_text::from_openmetrics(&page))
    } else {
        ([(header::CONTENT_TYPE, OPENMETRICS)], page)
    }
}

async fn backfills(State(pages): State<Pages>) -> (StatusCode, String) {
    let backfills: Vec<_> = pages.status.read().backfills.into_values().collect();
    match serde_json::to_string(&backfills) {
        Ok(json) => (StatusCode::OK, json),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// An order as it is posted.
#[derive(Serialize, Deserialize)]
pub struct PostedOrder {
    /// What is asked.
    #[serde(flatten)]
    pub order: Order,
    /// The caller's name for this one order: posted again under the same name it is not carried out again.
    pub id: Option<String>,
    /// For how many seconds it may wait to be begun.
    pub within_s: Option<u64>,
}

async fn order(State(pages): State<Pages>, body: String) -> (StatusCode, String) {
    let PostedOrder { order, id, within_s } = match serde_json::from_str(&body) {
        Ok(posted) => posted,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("no order that this version knows: {error}\n")),
    };
    let deadline = within_s.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let (reply, answer) = oneshot::channel();
    if pages.orders.try_send(OrderRequest { order, id, deadline, reply }).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "other orders are waiting: try again in a moment\n".to_owned());
    }
    match answer.await {
        Ok(Ok(done)) => (StatusCode::OK, format!("{done}\n")),
        Ok(Err(OrderError::Refused(why))) => (StatusCode::CONFLICT, format!("{why}\n")),
        Ok(Err(OrderError::Failed(why))) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the connector ended before it was done\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::Token;
    use crate::telemetry::snapshot::tests::process;
    use crate::telemetry::status::Role;
    use reqwest::RequestBuilder;

    /// The port with `admin.token` or without, and what the owner's token is.
    async fn served(settings: &str) -> (String, Token, tempfile::TempDir) {
        let (url, owner, dir, _) = served_from(settings).await;
        (url, owner, dir)
    }

    async fn served_with_status(settings: &str) -> (String, StatusBoard) {
        let (url, .., status) = served_from(settings).await;
        (url, status)
    }

    async fn served_from(settings: &str) -> (String, Token, tempfile::TempDir, StatusBoard) {
        let dir = tempfile::tempdir().unwrap();
        let owner = Token::create(dir.path(), [7; 32]).unwrap();
        let text = format!(
            "source = {{ api_key = \"k\", username = \"u\", password = \"p\" }}\nkafka.bootstrap_servers = \"k\"\navro.framing = \"single-object\"\nstate.dir = \"/tmp/s\"\n{settings}"
        );
        let no_variables: [(String, String); 0] = [];
        let looking = Config::parse("test", &text, no_variables).unwrap().admin.token;
        let (orders, _) = mpsc::channel(1);
        let status = StatusBoard::default();
        status.update(|status| status.role = Role::Owner);
        let keys = Keys { owner: Arc::new(owner.clone()), looking };
        let pages =
            Pages { status: status.clone(), metrics: Arc::default(), process: Arc::new(process()), keys, orders };
        let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, pages, std::future::pending()));
        (url, owner, dir, status)
    }

    #[tokio::test]
    async fn a_warm_standby_is_ready_for_a_platform_and_not_for_who_asks_for_the_owner() {
        let (url, status) = served_with_status("").await;
        let client = reqwest::Client::new();
        let asked = async |path: &str| {
            let answer = client.get(format!("{url}{path}")).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        status.update(|status| status.role = Role::StandingBy { owner: "b".to_owned(), admin: "b:1".to_owned() });
        let standing_by = "standing by: b publishes (its admin port: b:1)\n";
        assert_eq!(asked("/readyz").await, (200, format!("ready to take over\n{standing_by}")));
        assert_eq!(asked("/readyz?owner").await, (503, format!("not ready\n{standing_by}")));
        status.update(|status| status.sink_trouble = Some("brokers are down".to_owned()));
        assert_eq!(asked("/readyz").await.0, 503);
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_is_asked_for() {
        let (url, ..) = served("").await;
        let client = reqwest::Client::new();
        for (accept, kind, line) in [
            ("*/*", "application/openmetrics-text; version=1.0.0", "# TYPE call_legs_fenced counter"),
            ("text/plain;version=0.0.4", "text/plain; version=0.0.4", "# TYPE call_legs_fenced_total counter"),
        ] {
            let answer = client.get(format!("{url}/metrics")).header("accept", accept).send().await.unwrap();
            assert!(answer.headers()["content-type"].to_str().unwrap().starts_with(kind));
            let page = answer.text().await.unwrap();
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }

    async fn answered(request: RequestBuilder) -> u16 {
        request.send().await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn whoever_reaches_the_port_may_look_where_there_is_no_token_and_not_order() {
        let (url, ..) = served("").await;
        let client = reqwest::Client::new();
        for path in ["/", STATUS, "/metrics", "/healthz", "/readyz"] {
            assert_eq!(answered(client.get(format!("{url}{path}"))).await, 200, "{path}");
        }
        assert_eq!(answered(client.get(format!("{url}{BACKFILLS}"))).await, 401);
        assert_eq!(answered(client.post(format!("{url}{ORDERS}")).body("{}")).await, 401);
    }

    #[tokio::test]
    async fn with_a_token_only_probes_are_open() {
        let (url, owner, _dir) = served("admin.token = \"look\"").await;
        let client = reqwest::Client::new();
        for path in ["/healthz", "/readyz"] {
            assert_eq!(answered(client.get(format!("{url}{path}"))).await, 200, "{path}");
        }
        for path in ["/", STATUS, "/metrics"] {
            let get = || client.get(format!("{url}{path}"));
            assert_eq!(answered(get()).await, 401, "{path}");
            assert_eq!(answered(get().bearer_auth("lock")).await, 401, "{path}");
            assert_eq!(answered(get().bearer_auth("look")).await, 200, "{path}");
            assert_eq!(answered(get().basic_auth("anyone", Some("look"))).await, 200, "{path}");
            assert_eq!(answered(get().bearer_auth(owner.expose())).await, 200, "{path}: whoever may order may look");
        }
        let refused = client.get(&url).send().await.unwrap();
        assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"), "a browser asks for it");
        let order = || client.post(format!("{url}{ORDERS}")).body("{}");
        assert_eq!(answered(order().bearer_auth("look")).await, 401, "whoever may look may not order");
        let kept = order().basic_auth("anyone", Some(owner.expose()));
        assert_eq!(answered(kept).await, 401, "what a browser would send along with another page's form");
        assert_eq!(answered(order().bearer_auth(owner.expose())).await, 400, "the token is right, the order is none");
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_replaced_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let (url, ..) = served(&format!("admin.token_file = {path:?}")).await;
        let client = reqwest::Client::new();
        assert_eq!(answered(client.get(&url).bearer_auth("one")).await, 200);
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(answered(client.get(&url).bearer_auth("one")).await, 401);
        assert_eq!(answered(client.get(&url).bearer_auth("two")).await, 200);
        std::fs::remove_file(&path).unwrap();
        let answer = client.get(&url).bearer_auth("two").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 500);
        let said = answer.text().await.unwrap();
        assert_eq!(said, "the token cannot be read: the log says why\n");
    }

    /// A page of another site whose name is made to lead here asks by that name.
    #[tokio::test]
    async fn who_names_another_host_than_this_machine_is_told_nothing() {
        let (url, owner, _dir) = served("").await;
        let client = reqwest::Client::new();
        for path in ["/", STATUS, "/metrics", "/healthz", "/readyz", BACKFILLS] {
            let get = |host: &str| client.get(format!("{url}{path}")).bearer_auth(owner.expose()).header("host", host);
            for host in ["localhost", "LocalHost:1", "127.0.0.1", "127.8.9.1:9464", "[::1]:9464"] {
                assert_eq!(answered(get(host)).await, 200, "{path} as {host}");
            }
            for host in ["attacker.example", "localhost.attacker.example:9464", "10.0.0.1"] {
                assert_eq!(answered(get(host)).await, 403, "{path} as {host}");
            }
        }
        let order =
            client.post(format!("{url}{ORDERS}")).bearer_auth(owner.expose()).header("host", "attacker.example");
        assert_eq!(answered(order.body("{}")).await, 403);
    }

    #[tokio::test]
    async fn what_is_shown_is_not_kept_and_runs_nothing_of_others() {
        let (url, ..) = served("").await;
        let headers = reqwest::get(&url).await.unwrap().headers().clone();
        assert_eq!(headers["cache-control"], "no-store");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    }
}
