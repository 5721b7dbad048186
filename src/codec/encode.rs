//! A leg and its origin as an Avro datum.
//!
//! The datum is written straight from the leg's values by `apache-avro`'s schema-aware serialiser;
//! no tree of values is built in between. Framing and the schema's registration are elsewhere.

use apache_avro::writer::datum::GenericDatumWriter;
use serde::ser::{Serialize, SerializeMap, SerializeTuple, Serializer};
use thiserror::Error;

use super::schema;
use crate::core::leg::{FIELD_COUNT, FIELDS, Ingest, Kind, Leg, Value, position};

/// The fields after the API's own: `extra` and `ingest`.
const ADDED_COUNT: usize = 2;

/// The fields of the record `ingest`.
const INGEST_COUNT: usize = 6;

/// Encodes legs with the schema of [`schema::call_leg`]. Build it once: it resolves the schema.
pub struct LegEncoder {
    writer: GenericDatumWriter<'static>,
}

impl LegEncoder {
    /// An encoder, to be kept and shared.
    pub fn new() -> Self {
        Self { writer: schema::call_leg().writer() }
    }

    /// Appends the leg's datum to `out`; on an error `out` is as before.
    ///
    /// # Errors
    /// When a value is not of its field's kind or a required one is missing. Parsing sees to both,
    /// so an error is a bug, and for this leg a permanent one.
    pub fn encode(&self, leg: &Leg<'_>, ingest: &Ingest, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        match self.writer.write_ser(out, &Record { leg, ingest }) {
            Ok(_) => Ok(()),
            Err(error) => {
                out.truncate(before);
                Err(EncodeError::of(leg, &error))
            }
        }
    }
}

impl Default for LegEncoder {
    fn default() -> Self {
        Self::new()
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
    /// Anything else that the Avro library reports.
    #[error("the leg cannot be encoded: {reason}")]
    Avro {
        /// The library's words, cut.
        reason: String,
    },
}

impl EncodeError {
    fn of(leg: &Leg<'_>, error: &apache_avro::Error) -> Self {
        let misfit = FIELDS.iter().zip(&leg.values).enumerate().find(|(position, (field, value))| match value {
            Value::Null => is_required(*position),
            Value::Text(_) => field.kind != Kind::Text,
            Value::Integer(_) => !matches!(field.kind, Kind::Integer | Kind::Instant),
            Value::TextList(_) => field.kind != Kind::TextList,
        });
        match misfit {
            Some((_, (field, _))) => Self::Field { field: field.name },
            // The library's message can hold the whole schema; its beginning says what is wrong.
            None => Self::Avro { reason: error.to_string().chars().take(200).collect() },
        }
    }
}

const fn is_required(position: usize) -> bool {
    matches!(position, position::CALL_ID | position::LEG_ID | position::DISCONNECTED_TIME)
}

/// The whole record. It is serialised by position, which is right because the schema's fields are
/// those of [`FIELDS`] in that order (a test holds them equal), and twice as fast as by name.
struct Record<'a> {
    leg: &'a Leg<'a>,
    ingest: &'a Ingest,
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut record = serializer.serialize_tuple(FIELD_COUNT + ADDED_COUNT)?;
        for (position, value) in self.leg.values.iter().enumerate() {
            if is_required(position) {
                record.serialize_element(&Required(value))?;
            } else if position == position::CONNECT_TIME {
                record.serialize_element(&ConnectTime(value))?;
            } else {
                record.serialize_element(&Nullable(value))?;
            }
        }
        record.serialize_element(&Extra(&self.leg.extra))?;
        record.serialize_element(&Origin(self.ingest))?;
        record.end()
    }
}

struct Nullable<'a>(&'a Value<'a>);

impl Serialize for Nullable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Text(text) => serializer.serialize_some(text.as_ref()),
            Value::Integer(integer) => serializer.serialize_some(integer),
            Value::TextList(texts) => serializer.serialize_some(texts.as_slice()),
        }
    }
}

struct Required<'a>(&'a Value<'a>);

impl Serialize for Required<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Integer(integer) => serializer.serialize_i64(*integer),
            Value::TextList(texts) => texts.serialize(serializer),
        }
    }
}

/// The API says 0 for "never connected". Readers of an instant would take that for 1970, so it is
/// published as null. It is done here and not in parsing because the leg's values, of which its
/// fingerprint is taken, stay what the API said.
struct ConnectTime<'a>(&'a Value<'a>);

impl Serialize for ConnectTime<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Integer(0) => serializer.serialize_none(),
            value => Nullable(value).serialize(serializer),
        }
    }
}

struct Extra<'a, T>(&'a [(T, T)]);

impl<T: AsRef<str>> Serialize for Extra<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, json) in self.0 {
            map.serialize_entry(name.as_ref(), json.as_ref())?;
        }
        map.end()
    }
}

struct Origin<'a>(&'a Ingest);

impl Serialize for Origin<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ingest { first_seen, how, late, revision, window } = self.0;
        let mut record = serializer.serialize_tuple(INGEST_COUNT)?;
        record.serialize_element(&first_seen.as_millis())?;
        record.serialize_element(how.as_str())?;
        record.serialize_element(late)?;
        record.serialize_element(&i32::from(*revision))?;
        record.serialize_element(&window.start.as_millis())?;
        record.serialize_element(&window.end.as_millis())?;
        record.end()
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::reader::datum::GenericDatumReader;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::sample;

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
    fn never_connected_is_null_and_other_instants_stay() {
        let mut leg = sample::leg();
        leg.values[position::CONNECT_TIME] = Value::Integer(0);
        leg.values[2] = Value::Integer(0);
        let json = read_back(&encoded(&leg, &sample::ingest()));
        assert_eq!(json["connectTimeUTC"], serde_json::Value::Null);
        assert_eq!(json["startTimeUTC"], 0);
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

    proptest! {
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
