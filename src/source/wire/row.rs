//! A row's JSON text becomes a leg, a call under way, or a dead letter's reason.
//!
//! It is read in one pass that borrows from the page. A whole number is one however it is written. What does not fit
//! its field, and what no field is there for, stays as JSON text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::number::{digits, held, held_in};
use super::scan::{Name, Scanner};
use crate::core::dead_letter::Reason;
use crate::core::leg::{FIELD_COUNT, FIELDS, Field, Kind, Leg, Value, position, position_of};
use crate::core::time::UtcMillis;

/// A row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// A leg that can be published; its status may be "In Progress".
    Leg(Box<Leg<'a>>),
    /// A call still going on: not completed and without a disconnect time.
    Unfinished,
    /// A row that cannot be published.
    Dead(Reason),
}

/// Parses a row's JSON text.
pub fn row(raw: &[u8]) -> Row<'_> {
    std::str::from_utf8(raw).map_or(Row::Dead(Reason::Unreadable), |text| row_in(text, None))
}

/// The same in the memory of a leg that is no longer needed: a leg is large, and millions of them are costly to allocate.
pub fn row_in<'a>(text: &'a str, spare: Option<Box<Leg<'a>>>) -> Row<'a> {
    let Some(mut leg) = fields(text, spare) else { return Row::Dead(Reason::Unreadable) };
    let usable = |position: usize| matches!(&leg.values[position], Value::Text(text) if !text.trim().is_empty());
    if !usable(position::CALL_ID) {
        return Row::Dead(Reason::CallId);
    }
    if !usable(position::LEG_ID) {
        return Row::Dead(Reason::LegId);
    }
    match leg.values[position::DISCONNECTED_TIME] {
        Value::Integer(millis) => {
            leg.disconnected = UtcMillis::new(millis);
            Row::Leg(leg)
        }
        // A disconnect time of 0 would be the API's way to say "not yet", as it is for connect times.
        _ if is_under_way(&leg.values[position::STATUS])
            && !leg.extra.iter().any(|(name, _)| name == FIELDS[position::DISCONNECTED_TIME].name) =>
        {
            Row::Unfinished
        }
        _ => Row::Dead(Reason::DisconnectTime),
    }
}

/// The fields of a row as far as they can be read, whether it is a leg or not; `None` where the row is no readable object.
pub fn fields_of(raw: &[u8]) -> Option<Box<Leg<'_>>> {
    fields(std::str::from_utf8(raw).ok()?, None)
}

/// A row that says what the leg says: reading it gives the same values, and the same `extra`. What is null is left out.
pub fn written(leg: &Leg<'_>) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let value = |(field, value): (&Field, &Value<'_>)| {
        let json = match value {
            Value::Null => return None,
            Value::Text(value) => text(value),
            Value::Integer(number) => number.to_string(),
            Value::TextList(texts) => {
                format!("[{}]", texts.iter().map(|item| text(item)).collect::<Vec<_>>().join(","))
            }
        };
        Some(format!("{}:{json}", text(field.name)))
    };
    let values = FIELDS.iter().zip(&leg.values).filter_map(value);
    let extra = leg.extra.iter().map(|(name, json)| format!("{}:{json}", text(name)));
    format!("{{{}}}", values.chain(extra).collect::<Vec<_>>().join(","))
}

fn is_under_way(status: &Value<'_>) -> bool {
    matches!(status, Value::Text(status) if !status.trim().is_empty() && !status.trim().eq_ignore_ascii_case("completed"))
}

/// The names of [`FIELDS`] as rows have them.
pub(super) static NAMES: [Name; FIELD_COUNT] = {
    let mut names = [const { Name::new("") }; FIELD_COUNT];
    let mut position = 0;
    while position < FIELD_COUNT {
        names[position] = Name::new(FIELDS[position].name);
        position += 1;
    }
    names
};

/// A bit for each field.
const ALL_PRESENT: u64 = (1 << FIELD_COUNT) - 1;

/// Reads every field into a leg whose disconnect time is not yet looked at; `None` when the row is no readable object.
fn fields<'a>(text: &'a str, spare: Option<Box<Leg<'a>>>) -> Option<Box<Leg<'a>>> {
    let mut leg = spare.unwrap_or_else(|| {
        let values = [const { Value::Null }; FIELD_COUNT];
        Box::new(Leg { values, extra: Vec::new(), disconnected: UtcMillis::new(0) })
    });
    // One bit a field that the row has: nearly all have all, so that emptying the leg first would be for nothing.
    let mut present = 0_u64;
    let mut extra = BTreeMap::new();
    let mut expected = 0;
    Scanner::new(text).members(*b"{}", |row| {
        let position = if NAMES.get(expected).is_some_and(|name| row.passes_name(name)) {
            expected
        } else {
            let name = row.text()?;
            if !row.passes(b':') {
                return None;
            }
            let Some(position) = position_of(&name, expected) else {
                extra.insert(name, Cow::Borrowed(row.value()?));
                return Some(());
            };
            position
        };
        expected = position + 1;
        present |= 1 << position;
        // Of a name that comes twice, the last one counts.
        if !extra.is_empty() {
            extra.remove(FIELDS[position].name);
        }
        let value = &mut leg.values[position];
        let start = row.clone();
        if !read(row, FIELDS[position].kind, value) {
            *row = start;
            let json = row.value()?;
            *value = unusual(position, json).unwrap_or_else(|| {
                extra.insert(Cow::Borrowed(FIELDS[position].name), Cow::Borrowed(json));
                Value::Null
            });
        }
        Some(())
    })?;
    leg.extra = extra.into_iter().collect();
    if present != ALL_PRESENT {
        let values = leg.values.iter_mut().enumerate();
        values.filter(|(position, _)| present & 1 << position == 0).for_each(|(_, value)| *value = Value::Null);
    }
    Some(leg)
}

/// Reads a value of this kind, or null, in its place; false for any other, after which the row has to be set back.
#[inline]
fn read<'a>(row: &mut Scanner<'a>, kind: Kind, value: &mut Value<'a>) -> bool {
    if row.passes_null() {
        *value = Value::Null;
        return true;
    }
    match kind {
        Kind::Text => match row.plain_text() {
            Some(text) => *value = Value::Text(Cow::Borrowed(text)),
            None => return row.text().map(|text| *value = Value::Text(text)).is_some(),
        },
        Kind::Integer | Kind::Instant => {
            return row.integer().and_then(|number| held(kind, number)).map(|held| *value = held).is_some();
        }
        Kind::TextList => {
            let mut texts = Vec::new();
            let list = row.members(*b"[]", |list| {
                texts.push(list.text()?);
                Some(())
            });
            *value = Value::TextList(texts);
            return list.is_some();
        }
    }
    true
}

/// What a value says that is not written as its field's values are; `None` where the field cannot hold it.
fn unusual(position: usize, json: &str) -> Option<Value<'_>> {
    match FIELDS[position].kind {
        kind @ (Kind::Integer | Kind::Instant) => held_in(kind, json),
        Kind::Text if matches!(position, position::CALL_ID | position::LEG_ID) => {
            digits(json).filter(|digits| !digits.starts_with('-')).map(Value::Text)
        }
        Kind::Text | Kind::TextList => None,
    }
}

#[cfg(test)]
mod tests;
