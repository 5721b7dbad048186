//! What is published, as a consumer's Avro library decodes it: rows with everything that JSON can hold in any field.
//!
//! fastavro stands for those that make dates of instants; the script refuses itself what JavaScript's avsc would.

use std::fs;

use call_legs::codec::LegEncoder;
use call_legs::core::leg::{FIELDS, How, Ingest, Kind, Leg, Value};
use call_legs::core::time::{UtcMillis, Window};
use call_legs::source::wire::{Row, row};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::tools::{repository, run_python};

/// How many rows are drawn; all go through one process of Python's.
const ROWS: usize = 4_000;

/// Numbers as JSON may write them, in and out of every range.
fn numbers() -> impl Strategy<Value = String> {
    let edges = select(vec![
        0,
        1,
        -1,
        999,
        i64::MAX,
        i64::MIN,
        253_402_300_799_999,
        253_402_300_800_000,
        1_635_571_049_050_000,
        1_795_780_050_000,
        (1 << 53) - 1,
        1 << 53,
        (1 << 53) + 1,
        -(1 << 53),
        1 - (1 << 53),
        -62_135_596_800_000,
        -62_135_596_800_001,
    ]);
    let whole =
        prop_oneof![edges, any::<i64>(), 0..2_000_000_000_000_i64, (any::<i64>(), 0..64).prop_map(|(n, by)| n >> by)];
    (whole, 0..7).prop_map(|(number, written)| match written {
        0 => format!("{number}.0"),
        1 => format!("\"{number}\""),
        2 => format!("{number}e0"),
        3 => format!("{number}e3"),
        4 => format!("{number}.5"),
        _ => number.to_string(),
    })
}

/// The JSON text of any value.
fn values() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "null",
        "true",
        "1e400",
        "-0.0",
        "1E-400",
        "[]",
        "[null]",
        "{}",
        r#"{"a":[1,{"b":1e999}]}"#,
        r#""""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\ud83d\ude00""#,
        r#"["\uffff"]"#,
        "123456789012345678901234567890",
    ]);
    prop_oneof![
        4 => numbers(),
        3 => any::<String>().prop_map(|text| json!(text).to_string()),
        1 => vec(any::<String>(), 0..4).prop_map(|texts| json!(texts).to_string()),
        3 => odd.prop_map(str::to_owned),
    ]
}

/// A row that is a leg but for what its other fields are.
fn rows() -> impl Strategy<Value = String> {
    let names = prop_oneof![
        12 => (0..FIELDS.len()).prop_map(|position| FIELDS[position].name.to_owned()),
        1 => any::<String>(),
    ];
    let ended = prop_oneof![1 => numbers(), 3 => (1..=253_402_300_799_999_i64).prop_map(|ended| ended.to_string())];
    (vec((names, values()), 0..20), ended).prop_map(|(members, ended)| {
        let members = members.into_iter().map(|(name, value)| format!("{}:{value},", json!(name)));
        let members: String = members.collect();
        format!(r#"{{{members}"callId":"1","legId":"1","disconnectedTimeUTC":{ended}}}"#)
    })
}

/// What a consumer should find.
fn expected(leg: &Leg<'_>) -> serde_json::Value {
    let value = |value: &Value<'_>| match value {
        Value::Null => json!(null),
        Value::Text(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::TextList(texts) => json!(texts),
    };
    let mut record: serde_json::Map<_, _> =
        FIELDS.iter().zip(&leg.values).map(|(field, found)| (field.name.to_owned(), value(found))).collect();
    let extra: serde_json::Map<_, _> = leg.extra.iter().map(|(name, text)| (name.to_string(), json!(text))).collect();
    record.insert("extra".to_owned(), extra.into());
    record.into()
}

#[test]
fn whatever_is_published_is_decoded() {
    let mut runner = TestRunner::deterministic();
    let at = UtcMillis::new(1_795_780_050_000);
    let ingest = Ingest { first_seen: at, how: How::Poll, late: false, revision: 0, window: Window::new(at, at) };
    let (mut datums, mut lines, mut legs) = (Vec::new(), String::new(), 0);
    let (mut instants, mut kept) = (0, 0);
    for _ in 0..ROWS {
        let raw = rows().new_tree(&mut runner).unwrap().current();
        let Row::Leg(leg) = row(raw.as_bytes()) else { continue };
        let mut datum = Vec::new();
        LegEncoder::new().encode(&leg, &ingest, &mut datum).unwrap();
        datums.extend(u32::try_from(datum.len()).unwrap().to_be_bytes());
        datums.extend(datum);
        lines.push_str(&format!("{}\n", expected(&leg)));
        legs += 1;
        let is_number = |name: &str| FIELDS.iter().any(|field| field.name == name && field.kind != Kind::Text);
        instants += leg.values[..6].iter().filter(|value| matches!(value, Value::Integer(_))).count();
        kept += leg.extra.iter().filter(|(name, _)| is_number(name)).count();
    }
    assert!(legs > ROWS / 2 && instants > 100 && kept > 1_000, "{legs} legs, {instants} instants, {kept} numbers kept");
    let directory = tempfile::tempdir().unwrap();
    let [datums_at, lines_at] = ["datums", "expected"].map(|name| directory.path().join(name));
    fs::write(&datums_at, datums).unwrap();
    fs::write(&lines_at, lines).unwrap();
    let [script, schema] = ["tests/operations/decode.py", "schemas/call-leg.avsc"].map(repository);
    let paths = [&script, &schema, &datums_at, &lines_at].map(|path| path.to_string_lossy().into_owned());
    let said = run_python("python", &paths.each_ref().map(String::as_str));
    assert_eq!(said.trim(), format!("{legs} records"));
}
