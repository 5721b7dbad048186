//! The newest entries in memory, until there are enough of them for a slice.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::packed::{PackedEntry, PackedSeen, PageRef, pack_seen};
use crate::core::identity::KeyHash;
use crate::core::journal::{Entry, Seq};

/// Keys are hashes already; mixed a little, so that no part of them alone decides.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks().0 {
            self.0 = (self.0.rotate_left(32) ^ u64::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.0 ^= self.0 >> 29;
    }

    /// A key's length, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

/// Sorted entries, and the pages that they refer to in the order of their numbers.
pub(super) struct SortedEntries {
    pub(super) pages: Vec<PageRef>,
    pub(super) entries: Vec<PackedEntry>,
}

/// Entries by their keys, of each key the newest page's.
#[derive(Default)]
pub(super) struct Recent {
    entries: HashMap<KeyHash, (PackedSeen, u32), BuildHasherDefault<KeyHasher>>,
    /// In the order in which they came.
    pages: Vec<PageRef>,
}

impl Recent {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets all, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.pages.clear();
    }

    /// Adds a page's entries.
    pub(super) fn insert(&mut self, page: PageRef, entries: impl Iterator<Item = Entry>) {
        let number = self.pages.len() as u32;
        for entry in entries {
            let new = (pack_seen(entry), number);
            let known = self.entries.entry(entry.key).or_insert(new);
            if known.1 == number || self.pages[known.1 as usize].seq <= page.seq {
                *known = new;
            }
        }
        self.pages.push(page);
    }

    /// The entries of a slice, with its pages.
    pub(super) fn of_slice(pages: Vec<PageRef>, entries: impl IntoIterator<Item = PackedEntry>) -> Self {
        let entries = entries.into_iter().filter(|entry| (entry.page as usize) < pages.len());
        let entries = entries.map(|entry| (entry.key, (entry.seen, entry.page))).collect();
        Self { entries, pages }
    }

    /// What is known of a key, and from which page.
    pub(super) fn get(&self, key: &KeyHash) -> Option<(PackedSeen, PageRef)> {
        let (seen, page) = self.entries.get(key)?;
        Some((*seen, self.pages[*page as usize]))
    }

    /// All of it, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyHash, PackedSeen, PageRef)> {
        self.entries.iter().map(|(key, (seen, page))| (*key, *seen, self.pages[*page as usize]))
    }

    /// What makes a slice: the pages that are needed in the order of their numbers, and their entries by keys.
    pub(super) fn sorted(&self, oldest: Seq) -> SortedEntries {
        let mut order: Vec<usize> = (0..self.pages.len()).filter(|page| self.pages[*page].seq >= oldest).collect();
        order.sort_by_key(|page| self.pages[*page].seq);
        let mut numbers = vec![None; self.pages.len()];
        for (new, old) in order.iter().enumerate() {
            numbers[*old] = Some(new as u32);
        }
        let packed = |(key, (seen, page)): (&KeyHash, &(PackedSeen, u32))| {
            Some(PackedEntry { key: *key, seen: *seen, page: numbers[*page as usize]? })
        };
        let mut entries = Vec::with_capacity(self.entries.len());
        entries.extend(self.entries.iter().filter_map(packed));
        entries.sort_unstable_by_key(|entry| u128::from_be_bytes(entry.key.0));
        SortedEntries { pages: order.into_iter().map(|page| self.pages[page]).collect(), entries }
    }
}
