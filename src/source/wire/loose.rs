//! A body of an unusual form, or that is no JSON at all, cut into rows wherever their ends can be found.
//!
//! ```text
//!   {"meta":{…},"data":[ {row} , {"a":NaN} , {"name":"a ⇥ b"} , {"name":"5" tall"} , {row} ]}
//!                        whole   its ends are found            └─ from here on no end: the rest
//! ```
//!
//! Brackets are matched and texts are passed over; what stands between them may be anything: control characters, NaN,
//! escapes that are none. So one bad row cannot spoil its neighbours. Nothing here says whether a row is a leg.

use std::ops::Range;

use serde::de::IgnoredAny;

/// Where the rows are, and where what is said of the whole query.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loose<'a> {
    pub(super) rows: Vec<Range<usize>>,
    /// From where on no row's end can be found; empty where the array ends without its bracket.
    pub(super) rest: Option<Range<usize>>,
    /// The object `meta`; of several the last.
    pub(super) meta: Option<&'a str>,
}

/// Cuts a body; `None` when it has no array `data`.
pub(super) fn cut(text: &str) -> Option<Loose<'_>> {
    let mut body = Body { text, at: 0 };
    let mut found = Loose::default();
    let mut has_data = false;
    let is_whole = body.members(|body, name| match (name, body.peek()) {
        ("data", Some(b'[')) => {
            has_data = true;
            found.rest = body.rows(&mut found.rows);
            found.rest.is_none()
        }
        ("meta", Some(b'{')) => {
            let start = body.at;
            let is_passed = body.passes_value();
            found.meta = if is_passed { text.get(start..body.at) } else { found.meta };
            is_passed
        }
        _ => body.passes_value(),
    });
    if is_whole && body.peek().is_some() {
        // What comes behind the end may be rows: a row can look like the end.
        found.rest = Some(body.at..text.len());
    }
    if !has_data && !is_whole && text.trim_start().starts_with('{') {
        // What stands before it hides it.
        body.at = place_of(text, "\"data\"", b'[')?.1;
        has_data = true;
        found.rest = body.rows(&mut found.rows);
    }
    if let Some(rest) = &mut found.rest {
        shorten(text, rest, &mut found.meta);
    }
    has_data.then_some(found)
}

/// The values of `totalRecordCount` and `scrollId` as they are written in an object; of several the last.
pub(super) fn meta(text: &str) -> [Option<&str>; 2] {
    let (mut total, mut cursor) = (None, None);
    Body { text, at: 0 }.members(|body, name| {
        body.peek();
        let start = body.at;
        let is_passed = body.passes_value();
        let value = text.get(start..body.at).filter(|_| is_passed);
        match name {
            "totalRecordCount" => total = value,
            "scrollId" => cursor = value,
            _ => {}
        }
        is_passed
    });
    [total, cursor]
}

/// Takes from the rest of a body what does not belong to its rows: what closes it, and the `meta` behind them.
fn shorten<'a>(text: &'a str, rest: &mut Range<usize>, meta: &mut Option<&'a str>) {
    let behind = rest.clone();
    if let Some((name, start)) = text.get(behind.clone()).and_then(|rest| last_place_of(rest, "\"meta\"", b'{')) {
        let (name, start) = (behind.start + name, behind.start + start);
        let mut value = Body { text, at: start };
        if value.passes_value() {
            *meta = meta.or(text.get(start..value.at));
            rest.end = name;
        }
    }
    let is_last = rest.end == behind.end;
    let Some(mut left) = text.get(rest.clone()).map(str::trim_end) else { return };
    let close = if is_last { '}' } else { ',' };
    if let Some(inner) = left.strip_suffix(close).map(str::trim_end).and_then(|left| left.strip_suffix(']')) {
        left = inner.trim_end();
    }
    rest.end = rest.start + left.len();
}

/// Where a name stands that is followed by a colon and this bracket, and where the bracket is.
fn place_of(text: &str, name: &str, bracket: u8) -> Option<(usize, usize)> {
    text.match_indices(name).find_map(|(at, _)| Some((at, value_behind(text, at + name.len(), bracket)?)))
}

fn last_place_of(text: &str, name: &str, bracket: u8) -> Option<(usize, usize)> {
    text.rmatch_indices(name).find_map(|(at, _)| Some((at, value_behind(text, at + name.len(), bracket)?)))
}

fn value_behind(text: &str, at: usize, bracket: u8) -> Option<usize> {
    let mut body = Body { text, at };
    (body.passes(b':') && body.peek() == Some(bracket)).then_some(body.at)
}

/// A place in a body. Where something could not be passed it means nothing.
struct Body<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Body<'a> {
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn passes(&mut self, token: u8) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    /// Passes an object, of which `member` passes each value; whether it came to its end.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &str) -> bool) -> bool {
        if !self.passes(b'{') {
            return false;
        }
        loop {
            while self.passes(b',') {}
            if self.passes(b'}') {
                return true;
            }
            let start = self.at;
            if self.byte() != Some(b'"') || !self.passes_text() {
                return false;
            }
            let name = self.text.get(start..self.at).unwrap_or_default();
            // An escaped name means the same.
            let name: String = serde_json::from_str(name).unwrap_or_default();
            if !self.passes(b':') || !member(self, &name) {
                return false;
            }
        }
    }

    /// Takes in the rows of an array; from where on no end can be found.
    fn rows(&mut self, rows: &mut Vec<Range<usize>>) -> Option<Range<usize>> {
        let end = self.text.len();
        self.passes(b'[');
        loop {
            while self.passes(b',') {}
            let start = self.at;
            if self.passes(b']') {
                // What is no next member may be more rows.
                let is_closed = matches!(self.peek(), Some(b',' | b'}' | b'"') | None);
                return (!is_closed).then_some(start..end);
            }
            let Some(first) = self.peek() else { return Some(end..end) };
            let start = self.at;
            let is_passed = self.passes_value();
            let row = start..self.at;
            let is_ended = matches!(self.peek(), Some(b',' | b']'));
            // Without a comma or the end behind it, it may have run into what follows.
            let is_row = is_passed
                && !self.holds_objects(&row)
                && match is_ended {
                    true => self.is_json(&row) || !self.hides_an_end(&row),
                    false => first == b'{' && self.is_json(&row),
                };
            if !is_row {
                return Some(start..end);
            }
            rows.push(row);
            if !is_ended && !matches!(self.peek(), Some(b'{') | None) {
                return Some(self.at..end);
            }
        }
    }

    /// Passes a value, or whatever stands in its place.
    fn passes_value(&mut self) -> bool {
        match self.peek() {
            Some(b'"') => self.passes_text(),
            Some(b'{' | b'[') => self.passes_brackets(),
            _ => {
                let start = self.at;
                while let Some(byte) = self.byte()
                    && !matches!(byte, b',' | b':' | b'"' | b'[' | b']' | b'{' | b'}')
                {
                    self.at += 1;
                }
                let value = self.text.get(start..self.at).unwrap_or_default().trim_end();
                self.at = start + value.len();
                !value.is_empty()
            }
        }
    }

    fn passes_text(&mut self) -> bool {
        self.at += 1;
        while let Some(byte) = self.byte() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return true;
            }
        }
        false
    }

    fn passes_brackets(&mut self) -> bool {
        let mut open = Vec::new();
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    if !self.passes_text() {
                        return false;
                    }
                    continue;
                }
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                b'}' | b']' if open.pop() != Some(byte) => return false,
                _ => {}
            }
            self.at += 1;
            if open.is_empty() {
                return true;
            }
        }
        false
    }

    fn is_json(&self, row: &Range<usize>) -> bool {
        self.text.get(row.clone()).is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
    }

    /// Whether a row is an array of objects: with a bracket too many, the next rows look like a part of this one.
    fn holds_objects(&self, row: &Range<usize>) -> bool {
        let text = self.text.get(row.clone()).unwrap_or_default();
        text.starts_with('[') && text.trim_start_matches(['[', ' ', '\n', '\r', '\t']).starts_with('{')
    }

    /// Whether a row may be several: with a quotation mark too many, what stands between two rows looks like a text.
    fn hides_an_end(&self, row: &Range<usize>) -> bool {
        let Some(text) = self.text.get(row.clone()) else { return true };
        let mut inside = Body { text, at: 0 };
        while let Some(byte) = inside.byte() {
            let start = inside.at;
            if byte != b'"' {
                inside.at += 1;
            } else if !inside.passes_text() || ends_as_between_rows(text.get(start..inside.at).unwrap_or_default()) {
                return true;
            }
        }
        false
    }
}

/// Whether a text ends as what stands between a row and the first name of the next one.
fn ends_as_between_rows(text: &str) -> bool {
    let inside = text.strip_suffix('"').unwrap_or(text).trim_end();
    inside.strip_suffix('{').is_some_and(|before| before.trim_end().ends_with([',', '}']))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::super::row::{Row, row};
    use super::super::{Page, page};
    use super::*;
    use crate::core::dead_letter::Reason;

    /// No JSON, but it is seen where they end.
    const ENDED: [&str; 26] = [
        "{\"callId\":\"x\ty\"}",
        "{\"callId\":\"x\r\ny\"}",
        "{\"callId\":\"\u{0}\"}",
        r#"{"talkTimeMS":NaN}"#,
        r#"{"talkTimeMS":-Infinity}"#,
        r#"{"callId":"1","lra":"\x41"}"#,
        r#"{"callId":"\u12"}"#,
        r#"{"a":01}"#,
        r#"{"a":.5,"b":+1}"#,
        r#"{"a":1,}"#,
        r#"{"a":,"b":1}"#,
        "{,}",
        r#"{"a" 1}"#,
        "{a:1}",
        "{'a':'b'}",
        r#"{"a":undefined}"#,
        r#"{"a":[1,],"b":{"c":NaN}}"#,
        r#"{"a":"say "hello" x"}"#,
        r#"{"a":1}{"a":NaN}"#,
        r#"{"a":"\ud800","a":"}, {"}"#,
        "{\"a\":\"},{\tx\"}",
        "NaN",
        "nul",
        "7 8",
        r#""a	b""#,
        "[NaN]",
    ];

    /// No JSON, and it is not seen where they end.
    const ENDLESS: [&str; 7] = [
        r#"{"callerName":"5" tall"}"#,
        r#"{"callerName":"x"#,
        r#"{"callerName":"x\"}"#,
        r#"{"a":1"#,
        r#"{"a":[1}"#,
        r#"{"a":{"b":1}"#,
        "{\"a\":\"},{\t\"}",
    ];

    fn good(number: usize) -> String {
        format!(
            r#"{{"callId":"{number}","legId":"1","disconnectedTimeUTC":1643898472253,"callerName":"a, {{b}} \"[\\","departments":["x"],"more":[{{}},{{"c":null}}]}}"#
        )
    }

    /// A page of these rows; in which order, and whether it is written over lines.
    fn body(rows: &[&str], is_meta_first: bool, is_wide: bool) -> String {
        let meta = r#""meta":{"totalRecordCount":9,"scrollId":"next"}"#;
        let [comma, open, close] = if is_wide { [" ,\n  ", "[\n", "\n]"] } else { [",", "[", "]"] };
        let data = format!(r#""data":{open}{}{close}"#, rows.join(comma));
        let [first, second] = if is_meta_first { [meta, &data] } else { [&data, meta] };
        format!("{{{first}{comma}{second}}}")
    }

    fn orders() -> impl Iterator<Item = (bool, bool)> {
        [(true, false), (true, true), (false, false), (false, true)].into_iter()
    }

    fn read(body: &str) -> Page {
        let page = page(body.into()).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!((page.total, page.cursor.as_deref()), (Some(9), Some("next")), "{body}");
        page
    }

    #[test]
    fn a_row_whose_end_is_found_is_a_dead_letter_by_itself() {
        for (broken, (is_meta_first, is_wide)) in ENDED.iter().flat_map(|row| orders().map(move |order| (row, order))) {
            let (before, behind) = (good(1), good(2));
            // A comma is missing between two.
            let two = [r#"{"a":1}"#, r#"{"a":NaN}"#];
            let broken = if *broken == two.concat() { &two[..] } else { std::slice::from_ref(broken) };
            let rows = [&[before.as_str()], broken, &[&behind], broken].concat();
            let read = read(&body(&rows, is_meta_first, is_wide));
            assert_eq!((read.rows().collect::<Vec<_>>(), read.rest()), (rows, None));
            assert!(
                read.rows().filter(|row| broken.contains(row)).all(|text| matches!(row(text.as_bytes()), Row::Dead(_)))
            );
        }
    }

    #[test]
    fn from_a_row_without_an_end_on_all_is_the_rest() {
        for (endless, (is_meta_first, is_wide)) in
            ENDLESS.iter().flat_map(|row| orders().map(move |order| (row, order)))
        {
            let rows = [&good(1), &good(2), *endless, &good(3), *endless, &good(4)];
            let mut torn = read(&body(&rows, is_meta_first, is_wide));
            assert_eq!(torn.rows().collect::<Vec<_>>(), rows[..2], "{endless}");
            assert!(torn.rest().is_some_and(|rest| rest.starts_with(endless) && rest.ends_with(rows[5])), "{torn:?}");
            torn.bury_rest();
            assert_eq!((torn.len(), torn.rest()), (3, None));
            assert_eq!(row(torn.row(2).as_bytes()), Row::Dead(Reason::Unreadable));
            // By itself it is the whole row, and nothing but the row.
            assert_eq!(read(&body(&[endless], is_meta_first, is_wide)).rest(), Some(*endless));
        }
    }

    #[test]
    fn a_row_before_what_is_none_is_whole() {
        for junk in ["}", "x", "]{", ":7"] {
            let (first, second) = (good(1), good(2));
            let torn = read(&body(&[&format!("{first}{junk}"), &second], true, false));
            assert_eq!(torn.rows().collect::<Vec<_>>(), [&first], "{junk}");
            assert!(torn.rest().is_some_and(|rest| rest.starts_with(junk) && rest.ends_with(&second)), "{torn:?}");
        }
    }

    #[test]
    fn a_body_that_breaks_off_has_the_rows_before() {
        let whole = body(&[&good(1), &good(2)], true, false);
        let data = whole.find("[{").unwrap();
        for length in data + 1..whole.len() {
            let cut = cut(&whole[..length]).unwrap();
            let is_at_end = whole[..length].ends_with(']') && length == whole.len() - 1;
            assert_eq!(cut.rest.is_none(), is_at_end, "{length}");
            assert!(cut.rows.iter().map(|row| &whole[row.clone()]).eq([good(1), good(2)].iter().take(cut.rows.len())));
            assert_eq!(meta(cut.meta.unwrap()), [Some("9"), Some("\"next\"")]);
        }
        assert!((1..data).all(|length| cut(&whole[..length]).is_none()));
    }

    #[test]
    fn a_broken_meta_does_not_hide_the_rows() {
        for meta in ["{\"scrollId\":\"a\tb\",\"x\":NaN}", r#"{"scrollId":"a"b"}"#, "NaN", r#""o"k""#, "[}"] {
            let body = format!(r#"{{"meta":{meta},"data":[{},{}]}}"#, good(1), good(2));
            assert_eq!(page(body.clone().into()).unwrap().len(), 2, "{body}");
        }
    }

    #[test]
    fn a_bracket_too_many_swallows_no_row() {
        for bracket in ["[", "[[", "[ \n["] {
            let body = body(&[&format!("{bracket}{}", good(1)), &good(2)], false, false);
            let read = read(&body);
            assert!(read.rows().next().is_none() && read.rest().is_some_and(|rest| rest.contains(&good(2))), "{body}");
        }
        let odd = body(&["[1, 2]", "[]", "{\"a\":\"\t\"}", &good(1)], false, false);
        assert_eq!(read(&odd).rows().count(), 4, "arrays of anything else are rows");
    }

    #[test]
    fn nested_deeply_or_named_twice_it_is_a_row() {
        let deep = format!(r#"{{"callId":"1","deep":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let twice = r#"{"callId":"1","callId":"2"}"#;
        let rows = [deep.as_str(), twice, "{\"a\":\"\t\"}"];
        assert_eq!(read(&body(&rows, true, false)).rows().collect::<Vec<_>>(), rows);
        let body = format!(r#"{{"data":[{twice}],"data":[{twice},7],"meta":{{}}}}"#);
        assert_eq!(page(body.into()).unwrap().rows().collect::<Vec<_>>(), [twice, twice, "7"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// One damage in one row costs no other row: it is cut as it is, or left in the rest.
        #[test]
        fn a_damaged_row_spoils_no_other(
            count in 1..5_usize,
            damaged in any::<Index>(),
            at in any::<Index>(),
            removed in 0..2_usize,
            inserted in prop_oneof![Just(String::new()), select("\"\\{}[]:,\t\u{0}\u{e9}-.9n ".chars().collect::<Vec<_>>()).prop_map(String::from)],
            (is_meta_first, is_wide) in (any::<bool>(), any::<bool>()),
        ) {
            let mut rows: Vec<String> = (0..count).map(good).collect();
            let damaged = damaged.index(count);
            let at = at.index(rows[damaged].len() - 1);
            rows[damaged].replace_range(at..at + removed, &inserted);
            let body = body(&rows.iter().map(String::as_str).collect::<Vec<_>>(), is_meta_first, is_wide);
            let read = read(&body);
            let found: Vec<&str> = read.rows().collect();
            for (index, row) in rows.iter().enumerate().filter(|(index, _)| *index != damaged) {
                let is_rest = damaged < index && read.rest().is_some_and(|rest| rest.contains(row.as_str()));
                prop_assert!(found.contains(&row.as_str()) || is_rest, "row {} of {}", index, body);
            }
        }

        #[test]
        fn any_text_is_cut_in_order_or_not_at_all(
            parts in vec(select(vec!["{", "}", "[", "]", ",", ":", "\"", "\\", "\"data\"", "\"meta\"", "data", "7", " ", "\u{e9}", "NaN"]), 0..40),
        ) {
            let text = format!("{{{}", parts.concat());
            let Some(Loose { rows, rest, .. }) = cut(&text) else { return Ok(()) };
            let mut end = 0;
            for range in rows.iter().chain(&rest) {
                prop_assert!(end <= range.start && range.start <= range.end && text.get(range.clone()).is_some(), "{}", text);
                end = range.end;
            }
        }
    }
}
