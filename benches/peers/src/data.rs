use std::f64::consts::TAU;

/// 64 pixels and a label a line.
const CSV: &str = include_str!("../../../examples/data/digits.csv");
const PIXELS: usize = 64;
const TRAIN: usize = 1437;

/// Normally distributed numbers, the same for every library.
#[must_use]
pub fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix(seed);
    let mut numbers = Vec::with_capacity(count + 1);
    while numbers.len() < count {
        // Box and Muller: two from two.
        let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
        let (sin, cos) = (TAU * random.unit()).sin_cos();
        numbers.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    numbers.truncate(count);
    numbers
}

/// A class for each row.
#[must_use]
pub fn labels(rows: usize, classes: usize) -> Vec<usize> {
    (0..rows).map(|i| i * 7 % classes).collect()
}

/// Handwritten digits: pixels from 0 to 1, 64 a row, and their labels.
#[derive(Debug, Clone, Default)]
pub struct Digits {
    /// 64 a row.
    pub pixels: Vec<f32>,
    /// One a row.
    pub labels: Vec<usize>,
}

impl Digits {
    /// The rows to train on, and those to test with.
    pub(crate) fn load() -> (Self, Self) {
        let mut sets = (Self::default(), Self::default());
        for (i, line) in CSV.lines().enumerate() {
            let set = if i < TRAIN { &mut sets.0 } else { &mut sets.1 };
            let mut numbers = line.split(',').map(|text| text.parse::<u8>().expect("a number up to 255"));
            set.pixels.extend(numbers.by_ref().take(PIXELS).map(|ink| f32::from(ink) / 16.0));
            set.labels.push(numbers.next().expect("a label").into());
        }
        sets
    }

    /// Images.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The order of the rows in one epoch.
    #[must_use]
    pub fn shuffled(&self, epoch: usize) -> Vec<usize> {
        let mut random = SplitMix(epoch as u64);
        let mut order: Vec<usize> = (0..self.rows()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
        order
    }

    /// Copies the pixels and the labels of these rows, for libraries without a way of their own to pick rows.
    pub fn gather(&self, rows: &[usize], pixels: &mut Vec<f32>, labels: &mut Vec<usize>) {
        pixels.clear();
        labels.clear();
        for &row in rows {
            pixels.extend_from_slice(&self.pixels[row * PIXELS..][..PIXELS]);
            labels.push(self.labels[row]);
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal() {
        let numbers = normal(100_001, 1);
        assert_eq!(numbers.len(), 100_001);
        let mean = numbers.iter().sum::<f32>() / 1e5;
        let variance = numbers.iter().map(|x| x * x).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn digits_are_split_and_shuffled() {
        let (train, test) = Digits::load();
        assert_eq!((train.rows(), test.rows()), (1437, 360));
        assert_eq!((train.pixels.len(), test.pixels.len()), (1437 * 64, 360 * 64));
        let mut order = train.shuffled(0);
        assert_ne!(order, train.shuffled(1));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1437));
    }
}
