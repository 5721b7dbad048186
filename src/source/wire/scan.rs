//! JSON text, token by token: what the API's rows are made of is read here, and all else by serde_json.
//!
//! A general parser does not know which name comes next, nor that most values are short plain texts.
//! Where a value is anything but a plain text, a whole number or null, the library reads it: escapes,
//! fractions, what is nested. So whatever is accepted here is JSON, and nothing is read otherwise than
//! the library would, which a test of each user holds.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A place in a JSON text. After a `None` or a false it is wherever the token could not be read.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The beginning of a text.
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// How far it has come, in bytes.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Whether nothing is left but white space.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The first byte of the next token.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                byte => return byte.copied(),
            }
        }
    }

    /// Passes a bracket, a comma or a colon, if it comes next.
    #[inline]
    pub(super) fn passes(&mut self, token: u8) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    /// Passes `null`, if it comes next.
    #[inline]
    pub(super) fn passes_null(&mut self) -> bool {
        let is_next = self.peek() == Some(b'n') && self.rest().starts_with(b"null");
        self.at += if is_next { 4 } else { 0 };
        is_next
    }

    /// Passes a name and its colon, if they come next and are written as [`Name`] has them.
    #[inline]
    pub(super) fn passes_name(&mut self, name: &Name) -> bool {
        self.peek();
        let is_next = name.begins(self.rest());
        self.at += if is_next { name.length } else { 0 };
        is_next
    }

    /// Passes an object or an array: `member` passes each of its members.
    #[inline]
    pub(super) fn members(&mut self, ends: [u8; 2], mut member: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        let [first, last] = ends;
        if !self.passes(first) {
            return None;
        }
        if self.passes(last) {
            return Some(());
        }
        loop {
            member(self)?;
            let next = self.peek()?;
            self.at += 1;
            if next == last {
                return Some(());
            }
            if next != b',' {
                return None;
            }
        }
    }

    /// A text that is written without escapes.
    #[inline]
    pub(super) fn plain_text(&mut self) -> Option<&'a str> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let start = self.at + 1;
        let end = plain_end(self.text.as_bytes(), start);
        if self.text.as_bytes().get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// A text.
    pub(super) fn text(&mut self) -> Option<Cow<'a, str>> {
        if let Some(text) = self.plain_text() {
            return Some(Cow::Borrowed(text));
        }
        let json = if self.peek() == Some(b'"') { self.value()? } else { return None };
        serde_json::from_str(json).ok().map(Cow::Owned)
    }

    /// Passes a text without reading it.
    pub(super) fn passes_any_text(&mut self) -> bool {
        self.plain_text().is_some() || (self.peek() == Some(b'"') && self.value().is_some())
    }

    /// Passes any value.
    pub(super) fn passes_value(&mut self) -> bool {
        let start = self.clone();
        let is_passed = match self.peek() {
            Some(b'"') => return self.passes_any_text(),
            Some(b'n') => return self.passes_null(),
            Some(b'-' | b'0'..=b'9') => self.integer().is_some(),
            _ => false,
        };
        is_passed || {
            *self = start;
            self.value().is_some()
        }
    }

    /// A whole number of 64 bits.
    #[inline]
    pub(super) fn integer(&mut self) -> Option<i64> {
        self.peek()?;
        let is_negative = self.rest().first() == Some(&b'-');
        let start = self.at + usize::from(is_negative);
        let digits = self.text.as_bytes().get(start..)?;
        let mut length = 0;
        let mut number: i64 = 0;
        while let Some(digit @ b'0'..=b'9') = digits.get(length) {
            number = number.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            length += 1;
        }
        let is_whole = !matches!(digits.get(length), Some(b'.' | b'e' | b'E'));
        let starts_well = digits.first() != Some(&b'0') || (length == 1 && !is_negative);
        if length == 0 || !is_whole || !starts_well {
            return None;
        }
        let end = start + length;
        let number = match (length <= DIGITS_SAFE, is_negative) {
            (true, false) => number,
            (true, true) => -number,
            (false, _) => self.text.get(self.at..end)?.parse().ok()?,
        };
        self.at = end;
        Some(number)
    }

    /// The JSON text of any value.
    pub(super) fn value(&mut self) -> Option<&'a str> {
        self.peek()?;
        let mut rest = serde_json::Deserializer::from_str(self.text.get(self.at..)?);
        let value = <&RawValue>::deserialize(&mut rest).ok()?.get();
        self.at += value.len();
        Some(value)
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }
}

/// A number of so many decimal digits has at most 63 bits.
const DIGITS_SAFE: usize = 18;

/// A member's name as nearly every row has it: in quotes, without escapes, the colon right after.
pub(super) struct Name {
    /// The written form in two halves, the first byte lowest; zeros behind it.
    text: [u128; 2],
    /// Ones where the text is.
    mask: [u128; 2],
    length: usize,
}

impl Name {
    /// The written form of a name that needs no escapes.
    ///
    /// # Panics
    /// When it is longer than 29 bytes; used at compile time, it does not compile then.
    pub(super) const fn new(name: &str) -> Self {
        let (mut text, mut mask) = ([0; 2], [0; 2]);
        let length = name.len() + 3;
        let mut at = 0;
        while at < length {
            let byte = if at == 0 || at == length - 2 {
                b'"'
            } else if at == length - 1 {
                b':'
            } else {
                name.as_bytes()[at - 1]
            };
            text[at / 16] |= (byte as u128) << (at % 16 * 8);
            mask[at / 16] |= 0xff << (at % 16 * 8);
            at += 1;
        }
        Self { text, mask, length }
    }

    /// Whether `bytes` begin with it, of which there must be 32. Comparing them all spares the branches of a loop.
    #[inline]
    fn begins(&self, bytes: &[u8]) -> bool {
        let Some((low, rest)) = bytes.split_first_chunk() else { return false };
        let Some(high) = rest.first_chunk() else { return false };
        let low = (u128::from_le_bytes(*low) ^ self.text[0]) & self.mask[0];
        let high = (u128::from_le_bytes(*high) ^ self.text[1]) & self.mask[1];
        low | high == 0
    }
}

/// Where a text's plain characters end: at its closing quote, an escape, a control character, or the end of `bytes`.
#[inline]
fn plain_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    // Most texts end in the first step, so the processor guesses right.
    while let Some(sixteen) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let ends = ends_among(u128::from_le_bytes(*sixteen));
        if ends != 0 {
            return at + ends.trailing_zeros() as usize / 8;
        }
        at += 16;
    }
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    bytes.get(at..).unwrap_or_default().iter().position(is_end).map_or(bytes.len(), |plain| at + plain)
}

/// Of sixteen bytes, the lowest first, the highest bit of the first that ends plain characters; the bits above
/// that one mean nothing, and 0 is none.
///
/// A byte less than `n` borrows from its highest bit when `n` is taken away; those that had it set are no ASCII.
#[inline]
const fn ends_among(sixteen: u128) -> u128 {
    const ONES: u128 = u128::from_le_bytes([1; 16]);
    let quotes = (sixteen ^ (ONES * b'"' as u128)).wrapping_sub(ONES);
    let escapes = (sixteen ^ (ONES * b'\\' as u128)).wrapping_sub(ONES);
    let controls = sixteen.wrapping_sub(ONES * 0x20);
    (quotes | escapes | controls) & !sixteen & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_characters_end_at_quotes_escapes_and_controls_wherever_they_are() {
        for byte in 0..=u8::MAX {
            for (length, around) in [(1, b'a'), (15, b' '), (16, 0xff), (17, b'!'), (33, 0x80), (48, b']')] {
                for at in 0..length {
                    let mut bytes = vec![around; length];
                    bytes[at] = byte;
                    let ends = byte < 0x20 || byte == b'"' || byte == b'\\';
                    assert_eq!(plain_end(&bytes, 0), if ends { at } else { length }, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn of_two_ends_the_first_counts() {
        for [first, second] in [*b"\"\\", *b"\\\"", *b"\x1f\"", *b"\"\x00"] {
            for at in 0..31 {
                let mut bytes = [b'a'; 32];
                (bytes[at], bytes[at + 1]) = (first, second);
                assert_eq!(plain_end(&bytes, 0), at);
            }
        }
    }

    #[test]
    fn a_name_is_passed_only_as_a_whole() {
        let name = Name::new("calleeDisconnectOnHold");
        let padding = " ".repeat(32);
        for (text, is_passed) in [
            (r#""calleeDisconnectOnHold":"#, true),
            (r#""calleeDisconnectOnHold" :"#, false),
            (r#""calleeDisconnectOnHold"#, false),
            (r#""calleeDisconnectOnHoldX":"#, false),
            (r#""calleeDisconnectOnhold":"#, false),
            (r#"'calleeDisconnectOnHold":"#, false),
        ] {
            let text = format!("{text}{padding}");
            let mut scanner = Scanner::new(&text);
            assert_eq!(
                (scanner.passes_name(&name), scanner.at()),
                (is_passed, if is_passed { 25 } else { 0 }),
                "{text}"
            );
        }
        assert!(!Scanner::new(r#""calleeDisconnectOnHold":"#).passes_name(&name), "too near the end to be compared");
    }
}
