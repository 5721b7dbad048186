//! Typed access to the merged settings, which notes every problem instead of stopping at the first.
//!
//! A method answers `None` when it has noted a problem with its key. Each key is asked for once; that
//! makes it known, and lists it among the effective settings. serde's derive would be shorter, but it
//! gives up at the first problem and quotes values in its messages.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::value::Value;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::layer::Merged;
use super::rule::{self, Rule};
use super::secret::Secret;
use super::{environment, file};

/// One effective setting, for the start log and the status page: no secret, no personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The key in full, such as `source.page_size`.
    pub key: String,
    /// The value as text; for a secret `set` or `from file PATH`, for personal data `set` or how many.
    pub value: String,
    /// Where it was given: `default`, the file's line, or the variable.
    pub origin: String,
}

/// Stands for a value that is not shown.
pub(super) const SET: &str = "set";

/// Stands for the value of an optional key that is not given.
const UNSET: &str = "not set";

/// The settings as they are read, and what was wrong with them.
pub(super) struct Reader {
    merged: Merged,
    known: Vec<String>,
    maps: Vec<&'static str>,
    settings: Vec<Setting>,
    problems: Vec<String>,
    warnings: Vec<String>,
    shapes: Vec<(String, Json)>,
}

impl Reader {
    pub(super) fn new(merged: Merged, problems: Vec<String>) -> Self {
        let mut reader = Self {
            merged,
            known: Vec::new(),
            maps: Vec::new(),
            settings: Vec::new(),
            problems,
            warnings: Vec::new(),
            shapes: Vec::new(),
        };
        let is_placed = |key: &&str| reader.merged.value(key).is_some_and(is_placeholder);
        let keys: Vec<String> = reader.merged.keys().filter(is_placed).map(str::to_owned).collect();
        for key in &keys {
            let variable = environment::variable(key);
            let variable = variable.escape_debug();
            let text = format!(
                "is a ${{…}}, which nothing replaces: leave the key out, and set {variable} in the environment"
            );
            reader.problem(key, &text);
        }
        reader
    }

    /// The value of `key`, or `default`, which is read by the same rule.
    pub(super) fn or_default<T: 'static>(&mut self, key: &'static str, default: &str, rule: Rule<T>) -> Option<T> {
        let given = self.given(key, &rule);
        if let Some((_, shape)) = self.shapes.last_mut() {
            shape["default"] = rule.bare_default(default);
        }
        let given = given?;
        if given.is_none() {
            self.list(key, default);
        }
        given.or_else(|| rule.read(default))
    }

    /// The value of `key`, which must be given.
    pub(super) fn required<T: 'static>(&mut self, key: &'static str, rule: Rule<T>) -> Option<T> {
        let value = self.optional(key, rule)?;
        self.or_missing(key, value)
    }

    /// The value of `key`, if it is given.
    pub(super) fn optional<T: 'static>(&mut self, key: &'static str, rule: Rule<T>) -> Option<Option<T>> {
        let given = self.given(key, &rule)?;
        if given.is_none() {
            self.list(key, UNSET);
        }
        Some(given)
    }

    fn given<T: 'static>(&mut self, key: &'static str, rule: &Rule<T>) -> Option<Option<T>> {
        self.add_known(key, rule.shape.clone());
        let Some(value) = self.merged.value(key) else {
            return Some(None);
        };
        let read = rule.text(value).and_then(|text| Some((rule.read(&text)?, text)));
        let Some((value, text)) = read else {
            self.problem(key, &format!("must {}", rule.must));
            return None;
        };
        self.list(key, if rule.shown { &text } else { SET });
        Some(Some(value))
    }

    /// The texts of `key`, which in the environment may also be separated by commas.
    ///
    /// `must` completes "`key` must …" for a list that is none or fails the `check`.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        default: &[&str],
        must: &str,
        check: impl Fn(&[String]) -> bool,
    ) -> Option<Vec<String>> {
        let mut shape = list_shape();
        shape["default"] = default.into();
        self.add_known(key, shape);
        let texts = match self.merged.value(key) {
            Some(value) => texts(value),
            None => Some(default.iter().map(|&text| text.to_owned()).collect()),
        };
        let Some(texts) = texts.filter(|texts| check(texts)) else {
            self.problem(key, &format!("must {must}"));
            return None;
        };
        self.list(key, &texts.join(", "));
        Some(texts)
    }

    /// The texts of `key` like [`Reader::texts`], which must be given.
    pub(super) fn required_texts(
        &mut self,
        key: &'static str,
        must: &str,
        check: impl Fn(&[String]) -> bool,
    ) -> Option<Vec<String>> {
        if self.merged.value(key).is_some() {
            return self.texts(key, &[], must, check);
        }
        self.add_known(key, list_shape());
        self.or_missing(key, None)
    }

    /// The tables of the array `key`, each with just these `names`, their values as texts; file only.
    ///
    /// `must` completes "`key` must …" for anything else.
    pub(super) fn tables<const N: usize>(
        &mut self,
        key: &'static str,
        names: [&str; N],
        must: &str,
    ) -> Option<Option<Vec<[String; N]>>> {
        let text = json!({"type": "string"});
        let columns: serde_json::Map<String, Json> =
            names.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
        let table = json!({
            "type": "object",
            "properties": columns,
            "required": names.as_slice(),
            "additionalProperties": false,
        });
        self.add_known(key, json!({"type": "array", "items": table}));
        let Some(value) = self.merged.value(key) else {
            return Some(None);
        };
        let row = |table: &Value| {
            let table = table.as_dict().filter(|table| table.len() == N)?;
            let texts: Option<Vec<String>> =
                names.iter().map(|name| table.get(*name)?.as_str().map(str::to_owned)).collect();
            texts?.try_into().ok()
        };
        let tables: Option<Vec<[String; N]>> = match value {
            Value::Array(_, items) => items.iter().map(row).collect(),
            _ => None,
        };
        if tables.is_none() {
            self.problem(key, &format!("must {must}"));
        }
        tables.map(Some)
    }

    /// Lists `key` among the effective settings.
    pub(super) fn list(&mut self, key: &str, value: &str) {
        let origin = self.merged.place(key).unwrap_or_else(|| "default".to_owned());
        self.settings.push(Setting { key: key.to_owned(), value: value.to_owned(), origin });
    }

    /// The secret `key`, or `key` with `_file`, which must be given.
    pub(super) fn required_secret(&mut self, key: &'static str) -> Option<Secret> {
        let value = self.secret(key)?;
        self.or_missing(key, value)
    }

    /// The secret `key`, or `key` with `_file`; both are one too many.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Option<Secret>> {
        let file_key = format!("{key}_file");
        self.add_known(key, json!({"type": "string"}));
        self.add_known(&file_key, json!({"type": "string"}));
        match (self.merged.value(key), self.merged.value(&file_key)) {
            (Some(_), Some(_)) => {
                let text = format!("and {} are both given: keep one", self.named(&file_key));
                self.problem(key, &text);
                None
            }
            (Some(value), None) => {
                // Unlike other texts a secret is not trimmed: its spaces may be part of it.
                let secret = value.as_str().and_then(|text| Secret::value(self.named(key), text));
                self.secret_or_problem(key, key, secret, "be a text (in quotes) that is not empty")
            }
            (None, Some(value)) => {
                let rule = rule::path();
                let path: Option<PathBuf> = rule.text(value).and_then(|text| rule.read(&text));
                let secret = path.map(|path| Secret::file(self.named(&file_key), path));
                self.secret_or_problem(key, &file_key, secret, &rule.must)
            }
            (None, None) => {
                self.list(key, UNSET);
                Some(None)
            }
        }
    }

    fn secret_or_problem(
        &mut self,
        key: &str,
        given: &str,
        secret: Option<Secret>,
        must: &str,
    ) -> Option<Option<Secret>> {
        match secret {
            Some(secret) => {
                let origin = self.merged.place(given).unwrap_or_default();
                self.settings.push(Setting { key: key.to_owned(), value: secret.to_string(), origin });
                Some(Some(secret))
            }
            None => {
                self.problem(given, &format!("must {must}"));
                None
            }
        }
    }

    /// The free settings below `key`: texts, numbers and booleans, as texts.
    ///
    /// `refusal` says why a name cannot have a value, `is_secret` which values are not shown.
    pub(super) fn map(
        &mut self,
        key: &'static str,
        refusal: impl Fn(&str, &str) -> Option<String>,
        is_secret: impl Fn(&str) -> bool,
    ) -> Option<BTreeMap<String, String>> {
        self.maps.push(key);
        // Names may be quoted, or nested in tables.
        let value = json!({"type": ["string", "number", "boolean", "object"]});
        self.shapes.push((key.to_owned(), json!({"type": "object", "additionalProperties": value})));
        let mut map = BTreeMap::new();
        let problems_before = self.problems.len();
        let prefix = format!("{key}.");
        let names: Vec<String> =
            self.merged.keys().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let full = format!("{prefix}{name}");
            let text = match self.merged.value(&full) {
                // A nested table without any key in it.
                Some(Value::Dict(..)) => continue,
                value => value.and_then(scalar),
            };
            let Some(text) = text else {
                self.problem(&full, "must be a text, a number, true or false");
                continue;
            };
            if let Some(reason) = refusal(&name, &text) {
                self.problem(&full, &reason);
                continue;
            }
            self.list(&full, if is_secret(&name) { SET } else { &text });
            map.insert(name, text);
        }
        (self.problems.len() == problems_before).then_some(map)
    }

    /// Replaces what the effective settings show of `key`.
    pub(super) fn show(&mut self, key: &str, value: String) {
        if let Some(setting) = self.settings.iter_mut().rev().find(|setting| setting.key == key) {
            setting.value = value;
        }
    }

    /// Notes a problem; `text` continues a sentence that begins with the key and its place.
    ///
    /// A secret that is given as a file is named so.
    pub(super) fn problem(&mut self, key: &str, text: &str) {
        // All is said of it already.
        if self.known.iter().any(|known| known == key) && self.merged.value(key).is_some_and(is_placeholder) {
            return;
        }
        let file_key = format!("{key}_file");
        let is_file = self.merged.value(key).is_none() && self.merged.value(&file_key).is_some();
        let named = self.named(if is_file { &file_key } else { key });
        self.problems.push(format!("{named} {text}"));
    }

    /// Notes something that is allowed and probably not meant.
    pub(super) fn warning(&mut self, key: &str, text: &str) {
        self.warnings.push(format!("{} {text}", self.named(key)));
    }

    fn add_known(&mut self, key: &str, shape: Json) {
        self.known.push(key.to_owned());
        self.shapes.push((key.to_owned(), shape));
    }

    /// What the JSON Schema says of each key that was asked for.
    pub(super) fn into_shapes(self) -> Vec<(String, Json)> {
        self.shapes
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> &[String] {
        &self.known
    }

    /// Refuses what nobody asked for; then the effective settings and warnings, or all problems.
    pub(super) fn finish(mut self) -> Result<(Vec<Setting>, Vec<String>), Vec<String>> {
        let unknown: Vec<String> = self.merged.keys().filter(|key| !self.is_known(key)).map(str::to_owned).collect();
        for key in &unknown {
            let is_table = self.merged.value(key).is_some_and(|value| value.as_dict().is_some());
            match (self.is_section(key), self.nearest(key)) {
                // Only an empty table is left as one.
                (true, _) if is_table => {}
                (true, _) => self.problem(key, "is a section of settings, not a setting"),
                (false, Some(nearest)) => self.problem(key, &format!("is not a known key; did you mean {nearest}?")),
                (false, None) => self.problem(key, "is not a known key"),
            }
        }
        if self.problems.is_empty() { Ok((self.settings, self.warnings)) } else { Err(self.problems) }
    }

    fn is_known(&self, key: &str) -> bool {
        let is_in_map = |map: &&str| {
            key.strip_prefix(*map).and_then(|rest| rest.strip_prefix('.')).is_some_and(|name| !name.is_empty())
        };
        self.known.iter().any(|known| known == key) || self.maps.iter().any(is_in_map)
    }

    fn is_section(&self, key: &str) -> bool {
        self.maps.contains(&key) || self.known.iter().any(|known| section_and_name(known).0 == key)
    }

    /// The known key that `unknown` was probably meant to be. The last part counts most, since a key
    /// is as easily put into the wrong section as misspelt.
    fn nearest(&self, unknown: &str) -> Option<String> {
        const ALIKE_ENOUGH: f64 = 0.6;
        let (section, name) = section_and_name(unknown);
        let likeness = |known: &str| {
            let (known_section, known_name) = section_and_name(known);
            let by_name = strsim::normalized_damerau_levenshtein(name, known_name);
            let contained = name.len() >= 3 && (known_name.contains(name) || name.contains(known_name));
            let by_name = if contained { by_name.max(ALIKE_ENOUGH) } else { by_name };
            (by_name, by_name + 0.2 * strsim::normalized_damerau_levenshtein(section, known_section))
        };
        let known = self.known.iter().map(String::as_str).chain(self.maps.iter().copied());
        let alike = known.map(|known| (likeness(known), known)).filter(|((by_name, _), _)| *by_name >= ALIKE_ENOUGH);
        alike.max_by(|((_, a), _), ((_, b), _)| a.total_cmp(b)).map(|(_, known)| known.to_owned())
    }

    fn or_missing<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            let file =
                if self.known.contains(&format!("{key}_file")) { format!(" or {key}_file") } else { String::new() };
            self.problems.push(required(key, &file));
        }
        value
    }

    /// The key with its place, as messages name it.
    fn named(&self, key: &str) -> String {
        // A quoted key may hold anything, a line break too; a problem is one line.
        let shown = key.escape_debug();
        match self.merged.place(key) {
            Some(place) => format!("{shown} (from {place})"),
            None => shown.to_string(),
        }
    }
}

/// A list, or a text that is one.
fn list_shape() -> Json {
    json!({"type": ["array", "string"], "items": {"type": "string"}})
}

/// Whether a value, or one of a list, is the name of a variable as templates have it, and nothing else: `${NAME}`.
fn is_placeholder(value: &Value) -> bool {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match value {
        Value::String(_, text) => {
            text.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_name)
        }
        Value::Array(_, items) => items.iter().any(is_placeholder),
        _ => false,
    }
}

/// What is said of a key that has to be given; `or_another` names a key that would do as well.
pub(super) fn required(key: &str, or_another: &str) -> String {
    let variable = environment::variable(key);
    format!("{key}{or_another} is required: set it in the file, or {variable} in the environment")
}

/// `kafka.properties.linger` is `linger` in the section `kafka.properties`.
fn section_and_name(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

/// The texts in a list: an array of strings, or a string that is an array in TOML or a comma list.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(_, items) => items.iter().map(|item| Some(item.as_str()?.trim().to_owned())).collect(),
        Value::String(_, text) if text.trim_start().starts_with('[') && !rule::begins_with_ipv6(text.trim_start()) => {
            file::array(text.trim()).as_ref().and_then(texts)
        }
        Value::String(_, text) if text.trim().is_empty() => Some(Vec::new()),
        Value::String(_, text) => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
        _ => None,
    }
}

/// The text of a single value of any type.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => match number.to_i128() {
            Some(number) => Some(number.to_string()),
            None => number.to_f64().filter(|number| number.is_finite()).map(|number| number.to_string()),
        },
        _ => None,
    }
}
