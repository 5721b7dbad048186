//! The metrics as OTLP has them, made of the page that Prometheus reads: the same names, labels and numbers.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::core::time::UtcMillis;
use crate::telemetry::{Description, Kind};

/// The label that is a bucket's upper edge.
const EDGE: &str = "le";

/// An attribute that is a text.
pub(super) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// All described metrics of `page`, which counts from `from`, the start of the process, and was made at `at`.
pub(super) fn request(
    page: &str,
    descriptions: &[Description],
    resource: Resource,
    from: UtcMillis,
    at: UtcMillis,
) -> ExportMetricsServiceRequest {
    let mut by_name: HashMap<&str, Vec<Sample<'_>>> = HashMap::new();
    for sample in page.lines().filter_map(Sample::parse) {
        by_name.entry(sample.name).or_default().push(sample);
    }
    let span = Span { from: nanoseconds(from), at: nanoseconds(at) };
    let metrics = descriptions.iter().filter_map(|description| metric(description, &by_name, span)).collect();
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    let resource_metrics = ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

/// What the numbers of a page speak of, in nanoseconds since the epoch.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    at: u64,
}

fn nanoseconds(at: UtcMillis) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(0).saturating_mul(1_000_000)
}

/// A metric of the catalogue; `None` while it has no series.
fn metric(described: &Description, by_name: &HashMap<&str, Vec<Sample<'_>>>, span: Span) -> Option<Metric> {
    let name = described.name.as_str();
    let samples = |name: &str| by_name.get(name).map(Vec::as_slice).unwrap_or_default();
    let numbers = || samples(name).iter().map(|sample| sample.number(span)).collect::<Vec<_>>();
    let (data, series) = match described.kind {
        Kind::Counter => {
            let data_points = numbers();
            let series = data_points.len();
            let aggregation_temporality = AggregationTemporality::Cumulative.into();
            (Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true }), series)
        }
        Kind::Gauge | Kind::Info => {
            let data_points = numbers();
            let series = data_points.len();
            (Data::Gauge(Gauge { data_points }), series)
        }
        Kind::Histogram => {
            let [buckets, sums] = ["bucket", "sum"].map(|part| samples(&format!("{name}_{part}")));
            let data_points: Vec<_> = sums.iter().map(|sum| histogram(sum, buckets, span)).collect();
            let series = data_points.len();
            let aggregation_temporality = AggregationTemporality::Cumulative.into();
            (Data::Histogram(Histogram { data_points, aggregation_temporality }), series)
        }
    };
    let unit = if name.ends_with("_seconds") { "s" } else { "" };
    (series > 0).then(|| Metric {
        name: name.to_owned(),
        description: described.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// One series of a histogram, whose buckets count what is at or below their edge, as Prometheus has them.
fn histogram(sum: &Sample<'_>, buckets: &[Sample<'_>], span: Span) -> HistogramDataPoint {
    let edge_of = |bucket: &Sample<'_>| bucket.labels.iter().find(|(key, _)| *key == EDGE)?.1.parse::<f64>().ok();
    let is_of_series =
        |bucket: &&Sample<'_>| bucket.labels.iter().filter(|(key, _)| *key != EDGE).eq(sum.labels.iter());
    let (mut explicit_bounds, mut bucket_counts, mut count) = (Vec::new(), Vec::new(), 0);
    for bucket in buckets.iter().filter(is_of_series) {
        let up_to_edge = bucket.count();
        bucket_counts.push(up_to_edge.saturating_sub(count));
        count = up_to_edge;
        // The last bucket has no edge.
        explicit_bounds.extend(edge_of(bucket).filter(|edge| edge.is_finite()));
    }
    HistogramDataPoint {
        attributes: sum.attributes(),
        start_time_unix_nano: span.from,
        time_unix_nano: span.at,
        count,
        sum: sum.value.parse().ok(),
        bucket_counts,
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

/// A line of the page that is no comment.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' ']).filter(|end| *end > 0 && !line.starts_with('#'))?;
        let (name, rest) = line.split_at(end);
        let (labels, value) = match rest.strip_prefix('{') {
            Some(labels) => labels_of(labels)?,
            None => (Vec::new(), rest),
        };
        Some(Self { name, labels, value: value.strip_prefix(' ')? })
    }

    fn attributes(&self) -> Vec<KeyValue> {
        self.labels.iter().map(|(key, value)| attribute(key, value)).collect()
    }

    fn count(&self) -> u64 {
        self.value.parse().unwrap_or(0)
    }

    fn number(&self, span: Span) -> NumberDataPoint {
        let whole = self.value.parse().ok().map(number_data_point::Value::AsInt);
        NumberDataPoint {
            attributes: self.attributes(),
            start_time_unix_nano: span.from,
            time_unix_nano: span.at,
            value: whole.or_else(|| self.value.parse().ok().map(number_data_point::Value::AsDouble)),
            ..NumberDataPoint::default()
        }
    }
}

/// Labels up to their closing brace, and what follows it.
fn labels_of(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let (value, behind) = unquoted(quoted)?;
        labels.push((key, value));
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
}

/// A text up to its closing quote, with what was escaped in it, and what follows the quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped => escaped,
            }),
            (_, plain) => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use tokio::time::Instant;

    use super::*;
    use crate::core::journal::Delivery;
    use crate::telemetry::freshness::LegTimes;
    use crate::telemetry::labels::{UnitLabel, UnitResultLabels};
    use crate::telemetry::status::{Role, Status, UnitStatus};
    use crate::telemetry::{Metrics, Targets};

    /// A name that has to be escaped on the page.
    const UNIT: &str = "a\"c\\m,e}\n= b";

    /// Every metric has a series, and some have numbers.
    fn metrics() -> (Metrics, Status) {
        let metrics = Metrics::new(Targets::default());
        metrics.add_unit(UNIT);
        let unit = UnitLabel { unit: UNIT.to_owned() };
        for family in [&metrics.recommended_overlap, &metrics.recommended_overlap_confidence, &metrics.overlap_left] {
            family.get_or_create(&unit).set(0.5);
        }
        metrics.rows.get_or_create(&UnitResultLabels { unit: UNIT.to_owned(), result: "published" }).inc_by(3);
        let at = UtcMillis::new;
        let leg = |committed| LegTimes { disconnected: at(0), looked: at(0), begun: at(0), seen: at(0), committed };
        metrics.note_freshness(UNIT, &[leg(at(1_000)), leg(at(2_000)), leg(at(3_000)), leg(at(100_000_000))]);
        let (complete_to, final_to, last_poll_ok) = (Some(at(1_500)), Some(at(1_000)), Some(at(2_000)));
        let shown = UnitStatus { complete_to, final_to, last_poll_ok, ..UnitStatus::default() };
        let delivery = Some(Delivery::ExactlyOnce);
        let status =
            Status { role: Role::Owner, delivery, units: [(UNIT.to_owned(), shown)].into(), ..Status::default() };
        (metrics, status)
    }

    fn converted(metrics: &Metrics, status: &Status) -> Vec<Metric> {
        let page = metrics.render(status, Instant::now());
        let (from, at) = (UtcMillis::new(1), UtcMillis::new(2));
        let mut request = request(&page, metrics.descriptions(), Resource::default(), from, at);
        request.resource_metrics.remove(0).scope_metrics.remove(0).metrics
    }

    fn keys(attributes: &[KeyValue]) -> BTreeSet<&str> {
        attributes.iter().map(|attribute| attribute.key.as_str()).collect()
    }

    #[test]
    fn every_metric_of_the_catalogue_arrives_with_its_name_kind_and_labels() {
        let (metrics, status) = metrics();
        let converted = converted(&metrics, &status);
        assert_eq!(converted.len(), metrics.descriptions().len());
        for (described, metric) in metrics.descriptions().iter().zip(&converted) {
            let name = &described.name;
            assert_eq!((&metric.name, metric.description.as_str()), (name, described.help));
            let (kind, attributes, times) = match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => {
                    assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
                    (vec![Kind::Counter], &sum.data_points[0].attributes, &sum.data_points[0].start_time_unix_nano)
                }
                Data::Gauge(gauge) => (
                    vec![Kind::Gauge, Kind::Info],
                    &gauge.data_points[0].attributes,
                    &gauge.data_points[0].start_time_unix_nano,
                ),
                Data::Histogram(histogram) => {
                    assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
                    let first = &histogram.data_points[0];
                    (vec![Kind::Histogram], &first.attributes, &first.start_time_unix_nano)
                }
                other => panic!("{name} became {other:?}"),
            };
            assert!(kind.contains(&described.kind), "{name} became {kind:?}");
            assert_eq!(keys(attributes), described.labels.iter().map(|label| label.name).collect(), "{name}");
            assert_eq!(*times, 1_000_000, "{name}");
            let of_unit = attributes.iter().find(|attribute| attribute.key == "unit");
            assert!(of_unit.is_none_or(|found| *found == attribute("unit", UNIT)), "{of_unit:?}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_page() {
        let (metrics, status) = metrics();
        let converted = converted(&metrics, &status);
        let values = |name: &str, label: &str| -> Vec<number_data_point::Value> {
            let metric = converted.iter().find(|metric| metric.name == name).unwrap();
            let (Data::Sum(Sum { data_points, .. }) | Data::Gauge(Gauge { data_points })) =
                metric.data.as_ref().unwrap()
            else {
                panic!("{name} has no numbers");
            };
            let holds =
                |point: &&NumberDataPoint| label.is_empty() || point.attributes.contains(&attribute("result", label));
            data_points.iter().filter(holds).map(|point| point.value.unwrap()).collect()
        };
        use number_data_point::Value::{AsDouble, AsInt};
        assert_eq!(values("call_legs_rows_total", "published"), [AsInt(3)]);
        assert_eq!(values("call_legs_rows_total", "dead"), [AsInt(0)]);
        assert_eq!(values("call_legs_freshness_objective_seconds", ""), [AsDouble(300.0)]);
        assert_eq!(values("call_legs_complete_to_timestamp_seconds", ""), [AsDouble(1.5)]);
        assert_eq!(values("call_legs_build_info", ""), [AsInt(1)]);
        let seconds = converted.iter().filter(|metric| metric.unit == "s").count();
        assert_eq!(seconds, converted.iter().filter(|metric| metric.name.ends_with("_seconds")).count());
    }

    #[test]
    fn buckets_add_up() {
        let (metrics, status) = metrics();
        for metric in converted(&metrics, &status) {
            let Some(Data::Histogram(histogram)) = metric.data else { continue };
            for point in histogram.data_points {
                assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{}", metric.name);
                assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{}", metric.name);
                assert!(point.explicit_bounds.is_sorted(), "{}", metric.name);
                if metric.name == "call_legs_freshness_seconds" {
                    assert_eq!((point.count, point.sum), (4, Some(100_006.0)));
                    // At or below 2 s, at or below 5 s, …, beyond a day.
                    assert_eq!(point.bucket_counts[..3], [2, 1, 0]);
                    assert_eq!(point.bucket_counts.last(), Some(&1));
                }
            }
        }
    }

    #[test]
    fn series_of_two_units_do_not_mix() {
        let (metrics, status) = metrics();
        metrics.publish_duration.observe(1.0);
        metrics.source_request_duration.get_or_create(&UnitLabel { unit: "other".to_owned() }).observe(0.2);
        let converted = converted(&metrics, &status);
        let metric = converted.iter().find(|metric| metric.name == "call_legs_source_request_duration_seconds");
        let Some(Data::Histogram(histogram)) = &metric.unwrap().data else { panic!("no histogram") };
        let counts: BTreeSet<_> = histogram
            .data_points
            .iter()
            .map(|point| (format!("{:?}", point.attributes[0].value), point.count, point.bucket_counts.len()))
            .collect();
        assert_eq!(counts.iter().map(|(_, count, edges)| (*count, *edges)).collect::<Vec<_>>(), [(0, 10), (1, 10)]);
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        for line in ["", "# EOF", "# TYPE x counter", "x", "x{a=\"b\" 1", "x{a=\"b} 1", " 1"] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
        let sample = Sample::parse(r#"x_total{a="1\"\\n\n",b=""} 7"#).unwrap();
        assert_eq!(sample.labels, [("a", "1\"\\n\n".to_owned()), ("b", String::new())]);
        assert_eq!((sample.name, sample.value), ("x_total", "7"));
    }
}
