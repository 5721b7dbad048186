//! Rows recorded from the real API, kept as the texts they are.
//!
//! Only what a query filters and orders by is read out of them, and leniently: a row may lack
//! anything and hold anything.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Entry, Filter, Shown};

/// Why a recording cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is no JSON.
    #[error("the recording is not JSON")]
    Json(#[from] serde_json::Error),
    /// A top-level value, or an element of `data`, is no object.
    #[error("value {number} of the recording is neither a reply nor a row")]
    NoRow {
        /// Which value, counted from 1.
        number: usize,
    },
    /// A row has neither a start nor a disconnect time, so no query could find it.
    #[error("row {number} of the recording has neither startTimeUTC nor disconnectedTimeUTC")]
    NoTime {
        /// Which row, counted from 1.
        number: usize,
    },
    /// There is no row at all.
    #[error("the recording has no rows")]
    Empty,
}

#[derive(Debug)]
struct Row {
    json: String,
    call: String,
    leg: String,
    pbx: u16,
    start: i64,
    connect: Option<i64>,
    end: Option<i64>,
    caller: String,
    callee: String,
    is_detail: bool,
}

/// The rows in the reply's order.
#[derive(Debug)]
pub(super) struct Recorded {
    rows: Vec<Row>,
    pbxes: Vec<String>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

impl Recorded {
    pub(super) fn parse(text: &str) -> Result<Self, ReplayError> {
        let mut raw = Vec::new();
        for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
            collect(value?, &mut raw);
        }
        let mut recorded = Self { rows: Vec::with_capacity(raw.len()), pbxes: Vec::new() };
        let mut known = HashMap::new();
        for (index, json) in raw.into_iter().enumerate() {
            let row = recorded.read(json, index + 1)?;
            let identity = (row.pbx, row.call.clone(), row.leg.clone());
            let named = !row.call.is_empty() && !row.leg.is_empty();
            match known.get(&identity) {
                Some(&place) if named => recorded.rows[place] = row,
                _ => {
                    known.insert(identity, recorded.rows.len());
                    recorded.rows.push(row);
                }
            }
        }
        if recorded.rows.is_empty() {
            return Err(ReplayError::Empty);
        }
        recorded.rows.sort_by(|a, b| (Reverse(a.start), &a.call, &a.leg).cmp(&(Reverse(b.start), &b.call, &b.leg)));
        Ok(recorded)
    }

    fn read(&mut self, json: &str, number: usize) -> Result<Row, ReplayError> {
        // Field by field as raw text: a number that no double can hold must not stop the row.
        let fields: HashMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(json).map_err(|_| ReplayError::NoRow { number })?;
        let value = |name: &str| {
            let raw = fields.get(name).map(|raw| raw.get());
            raw.and_then(|raw| serde_json::from_str::<Value>(raw).ok()).unwrap_or_default()
        };
        let text = |name: &str| match value(name) {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let instant = |name: &str| instant(&value(name)).filter(|ms| *ms > 0);
        let end = instant("disconnectedTimeUTC");
        let start = instant("startTimeUTC").or(end).ok_or(ReplayError::NoTime { number })?;
        let callee = text("callee");
        let is_child = !text("parentCallId").is_empty() && text("transferToCallId").is_empty();
        let is_part = ["CallForking", "CallRecording"].iter().any(|of| callee.starts_with(of));
        Ok(Row {
            json: json.to_owned(),
            call: text("callId"),
            leg: text("legId"),
            pbx: self.pbx(text("pbxId")),
            start,
            connect: instant("connectTimeUTC"),
            end,
            caller: text("caller"),
            callee,
            is_detail: is_child || is_part,
        })
    }

    fn pbx(&mut self, name: String) -> u16 {
        let place = self.pbxes.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.pbxes.push(name);
            self.pbxes.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    pub(super) fn pbxes(&self) -> &[String] {
        &self.pbxes
    }

    pub(super) fn select(&self, filter: &Filter) -> Vec<Entry> {
        let rows = self.rows.iter().enumerate().filter(|(_, row)| {
            filter.pbxes.contains(&row.pbx)
                && !(filter.simplified && row.is_detail)
                && filter.admits(&row.caller, &row.callee)
        });
        rows.map(|(rank, row)| row.entry(rank, filter.shows(row.start, row.connect, row.end)))
            .filter(|entry| entry.shown.finished)
            .collect()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let rows = self.rows.iter().enumerate().filter(|(_, row)| row.end.is_some());
        rows.map(|(rank, row)| row.entry(rank, Shown::ALWAYS))
    }

    fn row(&self, entry: &Entry) -> &Row {
        &self.rows[usize::try_from(entry.place).unwrap_or(usize::MAX)]
    }

    pub(super) fn json(&self, entry: &Entry) -> &str {
        &self.row(entry).json
    }

    pub(super) fn ids(&self, entry: &Entry) -> (String, String) {
        let row = self.row(entry);
        (row.call.clone(), row.leg.clone())
    }

    pub(super) fn pbx_and_end(&self, entry: &Entry) -> (u16, Option<i64>) {
        let row = self.row(entry);
        (row.pbx, row.end)
    }
}

impl Row {
    fn entry(&self, rank: usize, shown: Shown) -> Entry {
        Entry {
            start: self.start,
            visible_at: self.end.unwrap_or(self.start),
            call: rank as u64,
            place: rank as u64,
            leg: 0,
            shown: Shown { unfinished: false, ..shown },
        }
    }
}

/// A whole number, whatever it is written as.
fn instant(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
            #[expect(clippy::cast_possible_truncation, reason = "what is larger is no time, nor is the largest number")]
            Some(number as i64)
        }),
        Value::String(text) => instant(&serde_json::from_str::<Value>(text.trim()).ok().filter(Value::is_number)?),
        _ => None,
    }
}

/// Adds the rows of a reply, of an array of them, or the row itself.
fn collect<'a>(value: &'a RawValue, rows: &mut Vec<&'a str>) {
    if let Ok(reply) = serde_json::from_str::<Reply<'a>>(value.get()) {
        rows.extend(reply.data.iter().map(|row| row.get()));
    } else if let Ok(values) = serde_json::from_str::<Vec<&'a RawValue>>(value.get()) {
        for value in values {
            collect(value, rows);
        }
    } else {
        rows.push(value.get());
    }
}
