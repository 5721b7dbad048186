//! Rows read as serde_json reads them, and what becomes of what is odd.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::{Page, page, reference};
use super::*;

const SEED: &str = include_str!("../../../../tests/data/seed-sample.json");

fn seed_page() -> Page {
    page(SEED.into()).unwrap()
}

fn leg(raw: &str) -> Leg<'_> {
    match row(raw.as_bytes()) {
        Row::Leg(leg) => *leg,
        other => panic!("expected a leg, got {other:?}"),
    }
}

/// Reads a row's fields into a leg that held all that one can hold.
fn reused(text: &str) -> Option<Box<Leg<'_>>> {
    let full = r#"{"callId":"1","talkTimeMS":7,"departments":["a"],"callerName":"b","lra":8,"more":{}}"#;
    let spare = fields(full, None);
    assert!(spare.as_ref().is_some_and(|leg| leg.extra.len() == 2));
    fields(text, spare)
}

/// The first row of the sample with `from` replaced by `to`.
fn edited(from: &str, to: &str) -> String {
    let page = seed_page();
    let row = page.rows().next().unwrap();
    assert!(row.contains(from), "{from}");
    row.replace(from, to)
}

#[test]
fn the_vendors_sample_is_two_regular_legs() {
    let page = seed_page();
    assert_eq!((page.len(), page.total), (2, Some(2)));
    assert_eq!(page.cursor.as_deref(), Some("c3VwZXJ0ZW5hbnRjc21fMTYzNTU3MTA0ODM0NV8xXzE2NDM4OTc0OTI5MDM"));
    for raw in page.rows() {
        let Row::Leg(leg) = row_in(raw, None) else { panic!() };
        let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(raw).unwrap();
        assert_eq!(json.len(), FIELD_COUNT);
        assert_eq!(leg.extra, []);
        for ((name, expected), (field, value)) in json.iter().zip(FIELDS.iter().zip(&leg.values)) {
            assert_eq!(name, field.name, "the table has the reply's order");
            let value = match value {
                Value::Null => serde_json::Value::Null,
                Value::Text(text) => text.as_ref().into(),
                Value::Integer(number) => (*number).into(),
                Value::TextList(texts) => texts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().into(),
            };
            assert_eq!(value, *expected, "{name}");
        }
    }
}

#[test]
fn unexpected_types_and_unknown_fields_are_kept_as_json_text() {
    let raw = edited(r#""talkTimeMS": 0"#, r#""talkTimeMS": 1.50, "brandNew": {"a": [1, 2]}"#)
        .replace(r#""callerName": "MARK SMITH""#, r#""callerName": 12345678901234567890123"#)
        .replace(r#""lra": "120088""#, r#""lra": "\ud800""#);
    let leg = leg(&raw);
    let extra: Vec<(&str, &str)> = leg.extra.iter().map(|(name, json)| (name.as_ref(), json.as_ref())).collect();
    assert_eq!(
        extra,
        [
            ("brandNew", r#"{"a": [1, 2]}"#),
            ("callerName", "12345678901234567890123"),
            ("lra", r#""\ud800""#),
            ("talkTimeMS", "1.50")
        ]
    );
    assert_eq!(leg.values[8], Value::Null);
    assert_eq!(leg.call_id(), "1635571048351");
}

#[test]
fn lists_with_anything_but_texts_are_kept_as_json_text() {
    let raw = edited("\"Sales Engineering\"", "\"Sales\", null");
    let list = leg(&raw).extra.into_iter().next().unwrap();
    assert_eq!(list.0, "departments");
    assert!(list.1.contains("null"));
}

#[test]
fn numeric_ids_are_taken_as_their_decimal_text() {
    for leg_id in ["1", "1.0", "10e-1"] {
        let raw = edited(r#""callId": "1635571048351""#, r#""callId": 123456789012345678901234567890"#)
            .replace(r#""legId": "1""#, &format!(r#""legId": {leg_id}"#));
        let leg = leg(&raw);
        assert_eq!((leg.call_id(), leg.leg_id()), ("123456789012345678901234567890", "1"), "{leg_id}");
        assert_eq!(leg.extra, []);
    }
}

#[test]
fn rows_that_cannot_be_published_say_why() {
    let call_id = r#""callId": "1635571048351""#;
    let ended = r#""disconnectedTimeUTC": 1643898472253"#;
    for (raw, expected) in [
        ("null".to_owned(), Reason::Unreadable),
        ("[1]".to_owned(), Reason::Unreadable),
        (r#""text""#.to_owned(), Reason::Unreadable),
        ("{}".to_owned(), Reason::CallId),
        (edited(call_id, r#""callId": null"#), Reason::CallId),
        (edited(call_id, r#""callId": "  ""#), Reason::CallId),
        (edited(call_id, r#""callId": 1.5"#), Reason::CallId),
        (edited(call_id, r#""callId": -1"#), Reason::CallId),
        (edited(call_id, r#""callId": {"a": 1}"#), Reason::CallId),
        (edited(r#""legId": "1","#, ""), Reason::LegId),
        (edited(ended, r#""disconnectedTimeUTC": "1643898472253 ms""#), Reason::DisconnectTime),
        (edited(ended, r#""disconnectedTimeUTC": 1643898472253.5"#), Reason::DisconnectTime),
        (edited(ended, r#""disconnectedTimeUTC": 253402300800000"#), Reason::DisconnectTime),
        (edited(ended, r#""disconnectedTimeUTC": "253402300800000.0""#), Reason::DisconnectTime),
        (edited(ended, r#""disconnectedTimeUTC": null"#), Reason::DisconnectTime),
        (edited(ended, r#""disconnectedTimeUTC": -1"#), Reason::DisconnectTime),
        (edited(ended, r#""disconnectedTimeUTC": 1643898472253000"#), Reason::DisconnectTime),
    ] {
        assert_eq!(row(raw.as_bytes()), Row::Dead(expected), "{raw}");
    }
}

#[test]
fn a_call_under_way_is_unfinished_unless_its_disconnect_time_is_rubbish() {
    let under_way =
        |ended: &str| edited(r#""disconnectedTimeUTC": 1643898472253"#, ended).replace("Completed", "In Progress");
    let none = [r#"null"#, "0", "-0", "0.0", r#""0""#].map(|none| format!(r#""disconnectedTimeUTC": {none}"#));
    for ended in none.iter().map(String::as_str).chain([r#""x": 1"#]) {
        assert_eq!(row(under_way(ended).as_bytes()), Row::Unfinished, "{ended}");
    }
    assert_eq!(row(under_way(r#""disconnectedTimeUTC": "soon""#).as_bytes()), Row::Dead(Reason::DisconnectTime));
    assert!(
        matches!(row(under_way(r#""disconnectedTimeUTC": 5"#).as_bytes()), Row::Leg(leg) if leg.is_in_progress()),
        "it has a disconnect time"
    );
}

#[test]
fn a_status_in_progress_is_one_however_it_is_written() {
    let is_in_progress = |status: &str| {
        let raw = edited(r#""status": "Completed""#, &format!(r#""status": {status}"#));
        leg(&raw).is_in_progress()
    };
    for status in ["In Progress", "IN_PROGRESS", "in-progress", "InProgress", " in  progress ", "iN pRoGrEsS"] {
        assert!(is_in_progress(&format!("{status:?}")), "{status}");
    }
    for status in [
        r#""Completed""#,
        r#""""#,
        "null",
        "7",
        r#""In Progress!""#,
        r#""Progress""#,
        r#""not in progress""#,
        r#""Ringing""#,
    ] {
        assert!(!is_in_progress(status), "{status}");
    }
}

/// Every field that holds a number, with numbers at the edges of what it holds and others.
#[test]
fn numbers_that_not_every_avro_library_decodes_are_kept_as_json_text() {
    for (position, field) in FIELDS.iter().enumerate() {
        let (fits, does_not): (&[i64], &[&str]) = match field.kind {
            Kind::Instant => (
                &[1, 253_402_300_799_999],
                &["-1", "253402300800000", "253402300800000.0", "\"1635571049050000000\"", "1e300", "0.5"],
            ),
            Kind::Integer => (
                &[0, 9_007_199_254_740_991, -9_007_199_254_740_991],
                &[
                    "9007199254740992",
                    "-9007199254740992",
                    "9007199254740993.0",
                    "\"9007199254740993\"",
                    "1e16",
                    "1e400",
                ],
            ),
            Kind::Text | Kind::TextList => continue,
        };
        let with = |json: &str| format!(r#"{{"callId":"1","legId":"1","{}":{json}}}"#, field.name);
        for number in fits {
            for json in [format!("{number}"), format!("{number}.0"), format!("\"{number}\""), format!("{number}.00e0")]
            {
                let row = with(&json);
                let leg = fields(&row, None).unwrap();
                assert_eq!((&leg.values[position], leg.extra.len()), (&Value::Integer(*number), 0), "{row}");
            }
        }
        for json in does_not {
            let row = with(json);
            let leg = fields(&row, None).unwrap();
            assert_eq!(leg.values[position], Value::Null, "{row}");
            assert_eq!(leg.extra, [(Cow::from(field.name), Cow::from(*json))], "{row}");
        }
    }
}

#[test]
fn of_a_name_that_comes_twice_the_last_one_counts() {
    let raw = edited(r#""talkTimeMS": 0"#, r#""talkTimeMS": "odd", "talkTimeMS": 7"#);
    let leg = leg(&raw);
    assert_eq!((&leg.values[8], leg.extra.len()), (&Value::Integer(7), 0));
}

/// What may stand where a value should: what is rare, and what is no JSON.
const ODD: &[&str] = &[
    "null",
    "true",
    "false",
    "nul",
    "nulls",
    "0",
    "-0",
    "00",
    "01",
    "-",
    "-1",
    "--1",
    "+1",
    "1.5",
    "1.",
    ".5",
    "1e3",
    "1E",
    "-0.0",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993.0",
    "253402300799999",
    "253402300800000",
    "77.0",
    "1.5e3",
    "1500e-2",
    "15e-2",
    "1e400",
    "0e400",
    "1e+2",
    "-7.0",
    r#""77""#,
    r#""77.0""#,
    r#"" 77 ""#,
    r#""-77""#,
    r#""077""#,
    r#""\u0037""#,
    r#""77 ms""#,
    "999999999999999999",
    "1000000000000000000",
    "18446744073709551616",
    "12a",
    "[]",
    "[null]",
    "[1]",
    "[[]]",
    "[,]",
    r#"["a",]"#,
    r#"["a" "b"]"#,
    "{}",
    r#"{"a":[1,{"b":null}]}"#,
    "{",
    "]",
    "",
    "NaN",
    r#""""#,
    r#""plain""#,
    r#""\n""#,
    r#""\/""#,
    r#""\x""#,
    r#""\u00e9""#,
    r#""\u12""#,
    r#""\ud83d\ude00""#,
    r#""\ud800""#,
    r#""\\""#,
    r#""\"""#,
    r#""open"#,
    r#""open\""#,
    "\"tab\there\"",
    "\"nul\0\"",
    "\"\u{7f}\"",
    "\"é\"",
    "\"1234567\"",
    "\"12345678\"",
    "'a'",
    "\"\u{1f}\"",
    r#"["\ud800"]"#,
];

/// Each of [`ODD`] in a field of each kind, and under an unknown name.
#[test]
fn odd_values_are_read_as_serde_json_reads_them() {
    for name in ["callId", "disconnectedTimeUTC", "talkTimeMS", "caller", "departments", "brandNew"] {
        for odd in ODD {
            for row in [format!("{{{name:?}:{odd}}}"), format!("{{{name:?}:{odd},\"caller\":\"+12025550100\"}}")] {
                let ours = reused(&row).map(|leg| (leg.values, leg.extra));
                assert_eq!(ours, reference::fields(row.as_bytes()), "{row}");
            }
        }
    }
}

/// What is written for a name: mostly a known one, or another, or none at all.
fn names() -> impl Strategy<Value = String> {
    let known = (0..FIELD_COUNT).prop_map(|position| format!("{:?}", FIELDS[position].name));
    prop_oneof![
        8 => known,
        // An escaped c.
        1 => Just(r#""\u0063allId""#.to_owned()),
        1 => select(vec![r#""callid""#, r#""""#, r#""brandNew""#, r#""\ud800""#, r#""a"b""#, "callId", "null", "7", r#""cal"#])
            .prop_map(str::to_owned),
        1 => any::<String>().prop_map(|name| serde_json::to_string(&name).unwrap()),
    ]
}

/// What is written for a value: what the API writes, what it might, and what is no JSON.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        4 => any::<i64>().prop_map(|number| number.to_string()),
        2 => (1_i64..=300_000_000_000_000).prop_map(|number| number.to_string()),
        1 => vec(any::<String>(), 0..4).prop_map(|texts| serde_json::to_string(&texts).unwrap()),
        6 => select(ODD.to_vec()).prop_map(str::to_owned),
    ]
}

/// White space, mostly none.
fn spaces() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => Just(""), 1 => select(vec![" ", "\n\t", "\r", "\u{a0}", "\u{b}", ","])]
}

/// A row with its fields in their order, and what the members of `changes` make of it.
fn rows() -> impl Strategy<Value = String> {
    let member = (names(), spaces(), spaces(), values(), spaces())
        .prop_map(|(name, before, between, value, after)| format!("{before}{name}{between}:{between}{value}{after}"));
    let regular = |position: usize| {
        let value = match FIELDS[position].kind {
            Kind::Text => r#""text""#,
            Kind::Integer | Kind::Instant => "1643898472253",
            Kind::TextList => r#"["a","b"]"#,
        };
        format!("{:?}:{value}", FIELDS[position].name)
    };
    (0..=FIELD_COUNT, vec((0..=FIELD_COUNT, member), 0..4), spaces(), spaces()).prop_map(
        move |(length, changes, before, after)| {
            let mut members: Vec<String> = (0..length).map(regular).collect();
            for (at, member) in changes {
                let at = at.min(members.len());
                members.splice(at..(at + 1).min(members.len()), [member]);
            }
            format!("{before}{{{}}}{after}", members.join(","))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_row_is_read_as_serde_json_reads_it(row in rows()) {
        let ours = reused(&row).map(|leg| (leg.values, leg.extra));
        prop_assert_eq!(ours, reference::fields(row.as_bytes()));
    }

    #[test]
    fn a_leg_that_is_written_and_read_again_says_the_same(row in rows()) {
        let Some(leg) = fields(&row, None) else { return Ok(()) };
        let written = written(&leg);
        prop_assert_eq!(fields(&written, None), Some(leg), "{}", written);
    }

    #[test]
    fn a_damaged_row_is_read_as_serde_json_reads_it(
        sample in 0..2_usize,
        damage in vec((any::<Index>(), 0..3_usize, select(br#" {}[]:,"\-019.eEnutx"#.to_vec())), 1..4),
    ) {
        let page = seed_page();
        let mut row = page.rows().nth(sample).unwrap().as_bytes().to_vec();
        for (at, removed, byte) in damage {
            let at = at.index(row.len() - 2);
            row.splice(at..at + removed, (removed < 2).then_some(byte));
        }
        let row = String::from_utf8(row).unwrap();
        let ours = reused(&row).map(|leg| (leg.values, leg.extra));
        prop_assert_eq!(ours, reference::fields(row.as_bytes()));
    }
}
