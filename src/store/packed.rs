//! The bytes of what the view keeps, each with a checksum that covers where they belong.
//!
//! sled and file systems have checksums too, or none: what is read is trusted only when its own checksum
//! agrees, which covers the place as well, so that a right value in a wrong place is noticed.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3;

use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Entry, Nonce, Seq};
use crate::core::ledger::{PageId, PageMeta};
use crate::core::time::UtcMillis;

/// The checksum of content at a place.
pub(super) fn check(key: &[u8], content: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(content);
    hash.digest()
}

/// Content with a checksum behind it, which covers also the place where it belongs.
pub(super) fn with_check(place: &[u8], mut content: Vec<u8>) -> Vec<u8> {
    let sum = check(place, &content);
    content.extend_from_slice(&sum.to_be_bytes());
    content
}

/// The content, if it is what was written at this place.
pub(super) fn checked<'a>(place: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (content, sum) = bytes.split_last_chunk::<8>()?;
    (*sum == check(place, content).to_be_bytes()).then_some(content)
}

/// What is known of a leg or dead row: 7 bytes of fingerprint, one of revision, as on a page of the journal.
pub(super) type PackedSeen = [u8; 8];

/// An entry's content in bytes.
pub(super) fn pack_seen(entry: Entry) -> PackedSeen {
    let bytes = entry.to_bytes();
    std::array::from_fn(|index| bytes[16 + index])
}

/// From its bytes; fingerprints are of this version, which the layout says, and keyed if their page says so.
pub(super) fn unpack_entry(key: KeyHash, seen: PackedSeen, is_keyed: bool) -> Entry {
    let mut bytes = [0; Entry::BYTES];
    bytes[..16].copy_from_slice(&key.0);
    bytes[16..].copy_from_slice(&seen);
    Entry::from_bytes(&bytes, fingerprint_version(is_keyed))
}

/// The version of a page's fingerprints.
pub(super) const fn fingerprint_version(is_keyed: bool) -> u8 {
    if is_keyed { Fingerprint::KEYED_VERSION } else { Fingerprint::VERSION }
}

/// The bit of a packed generation that says that the page's fingerprints are keyed: no unit is rewound so often.
const KEYED_BIT: u32 = 1 << 31;

const fn pack_generation(generation: u32, is_keyed: bool) -> u32 {
    generation | if is_keyed { KEYED_BIT } else { 0 }
}

const fn unpack_generation(packed: u32) -> (u32, bool) {
    (packed & !KEYED_BIT, packed & KEYED_BIT != 0)
}

/// An entry of a slice; its page is a number in the slice's table of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedEntry {
    pub(super) key: KeyHash,
    pub(super) seen: PackedSeen,
    pub(super) page: u32,
}

impl PackedEntry {
    pub(super) const BYTES: usize = 28;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.key.0);
        bytes[16..24].copy_from_slice(&self.seen);
        bytes[24..].copy_from_slice(&self.page.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            key: key_of(bytes),
            seen: std::array::from_fn(|index| bytes[16 + index]),
            page: u32::from_be_bytes(std::array::from_fn(|index| bytes[24 + index])),
        }
    }
}

/// The key of a packed entry.
pub(super) fn key_of(bytes: &[u8; PackedEntry::BYTES]) -> KeyHash {
    KeyHash(std::array::from_fn(|index| bytes[index]))
}

/// What entries refer to: the page that they are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageRef {
    pub(super) seq: Seq,
    /// The unit's number in the table that the head holds.
    pub(super) unit: u16,
    pub(super) generation: u32,
    /// Whether the page's fingerprints are keyed.
    pub(super) is_keyed: bool,
}

impl PageRef {
    pub(super) const BYTES: usize = 14;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.unit.to_be_bytes());
        bytes[10..].copy_from_slice(&pack_generation(self.generation, self.is_keyed).to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *bytes;
        let (generation, is_keyed) = unpack_generation(u32::from_be_bytes([k, l, m, n]));
        Self {
            seq: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            unit: u16::from_be_bytes([i, j]),
            generation,
            is_keyed,
        }
    }
}

/// Before the pages' keys, which sort as the pages do.
const PAGE: u8 = b'p';

/// The key of a page in the head's database: pages in the ledger's order.
pub(super) fn page_key(id: PageId) -> Vec<u8> {
    let mut key = vec![PAGE];
    push_id(&mut key, id);
    key
}

fn push_id(key: &mut Vec<u8>, (seq, writer): PageId) {
    key.extend_from_slice(&seq.to_be_bytes());
    if let Some(writer) = writer {
        key.extend_from_slice(&writer.0);
    }
}

fn id_of(bytes: &[u8]) -> Option<PageId> {
    let (seq, writer) = bytes.split_at_checked(8)?;
    let writer = if writer.is_empty() { None } else { Some(Nonce(writer.try_into().ok()?)) };
    Some((u64::from_be_bytes(seq.try_into().ok()?), writer))
}

/// The keys of all pages whose numbers are in `[from, to)`.
pub(super) fn page_keys(from: Seq, to: Option<Seq>) -> std::ops::Range<Vec<u8>> {
    page_key((from, None))..to.map_or_else(|| vec![PAGE + 1], |to| page_key((to, None)))
}

/// A page's id from its key.
pub(super) fn page_id(key: &[u8]) -> Option<PageId> {
    id_of(key.strip_prefix(&[PAGE])?)
}

/// Before the keys of recent entries.
const RECENT: u8 = b'e';

/// How many recent entries one value of the head's database holds: 4 KiB. sled's nodes have up to 17 values, and
/// a node of more than 128 KiB would become a file of its own, which sled does not sync.
pub(super) const CHUNK_ENTRIES: usize = 170;

/// The key of the recent entries' part with this number.
pub(super) fn chunk_key(number: u64) -> [u8; 9] {
    let mut key = [RECENT; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A part of a page's entries, among the recent entries of an epoch, under its key.
pub(super) fn pack_chunk(key: &[u8], epoch: u64, id: PageId, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * Entry::BYTES + 41);
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.push(if id.1.is_some() { 24 } else { 8 });
    push_id(&mut bytes, id);
    entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_bytes()));
    with_check(key, bytes)
}

/// From its bytes; `None` when they are not what was written under this key in this epoch.
pub(super) fn unpack_chunk<'a>(key: &[u8], epoch: u64, bytes: &'a [u8]) -> Option<(PageId, &'a [[u8; Entry::BYTES]])> {
    let (found, rest) = checked(key, bytes)?.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first()?;
    let (id, entries) = rest.split_at_checked(usize::from(*length))?;
    let (entries, rest) = entries.as_chunks();
    (u64::from_be_bytes(*found) == epoch && rest.is_empty()).then_some((id_of(id)?, entries))
}

/// What is kept of a page, under its key.
pub(super) fn pack_meta(key: &[u8], meta: &PageMeta, unit: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(38);
    bytes.extend_from_slice(&unit.to_be_bytes());
    bytes.extend_from_slice(&pack_generation(meta.generation, meta.is_keyed).to_be_bytes());
    bytes.extend_from_slice(&meta.first.as_millis().to_be_bytes());
    bytes.extend_from_slice(&meta.last.as_millis().to_be_bytes());
    bytes.extend_from_slice(&meta.entries.to_be_bytes());
    bytes.extend_from_slice(&meta.published.to_be_bytes());
    with_check(key, bytes)
}

/// From its bytes, the unit's number beside it; `None` when they are not what was written under this key.
pub(super) fn unpack_meta(key: &[u8], bytes: &[u8], units: &BTreeMap<u16, String>) -> Option<(PageMeta, u16)> {
    let content: &[u8; 30] = checked(key, bytes)?.try_into().ok()?;
    let unit = u16::from_be_bytes(content[..2].try_into().ok()?);
    let (generation, is_keyed) = unpack_generation(u32::from_be_bytes(content[2..6].try_into().ok()?));
    let meta = PageMeta {
        unit: units.get(&unit)?.clone(),
        generation,
        is_keyed,
        first: UtcMillis::new(i64::from_be_bytes(content[6..14].try_into().ok()?)),
        last: UtcMillis::new(i64::from_be_bytes(content[14..22].try_into().ok()?)),
        entries: u32::from_be_bytes(content[22..26].try_into().ok()?),
        published: u32::from_be_bytes(content[26..30].try_into().ok()?),
    };
    Some((meta, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dedupe::Seen;
    use proptest::prelude::*;

    fn entry(key: [u8; 16], bits: u64, is_keyed: bool, revision: u8) -> Entry {
        let fingerprint = Fingerprint::of_version(bits, fingerprint_version(is_keyed)).filter(|_| bits != 0);
        Entry { key: KeyHash(key), seen: Seen { fingerprint, revision } }
    }

    proptest! {
        #[test]
        fn an_entry_and_a_page_come_back(key: [u8; 16], bits in 0u64..1 << 56, is_keyed: bool, revision: u8, page: u32, seq: u64, unit: u16, generation in 0u32..KEYED_BIT) {
            let entry = entry(key, bits, is_keyed, revision);
            let packed = PackedEntry { key: entry.key, seen: pack_seen(entry), page };
            prop_assert_eq!(PackedEntry::from_bytes(&packed.to_bytes()), packed);
            prop_assert_eq!(unpack_entry(packed.key, packed.seen, is_keyed), entry);
            let page = PageRef { seq, unit, generation, is_keyed };
            prop_assert_eq!(PageRef::from_bytes(&page.to_bytes()), page);
        }

        #[test]
        fn a_chunk_comes_back_and_a_flipped_bit_is_noticed(
            keys in prop::collection::vec(any::<[u8; 16]>(), 0..20), epoch: u64, number: u64, seq: u64,
            writer: Option<[u8; 16]>, flipped: prop::sample::Index,
        ) {
            let id = (seq, writer.map(Nonce));
            let key = chunk_key(number);
            let entries: Vec<Entry> = keys.into_iter().map(|key| entry(key, 7, false, 1)).collect();
            let mut bytes = pack_chunk(&key, epoch, id, &entries);
            let (found, unpacked) = unpack_chunk(&key, epoch, &bytes).unwrap();
            let unpacked = unpacked.iter().map(|bytes| Entry::from_bytes(bytes, Fingerprint::VERSION));
            prop_assert_eq!((found, unpacked.collect::<Vec<_>>()), (id, entries));
            prop_assert!(unpack_chunk(&chunk_key(number ^ 1), epoch, &bytes).is_none());
            prop_assert!(unpack_chunk(&key, epoch ^ 1, &bytes).is_none());
            let flipped = flipped.index(bytes.len() * 8);
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert!(unpack_chunk(&key, epoch, &bytes).is_none());
        }

        #[test]
        fn what_is_checked_belongs_where_it_is(place: [u8; 13], other: [u8; 13], content: Vec<u8>) {
            let bytes = with_check(&place, content.clone());
            prop_assert_eq!(checked(&place, &bytes), Some(content.as_slice()));
            prop_assert!(place == other || checked(&other, &bytes).is_none());
        }

        #[test]
        fn page_keys_sort_as_the_ledger_does(a: (u64, Option<[u8; 16]>), b: (u64, Option<[u8; 16]>)) {
            let id = |(seq, writer): (u64, Option<[u8; 16]>)| (seq, writer.map(Nonce));
            prop_assert_eq!(page_key(id(a)).cmp(&page_key(id(b))), id(a).cmp(&id(b)));
            prop_assert_eq!(page_id(&page_key(id(a))), Some(id(a)));
        }

        #[test]
        fn a_meta_comes_back(unit in 0u16..3, generation in 0u32..KEYED_BIT, is_keyed: bool, first: i64, last: i64, entries: u32, published: u32) {
            let units: BTreeMap<u16, String> = (0..).zip(["a", "b", "c"].map(str::to_owned)).collect();
            let meta = PageMeta {
                unit: units[&unit].clone(), generation, is_keyed, entries, published,
                first: UtcMillis::new(first), last: UtcMillis::new(last),
            };
            let packed = pack_meta(b"key", &meta, unit);
            prop_assert_eq!(unpack_meta(b"key", &packed, &units), Some((meta, unit)));
            prop_assert_eq!(unpack_meta(b"kez", &packed, &units), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (unpack_chunk(b"e", 0, &bytes), unpack_meta(b"p", &bytes, &BTreeMap::new()));
            let _ = (checked(b"e", &bytes), page_id(&bytes));
        }
    }
}
