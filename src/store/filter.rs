//! Filters: whether a run may hold a key, answered from memory.
//!
//! A blocked Bloom filter: a key's bits are all in one block of 64 bytes, so that a question costs one
//! cache line. "No" is certain, "perhaps" costs a look into the file.
//!
//! All filters together stay within a bound. What a run's file keeps is never changed; in memory the filter
//! is folded instead, its blocks joined two by two, until all fit. Block numbers are the high part of a
//! product, so that the block of a key in the folded filter is half of what it was.

use crate::core::identity::KeyHash;

/// Blocks come in multiples of it, so that a filter can be folded four times.
const BLOCKS_STEP: u64 = 16;

/// As many bits as one number of 64 bits can place in a block of 512.
const PROBES_MAX: u8 = 7;

/// A block's bytes.
pub(super) const BLOCK_BYTES: usize = 64;

/// A block, on a cache line of its own.
#[repr(align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Block([u64; 8]);

/// A key as filters see it; computed once for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    place: u64,
    bits: u64,
}

impl Probe {
    /// The probe of a key.
    pub(super) fn of(key: &KeyHash) -> Self {
        let number = u128::from_be_bytes(key.0);
        // Its halves mixed: the order of the keys must not show in the blocks.
        let mut place = (number as u64) ^ ((number >> 64) as u64).rotate_left(32);
        place = (place ^ (place >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        place = (place ^ (place >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        place ^= place >> 32;
        let bits = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { place, bits: bits ^ (bits >> 29) }
    }
}

/// How large a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) blocks: u32,
    /// How many bits a key sets.
    pub(super) probes: u8,
}

impl Shape {
    /// For so many entries at so many bits each.
    pub(super) fn new(entries: u64, bits_per_entry: f64) -> Self {
        let blocks = ((entries as f64 * bits_per_entry) / 512.0).ceil() as u64;
        let blocks = blocks.next_multiple_of(BLOCKS_STEP).max(BLOCKS_STEP);
        // Fewer than what is best for a plain filter, since blocks are not filled evenly.
        let probes = ((bits_per_entry * 0.55).round() as u8).clamp(1, PROBES_MAX);
        Self { blocks: u32::try_from(blocks).unwrap_or(u32::MAX / 16 * 16), probes }
    }

    /// How long its bytes are.
    pub(super) fn bytes(self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }

    /// Folded so many times; `None` when it is none that was written.
    pub(super) fn folded(self, folds: u32) -> Option<Self> {
        let is_one = 0 < self.probes && self.probes <= PROBES_MAX && self.blocks >> folds > 0;
        is_one.then_some(Self { blocks: self.blocks >> folds, ..self })
    }
}

/// Blocks lie in pieces of 64 KiB: memory of one size is used again when filters come and go, where that of
/// whole filters would leave holes.
const PIECE_BLOCKS: usize = 1024;

/// A filter in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pieces: Vec<Vec<Block>>,
    blocks: u32,
    probes: u8,
}

impl Filter {
    /// An empty one: it holds nothing.
    pub(super) fn new(shape: Shape) -> Self {
        let left = |piece: usize| shape.blocks as usize - piece * PIECE_BLOCKS;
        let pieces = 0..(shape.blocks as usize).div_ceil(PIECE_BLOCKS);
        let pieces = pieces.map(|piece| vec![Block::default(); left(piece).min(PIECE_BLOCKS)]).collect();
        Self { pieces, blocks: shape.blocks, probes: shape.probes }
    }

    /// How large it is.
    pub(super) fn shape(&self) -> Shape {
        Shape { blocks: self.blocks, probes: self.probes }
    }

    /// Gives its memory back; nobody may ask it any more.
    pub(super) fn clear(&mut self) {
        self.pieces = Vec::new();
    }

    fn block(&self, probe: Probe) -> usize {
        ((u128::from(probe.place) * u128::from(self.blocks)) >> 64) as usize
    }

    fn places(&self, probe: Probe) -> impl Iterator<Item = (usize, u64)> + use<> {
        (0..self.probes).map(move |number| {
            let place = probe.bits >> (u32::from(number) * 9);
            ((place >> 6) as usize & 7, 1 << (place & 63))
        })
    }

    /// Adds a key.
    pub(super) fn insert(&mut self, probe: Probe) {
        let block = self.block(probe);
        let places = self.places(probe);
        let block = &mut self.pieces[block / PIECE_BLOCKS][block % PIECE_BLOCKS];
        places.for_each(|(word, bit)| block.0[word] |= bit);
    }

    /// Whether the key may have been added; never `false` for one that was.
    pub(super) fn may_hold(&self, probe: Probe) -> bool {
        let block = self.block(probe);
        let block = &self.pieces[block / PIECE_BLOCKS][block % PIECE_BLOCKS].0;
        self.places(probe).all(|(word, bit)| block[word] & bit != 0)
    }

    /// Hands over the numbers of the keys that may have been added.
    ///
    /// Their blocks lie anywhere in memory: first one bit of each is looked at, without a branch that would have
    /// to wait for it, so that the next keys' blocks come meanwhile.
    pub(super) fn sift(&self, keys: &[(Probe, u32)], kept: &mut Vec<u32>) {
        const GROUP: usize = 64;
        for group in keys.chunks(GROUP) {
            let mut passing = [0_u8; GROUP];
            let mut count = 0;
            for (number, (probe, _)) in (0..).zip(group) {
                let block = self.block(*probe);
                let word = self.pieces[block / PIECE_BLOCKS][block % PIECE_BLOCKS].0[(probe.bits >> 6) as usize & 7];
                passing[count] = number;
                count += ((word >> (probe.bits & 63)) & 1) as usize;
            }
            let passing = passing[..count].iter().map(|number| &group[usize::from(*number)]);
            kept.extend(passing.filter(|(probe, _)| self.may_hold(*probe)).map(|(_, number)| *number));
        }
    }

    /// Takes half the memory, and says "perhaps" more often. It must have an even number of blocks.
    pub(super) fn fold(&mut self) {
        let pieces = std::mem::take(&mut self.pieces);
        for (number, mut piece) in pieces.into_iter().enumerate() {
            for pair in 0..piece.len() / 2 {
                piece[pair] = Block(std::array::from_fn(|word| piece[2 * pair].0[word] | piece[2 * pair + 1].0[word]));
            }
            piece.truncate(piece.len() / 2);
            match self.pieces.last_mut() {
                Some(before) if number % 2 == 1 => before.extend_from_slice(&piece),
                _ => self.pieces.push(piece),
            }
        }
        self.blocks /= 2;
    }

    /// Its bytes, as a file keeps them, piece by piece.
    pub(super) fn to_bytes(&self) -> impl Iterator<Item = Vec<u8>> {
        self.pieces.iter().map(|piece| piece.iter().flat_map(|block| block.0).flat_map(u64::to_le_bytes).collect())
    }

    /// Takes in a part of its bytes, those from block `from` on of a filter `1 << folds` times as large.
    /// `None` where it has no such block.
    pub(super) fn add_bytes(&mut self, from: usize, bytes: &[u8], folds: u32) -> Option<()> {
        for (number, bytes) in (from..).zip(bytes.as_chunks::<BLOCK_BYTES>().0) {
            let number = number >> folds;
            let block = self.pieces.get_mut(number / PIECE_BLOCKS)?.get_mut(number % PIECE_BLOCKS)?;
            for (word, bytes) in block.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word |= u64::from_le_bytes(*bytes);
            }
        }
        Some(())
    }
}

/// How often each filter has to be folded so that all stay within the bound: those with the most bits for
/// each entry first. Filters are given by their entries and blocks.
pub(super) fn folds(filters: &[(u64, u32)], bytes_max: usize) -> Vec<u32> {
    let mut folds = vec![0; filters.len()];
    let blocks = |number: usize, folds: &[u32]| u64::from(filters[number].1 >> folds[number]);
    loop {
        let bytes: u64 = (0..filters.len()).map(|number| blocks(number, &folds) * BLOCK_BYTES as u64).sum();
        let can_be = |number: &usize| blocks(*number, &folds) % 2 == 0 && blocks(*number, &folds) > 1;
        let density = |number: usize| blocks(number, &folds) as f64 / filters[number].0.max(1) as f64;
        let densest = (0..filters.len()).filter(can_be).max_by(|a, b| density(*a).total_cmp(&density(*b)));
        match densest {
            Some(densest) if bytes > bytes_max as u64 => folds[densest] += 1,
            _ => return folds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u64) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_128(&number.to_be_bytes()).to_be_bytes())
    }

    fn filled(entries: u64, bits: f64) -> Filter {
        let mut filter = Filter::new(Shape::new(entries, bits));
        (0..entries).for_each(|number| filter.insert(Probe::of(&key(number))));
        filter
    }

    fn wrong_share(filter: &Filter) -> f64 {
        let wrong = (0..50_000).filter(|number| filter.may_hold(Probe::of(&key(1_000_000 + number)))).count();
        wrong as f64 / 50_000.0
    }

    #[test]
    fn what_was_added_is_held_and_little_else() {
        for (bits, share_max) in [(16.0, 0.003), (10.0, 0.02), (4.0, 0.2)] {
            let mut filter = filled(20_000, bits);
            assert!((0..20_000).all(|number| filter.may_hold(Probe::of(&key(number)))));
            let keys: Vec<(Probe, u32)> = (0..60_000).map(|number| (Probe::of(&key(number.into())), number)).collect();
            let (mut kept, expected) = (vec![9], keys.iter().filter(|(probe, _)| filter.may_hold(*probe)));
            filter.sift(&keys, &mut kept);
            assert!([9].into_iter().chain(expected.map(|(_, number)| *number)).eq(kept));
            let share = wrong_share(&filter);
            assert!(share < share_max, "{bits}: {share}");
            while filter.blocks.is_multiple_of(2) {
                filter.fold();
                assert!((0..20_000).all(|number| filter.may_hold(Probe::of(&key(number)))));
            }
        }
    }

    proptest! {
        #[test]
        fn a_filter_comes_back_from_its_bytes_also_folded(entries in 1u64..150_000, folds in 0u32..5) {
            let filter = filled(entries, 12.0);
            let shape = Shape::new(entries, 12.0);
            let bytes: Vec<u8> = filter.to_bytes().flatten().collect();
            let mut folded = filter.clone();
            (0..folds).for_each(|_| folded.fold());
            let mut read = Filter::new(shape.folded(folds).unwrap());
            let half = shape.blocks as usize / 2;
            read.add_bytes(half, &bytes[half * BLOCK_BYTES..], folds).unwrap();
            read.add_bytes(0, &bytes[..half * BLOCK_BYTES], folds).unwrap();
            prop_assert_eq!(&read, &folded);
            prop_assert!(read.add_bytes(half + 1, &bytes[half * BLOCK_BYTES..], folds).is_none(), "it would go beyond the end");
        }

        #[test]
        fn filters_are_folded_until_they_fit(filters in prop::collection::vec((1u64..1_000_000, 1u32..2_000), 0..20), max in 10_000usize..1_000_000) {
            let filters: Vec<(u64, u32)> = filters.into_iter().map(|(entries, blocks)| (entries, blocks * 16)).collect();
            let folds = folds(&filters, max);
            let bytes: u64 = filters.iter().zip(&folds).map(|((_, blocks), folds)| u64::from(blocks >> folds) * 64).sum();
            let smallest = |(entry, folds): (&(u64, u32), &u32)| (entry.1 >> folds) % 2 == 1;
            prop_assert!(bytes <= max as u64 || filters.iter().zip(&folds).all(smallest));
        }
    }
}
