//! A leg and its origin as an Avro datum.
//!
//! The datum is written by hand, field by field as [`FIELDS`] has them, into the message's own
//! memory: ten times as fast as the Avro library's serialiser, which asks the schema at each value.
//! A test holds the two equal byte for byte. Framing and the schema's registration are elsewhere.

use thiserror::Error;

use crate::core::leg::{FIELDS, Field, Ingest, Kind, Leg, Value};

/// Encodes legs with the schema of [`super::schema::call_leg`].
#[derive(Clone, Copy, Debug, Default)]
pub struct LegEncoder;

impl LegEncoder {
    /// An encoder. It holds nothing: what it knows of the schema is in the code.
    pub const fn new() -> Self {
        Self
    }

    /// Appends the leg's datum to `out`; on an error `out` is as before.
    ///
    /// # Errors
    /// When a value is not of its field's kind or a required one is missing. Parsing sees to both,
    /// so an error is a bug, and for this leg a permanent one.
    pub fn encode(&self, leg: &Leg<'_>, ingest: &Ingest, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        for (field, value) in FIELDS.iter().zip(&leg.values) {
            if !write_field(field, value, out) {
                out.truncate(before);
                return Err(EncodeError::Field { field: field.name });
            }
        }
        write_extra(&leg.extra, out);
        write_ingest(ingest, out);
        Ok(())
    }
}

/// A leg that the schema cannot hold. It names no value, since values are personal data.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A value is not of its field's kind, or a required one is missing.
    #[error("the leg's field {field} does not fit the Avro schema")]
    Field {
        /// The field's name.
        field: &'static str,
    },
}

/// The union's branches, as Avro counts them: every field that may be null has null first.
const NULL: u8 = 0;
const NOT_NULL: u8 = 2;

/// Writes a field's value; false where it does not fit, and then `out` holds a part of it at most.
fn write_field(field: &Field, value: &Value<'_>, out: &mut Vec<u8>) -> bool {
    if matches!(value, Value::Null) {
        out.push(NULL);
        return !field.required;
    }
    if !field.required {
        out.push(NOT_NULL);
    }
    match (field.kind, value) {
        (Kind::Text, Value::Text(text)) => write_text(text, out),
        (Kind::Integer | Kind::Instant, Value::Integer(integer)) => write_long(*integer, out),
        (Kind::TextList, Value::TextList(texts)) => {
            write_block(texts, out, |text, out| write_text(text, out));
        }
        _ => return false,
    }
    true
}

/// The map `extra`.
fn write_extra<T: AsRef<str>>(extra: &[(T, T)], out: &mut Vec<u8>) {
    write_block(extra, out, |(name, json), out| {
        write_text(name.as_ref(), out);
        write_text(json.as_ref(), out);
    });
}

/// The record `ingest`.
fn write_ingest(ingest: &Ingest, out: &mut Vec<u8>) {
    let Ingest { first_seen, how, late, revision, window } = ingest;
    write_long(first_seen.as_millis(), out);
    write_text(how.as_str(), out);
    out.push(u8::from(*late));
    write_long(i64::from(*revision), out);
    write_long(window.start.as_millis(), out);
    write_long(window.end.as_millis(), out);
}

/// An array or a map: its items as one block, where there are any, and the block that ends it.
fn write_block<T>(items: &[T], out: &mut Vec<u8>, write_item: impl Fn(&T, &mut Vec<u8>)) {
    if !items.is_empty() {
        write_length(items.len(), out);
        items.iter().for_each(|item| write_item(item, out));
    }
    out.push(0);
}

/// A `string`.
fn write_text(text: &str, out: &mut Vec<u8>) {
    write_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// A length or a count. Nothing in memory is longer than a `long` can say.
fn write_length(length: usize, out: &mut Vec<u8>) {
    write_varint((length as u64) << 1, out);
}

/// A `long`, an `int` too, whose bytes are the same.
fn write_long(long: i64, out: &mut Vec<u8>) {
    write_varint(((long << 1) ^ (long >> 63)).cast_unsigned(), out);
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn write_varint(mut rest: u64, out: &mut Vec<u8>) {
    while rest >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "fewer than eight bits are left")]
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use apache_avro::reader::datum::GenericDatumReader;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{reference, sample, schema};
    use crate::core::leg::{FIELD_COUNT, position};

    fn encoded(leg: &Leg<'_>, ingest: &Ingest) -> Vec<u8> {
        let mut datum = Vec::new();
        LegEncoder::new().encode(leg, ingest, &mut datum).unwrap();
        datum
    }

    /// Reads a datum with the Avro library alone, no code of this crate between.
    fn read_back(datum: &[u8]) -> serde_json::Value {
        let mut rest = datum;
        let reader = GenericDatumReader::builder(schema::call_leg().schema()).build().unwrap();
        let value = reader.read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes left over", rest.len());
        value.try_into().unwrap()
    }

    /// The golden bytes belong to the schema's first version. They may change only together with
    /// the schema. Avro for Java and fastavro read them as the sample and write the same bytes.
    #[test]
    fn a_sample_leg_has_the_golden_bytes() {
        let golden: String = include_str!("golden/call-leg.v1.hex").split_whitespace().collect();
        let hex: String = encoded(&sample::leg(), &sample::ingest()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn the_datum_is_appended_and_a_failure_leaves_no_trace() {
        let encoder = LegEncoder::new();
        let mut leg = sample::leg();
        let mut out = b"header".to_vec();
        encoder.encode(&leg, &sample::ingest(), &mut out).unwrap();
        assert_eq!(out[6..], encoded(&leg, &sample::ingest()));

        for (position, value) in [
            (position::CALL_ID, Value::Null),
            (position::DISCONNECTED_TIME, Value::Text("1".into())),
            (10, Value::Integer(1)),
            (8, Value::TextList(vec![])),
            (40, Value::Text("x".into())),
        ] {
            leg = sample::leg();
            leg.values[position] = value;
            out = b"header".to_vec();
            let error = encoder.encode(&leg, &sample::ingest(), &mut out).unwrap_err();
            assert_eq!(error, EncodeError::Field { field: FIELDS[position].name });
            assert_eq!(out, b"header");
        }
    }

    /// Any value, of the field's kind or not.
    fn values() -> impl Strategy<Value = Value<'static>> {
        prop_oneof![
            Just(Value::Null),
            any::<String>().prop_map(|text| Value::Text(text.into())),
            prop_oneof![Just(0), any::<i64>()].prop_map(Value::Integer),
            vec(any::<String>().prop_map(Cow::from), 0..3).prop_map(Value::TextList),
        ]
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_avro_library(leg in sample::legs(), ingest in sample::ingests()) {
            let reference = reference::encoded(&reference::writer(), &leg, &ingest);
            prop_assert_eq!(Some(encoded(&leg, &ingest)), reference);
        }

        #[test]
        fn what_does_not_fit_is_what_the_avro_library_refuses(position in 0..FIELD_COUNT, value in values()) {
            let mut leg = sample::leg();
            leg.values[position] = value;
            let mut out = Vec::new();
            let encoded = LegEncoder::new().encode(&leg, &sample::ingest(), &mut out);
            match reference::encoded(&reference::writer(), &leg, &sample::ingest()) {
                Some(reference) => {
                    prop_assert_eq!(encoded, Ok(()));
                    prop_assert_eq!(out, reference);
                }
                None => {
                    prop_assert_eq!(encoded, Err(EncodeError::Field { field: FIELDS[position].name }));
                    prop_assert_eq!(out, b"");
                }
            }
        }

        #[test]
        fn every_value_comes_back(leg in sample::legs(), ingest in sample::ingests()) {
            let json = read_back(&encoded(&leg, &ingest));
            let expected = sample::as_json(&leg, &ingest);
            prop_assert_eq!(&json, &expected);
            let names = |json: &serde_json::Value| json.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            prop_assert_eq!(names(&json), names(&expected));
        }
    }
}
