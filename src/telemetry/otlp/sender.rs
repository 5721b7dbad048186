//! The task that sends: spans as batches of them come, metrics at a steady pace, each request once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::{Attributes, ResourceAttributesWithSchema};
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::metrics;
use crate::clock::{Clock, SystemClock};
use crate::core::time::UtcMillis;
use crate::http::{self, Fault};
use crate::telemetry::snapshot::Process;
use crate::telemetry::{Metrics, Repeated, StatusBoard, Streak};

/// How often metrics are sent.
const METRICS_EVERY: Duration = Duration::from_secs(30);

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const TRACES_PATH: &str = "v1/traces";
const METRICS_PATH: &str = "v1/metrics";

/// Why the collector has not got something.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("it does not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent,
    #[error("it cannot be reached, or breaks off: {0}")]
    Unreachable(String),
    #[error("it answers with HTTP {0}")]
    Refused(StatusCode),
    #[error("it takes traces more slowly than they come")]
    Slow,
}

impl Trouble {
    /// What stays the same while it lasts.
    const fn kind(&self) -> &'static str {
        match self {
            // One that goes away is both for a while.
            Self::Silent | Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Slow => "slow",
        }
    }
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        match http::Error::from(error) {
            error if error.fault == Fault::Silent => Self::Silent,
            error => Self::Unreachable(error.to_string()),
        }
    }
}

/// The client for the collector.
pub(super) fn client(endpoint: &Url) -> Result<reqwest::Client, reqwest::Error> {
    http::builder(endpoint).timeout(REQUEST_TIMEOUT).build()
}

/// Sends to the collector.
pub(super) struct Sender {
    http: reqwest::Client,
    /// It ends in a slash.
    endpoint: Url,
    /// Who sends.
    resource: Vec<KeyValue>,
    started_at: UtcMillis,
    metrics: Arc<Metrics>,
    status: StatusBoard,
    /// Spans that found no room on their way here.
    dropped: Arc<AtomicU64>,
    repeated: Repeated,
    /// Spans that were lost since the trouble began.
    spans_lost: u64,
}

impl Sender {
    pub(super) fn new(
        http: reqwest::Client,
        endpoint: Url,
        process: &Process,
        metrics: Arc<Metrics>,
        status: StatusBoard,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        let resource = [
            ("service.name", env!("CARGO_PKG_NAME")),
            ("service.version", &process.version),
            ("service.instance.id", &process.owner),
            ("host.name", &process.host),
        ];
        Self {
            http,
            endpoint,
            resource: resource.map(|(key, value)| metrics::attribute(key, value)).to_vec(),
            started_at: process.started_at,
            metrics,
            status,
            dropped,
            repeated: Repeated::default(),
            spans_lost: 0,
        }
    }

    /// Sends until `stop`, and then what is left.
    pub(super) async fn run(mut self, mut batches: mpsc::Receiver<Vec<SpanData>>, stop: CancellationToken) {
        let mut metrics_due = tokio::time::interval(METRICS_EVERY);
        metrics_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = metrics_due.tick() => self.send_metrics().await,
                Some(batch) = batches.recv() => self.send_spans(batch).await,
            }
        }
        while let Ok(batch) = batches.try_recv() {
            self.send_spans(batch).await;
        }
        self.send_metrics().await;
    }

    async fn send_spans(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let resource = ResourceAttributesWithSchema { attributes: Attributes(self.resource.clone()), schema_url: None };
        let request = ExportTraceServiceRequest { resource_spans: group_spans_by_resource_and_scope(batch, &resource) };
        let sent = post(&self.http, &self.endpoint, TRACES_PATH, request.encode_to_vec()).await;
        self.note(sent, spans);
    }

    async fn send_metrics(&mut self) {
        let page = self.metrics.render(&self.status.read(), Instant::now());
        let resource = Resource { attributes: self.resource.clone(), ..Resource::default() };
        let (from, at) = (self.started_at, SystemClock.now());
        let request = metrics::request(&page, self.metrics.descriptions(), resource, from, at);
        let sent = post(&self.http, &self.endpoint, METRICS_PATH, request.encode_to_vec()).await;
        self.note(sent, 0);
    }

    /// Takes note of how a request ended that held so many spans, and tells of it where that is news.
    fn note(&mut self, sent: Result<(), Trouble>, spans: u64) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        self.spans_lost += dropped;
        let trouble = match sent {
            Ok(()) if dropped == 0 => {
                if let Some(Streak { failures, lasted }) = self.repeated.works() {
                    let (lasted_s, spans_lost) = (lasted.as_secs(), std::mem::take(&mut self.spans_lost));
                    tracing::info!(failures, lasted_s, spans_lost, "the collector takes traces and metrics again");
                }
                return;
            }
            Ok(()) => Trouble::Slow,
            Err(trouble) => {
                self.spans_lost += spans;
                trouble
            }
        };
        if let Some(Streak { failures, .. }) = self.repeated.failed(trouble.kind()) {
            let spans_lost = self.spans_lost;
            tracing::warn!(
                failures,
                spans_lost,
                "telemetry.otlp_endpoint: the collector does not take traces and metrics, which are dropped; legs do not wait for it: {trouble}"
            );
        }
    }
}

async fn post(http: &reqwest::Client, endpoint: &Url, path: &str, body: Vec<u8>) -> Result<(), Trouble> {
    // The endpoint ends in a slash, and both paths are constants that join to it, so the fallback is never taken.
    let url = endpoint.join(path).unwrap_or_else(|_| endpoint.clone());
    let request = http.post(url).header(CONTENT_TYPE, "application/x-protobuf").body(body);
    let status = request.send().await?.status();
    if status.is_success() { Ok(()) } else { Err(Trouble::Refused(status)) }
}

/// Whether the collector takes traces: a request without any, as the answer why not.
pub(super) async fn probe(http: &reqwest::Client, endpoint: &Url) -> Result<(), String> {
    let nothing = ExportTraceServiceRequest::default().encode_to_vec();
    post(http, endpoint, TRACES_PATH, nothing).await.map_err(|trouble| trouble.to_string())
}
