use std::fmt;

use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// Axes longer than this show their ends only …
const LONGEST: usize = 12;
/// … so many entries of each.
const EDGE: usize = 4;
const DECIMALS: usize = 4;

/// Nested brackets, one matrix row per line, columns aligned; long axes show their first and last entries.
/// Precision as for numbers: `{x:.2}`.
///
/// ```
/// use backrule_tensor::Tensor;
///
/// let x: Tensor = Tensor::from([[1.0, -0.5], [10.0, 2.25]]);
/// assert_eq!(format!("{x:.2}"), "[[ 1.00, -0.50],\n [10.00,  2.25]]");
/// ```
impl<T: Scalar> fmt::Display for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let style = Style::of(self, f.precision());
        axis(f, &self.shape(), self.as_slice(), style, 0)
    }
}

/// Type, shape and the elements of [`Display`](fmt::Display).
impl<T: Scalar> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor<{}> {} ", T::DTYPE, self.shape())?;
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy)]
struct Style {
    scientific: bool,
    decimals: usize,
    width: usize,
}

impl Style {
    /// Fixed notation for numbers of ordinary size; scientific when one is too large or all are too small for
    /// it.
    fn of<T: Scalar>(tensor: &Tensor<T>, precision: Option<usize>) -> Self {
        let (mut low, mut high, mut odd) = (T::ZERO, T::ZERO, T::ZERO);
        for &x in tensor.as_slice() {
            if !x.is_finite() {
                odd = x;
            } else if x < low {
                low = x;
            } else if x > high {
                high = x;
            }
        }
        let largest = high.to_f64().max(-low.to_f64());
        let mut style = Self {
            scientific: largest >= 1e6 || (largest > 0.0 && largest < 1e-3),
            decimals: precision.unwrap_or(DECIMALS),
            width: 0,
        };
        let widest = [low, high, odd].map(|x| style.text(x).len());
        style.width = widest.into_iter().max().unwrap_or(0);
        style
    }

    fn text<T: Scalar>(self, x: T) -> String {
        let decimals = self.decimals;
        if self.scientific { format!("{x:.decimals$e}") } else { format!("{x:.decimals$}") }
    }
}

fn axis<T: Scalar>(
    f: &mut fmt::Formatter<'_>,
    sizes: &[usize],
    values: &[T],
    style: Style,
    depth: usize,
) -> fmt::Result {
    let Some((&size, rest)) = sizes.split_first() else {
        return match values {
            [x] => write!(f, "{:>width$}", style.text(*x), width = style.width),
            _ => Ok(()),
        };
    };
    let separator = if rest.is_empty() {
        ", ".to_string()
    } else {
        // Matrices of a batch are set apart by empty lines; entries line up below the opening brackets.
        format!(",{}{}", "\n".repeat(rest.len()), " ".repeat(depth + 1))
    };
    let step: usize = rest.iter().product();
    f.write_str("[")?;
    // Hidden entries aren't walked over: an axis may have 2⁵⁹ entries without elements.
    let (first, last) = if size > LONGEST { (EDGE, EDGE) } else { (size, 0) };
    for i in (0..first).chain(size - last..size) {
        if i > 0 {
            f.write_str(&separator)?;
        }
        if i > first && i == size - last {
            write!(f, "…{separator}")?;
        }
        axis(f, rest, &values[i * step..(i + 1) * step], style, depth + 1)?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_aligned() {
        let x = Tensor::from([[1.0_f32, -2.5], [100.0, f32::NAN]]);
        assert_eq!(x.to_string(), "[[  1.0000,  -2.5000],\n [100.0000,      NaN]]");
        assert_eq!(format!("{:?}", Tensor::from([0.5_f64])), "Tensor<f64> [1] [0.5000]");
    }

    #[test]
    fn long_axes_are_shortened() {
        let x = Tensor::<f32>::from_fn([100, 20], |at| (at[0] * 20 + at[1]) as f32).unwrap();
        let text = format!("{x:.0}");
        assert_eq!(text.lines().count(), 9);
        assert!(text.starts_with("[[   0,    1,    2,    3, …,   16,"), "{text}");
        assert!(text.contains("\n …,\n"), "{text}");
        assert!(text.ends_with("1998, 1999]]"), "{text}");
    }

    #[test]
    fn other_ranks_and_sizes() {
        assert_eq!(Tensor::scalar(2.0_f32).to_string(), "2.0000");
        assert_eq!(Tensor::<f32>::default().to_string(), "[]");
        assert_eq!(Tensor::<f32>::zeros([2, 0]).unwrap().to_string(), "[[],\n []]");
        let cube = Tensor::<f32>::zeros([2, 1, 1]).unwrap();
        assert_eq!(format!("{cube:.0}"), "[[[0]],\n\n [[0]]]");
        assert_eq!(Tensor::from([1e9_f32]).to_string(), "[1.0000e9]");
        assert_eq!(Tensor::from([2e-5_f32]).to_string(), "[2.0000e-5]");
    }

    #[test]
    fn an_axis_of_any_length_without_elements_is_written_at_once() {
        let text = Tensor::<f32>::zeros([1 << 59, 0]).unwrap().to_string();
        assert_eq!(text, format!("[{}…{}]", "[],\n ".repeat(4), ",\n []".repeat(4)));
        for shape in
            [&[1 << 31, 2000, 0, 7][..], &[0, 1 << 59], &[1 << 20, 1 << 20, 1 << 19, 0], &[1 << 59, 0, 1]]
        {
            let x = Tensor::<f32>::zeros(shape).unwrap();
            assert!(format!("{x} {x:?}").len() < 20_000, "{shape:?}");
        }
    }

    #[test]
    fn a_huge_tensor_is_not_formatted_whole() {
        let x = Tensor::<f32>::zeros([1 << 20, 4]).unwrap();
        assert!(x.to_string().len() < 400);
    }
}
