//! Access tokens that need no memory: they carry their own times and a seal.
//!
//! The same instant, life and seed give the same token. The seal keeps accidents out, not
//! attackers.

use super::cursor::{decode_base64url, encode_base64url};
use crate::core::time::UtcMillis;
use crate::sandbox::dice::mix;

/// Keeps the seals apart from other uses of the seed.
const PURPOSE: u64 = 0x70CE;

fn seal(seed: u64, issued: i64, expires: i64) -> u64 {
    mix(&[seed, PURPOSE, issued.cast_unsigned(), expires.cast_unsigned()])
}

/// A token issued at `issued` that is good until `expires`.
pub(super) fn issue(seed: u64, issued: UtcMillis, expires: UtcMillis) -> String {
    let (issued, expires) = (issued.as_millis(), expires.as_millis());
    let seal = seal(seed, issued, expires);
    encode_base64url(format!("{issued}.{expires}.{seal:016x}").as_bytes())
}

/// Why a token is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadToken {
    /// It is none of ours.
    Unreadable,
    /// It was good once.
    Expired,
}

/// When the token was issued, if it is good at `now`.
pub(super) fn check(seed: u64, token: &str, now: UtcMillis) -> Result<i64, BadToken> {
    let (issued, expires, found) = read(token).ok_or(BadToken::Unreadable)?;
    if found != format!("{:016x}", seal(seed, issued, expires)) {
        return Err(BadToken::Unreadable);
    }
    if now.as_millis() < expires { Ok(issued) } else { Err(BadToken::Expired) }
}

fn read(token: &str) -> Option<(i64, i64, String)> {
    let plain = String::from_utf8(decode_base64url(token)?).ok()?;
    let mut parts = plain.split('.');
    let issued = parts.next()?.parse().ok()?;
    let expires = parts.next()?.parse().ok()?;
    Some((issued, expires, parts.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_it_expires_and_nowhere_else() {
        let (issued, expires) = (UtcMillis::new(1_000), UtcMillis::new(5_000));
        let token = issue(1, issued, expires);
        assert_eq!(token, issue(1, issued, expires));
        assert_eq!(check(1, &token, UtcMillis::new(4_999)), Ok(1_000));
        assert_eq!(check(1, &token, expires), Err(BadToken::Expired));
        assert_eq!(check(2, &token, issued), Err(BadToken::Unreadable));
        assert_eq!(check(1, "nonsense", issued), Err(BadToken::Unreadable));
    }
}
