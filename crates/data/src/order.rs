//! Orders of samples that are functions of a seed: the same on every machine, and without a list in memory.

use orrery_numerics::random_word;

/// A permutation of `0..len`, one for each seed and stream (the number of the epoch, say).
///
/// A Feistel network over the next even number of bits, walked until it is back in range (Black and Rogaway 2002),
/// whose round function is [`random_word`].
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: usize,
    key: u64,
    /// Bits of each half.
    half: u32,
}

const ROUNDS: u64 = 6;
/// Smaller networks have too few round functions for all permutations to be about as likely.
const LEAST_HALF: u32 = 5;

impl Permutation {
    /// The permutation of `len` samples that belongs to `seed` and `stream`.
    pub fn new(len: usize, seed: u64, stream: u64) -> Self {
        let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, key: random_word(seed, stream, 1), half: bits.div_ceil(2).max(LEAST_HALF) }
    }
    /// What comes at place `place`. Panics where that is not below the length.
    pub fn at(&self, place: usize) -> usize {
        assert!(place < self.len, "place {place} of {}", self.len);
        let mask = (1_u64 << self.half) - 1;
        let mut value = place as u64;
        loop {
            let (mut left, mut right) = (value >> self.half, value & mask);
            for round in 0..ROUNDS {
                (left, right) = (right, left ^ (random_word(self.key, right, round) & mask));
            }
            value = left << self.half | right;
            if value < self.len as u64 {
                return value as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once() {
        for len in [1, 2, 3, 10, 1000, 1023, 1024, 1025, 5000] {
            let order = Permutation::new(len, 7, 0);
            let mut all: Vec<usize> = (0..len).map(|i| order.at(i)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
    }

    /// The order is a promise: a checkpoint made on one machine goes on with the same samples on another.
    #[test]
    fn the_order_is_the_same_everywhere() {
        let order = |seed, epoch| (0..8).map(|i| Permutation::new(8, seed, epoch).at(i)).collect::<Vec<_>>();
        assert_eq!(order(1, 0), [7, 1, 5, 0, 6, 2, 3, 4]);
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    /// Over 4,800 epochs each of the 24 orders of 4 samples comes about 200 times; six standard deviations are 83.
    #[test]
    fn all_orders_are_about_as_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..4800 {
            let order = Permutation::new(4, 3, epoch);
            *counts.entry([0, 1, 2, 3].map(|i| order.at(i))).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|n| (n - 200).abs() < 83), "{counts:?}");
    }
}
