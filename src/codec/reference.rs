//! The datum as `apache-avro`'s serialiser writes it: what [`super::encode`] is held equal to.

use apache_avro::writer::datum::GenericDatumWriter;
use serde::ser::{Serialize, SerializeMap, SerializeTuple, Serializer};

use super::schema;
use crate::core::leg::{FIELD_COUNT, Ingest, Leg, Value, position};

/// The fields after the API's own: `extra` and `ingest`.
const ADDED_COUNT: usize = 2;

/// The fields of the record `ingest`.
const INGEST_COUNT: usize = 6;

/// The leg's datum, if the library can write it.
pub(super) fn encoded(writer: &GenericDatumWriter<'_>, leg: &Leg<'_>, ingest: &Ingest) -> Option<Vec<u8>> {
    writer.write_ser_to_vec(&Record { leg, ingest }).ok()
}

/// A writer of legs.
pub(super) fn writer() -> GenericDatumWriter<'static> {
    schema::call_leg().writer()
}

const fn is_required(position: usize) -> bool {
    matches!(position, position::CALL_ID | position::LEG_ID | position::DISCONNECTED_TIME)
}

/// The whole record. It is serialised by position, which is right because the schema's fields are
/// those of [`FIELDS`] in that order (a test holds them equal).
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
