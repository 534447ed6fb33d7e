//! Checks before anything is computed: prediction, target and settings must fit together.

use backrule_tensor::kernels::row::{self, CHUNK};
use backrule_tensor::simd::{self, Kernel, Simd};
use backrule_tensor::{Scalar, Shape, ShapeError, Tensor};

use super::settings::CrossEntropy;
use crate::error::LossError;
use crate::reduction::Reduction;
use crate::target::Target;

/// How far the probabilities of a row may be from 1 in all: enough for rounding in single precision.
const SUM_TOLERANCE: f64 = 1e-4;

impl CrossEntropy {
    /// The divisor of the sum over the rows, once prediction, target and settings are found to fit together.
    pub(super) fn divisor<T: Scalar>(
        &self,
        prediction: Shape,
        target: Target<'_, T>,
    ) -> Result<f64, LossError> {
        let operation = "cross-entropy";
        let (rows, classes) = (prediction.rows(), prediction.columns());
        if prediction.rank() == 0 {
            return Err(ShapeError::new(operation, "[.., classes]", prediction).into());
        }
        match target {
            Target::Classes(labels) if labels.len() != rows => {
                let expected = format_args!("{rows} labels for {prediction}");
                return Err(ShapeError::new(operation, expected, labels.len()).into());
            }
            Target::Probabilities(t) if t.shape() != prediction => {
                return Err(ShapeError::new(operation, prediction, t.shape()).into());
            }
            _ => {}
        }
        if classes == 0 {
            return Err(LossError::NoClasses { shape: prediction });
        }
        // Without rows there is no mean. The other two add up over parts of a batch, one of which may have
        // none.
        if rows == 0 && self.reduction == Reduction::Mean {
            let shape = prediction;
            return Err(LossError::Empty { operation, shape });
        }
        if let Some(weights) = &self.class_weights
            && weights.len() != classes
        {
            let weights = weights.len();
            return Err(LossError::WeightCount { weights, classes });
        }
        let total = match target {
            Target::Classes(labels) => match self.total_weight(labels, classes)? {
                None if self.reduction == Reduction::Mean => return Err(LossError::AllIgnored { rows }),
                total => total.unwrap_or_default(),
            },
            Target::Probabilities(t) => {
                if let Some(index) = self.ignore_index {
                    return Err(LossError::IgnoredIndex { index });
                }
                check_probabilities(t)?;
                rows as f64
            }
        };
        // Zero, and numbers without a finite reciprocal.
        if self.reduction == Reduction::Mean && !total.is_normal() {
            return Err(LossError::TotalWeight { total });
        }
        self.reduction.divisor::<T>(operation, total)
    }

    /// Σ w_y over the rows that count, if there are any.
    fn total_weight(&self, labels: &[usize], classes: usize) -> Result<Option<f64>, LossError> {
        let (mut total, mut ignored) = (0.0, 0);
        for (row, &label) in labels.iter().enumerate() {
            if self.ignore_index == Some(label) {
                ignored += 1;
            } else if label < classes {
                total += self.weight(label);
            } else {
                let error = LossError::Label { row, label, classes };
                return Err(error);
            }
        }
        Ok((ignored < labels.len()).then_some(total))
    }
}

fn check_probabilities<T: Scalar>(t: &Tensor<T>) -> Result<(), LossError> {
    // Wider registers would wait for memory just as long, and make the program larger.
    let Some((row, sum)) = simd::run_within(32, NoDistribution { t, tolerance: SUM_TOLERANCE }) else {
        return Ok(());
    };
    let values = t.row(row).unwrap_or(&[]);
    Err(match values.iter().position(|&t| t < T::ZERO || t.is_nan()) {
        Some(class) => LossError::Probability { row, class, probability: values[class].to_f64() },
        None => LossError::ProbabilitySum { row, sum },
    })
}

/// Finds the first row of probabilities that isn't a distribution: an element is negative or NaN, or the sum
/// is not 1. Gives its number and sum.
struct NoDistribution<'a, T: Scalar> {
    t: &'a Tensor<T>,
    tolerance: f64,
}

impl<T: Scalar> Kernel for NoDistribution<'_, T> {
    type Output = Option<(usize, f64)>;
    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Output {
        let (t, n) = (self.t.as_slice(), self.t.shape().columns());
        for (row, start) in (0..t.len()).step_by(n.max(1)).enumerate() {
            let (mut sums, mut bad) = ([0.0; CHUNK], [T::ZERO; CHUNK]);
            for (at, left) in row::chunks(n) {
                let t = row::load(&t[start + at..], left, T::ZERO);
                sums.iter_mut().zip(t).for_each(|(sum, t)| *sum += t.to_f64());
                bad.iter_mut().zip(t).for_each(|(bad, t)| *bad = if t >= T::ZERO { *bad } else { T::ONE });
            }
            let sum = row::sum(sums);
            if row::sum(bad) > T::ZERO || (sum - 1.0).abs() > self.tolerance {
                return Some((row, sum));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<'t>(loss: &CrossEntropy, shape: [usize; 2], target: impl Into<Target<'t, f32>>) -> String {
        let z = Tensor::zeros(shape).unwrap();
        loss.value(&z, target).unwrap_err().to_string()
    }

    #[test]
    fn shapes() {
        let loss = CrossEntropy::new();
        assert_eq!(refusal(&loss, [2, 3], &[0]), "cross-entropy: expected 2 labels for [2, 3], got 1");
        let text = "cross-entropy: expected 2 labels for [2, 3], got 3";
        assert_eq!(refusal(&loss, [2, 3], &[0, 1, 2]), text);
        // As many numbers in another shape are something else.
        let text = "cross-entropy: expected [2, 1], got [1, 2]";
        assert_eq!(refusal(&loss, [2, 1], &Tensor::from([[0.5, 0.5]])), text);
        assert_eq!(
            refusal(&loss, [2, 3], &Tensor::from([[0.5, 0.5]])),
            "cross-entropy: expected [2, 3], got [1, 2]"
        );
        assert_eq!(refusal(&loss, [0, 3], &[]), "cross-entropy: the batch is empty: [0, 3]");
        assert_eq!(refusal(&loss, [2, 0], &[0, 0]), "cross-entropy: there are no classes: [2, 0]");
        let number = Tensor::scalar(1.0_f32);
        let error = loss.value(&number, &number).unwrap_err();
        let text = "cross-entropy: expected [.., classes], got []";
        assert_eq!(error.to_string(), text);
        assert!(loss.value(&number, &[0]).is_err());
    }

    #[test]
    fn labels() {
        let loss = CrossEntropy::new();
        assert_eq!(
            refusal(&loss, [3, 2], &[1, 0, 2]),
            "cross-entropy: row 2 has the label 2, but there are 2 classes, counted from 0"
        );
        let loss = loss.ignore_index(usize::MAX);
        let z = Tensor::<f32>::zeros([3, 2]).unwrap();
        assert!(loss.value(&z, &[1, usize::MAX, 0]).is_ok());
        // Only the ignored index itself is exempt.
        assert!(loss.value(&z, &[1, usize::MAX - 1, 0]).is_err());
        assert_eq!(refusal(&loss, [2, 2], &[usize::MAX; 2]), "cross-entropy: all 2 rows are ignored");
    }

    #[test]
    fn probabilities() {
        let loss = CrossEntropy::new();
        let refusal = |t: [f32; 2]| {
            let t = Tensor::from([[0.5, 0.5], t]);
            refusal(&loss, [2, 2], &t)
        };
        assert_eq!(refusal([1.25, -0.25]), "cross-entropy: row 1 gives class 1 the probability -0.25");
        assert_eq!(refusal([f32::NAN, 1.0]), "cross-entropy: row 1 gives class 0 the probability NaN");
        assert_eq!(refusal([0.25, 0.25]), "cross-entropy: the probabilities of row 1 sum to 0.5, not to 1");
        assert_eq!(
            refusal([f32::INFINITY, 0.0]),
            "cross-entropy: the probabilities of row 1 sum to inf, not to 1"
        );
        assert!(refusal([0.5, 0.5002]).contains("sum to"));
        let z = Tensor::<f32>::zeros([1, 2]).unwrap();
        assert!(loss.value(&z, &Tensor::from([[0.5, 0.50009]])).is_ok());
        // −0 is not negative.
        assert!(loss.value(&z, &Tensor::from([[-0.0, 1.0]])).is_ok());
    }

    #[test]
    fn options_that_do_not_fit_the_batch() {
        let loss = CrossEntropy::new().class_weights([1.0, 0.0]).unwrap();
        assert_eq!(refusal(&loss, [1, 3], &[0]), "cross-entropy: 2 class weights for 3 classes");
        assert_eq!(
            refusal(&loss, [2, 2], &[1, 1]),
            "cross-entropy: the labels of the batch weigh 0 in all: a mean can't divide by it"
        );
        let z = Tensor::<f32>::zeros([2, 2]).unwrap();
        let sum = loss.clone().reduction(Reduction::Sum);
        assert_eq!(sum.value(&z, &[1, 1]), Ok(0.0));
        assert!(loss.value(&z, &[0, 1]).is_ok());
        let too_much = CrossEntropy::new().class_weights([f64::MAX; 2]).unwrap();
        assert!(refusal(&too_much, [2, 2], &[0, 1]).contains("weigh inf"));
        let too_little = CrossEntropy::new().class_weights([1e-310; 2]).unwrap();
        assert!(too_little.value(&z, &[0, 1]).is_err());

        let loss = CrossEntropy::new().ignore_index(3);
        assert_eq!(
            refusal(&loss, [1, 2], &Tensor::from([[0.5, 0.5]])),
            "cross-entropy: an ignored index (3) has no meaning for probability targets"
        );
    }

    #[test]
    fn options_by_themselves() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, -f64::MIN_POSITIVE] {
            let error = CrossEntropy::new().class_weights([1.0, bad]).unwrap_err();
            assert!(error.to_string().contains("for class 1"), "{bad}");
        }
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(CrossEntropy::new().label_smoothing(bad).is_err(), "{bad}");
        }
        assert!(CrossEntropy::new().label_smoothing(1.0).is_ok());
        assert!(CrossEntropy::new().class_weights([0.0, -0.0]).is_ok());
    }
}
