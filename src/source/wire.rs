//! From the API's JSON to rows: a page taken apart, a row parsed, a bad row as a value.
//!
//! A page is first cut into rows that stay raw text, so that one bad row cannot spoil its
//! neighbours and a dead letter holds the very bytes the API sent. A row is then parsed in one pass
//! that borrows from the page. The rare row with an unknown field or an unexpected type is parsed a
//! second time, field by field, which keeps the text of what does not fit.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::core::dead_letter::Reason;
use crate::core::leg::{FIELD_COUNT, FIELDS, Kind, Leg, Value, position, position_of};
use crate::core::time::UtcMillis;

/// A page of the report: the body and where its rows lie in it.
#[derive(Clone, Debug)]
pub struct Page {
    body: Bytes,
    rows: Vec<Range<usize>>,
    /// How many rows the whole query has, as this page announces it.
    pub total: Option<u64>,
    /// Where the next page starts.
    pub cursor: Option<String>,
}

impl Page {
    /// How many rows the page holds.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How much memory its body takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }

    /// The raw JSON text of a row; empty where there is none.
    pub fn row(&self, index: usize) -> &[u8] {
        self.rows.get(index).map_or(&[], |range| &self.body[range.clone()])
    }

    /// The raw JSON text of each row.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.rows.iter().map(|range| &self.body[range.clone()])
    }
}

/// Why a body is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPage {
    /// Nothing came.
    #[error("the body is empty")]
    Empty,
    /// Not JSON, or cut short.
    #[error("the body is not JSON, or was cut short, near byte {0} of {1}")]
    NotJson(usize, usize),
    /// JSON, but nothing under `data`.
    #[error("the body is JSON without the array `data`")]
    NoData,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    meta: Option<Meta<'a>>,
    #[serde(borrow, default)]
    data: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "totalRecordCount")]
    total: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "scrollId")]
    cursor: Option<&'a RawValue>,
}

/// Takes a body apart.
///
/// A body that is JSON but for broken UTF-8 is read with replacement characters: refusing it would
/// hold its window back for as long as the row exists.
pub fn page(body: Bytes) -> Result<Page, NotAPage> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(NotAPage::Empty);
    }
    let body = match String::from_utf8_lossy(&body) {
        Cow::Borrowed(_) => body,
        Cow::Owned(mended) => Bytes::from(mended),
    };
    let reply: Reply<'_> = serde_json::from_slice(&body).map_err(|error| not_json(&body, &error))?;
    let data = reply.data.ok_or(NotAPage::NoData)?;
    let body_start = body.as_ptr() as usize;
    let rows = data
        .into_iter()
        .map(|row| {
            // The raw text is a slice of the body, so its distance from the body's start is its place.
            let start = row.get().as_ptr() as usize - body_start;
            start..start + row.get().len()
        })
        .collect();
    let (total, cursor) = reply.meta.map_or((None, None), |meta| (meta.total, meta.cursor));
    let total = total.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let cursor = cursor.and_then(cursor_text);
    Ok(Page { body, rows, total, cursor })
}

/// A cursor is opaque; one that is a number is sent back as it came.
fn cursor_text(raw: &RawValue) -> Option<String> {
    match serde_json::from_str(raw.get()) {
        Ok(Some(text)) => Some(text),
        Ok(None) => None,
        Err(_) => Some(raw.get().to_owned()),
    }
}

fn not_json(body: &[u8], error: &serde_json::Error) -> NotAPage {
    if error.is_data() {
        return NotAPage::NoData;
    }
    let line_start = |line: usize| {
        body.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(line).map_or(0, |(index, _)| index + 1)
    };
    let start = error.line().checked_sub(2).map_or(0, line_start);
    NotAPage::NotJson(start + error.column(), body.len())
}

/// A row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// A leg that can be published.
    Leg(Box<Leg<'a>>),
    /// A call still going on: not completed and without a disconnect time.
    Unfinished,
    /// A row that cannot be published.
    Dead(Reason),
}

/// Parses a row's JSON text.
pub fn row(raw: &[u8]) -> Row<'_> {
    let fields = parse_regular(raw).or_else(|| parse_irregular(raw));
    let Some(Fields { values, extra }) = fields else { return Row::Dead(Reason::Unreadable) };
    let usable = |position: usize| matches!(&values[position], Value::Text(text) if !text.trim().is_empty());
    if !usable(position::CALL_ID) {
        return Row::Dead(Reason::CallId);
    }
    if !usable(position::LEG_ID) {
        return Row::Dead(Reason::LegId);
    }
    match values[position::DISCONNECTED_TIME] {
        Value::Integer(millis) if (1..=LAST_INSTANT_MS).contains(&millis) => {
            Row::Leg(Box::new(Leg { values, extra, disconnected: UtcMillis::new(millis) }))
        }
        // A disconnect time of 0 would be the API's way to say "not yet", as it is for connect times.
        Value::Null | Value::Integer(0)
            if is_under_way(&values[position::STATUS])
                && !extra.iter().any(|(name, _)| name == FIELDS[position::DISCONNECTED_TIME].name) =>
        {
            Row::Unfinished
        }
        _ => Row::Dead(Reason::DisconnectTime),
    }
}

/// The end of the year 9999: an instant beyond is microseconds or rubbish.
const LAST_INSTANT_MS: i64 = 253_402_300_799_999;

fn is_under_way(status: &Value<'_>) -> bool {
    matches!(status, Value::Text(status) if !status.trim().is_empty() && !status.trim().eq_ignore_ascii_case("completed"))
}

struct Fields<'a> {
    values: [Value<'a>; FIELD_COUNT],
    extra: Vec<(Cow<'a, str>, Cow<'a, str>)>,
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
        Ok(Fields { values, extra: Vec::new() })
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
        Ok(Fields { values, extra: extra.into_iter().collect() })
    }
}

fn is_id(position: usize) -> bool {
    matches!(position, position::CALL_ID | position::LEG_ID)
}

fn is_whole_number(json: &str) -> bool {
    !json.is_empty() && json.bytes().all(|byte| byte.is_ascii_digit())
}

/// The fields of an error body that say what is wrong, from any of the API's three shapes.
#[derive(Debug, Default)]
pub struct ErrorBody {
    /// `code`, such as `SHA001`.
    pub code: String,
    /// `error`, such as `invalid_grant`.
    pub error: String,
    /// `message`, `error_description` or `exception`.
    pub text: String,
}

/// Reads an error body leniently; anything else than the known shapes gives empty fields.
pub fn error_body(body: &[u8]) -> ErrorBody {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return ErrorBody::default() };
    let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let texts = ["exception", "error_description", "message"].map(text);
    ErrorBody {
        code: text("code"),
        error: text("error"),
        text: texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
    }
}

/// The reply to the token call.
#[derive(Deserialize)]
pub struct TokenReply {
    /// The bearer token.
    pub access_token: secrecy::SecretString,
    /// Its life in seconds.
    #[serde(default)]
    pub expires_in: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = include_str!("../../tests/data/seed-sample.json");

    fn seed_page() -> Page {
        page(Bytes::from_static(SEED.as_bytes())).unwrap()
    }

    fn leg(raw: &str) -> Leg<'_> {
        match row(raw.as_bytes()) {
            Row::Leg(leg) => *leg,
            other => panic!("expected a leg, got {other:?}"),
        }
    }

    /// The first row of the sample with `from` replaced by `to`.
    fn edited(from: &str, to: &str) -> String {
        let page = seed_page();
        let row = String::from_utf8(page.rows().next().unwrap().to_vec()).unwrap();
        assert!(row.contains(from), "{from}");
        row.replace(from, to)
    }

    #[test]
    fn the_vendors_sample_is_two_regular_legs() {
        let page = seed_page();
        assert_eq!((page.len(), page.total), (2, Some(2)));
        assert_eq!(page.cursor.as_deref(), Some("c3VwZXJ0ZW5hbnRjc21fMTYzNTU3MTA0ODM0NV8xXzE2NDM4OTc0OTI5MDM"));
        for raw in page.rows() {
            let Row::Leg(leg) = row(raw) else { panic!() };
            let json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(raw).unwrap();
            assert_eq!(json.len(), FIELD_COUNT);
            assert_eq!(leg.extra, []);
            for ((name, expected), (field, value)) in json.iter().zip(FIELDS.iter().zip(&leg.values)) {
                assert_eq!(name, field.name, "the table has the reply's order");
                let value = match value {
                    Value::Null => serde_json::Value::Null,
                    Value::Text(text) => text.as_ref().into(),
                    Value::Integer(number) => (*number).into(),
                    Value::TextList(texts) => texts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().into(),
                };
                assert_eq!(value, *expected, "{name}");
            }
        }
    }

    #[test]
    fn unexpected_types_and_unknown_fields_are_kept_as_json_text() {
        let raw = edited(r#""talkTimeMS": 0"#, r#""talkTimeMS": 1.50, "brandNew": {"a": [1, 2]}"#)
            .replace(r#""callerName": "MARK SMITH""#, r#""callerName": 12345678901234567890123"#)
            .replace(r#""lra": "120088""#, r#""lra": "\ud800""#);
        let leg = leg(&raw);
        let extra: Vec<(&str, &str)> = leg.extra.iter().map(|(name, json)| (name.as_ref(), json.as_ref())).collect();
        assert_eq!(
            extra,
            [
                ("brandNew", r#"{"a": [1, 2]}"#),
                ("callerName", "12345678901234567890123"),
                ("lra", r#""\ud800""#),
                ("talkTimeMS", "1.50")
            ]
        );
        assert_eq!(leg.values[8], Value::Null);
        assert_eq!(leg.call_id(), "1635571048351");
    }

    #[test]
    fn lists_with_anything_but_texts_are_kept_as_json_text() {
        let raw = edited("\"Sales Engineering\"", "\"Sales\", null");
        let list = leg(&raw).extra.into_iter().next().unwrap();
        assert_eq!(list.0, "departments");
        assert!(list.1.contains("null"));
    }

    #[test]
    fn numeric_ids_are_taken_as_their_decimal_text() {
        let raw = edited(r#""callId": "1635571048351""#, r#""callId": 123456789012345678901234567890"#)
            .replace(r#""legId": "1""#, r#""legId": 1"#);
        let leg = leg(&raw);
        assert_eq!((leg.call_id(), leg.leg_id()), ("123456789012345678901234567890", "1"));
        assert_eq!(leg.extra, []);
    }

    #[test]
    fn rows_that_cannot_be_published_say_why() {
        let call_id = r#""callId": "1635571048351""#;
        let ended = r#""disconnectedTimeUTC": 1643898472253"#;
        for (raw, expected) in [
            ("null".to_owned(), Reason::Unreadable),
            ("[1]".to_owned(), Reason::Unreadable),
            (r#""text""#.to_owned(), Reason::Unreadable),
            ("{}".to_owned(), Reason::CallId),
            (edited(call_id, r#""callId": null"#), Reason::CallId),
            (edited(call_id, r#""callId": "  ""#), Reason::CallId),
            (edited(call_id, r#""callId": 1.5"#), Reason::CallId),
            (edited(call_id, r#""callId": {"a": 1}"#), Reason::CallId),
            (edited(r#""legId": "1","#, ""), Reason::LegId),
            (edited(ended, r#""disconnectedTimeUTC": "1643898472253""#), Reason::DisconnectTime),
            (edited(ended, r#""disconnectedTimeUTC": null"#), Reason::DisconnectTime),
            (edited(ended, r#""disconnectedTimeUTC": -1"#), Reason::DisconnectTime),
            (edited(ended, r#""disconnectedTimeUTC": 1643898472253000"#), Reason::DisconnectTime),
        ] {
            assert_eq!(row(raw.as_bytes()), Row::Dead(expected), "{raw}");
        }
    }

    #[test]
    fn a_call_under_way_is_unfinished_unless_its_disconnect_time_is_rubbish() {
        let under_way =
            |ended: &str| edited(r#""disconnectedTimeUTC": 1643898472253"#, ended).replace("Completed", "In Progress");
        for ended in [r#""disconnectedTimeUTC": null"#, r#""disconnectedTimeUTC": 0"#, r#""x": 1"#] {
            assert_eq!(row(under_way(ended).as_bytes()), Row::Unfinished, "{ended}");
        }
        assert_eq!(row(under_way(r#""disconnectedTimeUTC": "soon""#).as_bytes()), Row::Dead(Reason::DisconnectTime));
        assert!(
            matches!(row(under_way(r#""disconnectedTimeUTC": 5"#).as_bytes()), Row::Leg(_)),
            "it has a disconnect time"
        );
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_one_counts() {
        let raw = edited(r#""talkTimeMS": 0"#, r#""talkTimeMS": "odd", "talkTimeMS": 7"#);
        let leg = leg(&raw);
        assert_eq!((&leg.values[8], leg.extra.len()), (&Value::Integer(7), 0));
    }

    #[test]
    fn bodies_that_are_no_page_say_why() {
        let not_a_page = |body: &'static str| page(Bytes::from_static(body.as_bytes())).map(|_| ()).unwrap_err();
        assert_eq!(not_a_page(" \n"), NotAPage::Empty);
        assert_eq!(not_a_page("<html>\n<body>"), NotAPage::NotJson(1, 13));
        assert_eq!(not_a_page("{\n \"meta\": {},\n \"data\": [{\"a\": 1}, {\"b\""), NotAPage::NotJson(39, 39));
        assert_eq!(not_a_page(r#"{"meta":{}}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":{}}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":null}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":[]} rubbish"#), NotAPage::NotJson(13, 19));
    }

    #[test]
    fn odd_meta_is_no_reason_to_refuse_rows() {
        let odd = |body: &'static str| {
            page(Bytes::from_static(body.as_bytes())).map(|page| (page.len(), page.total, page.cursor)).unwrap()
        };
        assert_eq!(
            odd(r#"{"data":[1],"meta":{"totalRecordCount":"5","scrollId":7}}"#),
            (1, None, Some("7".to_owned()))
        );
        assert_eq!(odd(r#"{"data":[1],"meta":null}"#), (1, None, None));
        assert_eq!(odd(r#"{"data":[1]}"#), (1, None, None));
        assert_eq!(odd(r#"{"data":[],"meta":{"totalRecordCount":null,"scrollId":null}}"#), (0, None, None));
    }

    #[test]
    fn broken_utf8_is_mended_and_does_not_hold_the_page_back() {
        let page = page(Bytes::from_static(b"{\"data\":[{\"a\":\"\xff\"}]}")).unwrap();
        assert_eq!(page.rows().next(), Some("{\"a\":\"\u{fffd}\"}".as_bytes()));
    }

    #[test]
    fn the_three_error_shapes_and_rubbish() {
        let read = |body: &str| {
            let ErrorBody { code, error, text } = error_body(body.as_bytes());
            (code, error, text)
        };
        let owned = |code: &str, error: &str, text: &str| (code.to_owned(), error.to_owned(), text.to_owned());
        assert_eq!(
            read(r#"{"status":400,"message":"Invalid 8x8-apikey","code":"SHA001"}"#),
            owned("SHA001", "", "Invalid 8x8-apikey")
        );
        assert_eq!(
            read(r#"{"error_description":"USER_NOTFOUND_ERROR","error":"invalid_grant"}"#),
            owned("", "invalid_grant", "USER_NOTFOUND_ERROR")
        );
        assert_eq!(
            read(r#"{"status":403,"error":"Access Denied","exception":"why","message":"m"}"#),
            owned("", "Access Denied", "why")
        );
        assert_eq!(read("<html>"), owned("", "", ""));
    }
}
