//! What a row costs, part by part: rows and legs per second of CPU time.
//!
//! ```text
//!   page bytes ──cut──▶ rows ──parse──▶ legs ──identity, contradiction, fingerprint──▶ … ──encode──▶ datums
//! ```
//!
//! The rows are those of the simulated API, a page of 1,000. What is counted is the CPU time of the
//! benchmark's own thread, so that a busy neighbour disturbs little. Neither HTTP, the store nor Kafka
//! is in it.

use std::hint::black_box;
use std::time::Duration;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use call_legs::codec::{Framing, LegEncoder, schema};
use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::core::leg::{How, Ingest, Leg, position};
use call_legs::core::time::{UtcMillis, Window};
use call_legs::core::zone::judge;
use call_legs::sandbox::Settings;
use call_legs::sandbox::api::Request;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::source::wire::{self, Page, Row};
use chrono_tz::Tz;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};

/// 2025-10-09T08:53:20Z.
const NOW: UtcMillis = UtcMillis::new(1_760_000_000_000);

/// How many rows the page has.
const ROWS: usize = 1_000;

/// The zone of the rows' texts.
const ZONE: Tz = Tz::America__New_York;

/// 2025-10-08T20:53:20Z, where the legs begin.
const BEGIN: UtcMillis = UtcMillis::new(1_760_000_000_000 - 12 * 3_600_000);

const INGEST: Ingest =
    Ingest { first_seen: NOW, how: How::Poll, late: false, revision: 0, window: Window::new(BEGIN, NOW) };

fn main() {
    let mut criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    let body = body();
    let page = wire::page(body.clone()).expect("a page");
    assert_eq!(page.len(), ROWS);
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("cut", |bencher| bencher.iter_batched(|| body.clone(), wire::page, BatchSize::PerIteration));
    parse(&mut group, &page);
    let legs: Vec<Leg<'_>> = page.rows().map(leg).collect();
    of_each(&mut group, "identity", &legs, KeyHash::of_leg);
    of_each(&mut group, "fingerprint", &legs, Fingerprint::of_leg);
    of_each(&mut group, "contradiction", &legs, |leg| judge(leg, position::DISCONNECTED_TIME, ZONE));
    encode(&mut group, &legs);
    whole(&mut group, &body);
    group.finish();
    criterion.final_summary();
}

/// A page as the API sends it.
fn body() -> Vec<u8> {
    let dataset = DatasetSettings { legs: 2 * ROWS as u64, span: NOW.since(BEGIN), ..DatasetSettings::default() };
    let api = Settings { dataset, ..Settings::default() }.api(NOW).expect("a generated dataset");
    let token = api.answer(NOW, &Request::token(api.credentials()));
    let token: serde_json::Value = serde_json::from_str(token.text()).expect("a token's reply");
    let parameters = [
        ("pbxId", "allpbxes"),
        ("startTime", "2025-10-07 00:00:00"),
        ("endTime", "2025-10-10 00:00:00"),
        ("timeZone", ZONE.name()),
        ("pageSize", &ROWS.to_string()),
    ];
    let token = token["access_token"].as_str().expect("a token");
    api.answer(NOW, &Request::report(api.credentials(), token, &parameters)).body.into()
}

fn leg(row: &str) -> Leg<'_> {
    match wire::row_in(row, None) {
        Row::Leg(leg) => *leg,
        other => panic!("expected a leg, got {other:?}"),
    }
}

fn parse(group: &mut BenchmarkGroup<'_, CpuTime>, page: &Page) {
    let rows: Vec<&str> = page.rows().collect();
    of_each(group, "parse", &rows, |row| wire::row_in(row, None));
    // What a release of the API that adds a field would cost.
    let longer: Vec<String> =
        rows.iter().map(|row| [&row[..row.len() - 1], r#","newField":"text"}"#].concat()).collect();
    of_each(group, "parse with an unknown field", &longer, |row| wire::row_in(row, None));
}

fn of_each<'a, T, R>(
    group: &mut BenchmarkGroup<'_, CpuTime>,
    name: &str,
    inputs: &'a [T],
    mut part: impl FnMut(&'a T) -> R,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for input in inputs {
                black_box(part(input));
            }
        });
    });
}

fn encode(group: &mut BenchmarkGroup<'_, CpuTime>, legs: &[Leg<'_>]) {
    let encoder = LegEncoder::new();
    let mut out = Vec::new();
    of_each(group, "encode", legs, |leg| {
        out.clear();
        encoder.encode(leg, &INGEST, &mut out)
    });
    let schema = schema::call_leg().schema();
    let reader = GenericDatumReader::builder(schema).build().expect("the schema resolves");
    let writer = GenericDatumWriter::builder(schema).build().expect("the schema resolves");
    let values: Vec<_> = legs
        .iter()
        .map(|leg| {
            out.clear();
            encoder.encode(leg, &INGEST, &mut out).expect("a leg");
            reader.read_value(&mut out.as_slice()).expect("a datum")
        })
        .collect();
    of_each(group, "apache-avro's encoding of its own values", &values, |value| {
        out.clear();
        writer.write_value_ref(&mut out, value)
    });
}

/// From a page's bytes to framed datums, each in memory of its own as Kafka's client takes it.
fn whole(group: &mut BenchmarkGroup<'_, CpuTime>, body: &[u8]) {
    let encoder = LegEncoder::new();
    let framing = Framing::Confluent { schema_id: 7 };
    group.bench_function("page to framed datums", |bencher| {
        let messages = |body: Vec<u8>| {
            let page = wire::page(body).expect("a page");
            let mut messages = Vec::with_capacity(page.len());
            for leg in page.rows().map(leg) {
                let mut message = Vec::with_capacity(640);
                framing.write_header(&mut message);
                encoder.encode(&leg, &INGEST, &mut message).expect("a leg");
                messages.push(message);
            }
            messages
        };
        bencher.iter_batched(|| body.to_vec(), messages, BatchSize::PerIteration);
    });
}

/// The CPU time of the thread that measures.
struct CpuTime;

impl CpuTime {
    fn now() -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
