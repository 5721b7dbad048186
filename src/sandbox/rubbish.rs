//! Rows that are rubbish: a share of the legs is served with a spoilt row.
//!
//! A row's rubbish belongs to the row, not to the request: every read shows the same one, until it
//! is mended, which happens to half of them.

use serde_json::{Map, Value, json};

use super::dataset::Facts;
use super::dice::{Dice, mix_text};

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rubbish {
    /// The row has no `callId`.
    NoCallId,
    /// Strings are numbers, numbers are texts, lists are objects.
    WrongTypes,
    /// `legId` is a number; whoever reads leniently can still use the row.
    NumericLegId,
    /// There are fields that nobody knows; the row is otherwise in order.
    UnknownFields,
    /// The row is `null`.
    Null,
}

impl Rubbish {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::NoCallId, Self::WrongTypes, Self::NumericLegId, Self::UnknownFields, Self::Null];

    /// Appends what is left of the row.
    pub(super) fn spoil(self, row: &str, out: &mut String) {
        let mut fields: Map<String, Value> = serde_json::from_str(row).unwrap_or_default();
        match self {
            Self::NoCallId => {
                fields.shift_remove("callId");
            }
            Self::WrongTypes => {
                fields.insert("callId".to_owned(), json!(["no", "text"]));
                fields.insert("disconnectedTimeUTC".to_owned(), json!("yesterday"));
                fields.insert("departments".to_owned(), json!({"0": "Sales"}));
                fields.insert("talkTimeMS".to_owned(), json!(true));
            }
            Self::NumericLegId => {
                let leg = fields.get("legId").and_then(Value::as_str).and_then(|id| id.parse().ok());
                fields.insert("legId".to_owned(), json!(leg.unwrap_or(1_i64)));
            }
            Self::UnknownFields => {
                fields.insert("sentiment".to_owned(), json!({"score": 0.25, "tags": ["calm"]}));
                fields.insert("hopCount".to_owned(), json!(12_345_678_901_234_567_890_u64));
            }
            Self::Null => {
                out.push_str("null");
                return;
            }
        }
        out.push_str(&Value::Object(fields).to_string());
    }
}

/// Which rows are spoilt.
#[derive(Debug)]
pub(super) struct Spoiler {
    pub(super) seed: u64,
    pub(super) share: f64,
}

/// Within which time after it became visible a row is mended, if ever.
const MENDED_WITHIN_MS: i64 = 10 * 60 * 1_000;

impl Spoiler {
    /// What is wrong with the leg's row and when it is mended, if anything is wrong.
    pub(super) fn verdict(&self, leg: &Facts, visible_at: i64) -> Option<(Rubbish, Option<i64>)> {
        if self.share <= 0.0 {
            return None;
        }
        let call = mix_text(self.seed, &leg.call);
        let mut dice = Dice::of(&[call, mix_text(1, &leg.leg), mix_text(2, &leg.pbx)]);
        if !dice.chance(self.share) {
            return None;
        }
        let kind = dice.pick(&Rubbish::ALL);
        let mended = dice.below(2) == 0;
        Some((kind, mended.then(|| visible_at + dice.millis(1, MENDED_WITHIN_MS))))
    }
}
