//! What a leg says, as hashes, so that an API row and a published record can be compared without either being kept.
//!
//! ```text
//!   API row ─▶ Leg ─▶ of_leg ──────▶ Parts: a hash for each field ─▶ Content: two hashes
//!   record ─▶ JSON ─▶ of_record ─▶ Parts
//! ```
//!
//! It is written from the schema's documentation and not from the encoder's code, so that it can
//! disagree with it. Hashes cannot be turned back, and nothing here holds a value.

use serde_json::Value as Json;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::core::leg::{FIELD_COUNT, FIELDS, Leg, Value, position_of};

/// The fields, then what has no field, then the record's key.
const PART_COUNT: usize = FIELD_COUNT + 2;
const EXTRA: usize = FIELD_COUNT;
const KEY: usize = FIELD_COUNT + 1;

/// How the API writes an instant as text.
const ZONED_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.f%z";

/// What kind of value was hashed; without it the text "1" would equal the number.
#[derive(Clone, Copy)]
enum Tag {
    Null,
    Text,
    Integer,
    List,
    Zoned,
    /// JSON text of a value that is not of its field's kind.
    Json,
}

/// A hash for each field of a leg, for its unknown fields, and for the record's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts([u64; PART_COUNT]);

/// The parts folded into two hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Of the fields that the connector looks at to see whether a leg has changed, and of the key.
    pub watched: u64,
    /// Of the others: texts that repeat an instant in some time zone, and fields that nobody knows.
    pub unwatched: u64,
}

impl Parts {
    /// What the record of a leg should hold.
    pub fn of_leg(leg: &Leg<'_>) -> Self {
        let mut parts = [hash(Tag::Null, b""); PART_COUNT];
        for (part, (position, value)) in parts.iter_mut().zip(leg.values.iter().enumerate()) {
            match value {
                Value::Null => {}
                Value::Text(text) => *part = text_hash(position, text),
                Value::Integer(number) => *part = hash(Tag::Integer, &number.to_be_bytes()),
                Value::TextList(texts) => *part = list_hash(texts.iter().map(AsRef::as_ref)),
            }
        }
        parts[KEY] = hash(Tag::Text, leg.call_id().as_bytes());
        let mut parts = Self(parts);
        parts.take_extra(leg.extra.iter().map(|(name, json)| (name.as_ref(), json.as_ref())));
        parts
    }

    /// What a decoded record holds; `None` when it is no record of a leg.
    pub fn of_record(record: &Json, key: &[u8]) -> Option<Self> {
        let record = record.as_object()?;
        let mut parts = [hash(Tag::Null, b""); PART_COUNT];
        for (position, field) in FIELDS.iter().enumerate() {
            parts[position] = match record.get(field.name)? {
                Json::Null => continue,
                Json::String(text) => text_hash(position, text),
                Json::Number(number) => hash(Tag::Integer, &number.as_i64()?.to_be_bytes()),
                Json::Array(items) => {
                    list_hash(items.iter().map(Json::as_str).collect::<Option<Vec<&str>>>()?.into_iter())
                }
                Json::Bool(_) | Json::Object(_) => return None,
            };
        }
        parts[KEY] = hash(Tag::Text, key);
        let mut parts = Self(parts);
        let extra = record.get("extra")?.as_object()?;
        let extra = extra.iter().map(|(name, json)| Some((name.as_str(), json.as_str()?)));
        parts.take_extra(extra.collect::<Option<Vec<_>>>()?.into_iter());
        Some(parts)
    }

    /// Unknown fields, and known ones of an unexpected type: those count as values of their field.
    fn take_extra<'a>(&mut self, extra: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut unknown = Vec::new();
        for (name, json) in extra {
            match position_of(name, 0) {
                Some(position) => self.0[position] = hash(Tag::Json, json.as_bytes()),
                None => unknown.push((name, json)),
            }
        }
        if !unknown.is_empty() {
            unknown.sort_unstable();
            self.0[EXTRA] = list_hash(unknown.into_iter().flat_map(|(name, json)| [name, json]));
        }
    }

    /// Folded.
    pub fn content(&self) -> Content {
        let fold = |is_wanted: fn(usize) -> bool| {
            let wanted = self.0.iter().enumerate().filter(|(part, _)| is_wanted(*part));
            xxh3_64(&wanted.flat_map(|(_, hash)| hash.to_be_bytes()).collect::<Vec<u8>>())
        };
        Content { watched: fold(is_watched), unwatched: fold(|part| !is_watched(part)) }
    }

    /// The names of what is not the same: fields, `extra`, `key`.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let parts = self.0.iter().zip(&other.0).enumerate();
        parts.filter(|(_, (ours, theirs))| ours != theirs).map(|(part, _)| name(part)).collect()
    }
}

const fn is_watched(part: usize) -> bool {
    part == KEY || (part < FIELD_COUNT && FIELDS[part].fingerprinted)
}

fn name(part: usize) -> &'static str {
    match FIELDS.get(part) {
        Some(field) => field.name,
        None if part == EXTRA => "extra",
        None => "key",
    }
}

fn hash(tag: Tag, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, tag as u64)
}

/// A text that repeats an instant counts as the instant, so that another `source.time_zone` is no difference.
fn text_hash(position: usize, text: &str) -> u64 {
    if !FIELDS[position].fingerprinted
        && let Ok(instant) = chrono::DateTime::parse_from_str(text, ZONED_FORMAT)
    {
        return hash(Tag::Zoned, &instant.timestamp_millis().to_be_bytes());
    }
    hash(Tag::Text, text.as_bytes())
}

fn list_hash<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let mut input = Vec::new();
    for text in texts {
        input.extend_from_slice(&(text.len() as u64).to_be_bytes());
        input.extend_from_slice(text.as_bytes());
    }
    hash(Tag::List, &input)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::json;

    use super::*;
    use crate::codec::{Decoder, Framing, LegEncoder, schema};
    use crate::core::leg::{How, Ingest, position};
    use crate::core::time::{UtcMillis, Window};
    use crate::source::wire::{self, Row};

    const SEED: &str = include_str!("../../tests/data/seed-sample.json");

    /// The vendor's first row with another field's JSON.
    fn row(name: &str, value: Json) -> Vec<u8> {
        let page: Json = serde_json::from_str(SEED).unwrap();
        let mut row = page["data"][0].clone();
        row[name] = value;
        row.to_string().into_bytes()
    }

    fn parts(raw: &[u8]) -> Parts {
        match wire::row(raw) {
            Row::Leg(leg) => Parts::of_leg(&leg),
            other => panic!("expected a leg, got {other:?}"),
        }
    }

    /// As the connector publishes the row.
    async fn published(raw: &[u8]) -> (Json, Vec<u8>) {
        let Row::Leg(leg) = wire::row(raw) else { panic!("expected a leg") };
        let at = UtcMillis::new(1_700_000_000_000);
        let ingest = Ingest { first_seen: at, how: How::Poll, late: false, revision: 0, window: Window::new(at, at) };
        let mut payload = Vec::new();
        Framing::SingleObject { fingerprint: schema::call_leg().crc64_avro() }.write_header(&mut payload);
        LegEncoder::new().encode(&leg, &ingest, &mut payload).unwrap();
        let record = Decoder::new(schema::call_leg(), None).decode(&payload).await.unwrap();
        (record, leg.call_id().as_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_row_and_its_record_say_the_same() {
        for raw in [
            row("cause", json!("Normal")),
            row("connectTimeUTC", json!(0)),
            row("startTimeUTC", json!(0)),
            row("startTimeUTC", json!(1_635_571_049_050_000_i64)),
            row("callTime", json!(24_754.0)),
            row("talkTimeMS", json!("1.5e3")),
            row("lraType", json!(9_007_199_254_740_993_i64)),
            row("connectTimeUTC", json!(null)),
            row("talkTimeMS", json!("not a number")),
            row("departments", json!(["Sales", 1])),
            row("departments", json!([])),
            row("brandNew", json!({"a": [1, 2]})),
            row("disconnectedTime", json!("whenever")),
        ] {
            let (record, key) = published(&raw).await;
            let of_record = Parts::of_record(&record, &key).unwrap();
            assert_eq!(parts(&raw).differing(&of_record), [""; 0]);
            assert_eq!(parts(&raw).content(), of_record.content());
        }
    }

    #[tokio::test]
    async fn whatever_is_changed_in_a_record_is_named() {
        let raw = row("cause", json!("Normal"));
        let (record, key) = published(&raw).await;
        let expected = parts(&raw);
        for (position, field) in FIELDS.iter().enumerate() {
            for other in [Json::Null, json!("other"), json!(77), json!(["x"])] {
                let mut changed = record.clone();
                if changed[field.name] == other {
                    continue;
                }
                changed[field.name] = other;
                let found = Parts::of_record(&changed, &key).unwrap();
                assert_eq!(expected.differing(&found), [field.name]);
                let (ours, theirs) = (expected.content(), found.content());
                assert_eq!(ours.watched != theirs.watched, FIELDS[position].fingerprinted, "{}", field.name);
                assert_eq!(ours.unwatched != theirs.unwatched, !FIELDS[position].fingerprinted, "{}", field.name);
            }
        }
        let mut changed = record.clone();
        changed["extra"] = json!({"new": "1"});
        let found = Parts::of_record(&changed, &key).unwrap();
        assert_eq!(expected.differing(&found), ["extra"]);
        assert_eq!(expected.content().watched, found.content().watched);
        assert_eq!(expected.differing(&Parts::of_record(&record, b"other").unwrap()), ["key"]);
        changed["ingest"] = json!("anything");
        assert_eq!(expected.differing(&Parts::of_record(&changed, &key).unwrap()), ["extra"]);
    }

    #[test]
    fn what_is_no_record_of_a_leg_is_none() {
        for odd in [json!(null), json!({}), json!({"callId": "1"})] {
            assert_eq!(Parts::of_record(&odd, b""), None);
        }
    }

    #[test]
    fn another_time_zone_is_no_difference_and_another_instant_is() {
        let local = parts(&row("startTime", json!("2022-02-03T09:27:27.499-0500")));
        assert_eq!(local, parts(&row("startTime", json!("2022-02-03T14:27:27.499+0000"))));
        let later = parts(&row("startTime", json!("2022-02-03T14:27:27.500+0000")));
        assert_eq!(local.differing(&later), ["startTime"]);
        let text = parts(&row("cause", json!("2022-02-03T09:27:27.499-0500")));
        assert_ne!(text, parts(&row("cause", json!("2022-02-03T14:27:27.499+0000"))), "only of texts of that kind");
    }

    #[test]
    fn kinds_and_the_cuts_between_texts_count() {
        let of = |value: Json| parts(&row("departments", value));
        assert_ne!(of(json!(["ab", "c"])), of(json!(["a", "bc"])));
        assert_ne!(of(json!([])), of(json!(null)));
        let mut leg =
            Leg { values: [const { Value::Null }; FIELD_COUNT], extra: vec![], disconnected: UtcMillis::new(1) };
        leg.values[position::CALL_ID] = Value::Text(Cow::Borrowed("1"));
        let plain = Parts::of_leg(&leg);
        leg.extra.push((Cow::Borrowed("cause"), Cow::Borrowed("null")));
        assert_eq!(plain.differing(&Parts::of_leg(&leg)), ["cause"]);
    }
}
