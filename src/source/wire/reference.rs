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
        held(self.0, number.into()).ok_or_else(irregular)
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
                Err(_) => unusual(position, raw.get()).unwrap_or_else(|| {
                    extra.insert(name, Cow::Borrowed(raw.get()));
                    Value::Null
                }),
            };
        }
        Ok((values, extra.into_iter().collect()))
    }
}

/// What every Avro library decodes.
fn held(kind: Kind, number: i128) -> Option<Value<'static>> {
    let last = match kind {
        Kind::Instant if number == 0 => return Some(Value::Null),
        Kind::Instant if number < 0 => return None,
        Kind::Instant => 253_402_300_799_999,
        Kind::Integer => 9_007_199_254_740_991,
        Kind::Text | Kind::TextList => return None,
    };
    (number.abs() <= last).then(|| Value::Integer(i64::try_from(number).unwrap()))
}

/// A number that serde_json does not read as a whole one, or a text of one.
fn unusual(position: usize, json: &str) -> Option<Value<'_>> {
    match FIELDS[position].kind {
        Kind::Text if matches!(position, position::CALL_ID | position::LEG_ID) => {
            if json.bytes().all(|byte| byte.is_ascii_digit()) {
                return Some(Value::Text(Cow::Borrowed(json)));
            }
            whole(json).filter(|number| *number >= 0).map(|number| Value::Text(number.to_string().into()))
        }
        kind => match serde_json::from_str::<String>(json) {
            Ok(text) => held(kind, whole(text.trim())?),
            Err(_) => held(kind, whole(json)?),
        },
    }
}

/// A number as serde_json accepts one, by arithmetic.
fn whole(json: &str) -> Option<i128> {
    let number = serde_json::from_str::<&RawValue>(json).ok()?.get();
    if number != json || !number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    let lower = number.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut number: i128 = format!("{whole}{fraction}").parse().ok()?;
    if number == 0 {
        return Some(0);
    }
    let mut exponent = exponent.parse::<i64>().ok()? - fraction.len() as i64;
    while exponent < 0 && number % 10 == 0 {
        (number, exponent) = (number / 10, exponent + 1);
    }
    while exponent > 0 {
        (number, exponent) = (number.checked_mul(10)?, exponent - 1);
    }
    (exponent == 0).then_some(number)
}
