//! The admin port: health, readiness and metrics, rendered from plain snapshots; and operators' orders.
//!
//! Orders change what is published, so they take the token that lies in the state directory.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::connector::{Order, OrderError, OrderRequest};
use crate::store::Token;
use crate::telemetry::{Metrics, StatusBoard};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where orders are posted: JSON of an [`Order`], with the token as bearer; the answer is text.
pub const ORDERS: &str = "/orders";

/// Where backfills are shown, with the token as bearer: JSON, a list of
/// [`BackfillStatus`](crate::telemetry::status::BackfillStatus).
pub const BACKFILLS: &str = "/backfills";

/// What the pages are rendered from.
#[derive(Clone)]
pub struct Pages {
    /// How things are.
    pub status: StatusBoard,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What an order must show.
    pub token: Arc<Token>,
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
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route(ORDERS, post(order))
        .route(BACKFILLS, get(backfills))
        .with_state(pages);
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopped).await {
        tracing::warn!(%error, "the admin port is no longer served");
    }
}

/// 503 only when a worker is stuck, so that restarting is the right answer to it.
async fn healthz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.status.read().stuck(Instant::now()).as_slice() {
        [] => (StatusCode::OK, "healthy\n".to_owned()),
        stuck => (StatusCode::SERVICE_UNAVAILABLE, format!("stuck in: {}\n", stuck.join(", "))),
    }
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.status.read().reasons_not_ready(Instant::now()).as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", reasons.join("\n"))),
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], pages.metrics.render(&pages.status.read(), Instant::now()))
}

fn is_ours(pages: &Pages, headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    bearer.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|token| pages.token.matches(token))
}

const NOT_OURS: &str = "orders take the token in the state directory\n";

async fn backfills(State(pages): State<Pages>, headers: HeaderMap) -> (StatusCode, String) {
    if !is_ours(&pages, &headers) {
        return (StatusCode::UNAUTHORIZED, NOT_OURS.to_owned());
    }
    let backfills: Vec<_> = pages.status.read().backfills.into_values().collect();
    match serde_json::to_string(&backfills) {
        Ok(json) => (StatusCode::OK, json),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn order(State(pages): State<Pages>, headers: HeaderMap, body: String) -> (StatusCode, String) {
    if !is_ours(&pages, &headers) {
        return (StatusCode::UNAUTHORIZED, NOT_OURS.to_owned());
    }
    let order: Order = match serde_json::from_str(&body) {
        Ok(order) => order,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("no order that this version knows: {error}\n")),
    };
    let (reply, answer) = oneshot::channel();
    if pages.orders.try_send((order, reply)).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "other orders are waiting: try again in a moment\n".to_owned());
    }
    match answer.await {
        Ok(Ok(done)) => (StatusCode::OK, format!("{done}\n")),
        Ok(Err(OrderError::Refused(why))) => (StatusCode::CONFLICT, format!("{why}\n")),
        Ok(Err(OrderError::Failed(why))) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the connector ended before it was done\n".to_owned()),
    }
}
