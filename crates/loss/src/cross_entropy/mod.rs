//! Cross-entropy: checks, then parts of the batch on all threads.

mod check;
mod kernel;
#[cfg(feature = "testing")]
mod samples;
mod settings;

use backrule_tensor::{Scalar, Tensor, in_default_mode, parallel, simd};

pub use self::settings::CrossEntropy;

use self::kernel::Losses;
use crate::error::LossError;
use crate::target::Target;

/// The most parts that a batch is cut into.
const PARTS: usize = 64;
/// The fewest logits of a part: handing fewer to another thread takes longer than their exponentials.
const WORTH_A_THREAD: usize = 1 << 15;

impl CrossEntropy {
    /// L, when its gradient isn't wanted: for validation data.
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad).
    pub fn value<'t, T: Scalar>(
        &self,
        prediction: &Tensor<T>,
        target: impl Into<Target<'t, T>>,
    ) -> Result<T, LossError> {
        self.reduce(prediction, target.into(), None)
    }

    /// L, and ∂L/∂prediction in `dy`, which takes the prediction's shape and is overwritten.
    ///
    /// # Errors
    /// When prediction, target and settings don't fit together, or there is no memory for `dy`: see
    /// [`LossError`]. `dy` is unchanged then.
    pub fn value_and_grad<'t, T: Scalar>(
        &self,
        prediction: &Tensor<T>,
        target: impl Into<Target<'t, T>>,
        dy: &mut Tensor<T>,
    ) -> Result<T, LossError> {
        self.reduce(prediction, target.into(), Some(dy))
    }

    fn reduce<T: Scalar>(
        &self,
        prediction: &Tensor<T>,
        target: Target<'_, T>,
        dy: Option<&mut Tensor<T>>,
    ) -> Result<T, LossError> {
        in_default_mode!(self.reduce(prediction, target, dy));
        let divisor = self.divisor(prediction.shape(), target)?;
        let dz = match dy {
            Some(dy) => {
                dy.resize(prediction.shape())?;
                Some(dy.as_mut_slice())
            }
            None => None,
        };
        // The size of a part doesn't depend on the number of threads, so neither does the sum.
        let (rows, classes) = (prediction.shape().rows(), prediction.shape().columns());
        let part_rows = rows.div_ceil(PARTS).max(WORTH_A_THREAD.div_ceil(classes));
        let len = part_rows * classes;
        let mut sums = [0.0; PARTS];
        let part = |part: usize, z, dz| {
            let (first, scale) = (part * part_rows, 1.0 / divisor);
            simd::run(Losses { loss: self, first, z, classes, target, dz, scale })
        };
        let parts = prediction.as_slice().chunks(len).zip(&mut sums).enumerate();
        match dz {
            Some(dz) => parallel::for_each(parts.zip(dz.chunks_mut(len)), |((i, (z, sum)), dz)| {
                *sum = part(i, z, Some(dz));
            }),
            None => parallel::for_each(parts, |(i, (z, sum))| *sum = part(i, z, None)),
        }
        Ok(T::from_f64(sums.iter().sum::<f64>() / divisor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduction::Reduction;

    /// Whole numbers, and 2²⁰ times whole numbers, so adding 10⁸ or 2³⁰ is exact in f64 or f32.
    fn assert_shift_changes_no_bit<T: Scalar>(unit: f64, shift: f64) {
        let z = [[3.0, -1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 1.0, -4.0]];
        let logits = |shift: f64| Tensor::from(z.map(|row| row.map(|z| T::from_f64(unit * z + shift))));
        let loss = CrossEntropy::new().label_smoothing(0.25).unwrap();
        let soft = Tensor::from([[0.5, 0.25, 0.25]; 3].map(|t| t.map(T::from_f64)));
        for target in [Target::Classes(&[2, 0, 1]), Target::Probabilities(&soft)] {
            let (mut dz, mut shifted) = (Tensor::default(), Tensor::default());
            let a = loss.value_and_grad(&logits(0.0), target, &mut dz).unwrap();
            let b = (loss.value_and_grad(&logits(shift), target, &mut shifted)).unwrap();
            assert!(a.is_finite() && a > T::ZERO);
            assert_eq!((a, dz), (b, shifted), "unit {unit}, shift {shift}");
        }
    }

    #[test]
    fn a_constant_added_to_all_logits_changes_nothing() {
        for shift in [1e4, -1e4, 1e8, -1e8] {
            assert_shift_changes_no_bit::<f64>(1.0, shift);
        }
        for shift in [1e4, -1e4] {
            assert_shift_changes_no_bit::<f32>(1.0, shift);
        }
        // At 10⁸ a single-precision number is a multiple of 8.
        for shift in [1e8, -1e8] {
            assert_shift_changes_no_bit::<f32>(8.0, shift);
        }
    }

    fn assert_stable_at_extremes<T: Scalar>() {
        let number = T::from_f64;
        let z = Tensor::from([[number(1e4), number(-1e4)], [number(1e4), number(1e4)]]);
        let sum = CrossEntropy::new().reduction(Reduction::Sum);
        let mut dz = Tensor::default();
        let value = sum.value_and_grad(&z, &[1, 0], &mut dz).unwrap();
        assert_eq!(value, number(2e4 + 2_f64.ln()));
        let half = number(0.5);
        assert_eq!(dz.as_slice(), [T::ONE, -T::ONE, -half, half]);
    }

    #[test]
    fn logits_of_ten_thousand_are_safe() {
        assert_stable_at_extremes::<f32>();
        assert_stable_at_extremes::<f64>();
    }

    #[test]
    fn one_class_costs_nothing() {
        let z = Tensor::from([[-3.7_f64], [0.3]]);
        let soft = Tensor::from([[1.0], [1.00005]]);
        for smoothing in [0.0, 0.1, 1.0] {
            let loss = CrossEntropy::new().label_smoothing(smoothing).unwrap();
            let weighted = loss.clone().class_weights([0.3]).unwrap();
            for loss in [loss, weighted] {
                for target in [Target::Classes(&[0, 0]), Target::Probabilities(&soft)] {
                    let mut dz = Tensor::default();
                    assert_eq!(loss.value_and_grad(&z, target, &mut dz), Ok(0.0));
                    assert_eq!(dz, Tensor::from([[0.0], [0.0]]));
                }
            }
        }
    }

    #[test]
    fn equal_logits_and_any_batch() {
        for rows in [1, 300] {
            let z = Tensor::<f64>::full([rows, 4], -2.5).unwrap();
            let labels: Vec<usize> = (0..rows).map(|i| i % 4).collect();
            let mut dz = Tensor::default();
            let value = CrossEntropy::new().value_and_grad(&z, &labels, &mut dz).unwrap();
            assert!((value - 4_f64.ln()).abs() < 1e-14);
            for (dz, &y) in dz.rows().zip(&labels) {
                for (c, &dz) in dz.iter().enumerate() {
                    let expected = (0.25 - if c == y { 1.0 } else { 0.0 }) / rows as f64;
                    assert!((dz - expected).abs() < 1e-16);
                }
            }
        }
    }

    /// In every place of a row, also behind the first sixteen.
    #[test]
    fn a_class_is_the_distribution_that_is_one_there() {
        for n in [1, 5, 16, 17, 40] {
            let value = |at: &[usize]| ((at[0] * 31 + at[1] * 7919) % 997) as f64 * 0.02 - 10.0;
            let z = Tensor::from_fn([n, n], value).unwrap();
            let one_there = |at: &[usize]| if at[0] == at[1] { 1.0 } else { 0.0 };
            let (labels, soft) = ((0..n).collect::<Vec<_>>(), Tensor::from_fn([n, n], one_there).unwrap());
            let weights: Vec<f64> = (0..n).map(|c| 0.5 + c as f64).collect();
            let loss = CrossEntropy::new().reduction(Reduction::Sum).class_weights(weights).unwrap();
            for loss in [loss.clone(), loss.label_smoothing(0.3).unwrap()] {
                let (mut dz, mut expected) = (Tensor::default(), Tensor::default());
                let l = loss.value_and_grad(&z, &labels, &mut dz).unwrap();
                let l_soft = loss.value_and_grad(&z, &soft, &mut expected).unwrap();
                assert!((l - l_soft).abs() <= 1e-12 * l_soft, "{n} classes: {l} {l_soft}");
                for (dz, expected) in dz.as_slice().iter().zip(expected.as_slice()) {
                    assert!((dz - expected).abs() < 1e-13 * n as f64, "{n} classes: {dz} {expected}");
                }
            }
        }
    }

    #[test]
    fn nan_reaches_the_value_and_its_row_and_no_other() {
        let z = Tensor::from([[0.0_f32, 1.0], [f32::NAN, 1.0], [1.0, f32::NAN]]);
        let soft = Tensor::from([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]);
        for target in [Target::Classes(&[0, 1, 0]), Target::Probabilities(&soft)] {
            let mut dz = Tensor::default();
            let value = CrossEntropy::new().value_and_grad(&z, target, &mut dz).unwrap();
            assert!(value.is_nan());
            assert!(CrossEntropy::new().value(&z, target).unwrap().is_nan());
            let nan: Vec<bool> = dz.as_slice().iter().map(|dz| dz.is_nan()).collect();
            assert_eq!(nan, [false, false, true, true, true, true]);
        }
    }

    /// Enough logits for several parts, of which the last is shorter.
    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (rows, classes) = (83, 1500);
        let z = Tensor::<f32>::from_fn([rows, classes], |at| (at[0] * 31 + at[1] * 17) as f32 % 7.0).unwrap();
        let own = |at: &[usize]| at[1] == at[0] * 7 % classes;
        let soft = |at: &[usize]| if own(at) { 0.5 } else { 0.5 / (classes - 1) as f32 };
        let soft = Tensor::from_fn([rows, classes], soft).unwrap();
        let labels: Vec<usize> = (0..rows).map(|i| i * 5 % classes).collect();
        let loss = CrossEntropy::new().reduction(Reduction::Sum);
        for target in [Target::Classes(&labels), Target::Probabilities(&soft)] {
            let results = [1, 2, 3, 7].map(|threads| {
                parallel::set_threads(threads.try_into().unwrap());
                let mut dz = Tensor::default();
                let l = loss.value_and_grad(&z, target, &mut dz).unwrap();
                assert_eq!(loss.value(&z, target), Ok(l));
                (l, dz)
            });
            assert!(results.iter().all(|result| *result == results[0]));
            // Each row is the same alone.
            for i in [0, 20, 21, 22, 43, 82] {
                let row = z.slice(i..i + 1).unwrap();
                let target = match target {
                    Target::Classes(labels) => Target::Classes(&labels[i..=i]),
                    Target::Probabilities(_) => Target::Probabilities(&soft.slice(i..i + 1).unwrap()),
                };
                let mut dz = Tensor::default();
                loss.value_and_grad(&row, target, &mut dz).unwrap();
                assert_eq!(dz.as_slice(), results[0].1.row(i).unwrap(), "row {i}");
            }
        }
    }

    #[test]
    fn an_ignored_row_may_hold_anything() {
        let loss = CrossEntropy::new().ignore_index(7);
        let z = Tensor::from([[0.0_f64, 0.0], [f64::NAN, f64::INFINITY]]);
        let mut dz = Tensor::default();
        let value = loss.value_and_grad(&z, &[0, 7], &mut dz).unwrap();
        assert_eq!(value, 2_f64.ln());
        assert_eq!(dz, Tensor::from([[-0.5, 0.5], [0.0, 0.0]]));
    }

    #[test]
    fn leading_axes_are_rows() {
        let z = Tensor::from([[[1.0_f64, 2.0], [0.0, 1.0]], [[3.0, 1.0], [0.5, 0.5]]]);
        let flat = z.clone().reshape([4, 2]).unwrap();
        let (mut dz, mut flat_dz) = (Tensor::default(), Tensor::default());
        let loss = CrossEntropy::new();
        let value = loss.value_and_grad(&z, &[0, 1, 1, 0], &mut dz).unwrap();
        let flat_value = loss.value_and_grad(&flat, &[0, 1, 1, 0], &mut flat_dz).unwrap();
        assert_eq!((value, dz.as_slice()), (flat_value, flat_dz.as_slice()));
        assert_eq!(dz.shape(), [2, 2, 2]);
        // A single row needs no axis for the batch.
        let row = Tensor::from([0.0_f64, 0.0]);
        assert_eq!(loss.value(&row, &[1]), Ok(2_f64.ln()));
    }

    /// Of every width, with and without options, and with neighbors that are NaN.
    #[test]
    fn rows_do_not_depend_on_their_neighbors() {
        let options = CrossEntropy::new().reduction(Reduction::Sum).ignore_index(100);
        for n in [1, 2, 7, 10, 15, 16, 17, 33, 100] {
            let weights: Vec<f64> = (0..n).map(|c| 0.5 + c as f64).collect();
            let smooth = options.clone().label_smoothing(0.1).unwrap().class_weights(weights).unwrap();
            let value = |at: &[usize]| ((at[0] * 31 + at[1] * 7919) % 997) as f32 * 0.02 - 10.0;
            let mut z = Tensor::from_fn([70, n], value).unwrap();
            z.rows_mut().skip(5).step_by(9).for_each(|row| row.fill(f32::NAN));
            let labels: Vec<usize> = (0..70).map(|i| if i % 9 > 6 { 100 } else { i % n }).collect();
            for loss in [&options, &smooth] {
                let (mut dz, mut alone) = (Tensor::default(), Tensor::default());
                let total = loss.value_and_grad(&z, &labels, &mut dz).unwrap();
                assert!(total.is_nan());
                for (i, &y) in labels.iter().enumerate() {
                    let dz = dz.row(i).unwrap();
                    if y == 100 {
                        assert!(dz.iter().all(|&dz| dz == 0.0));
                        continue;
                    }
                    let l = loss.value_and_grad(&z.slice(i..i + 1).unwrap(), &[y], &mut alone).unwrap();
                    assert!(dz == alone.as_slice() || (l.is_nan() && dz.iter().all(|dz| dz.is_nan())));
                    assert_eq!(l.is_nan(), i % 9 == 5, "row {i} of width {n}");
                }
            }
        }
    }
}
