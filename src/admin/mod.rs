//! The admin port: health, readiness and metrics, rendered from plain snapshots.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::telemetry::{Metrics, StatusBoard};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages are rendered from.
#[derive(Clone)]
pub struct Pages {
    /// How things are.
    pub status: StatusBoard,
    /// The counters.
    pub metrics: Arc<Metrics>,
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
