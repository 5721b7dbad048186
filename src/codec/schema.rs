//! The schemas that the connector writes with: text, parsed form, canonical form, fingerprints.
//!
//! A schema is parsed once in a process. This file neither encodes nor talks to a registry.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A function for each schema file; its text is part of the program, and a test of this file parses it.
macro_rules! schemas {
    ($($(#[$doc:meta])+ $name:ident = $file:literal;)+) => {$(
        $(#[$doc])+
        pub fn $name() -> &'static PublishedSchema {
            static SCHEMA: LazyLock<PublishedSchema> = LazyLock::new(|| {
                let text = include_str!(concat!("../../schemas/", $file));
                PublishedSchema::parse(text).expect(concat!("schemas/", $file, " is valid"))
            });
            &SCHEMA
        }
    )+};
}

schemas! {
    /// The schema of a call leg, from `schemas/call-leg.avsc`.
    call_leg = "call-leg.avsc";
    /// The schema of a unit's status, from `schemas/status.avsc`. It is public, like the leg's.
    status = "status.avsc";
    /// The journal's first record, from `schemas/journal-genesis.avsc`. The journal's schemas are private.
    journal_genesis = "journal-genesis.avsc";
    /// The journal's claim of ownership, from `schemas/journal-claim.avsc`.
    journal_claim = "journal-claim.avsc";
    /// The journal's page of identities, from `schemas/journal-page.avsc`.
    journal_page = "journal-page.avsc";
    /// The journal's progress of a unit, from `schemas/journal-progress.avsc`.
    journal_progress = "journal-progress.avsc";
    /// The journal's backfill, from `schemas/journal-backfill.avsc`.
    journal_backfill = "journal-backfill.avsc";
    /// The journal's hours, from `schemas/journal-hours.avsc`.
    journal_hours = "journal-hours.avsc";
    /// The journal's replayed dead letter, from `schemas/journal-replayed.avsc`.
    journal_replayed = "journal-replayed.avsc";
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

    /// A writer of data of this schema, to be kept: it resolves the schema.
    pub(super) fn writer(&self) -> GenericDatumWriter<'_> {
        GenericDatumWriter::builder(&self.schema)
            .human_readable(false)
            .build()
            // Each schema is part of the program and refers to no other; a test builds all writers.
            .expect("the schema resolves by itself")
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
    use apache_avro::schema_compatibility::SchemaCompatibility;
    use serde_json::json;

    use super::*;
    use crate::core::feed::state;
    use crate::core::journal::Delivery;
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

    /// All schemas of the program with their files' names.
    fn all() -> [(&'static str, &'static PublishedSchema); 9] {
        [
            ("call-leg", call_leg()),
            ("status", status()),
            ("journal-genesis", journal_genesis()),
            ("journal-claim", journal_claim()),
            ("journal-page", journal_page()),
            ("journal-progress", journal_progress()),
            ("journal-backfill", journal_backfill()),
            ("journal-hours", journal_hours()),
            ("journal-replayed", journal_replayed()),
        ]
    }

    #[test]
    fn the_text_of_a_legs_schema_stays_as_it_is() {
        // A registry takes another text, be it a word in a doc, for another version of the schema.
        assert_eq!(
            hex(&Sha256::digest(call_leg().compact())),
            "be50940f84ad361616a16ecf0a57c97bb67f7e8f39582088db259313c888bb5b"
        );
        let late = "Whether the leg comes out of order: it was disconnected before the final watermark of that time, that is in a \
                    period already called complete, or further behind the newest leg published before it, in any partition, than \
                    the connector promises (orderWithinMs in the status topic).";
        assert!(call_leg().text().contains(late));
    }

    /// The record itself and all within it.
    fn all_records(schema: &Schema) -> Vec<&RecordSchema> {
        match schema {
            Schema::Record(record) => {
                let inner = record.fields.iter().flat_map(|field| all_records(&field.schema));
                std::iter::once(record).chain(inner).collect()
            }
            Schema::Array(array) => all_records(&array.items),
            Schema::Union(union) => union.variants().iter().flat_map(all_records).collect(),
            _ => Vec::new(),
        }
    }

    fn is_instant(schema: &Schema) -> bool {
        match schema {
            Schema::Union(union) => union.variants().iter().any(is_instant),
            other => *other == Schema::TimestampMillis,
        }
    }

    #[test]
    fn the_first_49_fields_are_those_of_the_table() {
        let fields = &record(call_leg().schema()).fields;
        for (field, expected) in fields.iter().zip(&FIELDS) {
            assert_eq!(field.name, expected.name);
            assert_eq!(expected.required, REQUIRED.contains(&expected.name), "{}", expected.name);
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

    /// A type as docs/consume.md names it.
    fn named(schema: &Schema) -> String {
        match schema {
            Schema::String => "string".to_owned(),
            Schema::Int => "int".to_owned(),
            Schema::Long => "long".to_owned(),
            Schema::Boolean => "boolean".to_owned(),
            Schema::TimestampMillis => "timestamp-millis".to_owned(),
            Schema::Array(array) => format!("array of {}", named(&array.items)),
            Schema::Map(map) => format!("map of {}", named(&map.types)),
            Schema::Union(union) => format!("{} or null", named(&union.variants()[1])),
            other => panic!("not a type of a leg's fields: {other:?}"),
        }
    }

    #[test]
    fn the_consumers_page_has_each_field_as_it_is() {
        const PAGE: &str = include_str!("../../docs/consume.md");
        let row = |prefix: &str, field: &RecordField| {
            let documentation = field.doc.as_deref().unwrap_or_default();
            format!("| `{prefix}{}` | {} | {documentation} |\n", field.name, named(&field.schema))
        };
        let rows = |field: &RecordField| match &field.schema {
            Schema::Record(inner) => inner.fields.iter().map(|field| row("ingest.", field)).collect(),
            _ => row("", field),
        };
        let rows: String = record(call_leg().schema()).fields.iter().map(rows).collect();
        // With the empty line behind it: a row too many is a difference, too.
        let table = format!("| field | type | holds |\n| --- | --- | --- |\n{rows}\n");
        assert!(PAGE.contains(&table), "the table of fields in docs/consume.md should be:\n{table}");
    }

    #[test]
    fn schema_and_page_call_personal_what_the_table_does() {
        for (field, documented) in FIELDS.iter().zip(&record(call_leg().schema()).fields) {
            let is_personal = documented.doc.as_deref().unwrap_or_default().ends_with("Personal data.");
            assert_eq!(is_personal, field.personal, "{}", field.name);
        }
        const PAGE: &str = include_str!("../../docs/configure.md");
        let personal = FIELDS.iter().filter(|field| field.personal).map(|field| format!("`{}`", field.name));
        let list = format!("These fields hold personal data: {}.", personal.collect::<Vec<_>>().join(", "));
        assert!(PAGE.contains(&list), "docs/configure.md should say: {list}");
    }

    #[test]
    fn every_field_is_documented_and_none_holds_an_enum() {
        for (file, schema) in all() {
            for record in all_records(schema.schema()) {
                assert!(record.doc.as_deref().unwrap_or_default().ends_with('.'), "{file}: {}", record.name);
                for field in &record.fields {
                    let documentation = field.doc.as_deref().unwrap_or_default();
                    assert!(documentation.ends_with('.'), "{file}: {} has no documentation", field.name);
                    let in_milliseconds =
                        is_instant(&field.schema) || ["UTC", "MS", "Ms"].iter().any(|end| field.name.ends_with(end));
                    assert!(
                        !in_milliseconds || documentation.contains("Milliseconds"),
                        "{file}: {} names no unit",
                        field.name
                    );
                }
            }
            assert!(!schema.canonical().contains("\"enum\""), "{file}: Flink SQL refuses enums");
        }
    }

    #[test]
    fn the_status_explains_every_state_and_topic_that_the_connector_names() {
        let fields = &record(status().schema()).fields;
        let documentation = |name: &str| {
            fields.iter().find(|field| field.name == name).and_then(|field| field.doc.clone()).unwrap_or_default()
        };
        for state in [
            "starting",
            state::OK,
            state::CATCHING_UP,
            "source_unreachable",
            "source_auth",
            "source_rate_limited",
            "source_incomplete",
            "source_empty",
            "source_invalid",
            "source_time_zone",
            "clock_skew",
            state::STOPPED,
        ] {
            assert!(documentation("state").contains(&format!("{state} (")), "{state}");
        }
        for delivery in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
            assert!(documentation("delivery").contains(delivery.as_str()));
        }
    }

    /// The expected values are those of fastavro 1.13.1 (`to_parsing_canonical_form`, `fingerprint`),
    /// and for the leg also those of Avro 1.12 for Java. The second is in little endian, as
    /// single-object encoding writes it.
    #[test]
    fn fingerprints_agree_with_other_implementations() {
        let expected = [
            ("a5398b31349c41f2b3e1c729f65f25790facb9ee94767c802413fce876e8018d", "5d068d90f4f44fa2"),
            ("1e82755c929abd597a2934b6ba2d6d3682a3acd04a1118c55b242ad5c90073fb", "bd79629db732eb7a"),
            ("2020e57ce5861e74745ab70110833c230ede028a99c7bb02084792802ae39152", "159ccbc232338bbb"),
            ("aef95fccb9680d138de805c9d5068eded1fe3c7fd38aaa73897ca3d54e10fdcd", "2d846de6184323b2"),
            ("93d8eceefb2fc76657113837dfdf4841b2e633b2899b5e6e051fb5d9b3ac4cfc", "a7ff1e3b867d7f85"),
            ("3d0956564243534c400c68b0cce307ce1851165986263e2a1e1793a97c44f2df", "719712db7def1bd6"),
            ("b0ca30b7fa76aac5f58510c6f32e0194e55d097de615e772a3887b895f64e852", "e5237cc936c6538b"),
            ("2de426ea4339e33ead3a76c9d8294d4321b42af761c07bfaf100b0cf4de75d2a", "9c33c6237888e6f3"),
            ("0279c77a607e0ebafbe0a4324f286930e168282a7b62c518e4c345efa2b0e382", "cd06c6617d01edf5"),
        ];
        assert_eq!(all().len(), expected.len());
        for ((file, schema), (sha256, crc64_avro)) in all().into_iter().zip(expected) {
            assert_eq!(schema.sha256(), sha256, "{file}");
            assert_eq!(
                schema.crc64_avro().to_le_bytes().map(|byte| format!("{byte:02x}")).concat(),
                crc64_avro,
                "{file}"
            );
        }
    }

    /// A reader with the version to come, which appends fields with defaults, and this version read
    /// each other's statuses.
    #[test]
    fn the_status_can_gain_fields() {
        let mut future: Json = serde_json::from_str(status().text()).unwrap();
        let added = json!({"name": "lagMs", "type": ["null", "long"], "default": null});
        future["fields"].as_array_mut().unwrap().push(added);
        let future = Schema::parse_str(&future.to_string()).unwrap();
        SchemaCompatibility::mutual_read(status().schema(), &future).unwrap();
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
