//! Traces and metrics for an OpenTelemetry collector, by OTLP over HTTP, where one is configured.
//!
//! ```text
//!   spans ─▶ the SDK's batches ─▶ a bounded channel ─┐
//!                                                    ├─▶ one task ─▶ collector
//!   metrics, as /metrics shows them, every 30 s ─────┘
//! ```
//!
//! Nothing waits for the collector: what the channel has no room for, and what the collector does not take, is dropped,
//! counted and told.

mod metrics;
mod sender;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::snapshot::Process;
use super::{Metrics, StatusBoard};
use sender::Sender;

/// How many batches may wait to be sent, of at most 512 spans each.
const BATCHES_WAITING_MAX: usize = 16;

/// How long sending what is left may take at the end: with the time that transactions under way have, less than the ten
/// seconds after which a container is killed.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// The way to the collector.
pub struct Otlp {
    http: reqwest::Client,
    endpoint: Url,
    provider: SdkTracerProvider,
    /// Until sending starts.
    batches: Option<mpsc::Receiver<Vec<SpanData>>>,
    dropped: Arc<AtomicU64>,
    stop: CancellationToken,
    sending: Option<JoinHandle<()>>,
}

impl Otlp {
    /// A way to the collector at `endpoint`, which ends in a slash; nothing is sent yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(endpoint: Url) -> Result<Self, reqwest::Error> {
        let http = sender::client(&endpoint)?;
        let (waiting, batches) = mpsc::channel(BATCHES_WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let exporter = ToTask { waiting, dropped: Arc::clone(&dropped) };
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
        let stop = CancellationToken::new();
        Ok(Self { http, endpoint, provider, batches: Some(batches), dropped, stop, sending: None })
    }

    /// Sends a request without traces, which changes nothing.
    ///
    /// # Errors
    /// Why the collector does not take it, in words.
    pub async fn probe(&self) -> Result<(), String> {
        sender::probe(&self.http, &self.endpoint).await
    }

    /// What makes spans of this way.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Starts to send the spans, and the metrics from time to time. A second call does nothing.
    pub fn start(&mut self, process: &Process, metrics: Arc<Metrics>, status: StatusBoard) {
        let Some(batches) = self.batches.take() else { return };
        let (http, endpoint) = (self.http.clone(), self.endpoint.clone());
        let sender = Sender::new(http, endpoint, process, metrics, status, Arc::clone(&self.dropped));
        self.sending = Some(tokio::spawn(sender.run(batches, self.stop.clone())));
    }

    /// Sends what is left, within a second.
    pub async fn finish(self) {
        let Some(sending) = self.sending else { return };
        let provider = self.provider;
        let finishing = async {
            // It waits for the thread that makes batches. A failure means that there is nothing more to be had.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FINISH_MAX)).await;
            self.stop.cancel();
            let _ = sending.await;
        };
        if tokio::time::timeout(FINISH_MAX, finishing).await.is_err() {
            tracing::info!("the collector did not take the last traces and metrics in time");
        }
    }
}

/// Hands batches over to the task that sends them.
#[derive(Debug)]
struct ToTask {
    waiting: mpsc::Sender<Vec<SpanData>>,
    dropped: Arc<AtomicU64>,
}

impl SpanExporter for ToTask {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.waiting.try_send(batch).map_err(|refused| {
            self.dropped.fetch_add(refused.into_inner().len() as u64, Ordering::Relaxed);
            OTelSdkError::InternalFailure("too many batches wait".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span, Tracer};
    use tokio::net::TcpListener;

    use super::*;
    use crate::core::time::UtcMillis;
    use crate::telemetry::Targets;

    fn process() -> Process {
        Process {
            owner: "0".repeat(32),
            host: "host-a".to_owned(),
            version: "1.2.3".to_owned(),
            started_at: UtcMillis::new(1),
            beat: Duration::from_secs(10),

            behind_max: Some(Duration::from_secs(2_100)),
            targets: Targets::default(),
            settings: Vec::new(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_never_answers_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let mut otlp = Otlp::new(endpoint.parse().unwrap()).unwrap();
        otlp.start(&process(), Arc::default(), StatusBoard::default());
        let (_held, _) = listener.accept().await.unwrap();
        otlp.tracer().start("a span").end();
        // The request itself is given up after ten seconds.
        tokio::time::timeout(FINISH_MAX * 5, otlp.finish()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn batches_that_find_no_room_are_dropped_and_counted() {
        let (waiting, mut batches) = mpsc::channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let exporter = ToTask { waiting, dropped: Arc::clone(&dropped) };
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter).build();
        let tracer = provider.tracer("test");
        for _ in 0..3 {
            tracer.start("a span").end();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        assert_eq!(batches.recv().await.unwrap().len(), 1);
    }
}
