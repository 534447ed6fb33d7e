//! From the losses of a batch to one number.

use backrule_tensor::{ConfigError, Options, Scalar};

use crate::error::LossError;

/// How the losses of a batch become one number L: the sum of all losses l, divided by something.
///
/// The mean is the default. Its gradient doesn't grow with the batch, so one learning rate fits any batch
/// size.
///
/// # Parts of a batch
/// The mean over a batch is not the sum of the means over its parts. A batch that arrives in parts
/// (micro-batches whose gradients accumulate, several processes) is divided by the number of the whole batch:
/// [`Over`](Self::Over). Then values and gradients of the parts just add up.
///
/// ```
/// use backrule_loss::tensor::Tensor;
/// use backrule_loss::{Mse, Reduction};
///
/// let (zeros, target) = (Tensor::<f64>::zeros([1])?, Tensor::from([1.0, 2.0, 4.0, 3.0]));
/// let mut dy = Tensor::default();
/// let whole = Mse::new().value_and_grad(&Tensor::zeros([4])?, &target, &mut dy)?;
/// assert_eq!(whole, 7.5); // (1 + 4 + 16 + 9) / 4
/// assert_eq!(dy, Tensor::from([-0.5, -1.0, -2.0, -1.5])); // 2 (p − t) / 4
///
/// // A micro-batch of three and one of one.
/// let part = Mse::new().reduction(Reduction::Over(4.0));
/// let three = part.value_and_grad(&Tensor::zeros([3])?, &target.slice(0..3)?, &mut dy)?;
/// assert_eq!((three, &dy), (5.25, &Tensor::from([-0.5, -1.0, -2.0])));
/// let one = part.value_and_grad(&zeros, &target.slice(3..4)?, &mut dy)?;
/// assert_eq!((one, &dy), (2.25, &Tensor::from([-1.5])));
/// assert_eq!(three + one, whole);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In a cross-entropy on classes, the number is the total weight of the labels that aren't ignored in the
/// whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Reduction {
    /// L = Σ l / n for the n that each loss names: its elements, its rows, the weight of its labels.
    #[default]
    Mean,
    /// L = Σ l
    Sum,
    /// L = Σ l / n for this n, with the bits of [`Mean`](Self::Mean) if that has the same n. Each evaluation
    /// refuses an n that is not positive and finite, or so small that 1/n is not finite in the tensor's
    /// precision.
    Over(f64),
}

impl Reduction {
    /// The divisor of Σ l, where a mean divides by `mean`.
    pub(crate) fn divisor<T: Scalar>(self, operation: &'static str, mean: f64) -> Result<f64, LossError> {
        match self {
            Self::Mean => Ok(mean),
            Self::Sum => Ok(1.0),
            Self::Over(n) if n > 0.0 && n < f64::INFINITY && T::from_f64(1.0 / n).is_finite() => Ok(n),
            Self::Over(divisor) => Err(LossError::Divisor { operation, divisor }),
        }
    }

    /// Adds it to the settings of a loss.
    pub(crate) fn write(self, options: Options) -> Options {
        match self {
            Self::Mean => options.with("reduction", "mean"),
            Self::Sum => options.with("reduction", "sum"),
            Self::Over(n) => options.with("reduction", "over").with("divisor", n),
        }
    }

    /// Takes it out of the settings of a loss.
    pub(crate) fn read(options: &mut Options) -> Result<Self, ConfigError> {
        match options.word("reduction")?.as_str() {
            "mean" => Ok(Self::Mean),
            "sum" => Ok(Self::Sum),
            "over" => match options.number("divisor")? {
                n if n > 0.0 && n.is_finite() => Ok(Self::Over(n)),
                n => Err(ConfigError::new("", "divisor", "a positive, finite number", n)),
            },
            other => Err(ConfigError::new("", "reduction", "mean, sum or over", other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::Tensor;

    use super::*;
    use crate::cross_entropy::CrossEntropy;
    use crate::mse::Mse;

    #[test]
    fn rows_that_are_all_ignored_add_nothing() {
        let logits = Tensor::from([[1.0_f32, 2.0], [f32::NAN, 0.0]]);
        let loss = CrossEntropy::new().ignore_index(7);
        for reduction in [Reduction::Sum, Reduction::Over(12.0)] {
            let mut dz = Tensor::full([2, 2], 5.0).unwrap();
            let loss = loss.clone().reduction(reduction);
            assert_eq!(loss.value_and_grad(&logits, &[7, 7], &mut dz), Ok(0.0));
            assert_eq!(dz, Tensor::zeros([2, 2]).unwrap());
        }
        assert_eq!(loss.value(&logits, &[7, 7]), Err(LossError::AllIgnored { rows: 2 }));
    }

    #[test]
    fn a_divisor_needs_a_reciprocal_in_the_tensor_s_precision() {
        let (small, x) = (Mse::new().reduction(Reduction::Over(1e-40)), [1.0, 2.0]);
        assert!(small.value(&Tensor::from(x), &Tensor::from(x)).is_ok());
        let x = x.map(|x| x as f32);
        let error = small.value(&Tensor::from(x), &Tensor::from(x)).unwrap_err();
        let text = "mean squared error: a sum can't be divided by 1e-40: the divisor and its reciprocal must be \
            positive and finite in the tensor's precision";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn what_cannot_be_divided_by_cannot_be_built() {
        for (options, why) in [
            (
                Options::new().with("reduction", "none"),
                r#"Mse: reduction: expected mean, sum or over, got none"#,
            ),
            (
                Options::new().with("reduction", "over").with("divisor", -1.0),
                "Mse: divisor: expected a positive, finite number, got -1",
            ),
            (Options::new().with("reduction", "over"), "Mse: divisor: expected a number, got nothing"),
            (
                Options::new().with("reduction", "sum").with("divisor", 2.0),
                "Mse: divisor: expected no setting of this name, got 2.0",
            ),
        ] {
            assert_eq!(Mse::build(options).unwrap_err().to_string(), why);
        }
    }

    #[test]
    #[cfg(feature = "serde")]
    fn a_loss_is_written_as_its_settings() {
        let loss = CrossEntropy::new().class_weights([0.1, 2.0]).unwrap().ignore_index(255);
        let text = serde_json::to_string(&loss).unwrap();
        let expected =
            r#"{"reduction":"mean","class_weights":[0.1,2.0],"label_smoothing":0.0,"ignore_index":[255]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<CrossEntropy>(&text).unwrap(), loss);
        for (wrong, why) in [
            (text.replace("0.0", "1.5"), "label_smoothing: expected a number from 0 to 1, got 1.5"),
            (
                text.replace("2.0", "-2.0"),
                "class_weights: expected finite weights from 0 up, got -2 for class 1",
            ),
            (text.replace("[255]", "[1,2]"), "ignore_index: expected at most one index, got several"),
            (text.replace("[255]", "[-100]"), "ignore_index"),
            (
                text.replace("label_smoothing", "smoothing"),
                "label_smoothing: expected a number, got nothing: there is smoothing, ignore_index",
            ),
        ] {
            let error = serde_json::from_str::<CrossEntropy>(&wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
