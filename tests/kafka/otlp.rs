//! Traces and metrics as a collector gets them, and what becomes of legs while it is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::Uri;
use axum::{Router, routing};
use call_legs::sandbox::Sandbox;
use call_legs::sandbox::api::Credentials;
use call_legs::sandbox::dataset::DatasetSettings;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsInt;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::rig::{Rig, free_address, identities, sandbox_settings};
use super::secrecy::personal_texts;
use super::support::kafka::kafka;

const HOUR: Duration = Duration::from_secs(3600);

/// Each span, and in which ones it may stand: none is the top of a trace.
const STAGES: [(&str, &[&str]); 9] = [
    ("poll", &[""]),
    ("sweep", &[""]),
    ("backfill", &[""]),
    ("recover", &["", "poll", "sweep", "backfill", "publish"]),
    ("plan", &["poll", "sweep"]),
    ("fetch", &["poll", "sweep", "backfill"]),
    ("publish", &["poll", "sweep", "backfill"]),
    ("classify", &["publish"]),
    ("commit", &["publish", "poll", "sweep", "backfill", "recover"]),
];

/// What a collector was sent: paths and bodies.
type Sent = Arc<Mutex<Vec<(String, Bytes)>>>;

/// A collector that takes everything, on a runtime of its own so that it can be gone at once.
struct Collector(Option<Runtime>);

impl Collector {
    fn start(address: &str, sent: &Sent) -> Self {
        let runtime = Runtime::new().unwrap();
        let (address, sent) = (address.to_owned(), Arc::clone(sent));
        runtime.spawn(async move {
            let listener = TcpListener::bind(&address).await.unwrap();
            let take = move |uri: Uri, body: Bytes| async move {
                sent.lock().unwrap().push((uri.path().to_owned(), body));
            };
            axum::serve(listener, Router::new().fallback(routing::post(take))).await.unwrap();
        });
        Self(Some(runtime))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

fn bodies(sent: &Sent, path: &str) -> Vec<Bytes> {
    let sent = sent.lock().unwrap();
    sent.iter().filter(|(to, _)| to == path).map(|(_, body)| body.clone()).collect()
}

fn traces(sent: &Sent) -> (Vec<Resource>, Vec<Span>) {
    let requests = bodies(sent, "/v1/traces").into_iter().map(|body| ExportTraceServiceRequest::decode(body).unwrap());
    let (mut resources, mut spans) = (Vec::new(), Vec::new());
    for of_resource in requests.flat_map(|request| request.resource_spans) {
        resources.extend(of_resource.resource);
        spans.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
    }
    (resources, spans)
}

/// Those of the newest request.
fn metrics(sent: &Sent) -> (Resource, Vec<Metric>) {
    let body = bodies(sent, "/v1/metrics").pop().unwrap();
    let newest = ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics.remove(0);
    (newest.resource.unwrap(), newest.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics).collect())
}

/// By name in which spans spans were found; a span whose parent has not ended yet is left out.
fn nesting(spans: &[Span]) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<&[u8], &str> = spans.iter().map(|span| (span.span_id.as_slice(), span.name.as_str())).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for span in spans {
        let parent = if span.parent_span_id.is_empty() { Some(&"") } else { names.get(span.parent_span_id.as_slice()) };
        found.entry(span.name.clone()).or_default().extend(parent.map(|&parent| parent.to_owned()));
    }
    found
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|found| found == text.as_bytes())
}

fn checked(rig: &Rig) -> String {
    let checked = rig.run(&["check"]);
    assert!(checked.status.success(), "a collector fails nothing: {checked:?}");
    String::from_utf8_lossy(&checked.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_every_stage_and_every_metric_and_holds_up_nothing() {
    let mut settings = sandbox_settings(300, HOUR * 3);
    settings.dataset = DatasetSettings { rate: 3.0, ..settings.dataset };
    let address = free_address();
    let endpoint = format!("telemetry.otlp_endpoint = \"http://{address}\"");
    let keys = [
        "poll.start_from = \"now-1h\"",
        "sweeps = [{every = \"2s\", lookback = \"10m\"}]",
        "log.level = \"info\"",
        &endpoint,
    ];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &keys);
    let sent = Sent::default();
    let collector = Collector::start(&address, &sent);
    rig.until("word of check that it takes traces", async || checked(&rig).contains("ok    collector: takes traces"))
        .await;
    let daemon = rig.start_with_its_own_log_level();
    rig.polled_whole(1).await;
    let backfilled = rig.run(&["backfill", "--from", "now-4h", "--to", "now"]);
    assert!(backfilled.status.success(), "{backfilled:?}");
    rig.until("spans of every stage", async || {
        let found = nesting(&traces(&sent).1);
        STAGES.iter().all(|(name, _)| found.get(*name).is_some_and(|parents| !parents.is_empty()))
    })
    .await;

    let status = rig.page("/status.json").await.unwrap().1;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    drop(collector);
    let gone = Instant::now();
    let said = checked(&rig);
    assert!(said.contains("warn  collector: telemetry.otlp_endpoint: it cannot be reached"), "{said}");
    rig.until("a word about the collector", async || rig.log().contains("telemetry.otlp_endpoint")).await;
    rig.polled_whole(4).await;
    let published_without = rig.true_identities();
    // Polls leave the newest second or two to the next ones.
    rig.polled_whole(4).await;
    let in_topic = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(published_without.iter().all(|identity| in_topic.contains_key(identity)), "a leg is missing");
    let told = rig.log().lines().filter(|line| line.contains(" WARN ") && line.contains("collector")).count();
    assert!(told == 1 || gone.elapsed() > Duration::from_secs(60), "told {told} times:\n{}", rig.log());

    let collector = Collector::start(&address, &sent);
    rig.until("the collector's return", async || rig.log().contains("takes traces and metrics again")).await;
    assert!(daemon.terminate().0.success());
    drop(collector);

    let in_topic = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(in_topic.values().all(|times| *times == 1), "each once");
    let (resources, spans) = traces(&sent);
    let (resource, metrics) = metrics(&sent);
    for resource in resources.iter().chain([&resource]) {
        let found = texts(&resource.attributes);
        assert_eq!(found["service.name"], "call-legs");
        assert_eq!(found["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(found["service.instance.id"], status["owner"].as_str().unwrap());
        assert_eq!(found["host.name"], status["host"].as_str().unwrap());
    }
    let found = nesting(&spans);
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), STAGES.map(|(name, _)| name).into());
    for (name, parents) in STAGES {
        assert!(found[name].iter().all(|parent| parents.contains(&parent.as_str())), "{name} in {:?}", found[name]);
    }
    let is_well = |span: &&&Span| texts(&span.attributes).get("result").is_some_and(|result| result == "ok");
    let well: Vec<&Span> = spans.iter().filter(|span| span.name == "poll").filter(|span| is_well(&span)).collect();
    assert!(!well.is_empty());
    assert!(well.iter().all(|span| span.status.as_ref().unwrap().code() != StatusCode::Error), "nothing failed");

    // The last request is made when everything is done, if there is time for it.
    let rows = metrics.iter().find(|metric| metric.name == "call_legs_rows_total").unwrap();
    let Some(Data::Sum(rows)) = &rows.data else { panic!("rows are counted") };
    let published = rows.data_points.iter().filter(|point| texts(&point.attributes)["result"] == "published");
    let published: i64 = published.map(|point| if let Some(AsInt(count)) = point.value { count } else { 0 }).sum();
    assert!((1..=in_topic.len()).contains(&usize::try_from(published).unwrap()), "{published} of {}", in_topic.len());

    let Credentials { api_key, username, password } = rig.sandbox.api().credentials().clone();
    let mut forbidden = personal_texts(&rig);
    assert!(forbidden.len() > 300, "there is something to look for");
    forbidden.extend([api_key, username, password, "+1555".to_owned()]);
    for (path, body) in sent.lock().unwrap().iter() {
        let shown = forbidden.iter().find(|text| holds(body, text));
        assert_eq!(shown, None, "in a request to {path}");
    }
}
