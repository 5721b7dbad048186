//! What a dead letter holds of its row: the row as it came, the row treated by the privacy policy, or nothing.

use std::borrow::Cow;

use crate::core::privacy::Privacy;
use crate::source::wire;

/// The header that says what became of a letter's row under a privacy policy; without one the letter holds it as it came.
pub(crate) const PRIVACY_HEADER: &str = "call-legs-privacy";

/// The header's value where the row could not be read, so that nobody knows what in it is personal.
const WITHHELD: &str = "withheld";

/// A row, as its letter holds it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LetterRow<'a> {
    pub(crate) bytes: Cow<'a, [u8]>,
    /// How long the row is of which the letter holds these bytes.
    pub(crate) row_bytes: usize,
    /// The value of [`PRIVACY_HEADER`].
    pub(crate) privacy: Option<String>,
}

impl<'a> LetterRow<'a> {
    /// What a letter holds of a row; `is_raw_shown` says that an operator wants also those that cannot be treated.
    pub(crate) fn of(raw: &'a [u8], privacy: &Privacy, is_raw_shown: bool) -> Self {
        let as_it_came = || Self { bytes: raw.into(), row_bytes: raw.len(), privacy: None };
        let Some(id) = privacy.id() else { return as_it_came() };
        match wire::fields_of(raw) {
            Some(mut leg) => {
                privacy.treat(&mut leg);
                let bytes = wire::written(&leg).into_bytes();
                Self { row_bytes: bytes.len(), bytes: bytes.into(), privacy: Some(id.to_string()) }
            }
            None if is_raw_shown => as_it_came(),
            None => Self { bytes: Cow::default(), row_bytes: raw.len(), privacy: Some(WITHHELD.to_owned()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::privacy::{Target, Treatment};
    use crate::source::wire::Row;

    const READABLE: &str = r#"{"legId":"1","caller":"+15551234567","callerName":15,"callee":"x","new":{"a":[1]}}"#;

    fn policy() -> Privacy {
        let rules = [("caller", Treatment::Mask(4)), ("callerName", Treatment::Drop), ("dnis", Treatment::Hash)];
        Privacy::new(&rules.map(|(name, rule)| (Target::named(name).unwrap(), rule)), b"0123456789abcdef")
    }

    fn shown(raw: &str, privacy: &Privacy, is_raw_shown: bool) -> (String, usize, Option<String>) {
        let LetterRow { bytes, row_bytes, privacy } = LetterRow::of(raw.as_bytes(), privacy, is_raw_shown);
        (String::from_utf8(bytes.into_owned()).unwrap(), row_bytes, privacy)
    }

    #[test]
    fn a_row_that_can_be_read_is_treated_and_any_other_is_withheld() {
        let id = policy().id().map(|id| id.to_string());
        let treated = r#"{"legId":"1","caller":"********4567","callee":"x","new":{"a":[1]}}"#;
        assert_eq!(shown(READABLE, &policy(), false), (treated.to_owned(), treated.len(), id));
        for unreadable in ["{\"caller\":\"+1\t555\"}", "[\"+1555\"]", "\"+1555\"", "null"] {
            let withheld = (String::new(), unreadable.len(), Some("withheld".to_owned()));
            assert_eq!(shown(unreadable, &policy(), false), withheld);
            assert_eq!(shown(unreadable, &policy(), true), (unreadable.to_owned(), unreadable.len(), None));
        }
    }

    #[test]
    fn without_a_policy_every_row_is_as_it_came() {
        for raw in [READABLE, "null", ""] {
            assert_eq!(shown(raw, &Privacy::default(), false), (raw.to_owned(), raw.len(), None));
        }
    }

    #[test]
    fn a_treated_row_that_is_read_again_is_the_leg_that_a_poll_publishes() {
        let leg = r#"{"callId":7,"disconnectedTimeUTC":"1643898472253","dnis":15551234567,"departments":"Sales","#;
        let raw = leg.to_owned() + READABLE.strip_prefix('{').unwrap();
        let Row::Leg(mut polled) = wire::row(raw.as_bytes()) else { panic!("a leg: {raw}") };
        policy().treat(&mut polled);
        let privacy = policy();
        let letter = LetterRow::of(raw.as_bytes(), &privacy, false);
        let Row::Leg(replayed) = wire::row(&letter.bytes) else { panic!("a leg") };
        assert_eq!(replayed, polled);
    }
}
