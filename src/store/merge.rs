//! Merging: which runs become one, and how.
//!
//! ```text
//!   oldest                                              newest
//!   ├────── level 2 ──────┼── level 1 ──┼─ 1 ─┼ 0 ┼ 0 ┼ 0 ┤   the oldest of a level, when there are
//!                                       └── 1 ──┘               enough of them, become one of the next
//! ```
//!
//! Runs follow each other as their pages do, so what is forgotten is at the old end: a run of which nothing is
//! needed is dropped whole, and one of which too little is needed is written again without the rest. No run holds
//! more than a part of everything that is needed, so what is kept for nothing stays a part of it, too.

use std::ops::Range;
use std::path::Path;

use super::files::{Result, Sizes};
use super::packed::{PackedEntry, PageRef};
use super::run::{Cursor, Run};
use super::run_writer::{Plan, RunWriter};
use crate::core::identity::KeyHash;
use crate::core::journal::Seq;

/// How much of what is needed a run may hold, and how much may be kept for nothing: a quarter.
const PART: u64 = 4;

/// The runs to be made one, if any are, and the level of that one. `needed` is how many entries are needed.
pub(super) fn due(runs: &[Run], needed: u64, oldest: Seq, sizes: &Sizes) -> Option<(Range<usize>, u8)> {
    let wasted_max = (needed / PART).max(sizes.recent as u64);
    let wasteful = |run: &Run| run.forgotten(oldest) > wasted_max;
    if let Some(number) = runs.iter().position(wasteful) {
        return Some((number..number + 1, runs[number].record.level));
    }
    let entries_max = (needed / PART).min(sizes.run_max);
    for (level, fan_out) in (0..).zip(sizes.fan_out) {
        let first = runs.iter().position(|run| run.record.level == level).unwrap_or(runs.len());
        let of_level = runs[first..].iter().take_while(|run| run.record.level == level);
        if of_level.clone().count() < fan_out {
            continue;
        }
        let mut entries = 0;
        let fit = of_level.take(fan_out).take_while(|run| {
            entries += run.record.entries;
            entries <= entries_max
        });
        let count = fit.count();
        if count > 1 {
            return Some((first..first + count, level + 1));
        }
    }
    None
}

/// Writes one run with the entries of all, without those of pages below `oldest`. Of equal keys the newest
/// page's entry stays. `None` when nothing is left.
pub(super) fn merge(dir: &Path, inputs: &[Run], plan: Plan, oldest: Seq, sizes: &Sizes) -> Result<Option<Run>> {
    let (pages, numbers) = join_pages(inputs, oldest);
    if pages.is_empty() {
        return Ok(None);
    }
    let mut writer = RunWriter::create(dir, plan, pages, sizes)?;
    let mut cursors: Vec<Cursor> = inputs.iter().map(|run| Cursor::new(run, &KeyHash([0; 16]))).collect();
    let mut entries: Vec<PackedEntry> = Vec::new();
    for bucket in 0..writer.buckets() {
        entries.clear();
        let until = first_key(bucket + 1, writer.buckets());
        for (cursor, numbers) in cursors.iter_mut().zip(&numbers) {
            cursor.take_until(until.as_ref(), |entry| {
                if let Some(Some(page)) = numbers.get(entry.page as usize) {
                    entries.push(PackedEntry { page: *page, ..entry });
                }
            })?;
        }
        sort_newest_once(&mut entries);
        writer.write_bucket(&entries)?;
    }
    writer.finish().map(Some)
}

/// Orders entries by their keys; of equal keys the one with the greatest page number stays.
pub(super) fn sort_newest_once(entries: &mut Vec<PackedEntry>) {
    let order = |entry: &PackedEntry| (u128::from_be_bytes(entry.key.0), std::cmp::Reverse(entry.page));
    entries.sort_unstable_by_key(order);
    entries.dedup_by_key(|entry| entry.key);
}

/// The lowest key of a bucket among so many; `None` beyond the last.
fn first_key(bucket: u32, buckets: u32) -> Option<KeyHash> {
    // The least `high` for which `high * buckets >> 64` is the bucket.
    let high = (u128::from(bucket) << 64).div_ceil(u128::from(buckets));
    let high = u64::try_from(high).ok()?;
    Some(KeyHash((u128::from(high) << 64).to_be_bytes()))
}

/// The pages of all runs that are needed, in order, and for each run the new numbers of its pages.
fn join_pages(inputs: &[Run], oldest: Seq) -> (Vec<PageRef>, Vec<Vec<Option<u32>>>) {
    let mut pages: Vec<(PageRef, usize, usize)> = Vec::new();
    for (input, run) in inputs.iter().enumerate() {
        let needed = run.pages.iter().enumerate().filter(|(_, page)| page.seq >= oldest);
        pages.extend(needed.map(|(number, page)| (*page, input, number)));
    }
    // Stable: of one number the newer run's page comes last, and wins.
    pages.sort_by_key(|(page, ..)| page.seq);
    let mut numbers: Vec<Vec<Option<u32>>> = inputs.iter().map(|run| vec![None; run.pages.len()]).collect();
    for (new, (_, input, number)) in pages.iter().enumerate() {
        numbers[*input][*number] = u32::try_from(new).ok();
    }
    (pages.into_iter().map(|(page, ..)| page).collect(), numbers)
}

#[cfg(test)]
mod tests {
    use super::super::run::bucket_of;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_begins_with_its_first_key(buckets in 1u32..100_000, bucket: prop::sample::Index) {
            let bucket = bucket.index(buckets as usize) as u32;
            let first = first_key(bucket, buckets).unwrap();
            prop_assert_eq!(bucket_of(&first, buckets), bucket);
            let number = u128::from_be_bytes(first.0);
            if bucket > 0 {
                prop_assert_eq!(bucket_of(&KeyHash((number - 1).to_be_bytes()), buckets), bucket - 1);
            }
            prop_assert_eq!(first_key(buckets, buckets), None);
        }
    }
}
