//! A row as serde_json reads it, visitor by visitor: what [`super::row`] is held equal to.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::core::leg::{FIELD_COUNT, FIELDS, Kind, Value, position, position_of};

/// The values in the order of [`FIELDS`], and what does not fit.
type Fields<'a> = ([Value<'a>; FIELD_COUNT], Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// Reads a row's fields; `None` when it is no readable object.
pub(super) fn fields(raw: &[u8]) -> Option<Fields<'_>> {
    parse_regular(raw).or_else(|| parse_irregular(raw))
}

/// A text that borrows from the page unless it holds escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// One pass over a row in which every field is known and of its type; `None` for any other row.
fn parse_regular(raw: &[u8]) -> Option<Fields<'_>> {
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    deserializer.deserialize_map(RegularRow).ok()
}

struct RegularRow;

impl<'de> Visitor<'de> for RegularRow {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call leg")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { Value::Null }; FIELD_COUNT];
        let mut expected = 0;
        while let Some(Text(name)) = map.next_key()? {
            let Some(position) = position_of(&name, expected) else { return Err(irregular()) };
            values[position] = map.next_value_seed(FieldValue(FIELDS[position].kind))?;
            expected = position + 1;
        }
        Ok((values, Vec::new()))
    }
}

/// Not a message for anyone: it only sends the row to the second parse.
fn irregular<E: serde::de::Error>() -> E {
    E::custom("irregular")
}

/// A value of the field's kind, or null; anything else is an error.
struct FieldValue(Kind);

impl<'de> DeserializeSeed<'de> for FieldValue {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldValue {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} or null", self.0)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        if self.0 == Kind::Text { Ok(Value::Text(Cow::Borrowed(text))) } else { Err(irregular()) }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if self.0 == Kind::Text { Ok(Value::Text(Cow::Owned(text.to_owned()))) } else { Err(irregular()) }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        if matches!(self.0, Kind::Integer | Kind::Instant) { Ok(Value::Integer(number)) } else { Err(irregular()) }
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(number).map_err(|_| irregular())?)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        if self.0 != Kind::TextList {
            return Err(irregular());
        }
        let mut texts = Vec::new();
        while let Some(Text(text)) = seq.next_element()? {
            texts.push(text);
        }
        Ok(Value::TextList(texts))
    }
}

/// Field by field, keeping what does not fit as JSON text; `None` when the row is no readable object.
fn parse_irregular(raw: &[u8]) -> Option<Fields<'_>> {
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    deserializer.deserialize_map(IrregularRow).ok()
}

struct IrregularRow;

impl<'de> Visitor<'de> for IrregularRow {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call leg")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { Value::Null }; FIELD_COUNT];
        let mut extra = std::collections::BTreeMap::new();
        while let Some(Text(name)) = map.next_key()? {
            let Some(position) = position_of(&name, 0) else {
                extra.insert(name, Cow::Borrowed(map.next_value::<&RawValue>()?.get()));
                continue;
            };
            let raw: &'de RawValue = map.next_value()?;
            // Of a name that comes twice, the last one counts, here as in the regular pass.
            extra.remove(&name);
            values[position] = match FieldValue(FIELDS[position].kind).deserialize(raw) {
                Ok(value) => value,
                Err(_) if is_id(position) && is_whole_number(raw.get()) => Value::Text(Cow::Borrowed(raw.get())),
                Err(_) => {
                    extra.insert(name, Cow::Borrowed(raw.get()));
                    Value::Null
                }
            };
        }
        Ok((values, extra.into_iter().collect()))
    }
}

fn is_id(position: usize) -> bool {
    matches!(position, position::CALL_ID | position::LEG_ID)
}

fn is_whole_number(json: &str) -> bool {
    !json.is_empty() && json.bytes().all(|byte| byte.is_ascii_digit())
}
