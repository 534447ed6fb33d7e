//! Random values, all from a seed that the caller gave: never from the operating system, never from a global
//! generator.
//!
//! Any generator of `rand` will do; [`rng`] makes the one that we use, whose numbers are the same on every
//! platform and in every version.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// A source of random bits. A function of your own takes `rng: &mut (impl random::Rng + ?Sized)`.
#[doc(no_inline)]
pub use rand::Rng;

use crate::error::TensorError;
use crate::in_default_mode;
use crate::scalar::Scalar;
use crate::shape::IntoShape;
use crate::tensor::Tensor;

/// A generator for this seed.
///
/// ```
/// use backrule_tensor::{Tensor, random};
///
/// let a: Tensor = Tensor::uniform([2, 2], -1.0, 1.0, &mut random::rng(7))?;
/// let b: Tensor = Tensor::uniform([2, 2], -1.0, 1.0, &mut random::rng(7))?;
/// assert_eq!(a, b);
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A number from 0 (included) to 1 (excluded) with 53 random bits.
pub fn uniform(rng: &mut (impl Rng + ?Sized)) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A whole number below `n`, each equally likely: the index of a sample, say. Below 0 there is none, so the
/// answer is 0 for an `n` of 0.
///
/// ```
/// use backrule_tensor::random;
///
/// let mut rng = random::rng(1);
/// let (die, coin) = (1 + random::below(&mut rng, 6), random::below(&mut rng, 2));
/// assert!((1..=6).contains(&die) && coin <= 1);
/// ```
pub fn below(rng: &mut (impl Rng + ?Sized), n: usize) -> usize {
    let n = n as u64;
    // D. Lemire, 2019: the high half of the product is the number. Of the 2⁶⁴ low halves, 2⁶⁴ mod n are too
    // many to be shared evenly; those are drawn again.
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        let low = product as u64;
        if low >= n || low >= n.wrapping_neg() % n {
            return (product >> 64) as usize;
        }
    }
}

/// A number of the standard normal distribution (the polar method of G. Marsaglia, one of its two results).
///
/// The bits depend on the platform's logarithm, which may differ in the last place.
pub fn normal(rng: &mut (impl Rng + ?Sized)) -> f64 {
    in_default_mode!(normal(rng));
    loop {
        let (a, b) = (2.0 * uniform(rng) - 1.0, 2.0 * uniform(rng) - 1.0);
        let s = a * a + b * b;
        if s > 0.0 && s < 1.0 {
            return a * (-2.0 * s.ln() / s).sqrt();
        }
    }
}

/// Puts `items` into a random order, each order equally likely (Fisher and Yates): the order of an epoch's
/// samples.
///
/// ```
/// use backrule_tensor::random;
///
/// let mut order: Vec<usize> = (0..5).collect();
/// random::shuffle(&mut order, &mut random::rng(1));
/// order.sort();
/// assert_eq!(order, [0, 1, 2, 3, 4]);
/// ```
pub fn shuffle<I>(items: &mut [I], rng: &mut (impl Rng + ?Sized)) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

impl<T: Scalar> Tensor<T> {
    /// Independent values, uniform from `low` to `high`.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros). Nothing has been drawn then.
    pub fn uniform(
        shape: impl IntoShape,
        low: f64,
        high: f64,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Self, TensorError> {
        in_default_mode!(Self::uniform(shape, low, high, rng));
        Self::from_fn(shape, |_| T::from_f64(low + (high - low) * uniform(rng)))
    }

    /// Independent values of the normal distribution with this mean and standard deviation.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros). Nothing has been drawn then.
    pub fn normal(
        shape: impl IntoShape,
        mean: f64,
        deviation: f64,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Self, TensorError> {
        in_default_mode!(Self::normal(shape, mean, deviation, rng));
        Self::from_fn(shape, |_| T::from_f64(mean + deviation * normal(rng)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean, variance and fourth central moment of 100,000 values.
    fn moments(x: &Tensor<f64>) -> [f64; 3] {
        let n = x.len() as f64;
        let mean = x.sum() / n;
        let moment = |power| x.as_slice().iter().map(|x| (x - mean).powi(power)).sum::<f64>() / n;
        [mean, moment(2), moment(4)]
    }

    #[test]
    fn the_distributions_have_their_moments() {
        // A sample's standard error is below 0.02 of each of these moments.
        let x = Tensor::uniform([100_000], -3.0, 3.0, &mut rng(1)).unwrap();
        for (got, expected) in moments(&x).into_iter().zip([0.0, 3.0, 16.2]) {
            assert!((got - expected).abs() < 0.2, "uniform: {got}, {expected}");
        }
        assert!(x.as_slice().iter().all(|x| (-3.0..3.0).contains(x)));
        let x = Tensor::normal([100_000], 1.0, 2.0, &mut rng(2)).unwrap();
        for (got, expected) in moments(&x).into_iter().zip([1.0, 4.0, 48.0]) {
            let bound = 0.02 * expected + 0.02;
            assert!((got - expected).abs() < 2.0 * bound, "normal: {got}, {expected}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers_in_either_precision() {
        let x = Tensor::<f64>::uniform([3, 5], 0.0, 1.0, &mut rng(3)).unwrap();
        let y = Tensor::<f32>::uniform([3, 5], 0.0, 1.0, &mut rng(3)).unwrap();
        assert_eq!(x.cast::<f32>().unwrap(), y);
        assert_ne!(x, Tensor::uniform([3, 5], 0.0, 1.0, &mut rng(4)).unwrap());
    }

    /// Frozen: an upgrade of the generator must not change runs silently.
    #[test]
    fn the_numbers_of_seed_42_stay() {
        let mut rng = rng(42);
        let first: [u64; 2] = [rng.next_u64(), rng.next_u64()];
        assert_eq!(first, [12_578_764_544_318_200_737, 17_529_487_244_874_322_312]);
    }

    /// A generator of these numbers, and then of none.
    struct Given(std::vec::IntoIter<u64>);

    impl rand::TryRng for Given {
        type Error = std::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(self.try_next_u64()? as u32)
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(self.0.next().unwrap())
        }
        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
            unreachable!()
        }
    }

    #[test]
    fn whole_numbers_are_equally_likely() {
        let (mut rng, mut counts) = (rng(6), [0; 7]);
        for _ in 0..7000 {
            counts[below(&mut rng, 7)] += 1;
        }
        // 1000 each; the standard deviation is 29.
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!([0, 1].map(|n| below(&mut rng, n)), [0, 0]);
    }

    /// 2⁶⁴ mod 3 is 1, so one of all numbers is drawn again: that whose low half is 0.
    #[test]
    fn what_can_not_be_shared_evenly_is_drawn_again() {
        let mut given = Given(vec![0, u64::MAX, 1, 0, 1 << 63].into_iter());
        assert_eq!([(); 3].map(|()| below(&mut given, 3)), [2, 0, 1]);
        assert_eq!(given.0.len(), 0);
    }

    #[test]
    fn every_order_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        let mut rng = rng(5);
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut items, &mut rng);
            *counts.entry(items).or_insert(0) += 1;
        }
        // 1000 each; the standard deviation is 29.
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
