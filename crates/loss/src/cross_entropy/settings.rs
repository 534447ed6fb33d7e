//! value: cross-entropy on logits, with the softmax in it
//! prediction: `[.., classes]`
//! target: a class per row, or probabilities
//!
//! The loss and its settings.

use backrule_tensor::{ConfigError, Options};

use crate::reduction::Reduction;

/// Cross-entropy on logits: the softmax is folded in, so the network's last layer must not be one.
///
/// For a row of logits z with p = softmax(z), and the target distribution t:
///
/// l = −Σ_c t_c ln p_c  and  ∂l/∂z = p − t
///
/// The prediction has the shape `[.., classes]`: all axes but the last are rows. The target is either a class
/// per row (t is 1 there), or a tensor of probabilities in the prediction's shape; see
/// [`Target`](crate::Target).
///
/// ```
/// use backrule_loss::CrossEntropy;
/// use backrule_loss::tensor::Tensor;
///
/// let logits: Tensor = Tensor::from([[3.0, 3.0], [2.0, 2.0]]);
/// let mut dz = Tensor::default();
/// let l = CrossEntropy::new().value_and_grad(&logits, &[0, 1], &mut dz)?;
/// assert_eq!(l, 2_f32.ln());
/// assert_eq!(dz, Tensor::from([[-0.25, 0.25], [0.25, -0.25]]));
/// # Ok::<(), backrule_loss::LossError>(())
/// ```
///
/// # Settings
/// They have PyTorch's meaning, each alone and all together. With class weights w, label smoothing ε,
/// C classes:
///
/// | target | l of a row | the mean divides by |
/// |---|---|---|
/// | class y | −(1−ε) w_y ln p_y − ε/C Σ_c w_c ln p_c | Σ w_y over the rows that aren't ignored |
/// | probabilities t | −Σ_c w_c t′_c ln p_c, t′ = (1−ε) t + ε/C | the number of rows |
///
/// Both are −Σ_c a_c ln p_c for some a, so ∂l/∂z = p Σ_c a_c − a. A row whose class is the ignored index
/// counts nowhere and gets the gradient 0, whatever its logits. If all rows are ignored, there is no mean;
/// other reductions give 0 and zeros.
///
/// ```
/// use backrule_loss::tensor::Tensor;
/// use backrule_loss::{CrossEntropy, Reduction};
///
/// let loss = CrossEntropy::new()
///     .reduction(Reduction::Sum)
///     .class_weights([1.0, 3.0])?
///     .label_smoothing(0.5)?
///     .ignore_index(255);
/// let logits: Tensor<f64> = Tensor::from([[0.0, 0.0], [7.0, -7.0]]);
/// let mut dz = Tensor::default();
/// // ½·3 ln 2 + ½·(1 + 3)/2·ln 2; the other row is ignored.
/// let l = loss.value_and_grad(&logits, &[1, 255], &mut dz)?;
/// assert!((l - 2.5 * 2_f64.ln()).abs() < 1e-15);
/// // a = [¼·1, ½·3 + ¼·3] = [¼, 2¼]
/// assert_eq!(dz, Tensor::from([[1.0, -1.0], [0.0, 0.0]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Numbers
/// Only differences of logits enter, so a constant added to a row changes nothing, and logits of any size are
/// safe. NaN in a row makes the loss and the row's gradient NaN. A logit of −∞ is an impossible class: its
/// gradient is 0 where a is; the loss is infinite when it is the label, and NaN when it has a 0 among
/// *probabilities* (0·∞, as in PyTorch). Rows are added in double precision and in a fixed order: the same
/// bits always, on any number of threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    pub(super) reduction: Reduction,
    pub(super) class_weights: Option<Vec<f64>>,
    pub(super) label_smoothing: f64,
    pub(super) ignore_index: Option<usize>,
}

impl CrossEntropy {
    /// The mean over all rows, and no other setting.
    pub fn new() -> Self {
        Self::default()
    }

    /// The divisor of the sum over all rows.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// How much each class counts, such as 1 / its frequency for unbalanced data.
    ///
    /// # Errors
    /// When there is none, or one is negative, infinite or NaN. An evaluation checks how many there are.
    pub fn class_weights(mut self, weights: impl Into<Vec<f64>>) -> Result<Self, ConfigError> {
        let weights = weights.into();
        if weights.is_empty() {
            return Err(ConfigError::new("CrossEntropy", "class_weights", "a weight for each class", "none"));
        }
        for (class, &weight) in weights.iter().enumerate() {
            if !(weight >= 0.0 && weight.is_finite()) {
                let got = format_args!("{weight} for class {class}");
                let expected = "finite weights from 0 up";
                return Err(ConfigError::new("CrossEntropy", "class_weights", expected, got));
            }
        }
        self.class_weights = Some(weights);
        Ok(self)
    }

    /// The share ε of the target that is spread evenly over all classes: 0 (the default) to 1.
    ///
    /// # Errors
    /// When ε is outside 0..=1 or NaN.
    pub fn label_smoothing(mut self, value: f64) -> Result<Self, ConfigError> {
        if !(0.0..=1.0).contains(&value) {
            return Err(ConfigError::new("CrossEntropy", "label_smoothing", "a number from 0 to 1", value));
        }
        self.label_smoothing = value;
        Ok(self)
    }

    /// The label of rows that don't count, such as padding. It may be any number, a class among them.
    #[must_use]
    pub fn ignore_index(mut self, index: usize) -> Self {
        self.ignore_index = Some(index);
        self
    }

    /// Its settings. Those that may be absent are lists, which are empty then.
    ///
    /// ```
    /// use backrule_loss::CrossEntropy;
    ///
    /// let loss = CrossEntropy::new().class_weights([1.0, 2.5])?;
    /// let options = loss.options();
    /// assert_eq!(
    ///     options.to_string(),
    ///     r#"reduction "mean", class_weights [1.0, 2.5], label_smoothing 0.0, ignore_index []"#
    /// );
    /// assert_eq!(CrossEntropy::build(options)?, loss);
    /// # Ok::<(), backrule_loss::ConfigError>(())
    /// ```
    pub fn options(&self) -> Options {
        let weights = self.class_weights.clone().unwrap_or_default();
        let ignored: Vec<u64> = self.ignore_index.iter().map(|&index| index as u64).collect();
        let options = self.reduction.write(Options::new()).with("class_weights", weights);
        options.with("label_smoothing", self.label_smoothing).with("ignore_index", ignored)
    }

    /// The loss that has these settings.
    ///
    /// # Errors
    /// When one is missing, unknown or impossible.
    pub fn build(mut options: Options) -> Result<Self, ConfigError> {
        Self::read(&mut options)
            .and_then(|loss| options.finish().map(|()| loss))
            .map_err(|error| error.of("CrossEntropy"))
    }

    fn read(options: &mut Options) -> Result<Self, ConfigError> {
        let mut loss = Self::new().reduction(Reduction::read(options)?);
        let weights = options.numbers("class_weights")?;
        if !weights.is_empty() {
            loss = loss.class_weights(weights)?;
        }
        loss = loss.label_smoothing(options.number("label_smoothing")?)?;
        loss.ignore_index = match options.sizes("ignore_index")?[..] {
            [] => None,
            [index] => Some(index),
            [_, _, ..] => {
                let expected = "at most one index";
                return Err(ConfigError::new("", "ignore_index", expected, "several"));
            }
        };
        Ok(loss)
    }

    /// w_c
    #[inline(always)]
    pub(super) fn weight(&self, c: usize) -> f64 {
        match &self.class_weights {
            None => 1.0,
            Some(w) => w[c],
        }
    }
}
