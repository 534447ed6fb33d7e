//! Samples: all combinations of settings, on rows on both sides of every limit of the kernels.

use backrule_tensor::{Scalar, Tensor};

use super::settings::CrossEntropy;
use crate::error::LossError;
use crate::target::Target;
use crate::testing::{Listed, Sample, Wanted};

impl<T: Scalar> Listed<T> for CrossEntropy {
    const OP: &'static str = "cross_entropy";

    fn evaluate(&self, sample: &Sample<T>, dy: Option<&mut Tensor<T>>) -> Result<T, LossError> {
        let (prediction, target) = (&sample.prediction, Target::from(&sample.target));
        dy.map_or_else(|| self.value(prediction, target), |dy| self.value_and_grad(prediction, target, dy))
    }

    fn samples() -> Vec<(Self, Sample<T>)> {
        let mut samples = Vec::new();
        for (shape, labels) in [
            (&[1, 1][..], vec![0]),
            (&[4], vec![2]),
            (&[5, 3], vec![0, 2, 1, 1, 2]),
            (&[2, 3, 4], vec![3, 0, 1, 2, 2, 0]),
            (&[2, 16], vec![15, 2]),
            (&[2, 17], vec![16, 2]),
            (&[37, 7], (0..37).map(|i| i * 3 % 7).collect()),
            (&[32, 1000], (0..32).map(|i| i * 31).collect()),
        ] {
            for weighted in [false, true] {
                for smoothing in [0.0, 0.1, 1.0] {
                    samples.push(of_probabilities(shape, weighted, smoothing));
                    samples.push(of_classes(shape, &labels, weighted, smoothing, None));
                    if labels.len() > 1 {
                        samples.push(of_classes(shape, &labels, weighted, smoothing, Some(2)));
                    }
                }
            }
        }
        samples
    }
}

fn loss(classes: usize, weighted: bool, smoothing: f64) -> CrossEntropy {
    let mut loss = CrossEntropy { label_smoothing: smoothing, ..CrossEntropy::new() };
    if weighted {
        // The second class has none.
        let weight = |c| if c == 1 { 0.0 } else { 0.5 + (c % 10) as f64 };
        loss.class_weights = Some((0..classes).map(weight).collect());
    }
    loss
}

fn of_classes<T: Scalar>(
    shape: &[usize],
    labels: &[usize],
    weighted: bool,
    smoothing: f64,
    ignored: Option<usize>,
) -> (CrossEntropy, Sample<T>) {
    let prediction = Sample::uniform(shape, 3);
    let mut loss = loss(prediction.shape().columns(), weighted, smoothing);
    loss.ignore_index = ignored;
    let counted = labels.iter().filter(|&&y| Some(y) != ignored);
    let divisor = counted.map(|&y| loss.weight(y)).sum();
    (loss, Sample { prediction, target: Wanted::Classes(labels.to_vec()), divisor })
}

fn of_probabilities<T: Scalar>(shape: &[usize], weighted: bool, smoothing: f64) -> (CrossEntropy, Sample<T>) {
    let (prediction, mut target) = (Sample::uniform(shape, 4), Sample::uniform(shape, 5));
    for row in target.rows_mut() {
        row.iter_mut().for_each(|t: &mut T| *t = *t * *t);
        let sum: T = row.iter().copied().sum();
        row.iter_mut().for_each(|t| *t /= sum);
    }
    let (classes, divisor) = (prediction.shape().columns(), prediction.shape().rows() as f64);
    (loss(classes, weighted, smoothing), Sample { prediction, target: Wanted::Values(target), divisor })
}
