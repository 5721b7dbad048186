//! Dice whose throws are a function of a seed.
//!
//! Written out instead of taken from a library, because a library may change its stream of numbers
//! with its version, and a seed that once showed a fault has to show it for ever.

/// A stream of numbers that its seed determines: splitmix64.
pub(super) struct Dice(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// One number from several: the same words give the same number, others an unrelated one.
pub(super) fn mix(words: &[u64]) -> u64 {
    words.iter().fold(STEP, |state, word| scramble(state.wrapping_add(STEP) ^ scramble(*word)))
}

/// One number from a text.
pub(super) fn mix_text(seed: u64, text: &str) -> u64 {
    text.bytes()
        .fold(mix(&[seed, text.len() as u64]), |state, byte| scramble(state.wrapping_add(STEP) ^ u64::from(byte)))
}

impl Dice {
    /// Dice seeded with all of `words`.
    pub(super) fn of(words: &[u64]) -> Self {
        Self(mix(words))
    }

    /// Any number.
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        scramble(self.0)
    }

    /// A number in `[0, bound)`; 0 when `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.roll()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number of milliseconds in `[low, high)`.
    pub(super) fn millis(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(u64::try_from(high - low).unwrap_or(0)).cast_signed()
    }

    /// A number in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in `share` of all throws.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// One of `items`, which must not be empty.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        let index = self.below(items.len() as u64);
        items[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_are_fixed_for_ever() {
        let mut dice = Dice::of(&[1, 2]);
        assert_eq!([dice.roll(), dice.roll()], [444_223_524_921_806_365, 11_648_332_598_281_557_361]);
    }

    #[test]
    fn chances_are_about_what_they_say() {
        let mut dice = Dice::of(&[7]);
        let hits = (0..100_000).filter(|_| dice.chance(0.1)).count();
        assert!((9_500..10_500).contains(&hits), "{hits}");
        assert!((0..1_000).all(|_| dice.below(3) < 3));
        assert_eq!(dice.below(0), 0);
    }
}
