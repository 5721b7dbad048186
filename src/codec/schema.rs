//! The schemas that the connector publishes: text, parsed form, canonical form, fingerprints.
//!
//! A schema is parsed once in a process. This file neither encodes nor talks to a registry.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The schema of a call leg, from `schemas/call-leg.avsc`.
pub fn call_leg() -> &'static PublishedSchema {
    static CALL_LEG: LazyLock<PublishedSchema> = LazyLock::new(|| {
        // The text is part of the program, and a test of this file parses it.
        PublishedSchema::parse(include_str!("../../schemas/call-leg.avsc")).expect("schemas/call-leg.avsc is valid")
    });
    &CALL_LEG
}

/// A schema of this program, with everything derived from its text.
#[derive(Debug)]
pub struct PublishedSchema {
    text: &'static str,
    compact: String,
    schema: Schema,
    canonical: String,
    crc64_avro: u64,
    sha256: String,
}

/// A schema text that is not a valid Avro schema.
#[derive(Debug, Error)]
#[error("the Avro schema is not valid: {reason}")]
pub struct SchemaError {
    reason: String,
}

impl PublishedSchema {
    /// Parses a schema and derives its forms.
    ///
    /// # Errors
    /// When the text is not JSON or not an Avro schema.
    pub fn parse(text: &'static str) -> Result<Self, SchemaError> {
        let json: Json = serde_json::from_str(text).map_err(|error| SchemaError { reason: error.to_string() })?;
        let parsed = |json| Schema::parse(json).map_err(|error| SchemaError { reason: error.to_string() });
        let schema = parsed(&json)?;
        let canonical = parsed(&without_logical_types(&json))?.canonical_form();
        Ok(Self {
            text,
            compact: json.to_string(),
            crc64_avro: crc64_avro(&canonical),
            sha256: hex(&Sha256::digest(&canonical)),
            canonical,
            schema,
        })
    }

    /// The schema as its file has it, with documentation and line breaks.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The same without line breaks, documentation kept: what a registry is given.
    pub fn compact(&self) -> &str {
        &self.compact
    }

    /// The parsed schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Avro's parsing canonical form: what the fingerprints are taken of. Documentation, defaults
    /// and logical types are no part of it.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The CRC-64-AVRO (Rabin) fingerprint. Single-object encoding writes it little endian.
    pub fn crc64_avro(&self) -> u64 {
        self.crc64_avro
    }

    /// The SHA-256 fingerprint in lowercase hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// The canonical form knows no logical types, and a long with one is plain `"long"` there: in Java
/// and others, whose readers find a schema by that fingerprint. This library makes it
/// `{"type":"long"}` (avro-rs issue 61), so the logical types are taken out before it sees them.
fn without_logical_types(json: &Json) -> Json {
    match json {
        Json::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "logicalType")
            .map(|(name, value)| (name.clone(), without_logical_types(value)))
            .collect(),
        Json::Array(items) => items.iter().map(without_logical_types).collect(),
        other => other.clone(),
    }
}

fn crc64_avro(canonical: &str) -> u64 {
    // The digest is the fingerprint in little endian, which the fold undoes.
    Rabin::digest(canonical).iter().rev().fold(0, |fingerprint, byte| fingerprint << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use apache_avro::schema::{RecordField, RecordSchema};
    use serde_json::json;

    use super::*;
    use crate::core::leg::{FIELD_COUNT, FIELDS, Kind};

    const REQUIRED: [&str; 3] = ["callId", "legId", "disconnectedTimeUTC"];

    fn record(schema: &Schema) -> &RecordSchema {
        match schema {
            Schema::Record(record) => record,
            other => panic!("not a record: {other:?}"),
        }
    }

    fn kind(schema: &Schema) -> Kind {
        match schema {
            Schema::String => Kind::Text,
            Schema::Long => Kind::Integer,
            Schema::TimestampMillis => Kind::Instant,
            Schema::Array(array) if *array.items == Schema::String => Kind::TextList,
            other => panic!("not a type of the API's fields: {other:?}"),
        }
    }

    fn all_fields(schema: &RecordSchema) -> Vec<&RecordField> {
        schema
            .fields
            .iter()
            .flat_map(|field| match &field.schema {
                Schema::Record(inner) => [vec![field], all_fields(inner)].concat(),
                _ => vec![field],
            })
            .collect()
    }

    #[test]
    fn the_first_49_fields_are_those_of_the_table() {
        let fields = &record(call_leg().schema()).fields;
        for (field, expected) in fields.iter().zip(&FIELDS) {
            assert_eq!(field.name, expected.name);
            if REQUIRED.contains(&expected.name) {
                assert_eq!(kind(&field.schema), expected.kind, "{}", expected.name);
                assert_eq!(field.default, None, "{}", expected.name);
            } else {
                let Schema::Union(union) = &field.schema else { panic!("{} is not nullable", expected.name) };
                assert_eq!(union.variants().len(), 2, "{}", expected.name);
                assert_eq!(union.variants()[0], Schema::Null, "{}", expected.name);
                assert_eq!(kind(&union.variants()[1]), expected.kind, "{}", expected.name);
                assert_eq!(field.default, Some(json!(null)), "{}", expected.name);
            }
        }
        let added: Vec<&str> = fields[FIELD_COUNT..].iter().map(|field| field.name.as_str()).collect();
        assert_eq!(added, ["extra", "ingest"]);
        assert_eq!(fields[FIELD_COUNT].default, Some(json!({})));
    }

    #[test]
    fn every_field_is_documented_and_none_holds_an_enum() {
        for field in all_fields(record(call_leg().schema())) {
            let documentation = field.doc.as_deref().unwrap_or_default();
            assert!(documentation.ends_with('.'), "{} has no documentation", field.name);
            let in_milliseconds = ["UTC", "MS"].iter().any(|end| field.name.ends_with(end));
            assert!(!in_milliseconds || documentation.contains("Milliseconds"), "{} names no unit", field.name);
        }
        assert!(!call_leg().canonical().contains("\"enum\""), "Flink SQL refuses enums");
    }

    /// The expected values are those of Avro 1.12 for Java and of fastavro.
    #[test]
    fn fingerprints_agree_with_other_implementations() {
        assert_eq!(call_leg().sha256(), "a5398b31349c41f2b3e1c729f65f25790facb9ee94767c802413fce876e8018d");
        assert_eq!(
            call_leg().crc64_avro().to_le_bytes().map(|byte| format!("{byte:02x}")).concat(),
            "5d068d90f4f44fa2"
        );
    }

    #[test]
    fn the_compact_text_is_the_same_schema_in_one_line() {
        let compact = call_leg().compact();
        assert!(!compact.contains('\n') && compact.contains("\"doc\""));
        assert_eq!(Schema::parse_str(compact).unwrap(), *call_leg().schema());
        let first_key = compact.split(':').next().unwrap();
        assert_eq!(first_key, "{\"type\"", "the order of the file is kept");
    }

    #[test]
    fn a_broken_schema_is_an_error() {
        assert!(PublishedSchema::parse("{").is_err());
        let error = PublishedSchema::parse("{\"type\": \"nonesuch\"}").unwrap_err();
        assert!(error.to_string().starts_with("the Avro schema is not valid"), "{error}");
    }
}
