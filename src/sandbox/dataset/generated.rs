//! Legs out of a seed, without storing any: time is cut into blocks, and a block's legs are a
//! function of the seed and the block's number.
//!
//! ```text
//!        span before the origin           from the origin on, at a rate
//!   ├────────┬────────┬──────────┤──────┬──────┬──────┬──────┬─ …
//!     block 0  block 1  block 2  │  3      4      5      6
//!                              origin
//! ```
//!
//! Every block but the last one of each era has [`BLOCK_LEGS`] legs. A call ends within its
//! block; its other legs may end up to [`SLACK_BLOCKS`] blocks earlier, never before the block's
//! era. So a window of disconnect time concerns its own blocks and a fixed number of later ones,
//! however long the past and the future are.

use std::time::Duration;

use super::call::{self, Direction, Fate, LEG_MS_MAX, Part, Role};
use super::{Basis, DatasetSettings, Entry, Filter, Shown};
use crate::core::time::UtcMillis;
use crate::sandbox::dice::{Dice, mix};

/// Legs in a block.
const BLOCK_LEGS: u64 = 64;

/// How many blocks' length a leg may end before its call. More makes calls at high rates look more
/// natural and every narrow query dearer.
const SLACK_BLOCKS: i64 = 16;

/// The densest that legs can lie: a block must not be shorter than a millisecond. A shorter span is
/// stretched and a higher rate cut to it.
const LEGS_A_MS_MAX: u64 = 10;

/// A second, by which an end rounded to a whole one may move.
const SECOND_MS: i64 = 1_000;

/// Where the calls' counter starts: like the real one's, an old epoch-millisecond value.
const CALL_ID_FIRST: u64 = 1_635_000_000_000;

/// What keeps the streams of dice apart.
mod purpose {
    pub(super) const BLOCK: u64 = 1;
    pub(super) const LEG: u64 = 2;
    pub(super) const LATE: u64 = 3;
    pub(super) const REVISED: u64 = 4;
    pub(super) const END: u64 = 5;
}

/// A leg without its texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    pub(super) start: i64,
    pub(super) connect: Option<i64>,
    pub(super) end: i64,
    pub(super) visible_at: i64,
    pub(super) call: u64,
    pub(super) parent: Option<u64>,
    pub(super) leg: u8,
    pub(super) pbx: u16,
    pub(super) role: Role,
    pub(super) fate: Fate,
    pub(super) direction: Direction,
    /// Decides what the legs of a call have in common.
    pub(super) call_dice: u64,
    /// Decides what is the leg's own.
    pub(super) dice: u64,
}

impl Leg {
    /// Whether `isSimplified` leaves the leg out.
    fn is_detail(&self) -> bool {
        matches!(self.role, Role::Member | Role::Forking | Role::Recording)
    }
}

/// The rule that yields every leg.
#[derive(Debug)]
pub(super) struct Generated {
    settings: DatasetSettings,
    origin: i64,
    span_ms: i64,
    late_ms: i64,
    /// Live legs in a million seconds, so that times are computed in whole numbers.
    rate_micro: i128,
    past_blocks: i64,
    /// Live legs until none end any more.
    live_legs: u64,
    /// The first block that has no legs.
    blocks_end: i64,
}

impl Generated {
    pub(super) fn new(settings: DatasetSettings, origin: UtcMillis) -> Self {
        let densest = i64::try_from(settings.legs / LEGS_A_MS_MAX).unwrap_or(i64::MAX);
        let rate_micro = (settings.rate.clamp(0.0, LEGS_A_MS_MAX as f64 * 1e3) * 1e6) as i128;
        let past_blocks = settings.legs.div_ceil(BLOCK_LEGS).cast_signed();
        let live_legs = match settings.live_for {
            _ if rate_micro == 0 => 0,
            None => u64::MAX,
            Some(live_for) => {
                u64::try_from(i128::from(millis(live_for)) * rate_micro / 1_000_000_000).unwrap_or(u64::MAX)
            }
        };
        let live_blocks = i64::try_from(live_legs.div_ceil(BLOCK_LEGS)).unwrap_or(i64::MAX);
        Self {
            origin: origin.as_millis(),
            span_ms: millis(settings.span).max(densest).max(1),
            late_ms: millis(settings.late),
            rate_micro,
            past_blocks,
            live_legs,
            blocks_end: past_blocks.saturating_add(live_blocks),
            settings,
        }
    }

    pub(super) fn settings(&self) -> &DatasetSettings {
        &self.settings
    }

    /// When block `block` begins, which is when the one before ends.
    fn block_start(&self, block: i64) -> i64 {
        let legs = i128::from(block.min(self.past_blocks)) * i128::from(BLOCK_LEGS);
        if block < self.past_blocks {
            let offset = legs * i128::from(self.span_ms) / i128::from(self.settings.legs.max(1));
            return self.origin - self.span_ms + clamp(offset);
        }
        if block == self.past_blocks {
            return self.origin;
        }
        if self.rate_micro == 0 {
            return i64::MAX;
        }
        let legs = i128::from(block - self.past_blocks) * i128::from(BLOCK_LEGS);
        self.origin.saturating_add(clamp(legs * 1_000_000_000 / self.rate_micro))
    }

    /// The first block that ends after `instant`.
    fn block_at(&self, instant: i64) -> i64 {
        let (mut low, mut high) = (0, self.past_blocks);
        if instant >= self.origin {
            let legs = (i128::from(instant) - i128::from(self.origin)) * self.rate_micro / 1_000_000_000;
            low = self.past_blocks;
            high = low + clamp(legs / i128::from(BLOCK_LEGS)) + 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block_start(middle + 1) > instant {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// How much earlier than the block's start its legs may end.
    fn slack(&self, block: i64) -> i64 {
        let (start, end) = (self.block_start(block), self.block_start(block + 1));
        let natural = end.saturating_sub(start).saturating_mul(SLACK_BLOCKS);
        natural.min(start - self.era_start(block))
    }

    fn era_start(&self, block: i64) -> i64 {
        if block < self.past_blocks { self.origin - self.span_ms } else { self.origin }
    }

    /// Every block that may hold a leg with a disconnect time in `[start, end)`.
    fn blocks(&self, start: i64, end: i64) -> impl Iterator<Item = i64> + '_ {
        let first = self.block_at(start);
        (first..self.blocks_end).take_while(move |block| {
            // The second covers rounding, of ends to whole ones and of blocks to milliseconds.
            let earliest = self.block_start(*block) - self.slack(*block) - SECOND_MS;
            earliest < end
        })
    }

    /// Every leg that may have ended before `end`.
    pub(super) fn entries_until(&self, end: i64) -> impl Iterator<Item = Entry> + '_ {
        self.blocks(i64::MIN, end).flat_map(move |block| {
            let legs = self.legs(block).into_iter().enumerate();
            legs.map(move |(ordinal, leg)| entry(block, ordinal, &leg, Shown::ALWAYS))
        })
    }

    /// The legs of a block, in the order of their ordinals.
    pub(super) fn legs(&self, block: i64) -> Vec<Leg> {
        let count = if block + 1 == self.past_blocks {
            self.settings.legs - block.cast_unsigned() * BLOCK_LEGS
        } else if block + 1 == self.blocks_end {
            self.live_legs - (block - self.past_blocks).cast_unsigned() * BLOCK_LEGS
        } else {
            BLOCK_LEGS
        };
        let count = usize::try_from(count).unwrap_or(0);
        let mut legs: Vec<Leg> = Vec::with_capacity(count);
        let mut dice = Dice::of(&[self.settings.seed, purpose::BLOCK, block.cast_unsigned()]);
        let mut parts: Vec<Part> = Vec::with_capacity(8);
        let mut last_call = 0;
        let mut last_reused = false;
        while legs.len() < count {
            let first = legs.len();
            let direction = call::plan(&mut dice, count - first, &mut parts);
            let between = (first, first + parts.len(), count);
            let end = self.call_end(&mut dice, block, between);
            self.place(&mut dice, block, end, &parts, direction, &mut legs);
            if dice.below(20) == 0 && first > 0 {
                tie_start(&mut legs, last_call, first);
            }
            let reuse = dice.below(20) == 0 && !last_reused && first > 0;
            last_reused = reuse && reuse_call_id(&mut legs, last_call, first);
            last_call = first;
        }
        legs
    }

    /// When the call ends whose legs have the ordinals `[from, to)` of `count`: somewhere in that
    /// share of the block, sometimes on a full second or just before one, where bounds matter.
    fn call_end(&self, dice: &mut Dice, block: i64, (from, to, count): (usize, usize, usize)) -> i64 {
        let (start, next) = (self.block_start(block), self.block_start(block + 1));
        let at = |ordinal: usize| start + clamp(i128::from(next - start) * ordinal as i128 / count as i128);
        let (low, high) = (at(from), at(to));
        let end = dice.millis(low, high.max(low + 1)).min(next - 1).max(start);
        let rounded = match dice.below(50) {
            0 => end - end.rem_euclid(SECOND_MS),
            1 => end - end.rem_euclid(SECOND_MS) + SECOND_MS - 1,
            _ => end,
        };
        if rounded < next && rounded >= self.era_start(block) { rounded } else { end }
    }

    fn place(&self, dice: &mut Dice, block: i64, end: i64, parts: &[Part], direction: Direction, legs: &mut Vec<Leg>) {
        let pbxes = self.settings.pbxes.len() as u64;
        let pbx = dice.below(pbxes).min(dice.below(pbxes));
        let call_dice = dice.roll();
        let length = parts.iter().map(|part| part.end).max().unwrap_or(0);
        let start = end - length;
        let earliest = (self.block_start(block) - self.slack(block)).min(end);
        let number = CALL_ID_FIRST + block.cast_unsigned() * BLOCK_LEGS;
        let root = number + legs.len() as u64;
        for part in parts {
            let own = part.is_own_call();
            let call = if own { number + legs.len() as u64 } else { root };
            let dice = mix(&[call_dice, purpose::LEG, legs.len() as u64]);
            let mut leg_end = start + part.end;
            if leg_end < earliest {
                // Anywhere until the call's end, or very many legs would end in one millisecond.
                leg_end = Dice::of(&[dice, purpose::END]).millis(earliest, end + 1);
            }
            legs.push(Leg {
                start: start + part.start,
                connect: part.connect.map(|connect| start + connect),
                end: leg_end,
                visible_at: self.visible_at(leg_end, dice),
                call,
                parent: own.then_some(root),
                leg: part.leg,
                pbx: u16::try_from(pbx).unwrap_or(0),
                role: part.role,
                fate: part.fate,
                direction,
                call_dice,
                dice,
            });
        }
    }

    fn visible_at(&self, end: i64, dice: u64) -> i64 {
        if self.late_ms == 0 {
            return end;
        }
        let mut dice = Dice::of(&[dice, purpose::LATE]);
        let late = if dice.chance(self.settings.late_share) {
            self.late_ms
        } else {
            // What every pipeline takes.
            self.late_ms.min(2 * SECOND_MS)
        };
        end + dice.millis(0, late + 1)
    }

    /// When the leg's content changes after it became visible; the second change undoes the first.
    pub(super) fn revisions(&self, leg: &Leg) -> [Option<i64>; 2] {
        let mut dice = Dice::of(&[leg.dice, purpose::REVISED]);
        if !dice.chance(self.settings.revised_share) {
            return [None, None];
        }
        let within = millis(self.settings.revised_within);
        let first = leg.visible_at + dice.millis(1, within.max(2));
        let left = leg.visible_at + within - first;
        let second = (dice.below(4) == 0 && left > 1).then(|| first + dice.millis(1, left));
        [Some(first), second]
    }

    /// Every leg that `filter` may ever let through if its disconnect time is before `horizon`, in
    /// the order of the reply. Texts (`caller`, `callee`) are left to `admits`.
    pub(super) fn select(&self, filter: &Filter, horizon: i64, admits: impl Fn(&Leg) -> bool) -> Vec<Entry> {
        // A leg that connected or started in the window ends at most LEG_MS_MAX later.
        let by_end = filter.basis == Basis::Disconnect && !filter.unfinished;
        let reach = if by_end { 0 } else { LEG_MS_MAX };
        let mut horizon = horizon;
        if filter.unfinished {
            horizon = horizon.saturating_add(LEG_MS_MAX);
        }
        let end = filter.end.saturating_add(reach).min(horizon);
        let mut entries = Vec::new();
        if filter.start >= end {
            return entries;
        }
        for block in self.blocks(filter.start, end) {
            for (ordinal, leg) in self.legs(block).iter().enumerate() {
                let shown = filter.shows(leg.start, leg.connect, Some(leg.end));
                let wanted =
                    filter.pbxes.contains(&leg.pbx) && !(filter.simplified && leg.is_detail()) && leg.end < horizon;
                if wanted && shown != Shown::NEVER && admits(leg) {
                    entries.push(entry(block, ordinal, leg, shown));
                }
            }
        }
        entries.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.start), entry.call, entry.leg, entry.place));
        entries
    }

    /// The block of an entry and its ordinal there.
    pub(super) fn locate(entry: &Entry) -> (i64, usize) {
        let ordinal = usize::try_from(entry.place % BLOCK_LEGS).unwrap_or(0);
        ((entry.place / BLOCK_LEGS).cast_signed(), ordinal)
    }
}

fn entry(block: i64, ordinal: usize, leg: &Leg, shown: Shown) -> Entry {
    Entry {
        start: leg.start,
        visible_at: leg.visible_at,
        call: leg.call,
        place: block.cast_unsigned() * BLOCK_LEGS + ordinal as u64,
        leg: leg.leg,
        shown,
    }
}

fn millis(of: Duration) -> i64 {
    // A century is longer than anything here can matter, and far from overflowing when added.
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX).min(100 * 366 * 24 * 60 * 60 * SECOND_MS)
}

fn clamp(wide: i128) -> i64 {
    i64::try_from(wide).unwrap_or(i64::MAX)
}

/// Lets the call at `this` start in the same millisecond as the call at `other`.
fn tie_start(legs: &mut [Leg], other: usize, this: usize) {
    let start = legs[other].start;
    let leg = &mut legs[this];
    if start <= leg.connect.unwrap_or(leg.end) && leg.end - start < LEG_MS_MAX {
        leg.start = start;
    }
}

/// Gives the call at `this` the callId of the one before, if they are on different PBXs. A leg
/// that would then share start, callId and legId with another one is not possible: the cursor does
/// not name the PBX and could not tell them apart.
fn reuse_call_id(legs: &mut [Leg], other: usize, this: usize) -> bool {
    let (earlier, later) = legs.split_at_mut(this);
    let other = &earlier[other..];
    let clash = later.iter().any(|leg| other.iter().any(|before| before.start == leg.start || before.pbx == leg.pbx));
    if clash {
        return false;
    }
    let (old, new) = (later[0].call, other[0].call);
    for leg in later {
        if leg.call == old {
            leg.call = new;
        }
        if leg.parent == Some(old) {
            leg.parent = Some(new);
        }
    }
    true
}
