//! A message's value as JSON, for the commands that show what is in the topic.
//!
//! The datum is read with its writer's schema and then resolved to this program's own, by Avro's
//! rules: what the writer does not know gets its default, what we do not know is dropped. It is
//! written for clarity; the daemon decodes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use apache_avro::Schema;
use apache_avro::error::Details;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as AvroValue;
use serde_json::Value as Json;
use thiserror::Error;

use super::framing::{Framed, Framing, FramingError};
use super::registry::{Registry, RegistryError};
use super::schema::PublishedSchema;

/// How many writers' schemas are remembered. A topic has one for each version of its schema.
const WRITERS_MAX: usize = 64;

/// The largest string, array or map that a datum may announce, so that a damaged length costs an
/// error and not the memory. It is far above what a message can hold; Avro's own limit is 512 MiB.
const ALLOCATION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Decodes messages to one of this program's schemas.
pub struct Decoder {
    reader: &'static PublishedSchema,
    registry: Option<Arc<Registry>>,
    writers: Mutex<HashMap<u32, Arc<Schema>>>,
}

impl Decoder {
    /// A decoder to the schema `reader`. Without a registry it knows single-object encoding only.
    pub fn new(reader: &'static PublishedSchema, registry: Option<Arc<Registry>>) -> Self {
        // The limit is the process's, and the first to set it wins; all of this program reads the same topics.
        apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
        Self { reader, registry, writers: Mutex::default() }
    }

    /// Decodes a message's value in either framing: an object in the schema's order, unions
    /// unwrapped, instants as integers in epoch milliseconds, maps as objects sorted by name.
    ///
    /// # Errors
    /// When the value is not framed, its schema cannot be had, or its bytes do not fit the schema.
    /// No error holds a value of the message.
    pub async fn decode(&self, message: &[u8]) -> Result<Json, DecodeError> {
        let Framed { framing, datum } = Framed::parse(message)?;
        match framing {
            Framing::Confluent { schema_id } => {
                let writer = self.writer(schema_id).await?;
                resolve(read(datum, &writer)?, self.reader.schema())
            }
            Framing::SingleObject { fingerprint } if fingerprint == self.reader.crc64_avro() => {
                json(read(datum, self.reader.schema())?)
            }
            Framing::SingleObject { fingerprint } => {
                Err(DecodeError::UnknownFingerprint { found: fingerprint, own: self.reader.crc64_avro() })
            }
        }
    }

    async fn writer(&self, schema_id: u32) -> Result<Arc<Schema>, DecodeError> {
        if let Some(writer) = self.writers.lock().unwrap_or_else(PoisonError::into_inner).get(&schema_id) {
            return Ok(Arc::clone(writer));
        }
        let registry = self.registry.as_ref().ok_or(DecodeError::NoRegistry { schema_id })?;
        let text =
            registry.schema_by_id(schema_id).await.map_err(|source| DecodeError::Registry { schema_id, source })?;
        let writer = Schema::parse_str(&text)
            .map(Arc::new)
            .map_err(|error| DecodeError::WriterSchema { schema_id, reason: brief(&error) })?;
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers.len() >= WRITERS_MAX {
            writers.clear();
        }
        writers.insert(schema_id, Arc::clone(&writer));
        Ok(writer)
    }
}

fn read(datum: &[u8], writer: &Schema) -> Result<AvroValue, DecodeError> {
    let mut rest = datum;
    let value = GenericDatumReader::builder(writer)
        .build()
        .and_then(|reader| reader.read_value(&mut rest))
        .map_err(|error| DecodeError::Datum { reason: brief(&error) })?;
    match rest.len() {
        0 => Ok(value),
        count => Err(DecodeError::LeftOver { count }),
    }
}

fn resolve(value: AvroValue, reader: &Schema) -> Result<Json, DecodeError> {
    // The library's messages about resolution quote values, which are personal data.
    let resolved = value.resolve(reader).map_err(|error| match error.into_details() {
        Details::GetField(name) => DecodeError::Unresolved { reason: format!("it lacks the field {name}") },
        _ => DecodeError::Unresolved { reason: "a field's type differs".to_owned() },
    })?;
    json(resolved)
}

fn json(value: AvroValue) -> Result<Json, DecodeError> {
    match value {
        AvroValue::Union(_, value) => json(*value),
        AvroValue::Record(fields) => {
            fields.into_iter().map(|(name, value)| Ok((name, json(value)?))).collect::<Result<_, _>>().map(Json::Object)
        }
        // A map is read without an order; sorted, the same message always looks the same.
        AvroValue::Map(entries) => BTreeMap::from_iter(entries)
            .into_iter()
            .map(|(name, value)| Ok((name, json(value)?)))
            .collect::<Result<_, _>>()
            .map(Json::Object),
        AvroValue::Array(items) => items.into_iter().map(json).collect(),
        scalar => {
            Json::try_from(scalar).map_err(|_| DecodeError::Datum { reason: "a value has no form in JSON".to_owned() })
        }
    }
}

/// The beginning of the library's message, which can hold a whole schema.
fn brief(error: &apache_avro::Error) -> String {
    error.to_string().chars().take(200).collect()
}

/// A message that cannot be shown.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The value has no header of a known framing.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// Single-object encoding with a schema that this program does not have.
    #[error(
        "the message was written with the schema of fingerprint {found:016x}, this program knows {own:016x} only; \
         read it with the version that wrote it, or publish with a schema registry"
    )]
    UnknownFingerprint {
        /// The CRC-64-AVRO fingerprint in the message.
        found: u64,
        /// That of this program's schema.
        own: u64,
    },
    /// Confluent's wire format, and no registry to ask.
    #[error("the message was written with schema {schema_id} of a schema registry; configure that registry to read it")]
    NoRegistry {
        /// The id in the message.
        schema_id: u32,
    },
    /// The registry did not give the writer's schema.
    #[error("the message's schema {schema_id} cannot be fetched")]
    Registry {
        /// The id in the message.
        schema_id: u32,
        /// Why not.
        source: RegistryError,
    },
    /// The registry's schema cannot be parsed, for example because it refers to another.
    #[error("the message's schema {schema_id} cannot be used: {reason}")]
    WriterSchema {
        /// The id in the message.
        schema_id: u32,
        /// The library's words, cut.
        reason: String,
    },
    /// The bytes do not fit the writer's schema.
    #[error("the message's bytes do not fit its schema: {reason}")]
    Datum {
        /// The library's words, cut.
        reason: String,
    },
    /// Bytes follow the datum.
    #[error("the message has {count} bytes after the end of its datum")]
    LeftOver {
        /// How many bytes.
        count: usize,
    },
    /// The writer's schema cannot be resolved to this program's.
    #[error("the message's schema is not one that this program can read in this topic: {reason}")]
    Unresolved {
        /// What does not fit.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use apache_avro::schema_compatibility::SchemaCompatibility;
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::codec::LegEncoder;
    use crate::codec::mock_registry::{MockRegistry, Reply};
    use crate::codec::sample;
    use crate::codec::schema::call_leg;

    fn framed(framing: Framing, datum: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        framing.write_header(&mut message);
        message.extend_from_slice(datum);
        message
    }

    fn sample_datum() -> Vec<u8> {
        let mut datum = Vec::new();
        LegEncoder::new().encode(&sample::leg(), &sample::ingest(), &mut datum).unwrap();
        datum
    }

    fn own() -> Framing {
        Framing::SingleObject { fingerprint: call_leg().crc64_avro() }
    }

    /// The schema with its fields changed by `change`.
    fn altered(change: impl FnOnce(&mut Vec<Json>)) -> String {
        let mut schema: Json = serde_json::from_str(call_leg().text()).unwrap();
        let Json::Array(fields) = &mut schema["fields"] else { unreachable!() };
        change(fields);
        schema.to_string()
    }

    /// A version to come: one API field became known, one value was added to the record's origin.
    fn future() -> String {
        altered(|fields| {
            let ingest = fields.last_mut().unwrap();
            let Json::Array(origin) = &mut ingest["type"]["fields"] else { unreachable!() };
            origin.push(json!({"name": "unit", "type": ["null", "string"], "default": null}));
            fields.push(json!({"name": "queueName", "type": ["null", "string"], "default": null}));
        })
    }

    /// Writes `record` with another schema.
    fn written(schema: &str, record: Json) -> Vec<u8> {
        let schema = Schema::parse_str(schema).unwrap();
        let value = AvroValue::try_from(record).unwrap().resolve(&schema).unwrap();
        GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap()
    }

    /// Reads a datum of this program as a reader with the schema `reader` does.
    fn read_by(reader: &str, datum: &[u8]) -> Json {
        let reader = Schema::parse_str(reader).unwrap();
        resolve(read(datum, call_leg().schema()).unwrap(), &reader).unwrap()
    }

    /// A registry that knows one schema, with the id 7.
    async fn registry_with(schema: String) -> MockRegistry {
        MockRegistry::start(move |request| match request.target.as_str() {
            "/schemas/ids/7" => Reply::json(200, json!({"schema": schema})),
            _ => Reply::json(404, json!({"error_code": 40403, "message": "Schema not found"})),
        })
        .await
    }

    proptest! {
        #[test]
        fn single_object_messages_come_back(leg in sample::legs(), ingest in sample::ingests()) {
            let mut message = Vec::new();
            own().write_header(&mut message);
            LegEncoder::new().encode(&leg, &ingest, &mut message).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let json = runtime.block_on(Decoder::new(call_leg(), None).decode(&message)).unwrap();
            // Compared as text, since objects are equal whatever their order.
            prop_assert_eq!(json.to_string(), sample::as_json(&leg, &ingest).to_string());
        }

        #[test]
        fn arbitrary_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert!(runtime.block_on(Decoder::new(call_leg(), None).decode(&framed(own(), &bytes))).is_err());
        }
    }

    #[tokio::test]
    async fn confluent_messages_are_read_with_the_writers_schema_which_is_fetched_once() {
        let mock = registry_with(call_leg().compact().to_owned()).await;
        let decoder = Decoder::new(call_leg(), Some(Arc::new(mock.client())));
        let message = framed(Framing::Confluent { schema_id: 7 }, &sample_datum());
        for _ in 0..3 {
            let json = decoder.decode(&message).await.unwrap();
            assert_eq!(json, sample::as_json(&sample::leg(), &sample::ingest()));
        }
        assert_eq!(mock.requests().len(), 1);

        let unknown = decoder.decode(&framed(Framing::Confluent { schema_id: 8 }, &sample_datum())).await.unwrap_err();
        assert!(matches!(unknown, DecodeError::Registry { schema_id: 8, .. }), "{unknown}");
    }

    #[tokio::test]
    async fn a_newer_writer_is_read_without_what_it_added() {
        let mut record = sample::as_json(&sample::leg(), &sample::ingest());
        record["queueName"] = json!("Sales");
        record["ingest"]["unit"] = json!("examplepbx");
        let mock = registry_with(future()).await;
        let decoder = Decoder::new(call_leg(), Some(Arc::new(mock.client())));
        let message = framed(Framing::Confluent { schema_id: 7 }, &written(&future(), record));
        assert_eq!(decoder.decode(&message).await.unwrap(), sample::as_json(&sample::leg(), &sample::ingest()));
    }

    #[tokio::test]
    async fn an_older_writer_is_read_with_defaults_for_what_it_lacked() {
        let lacking = ["aaPath", "branches", "connectTimeUTC", "extra"];
        let older = altered(|fields| fields.retain(|field| !lacking.contains(&field["name"].as_str().unwrap())));
        let mut record = sample::as_json(&sample::leg(), &sample::ingest());
        for name in lacking {
            record.as_object_mut().unwrap().shift_remove(name);
        }
        let mock = registry_with(older.clone()).await;
        let decoder = Decoder::new(call_leg(), Some(Arc::new(mock.client())));
        let json =
            decoder.decode(&framed(Framing::Confluent { schema_id: 7 }, &written(&older, record))).await.unwrap();
        assert_eq!(json["aaPath"], Json::Null);
        assert_eq!(json["branches"], Json::Null);
        assert_eq!(json["extra"], json!({}));
        assert_eq!(json["callId"], "1635571048351");
        assert_eq!(json.as_object().unwrap().len(), 51);
    }

    #[test]
    fn readers_older_and_newer_than_this_program_read_its_data() {
        let lacking = ["aaPath", "branches", "connectTimeUTC", "extra", "ingest"];
        let older = altered(|fields| fields.retain(|field| !lacking.contains(&field["name"].as_str().unwrap())));
        let json = read_by(&older, &sample_datum());
        assert_eq!(json.as_object().unwrap().len(), 46);
        assert_eq!(json["callTime"], 24_754);

        let json = read_by(&future(), &sample_datum());
        assert_eq!(json["queueName"], Json::Null);
        assert_eq!(json["ingest"]["unit"], Json::Null);
        assert_eq!(json["ingest"]["revision"], 2);
    }

    #[test]
    fn a_version_that_adds_defaulted_fields_is_compatible_both_ways_and_others_are_not() {
        let current = call_leg().schema();
        let future = Schema::parse_str(&future()).unwrap();
        SchemaCompatibility::mutual_read(current, &future).unwrap();

        let demanding = altered(|fields| fields.push(json!({"name": "queueName", "type": "string"})));
        let retyped = altered(|fields| fields[1]["type"] = json!("long"));
        for incompatible in [demanding, retyped] {
            let incompatible = Schema::parse_str(&incompatible).unwrap();
            assert!(SchemaCompatibility::can_read(current, &incompatible).is_err());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_is_said_without_values() {
        let decoder = Decoder::new(call_leg(), None);
        let foreign = framed(Framing::SingleObject { fingerprint: 0xabc }, &sample_datum());
        let error = decoder.decode(&foreign).await.unwrap_err();
        assert!(error.to_string().contains("0000000000000abc"), "{error}");

        let error = decoder.decode(&framed(Framing::Confluent { schema_id: 7 }, b"")).await.unwrap_err();
        assert!(matches!(error, DecodeError::NoRegistry { schema_id: 7 }));

        assert!(matches!(decoder.decode(b"").await.unwrap_err(), DecodeError::Framing(FramingError::Empty)));

        let mut longer = framed(own(), &sample_datum());
        longer.push(0);
        assert!(matches!(decoder.decode(&longer).await.unwrap_err(), DecodeError::LeftOver { count: 1 }));
        longer.truncate(longer.len() - 2);
        assert!(matches!(decoder.decode(&longer).await.unwrap_err(), DecodeError::Datum { .. }));

        // A string of 2^40 bytes is announced.
        let damaged = framed(own(), &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
        assert!(matches!(decoder.decode(&damaged).await.unwrap_err(), DecodeError::Datum { .. }));
    }

    #[tokio::test]
    async fn a_message_of_another_kind_names_what_it_lacks() {
        let person = json!({
            "type": "record", "name": "Person", "fields": [{"name": "callId", "type": "long"}, {"name": "legId", "type": "string"}]
        })
        .to_string();
        let mock = registry_with(person.clone()).await;
        let decoder = Decoder::new(call_leg(), Some(Arc::new(mock.client())));
        let datum = written(&person, json!({"callId": 424_242, "legId": "x"}));
        let error = decoder.decode(&framed(Framing::Confluent { schema_id: 7 }, &datum)).await.unwrap_err();
        assert!(matches!(error, DecodeError::Unresolved { .. }), "{error}");
        assert!(!error.to_string().contains("424242"), "{error}");

        let mock = registry_with("{\"type\": \"elsewhere.Leg\"}".to_owned()).await;
        let decoder = Decoder::new(call_leg(), Some(Arc::new(mock.client())));
        let error = decoder.decode(&framed(Framing::Confluent { schema_id: 7 }, &datum)).await.unwrap_err();
        assert!(matches!(error, DecodeError::WriterSchema { schema_id: 7, .. }), "{error}");
    }
}
