//! A body is taken apart into rows, which stay raw text.
//!
//! So one bad row cannot spoil its neighbours, and a dead letter holds the very bytes the API sent.
//! Nothing here knows what a row means; but that the body is JSON to its last byte is seen to before
//! any row is used.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::row::NAMES;
use super::scan::Scanner;

/// A page of the report: the body and where its rows lie in it.
#[derive(Clone, Debug)]
pub struct Page {
    body: String,
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

    /// How long a row is, in bytes; 0 where there is none.
    pub fn row_bytes(&self, index: usize) -> usize {
        self.rows.get(index).map_or(0, ExactSizeIterator::len)
    }

    /// The raw JSON text of a row; empty where there is none.
    pub fn row(&self, index: usize) -> &str {
        self.rows.get(index).map_or("", |range| &self.body[range.clone()])
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
pub fn page(body: Vec<u8>) -> Result<Page, NotAPage> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(NotAPage::Empty);
    }
    // Checking is several times as fast as mending.
    let body = String::from_utf8(body).unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned());
    let Cut { rows, meta } = match cut_usual(&body) {
        Some(cut) => cut,
        None => cut_any(&body)?,
    };
    let (total, cursor) = meta.map_or((None, None), |meta| (meta.total, meta.cursor));
    let total = total.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let cursor = cursor.and_then(cursor_text);
    Ok(Page { body, rows, total, cursor })
}

/// Where the rows are, and what is said of the whole query.
struct Cut<'a> {
    rows: Vec<Range<usize>>,
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "totalRecordCount")]
    total: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "scrollId")]
    cursor: Option<&'a RawValue>,
}

/// Cuts a body of the usual form; `None` for any other, which may be a page all the same.
fn cut_usual(text: &str) -> Option<Cut<'_>> {
    let mut body = Scanner::new(text);
    let (mut rows, mut meta) = (None, None);
    body.members(*b"{}", |body| {
        let name = body.text()?;
        if !body.passes(b':') {
            return None;
        }
        match name.as_ref() {
            "data" if rows.is_none() => rows = Some(cut_rows(body, text.len())?),
            "meta" if meta.is_none() => meta = Some(serde_json::from_str(body.value()?).ok()?),
            "data" | "meta" => return None,
            _ => _ = body.value()?,
        }
        Some(())
    })?;
    body.is_at_end().then_some(Cut { rows: rows?, meta: meta.flatten() })
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

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    meta: Option<Meta<'a>>,
    #[serde(borrow, default)]
    data: Option<Vec<&'a RawValue>>,
}

/// Cuts any body, or tells why it cannot.
fn cut_any(text: &str) -> Result<Cut<'_>, NotAPage> {
    let reply: Reply<'_> = serde_json::from_str(text).map_err(|error| not_json(text.as_bytes(), &error))?;
    let data = reply.data.ok_or(NotAPage::NoData)?;
    let start = text.as_ptr() as usize;
    let place = |row: &RawValue| {
        // The raw text is a slice of the body, so its distance from the body's start is its place.
        let start = row.get().as_ptr() as usize - start;
        start..start + row.get().len()
    };
    Ok(Cut { rows: data.into_iter().map(place).collect(), meta: reply.meta })
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    const SEED: &str = include_str!("../../../tests/data/seed-sample.json");

    /// What of a cut is compared.
    fn told(cut: &Cut<'_>) -> (Vec<Range<usize>>, Option<[Option<String>; 2]>) {
        let meta =
            cut.meta.as_ref().map(|meta| [meta.total, meta.cursor].map(|raw| raw.map(|raw| raw.get().to_owned())));
        (cut.rows.clone(), meta)
    }

    /// Whether the usual way cut the text; if so, it must have cut as serde_json does.
    fn is_usual(text: &str) -> Result<bool, TestCaseError> {
        let Some(usual) = cut_usual(text) else { return Ok(false) };
        let any = cut_any(text);
        prop_assert!(any.is_ok(), "serde_json refuses: {text}");
        prop_assert_eq!(Some(told(&usual)), any.ok().as_ref().map(told), "{}", text);
        Ok(true)
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
        assert_eq!(not_a_page("{\n \"meta\": {},\n \"data\": [{\"a\": 1}, {\"b\""), NotAPage::NotJson(39, 39));
        assert_eq!(not_a_page(r#"{"meta":{}}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":{}}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":null}"#), NotAPage::NoData);
        assert_eq!(not_a_page(r#"{"data":[]} rubbish"#), NotAPage::NotJson(13, 19));
    }

    #[test]
    fn odd_meta_is_no_reason_to_refuse_rows() {
        let odd = |body: &'static str| page(body.into()).map(|page| (page.len(), page.total, page.cursor)).unwrap();
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
        let page = page(b"{\"data\":[{\"a\":\"\xff\"}]}".to_vec()).unwrap();
        assert_eq!(page.rows().next(), Some("{\"a\":\"\u{fffd}\"}"));
    }
}
