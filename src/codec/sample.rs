//! Legs for the codec's tests: one fixed sample, arbitrary ones, and what each reads back as.

use std::borrow::Cow;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, json};

use crate::core::leg::{FIELDS, How, Ingest, Kind, Leg, Value, position};
use crate::core::time::{UtcMillis, Window};

/// A missed call to a queue, with one field that the schema does not know.
pub(super) fn leg() -> Leg<'static> {
    let mut values = FIELDS.map(|field| match field.kind {
        Kind::Text => Value::Text("".into()),
        Kind::Integer => Value::Integer(0),
        Kind::Instant => Value::Integer(1_643_898_472_253),
        Kind::TextList => Value::TextList(vec!["Central".into(), "Zürich".into()]),
    });
    let mut set = |name: &str, value: Value<'static>| {
        let position = FIELDS.iter().position(|field| field.name == name).unwrap();
        values[position] = value;
    };
    for (name, text) in [
        ("callId", "1635571048351"),
        ("legId", "1"),
        ("startTime", "2022-02-03T09:27:27.499-0500"),
        ("connectTime", "0"),
        ("disconnectedTime", "2022-02-03T09:27:52.253-0500"),
        ("talkTime", "00:00:00"),
        ("caller", "+12025550100"),
        ("callerName", "ADA EXAMPLE"),
        ("callee", "CallQueue"),
        ("direction", "Incoming"),
        ("status", "Completed"),
        ("missed", "Missed"),
        ("abandoned", "-"),
        ("answered", "-"),
        ("cause", "Ring No Answer"),
        ("pbxId", "examplepbx"),
    ] {
        set(name, Value::Text(text.into()));
    }
    for name in ["parentCallId", "transferToCallId", "callerDeviceId", "calleeDeviceId", "branches"] {
        set(name, Value::Null);
    }
    set("startTimeUTC", Value::Integer(1_643_898_447_499));
    set("connectTimeUTC", Value::Null);
    set("lraType", Value::Integer(1));
    set("callTime", Value::Integer(24_754));
    Leg {
        values,
        extra: vec![("accountCode2".into(), "{\"a\":[1,null]}".into())],
        disconnected: UtcMillis::new(1_643_898_472_253),
    }
}

/// The sample's origin.
pub(super) fn ingest() -> Ingest {
    Ingest {
        first_seen: UtcMillis::new(1_643_898_540_000),
        how: How::CatchUp,
        late: true,
        revision: 2,
        window: Window::new(UtcMillis::new(1_643_898_420_000), UtcMillis::new(1_643_898_480_000)),
    }
}

/// Arbitrary legs, as parsing can produce them.
pub(super) fn legs() -> impl Strategy<Value = Leg<'static>> {
    let values = FIELDS
        .iter()
        .enumerate()
        .map(|(position, field)| {
            let some = match field.kind {
                Kind::Text => texts().prop_map(Value::Text).boxed(),
                Kind::Integer | Kind::Instant => integers().prop_map(Value::Integer).boxed(),
                Kind::TextList => vec(texts(), 0..4).prop_map(Value::TextList).boxed(),
            };
            match position {
                position::CALL_ID | position::LEG_ID | position::DISCONNECTED_TIME => some,
                _ => prop_oneof![Just(Value::Null), some].boxed(),
            }
        })
        .collect::<Vec<_>>();
    let extra = btree_map(texts(), texts(), 0..4);
    (values, extra).prop_map(|(values, extra)| {
        let Value::Integer(disconnected) = values[position::DISCONNECTED_TIME] else { unreachable!() };
        Leg {
            values: values.try_into().unwrap(),
            extra: extra.into_iter().collect(),
            disconnected: UtcMillis::new(disconnected),
        }
    })
}

/// Texts, among them long ones: the more bytes, the longer the number before them.
fn texts() -> impl Strategy<Value = Cow<'static, str>> {
    let long = (any::<char>(), 0..20_000_usize).prop_map(|(filling, length)| filling.to_string().repeat(length));
    prop_oneof![20 => any::<String>(), 1 => long].prop_map(Cow::from)
}

/// Numbers of every length, and those at the ends.
fn integers() -> impl Strategy<Value = i64> {
    let any_length = (any::<i64>(), 0..64).prop_map(|(number, shift)| number >> shift);
    prop_oneof![8 => any_length, 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

/// Arbitrary origins.
pub(super) fn ingests() -> impl Strategy<Value = Ingest> {
    let how =
        prop_oneof![Just(How::Poll), Just(How::CatchUp), Just(How::Sweep), Just(How::Backfill), Just(How::Replay)];
    (any::<[i64; 3]>(), how, any::<bool>(), any::<u8>()).prop_map(|([first_seen, start, end], how, late, revision)| {
        Ingest {
            first_seen: UtcMillis::new(first_seen),
            how,
            late,
            revision,
            window: Window::new(UtcMillis::new(start), UtcMillis::new(end)),
        }
    })
}

/// What a reader gets for a leg.
pub(super) fn as_json(leg: &Leg<'_>, ingest: &Ingest) -> serde_json::Value {
    let mut record = Map::new();
    for (field, value) in FIELDS.iter().zip(&leg.values) {
        let json = match value {
            Value::Null => json!(null),
            Value::Text(text) => json!(text),
            Value::Integer(integer) => json!(integer),
            Value::TextList(texts) => json!(texts),
        };
        record.insert(field.name.to_owned(), json);
    }
    let extra: Map<_, _> = leg.extra.iter().map(|(name, json)| (name.to_string(), json!(json))).collect();
    record.insert("extra".to_owned(), extra.into());
    record.insert(
        "ingest".to_owned(),
        json!({
            "firstSeenAt": ingest.first_seen.as_millis(),
            "how": ingest.how.as_str(),
            "late": ingest.late,
            "revision": ingest.revision,
            "windowStart": ingest.window.start.as_millis(),
            "windowEnd": ingest.window.end.as_millis(),
        }),
    );
    record.into()
}
