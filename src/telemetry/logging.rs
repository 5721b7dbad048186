//! What `tracing` is told: events become log lines, from a level on that can be changed while it runs; spans become
//! traces where a collector takes them, whatever that level is.
//!
//! Spans never show in log lines. Without a collector they are disabled where they would begin, and cost nothing.

use std::io::IsTerminal;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{FilterExt, FilterFn, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// What the names of this crate's modules begin with.
const OURS: &str = "call_legs";

/// Changes from which level on lines are logged.
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs from `level` on, which the configuration has checked; one that fails here all the same changes nothing.
    pub fn set(&self, level: &str) {
        let set = EnvFilter::try_new(directives(level)).map_err(|error| error.to_string());
        let set = set.and_then(|filter| self.0.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = set {
            tracing::warn!(error, "the log level stays as it was");
        }
    }
}

/// Starts logging to standard error, and tracing where there is a tracer. A second call in one process does nothing.
pub fn start(level: &str, format: LogFormat, tracer: Option<SdkTracer>) -> Level {
    let is_terminal = std::io::stderr().is_terminal();
    let (subscriber, level) = subscriber(level, format, BoxMakeWriter::new(std::io::stderr), is_terminal, tracer);
    // An embedding test has its own subscriber.
    drop(subscriber.try_init());
    level
}

fn subscriber(
    level: &str,
    format: LogFormat,
    writer: BoxMakeWriter,
    is_terminal: bool,
    tracer: Option<SdkTracer>,
) -> (impl Subscriber + Send + Sync + 'static, Level) {
    // The configuration has checked the level; a filter that fails here all the same logs at INFO.
    let filter = EnvFilter::try_new(directives(level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(writer).with_target(false).with_ansi(is_terminal);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(of(|metadata: &Metadata<'_>| metadata.is_event(), LevelFilter::TRACE).and(filter));
    let subscriber = tracing_subscriber::registry().with(lines).with(spans(tracer));
    (subscriber, Level(handle))
}

/// A level alone is this crate's from `debug` on: the libraries' lines would bury ours.
fn directives(level: &str) -> &str {
    match level.trim() {
        "debug" => "info,call_legs=debug",
        _ => level,
    }
}

/// Our own spans, and none of their events: lines are for the log.
fn spans<S>(tracer: Option<SdkTracer>) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    // A layer that is not there enables everything, unless its filter says otherwise.
    let is_there = tracer.is_some();
    let most = if is_there { LevelFilter::INFO } else { LevelFilter::OFF };
    let are_ours = move |metadata: &Metadata<'_>| is_there && metadata.is_span() && metadata.target().starts_with(OURS);
    let spans = tracer.map(|tracer| {
        OpenTelemetryLayer::new(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // Nothing here reads OpenTelemetry's own idea of where it is.
            .with_context_activation(false)
    });
    spans.with_filter(of(are_ours, most))
}

/// A filter by what a callsite is. Without the hint every level of every library would be looked at.
fn of<F: Fn(&Metadata<'_>) -> bool>(is_wanted: F, most: LevelFilter) -> FilterFn<F> {
    filter_fn(is_wanted).with_max_level_hint(most)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

    use super::*;

    #[derive(Clone, Debug)]
    struct Kept<T>(Arc<Mutex<Vec<T>>>);

    impl Write for Kept<u8> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl SpanExporter for Kept<SpanData> {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    struct Run {
        lines: Kept<u8>,
        spans: Kept<SpanData>,
        provider: SdkTracerProvider,
    }

    impl Run {
        fn lines(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.lines.0.lock().unwrap())).unwrap()
        }

        fn spans(&self) -> Vec<SpanData> {
            self.provider.force_flush().unwrap();
            std::mem::take(&mut *self.spans.0.lock().unwrap())
        }
    }

    fn with(level: &str, format: LogFormat, is_traced: bool, work: impl FnOnce(&Run, &Level)) {
        let (lines, spans) = (Kept(Arc::default()), Kept(Arc::default()));
        let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let tracer = is_traced.then(|| provider.tracer("test"));
        let written = lines.clone();
        let writer = BoxMakeWriter::new(move || written.clone());
        let (subscriber, level) = subscriber(level, format, writer, false, tracer);
        let run = Run { lines, spans, provider };
        tracing::subscriber::with_default(subscriber, || work(&run, &level));
    }

    #[test]
    fn without_a_collector_spans_are_disabled() {
        with("trace", LogFormat::Text, false, |run, _| {
            let span = tracing::error_span!("poll", unit = "acme");
            assert!(span.is_disabled());
            span.in_scope(|| tracing::info!("a line"));
            assert!(run.lines().ends_with(" INFO a line\n"));
        });
    }

    #[test]
    fn spans_go_to_the_collector_whatever_is_logged_and_never_into_a_line() {
        for (level, format) in [("off", LogFormat::Text), ("trace", LogFormat::Text), ("trace", LogFormat::Json)] {
            with(level, format, true, |run, _| {
                let root = tracing::info_span!("poll", unit = "acme-east");
                root.in_scope(|| {
                    tracing::info!("a line");
                    tracing::info_span!("fetch", rows = 7_i64).in_scope(|| tracing::warn!("another"));
                    tracing::info_span!(target: "hyper", "theirs").in_scope(|| ());
                });
                drop(root);
                let lines = run.lines();
                assert_eq!(lines.lines().count(), if level == "off" { 0 } else { 2 }, "{lines}");
                assert!(!lines.contains("poll") && !lines.contains("acme-east") && !lines.contains("rows"), "{lines}");
                let spans = run.spans();
                assert_eq!(spans.iter().map(|span| span.name.as_ref()).collect::<Vec<_>>(), ["fetch", "poll"]);
                assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
                assert!(spans.iter().all(|span| span.events.events.is_empty()), "{spans:?}");
                let attributes = spans.iter().flat_map(|span| &span.attributes);
                assert_eq!(
                    attributes.map(|held| format!("{}={}", held.key, held.value)).collect::<Vec<_>>(),
                    ["rows=7", "unit=acme-east"]
                );
            });
        }
    }

    #[test]
    fn the_level_is_changed_while_it_runs() {
        with("warn", LogFormat::Text, true, |run, level| {
            let said = || {
                tracing::info!("said");
                run.lines().contains("said")
            };
            assert!(!said());
            level.set("info");
            assert!(said());
            level.set("error");
            assert!(!said());
            drop(tracing::info_span!("poll"));
            assert_eq!(run.spans().len(), 1, "what is traced stays");
        });
    }
}
