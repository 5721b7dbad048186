//! The bytes of what the view keeps, each with a checksum of its own.
//!
//! sled has checksums too, but over its pages: a value that sled returns is trusted only when its own
//! checksum agrees, which covers the key as well, so that a right value in a wrong place is noticed.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::core::dedupe::Seen;
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Chain, Nonce, Seq};
use crate::core::ledger::{PageId, PageMeta};
use crate::core::time::UtcMillis;

fn check(key: &[u8], content: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(content);
    hash.digest()
}

/// An entry; its unit is a number in the table that the head holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedEntry {
    pub(super) seen: Seen,
    pub(super) seq: Seq,
    pub(super) unit: u16,
    pub(super) generation: u32,
}

impl PackedEntry {
    const CHECKED: usize = 23;
    /// Four bytes of checksum: there are millions of these, and sled's own has to miss first.
    pub(super) const BYTES: usize = Self::CHECKED + 4;

    pub(super) fn to_bytes(self, key: &KeyHash) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        if let Some(fingerprint) = self.seen.fingerprint {
            bytes[..8].copy_from_slice(&fingerprint.bits().to_be_bytes());
            bytes[0] = Fingerprint::VERSION;
        }
        bytes[8] = self.seen.revision;
        bytes[9..17].copy_from_slice(&self.seq.to_be_bytes());
        bytes[17..19].copy_from_slice(&self.unit.to_be_bytes());
        bytes[19..23].copy_from_slice(&self.generation.to_be_bytes());
        let check = check(&key.0, &bytes[..Self::CHECKED]);
        bytes[23..].copy_from_slice(&check.to_be_bytes()[4..]);
        bytes
    }

    /// `None` when these are not the bytes of an entry with this key.
    pub(super) fn from_bytes(key: &KeyHash, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        if bytes[23..] != check(&key.0, &bytes[..Self::CHECKED]).to_be_bytes()[4..] {
            return None;
        }
        let bits = u64::from_be_bytes(bytes[..8].try_into().ok()?);
        Some(Self {
            seen: Seen {
                fingerprint: (bytes[0] == Fingerprint::VERSION).then(|| Fingerprint::from_bits(bits)),
                revision: bytes[8],
            },
            seq: u64::from_be_bytes(bytes[9..17].try_into().ok()?),
            unit: u16::from_be_bytes(bytes[17..19].try_into().ok()?),
            generation: u32::from_be_bytes(bytes[19..23].try_into().ok()?),
        })
    }
}

/// Before the pages' keys, which sort as the pages do.
const PAGE: u8 = b'p';

/// The key of a page in the head's database: pages in the ledger's order.
pub(super) fn page_key((seq, writer): PageId) -> Vec<u8> {
    let mut key = vec![PAGE];
    key.extend_from_slice(&seq.to_be_bytes());
    if let Some(writer) = writer {
        key.extend_from_slice(&writer.0);
    }
    key
}

/// The keys of all pages whose numbers are in `[from, to)`.
pub(super) fn page_keys(from: Seq, to: Option<Seq>) -> std::ops::Range<Vec<u8>> {
    page_key((from, None))..to.map_or_else(|| vec![PAGE + 1], |to| page_key((to, None)))
}

/// A page's id from its key.
pub(super) fn page_id(key: &[u8]) -> Option<PageId> {
    let (seq, writer) = key.strip_prefix(&[PAGE])?.split_at_checked(8)?;
    let writer = if writer.is_empty() { None } else { Some(Nonce(writer.try_into().ok()?)) };
    Some((u64::from_be_bytes(seq.try_into().ok()?), writer))
}

/// What is kept of a page, under its key.
pub(super) fn pack_meta(key: &[u8], meta: &PageMeta, unit: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(38);
    bytes.extend_from_slice(&unit.to_be_bytes());
    bytes.extend_from_slice(&meta.generation.to_be_bytes());
    bytes.extend_from_slice(&meta.first.as_millis().to_be_bytes());
    bytes.extend_from_slice(&meta.last.as_millis().to_be_bytes());
    bytes.extend_from_slice(&meta.entries.to_be_bytes());
    bytes.extend_from_slice(&meta.published.to_be_bytes());
    bytes.extend_from_slice(&check(key, &bytes).to_be_bytes());
    bytes
}

/// From its bytes; `None` when they are not what was written under this key.
pub(super) fn unpack_meta(key: &[u8], bytes: &[u8], units: &[String]) -> Option<PageMeta> {
    let bytes: &[u8; 38] = bytes.try_into().ok()?;
    let (content, sum) = bytes.split_at(30);
    if sum != check(key, content).to_be_bytes() {
        return None;
    }
    Some(PageMeta {
        unit: units.get(usize::from(u16::from_be_bytes(content[..2].try_into().ok()?)))?.clone(),
        generation: u32::from_be_bytes(content[2..6].try_into().ok()?),
        first: UtcMillis::new(i64::from_be_bytes(content[6..14].try_into().ok()?)),
        last: UtcMillis::new(i64::from_be_bytes(content[14..22].try_into().ok()?)),
        entries: u32::from_be_bytes(content[22..26].try_into().ok()?),
        published: u32::from_be_bytes(content[26..30].try_into().ok()?),
    })
}

/// What a slice says of itself, and what the head says of the slice: they must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// The head's position in the journal, of the apply that wrote here last.
    pub(super) offset: i64,
    /// The chain up to the last page that it wrote here.
    pub(super) chain: Chain,
    /// How many keys are here; means nothing until `done`.
    pub(super) count: u64,
    /// Whether that apply has written all it had to write here.
    pub(super) done: bool,
}

impl Stamp {
    /// Shorter than a key hash, so that it is none.
    pub(super) const KEY: &[u8] = b"stamp";

    /// Its bytes in a slice of the store `id`.
    pub(super) fn to_bytes(self, id: Nonce) -> Vec<u8> {
        let mut content = Vec::with_capacity(57);
        content.extend_from_slice(&id.0);
        content.extend_from_slice(&self.offset.to_be_bytes());
        content.extend_from_slice(&self.chain.0);
        content.extend_from_slice(&self.count.to_be_bytes());
        content.push(u8::from(self.done));
        seal(&content)
    }

    /// The store's id and the stamp.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<(Nonce, Self)> {
        let content: &[u8; 49] = unseal(bytes)?.try_into().ok()?;
        let stamp = Self {
            offset: i64::from_be_bytes(content[16..24].try_into().ok()?),
            chain: Chain(content[24..40].try_into().ok()?),
            count: u64::from_be_bytes(content[40..48].try_into().ok()?),
            done: content[48] == 1,
        };
        Some((Nonce(content[..16].try_into().ok()?), stamp))
    }
}

/// Content behind its checksum.
pub(super) fn seal(content: &[u8]) -> Vec<u8> {
    let mut bytes = xxh3_64(content).to_be_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes
}

/// The content, if it is what was sealed.
pub(super) fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, content) = bytes.split_at_checked(8)?;
    (sum == xxh3_64(content).to_be_bytes()).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_comes_back_and_a_flipped_bit_is_noticed(
            key: [u8; 16], bits: u64, is_dead: bool, revision: u8, seq: u64, unit: u16, generation: u32,
            flipped in 0..(PackedEntry::BYTES + 16) * 8,
        ) {
            let fingerprint = (!is_dead).then(|| Fingerprint::from_bits(bits));
            let entry = PackedEntry { seen: Seen { fingerprint, revision }, seq, unit, generation };
            let mut bytes = entry.to_bytes(&KeyHash(key));
            prop_assert_eq!(PackedEntry::from_bytes(&KeyHash(key), &bytes), Some(entry));
            let mut key = key;
            let (byte, bit) = (flipped / 8, 1 << (flipped % 8));
            match byte.checked_sub(16) {
                None => key[byte] ^= bit,
                Some(byte) => bytes[byte] ^= bit,
            }
            prop_assert!(PackedEntry::from_bytes(&KeyHash(key), &bytes).is_none());
        }

        #[test]
        fn page_keys_sort_as_the_ledger_does(a: (u64, Option<[u8; 16]>), b: (u64, Option<[u8; 16]>)) {
            let id = |(seq, writer): (u64, Option<[u8; 16]>)| (seq, writer.map(Nonce));
            prop_assert_eq!(page_key(id(a)).cmp(&page_key(id(b))), id(a).cmp(&id(b)));
            prop_assert_eq!(page_id(&page_key(id(a))), Some(id(a)));
        }

        #[test]
        fn a_meta_and_a_stamp_come_back(
            unit in 0u16..3, generation: u32, first: i64, last: i64, entries: u32, published: u32,
            offset: i64, chain: [u8; 16], count: u64, done: bool,
        ) {
            let units = ["a", "b", "c"].map(str::to_owned);
            let meta = PageMeta {
                unit: units[usize::from(unit)].clone(), generation, entries, published,
                first: UtcMillis::new(first), last: UtcMillis::new(last),
            };
            let packed = pack_meta(b"key", &meta, unit);
            prop_assert_eq!(unpack_meta(b"key", &packed, &units), Some(meta));
            prop_assert_eq!(unpack_meta(b"kez", &packed, &units), None);
            let stamp = Stamp { offset, chain: Chain(chain), count, done };
            prop_assert_eq!(Stamp::from_bytes(&stamp.to_bytes(Nonce([7; 16]))), Some((Nonce([7; 16]), stamp)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (PackedEntry::from_bytes(&KeyHash([0; 16]), &bytes), unpack_meta(b"p", &bytes, &[]));
            let _ = (Stamp::from_bytes(&bytes), unseal(&bytes), page_id(&bytes));
        }
    }
}
