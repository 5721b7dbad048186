//! The JSON Schema of the configuration file, for editors: the keys as the reader asks for them, with the words of the
//! documented file.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::keys;
use super::layer::Merged;
use super::reader::Reader;

/// The file with every key, its default, unit and reason.
pub const EXAMPLE: &str = include_str!("../../config/call-legs.toml");

/// The JSON Schema. Nothing is required, since the environment may have it.
pub fn json_schema() -> Json {
    let (nothing, problems) = Merged::new([]);
    let mut reader = Reader::new(nothing, problems);
    // Whatever is missing, each key is asked for.
    let _ = keys::sections(&mut reader, true);
    let words = words();
    let mut properties = Map::new();
    for (key, mut shape) in reader.into_shapes() {
        if let Some(text) = words.get(&key) {
            shape["description"] = text.as_str().into();
        }
        insert(&mut properties, &key, shape);
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "The configuration of call-legs",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// Puts a key's shape where it belongs: into its section, and that into the one around it.
fn insert(properties: &mut Map<String, Json>, key: &str, shape: Json) {
    let Some((section, name)) = key.split_once('.') else {
        properties.insert(key.to_owned(), shape);
        return;
    };
    let empty = || json!({"type": "object", "additionalProperties": false, "properties": {}});
    let section = properties.entry(section).or_insert_with(empty);
    if let Some(inner) = section["properties"].as_object_mut() {
        insert(inner, name, shape);
    }
}

/// What the documented file says of each key: the comment above it.
fn words() -> BTreeMap<String, String> {
    let mut words = BTreeMap::new();
    let mut section = String::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in EXAMPLE.lines() {
        let key = if let Some(header) = line.strip_prefix('[') {
            section = header.trim_start_matches('[').trim_end_matches(']').to_owned();
            section.clone()
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
            continue;
        } else if let Some((name, _)) = line.trim_start_matches('#').split_once(" = ") {
            format!("{section}.{name}")
        } else {
            comment.clear();
            continue;
        };
        if !comment.is_empty() {
            words.entry(key).or_insert_with(|| comment.join(" "));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_says_of_each_key_what_the_documented_file_says() {
        fn collect<'a>(within: &str, shape: &'a Json, keys: &mut Vec<(String, &'a Json)>) {
            match shape["properties"].as_object() {
                Some(inner) => inner.iter().for_each(|(name, shape)| collect(&format!("{within}.{name}"), shape, keys)),
                None => keys.push((within.trim_start_matches('.').to_owned(), shape)),
            }
        }
        let schema = json_schema();
        let mut keys = Vec::new();
        collect("", &schema, &mut keys);
        for (key, shape) in &keys {
            assert!(shape["description"].as_str().is_some_and(|text| text.len() > 10), "{key}: {shape}");
        }
        assert!(keys.len() > 50, "{}", keys.len());
        let of = |key: &str| keys.iter().find(|(known, _)| known == key).unwrap().1;
        assert_eq!(of("source.page_size")["default"], 1000);
        assert_eq!(of("source.page_size")["maximum"], 7000);
        assert_eq!(of("avro.framing")["enum"], json!(["confluent", "single-object"]));
        assert_eq!(of("poll.overlap")["default"], "30m");
        assert_eq!(of("kafka.oauth.token_url")["type"], "string");
        assert_eq!(of("sweeps")["items"]["required"], json!(["every", "lookback"]));
    }

    /// `CALL_LEGS_WRITE_SCHEMA=1 cargo unit schema` writes it.
    #[test]
    fn the_schema_beside_the_documented_file_is_this_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/call-legs.schema.json");
        let schema = format!("{:#}\n", json_schema());
        if std::env::var_os("CALL_LEGS_WRITE_SCHEMA").is_some() {
            std::fs::write(&path, &schema).unwrap();
        }
        let is_same = std::fs::read_to_string(path).unwrap() == schema;
        assert!(is_same, "write it anew: CALL_LEGS_WRITE_SCHEMA=1 cargo unit schema");
    }
}
