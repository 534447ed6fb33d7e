//! Masks of zeros and a constant, drawn from a key.
//!
//! Philox-4×32-10 (J. Salmon, M. Moraes, R. Dror, D. Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*,
//! 2011) gives four words of 32 bits from a key and a counter. Element i of a mask depends on the key and on
//! i alone: no element waits for the one before it, and any part of a mask can be computed by itself.

use crate::in_default_mode;
use crate::scalar::Scalar;
use crate::simd::kernel;

/// So many counters side by side, because a loop over them becomes vector instructions.
const LANES: usize = 16;
/// Elements of a mask that one round of counters gives: four words of each.
const BLOCK: usize = 4 * LANES;

/// mᵢ = 0 with the probability `rate`, else `kept`, and yᵢ = mᵢ xᵢ. Element i is that of index `first` + i.
///
/// The probability is a multiple of 2⁻³²: the nearest one to `rate`. Of slices that differ in length, the
/// shortest one counts.
///
/// ```
/// use backrule_tensor::kernels::mask::apply;
///
/// let (mut mask, mut y) = ([0.0_f32; 100], [0.0; 100]);
/// apply(7, 0, 0.5, 2.0, &[3.0; 100], &mut mask, &mut y);
/// assert!(mask.iter().all(|&m| m == 0.0 || m == 2.0));
/// assert!(y.iter().zip(&mask).all(|(y, m)| *y == 3.0 * m));
/// // The part from element 10 on is that part of the whole.
/// let (mut part, mut y) = ([0.0_f32; 20], [0.0; 20]);
/// apply(7, 10, 0.5, 2.0, &[3.0; 20], &mut part, &mut y);
/// assert_eq!(part, mask[10..30]);
/// ```
pub fn apply<T: Scalar>(key: u64, first: u64, rate: f64, kept: T, x: &[T], mask: &mut [T], y: &mut [T]) {
    in_default_mode!(apply(key, first, rate, kept, x, mask, y));
    let len = x.len().min(mask.len()).min(y.len());
    // Words below it are dropped. A rate that isn't a number drops nothing.
    let limit = (rate * 4_294_967_296.0).round() as u64;
    masked(key, first, limit, kept, &x[..len], &mut mask[..len], &mut y[..len]);
}

kernel!(
    fn masked<T: Scalar>(key: u64, first: u64, limit: u64, kept: T, x: &[T], mask: &mut [T], y: &mut [T]) {
        let mut block = first / BLOCK as u64;
        // Where the part begins within its first block.
        let mut skip = (first % BLOCK as u64) as usize;
        let mut done = 0;
        while done < x.len() {
            let words = words_of_block(key, block);
            let mut m = [T::ZERO; BLOCK];
            for (m, word) in m.iter_mut().zip(words) {
                *m = if word < limit { T::ZERO } else { kept };
            }
            let n = (BLOCK - skip).min(x.len() - done);
            let (x, mask, y) = (&x[done..][..n], &mut mask[done..][..n], &mut y[done..][..n]);
            for (((&m, &x), mask), y) in m[skip..].iter().zip(x).zip(mask).zip(y) {
                *mask = m;
                *y = m * x;
            }
            (done, skip, block) = (done + n, 0, block.wrapping_add(1));
        }
    }
);

/// The words of the elements of one block: first word 0 of all its counters, then word 1, and so on.
#[inline(always)]
fn words_of_block(key: u64, block: u64) -> [u64; BLOCK] {
    let first = block.wrapping_mul(LANES as u64);
    let mut words = [[0; LANES]; 4];
    for i in 0..LANES {
        // There is no carry: the first counter is a multiple of LANES.
        let of_counter = philox(key, [first | i as u64, first >> 32, 0, 0]);
        for (words, word) in words.iter_mut().zip(of_counter) {
            words[i] = low(word);
        }
    }
    let mut of_block = [0; BLOCK];
    for (of_block, words) in of_block.chunks_exact_mut(LANES).zip(words) {
        of_block.copy_from_slice(&words);
    }
    of_block
}

/// The words of a counter, in the low halves. The high halves don't matter, so products need not be taken
/// apart.
#[inline(always)]
fn philox(key: u64, mut c: [u64; 4]) -> [u64; 4] {
    let mut k = [key as u32, (key >> 32) as u32];
    for round in 0..ROUNDS {
        if round > 0 {
            k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        }
        let (a, b) = (low(c[0]) * MULTIPLIERS[0], low(c[2]) * MULTIPLIERS[1]);
        c = [(b >> 32) ^ c[1] ^ u64::from(k[0]), b, (a >> 32) ^ c[3] ^ u64::from(k[1]), a];
    }
    c
}

#[inline(always)]
fn low(word: u64) -> u64 {
    word & 0xffff_ffff
}

/// The constants of Philox-4×32: multipliers, and the increments of the key in each round.
const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::at_level;

    fn mask_of(key: u64, rate: f64, len: usize) -> Vec<f64> {
        let (x, mut mask, mut y) = (vec![1.0; len], vec![-1.0; len], vec![-1.0; len]);
        apply(key, 0, rate, 1.0, &x, &mut mask, &mut y);
        assert_eq!(mask, y);
        mask
    }

    /// The known answers of the authors' library Random123: counter, key, words.
    #[test]
    fn the_words_are_those_of_philox() {
        for (counter, key, words) in [
            ([0; 4], 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], u64::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                0x299f_31d0_a409_3822,
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(key, counter.map(|c: u32| c.into())).map(low), words);
        }
    }

    /// Element i has word (i mod 64) / 16 of counter 16 ⌊i / 64⌋ + i mod 16. Frozen: another order would
    /// change everybody's masks.
    #[test]
    fn elements_have_their_words() {
        for (block, lane, word) in [(0, 0, 0), (0, 5, 3), (3, 15, 2), (1 << 40, 7, 1)] {
            let counter = 16 * block + lane;
            let of_counter = philox(9, [counter, counter >> 32, 0, 0]);
            let words = words_of_block(9, block);
            assert_eq!(words[16 * word + lane as usize], low(of_counter[word]));
        }
        let first: String = mask_of(1, 0.5, 64).iter().map(|m| if *m == 0.0 { '0' } else { '1' }).collect();
        assert_eq!(first, "1101000010010010111010001111101010101011110001011110101110100001");
    }

    #[test]
    fn any_part_is_that_of_the_whole() {
        let whole = mask_of(5, 0.3, 1000);
        for (first, len) in [(0, 1), (1, 63), (63, 2), (64, 64), (100, 900), (999, 1), (500, 0)] {
            let (x, mut mask, mut y) = (vec![2.0; len], vec![-1.0; len], vec![-1.0; len]);
            apply(5, first as u64, 0.3, 1.0, &x, &mut mask, &mut y);
            assert_eq!(mask, whole[first..first + len], "{first} {len}");
            assert!(y.iter().zip(&mask).all(|(y, m)| *y == 2.0 * m));
        }
    }

    #[test]
    fn of_slices_that_differ_the_shortest_counts() {
        let (mut mask, mut y) = ([-1.0_f32; 70], [-1.0_f32; 90]);
        apply(1, 0, 0.5, 2.0, &[1.0; 80], &mut mask, &mut y);
        assert!(mask.iter().all(|&m| m >= 0.0) && y[..70] == mask && y[70..] == [-1.0; 20]);
    }

    #[test]
    fn the_ends_are_certain() {
        assert!(mask_of(1, 0.0, 10_000).iter().all(|&m| m == 1.0));
        assert!(mask_of(1, f64::NAN, 100).iter().all(|&m| m == 1.0));
        // All words are below 2³².
        let (mut mask, mut y) = ([-1.0; 1000], [-1.0; 1000]);
        apply(1, 0, 1.0, f64::INFINITY, &[1.0; 1000], &mut mask, &mut y);
        assert_eq!((mask, y), ([0.0; 1000], [0.0; 1000]));
    }

    #[test]
    fn instruction_sets_agree() {
        let x: Vec<f32> = (0..1000_u16).map(f32::from).collect();
        let run = |level| {
            let (mut mask, mut y) = (vec![0.0; 1000], vec![0.0; 1000]);
            at_level(level, || apply(3, 10, 0.4, 1.5, &x, &mut mask, &mut y))?;
            Some((mask, y))
        };
        let expected = run("baseline").unwrap();
        for level in ["avx2", "avx512"] {
            assert!(run(level).is_none_or(|got| got == expected), "{level}");
        }
    }

    /// Whether a count among `n` trials of probability `p` is within six standard deviations of its mean. By
    /// chance, one of 500 million isn't.
    #[track_caller]
    fn assert_count(what: &str, count: usize, n: usize, p: f64) {
        let (n, deviation) = (n as f64, (n as f64 * p * (1.0 - p)).sqrt());
        let off = (count as f64 - n * p) / deviation;
        assert!(off.abs() <= 6.0, "{what}: {off:.1} standard deviations");
    }

    const N: usize = 1 << 20;

    #[test]
    fn the_statistics_are_those_of_independent_elements() {
        for (key, rate) in [(0, 0.5), (1, 0.5), (2, 0.1), (u64::MAX, 0.9), (1 << 32, 0.01), (3, 0.001)] {
            let dropped: Vec<bool> = mask_of(key, rate, N).iter().map(|&m| m == 0.0).collect();
            let count = dropped.iter().filter(|&&dropped| dropped).count();
            assert_count(&format!("key {key}, rate {rate}: the mean"), count, N, rate);
            // Neighbors, in the same counter, in the next block, and farther away.
            for lag in [1, 2, 4, 8, 15, 16, 17, 32, 48, 64, 1024, 4096] {
                // Of disjoint pairs, so they are independent.
                let pairs =
                    || (0..N - lag).filter(|i| i / lag % 2 == 0).map(|i| (dropped[i], dropped[i + lag]));
                let (both, all) = (pairs().filter(|&pair| pair == (true, true)).count(), pairs().count());
                assert_count(&format!("key {key}, rate {rate}: both of {lag} apart"), both, all, rate * rate);
                let differ = pairs().filter(|(a, b)| a != b).count();
                let p = 2.0 * rate * (1.0 - rate);
                assert_count(&format!("key {key}, rate {rate}: one of {lag} apart"), differ, all, p);
            }
            // Runs: a run of dropped elements ends at each with the probability 1 − rate, however long it is.
            let mut lengths = [0_usize; 6];
            let mut length = 0;
            for &dropped in dropped.iter().chain([&false]) {
                match dropped {
                    true => length += 1,
                    false => {
                        (1..=length.min(5)).for_each(|l| lengths[l] += 1);
                        length = 0;
                    }
                }
            }
            for l in 1..5 {
                // Those of l elements or more that go on.
                if lengths[l] > 100 {
                    let what = format!("key {key}, rate {rate}: runs of {l} that go on");
                    assert_count(&what, lengths[l + 1], lengths[l], rate);
                }
            }
        }
    }

    /// One element under many keys, and two elements side by side under neighboring keys.
    #[test]
    fn keys_are_independent() {
        for index in [0, 1, 77] {
            let dropped: Vec<bool> = (0..100_000)
                .map(|key| {
                    let mut mask = [-1.0_f32];
                    apply(key, index, 0.25, 1.0, &[1.0], &mut mask, &mut [0.0]);
                    mask == [0.0]
                })
                .collect();
            let count = dropped.iter().filter(|&&dropped| dropped).count();
            assert_count("one element", count, dropped.len(), 0.25);
            let (pairs, _) = dropped.as_chunks::<2>();
            let both = pairs.iter().filter(|&&pair| pair == [true; 2]).count();
            assert_count("under two keys", both, pairs.len(), 0.0625);
        }
    }
}
