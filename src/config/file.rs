//! The TOML file as a layer.
//!
//! The file is parsed here and not by figment, whose syntax errors (like the toml crate's own) quote
//! the line they were found in: a line that may hold a password.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use figment::value::{Dict, Value};
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::layer::Layer;

/// More than any hand-written configuration; a wrong path (a log, a device) stops here.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The text of the file at `path`.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let refused = |why: &dyn std::fmt::Display| {
        ConfigError::from(format!("the configuration file {} cannot be read: {why}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| refused(&error))?;
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > FILE_BYTES_MAX => Err(refused(&"it is larger than 1 MiB")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(refused(&"it is not UTF-8 text")),
        Err(error) => Err(refused(&error)),
    }
}

/// Whether every user of this machine may read the file, as far as its own mode says.
pub(super) fn is_readable_by_all(path: &Path) -> bool {
    const READ_BY_OTHERS: u32 = 0o004;
    path.metadata().is_ok_and(|file| file.mode() & READ_BY_OTHERS != 0)
}

/// The settings in `text`; `name` is how messages call the file.
pub(super) fn layer(name: &str, text: &str) -> Result<Layer, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        ConfigError::from(format!("{name}, line {line}, column {column}: not valid TOML: {}", error.message()))
    })?;
    let mut layer = Layer::default();
    flatten(name, text, None, table.get_ref(), &mut layer);
    Ok(layer)
}

fn flatten(name: &str, text: &str, prefix: Option<&str>, table: &DeTable<'_>, layer: &mut Layer) {
    for (key, value) in table {
        let full = prefix.map_or_else(|| key.get_ref().to_string(), |prefix| format!("{prefix}.{}", key.get_ref()));
        match value.get_ref() {
            // An empty table is passed on, so that an unknown section without keys is noticed too.
            DeValue::Table(inner) if !inner.is_empty() => flatten(name, text, Some(&full), inner, layer),
            value => {
                let (line, _) = position(text, key.span().start);
                layer.insert(full, to_figment(value), format!("{name}, line {line}"));
            }
        }
    }
}

/// The array that `text` is in TOML.
pub(super) fn array(text: &str) -> Option<Value> {
    let value = DeValue::parse(text).ok()?;
    value.get_ref().is_array().then(|| to_figment(value.get_ref()))
}

fn to_figment(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        // No setting comes near either end of i64, so what does not fit is out of range as a float too.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::from(f64::INFINITY), Value::from),
        DeValue::Float(number) => Value::from(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::from(*flag),
        // TOML's own dates may stand where a text in RFC 3339 is expected.
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(items) => Value::from(items.iter().map(|item| to_figment(item.get_ref())).collect::<Vec<_>>()),
        DeValue::Table(table) => {
            let dict: Dict =
                table.iter().map(|(key, value)| (key.get_ref().to_string(), to_figment(value.get_ref()))).collect();
            Value::from(dict)
        }
    }
}

/// Line and column, both from 1, of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a = 1\nä = \"é\" x\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, text.len() - 2), (2, 9));
        assert_eq!(position(text, 1000), (3, 1));
    }

    #[test]
    fn an_unreadable_file_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.toml");
        let error = read(&missing).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "the configuration file {} cannot be read: No such file or directory (os error 2)",
                missing.display()
            )
        );

        let binary = dir.path().join("binary.toml");
        std::fs::write(&binary, b"hunter2 \xff\xfe").unwrap();
        let error = read(&binary).unwrap_err().to_string();
        assert!(error.ends_with("cannot be read: it is not UTF-8 text"), "{error}");

        let huge = dir.path().join("huge.toml");
        std::fs::write(&huge, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        let error = read(&huge).unwrap_err().to_string();
        assert!(error.ends_with("cannot be read: it is larger than 1 MiB"), "{error}");
    }

    #[test]
    fn only_an_array_is_an_array() {
        assert!(array(r#"["a", "b"]"#).is_some());
        assert!(array("[").is_none());
        assert!(array("\"a\"").is_none());
    }
}
