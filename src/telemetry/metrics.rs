//! Every metric, in one list, with its unit and its help.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::status::{Role, Status};
use crate::core::journal::Delivery;

/// Which unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitLabel {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
}

/// Which unit, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitResultLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// From a closed set.
    pub result: &'static str,
}

/// Which unit, and by which read a late leg was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitFoundLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// `overlap` or `sweep`.
    pub by: &'static str,
}

/// Which unit, and how the API compares with what was published.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitShownLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// `fewer` or `more`.
    pub shown: &'static str,
}

/// How it publishes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeliveryLabel {
    /// `exactly-once` or `at-least-once`.
    pub delivery: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// The connector's metrics. Counters start at zero with the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `call_legs_rows_total{unit,result}`
    pub rows: Family<UnitResultLabels, Counter>,
    /// `call_legs_polls_total{unit,result}`
    pub polls: Family<UnitResultLabels, Counter>,
    /// `call_legs_source_requests_total{unit,result}`
    pub source_requests: Family<UnitResultLabels, Counter>,
    /// `call_legs_source_request_duration_seconds{unit}`
    pub source_request_duration: Family<UnitLabel, Histogram>,
    /// `call_legs_publish_duration_seconds`
    pub publish_duration: Histogram,
    /// `call_legs_freshness_seconds{unit}`
    pub freshness: Family<UnitLabel, Histogram>,
    /// `call_legs_lateness_seconds{unit}`
    pub lateness: Family<UnitLabel, Histogram>,
    /// `call_legs_found_late_total{unit,by}`
    pub found_late: Family<UnitFoundLabels, Counter>,
    /// `call_legs_recommended_overlap_seconds{unit}`
    pub recommended_overlap: Family<UnitLabel, Seconds>,
    /// `call_legs_overlap_left_seconds{unit}`
    pub overlap_left: Family<UnitLabel, Seconds>,
    /// `call_legs_hours_differing{unit,shown}`
    pub hours_differing: Family<UnitShownLabels, Gauge>,
    /// `call_legs_complete_to_timestamp_seconds{unit}`
    pub complete_to: Family<UnitLabel, Seconds>,
    /// `call_legs_final_to_timestamp_seconds{unit}`
    pub final_to: Family<UnitLabel, Seconds>,
    /// `call_legs_last_poll_ok_timestamp_seconds{unit}`
    pub last_poll_ok: Family<UnitLabel, Seconds>,
    /// `call_legs_clock_skew_seconds`
    pub clock_skew: Seconds,
    ready: Gauge,
    owner: Gauge,
    delivery: Family<DeliveryLabel, Gauge>,
    kafka_waiting: Seconds,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds_of = |buckets: &'static [f64]| move || Histogram::new(buckets.iter().copied());
        let mut metrics = Self {
            registry: Registry::with_prefix("call_legs"),
            rows: Family::default(),
            polls: Family::default(),
            source_requests: Family::default(),
            source_request_duration: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            publish_duration: seconds_of(&PUBLISH_SECONDS)(),
            freshness: Family::new_with_constructor(|| Histogram::new(FRESHNESS_SECONDS)),
            lateness: Family::new_with_constructor(|| Histogram::new(LATENESS_SECONDS)),
            found_late: Family::default(),
            recommended_overlap: Family::default(),
            overlap_left: Family::default(),
            hours_differing: Family::default(),
            complete_to: Family::default(),
            final_to: Family::default(),
            last_poll_ok: Family::default(),
            clock_skew: Gauge::default(),
            ready: Gauge::default(),
            owner: Gauge::default(),
            delivery: Family::default(),
            kafka_waiting: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

const REQUEST_SECONDS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const PUBLISH_SECONDS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0, 60.0];
const FRESHNESS_SECONDS: [f64; 10] = [15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 7200.0, 86_400.0];
const LATENESS_SECONDS: [f64; 10] = [30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0];

impl Metrics {
    fn register(&mut self) {
        let Self { registry, .. } = self;
        registry.register("rows", "Rows read from the API by what became of them: published, duplicate, revised, dead, unfinished, beyond_horizon, outside, held", self.rows.clone());
        registry.register(
            "polls",
            "Polls by how they ended: ok, incomplete, invalid, time_zone, clock_skew, unreachable, rate_limited, cursor_refused, refused",
            self.polls.clone(),
        );
        registry.register(
            "source_requests",
            "Report requests to the API by how they ended: ok, unreachable, rate_limited, cursor_refused, refused",
            self.source_requests.clone(),
        );
        registry.register_with_unit(
            "source_request_duration",
            "Time of a report request, with its wait for the request budget and a due login",
            Unit::Seconds,
            self.source_request_duration.clone(),
        );
        registry.register_with_unit(
            "publish_duration",
            "Time from the first message of a batch to Kafka's acknowledgement of the last",
            Unit::Seconds,
            self.publish_duration.clone(),
        );
        registry.register_with_unit(
            "freshness",
            "Time from a leg's disconnect to Kafka's acknowledgement, of legs found by the newest window",
            Unit::Seconds,
            self.freshness.clone(),
        );
        registry.register_with_unit(
            "lateness",
            "Time from a leg's disconnect to when it was first seen in the API, sampled by polls and sweeps",
            Unit::Seconds,
            self.lateness.clone(),
        );
        registry.register(
            "found_late",
            "Legs that were not there when their time was first read: found by the overlap, or by a sweep after it",
            self.found_late.clone(),
        );
        registry.register_with_unit(
            "recommended_overlap",
            "The poll.overlap that finds 99.9 % of all legs if they go on being as late as they were",
            Unit::Seconds,
            self.recommended_overlap.clone(),
        );
        registry.register_with_unit(
            "overlap_left",
            "How much of the overlap was left when the latest leg was found thanks to it",
            Unit::Seconds,
            self.overlap_left.clone(),
        );
        registry.register(
            "hours_differing",
            "Hours of which the API, read as a whole by a sweep, shows fewer or more legs than were published",
            self.hours_differing.clone(),
        );
        registry.register_with_unit(
            "complete_to_timestamp",
            "Watermark: every leg disconnected before was read once, after the settle delay",
            Unit::Seconds,
            self.complete_to.clone(),
        );
        registry.register_with_unit(
            "final_to_timestamp",
            "Watermark: every leg disconnected before was read again, after the overlap",
            Unit::Seconds,
            self.final_to.clone(),
        );
        registry.register_with_unit(
            "last_poll_ok_timestamp",
            "When a poll last read its window whole",
            Unit::Seconds,
            self.last_poll_ok.clone(),
        );
        registry.register_with_unit(
            "clock_skew",
            "The API's clock minus ours, to about a second",
            Unit::Seconds,
            self.clock_skew.clone(),
        );
        registry.register("ready", "1 when /readyz says ready, else 0", self.ready.clone());
        registry.register("owner", "1 when this instance publishes, 0 when it stands by or starts", self.owner.clone());
        registry.register(
            "delivery",
            "1 for the guarantee that runs, exactly-once or at-least-once",
            self.delivery.clone(),
        );
        registry.register_with_unit(
            "kafka_waiting",
            "How long Kafka has owed the acknowledgement of the batch under way",
            Unit::Seconds,
            self.kafka_waiting.clone(),
        );
        registry.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    }

    /// The page for Prometheus, in the OpenMetrics text format.
    pub fn render(&self, status: &Status, now: Instant) -> String {
        self.ready.set(i64::from(status.reasons_not_ready(now).is_empty()));
        self.owner.set(i64::from(status.role == Role::Owner));
        if let Some(delivery) = status.delivery {
            for known in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
                let label = DeliveryLabel { delivery: known.as_str() };
                self.delivery.get_or_create(&label).set(i64::from(known == delivery));
            }
        }
        self.kafka_waiting.set(status.publishing_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64()));
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_names_units_and_labels() {
        let metrics = Metrics::default();
        metrics.rows.get_or_create(&UnitResultLabels { unit: "acme".to_owned(), result: "published" }).inc_by(3);
        metrics.complete_to.get_or_create(&UnitLabel { unit: "acme".to_owned() }).set(1.5);
        let page = metrics.render(&Status::default(), Instant::now());
        for line in [
            r#"call_legs_rows_total{unit="acme",result="published"} 3"#,
            r#"call_legs_complete_to_timestamp_seconds{unit="acme"} 1.5"#,
            "call_legs_ready 1",
            "# EOF",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
