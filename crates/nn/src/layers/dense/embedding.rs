//! formula: y = row x of W
//! rule: dWᵣ = Σ dy where x = r
//! tape: y, and the indices

use backrule_tensor::kernels::row::CHUNK;
use backrule_tensor::kernels::sum::RUN;
use backrule_tensor::rand::Rng;
use backrule_tensor::{
    ConfigError, Grad, MAX_RANK, MemoryError, OptionValue, Options, Scalar, Shape, ShapeError, Tensor,
    named_tensors,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::init::Init;
use crate::layer::sealed::Sealed;
use crate::layer::{At, Layer, zeros_like};
use crate::mode::Mode;

/// A table of vectors: y is row x of W, for indices x of any shape `[..]`, W `[rows, width]`,
/// y `[.., width]`.
///
/// The indices are whole numbers from 0 up to below the number of rows, as elements of type T
/// ([`Tensor::from_indices`] makes such a tensor). Anything else is an error that names the value and its
/// place.
///
/// Its rule, for dy = ∂l/∂y:
///
/// | derivative | formula | shape |
/// |---|---|---|
/// | ∂l/∂x | 0: an index has none | x's |
/// | ∂l/∂Wᵣ | Σ dyᵢ over all places i with xᵢ = r | `[width]` |
///
/// The row of a **padding index** is read as any other, but its gradient is 0, so it stays as it started.
/// With **scale by count** each row's gradient is divided by the number of places in this x that have its
/// index; of a batch in [parts](crate::Tape::parts) each part counts its own. In both cases the rule is not
/// the derivative, on purpose.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Embedding, EmbeddingConfig, Grads, Mode, Tape};
///
/// let w = Tensor::from([[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]);
/// let layer = Embedding::from_tensors(EmbeddingConfig::new(3, 2), w)?;
/// let x = Tensor::from_indices([1, 3], &[2, 0, 2])?;
/// let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer)?);
///
/// let pass = tape.forward(&layer, &x, Mode::train())?;
/// assert_eq!(pass.output(), &Tensor::from([[[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]]));
///
/// pass.backward(&Tensor::from([[[1.0, 0.0], [0.0, 7.0], [20.0, 30.0]]]), &mut grads)?;
/// // Row 2 was read twice: 1 + 20, 0 + 30.
/// assert_eq!(grads[0], Tensor::from([[0.0, 7.0], [0.0, 0.0], [21.0, 30.0]]));
///
/// let wrong = Tensor::from([[0.0, 1.0, 2.0, 2.5]]);
/// let error = tape.forward(&layer, &wrong, Mode::train()).map(drop).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "embedding forward: expected a whole number below 3, got 2.5 at [0, 3]"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding<T: Scalar = f32> {
    weight: Tensor<T>,
    padding_index: Option<usize>,
    scale_by_count: bool,
}

/// The end of a list of places.
const END: u32 = u32::MAX;

impl<T: Scalar> Embedding<T> {
    /// A table of `rows` vectors of `width` elements, normally distributed with mean 0 and variance 1 at the
    /// start. [`EmbeddingConfig`] has the other choices.
    ///
    /// # Errors
    /// When a size is 0, or there is no memory.
    pub fn new(rows: usize, width: usize, rng: &mut (impl Rng + ?Sized)) -> Result<Self, ArchitectureError> {
        EmbeddingConfig::new(rows, width).build(rng)
    }

    /// A layer of these settings with this table `[rows, width]`. The initialization in the settings counts
    /// for nothing.
    ///
    /// # Errors
    /// When the settings can't be, or the shape doesn't fit them.
    pub fn from_tensors(config: EmbeddingConfig, weight: Tensor<T>) -> Result<Self, ArchitectureError> {
        let EmbeddingConfig { rows, width, padding_index, scale_by_count, .. } = config.checked()?;
        if weight.shape() != [rows, width] {
            let expected = format_args!("[{rows}, {width}]");
            return Err(ShapeError::new("embedding weight", expected, weight.shape()).into());
        }
        Ok(Self { weight, padding_index, scale_by_count })
    }

    /// W, of shape `[rows, width]`.
    pub fn weight(&self) -> &Tensor<T> {
        &self.weight
    }

    /// The index whose row gets no gradient.
    pub fn padding_index(&self) -> Option<usize> {
        self.padding_index
    }

    /// Whether the gradient of a row is divided by the number of its places.
    pub fn scale_by_count(&self) -> bool {
        self.scale_by_count
    }

    fn sizes(&self) -> Result<[usize; 2], ShapeError> {
        match self.weight.shape()[..] {
            [rows, width] => Ok([rows, width]),
            _ => Err(ShapeError::new("embedding weight", "[_, _]", self.weight.shape())),
        }
    }

    /// Adds to ∂l/∂W. `indices` are those of the forward pass, and lend their memory.
    fn add_rows(&self, dy: &Tensor<T>, indices: &mut Vec<u32>, dw: &mut Tensor<T>) -> Result<(), LayerError> {
        let ([rows, width], n) = (self.sizes()?, indices.len());
        if n * width != dy.len() || indices.iter().any(|&index| index as usize >= rows) {
            let expected = format_args!("the {n} vectors of the forward pass");
            return Err(ShapeError::new("embedding backward", expected, dy.shape()).into());
        }
        // The places of each row as a list: its first place, and each place's next. So a row's sum has
        // one order, and as many terms as it may have, it is made in blocks.
        resize(indices, n.saturating_mul(2).saturating_add(rows), "embedding backward")?;
        let (indices, lists) = indices.split_at_mut(n);
        let (next, first) = lists.split_at_mut(n);
        for (place, (&index, next)) in indices.iter().zip(&mut *next).enumerate().rev() {
            *next = std::mem::replace(&mut first[index as usize], place as u32);
        }
        let lists = first.iter().zip(dw.rows_mut()).enumerate();
        for (row, (&first, dw)) in lists {
            if first == END || self.padding_index == Some(row) {
                continue;
            }
            let places = || {
                let follow = |&place: &u32| next.get(place as usize).copied().filter(|&next| next != END);
                std::iter::successors(Some(first), follow).map(|place| place as usize * width)
            };
            let divisor = if self.scale_by_count { places().count() as f64 } else { 1.0 };
            if divisor == 1.0 && next[first as usize] == END {
                let dy = &dy.as_slice()[first as usize * width..];
                dw.iter_mut().zip(dy).for_each(|(dw, &dy)| *dw += dy);
                continue;
            }
            for (at, dw) in (0..).step_by(CHUNK).zip(dw.chunks_mut(CHUNK)) {
                let mut starts = places();
                let mut totals = [0.0; CHUNK];
                loop {
                    let (mut sums, mut terms) = ([T::ZERO; CHUNK], 0);
                    for start in starts.by_ref().take(RUN) {
                        let dy = &dy.as_slice()[start + at..][..dw.len()];
                        sums.iter_mut().zip(dy).for_each(|(sum, &dy)| *sum += dy);
                        terms += 1;
                    }
                    totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
                    if terms < RUN {
                        break;
                    }
                }
                for (dw, total) in dw.iter_mut().zip(totals) {
                    *dw = T::from_f64(dw.to_f64() + total / divisor);
                }
            }
        }
        Ok(())
    }
}

/// Makes room for `len` numbers; those that are new are [`END`].
fn resize(indices: &mut Vec<u32>, len: usize, operation: &'static str) -> Result<(), MemoryError> {
    let more = len.saturating_sub(indices.len());
    let reserved = indices.try_reserve_exact(more);
    reserved.map_err(|_| MemoryError::new(operation, len.saturating_mul(size_of::<u32>())))?;
    indices.resize(len, END);
    Ok(())
}

/// An element that is no index, with its place.
fn not_an_index<T: Scalar>(x: &Tensor<T>, at: usize, rows: usize) -> LayerError {
    let (mut place, mut rest) = (vec![0; x.shape().rank()], at);
    for (position, &size) in place.iter_mut().zip(x.shape().iter()).rev() {
        (*position, rest) = (rest % size, rest / size);
    }
    let got = x.as_slice().get(at).copied().unwrap_or_default();
    let expected = format_args!("a whole number below {rows}");
    LayerError::value("embedding forward", expected, format_args!("{got} at {place:?}"))
}

named_tensors!(Embedding { weight });

impl<T: Scalar> Layer<T> for Embedding<T> {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        let [_, width] = self.sizes()?;
        let mut sizes = [width; MAX_RANK + 1];
        sizes.iter_mut().zip(x.iter()).for_each(|(to, &size)| *to = size);
        let y = Shape::new(&sizes[..=x.rank()])?;
        if x.elements() >= END as usize {
            let expected = format_args!("at most {} indices", END - 1);
            return Err(ShapeError::new("embedding forward", expected, x).into());
        }
        Ok(y)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        let ([rows, width], shape) = (self.sizes()?, self.output_shape(x.shape())?);
        let indices = cache.indices();
        indices.clear();
        resize(indices, x.len(), "embedding forward")?;
        for (at, (index, number)) in indices.iter_mut().zip(x.as_slice()).enumerate() {
            let number = number.to_f64();
            // NaN is no such number.
            if !(number >= 0.0 && number < rows as f64 && number.fract() == 0.0) {
                return Err(not_an_index(x, at, rows));
            }
            *index = number as u32;
        }
        y.resize(shape)?;
        let weight = self.weight.as_slice();
        for (y, &index) in y.as_mut_slice().chunks_exact_mut(width.max(1)).zip(&*indices) {
            y.copy_from_slice(&weight[index as usize * width..][..width]);
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let [dw] = grads else { return Err(LayerError::count("embedding gradients", 1, grads.len())) };
        let indices = at.cache.indices();
        indices.truncate(at.x.len());
        dw.add_to(|dw| self.add_rows(dy, indices, dw))?;
        dx.map_or(Ok(()), |dx| zeros_like(dx, at.x))
    }

    fn options(&self) -> Options {
        let shape = self.weight.shape();
        let padding = self.padding_index.map_or(OptionValue::from(NONE), OptionValue::from);
        Options::new()
            .with("rows", shape.rows())
            .with("width", shape.columns())
            .with("padding_index", padding)
            .with("scale_by_count", self.scale_by_count)
    }

    fn defaults(&self, _: Sealed) -> Options {
        let EmbeddingConfig { padding_index, scale_by_count, .. } = EmbeddingConfig::new(1, 1);
        let padding = padding_index.map_or(OptionValue::from(NONE), OptionValue::from);
        Options::new().with("padding_index", padding).with("scale_by_count", scale_by_count)
    }
}

/// No padding index, in files.
const NONE: &str = "none";

impl<T: Scalar> Builtin<T> for Embedding<T> {
    const KIND: &'static str = "Embedding";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let config = EmbeddingConfig::new(from.size("rows")?, from.size("width")?);
        let none = OptionValue::from(NONE);
        let is_none = from.options.iter().any(|(name, value)| name == "padding_index" && *value == none);
        let config = match is_none {
            true => from.word("padding_index").map(|_| config)?,
            false => config.padding_index(from.whole("padding_index")?),
        };
        let config = config.scale_by_count(from.flag("scale_by_count")?).checked()?;
        Self::from_tensors(config, from.zeros([config.rows, config.width])?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, x: Input, config: EmbeddingConfig| {
            let layer = config.build(&mut random::rng(1)).ok()?;
            Some(Sample::new(name, layer, [x]))
        };
        let table = EmbeddingConfig::new;
        // Where the rule is the derivative: no index is the padding's, and the one that is counted stands
        // there once.
        let samples = [
            of("one", Input::whole(&[1, 1], 0, 1), table(1, 1)),
            of("sequence", Input::whole(&[3, 7], 0, 5), table(5, 3)),
            of("with padding", Input::whole(&[2, 19], 1, 5), table(5, 2).padding_index(0)),
            of("scaled", Input::whole(&[1], 0, 4), table(4, 3).scale_by_count(true)),
            of("three axes", Input::whole(&[2, 3, 5], 0, 40), table(40, 17)),
            of("1000x64 at 32x16", Input::whole(&[32, 16], 0, 1000), table(1000, 64)).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "embedding").then_some(())?;
        let weight = case.tensor("weight")?;
        let config = EmbeddingConfig::new(weight.shape().rows(), weight.shape().columns());
        let has_padding = case.options.iter().any(|(name, _)| name == "padding_index");
        let config = match has_padding {
            true => config.padding_index(case.whole("padding_index", 0)),
            false => config,
        };
        let config = config.scale_by_count(case.flag("scale_by_count", false));
        let layer = Self::from_tensors(config, weight).ok()?;
        Some(Oracle { inputs: vec!["indices"], ..Oracle::new(layer) })
    }
}

/// The settings of an [`Embedding`].
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Embedding, EmbeddingConfig};
///
/// let config = EmbeddingConfig::new(1000, 64).padding_index(0);
/// let words: Embedding = config.build(&mut random::rng(1))?;
/// assert_eq!(words.weight().shape(), [1000, 64]);
/// assert_eq!(words.weight().row(0), Some(&[0.0; 64][..]));
/// # Ok::<(), backrule_nn::ArchitectureError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct EmbeddingConfig {
    rows: usize,
    width: usize,
    padding_index: Option<usize>,
    scale_by_count: bool,
    weight_init: Init,
}

impl EmbeddingConfig {
    /// A table of `rows` vectors of `width` elements, normally distributed with mean 0 and variance 1 at the
    /// start, without padding index or scaling.
    pub const fn new(rows: usize, width: usize) -> Self {
        let weight_init = Init::Normal(0.0, 1.0);
        Self { rows, width, padding_index: None, scale_by_count: false, weight_init }
    }

    /// The index whose row starts as 0 and gets no gradient. The default is that there is none.
    pub fn padding_index(mut self, index: usize) -> Self {
        self.padding_index = Some(index);
        self
    }

    /// Whether the gradient of a row is divided by the number of its places. The default is that it isn't.
    pub fn scale_by_count(mut self, scale: bool) -> Self {
        self.scale_by_count = scale;
        self
    }

    /// How the table starts. The default is normally distributed with mean 0 and variance 1. `rows` counts as
    /// fan-in, `width` as fan-out.
    pub fn weight_init(mut self, init: Init) -> Self {
        self.weight_init = init;
        self
    }

    fn checked(self) -> Result<Self, ConfigError> {
        for (option, size) in [("rows", self.rows), ("width", self.width)] {
            if size == 0 {
                return Err(ConfigError::new("Embedding", option, "at least 1", 0));
            }
        }
        if self.rows >= END as usize {
            return Err(ConfigError::new("Embedding", "rows", format!("at most {}", END - 1), self.rows));
        }
        match self.padding_index {
            Some(index) if index >= self.rows => {
                let expected = format!("an index below {}", self.rows);
                Err(ConfigError::new("Embedding", "padding_index", expected, index))
            }
            _ => Ok(self),
        }
    }

    /// A layer of these settings.
    ///
    /// # Errors
    /// When a size is 0, there are 2³² − 1 rows or more, the padding index is none of them, or there is no
    /// memory.
    pub fn build<T: Scalar>(self, rng: &mut (impl Rng + ?Sized)) -> Result<Embedding<T>, ArchitectureError> {
        let Self { rows, width, padding_index, scale_by_count, weight_init } = self.checked()?;
        let mut weight: Tensor<T> = weight_init.tensor([rows, width], rows, width, rng)?;
        if let Some(row) = padding_index.and_then(|index| weight.row_mut(index)) {
            row.fill(T::ZERO);
        }
        Ok(Embedding { weight, padding_index, scale_by_count })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::{Grads, random};

    use super::*;
    use crate::tape::{Tape, predict};

    #[test]
    fn what_cannot_be_is_refused() {
        let error =
            |config: EmbeddingConfig| config.build::<f32>(&mut random::rng(1)).unwrap_err().to_string();
        assert_eq!(error(EmbeddingConfig::new(0, 2)), "Embedding: rows: expected at least 1, got 0");
        assert_eq!(error(EmbeddingConfig::new(2, 0)), "Embedding: width: expected at least 1, got 0");
        let text = "Embedding: padding_index: expected an index below 3, got 3";
        assert_eq!(error(EmbeddingConfig::new(3, 2).padding_index(3)), text);
        let text = "Embedding: rows: expected at most 4294967294, got 4294967295";
        assert_eq!(error(EmbeddingConfig::new(4_294_967_295, 1)), text);
        let error = Embedding::from_tensors(EmbeddingConfig::new(3, 2), Tensor::from([[1.0_f32, 2.0]]));
        assert_eq!(error.unwrap_err().to_string(), "embedding weight: expected [3, 2], got [1, 2]");
    }

    /// Also where a list is longer than the runs in which gradients are added.
    #[test]
    fn a_row_that_occurs_often_gets_the_mean_if_it_is_scaled_by_its_count() {
        for times in [1, 7, 400, 1031] {
            let config = EmbeddingConfig::new(3, 2).scale_by_count(true);
            let layer = config.build::<f64>(&mut random::rng(1)).unwrap();
            let x = Tensor::full([1, times], 1.0).unwrap();
            let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
            let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
            let dy = Tensor::full([1, times, 2], 3.0).unwrap();
            pass.backward(&dy, &mut grads).unwrap();
            let dw = grads[0].to_tensor().unwrap();
            for (got, expected) in dw.as_slice().iter().zip([0.0, 0.0, 3.0, 3.0, 0.0, 0.0]) {
                assert!((got - expected).abs() < 1e-12, "{times} times: {dw}");
            }
        }
    }

    #[test]
    fn what_is_no_index_is_refused_with_its_place() {
        let layer = Embedding::<f32>::new(5, 2, &mut random::rng(1)).unwrap();
        for (wrong, got) in [
            (2.5, "2.5"),
            (-1.0, "-1"),
            (-0.5, "-0.5"),
            (5.0, "5"),
            (1e30, "1000000000000000000000000000000"),
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
        ] {
            let mut x = Tensor::zeros([2, 3, 4]).unwrap();
            *x.get_mut(&[1, 0, 3]).unwrap() = wrong;
            let error = predict(&layer, &x).unwrap_err();
            assert!(matches!(error, LayerError::Value { .. }));
            let text = "embedding forward: expected a whole number below 5, got ";
            assert_eq!(error.to_string(), format!("{text}{got} at [1, 0, 3]"));
        }
        // The number of axes that y can't have.
        assert!(predict(&layer, &Tensor::zeros([1; 6]).unwrap()).is_err());
        assert_eq!(predict(&layer, &Tensor::scalar(4.0)).unwrap().shape(), [2]);
        assert_eq!(predict(&layer, &Tensor::zeros([0, 3]).unwrap()).unwrap().shape(), [0, 3, 2]);
    }

    fn gradient(config: EmbeddingConfig, x: &[u32], dy: &Tensor) -> Tensor {
        let layer: Embedding = config.build(&mut random::rng(1)).unwrap();
        let x = Tensor::from_indices([x.len()], x).unwrap();
        let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
        let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
        for (place, &row) in x.as_slice().iter().enumerate() {
            assert_eq!(pass.output().row(place), layer.weight().row(row as usize));
        }
        pass.backward(dy, &mut grads).unwrap();
        grads[0].to_tensor().unwrap()
    }

    #[test]
    fn padding_gets_no_gradient_and_counts_divide() {
        let dy = Tensor::from([[1.0], [2.0], [4.0], [8.0], [16.0]]);
        let (config, x) = (EmbeddingConfig::new(4, 1), [1, 3, 1, 0, 1]);
        assert_eq!(gradient(config, &x, &dy), Tensor::from([[8.0], [21.0], [0.0], [2.0]]));
        let padded = config.padding_index(1);
        assert_eq!(gradient(padded, &x, &dy), Tensor::from([[8.0], [0.0], [0.0], [2.0]]));
        let scaled = config.scale_by_count(true);
        assert_eq!(gradient(scaled, &x, &dy), Tensor::from([[8.0], [7.0], [0.0], [2.0]]));
    }

    /// In f32 a running sum would stop at 2²⁴ · 0.1 and be far off before.
    #[test]
    fn a_row_of_many_places_has_an_exact_gradient() {
        let n = 3_000_000;
        let x: Vec<u32> = (0..n).map(|i| u32::from(i % 3 == 0)).collect();
        let dw = gradient(EmbeddingConfig::new(2, 1), &x, &Tensor::full([n, 1], 0.1).unwrap());
        for (dw, terms) in dw.as_slice().iter().zip([2e6, 1e6]) {
            let expected = f64::from(0.1_f32) * terms;
            assert!((f64::from(*dw) - expected).abs() <= 1e-6 * expected, "{dw} {expected}");
        }
    }
}
