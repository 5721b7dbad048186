//! Who a leg is and what it says: the identity hash and the content fingerprint.
//!
//! Both are computed from the source's own values, never from Avro bytes, so that a change of schema
//! changes neither. The identity hash is public: every message carries it, and consumers may compute
//! it themselves. The fingerprint is private to the connector.

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::leg::{FIELDS, Leg, Value};

/// The first 16 bytes of SHA-256 over a leg's identity or a dead row's bytes.
///
/// Input for a leg: `pbxId`, `callId` and `legId`, in this order, each as its length in bytes
/// (4 bytes, big-endian) followed by its UTF-8 bytes; an absent `pbxId` is the empty text.
/// Input for a dead row: four bytes `ff`, which no leg's input starts with, then the raw row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    /// The header of records that holds it, as consumers know it.
    pub const HEADER: &'static str = "call-legs-identity";

    /// The hash of a leg's identity.
    pub fn of_leg(leg: &Leg<'_>) -> Self {
        let mut hash = Sha256::new();
        for part in [leg.pbx_id(), leg.call_id(), leg.leg_id()] {
            hash.update(length_prefix(part.len()));
            hash.update(part);
        }
        Self::from_digest(hash)
    }

    /// What comes before a row that cannot be published as a leg.
    pub(super) const DEAD_ROW_PREFIX: [u8; 4] = [0xff; 4];

    /// The hash of a row that cannot be published as a leg.
    pub fn of_dead_row(raw: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(Self::DEAD_ROW_PREFIX);
        hash.update(raw);
        Self::from_digest(hash)
    }

    /// The half of it: enough where two that are taken for one, once in many million windows, do no harm.
    pub fn half(&self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|index| self.0[index]))
    }

    fn from_digest(hash: Sha256) -> Self {
        let digest = hash.finalize();
        Self(std::array::from_fn(|index| digest[index]))
    }
}

fn length_prefix(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// 56 bits over the fields of [`FIELDS`] that are marked as fingerprinted.
///
/// Under a privacy policy they are keyed: 24 bits that stand for the policy and its key, and 32 bits that nobody can
/// compute without the key. Two fingerprints can be compared only if both were made under the same policy, or both without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

/// Marks a keyed fingerprint in memory; in 56 bits its version does.
const KEYED: u64 = 1 << 56;

impl Fingerprint {
    /// The list and normalisation below, and what parsing makes of a value; increased when any of them changes.
    ///
    /// 2: a whole number is one however JSON writes it, an instant of 0 is none, and what not every Avro library
    /// decodes counts with its JSON text.
    pub const VERSION: u8 = 2;

    /// The version of keyed fingerprints.
    pub const KEYED_VERSION: u8 = 0x80 | Self::VERSION;

    /// The fingerprint of what the leg says.
    ///
    /// A known field with a value that it cannot hold counts with its JSON text; unknown fields do not count.
    pub fn of_leg(leg: &Leg<'_>) -> Self {
        Self::of_leg_in(leg, &mut Vec::with_capacity(1024))
    }

    /// The same in memory that is used again; what it holds is of no use afterwards.
    pub fn of_leg_in(leg: &Leg<'_>, input: &mut Vec<u8>) -> Self {
        input.clear();
        for (field, value) in FIELDS.iter().zip(&leg.values).filter(|(field, _)| field.fingerprinted) {
            match value {
                Value::Text(text) => push(input, b't', text.as_bytes()),
                Value::Integer(number) => push(input, b'i', &number.to_be_bytes()),
                Value::TextList(texts) => {
                    push(input, b'l', &length_prefix(texts.len()));
                    texts.iter().for_each(|text| push(input, b't', text.as_bytes()));
                }
                Value::Null => match leg.extra.iter().find(|(name, _)| name == field.name) {
                    Some((_, json)) => push(input, b'x', json.as_bytes()),
                    None => input.push(b'n'),
                },
            }
        }
        Self::from_bits(xxh3_64(input))
    }

    /// The fingerprint with these low 56 bits, made without a key.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & (KEYED - 1))
    }

    /// A keyed fingerprint: `policy` stands for policy and key in its low 24 bits, `hash` for the content.
    pub const fn keyed(policy: u32, hash: u32) -> Self {
        Self(KEYED | ((policy as u64 & 0xff_ffff) << 32) | hash as u64)
    }

    /// The fingerprint with these bits, of this version; `None` for a version that this program does not know.
    pub const fn of_version(bits: u64, version: u8) -> Option<Self> {
        match version {
            Self::VERSION => Some(Self::from_bits(bits)),
            Self::KEYED_VERSION => Some(Self(Self::from_bits(bits).0 | KEYED)),
            _ => None,
        }
    }

    /// The version: keyed or not.
    pub const fn version(self) -> u8 {
        if self.is_keyed() { Self::KEYED_VERSION } else { Self::VERSION }
    }

    /// Whether it was made with a key.
    pub const fn is_keyed(self) -> bool {
        self.0 & KEYED != 0
    }

    /// Whether the two tell the same content from another: otherwise they differ by how they were made.
    pub const fn is_comparable(self, other: Self) -> bool {
        self.is_keyed() == other.is_keyed() && (!self.is_keyed() || self.0 >> 32 == other.0 >> 32)
    }

    /// The 56 bits.
    pub const fn bits(self) -> u64 {
        self.0 & (KEYED - 1)
    }
}

fn push(input: &mut Vec<u8>, tag: u8, content: &[u8]) {
    let [a, b, c, d] = length_prefix(content.len());
    input.extend_from_slice(&[tag, a, b, c, d]);
    input.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::super::leg::{FIELD_COUNT, position};
    use super::super::time::UtcMillis;
    use super::*;
    use std::borrow::Cow;

    fn leg(pbx_id: &'static str, call_id: &'static str, leg_id: &'static str) -> Leg<'static> {
        let mut values = [const { Value::Null }; FIELD_COUNT];
        values[position::PBX_ID] = Value::Text(Cow::Borrowed(pbx_id));
        values[position::CALL_ID] = Value::Text(Cow::Borrowed(call_id));
        values[position::LEG_ID] = Value::Text(Cow::Borrowed(leg_id));
        Leg { values, extra: Vec::new(), disconnected: UtcMillis::new(1) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_identity_hash_is_what_its_documentation_says() {
        // From Python: sha256(b''.join(pack('>I', len(part)) + part for part in parts)).hexdigest()[:32]
        let hash = KeyHash::of_leg(&leg("acmecorppbx", "1635571048351", "1"));
        assert_eq!(hex(&hash.0), "62ab3568f7ee4704d911ff5634939163");
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        assert_ne!(KeyHash::of_leg(&leg("p", "12", "3")), KeyHash::of_leg(&leg("p", "1", "23")));
        assert_ne!(KeyHash::of_leg(&leg("", "12", "3")), KeyHash::of_leg(&leg("1", "2", "3")));
    }

    #[test]
    fn the_fingerprint_sees_content_and_not_the_time_zone() {
        let plain = leg("p", "1", "1");
        let before = Fingerprint::of_leg(&plain);
        let changed = |index: usize, value: Value<'static>| {
            let mut leg = plain.clone();
            leg.values[index] = value;
            Fingerprint::of_leg(&leg) != before
        };
        for (index, field) in FIELDS.iter().enumerate() {
            assert_eq!(changed(index, Value::Text(Cow::Borrowed("other"))), field.fingerprinted, "{}", field.name);
        }
        assert!(changed(8, Value::Integer(0)), "zero is not null");
        assert!(changed(40, Value::TextList(vec![])), "an empty list is not null");
    }

    #[test]
    fn fingerprints_are_compared_only_where_they_were_made_alike() {
        let plain = Fingerprint::from_bits(u64::MAX);
        let [keyed, changed, other] = [(1, 2), (1, 3), (2, 2)].map(|(policy, hash)| Fingerprint::keyed(policy, hash));
        assert!(plain.is_comparable(Fingerprint::from_bits(0)) && keyed.is_comparable(changed));
        assert!(!keyed.is_comparable(other) && !keyed.is_comparable(plain) && !plain.is_comparable(keyed));
        for print in [plain, keyed, Fingerprint::keyed(u32::MAX, u32::MAX)] {
            assert!(print.bits() < 1 << 56);
            assert_eq!(Fingerprint::of_version(print.bits(), print.version()), Some(print));
        }
        assert_eq!(Fingerprint::of_version(7, Fingerprint::VERSION - 1), None);
    }

    #[test]
    fn the_fingerprint_counts_mistyped_known_fields_and_no_unknown_ones() {
        let plain = leg("p", "1", "1");
        let with = |name: &'static str, json: &'static str| {
            let mut leg = plain.clone();
            leg.extra.push((Cow::Borrowed(name), Cow::Borrowed(json)));
            Fingerprint::of_leg(&leg)
        };
        assert_eq!(with("newField", "1"), Fingerprint::of_leg(&plain));
        assert_ne!(with("talkTimeMS", "\"1\""), Fingerprint::of_leg(&plain));
    }
}
