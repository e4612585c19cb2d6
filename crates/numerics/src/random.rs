//! Counter-based randomness: a random word is a function of a seed and a position, so that a result depends neither
//! on the order of evaluation nor on the number of threads.

/// Word `word` of the endless stream of uniform random bits that belongs to element `index` under `seed`.
///
/// Two rounds of the 64-bit finaliser of SplitMix64 (Steele, Lea, Flood 2014) over seed, index and word number.
pub fn random_word(seed: u64, index: u64, word: u64) -> u64 {
    let key = mix(seed.wrapping_add(GOLDEN)).wrapping_add(word.wrapping_mul(0xd1b5_4a32_d192_ed03));
    mix(mix(key.wrapping_add(index.wrapping_mul(GOLDEN))) ^ key)
}

/// A uniform `f64` in [0, 1), a multiple of 2^-53.
pub fn random_unit(seed: u64, index: u64) -> f64 {
    (random_word(seed, index, 0) >> 11) as f64 * (0.5_f64).powi(53)
}

/// 2^64 over the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of the 64 bits is set half of the time, and neighbours differ in half of the bits: over 65,536 words a
    /// count strays from the half by more than 5 standard deviations (640) with probability below 1e-6 a bit.
    #[test]
    fn bits_are_even_and_neighbours_independent() {
        for (seed, word) in [(0, 0), (1, 0), (u64::MAX, 1)] {
            for bit in 0..64 {
                let (mut ones, mut flips) = (0_i64, 0_i64);
                for index in 0..65_536 {
                    let a = random_word(seed, index, word) >> bit & 1;
                    ones += a as i64;
                    flips += (a ^ (random_word(seed, index + 1, word) >> bit & 1)) as i64;
                }
                assert!((ones - 32_768).abs() < 640 && (flips - 32_768).abs() < 640, "bit {bit}");
            }
        }
    }

    #[test]
    fn seed_index_and_word_all_matter() {
        let base = random_word(7, 7, 0);
        assert_ne!(base, random_word(8, 7, 0));
        assert_ne!(base, random_word(7, 8, 0));
        assert_ne!(base, random_word(7, 7, 1));
        let unit = random_unit(3, 4);
        assert!((0.0..1.0).contains(&unit));
    }
}
