//! The privacy policy: what becomes of personal values before anything of a row is written.
//!
//! ```text
//!   row ─▶ leg ─▶ treat ─▶ fingerprint ─▶ seal ─▶ record, header, page
//!                   └───▶ dead letter, under a keyed hash of the row
//! ```
//!
//! Everything that is derived from a row's values and written is derived after [`Privacy::treat`], or is keyed: whoever
//! reads the topics can neither see a value nor find it by trying. Without a policy every method leaves things as they are.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::identity::{Fingerprint, KeyHash};
use super::leg::{FIELDS, Field, Kind, Leg, Value, position};

/// The shortest key, in bytes: 128 bits that nobody can try.
pub const KEY_BYTES_MIN: usize = 16;

/// Stands for a masked character.
const MASK: char = '*';

/// What comes before anything but a value that is hashed. No text starts so: it is not UTF-8.
const OF_FINGERPRINT: [u8; 4] = [0xff, 0xff, 0xff, 0xfe];
const OF_POLICY: [u8; 4] = [0xff, 0xff, 0xff, 0xfd];

/// What becomes of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is null.
    Drop,
    /// It is the HMAC-SHA-256 of its UTF-8 bytes, in 64 lowercase hexadecimal digits.
    Hash,
    /// All but so many characters at its end are `*`; where it has no more than so many, all are.
    Mask(usize),
}

/// What is treated: a field, by its position in [`FIELDS`], or everything that has no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A field, also where its value is of an unexpected type.
    Field(usize),
    /// [`Leg::extra`]; it can only be dropped.
    Extra,
}

impl Target {
    /// The field, or `extra`, of this name.
    pub fn named(name: &str) -> Option<Self> {
        let field = FIELDS.iter().position(|field| field.name == name).map(Self::Field);
        field.or_else(|| (name == "extra").then_some(Self::Extra))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Field(position) => FIELDS[position].name,
            Self::Extra => "extra",
        }
    }

    /// Why it cannot be treated so, to follow its name; `None` where it can.
    pub fn refusal(self, treatment: Treatment) -> Option<&'static str> {
        let kind = match self {
            Self::Extra => return (treatment != Treatment::Drop).then_some("can only be dropped"),
            Self::Field(position) => {
                if let Some(reason) = why_needed(position, &FIELDS[position]) {
                    return Some(reason);
                }
                FIELDS[position].kind
            }
        };
        let is_text = matches!(kind, Kind::Text | Kind::TextList);
        (treatment != Treatment::Drop && !is_text).then_some("holds a number, so it can only be dropped")
    }
}

/// Why the connector, or whoever reads its topics, needs a field as it is.
fn why_needed(position: usize, field: &Field) -> Option<&'static str> {
    match position {
        position::CALL_ID | position::LEG_ID | position::PBX_ID => {
            Some("cannot be treated: a leg is recognised by callId, legId and pbxId, or it would be published again")
        }
        position::STATUS => Some("cannot be treated: the connector sees by it whether a call is still going on"),
        _ if field.kind == Kind::Instant || !field.fingerprinted => {
            Some("cannot be treated: legs are read, ordered and forgotten by their times")
        }
        _ => None,
    }
}

/// A privacy policy with its key, or none. A copy costs nothing.
#[derive(Clone, Default)]
pub struct Privacy(Option<Arc<Policy>>);

struct Policy {
    /// Each field once, in the order of [`FIELDS`].
    fields: Vec<(usize, Treatment)>,
    is_extra_dropped: bool,
    /// With the key in it.
    mac: Hmac<Sha256>,
    id: PolicyId,
}

/// What stands for a policy and its key, and tells nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyId(pub [u8; 8]);

impl PolicyId {
    /// From its hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| is_one).map(|number| Self(number.to_be_bytes()))
    }
}

/// In hexadecimal, as the header of dead letters has it.
impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Never the key.
impl fmt::Debug for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Privacy").field(&self.id()).finish()
    }
}

impl Privacy {
    /// The policy of these rules, of which each target has one at most; none where there are no rules.
    pub fn new(rules: &[(Target, Treatment)], key: &[u8]) -> Self {
        if rules.is_empty() {
            return Self::default();
        }
        let mut rules = rules.to_vec();
        rules.sort_unstable_by_key(|(target, _)| *target);
        let field = |(target, treatment): &(Target, Treatment)| match target {
            Target::Field(position) => Some((*position, *treatment)),
            Target::Extra => None,
        };
        let fields: Vec<(usize, Treatment)> = rules.iter().filter_map(field).collect();
        let is_extra_dropped = fields.len() < rules.len();
        let mac = with_key(key);
        let words = rules.iter().map(|(target, treatment)| format!("{} {treatment:?}\n", target.name()));
        let digest = digest(&mac, &[&OF_POLICY, words.collect::<String>().as_bytes()]);
        let id = PolicyId(std::array::from_fn(|index| digest[index]));
        Self(Some(Arc::new(Policy { fields, is_extra_dropped, mac, id })))
    }

    /// What stands for the policy; `None` without one.
    pub fn id(&self) -> Option<PolicyId> {
        self.0.as_ref().map(|policy| policy.id)
    }

    /// Treats what the rules name. It must not be done twice: a hash would be hashed again.
    ///
    /// A value of an unexpected type, which is in `extra` otherwise, counts as its JSON text; what becomes of it stands in
    /// the field.
    pub fn treat(&self, leg: &mut Leg<'_>) {
        let Some(policy) = &self.0 else { return };
        for &(position, treatment) in &policy.fields {
            let name = FIELDS[position].name;
            let odd = leg.extra.iter().position(|(known, _)| known == name);
            let odd = odd.map(|index| leg.extra.remove(index).1);
            let value = std::mem::take(&mut leg.values[position]);
            let treated = |text: &str| policy.treated(treatment, text).into();
            leg.values[position] = match (value, odd) {
                _ if treatment == Treatment::Drop => Value::Null,
                (Value::Text(text), _) => Value::Text(treated(&text)),
                (Value::TextList(texts), _) => Value::TextList(texts.iter().map(|text| treated(text)).collect()),
                (_, Some(json)) if FIELDS[position].kind == Kind::TextList => Value::TextList(vec![treated(&json)]),
                (_, Some(json)) => Value::Text(treated(&json)),
                (Value::Null | Value::Integer(_), None) => Value::Null,
            };
        }
        if policy.is_extra_dropped {
            leg.extra.clear();
        }
    }

    /// The fingerprint of a treated leg, in memory that is used again.
    pub fn fingerprint_in(&self, treated: &Leg<'_>, input: &mut Vec<u8>) -> Fingerprint {
        let plain = Fingerprint::of_leg_in(treated, input);
        let Some(policy) = &self.0 else { return plain };
        let hash = digest(&policy.mac, &[&OF_FINGERPRINT, &plain.bits().to_be_bytes()]);
        let [a, b, c, ..] = policy.id.0;
        let [d, e, f, g, ..] = hash;
        Fingerprint::keyed(u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes([d, e, f, g]))
    }

    /// The same, where it is needed once.
    pub fn fingerprint(&self, treated: &Leg<'_>) -> Fingerprint {
        self.fingerprint_in(treated, &mut Vec::new())
    }

    /// The hash of a row that cannot be published as a leg, as it is written: keyed, and the same under every policy with
    /// this key.
    pub fn dead_row(&self, raw: &[u8]) -> KeyHash {
        let Some(policy) = &self.0 else { return KeyHash::of_dead_row(raw) };
        let digest = digest(&policy.mac, &[&KeyHash::DEAD_ROW_PREFIX, raw]);
        KeyHash(std::array::from_fn(|index| digest[index]))
    }

    /// The hash that the same row had before there was a policy, to recognise it: never written.
    pub fn dead_row_before(&self, raw: &[u8]) -> Option<KeyHash> {
        self.0.is_some().then(|| KeyHash::of_dead_row(raw))
    }
}

impl Policy {
    fn treated(&self, treatment: Treatment, text: &str) -> String {
        match treatment {
            Treatment::Drop => String::new(),
            Treatment::Hash => digest(&self.mac, &[text.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect(),
            Treatment::Mask(shown) => {
                let length = text.chars().count();
                let hidden = if length > shown { length - shown } else { length };
                text.chars().enumerate().map(|(at, c)| if at < hidden { MASK } else { c }).collect()
            }
        }
    }
}

fn with_key(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

fn digest(mac: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = mac.clone();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::super::leg::FIELD_COUNT;
    use super::super::time::UtcMillis;
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef";

    fn at(name: &str) -> usize {
        FIELDS.iter().position(|field| field.name == name).unwrap()
    }

    fn policy(rules: &[(&str, Treatment)]) -> Privacy {
        let rules: Vec<_> = rules.iter().map(|(name, treatment)| (Target::named(name).unwrap(), *treatment)).collect();
        Privacy::new(&rules, KEY)
    }

    fn leg(texts: &[(&str, &str)], extra: &[(&'static str, &'static str)]) -> Leg<'static> {
        let mut values = [const { Value::Null }; FIELD_COUNT];
        for (name, text) in texts {
            values[at(name)] = Value::Text(Cow::Owned((*text).to_owned()));
        }
        let extra = extra.iter().map(|(name, json)| (Cow::Borrowed(*name), Cow::Borrowed(*json))).collect();
        Leg { values, extra, disconnected: UtcMillis::new(1) }
    }

    fn treated(privacy: &Privacy, leg: &Leg<'static>) -> Leg<'static> {
        let mut leg = leg.clone();
        privacy.treat(&mut leg);
        leg
    }

    fn text(leg: &Leg<'_>, name: &str) -> Option<String> {
        match &leg.values[at(name)] {
            Value::Text(text) => Some(text.to_string()),
            Value::Null => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hash_is_the_documented_one_and_joins_across_fields() {
        let privacy = policy(&[("caller", Treatment::Hash), ("callee", Treatment::Hash)]);
        let leg = treated(&privacy, &leg(&[("caller", "+15551234567"), ("callee", "+15551234567")], &[]));
        // From Python: hmac.new(b"0123456789abcdef", b"+15551234567", "sha256").hexdigest()
        let expected = "97c04aa146aea6e70fa8d3d799afd2ef1813dcdbceee0c3b24c0c20105a9b9ca";
        assert_eq!(text(&leg, "caller").as_deref(), Some(expected));
        assert_eq!(text(&leg, "callee").as_deref(), Some(expected));
    }

    #[test]
    fn a_mask_shows_the_end_and_never_the_whole() {
        let privacy = policy(&[("caller", Treatment::Mask(4))]);
        for (given, shown) in [
            ("+15551234567", "********4567"),
            ("12345", "*2345"),
            ("1234", "****"),
            ("9", "*"),
            ("", ""),
            ("aéîöü", "*éîöü"),
        ] {
            assert_eq!(text(&treated(&privacy, &leg(&[("caller", given)], &[])), "caller").as_deref(), Some(shown));
        }
    }

    #[test]
    fn lists_are_treated_item_by_item_and_null_stays_null() {
        let list = |texts: &[&str]| Value::TextList(texts.iter().map(|text| Cow::Owned((*text).to_owned())).collect());
        let mut given = leg(&[], &[]);
        given.values[at("departments")] = list(&["Sales", "Board"]);
        let masked = treated(&policy(&[("departments", Treatment::Mask(2)), ("caller", Treatment::Hash)]), &given);
        assert_eq!(masked.values[at("departments")], list(&["***es", "***rd"]));
        assert_eq!(text(&masked, "caller"), None);
        let dropped = treated(&policy(&[("departments", Treatment::Drop), ("callTime", Treatment::Drop)]), &given);
        assert_eq!(dropped.values[at("departments")], Value::Null);
    }

    #[test]
    fn a_value_of_an_unexpected_type_is_treated_and_leaves_extra() {
        let given = leg(&[], &[("caller", "15551234567"), ("departments", "\"Sales\""), ("newField", "1")]);
        let hash = treated(&policy(&[("caller", Treatment::Hash), ("departments", Treatment::Mask(3))]), &given);
        let plain = treated(&policy(&[("caller", Treatment::Hash)]), &leg(&[("caller", "15551234567")], &[]));
        assert_eq!(text(&hash, "caller"), text(&plain, "caller"), "a number joins with a text");
        assert_eq!(hash.values[at("departments")], Value::TextList(vec!["****es\"".into()]));
        assert_eq!(hash.extra, [("newField".into(), "1".into())]);
        let dropped = treated(&policy(&[("caller", Treatment::Drop), ("extra", Treatment::Drop)]), &given);
        assert_eq!((text(&dropped, "caller"), dropped.extra.len()), (None, 0));
    }

    #[test]
    fn what_the_connector_needs_is_refused_with_the_reason() {
        for (position, field) in FIELDS.iter().enumerate() {
            let refusals = [Treatment::Drop, Treatment::Hash, Treatment::Mask(4)].map(|treatment| {
                assert_eq!(Target::named(field.name), Some(Target::Field(position)));
                Target::Field(position).refusal(treatment)
            });
            let is_needed = ["callId", "legId", "pbxId", "status"].contains(&field.name)
                || ["startTime", "connectTime", "disconnectedTime"].iter().any(|time| field.name.starts_with(time));
            let is_number = field.kind == Kind::Integer;
            assert_eq!(
                refusals.map(|refusal| refusal.is_some()),
                [is_needed, is_needed || is_number, is_needed || is_number]
            );
            assert!(!(field.personal && is_needed), "{}: all that is personal can be treated", field.name);
        }
        assert_eq!(Target::Extra.refusal(Treatment::Drop), None);
        assert_eq!(Target::Extra.refusal(Treatment::Hash), Some("can only be dropped"));
        assert_eq!(Target::named("nonesuch"), None);
    }

    #[test]
    fn without_rules_all_stays_as_it_is() {
        let (privacy, given) = (Privacy::new(&[], KEY), leg(&[("caller", "+15551234567")], &[("caller", "1")]));
        assert_eq!(treated(&privacy, &given), given);
        assert_eq!(privacy.fingerprint(&given), Fingerprint::of_leg(&given));
        assert_eq!((privacy.dead_row(b"row"), privacy.dead_row_before(b"row")), (KeyHash::of_dead_row(b"row"), None));
        assert_eq!((privacy.id(), format!("{privacy:?}")), (None, "Privacy(None)".to_owned()));
    }

    #[test]
    fn fingerprints_tell_policies_and_keys_apart_and_dead_rows_only_keys() {
        let rules = [(Target::Field(at("caller")), Treatment::Hash)];
        let given = leg(&[("caller", "+15551234567")], &[]);
        let (one, other_key) = (Privacy::new(&rules, KEY), Privacy::new(&rules, b"another key of 16"));
        let other_rules = policy(&[("caller", Treatment::Hash), ("callee", Treatment::Drop)]);
        let print = |privacy: &Privacy| privacy.fingerprint(&given);
        assert_eq!(print(&one), print(&policy(&[("caller", Treatment::Hash)])));
        for other in [print(&other_key), print(&other_rules), Fingerprint::of_leg(&given)] {
            assert!(!print(&one).is_comparable(other));
        }
        let changed = one.fingerprint(&leg(&[("caller", "+15551234568")], &[]));
        assert!(print(&one).is_comparable(changed) && print(&one) != changed);
        assert_eq!(one.dead_row(b"row"), other_rules.dead_row(b"row"));
        assert_ne!(one.dead_row(b"row"), other_key.dead_row(b"row"));
        assert_ne!(one.dead_row(b"row"), KeyHash::of_dead_row(b"row"));
        assert_eq!(one.dead_row_before(b"row"), Some(KeyHash::of_dead_row(b"row")));
        let id = one.id().unwrap();
        assert_eq!(PolicyId::parse(&id.to_string()), Some(id));
        assert_eq!(["", "withheld", "+123456789abcdef"].map(PolicyId::parse), [None; 3]);
    }

    fn treatments() -> impl Strategy<Value = Treatment> {
        prop_oneof![Just(Treatment::Drop), Just(Treatment::Hash), (1usize..5).prop_map(Treatment::Mask)]
    }

    proptest! {
        /// Whatever the value and its type, nothing of it is left but the end that a mask shows.
        #[test]
        fn no_treated_value_is_left(
            caller in "[a-z]{6,12}", other in "[0-9]{6,12}", treatment in treatments(), is_odd: bool,
        ) {
            let mut given = leg(&[("callee", &other)], &[]);
            if is_odd {
                given.extra.push(("caller".into(), caller.clone().into()));
            } else {
                given.values[at("caller")] = Value::Text(caller.clone().into());
            }
            let treated = treated(&policy(&[("caller", treatment)]), &given);
            let shown = format!("{treated:?}");
            prop_assert!(!shown.contains(&caller) && shown.contains(&other), "{}", shown);
            prop_assert!(treated.extra.is_empty());
        }
    }
}
