//! The `scrollId`: where a page ended, in a text that means nothing to whoever holds it.
//!
//! It remembers nothing on the server: it names the tenant and the last row's callId, legId and
//! start time, and stands for "the rows after this one". The PBX is not named, as in the real one.

use crate::sandbox::dataset::Key;

/// What the real API's cursors begin with is the customer's tenant.
const TENANT: &str = "sandboxtenant_";

/// What the closing page carries instead of a cursor.
pub(super) const NO_DATA: &str = "No Data";

/// The cursor for the rows after `last`. `bound_to` is the moment when the token was issued, if
/// cursors are not to survive their token.
pub(super) fn encode(last: &Key, bound_to: Option<i64>) -> String {
    let mut plain = format!("{TENANT}{}_{}_{}", last.call, last.leg, last.start);
    if let Some(issued) = bound_to {
        plain.push_str(&format!("_{issued}"));
    }
    encode_base64url(plain.as_bytes())
}

/// The row that the cursor names; `None` if it is none of ours or bound to another token.
pub(super) fn decode(cursor: &str, bound_to: Option<i64>) -> Option<Key> {
    let plain = String::from_utf8(decode_base64url(cursor)?).ok()?;
    let mut rest = plain.strip_prefix(TENANT)?;
    if let Some(expected) = bound_to {
        let (before, issued) = rest.rsplit_once('_')?;
        if issued.parse() != Ok(expected) {
            return None;
        }
        rest = before;
    }
    let (rest, start) = rest.rsplit_once('_')?;
    let (call, leg) = rest.rsplit_once('_')?;
    Some(Key { start: start.parse().ok()?, call: call.to_owned(), leg: leg.to_owned() })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 with the alphabet for URLs and no padding.
pub(super) fn encode_base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for sextet in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * sextet) & 63) as usize]));
        }
    }
    text
}

/// The reverse of [`encode_base64url`]; `None` for anything it would not have written.
pub(super) fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.as_bytes().chunks(4) {
        let mut word = 0_u32;
        for byte in chunk {
            let sextet = ALPHABET.iter().position(|known| known == byte)?;
            word = word << 6 | u32::try_from(sextet).ok()?;
        }
        let word = word << (6 * (4 - chunk.len()));
        let count = chunk.len() - 1;
        bytes.extend_from_slice(&word.to_be_bytes()[1..=count]);
    }
    (encode_base64url(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_the_documented_one() {
        // The cursor of the vendor's own example.
        let example = "c3VwZXJ0ZW5hbnRjc21fMTYzNTU3MTA0ODM0NV8xXzE2NDM4OTc0OTI5MDM";
        let plain = decode_base64url(example).expect("base64url");
        assert_eq!(plain, b"supertenantcsm_1635571048345_1_1643897492903");
        assert_eq!(encode_base64url(&plain), example);
    }

    #[test]
    fn a_cursor_comes_back_and_only_to_its_token() {
        let key = Key { start: -5, call: "a_b".to_owned(), leg: "1".to_owned() };
        assert_eq!(decode(&encode(&key, None), None).as_ref(), Some(&key));
        assert_eq!(decode(&encode(&key, Some(7)), Some(7)).as_ref(), Some(&key));
        assert_eq!(decode(&encode(&key, Some(7)), Some(8)), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in ["No Data", "", "AAAA", "A", "!!!!", "c2FuZGJveHRlbmFudF8x", "ä"] {
            assert_eq!(decode(nonsense, None), None, "{nonsense}");
        }
    }
}
