//! The journal's codec against itself, against the Avro library and against its golden bytes.

use std::time::Duration;

use apache_avro::reader::datum::GenericDatumReader;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::codec::schema::PublishedSchema;
use crate::core::coverage::Coverage;
use crate::core::dedupe::{Counts, Seen};
use crate::core::hours::{Compared, ComparedDay, Hour, HourRows, PageHours};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{
    Backfill, BackfillState, Chain, Change, ChangeKind, Claim, Delivery, Entry, Genesis, OutOffsets, OutTopic, Page,
    ReplayOutcome, Replayed, Swept, UnitProgress,
};
use crate::core::lateness::{BUCKETS, Lateness};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;

const START: i64 = 1_643_898_420_000;

fn at(seconds: i64) -> UtcMillis {
    UtcMillis::new(START + seconds * 1000)
}

fn nonce(first: u8) -> Nonce {
    Nonce(std::array::from_fn(|index| first + u8::try_from(index).unwrap()))
}

fn entry(key: u8, bits: u64, revision: u8) -> Entry {
    Entry { key: KeyHash([key; 16]), seen: Seen { fingerprint: Some(Fingerprint::from_bits(bits)), revision } }
}

fn offsets() -> OutOffsets {
    OutOffsets([((OutTopic::DeadLetters, 0), 3), ((OutTopic::Legs, 0), 1_000_000), ((OutTopic::Legs, 5), 0)].into())
}

fn genesis() -> Record {
    Record::Genesis(Genesis {
        journal: nonce(0),
        cluster: "4L6g3nShT-eMCtK--X86sw".to_owned(),
        fingerprint_version: 1,
        at: at(0),
        out_offsets: offsets(),
        version: "0.1.0".to_owned(),
    })
}

fn claim() -> Record {
    Record::Claim(Claim {
        nonce: nonce(0x10),
        process: nonce(0x20),
        instance: nonce(0x30),
        host: "host-1.example".to_owned(),
        admin: "192.0.2.7:9464".to_owned(),
        version: "0.1.0".to_owned(),
        delivery: Delivery::ExactlyOnce,
        beat_ms: 10_000,
        is_released: true,
        at: at(1),
    })
}

fn page() -> Page {
    Page {
        seq: 300,
        writer: Some(nonce(0x40)),
        unit: "zürich".to_owned(),
        generation: 2,
        first: at(0),
        last: UtcMillis::new(START + 59_999),
        fingerprint_version: 1,
        legs: vec![entry(0x51, 0x00a1_a2a3_a4a5_a6a7, 0), entry(0x52, 1, 255)],
        dead: vec![KeyHash([0xd1; 16])],
        hours: PageHours([(Hour::new(456_638), HourRows { published: 1, dead: 1 })].into()),
        chain_before: Chain([0xc1; 16]),
    }
}

fn progress() -> Record {
    Record::Progress(UnitProgress {
        unit: "zürich".to_owned(),
        generation: 2,
        progress: Progress {
            complete_to: at(1800),
            final_to: at(60),
            floor: at(-691_140),
            coverage: [Window::new(at(-7200), at(-3600)), Window::new(at(0), at(1800))].into_iter().collect(),
        },
        source: 0xf1f2_f3f4_f5f6_f7f8,
        last_seq: 300,
        chain: Chain([0xc3; 16]),
        oldest_needed_seq: 17,
        out_offsets: offsets(),
        counts: counts(),
        lateness: Lateness {
            buckets: vec![60, 0, 9, 1],
            by_overlap: 7,
            by_sweep: 1,
            unmeasured: 12,
            closest: Some(Duration::from_millis(90_500)),
        },
        sweeps: vec![
            Swept { lookback: Duration::from_secs(21_600), at: at(3000) },
            Swept { lookback: Duration::from_secs(86_400), at: at(-9) },
        ],
        change: Some(Change { what: ChangeKind::Rewound, at: at(-10) }),
    })
}

fn backfill() -> Record {
    Record::Backfill(Backfill {
        id: nonce(0x60),
        unit: "zürich".to_owned(),
        window: Window::new(at(-86_400), at(0)),
        state: BackfillState::Running,
        at: at(5),
        counts: counts(),
    })
}

fn day() -> Record {
    let compared = |seen, published, dead| Compared { seen, rows: HourRows { published, dead } };
    let hours = [(0, compared(0, 0, 2)), (14, compared(299, 300, 0)), (23, compared(0, 0, 0))].into();
    Record::Day(ComparedDay { unit: "zürich".to_owned(), generation: 2, day: Day(19_026), hours })
}

fn replayed() -> Replayed {
    Replayed {
        partition: 2,
        offset: 70_000,
        row: KeyHash([0xd1; 16]),
        fingerprint_version: 1,
        entry: entry(0x51, 0x00a1_a2a3_a4a5_a6a7, 0),
        unit: "zürich".to_owned(),
        outcome: ReplayOutcome::Published,
        at: at(7),
    }
}

fn counts() -> Counts {
    Counts {
        published: 70,
        duplicate: 600,
        revised: 5,
        dead: 4,
        unfinished: 3,
        beyond_horizon: 2,
        outside: 1,
        held: 8,
        late: 6,
    }
}

/// Each kind of record with its schema, its key and its golden bytes.
fn samples() -> [(Record, &'static PublishedSchema, &'static str, &'static str); 7] {
    [
        (genesis(), schema::journal_genesis(), "g", include_str!("../golden/journal-genesis.v1.hex")),
        (claim(), schema::journal_claim(), "c", include_str!("../golden/journal-claim.v1.hex")),
        (
            Record::Page(page()),
            schema::journal_page(),
            "p/404142434445464748494a4b4c4d4e4f/300",
            include_str!("../golden/journal-page.v1.hex"),
        ),
        (progress(), schema::journal_progress(), "s/zürich", include_str!("../golden/journal-progress.v1.hex")),
        (
            backfill(),
            schema::journal_backfill(),
            "b/606162636465666768696a6b6c6d6e6f",
            include_str!("../golden/journal-backfill.v1.hex"),
        ),
        (day(), schema::journal_hours(), "h/zürich/2022-02-03", include_str!("../golden/journal-hours.v1.hex")),
        (
            Record::Replayed(replayed()),
            schema::journal_replayed(),
            "r/2/70000",
            include_str!("../golden/journal-replayed.v1.hex"),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The golden bytes belong to each schema's first version; they may change only together with it,
/// and then as another version's. fastavro 1.13.1 reads them as the samples and writes the same.
#[test]
fn samples_have_the_golden_bytes_and_come_back() {
    let codec = JournalCodec::new();
    for (record, _, key, golden) in samples() {
        let (encoded_key, payload) = codec.encode(&record);
        assert_eq!(std::str::from_utf8(&encoded_key).unwrap(), key);
        assert_eq!(hex(&payload.unwrap()), hex(&bytes_of(golden)), "{key}");
        assert_eq!(codec.decode(key.as_bytes(), Some(&bytes_of(golden))), Ok(as_read(record)));
    }
}

/// The samples' fingerprints are of the first version, which compares equal to everything by now.
fn as_read(mut record: Record) -> Record {
    match &mut record {
        Record::Page(page) => page.legs.iter_mut().for_each(|entry| entry.seen.fingerprint = None),
        Record::Replayed(replayed) => replayed.entry.seen.fingerprint = None,
        _ => {}
    }
    record
}

#[test]
fn records_without_a_value() {
    let codec = JournalCodec::new();
    let over = Record::DayForgotten("a/b".to_owned(), Day(0));
    assert_eq!(codec.encode(&over), (b"h/a/b/1970-01-01".to_vec(), None));
    assert_eq!(codec.decode(b"h/a/b/1970-01-01", None), Ok(over));
    assert_eq!(codec.encode(&Record::Nothing), (b"x/".to_vec(), None));
    for (key, payload) in [
        (&b"p/7"[..], None),
        (b"p/000102030405060708090a0b0c0d0e0f/7", None),
        (b"x/000102030405060708090a0b0c0d0e0f", None),
        (b"x/000102030405060708090a0b0c0d0e0f", Some(&b"marker"[..])),
    ] {
        assert_eq!(codec.decode(key, payload), Ok(Record::Nothing));
    }
    for key in ["g", "c", "s/a", "r/2/70000"] {
        assert_eq!(codec.decode(key.as_bytes(), None), Err(JournalDecodeError::NoValue { key: key.to_owned() }));
    }
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let codec = JournalCodec::new();
    for key in [
        &b""[..],
        b"b/1",
        b"gg",
        b"p/",
        b"p/x",
        b"p/+7",
        b"p/07",
        b"p/0001/7",
        b"s",
        b"p/7/",
        b"h/a",
        b"h/a/1",
        b"h/a/2022-2-3",
        b"r/2",
        b"r/2/+7",
        b"r/2/7/",
        b"\xff",
    ] {
        for payload in [None, Some(&b""[..])] {
            let error = codec.decode(key, payload).unwrap_err();
            assert!(matches!(error, JournalDecodeError::UnknownKey { .. }), "{key:?}: {error}");
        }
    }
}

#[test]
fn a_record_under_another_key_is_refused() {
    let codec = JournalCodec::new();
    for (record, _, own, _) in samples() {
        let payload = codec.encode(&record).1.unwrap();
        for key in ["g", "c", "p/300", "p/404142434445464748494a4b4c4d4e4f/301", "s/zurich", "r/2/70001"] {
            let error = codec.decode(key.as_bytes(), Some(&payload));
            let wrong = JournalDecodeError::WrongKey { key: key.to_owned(), expected: own.to_owned() };
            assert_eq!(error, if key == own { Ok(record.clone()) } else { Err(wrong) });
        }
    }
}

#[test]
fn other_versions_and_strangers_are_named() {
    let codec = JournalCodec::new();
    let mut payload = codec.encode(&genesis()).1.unwrap();
    payload[2..10].copy_from_slice(&0xabc_u64.to_le_bytes());
    let error = codec.decode(b"g", Some(&payload)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the journal's schema of fingerprint 0000000000000abc is unknown: written by another version of call-legs"
    );
    assert_eq!(codec.decode(b"g", Some(&[0, 0, 0, 0, 7])), Err(JournalDecodeError::Foreign));
    assert!(matches!(codec.decode(b"g", Some(b"{}")), Err(JournalDecodeError::Framing(_))));
    assert!(matches!(codec.decode(b"g", Some(b"")), Err(JournalDecodeError::Framing(FramingError::Empty))));
}

/// A record's value with one field changed: bytes to that many zeros, of a record its first field.
fn altered(record: &Record, schema: &PublishedSchema, field: &str, json: serde_json::Value) -> Vec<u8> {
    use apache_avro::types::Value;
    let mut payload = JournalCodec::new().encode(record).1.unwrap();
    let mut value = read_by_the_library(schema, &payload);
    let Value::Record(fields) = &mut value else { unreachable!() };
    let position = fields.iter().position(|(name, _)| name == field).unwrap();
    fields[position].1 = match &fields[position].1 {
        Value::Bytes(_) => Value::Bytes(vec![0; usize::try_from(json.as_u64().unwrap()).unwrap()]),
        Value::Record(inner) => {
            let (name, _) = &inner[0];
            let mut inner = inner.clone();
            inner[0] = (name.clone(), Value::try_from(json).unwrap());
            Value::Record(inner)
        }
        _ => Value::try_from(json).unwrap(),
    };
    let value = value.resolve(schema.schema()).unwrap();
    payload.truncate(10);
    payload.extend(schema.writer().write_value_to_vec(value).unwrap());
    payload
}

fn read_by_the_library(schema: &PublishedSchema, payload: &[u8]) -> apache_avro::types::Value {
    let mut datum = &payload[10..];
    let value = GenericDatumReader::builder(schema.schema()).build().unwrap().read_value(&mut datum).unwrap();
    assert!(datum.is_empty());
    value
}

#[test]
fn what_only_a_bug_can_have_written_is_refused() {
    let progress = progress();
    let interval = |start, end| json!({"start": start, "end": end});
    let page_hour = json!({"hour": 7, "published": 1, "dead": 0});
    let hour = |hour| json!({"hour": hour, "seen": 1, "published": 1, "dead": 0});
    let end = |partition| json!({"topic": "legs", "partition": partition, "offset": 1});
    let cases = [
        (Record::Page(page()), schema::journal_page(), "entries", json!(23), "bytes have a wrong length"),
        (Record::Page(page()), schema::journal_page(), "dead", json!(24), "bytes have a wrong length"),
        (Record::Page(page()), schema::journal_page(), "chainBefore", json!(15), "bytes have a wrong length"),
        (Record::Page(page()), schema::journal_page(), "fingerprintVersion", json!(256), "a number is out of range"),
        (Record::Page(page()), schema::journal_page(), "seq", json!(-1), "a number is out of range"),
        (Record::Replayed(replayed()), schema::journal_replayed(), "row", json!(15), "bytes have a wrong length"),
        (Record::Replayed(replayed()), schema::journal_replayed(), "outcome", json!("lost"), "its outcome is a word"),
        (claim(), schema::journal_claim(), "delivery", json!("twice"), "its delivery is a word that this version"),
        (progress.clone(), schema::journal_progress(), "coverage", json!([interval(1, 1)]), "its coverage"),
        (
            progress.clone(),
            schema::journal_progress(),
            "coverage",
            json!([interval(1, 2), interval(2, 3)]),
            "its coverage",
        ),
        (
            progress.clone(),
            schema::journal_progress(),
            "coverage",
            json!([interval(5, 6), interval(2, 3)]),
            "its coverage",
        ),
        (
            progress.clone(),
            schema::journal_progress(),
            "outOffsets",
            json!([end(1), end(1)]),
            "a partition is listed twice",
        ),
        (Record::Page(page()), schema::journal_page(), "hours", json!([page_hour, page_hour]), "its hours"),
        (day(), schema::journal_hours(), "hours", json!([hour(24)]), "its hours"),
        (day(), schema::journal_hours(), "hours", json!([hour(1), hour(1)]), "its hours"),
        (progress, schema::journal_progress(), "counts", json!(1), "its counts do not add up"),
    ];
    for (record, schema, field, json, reason) in cases {
        let payload = altered(&record, schema, field, json);
        let error = JournalCodec::new().decode(record.key().as_bytes(), Some(&payload)).unwrap_err();
        assert!(error.to_string().contains(reason), "{field}: {error}");
    }
}

#[test]
fn every_cut_and_every_addition_is_an_error() {
    let codec = JournalCodec::new();
    for (record, _, key, _) in samples() {
        let mut payload = codec.encode(&record).1.unwrap();
        for length in 0..payload.len() {
            assert!(codec.decode(key.as_bytes(), Some(&payload[..length])).is_err(), "{key} cut to {length}");
        }
        payload.push(0);
        assert!(codec.decode(key.as_bytes(), Some(&payload)).is_err());
    }
}

#[test]
fn fingerprints_of_another_version_are_kept_out() {
    let codec = JournalCodec::new();
    let older = Page { fingerprint_version: Fingerprint::VERSION + 1, ..page() };
    let record = Record::Page(older);
    let (key, payload) = codec.encode(&record);
    let Record::Page(read) = codec.decode(&key, payload.as_deref()).unwrap() else { panic!("not a page") };
    assert!(read.legs.iter().all(|entry| entry.seen.fingerprint.is_none()));
    assert_eq!(read.legs[1].seen.revision, 255);
}

#[test]
fn json_is_for_eyes() {
    assert_eq!(
        to_json(&Record::Page(page())),
        json!({
            "record": "page",
            "seq": 300,
            "writer": "404142434445464748494a4b4c4d4e4f",
            "unit": "zürich",
            "generation": 2,
            "first": "2022-02-03T14:27:00Z",
            "last": "2022-02-03T14:27:59.999Z",
            "fingerprintVersion": 1,
            "entries": 2,
            "dead": 1,
            "hours": [{"hour": "2022-02-03T14:00:00Z", "published": 1, "dead": 1}],
            "chainBefore": "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1",
        })
    );
    let progress = to_json(&progress());
    assert_eq!(progress["coverage"][0], json!({"start": "2022-02-03T12:27:00Z", "end": "2022-02-03T13:27:00Z"}));
    assert_eq!(progress["counts"]["fetched"], 693);
    assert_eq!(progress["source"], "f1f2f3f4f5f6f7f8");
}

/// The members after `record` are the schema's fields, in its order.
#[test]
fn json_has_the_schemas_fields() {
    for (record, schema, key, _) in samples() {
        let apache_avro::Schema::Record(schema) = schema.schema() else { unreachable!() };
        let fields = schema.fields.iter().map(|field| field.name.as_str());
        let json = to_json(&record);
        let members = json.as_object().unwrap().keys().map(String::as_str);
        assert!(members.eq(std::iter::once("record").chain(fields)), "{key}");
    }
}

fn instants() -> impl Strategy<Value = UtcMillis> {
    any::<i64>().prop_map(UtcMillis::new)
}

fn nonces() -> impl Strategy<Value = Nonce> {
    any::<[u8; 16]>().prop_map(Nonce)
}

fn naturals() -> impl Strategy<Value = u64> {
    0..=i64::MAX.unsigned_abs()
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    prop_oneof![Just(Delivery::ExactlyOnce), Just(Delivery::AtLeastOnce)]
}

fn all_offsets() -> impl Strategy<Value = OutOffsets> {
    let topic = prop_oneof![Just(OutTopic::Legs), Just(OutTopic::DeadLetters)];
    btree_map((topic, any::<i32>()), any::<i64>(), 0..6).prop_map(OutOffsets)
}

fn all_counts() -> impl Strategy<Value = Counts> {
    vec(0..1_u64 << 60, 9).prop_map(|counts| Counts {
        published: counts[0],
        duplicate: counts[1],
        revised: counts[2],
        dead: counts[3],
        unfinished: counts[4],
        beyond_horizon: counts[5],
        outside: counts[6],
        held: counts[8],
        late: counts[7],
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    (any::<[u8; 16]>(), any::<u64>(), any::<u8>()).prop_map(|(key, bits, revision)| Entry {
        key: KeyHash(key),
        seen: Seen { fingerprint: Some(Fingerprint::from_bits(bits)), revision },
    })
}

fn pages() -> impl Strategy<Value = Page> {
    let head = (naturals(), proptest::option::of(nonces()), any::<String>(), any::<u32>(), instants(), instants());
    let hours = btree_map(any::<i64>().prop_map(Hour::new), hour_rows(), 0..4).prop_map(PageHours);
    let rows = (vec(entries(), 0..5), vec(any::<[u8; 16]>().prop_map(KeyHash), 0..5), hours, any::<[u8; 16]>());
    (head, rows).prop_map(|((seq, writer, unit, generation, first, last), (legs, dead, hours, chain))| Page {
        seq,
        writer,
        unit,
        generation,
        first,
        last,
        fingerprint_version: Fingerprint::VERSION,
        legs,
        dead,
        hours,
        chain_before: Chain(chain),
    })
}

fn all_lateness() -> impl Strategy<Value = Lateness> {
    let closest = proptest::option::of((0..1_u64 << 40).prop_map(Duration::from_millis));
    (vec(0..1_u64 << 40, 0..BUCKETS - 1), 1..1_u64 << 40, [naturals(), naturals(), naturals()], closest).prop_map(
        |(mut buckets, last, [by_overlap, by_sweep, unmeasured], closest)| {
            buckets.push(last);
            Lateness { buckets, by_overlap, by_sweep, unmeasured, closest }
        },
    )
}

fn all_sweeps() -> impl Strategy<Value = Vec<Swept>> {
    btree_map(0..1_u64 << 40, instants(), 0..4).prop_map(|sweeps| {
        let swept = |(lookback, at)| Swept { lookback: Duration::from_millis(lookback), at };
        sweeps.into_iter().map(swept).collect()
    })
}

fn all_progress() -> impl Strategy<Value = UnitProgress> {
    let what = prop_oneof![
        Just(ChangeKind::Started),
        Just(ChangeKind::Rewound),
        Just(ChangeKind::Accepted),
        Just(ChangeKind::Adopted)
    ];
    let change = proptest::option::of((what, instants()).prop_map(|(what, at)| Change { what, at }));
    let coverage = vec((instants(), instants()), 0..6)
        .prop_map(|ends| ends.into_iter().map(|(start, end)| Window::new(start, end)).collect::<Coverage>());
    let progress = (instants(), instants(), instants(), coverage)
        .prop_map(|(complete_to, final_to, floor, coverage)| Progress { complete_to, final_to, floor, coverage });
    let numbers = (any::<u32>(), any::<u64>(), naturals(), naturals(), any::<[u8; 16]>());
    let change = (change, all_lateness(), all_sweeps());
    (any::<String>(), numbers, progress, all_offsets(), all_counts(), change).prop_map(
        |(unit, numbers, progress, out_offsets, counts, (change, lateness, sweeps))| {
            let (generation, source, last_seq, oldest_needed_seq, chain) = numbers;
            UnitProgress {
                unit,
                generation,
                progress,
                source,
                last_seq,
                chain: Chain(chain),
                oldest_needed_seq,
                out_offsets,
                counts,
                lateness,
                sweeps,
                change,
            }
        },
    )
}

fn all_backfills() -> impl Strategy<Value = Backfill> {
    let state = prop_oneof![Just(BackfillState::Running), Just(BackfillState::Done), Just(BackfillState::Cancelled)];
    (nonces(), any::<String>(), [instants(), instants(), instants()], state, all_counts()).prop_map(
        |(id, unit, [start, end, at], state, counts)| Backfill {
            id,
            unit,
            window: Window::new(start, end),
            state,
            at,
            counts,
        },
    )
}

fn all_replayed() -> impl Strategy<Value = Replayed> {
    let outcome = prop_oneof![Just(ReplayOutcome::Published), Just(ReplayOutcome::Known)];
    let place = (any::<i32>(), any::<i64>(), any::<[u8; 16]>().prop_map(KeyHash));
    (place, entries(), any::<String>(), outcome, instants()).prop_map(
        |((partition, offset, row), entry, unit, outcome, at)| {
            let fingerprint_version = Fingerprint::VERSION;
            Replayed { partition, offset, row, fingerprint_version, entry, unit, outcome, at }
        },
    )
}

fn hour_rows() -> impl Strategy<Value = HourRows> {
    (naturals(), naturals()).prop_map(|(published, dead)| HourRows { published, dead })
}

fn all_days() -> impl Strategy<Value = ComparedDay> {
    let compared = (naturals(), hour_rows()).prop_map(|(seen, rows)| Compared { seen, rows });
    (any::<String>(), any::<u32>(), any::<i32>(), btree_map(0_u8..24, compared, 0..24))
        .prop_map(|(unit, generation, day, hours)| ComparedDay { unit, generation, day: Day(day), hours })
}

fn records() -> impl Strategy<Value = Record> {
    let genesis = (nonces(), any::<String>(), any::<u8>(), instants(), all_offsets(), any::<String>()).prop_map(
        |(journal, cluster, fingerprint_version, at, out_offsets, version)| {
            Record::Genesis(Genesis { journal, cluster, fingerprint_version, at, out_offsets, version })
        },
    );
    let claim = (any::<[[u8; 16]; 3]>(), any::<[String; 3]>(), deliveries(), any::<u32>(), any::<bool>(), instants())
        .prop_map(|([nonce, process, instance], [host, admin, version], delivery, beat_ms, is_released, at)| {
            let (nonce, process, instance) = (Nonce(nonce), Nonce(process), Nonce(instance));
            Record::Claim(Claim { nonce, process, instance, host, admin, version, delivery, beat_ms, is_released, at })
        });
    prop_oneof![
        genesis,
        claim,
        pages().prop_map(Record::Page),
        all_progress().prop_map(Record::Progress),
        all_backfills().prop_map(Record::Backfill),
        nonces().prop_map(Record::BackfillForgotten),
        all_days().prop_map(Record::Day),
        (any::<String>(), any::<i32>()).prop_map(|(unit, day)| Record::DayForgotten(unit, Day(day))),
        all_replayed().prop_map(Record::Replayed),
        Just(Record::Nothing),
    ]
}

proptest! {
    #[test]
    fn every_record_comes_back(record in records()) {
        let codec = JournalCodec::new();
        let (key, payload) = codec.encode(&record);
        let read = codec.decode(&key, payload.as_deref()).unwrap();
        prop_assert!(to_json(&read)["record"].is_string());
        prop_assert_eq!(read, record);
    }

    #[test]
    fn the_avro_library_reads_what_is_written(record in records()) {
        if let Some(payload) = JournalCodec::new().encode(&record).1 {
            let schema = match record {
                Record::Genesis(_) => schema::journal_genesis(),
                Record::Claim(_) => schema::journal_claim(),
                Record::Page(_) => schema::journal_page(),
                Record::Backfill(_) => schema::journal_backfill(),
                Record::Day(_) => schema::journal_hours(),
                Record::Replayed(_) => schema::journal_replayed(),
                _ => schema::journal_progress(),
            };
            let value = read_by_the_library(schema, &payload);
            prop_assert_eq!(schema.writer().write_value_to_vec(value).unwrap(), &payload[10..]);
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(kind in 0_usize..7, bytes in vec(any::<u8>(), 0..200), key in vec(any::<u8>(), 0..20)) {
        let (record, _, own_key, _) = samples()[kind].clone();
        let codec = JournalCodec::new();
        let mut payload = codec.encode(&record).1.unwrap();
        payload.truncate(10);
        payload.extend(&bytes);
        let _ = codec.decode(own_key.as_bytes(), Some(&payload));
        let _ = codec.decode(&key, Some(&payload));
        let _ = codec.decode(&key, Some(&bytes));
        let _ = codec.decode(&key, None);
    }

    #[test]
    fn a_damaged_byte_is_a_record_or_an_error(kind in 0_usize..7, position: prop::sample::Index, byte: u8) {
        let (record, _, key, _) = samples()[kind].clone();
        let codec = JournalCodec::new();
        let mut payload = codec.encode(&record).1.unwrap();
        let position = position.index(payload.len());
        payload[position] = byte;
        if let Ok(read) = codec.decode(key.as_bytes(), Some(&payload)) {
            prop_assert!(to_json(&read)["record"].is_string());
        }
    }
}
