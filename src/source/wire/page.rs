//! A body is taken apart into rows, which stay raw text.
//!
//! So one bad row cannot spoil its neighbours, and a dead letter holds the very bytes the API sent.
//! Nothing here knows what a row means. A body of the usual form is cut in one pass; any other is cut
//! as far as the ends of its rows can be found. That there are no rows is believed of JSON only.

use std::ops::Range;

use serde::de::IgnoredAny;

use super::loose::{self, Loose};
use super::number::held_in;
use super::row::NAMES;
use super::scan::Scanner;
use crate::core::leg::{Kind, Value};

/// What some programs put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A page of the report: the body and where its rows lie in it.
#[derive(Clone, Debug)]
pub struct Page {
    body: String,
    rows: Vec<Range<usize>>,
    /// From where on no row's end can be found.
    rest: Option<Range<usize>>,
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

    /// How long a row is, in bytes; 0 where there is none.
    pub fn row_bytes(&self, index: usize) -> usize {
        self.rows.get(index).map_or(0, ExactSizeIterator::len)
    }

    /// The raw JSON text of a row; empty where there is none.
    pub fn row(&self, index: usize) -> &str {
        self.rows.get(index).map_or("", |range| &self.body[range.clone()])
    }

    /// What of the body cannot be told apart into rows; it comes behind all of them.
    pub fn rest(&self) -> Option<&str> {
        self.rest.clone().map(|rest| &self.body[rest])
    }

    /// Makes a row, the last one, of what cannot be told apart. No leg is read from it.
    pub fn bury_rest(&mut self) {
        self.rows.extend(self.rest.take().filter(|rest| !rest.is_empty()));
    }

    /// The raw JSON text of each row.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &str> {
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

/// Takes a body apart.
///
/// A body that is JSON but for broken UTF-8 is read with replacement characters: refusing it would
/// hold its window back for as long as the row exists.
pub fn page(mut body: Vec<u8>) -> Result<Page, NotAPage> {
    if body.starts_with(BYTE_ORDER_MARK) {
        body.drain(..BYTE_ORDER_MARK.len());
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(NotAPage::Empty);
    }
    // Checking is several times as fast as mending.
    let body = String::from_utf8(body).unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned());
    let Loose { rows, rest, meta } = match cut_usual(&body) {
        Some(cut) => cut,
        None => cut_any(&body)?,
    };
    let [total, cursor] = meta.map_or([None, None], loose::meta);
    let (total, cursor) = (total.and_then(count), cursor.and_then(cursor_text));
    Ok(Page { body, rows, rest, total, cursor })
}

/// Cuts a body of the usual form; `None` for any other, which may be a page all the same.
fn cut_usual(text: &str) -> Option<Loose<'_>> {
    let mut body = Scanner::new(text);
    let (mut rows, mut meta) = (None, None);
    body.members(*b"{}", |body| {
        let name = body.text()?;
        if !body.passes(b':') {
            return None;
        }
        match name.as_ref() {
            "data" if rows.is_none() => rows = Some(cut_rows(body, text.len())?),
            "meta" if meta.is_none() => meta = Some(body.value()?),
            "data" | "meta" => return None,
            _ => _ = body.value()?,
        }
        Some(())
    })?;
    let meta = meta.filter(|meta| meta.starts_with('{'));
    body.is_at_end().then_some(Loose { rows: rows?, rest: None, meta })
}

fn cut_rows(body: &mut Scanner<'_>, body_bytes: usize) -> Option<Vec<Range<usize>>> {
    let mut rows = Vec::with_capacity(body_bytes / ROW_BYTES_USUAL);
    body.members(*b"[]", |data| {
        data.peek()?;
        let start = data.at();
        pass_row(data)?;
        rows.push(start..data.at());
        Some(())
    })?;
    Some(rows)
}

/// About as long as a row is.
const ROW_BYTES_USUAL: usize = 1_200;

/// Passes a row, which names the fields in their order, or whatever stands in its place.
fn pass_row(data: &mut Scanner<'_>) -> Option<()> {
    if data.peek() != Some(b'{') {
        return data.value().map(|_| ());
    }
    let mut expected = 0;
    data.members(*b"{}", |row| {
        if NAMES.get(expected).is_some_and(|name| row.passes_name(name)) {
            expected += 1;
        } else if !(row.passes_any_text() && row.passes(b':')) {
            return None;
        }
        row.passes_value().then_some(())
    })
}

/// Cuts any body, or tells why it cannot.
fn cut_any(text: &str) -> Result<Loose<'_>, NotAPage> {
    match loose::cut(text) {
        Some(cut) if cut.rows.is_empty() && cut.rest.is_none() => json(text).map(|()| cut),
        Some(cut) => Ok(cut),
        None => json(text).and(Err(NotAPage::NoData)),
    }
}

/// A number of rows, however JSON writes it.
fn count(raw: &str) -> Option<u64> {
    let Some(Value::Integer(total)) = held_in(Kind::Integer, raw) else { return None };
    u64::try_from(total).ok()
}

/// A cursor is opaque; one that is a number is sent back as it came.
fn cursor_text(raw: &str) -> Option<String> {
    let is_number = serde_json::from_str::<serde_json::Number>(raw).is_ok();
    if is_number { Some(raw.to_owned()) } else { serde_json::from_str(raw).ok() }
}

/// Whether a body is JSON, or where it is not.
fn json(text: &str) -> Result<(), NotAPage> {
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else { return Ok(()) };
    let line_start = |line: usize| {
        text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').nth(line).map_or(0, |(index, _)| index + 1)
    };
    let start = error.line().checked_sub(2).map_or(0, line_start);
    Err(NotAPage::NotJson(start + error.column(), text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use serde_json::value::RawValue;

    use super::*;

    const SEED: &str = include_str!("../../../tests/data/seed-sample.json");

    /// Cuts a body as serde_json does; `None` where that refuses it, or a name comes twice.
    fn cut_strictly(text: &str) -> Option<Loose<'_>> {
        #[derive(serde::Deserialize)]
        struct Reply<'a> {
            #[serde(borrow, default)]
            meta: Option<&'a RawValue>,
            #[serde(borrow, default)]
            data: Option<Vec<&'a RawValue>>,
        }
        let reply: Reply<'_> = serde_json::from_str(text).ok()?;
        let place = |row: &RawValue| {
            let start = row.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + row.get().len()
        };
        let meta = reply.meta.map(RawValue::get).filter(|meta| meta.starts_with('{'));
        Some(Loose { rows: reply.data?.into_iter().map(place).collect(), rest: None, meta })
    }

    /// Whether the usual way cut the text; if so, it must have cut as serde_json does. So must the loose way, wherever
    /// serde_json cuts at all.
    fn is_usual(text: &str) -> Result<bool, TestCaseError> {
        let (usual, strict) = (cut_usual(text), cut_strictly(text));
        if strict.is_some() {
            prop_assert_eq!(&loose::cut(text), &strict, "{}", text);
        }
        let is_usual = usual.is_some();
        prop_assert!(!is_usual || usual == strict, "{text}");
        Ok(is_usual)
    }

    #[test]
    fn what_the_api_sends_is_cut_the_usual_way() {
        let compact = serde_json::from_str::<serde_json::Value>(SEED).unwrap().to_string();
        for text in
            [SEED, &compact, r#"{"meta":{},"data":[]}"#, r#"{"data":[{"a":["\u00e9",1.5,{}]},null,7],"more":{}}"#]
        {
            assert!(is_usual(text).unwrap(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_damaged_body_is_cut_as_serde_json_cuts_it_or_not_at_all(
            damage in vec((any::<Index>(), 0..3_usize, select(br#" {}[]:,"\-019.eEnutx"#.to_vec())), 1..4),
        ) {
            let mut body = serde_json::from_str::<serde_json::Value>(SEED).unwrap().to_string().into_bytes();
            for (at, removed, byte) in damage {
                let at = at.index(body.len() - 2);
                body.splice(at..at + removed, (removed < 2).then_some(byte));
            }
            is_usual(&String::from_utf8(body).unwrap())?;
        }

        #[test]
        fn any_body_is_cut_as_serde_json_cuts_it_or_not_at_all(
            members in vec((
                select(vec!["data", "meta", "d\\u0061ta", "other"]),
                select(vec![
                    "[]", "[ ]", "[,]", "[1,]", "null", "[null, true ,1.0]", r#"[{"a" : "b\n"}, {"callId":"1","legId":"2"} ]"#,
                    r#"[{"a":"\ud800"}]"#, r#"[{"a":"\x"}]"#, r#"[{"a":01}]"#, r#"[{"a":-0}]"#, r#"[{"a":1]"#, r#"[{"a"}]"#,
                    "[{},{\"callId\":\"\t\"}]", r#"[{"callId":"1" "legId":"2"}]"#, r#"[{"callId":"1",}]"#, "[[[]],{\"a\":{\"b\":[]}}]",
                    r#"{"totalRecordCount":3,"scrollId":"x"}"#, r#"{"totalRecordCount":"3"}"#, r#"{"scrollId":1,"scrollId":2}"#,
                    r#"[1,"x"]"#, "{}", "7", r#""text""#,
                ]),
                select(vec!["", "", " ", "\n"]),
            ), 0..4),
            after in select(vec!["", "", "", "\n", "x", "}"]),
        ) {
            let members: Vec<String> =
                members.into_iter().map(|(name, value, space)| format!("{space}\"{name}\"{space}:{space}{value}{space}")).collect();
            is_usual(&format!("{{{}}}{after}", members.join(",")))?;
        }
    }

    #[test]
    fn bodies_that_are_no_page_say_why() {
        let not_a_page = |body: &'static str| page(body.into()).map(|_| ()).unwrap_err();
        assert_eq!(not_a_page(" \n"), NotAPage::Empty);
        assert_eq!(not_a_page("<html>\n<body>"), NotAPage::NotJson(1, 13));
        assert_eq!(not_a_page("{\n \"meta\": {},\n \"data\": "), NotAPage::NotJson(24, 24));
        assert_eq!(not_a_page(r#"{"meta":{}}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":{}}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":null}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"meta":{}} rubbish"#), NotAPage::NotJson(13, 19));
    }

    #[test]
    fn odd_meta_is_no_reason_to_refuse_rows() {
        let odd = |meta: &str| {
            let bodies = [format!(r#"{{"meta":{meta},"data":[1]}}"#), format!(r#"{{"data":[1],"meta":{meta}}}"#)];
            let [first, second] =
                bodies.map(|body| page(body.into()).map(|page| (page.len(), page.total, page.cursor)).unwrap());
            assert_eq!(first, second, "{meta}");
            assert_eq!(first.0, 1, "{meta}");
            (first.1, first.2)
        };
        for meta in [
            "null",
            "\"ok\"",
            "7",
            "true",
            "[]",
            "[5,\"x\"]",
            "{}",
            "[{\"totalRecordCount\":5}]",
            r#"{"totalRecordCount":null,"scrollId":null}"#,
        ] {
            assert_eq!(odd(meta), (None, None), "{meta}");
        }
        for (total, expected) in [
            ("10", Some(10)),
            ("10.0", Some(10)),
            ("1e1", Some(10)),
            (r#""10""#, Some(10)),
            (r#"" 10.0 ""#, Some(10)),
            ("0", Some(0)),
            ("9007199254740991", Some(9_007_199_254_740_991)),
            ("18446744073709551615", None),
            ("-1", None),
            ("10.5", None),
            ("1e300", None),
            ("NaN", None),
            (r#""inf""#, None),
            (r#""many""#, None),
            ("true", None),
            ("[10]", None),
            ("{}", None),
        ] {
            assert_eq!(
                odd(&format!(r#"{{"totalRecordCount":{total},"scrollId":"x"}}"#)),
                (expected, Some("x".to_owned())),
                "{total}"
            );
        }
        for (cursor, expected) in [
            (r#""a\u0062""#, Some("ab")),
            ("7", Some("7")),
            ("1.50", Some("1.50")),
            ("false", None),
            ("{}", None),
            (r#"["x"]"#, None),
            (r#""\ud800""#, None),
            ("undefined", None),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(
                odd(&format!(r#"{{"scrollId":{cursor},"totalRecordCount":3}}"#)),
                (Some(3), expected),
                "{cursor}"
            );
        }
        assert_eq!(
            odd(r#"{"scrollId":"a","scrollId":"b","totalRecordCount":1,"totalRecordCount":2}"#),
            (Some(2), Some("b".to_owned()))
        );
        let page = page(r#"{"data":[1]}"#.into()).unwrap();
        assert_eq!((page.len(), page.total, page.cursor), (1, None, None));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_is_nothing_by_itself() {
        let marked = |body: &str| page([BYTE_ORDER_MARK, body.as_bytes()].concat());
        assert_eq!(
            marked(SEED).unwrap().rows().collect::<Vec<_>>(),
            page(SEED.into()).unwrap().rows().collect::<Vec<_>>()
        );
        assert_eq!(marked("").unwrap_err(), NotAPage::Empty);
        assert_eq!(marked(r#"{"meta":"ok","data":[]}"#).unwrap().len(), 0);
    }

    #[test]
    fn that_there_are_no_rows_is_believed_of_json_only() {
        for body in [r#"{"data":[]"#, r#"{"data":[],}"#, r#"{"data":[,]}"#, r#"{"data":[],"a":NaN}"#] {
            assert!(matches!(page(body.into()), Err(NotAPage::NotJson(..))), "{body}");
        }
        for body in [r#"{"data":[],"data":[]}"#, r#"{"data":[],"meta":7}"#, r#" {"d\u0061ta":[ ]}"#] {
            assert_eq!(page(body.into()).unwrap().len(), 0, "{body}");
        }
        let torn = page(r#"{"data":[]} x"#.into()).unwrap();
        assert_eq!((torn.len(), torn.rest()), (0, Some("x")));
    }

    #[test]
    fn broken_utf8_is_mended_and_does_not_hold_the_page_back() {
        let page = page(b"{\"data\":[{\"a\":\"\xff\"}]}".to_vec()).unwrap();
        assert_eq!(page.rows().next(), Some("{\"a\":\"\u{fffd}\"}"));
    }
}
