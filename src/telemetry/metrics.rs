//! Every metric, in one list, with its unit, its labels and its help; the table in docs/metrics.md is held equal to it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use tokio::time::Instant;

use super::catalogue::{Catalogue, Description, Label};
use super::freshness::LegTimes;
use super::kafka::KafkaFigures;
use super::labels::{
    BEYOND, DELIVERIES, DeliveryLabel, FEWER, FOUND_BY, FRESHNESS_RESULTS, MORE, POLL_RESULTS, REQUEST_RESULTS,
    ROW_RESULTS, SHOWN, STATES, UnitFoundLabels, UnitLabel, UnitResultLabels, UnitShownLabels, UnitStateLabels, WITHIN,
};
use super::process::ProcessMetrics;
use super::status::{Role, Status, UnitStatus};

type Seconds = Gauge<f64, AtomicU64>;

/// What the measurements are held against, as it is configured.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// `freshness.objective`.
    pub freshness: Duration,
    /// `poll.interval`.
    pub interval: Duration,
    /// `poll.overlap`.
    pub overlap: Duration,
    /// `poll.settle`.
    pub settle: Duration,
    /// How far a leg lies behind the newest at the most, unless it is marked late; `None` where no order is promised.
    pub order_within: Option<Duration>,
}

impl Default for Targets {
    /// Those of the configuration.
    fn default() -> Self {
        let [freshness, interval, overlap, settle] = [300, 120, 1800, 60].map(Duration::from_secs);
        Self { freshness, interval, overlap, settle, order_within: None }
    }
}

/// A histogram's upper edges, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Edges(&'static [f64]);

impl MetricConstructor<Histogram> for Edges {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Durations = Family<UnitLabel, Histogram, Edges>;

/// The connector's metrics. Counters start at zero with the process.
#[derive(Debug)]
pub struct Metrics {
    catalogue: Catalogue,
    process: ProcessMetrics,
    kafka: OnceLock<Arc<KafkaFigures>>,
    targets: Targets,
    /// When the process started.
    started: Instant,
    ready: Gauge,
    owner: Gauge,
    delivery: Family<DeliveryLabel, Gauge>,
    start_waiting: Seconds,
    kafka_waiting: Seconds,
    kafka_queued: Gauge,
    kafka_round_trip: Seconds,
    kafka_failed: Counter,
    disk_waiting: Seconds,
    /// How often another instance took the journal from this one.
    pub fenced: Counter,
    unit_state: Family<UnitStateLabels, Gauge>,
    complete_to: Family<UnitLabel, Seconds>,
    final_to: Family<UnitLabel, Seconds>,
    last_poll_ok: Family<UnitLabel, Seconds>,
    freshness: Durations,
    freshness_objective: Seconds,
    freshness_legs: Family<UnitResultLabels, Counter>,
    leg_api_delay: Durations,
    leg_poll_wait: Durations,
    leg_fetch: Durations,
    leg_publish: Durations,
    leg_behind: Durations,
    order_within: Seconds,
    /// Rows by what became of them.
    pub rows: Family<UnitResultLabels, Counter>,
    /// Dead letters written.
    pub dead_letters: Family<UnitLabel, Counter>,
    /// Published legs with a text that is not the instant beside it.
    pub text_slips: Family<UnitLabel, Counter>,
    /// Published legs that say of themselves that they are still going on.
    pub published_in_progress: Family<UnitLabel, Counter>,
    /// Windows of a poll that were published page by page, out of order.
    pub unordered_windows: Family<UnitLabel, Counter>,
    /// Windows that were let pass although they have too many dead rows.
    pub released_windows: Family<UnitLabel, Counter>,
    /// Polls by how they ended.
    pub polls: Family<UnitResultLabels, Counter>,
    /// Report requests by how they ended.
    pub source_requests: Family<UnitResultLabels, Counter>,
    /// How long report requests took.
    pub source_request_duration: Durations,
    /// How long batches took to be acknowledged.
    pub publish_duration: Histogram,
    /// How late legs were.
    pub lateness: Durations,
    /// Late legs by the read that found them.
    pub found_late: Family<UnitFoundLabels, Counter>,
    /// The overlap that would have been long enough.
    pub recommended_overlap: Family<UnitLabel, Seconds>,
    /// How certain that is.
    pub recommended_overlap_confidence: Family<UnitLabel, Seconds>,
    /// How much of the overlap was left at the closest.
    pub overlap_left: Family<UnitLabel, Seconds>,
    hours_differing: Family<UnitShownLabels, Gauge>,
    poll_overlap: Seconds,
    poll_interval: Seconds,
    poll_slowdown: Gauge,
    poll_settle: Seconds,
    /// The source's clock minus ours.
    pub clock_skew: Seconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Targets::default())
    }
}

const API_DELAY_SECONDS: &[f64] = &[2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 7200.0];
const BEHIND_SECONDS: &[f64] = &[0.0, 1.0, 10.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0];
const FETCH_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
const FRESHNESS_SECONDS: &[f64] = &[2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 7200.0, 86_400.0];
const LATENESS_SECONDS: &[f64] = &[30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0];
const POLL_WAIT_SECONDS: &[f64] = &[1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 7200.0];
const PUBLISH_SECONDS: &[f64] = &[0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0, 60.0];
const REQUEST_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const UNIT: Label = Label { name: "unit", values: &[] };

const fn of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values }
}

impl Metrics {
    /// Metrics of a process that starts now.
    pub fn new(targets: Targets) -> Self {
        let of_unit = |edges| Family::new_with_constructor(Edges(edges));
        let mut metrics = Self {
            catalogue: Catalogue::default(),
            process: ProcessMetrics::new(),
            kafka: OnceLock::new(),
            targets,
            started: Instant::now(),
            ready: Gauge::default(),
            owner: Gauge::default(),
            delivery: Family::default(),
            start_waiting: Gauge::default(),
            kafka_waiting: Gauge::default(),
            kafka_queued: Gauge::default(),
            kafka_round_trip: Gauge::default(),
            kafka_failed: Counter::default(),
            disk_waiting: Gauge::default(),
            fenced: Counter::default(),
            unit_state: Family::default(),
            complete_to: Family::default(),
            final_to: Family::default(),
            last_poll_ok: Family::default(),
            freshness: of_unit(FRESHNESS_SECONDS),
            freshness_objective: Gauge::default(),
            freshness_legs: Family::default(),
            leg_api_delay: of_unit(API_DELAY_SECONDS),
            leg_poll_wait: of_unit(POLL_WAIT_SECONDS),
            leg_fetch: of_unit(FETCH_SECONDS),
            leg_publish: of_unit(PUBLISH_SECONDS),
            leg_behind: of_unit(BEHIND_SECONDS),
            order_within: Gauge::default(),
            rows: Family::default(),
            dead_letters: Family::default(),
            text_slips: Family::default(),
            published_in_progress: Family::default(),
            unordered_windows: Family::default(),
            released_windows: Family::default(),
            polls: Family::default(),
            source_requests: Family::default(),
            source_request_duration: of_unit(REQUEST_SECONDS),
            publish_duration: Edges(PUBLISH_SECONDS).new_metric(),
            lateness: of_unit(LATENESS_SECONDS),
            found_late: Family::default(),
            recommended_overlap: Family::default(),
            recommended_overlap_confidence: Family::default(),
            overlap_left: Family::default(),
            hours_differing: Family::default(),
            poll_overlap: Gauge::default(),
            poll_interval: Gauge::default(),
            poll_slowdown: Gauge::default(),
            poll_settle: Gauge::default(),
            clock_skew: Gauge::default(),
        };
        metrics.freshness_objective.set(targets.freshness.as_secs_f64());
        metrics.order_within.set(targets.order_within.map_or(0.0, |within| within.as_secs_f64()));
        metrics.poll_overlap.set(targets.overlap.as_secs_f64());
        metrics.poll_settle.set(targets.settle.as_secs_f64());
        let mut catalogue = Catalogue::default();
        metrics.list(&mut catalogue);
        metrics.catalogue = catalogue;
        metrics
    }

    /// The list. The order is that of docs/metrics.md.
    #[rustfmt::skip]
    fn list(&self, c: &mut Catalogue) {
        c.plain("ready", &[], "1 when `/readyz` says ready, else 0", &self.ready);
        c.plain("owner", &[], "1 when this instance publishes, 0 when it stands by or starts", &self.owner);
        c.plain("delivery", &[of("delivery", &DELIVERIES)], "1 for the guarantee that runs, once that is known", &self.delivery);
        c.seconds("start_waiting", &[], "how long this process has waited since its start for what it needs (Kafka, the schema registry); 0 once it is there", &self.start_waiting);
        c.seconds("kafka_waiting", &[], "how long Kafka has owed the acknowledgement of the transaction under way; 0 while it owes none", &self.kafka_waiting);
        c.plain("kafka_queued_messages", &[], "messages that wait in the producer for a broker; told every 15 s, as the next two", &self.kafka_queued);
        c.seconds("kafka_round_trip", &[], "the longest mean time that a broker takes to answer the producer", &self.kafka_round_trip);
        c.plain("kafka_failed_requests", &[], "requests of the producer that failed, were not answered in time, or were answered by an error of the network", &self.kafka_failed);
        c.seconds("disk_waiting", &[], "how long the disk of `state.dir` has not done its work (full, or broken), so that polls wait for it and not for Kafka; 0 while it does", &self.disk_waiting);
        c.plain("fenced", &[], "how often another instance took the journal from this one", &self.fenced);
        c.plain("unit_state", &[UNIT, of("state", &STATES)], "1 for the state that the unit is in, else 0; none while standing by", &self.unit_state);
        c.seconds("complete_to_timestamp", &[UNIT], "watermark: every leg disconnected before was read once, after `poll.settle`; its age is the lag. None while standing by", &self.complete_to);
        c.seconds("final_to_timestamp", &[UNIT], "watermark: every leg disconnected before was read again, after the overlap", &self.final_to);
        c.seconds("last_poll_ok_timestamp", &[UNIT], "when a poll last read its window whole", &self.last_poll_ok);
        c.seconds("freshness", &[UNIT], "from a leg's disconnect to Kafka's acknowledgement: every leg that polls and sweeps publish, unless it was disconnected before the unit was last started, rewound, accepted or adopted", &self.freshness);
        c.seconds("freshness_objective", &[], "`freshness.objective`: what freshness is held against", &self.freshness_objective);
        c.plain("freshness_legs", &[UNIT, of("result", &FRESHNESS_RESULTS)], "the legs of `call_legs_freshness_seconds` by whether they kept the objective: the share beyond it is what burns", &self.freshness_legs);
        c.seconds("leg_api_delay", &[UNIT], "of the legs that polls found: at most how long the API took to show a leg, from its disconnect to the page that showed it. Freshness is this and `call_legs_leg_publish_seconds`; left out after a pause of three poll intervals", &self.leg_api_delay);
        c.seconds("leg_poll_wait", &[UNIT], "of the legs that polls found: at most how long a leg waited for a poll, from the beginning of the newest whole read of a poll that had not shown it, or its disconnect if that was later, to the beginning of the read that did. Part of the API delay, since nobody looks in between", &self.leg_poll_wait);
        c.seconds("leg_fetch", &[UNIT], "of the legs that polls found: from the beginning of the read of its window to the page that showed the leg, with repetitions, due logins and waits for the request budget. Part of the API delay, too", &self.leg_fetch);
        c.seconds("leg_publish", &[UNIT], "of the legs that polls found: from the page that showed the leg to Kafka's acknowledgement of its transaction", &self.leg_publish);
        c.seconds("leg_behind", &[UNIT], "how far a leg lay behind the newest leg that was published before it, of all units; 0 where it was the newest itself", &self.leg_behind);
        c.seconds("order_within", &[], "a leg lies behind the newest one published before it by no more than this, or has `ingest.late` true; 0 where no order is promised", &self.order_within);
        c.plain("rows", &[UNIT, of("result", &ROW_RESULTS)], "rows fetched, each with one result: `outside` is beyond the window's ends, where the neighbouring windows read; `held` are too many that cannot be legs. A dead letter that is replayed counts once more, as published or duplicate", &self.rows);
        c.plain("dead_letters", &[UNIT], "dead letters written, each once, however often its row is read", &self.dead_letters);
        c.plain("text_slips", &[UNIT], "published legs with a text of a time that is another instant than the milliseconds beside it, or has another offset than `source.time_zone`. The milliseconds count; where more than a tenth of a window's rows contradict the zone, the state says so", &self.text_slips);
        c.plain("published_in_progress", &[UNIT], "published legs whose status was still `In Progress` when their time became final: published as they were, awaited no longer", &self.published_in_progress);
        c.plain("released_windows", &[UNIT], "windows with too many dead rows that passed after six hours, because newer windows were read well: their dead rows are dead letters", &self.released_windows);
        c.plain("unordered_windows", &[UNIT], "windows with more rows than are held in memory, however short: their legs were published page by page, not in the order of their times", &self.unordered_windows);
        c.plain("polls", &[UNIT, of("result", &POLL_RESULTS)], "polls by how they ended", &self.polls);
        c.plain("source_requests", &[UNIT, of("result", &REQUEST_RESULTS)], "report requests by how they ended", &self.source_requests);
        c.seconds("source_request_duration", &[UNIT], "of a report request, with its wait for the request budget and a due login", &self.source_request_duration);
        c.seconds("publish_duration", &[], "from a batch's first message to Kafka's last acknowledgement", &self.publish_duration);
        c.seconds("lateness", &[UNIT], "at most how late a leg was, from its disconnect to when it was first seen, sampled by polls and sweeps", &self.lateness);
        c.plain("found_late", &[UNIT, of("by", &FOUND_BY)], "legs that were not there when their time was first read, by what found them", &self.found_late);
        c.seconds("recommended_overlap", &[UNIT], "the `poll.overlap` that finds 99.9 % of all legs, if they go on being as late; none before the first leg", &self.recommended_overlap);
        c.plain("recommended_overlap_confidence_ratio", &[UNIT], "how certain that is, 0 to 1: with few legs it is little", &self.recommended_overlap_confidence);
        c.seconds("overlap_left", &[UNIT], "how much of the overlap was left when the latest leg was found thanks to it; none before the first such leg", &self.overlap_left);
        c.plain("periods_differing", &[UNIT, of("shown", &SHOWN)], "hours of which a sweep has seen fewer or more legs than were published; none while standing by", &self.hours_differing);
        c.seconds("poll_overlap", &[], "`poll.overlap`", &self.poll_overlap);
        c.seconds("poll_interval", &[], "how often units are polled: `poll.interval`, or what `\"auto\"` has chosen", &self.poll_interval);
        c.plain("poll_slowdown_ratio", &[], "by which factor polls come less often because the API has asked for fewer requests, with `poll.interval = \"auto\"`; 1 otherwise", &self.poll_slowdown);
        c.seconds("poll_settle", &[], "`poll.settle`: how far the watermark of complete legs lies behind a read", &self.poll_settle);
        c.seconds("clock_skew", &[], "the API's clock minus ours, to about a second", &self.clock_skew);
        c.info("build", &[of("version", &[])], "the running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        self.process.list(c);
    }

    /// Shows what the producer's client tells, from now on.
    pub fn show_kafka(&self, figures: Arc<KafkaFigures>) {
        // There is one in a process.
        let _ = self.kafka.set(figures);
    }

    /// Every metric, in words.
    pub fn descriptions(&self) -> &[Description] {
        self.catalogue.descriptions()
    }

    /// Makes every counter and histogram of a unit exist, so that its first event shows in a rate.
    pub fn add_unit(&self, unit: &str) {
        let with_result = |result| UnitResultLabels { unit: unit.to_owned(), result };
        for (family, results) in [
            (&self.freshness_legs, FRESHNESS_RESULTS.as_slice()),
            (&self.rows, &ROW_RESULTS),
            (&self.polls, &POLL_RESULTS),
            (&self.source_requests, &REQUEST_RESULTS),
        ] {
            results.iter().for_each(|result| drop(family.get_or_create(&with_result(result))));
        }
        for family in [
            &self.dead_letters,
            &self.text_slips,
            &self.published_in_progress,
            &self.unordered_windows,
            &self.released_windows,
        ] {
            drop(family.get_or_create(&UnitLabel { unit: unit.to_owned() }));
        }
        self.show_hours(unit, (0, 0));
        for by in FOUND_BY {
            drop(self.found_late.get_or_create(&UnitFoundLabels { unit: unit.to_owned(), by }));
        }
        for family in [
            &self.freshness,
            &self.leg_api_delay,
            &self.leg_poll_wait,
            &self.leg_fetch,
            &self.leg_publish,
            &self.leg_behind,
            &self.source_request_duration,
            &self.lateness,
        ] {
            drop(family.get_or_create(&UnitLabel { unit: unit.to_owned() }));
        }
    }

    /// Shows of how many hours of a unit a sweep has seen fewer legs than were published, and of how many more.
    pub fn show_hours(&self, unit: &str, (fewer, more): (u64, u64)) {
        for (shown, count) in [(FEWER, fewer), (MORE, more)] {
            let labels = UnitShownLabels { unit: unit.to_owned(), shown };
            self.hours_differing.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Takes note of how fresh published legs are.
    pub fn note_freshness(&self, unit: &str, legs: &[LegTimes]) {
        let fresh = self.freshness.get_or_create_owned(&UnitLabel { unit: unit.to_owned() });
        legs.iter().for_each(|leg| fresh.observe(leg.freshness().as_secs_f64()));
        let within = legs.iter().filter(|leg| leg.freshness() <= self.targets.freshness).count();
        for (result, count) in [(WITHIN, within), (BEYOND, legs.len() - within)] {
            let labels = UnitResultLabels { unit: unit.to_owned(), result };
            self.freshness_legs.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// How far new legs of a unit lay behind the newest one, in seconds.
    pub fn leg_behind(&self, unit: &str) -> Histogram {
        self.leg_behind.get_or_create_owned(&UnitLabel { unit: unit.to_owned() })
    }

    /// Takes note of where the time of legs went that a poll has found.
    pub fn note_stages(&self, unit: &str, legs: &[LegTimes], apart_max: Duration) {
        let label = UnitLabel { unit: unit.to_owned() };
        let [api_delay, poll_wait, fetch, publish] =
            [&self.leg_api_delay, &self.leg_poll_wait, &self.leg_fetch, &self.leg_publish]
                .map(|family| family.get_or_create_owned(&label));
        for leg in legs {
            let stages = leg.stages(apart_max);
            stages.api_delay.iter().for_each(|delay| api_delay.observe(delay.as_secs_f64()));
            poll_wait.observe(stages.poll_wait.as_secs_f64());
            fetch.observe(stages.fetch.as_secs_f64());
            publish.observe(stages.publish.as_secs_f64());
        }
    }

    /// The page for Prometheus, in the OpenMetrics text format.
    pub fn render(&self, status: &Status, now: Instant) -> String {
        self.process.refresh();
        self.ready.set(i64::from(status.reasons_not_ready(now).is_empty()));
        self.owner.set(i64::from(status.role == Role::Owner));
        if let Some(delivery) = status.delivery {
            for known in DELIVERIES {
                self.delivery
                    .get_or_create(&DeliveryLabel { delivery: known })
                    .set(i64::from(known == delivery.as_str()));
            }
        }
        let waited = status.waiting_for.as_ref().map_or(Duration::ZERO, |_| now.duration_since(self.started));
        self.start_waiting.set(waited.as_secs_f64());
        self.kafka_waiting.set(status.publishing_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64()));
        let pace = status.poll_pace.as_ref();
        self.poll_interval.set(pace.map_or(self.targets.interval, |pace| pace.interval).as_secs_f64());
        self.poll_slowdown.set(pace.map_or(1, |pace| pace.slowdown).into());
        if let Some(kafka) = self.kafka.get() {
            self.kafka_queued.set(i64::try_from(kafka.queued()).unwrap_or(i64::MAX));
            self.kafka_round_trip.set(kafka.round_trip().as_secs_f64());
            self.kafka_failed.inc_by(kafka.failed().saturating_sub(self.kafka_failed.get()));
        }
        let disk = status.disk_trouble.as_ref().map(|(since, _)| now.duration_since(*since));
        self.disk_waiting.set(disk.unwrap_or_default().as_secs_f64());
        if matches!(status.role, Role::StandingBy { .. }) {
            self.forget_progress();
        } else {
            status.units.iter().for_each(|(name, unit)| self.show_unit(name, unit));
        }
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, self.catalogue.registry());
        page
    }

    fn show_unit(&self, name: &str, unit: &UnitStatus) {
        for state in STATES {
            let labels = UnitStateLabels { unit: name.to_owned(), state };
            self.unit_state.get_or_create(&labels).set(i64::from(state == unit.state.as_str()));
        }
        for (family, instant) in [
            (&self.complete_to, unit.complete_to),
            (&self.final_to, unit.final_to),
            (&self.last_poll_ok, unit.last_poll_ok),
        ] {
            if let Some(instant) = instant {
                family.get_or_create(&UnitLabel { unit: name.to_owned() }).set(instant.as_seconds_f64());
            }
        }
    }

    /// What an owner was would look like a lag that grows, once another one reads.
    fn forget_progress(&self) {
        clear(&self.unit_state);
        clear(&self.hours_differing);
        for family in [
            &self.complete_to,
            &self.final_to,
            &self.last_poll_ok,
            &self.recommended_overlap,
            &self.recommended_overlap_confidence,
            &self.overlap_left,
        ] {
            clear(family);
        }
    }
}

fn clear<L: EncodeLabelSet + Clone + std::hash::Hash + Eq, M>(family: &Family<L, M>) {
    family.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::UtcMillis;
    use crate::telemetry::status::UnitState;

    const PAGE: &str = include_str!("../../docs/metrics.md");

    fn of_acme(state: UnitState) -> Status {
        let acme = UnitStatus { state, complete_to: Some(UtcMillis::new(1_500)), ..UnitStatus::default() };
        Status { role: Role::Owner, units: [("acme".to_owned(), acme)].into(), ..Status::default() }
    }

    #[track_caller]
    fn assert_line(page: &str, line: &str) {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }

    #[test]
    fn renders_names_units_and_labels() {
        let metrics = Metrics::default();
        metrics.rows.get_or_create(&UnitResultLabels { unit: "acme".to_owned(), result: "published" }).inc_by(3);
        let page = metrics.render(&of_acme(UnitState::Ok), Instant::now());
        for line in [
            r#"call_legs_rows_total{unit="acme",result="published"} 3"#,
            r#"call_legs_complete_to_timestamp_seconds{unit="acme"} 1.5"#,
            r#"call_legs_unit_state{unit="acme",state="ok"} 1"#,
            r#"call_legs_unit_state{unit="acme",state="source_auth"} 0"#,
            "call_legs_freshness_objective_seconds 300.0",
            "call_legs_ready 1",
            "# EOF",
        ] {
            assert_line(&page, line);
        }
    }

    #[test]
    fn what_an_owner_was_is_not_shown_while_another_one_publishes() {
        let metrics = Metrics::default();
        let mut status = of_acme(UnitState::SourceAuth);
        metrics.recommended_overlap.get_or_create(&UnitLabel { unit: "acme".to_owned() }).set(1.0);
        let owner = metrics.render(&status, Instant::now());
        status.role = Role::StandingBy { owner: "b".to_owned(), admin: "b:1".to_owned() };
        let standby = metrics.render(&status, Instant::now());
        for name in ["unit_state", "complete_to_timestamp_seconds", "recommended_overlap_seconds"] {
            let series = format!("call_legs_{name}{{");
            assert!(owner.contains(&series) && !standby.contains(&series), "{name}");
        }
        assert_line(&standby, "call_legs_owner 0");
    }

    #[test]
    fn every_series_of_a_unit_exists_before_anything_has_happened() {
        let metrics = Metrics::default();
        metrics.add_unit("acme");
        let page = metrics.render(&of_acme(UnitState::Starting), Instant::now());
        // Nothing can be said of these before there is a leg, or a poll.
        let later = ["delivery", "final_to", "last_poll_ok", "recommended_overlap", "overlap_left"];
        for described in metrics.descriptions() {
            if later.iter().any(|name| described.name.starts_with(&format!("call_legs_{name}"))) {
                continue;
            }
            let expected: usize = described.labels.iter().map(|label| label.values.len().max(1)).product();
            let counted = format!("{}_count", described.name);
            let series = page.lines().filter(|line| {
                let name = line.split(['{', ' ']).next();
                name == Some(described.name.as_str()) || name == Some(counted.as_str())
            });
            assert_eq!(series.count(), expected, "{}", described.name);
        }
    }

    #[test]
    fn legs_are_held_against_the_objective() {
        let metrics = Metrics::default();
        let at = UtcMillis::new;
        let leg = |committed: i64| LegTimes {
            disconnected: at(0),
            looked: at(0),
            begun: at(0),
            seen: at(0),
            committed: at(committed),
        };
        metrics.note_freshness("acme", &[leg(1), leg(300_000), leg(300_001)]);
        let page = metrics.render(&Status::default(), Instant::now());
        assert_line(&page, r#"call_legs_freshness_legs_total{unit="acme",result="within"} 2"#);
        assert_line(&page, r#"call_legs_freshness_legs_total{unit="acme",result="beyond"} 1"#);
        assert_line(&page, r#"call_legs_freshness_seconds_count{unit="acme"} 3"#);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_disk_is_not_waiting_for_kafka() {
        let metrics = Metrics::default();
        let board = crate::telemetry::StatusBoard::default();
        board.update(|status| status.publishing_since = Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(5)).await;
        let waiting = |seconds: [&str; 2]| {
            let page = metrics.render(&board.read(), Instant::now());
            assert_line(&page, &format!("call_legs_kafka_waiting_seconds {}", seconds[0]));
            assert_line(&page, &format!("call_legs_disk_waiting_seconds {}", seconds[1]));
        };
        waiting(["5.0", "0.0"]);
        board.blame_disk("full".to_owned());
        tokio::time::advance(Duration::from_secs(9)).await;
        waiting(["0.0", "9.0"]);
        board.update(|status| status.disk_trouble = None);
        waiting(["0.0", "0.0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_at_the_start_is_a_time() {
        let metrics = Metrics::default();
        tokio::time::advance(Duration::from_secs(7)).await;
        let mut status = Status { waiting_for: Some("kafka".to_owned()), ..Status::default() };
        assert_line(&metrics.render(&status, Instant::now()), "call_legs_start_waiting_seconds 7.0");
        status.waiting_for = None;
        assert_line(&metrics.render(&status, Instant::now()), "call_legs_start_waiting_seconds 0.0");
    }

    #[test]
    fn the_page_of_metrics_has_each_as_it_is() {
        let metrics = Metrics::default();
        let table: Vec<String> = metrics.descriptions().iter().map(Description::row).collect();
        let is_row = |line: &&str| line.starts_with("| `call_legs_") || line.starts_with("| `process_");
        let found: Vec<&str> = PAGE.lines().filter(is_row).collect();
        let table = table.join("\n");
        assert!(found.join("\n") == table, "the table in docs/metrics.md should have these rows:\n{table}\n");
    }

    #[test]
    fn names_are_as_prometheus_has_them() {
        for described in Metrics::default().descriptions() {
            let name = &described.name;
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(described.kind == crate::telemetry::Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(described.kind == crate::telemetry::Kind::Info, name.ends_with("_info"), "{name}");
            if described.kind == crate::telemetry::Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }
}
