//! Softmax, log-softmax and their backward rules, row by row.
//!
//! | rule | y | ∂l/∂x |
//! |---|---|---|
//! | softmax | yⱼ = exp(xⱼ − m) / s | yⱼ (∂l/∂yⱼ − Σₖ ∂l/∂yₖ yₖ) |
//! | log-softmax | yⱼ = (xⱼ − m) − ln s | ∂l/∂yⱼ − exp(yⱼ) Σₖ ∂l/∂yₖ |
//!
//! with m = max x and s = Σₖ exp(xₖ − m). [`sum_exp`] computes both for each row. Cross-entropy starts with
//! them, too.

use crate::in_default_mode;
use crate::kernels::double;
use crate::kernels::row::{self, CHUNK, GROUP, Transposed};
use crate::scalar::Scalar;
use crate::simd::{self, Kernel, Simd, kernel};

/// Which of the two functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Probabilities.
    Softmax,
    /// Their logarithms.
    LogSoftmax,
}

/// pⱼ = exp(xⱼ) / Σₖ exp(xₖ), without overflow: only differences of the x enter.
///
/// ```
/// use backrule_tensor::softmax;
///
/// let mut p = [0.0_f64; 2];
/// softmax(&[1e4, 1e4], &mut p);
/// assert_eq!(p, [0.5, 0.5]);
/// ```
///
/// Of slices that differ in length, the shorter one counts.
pub fn softmax<T: Scalar>(x: &[T], p: &mut [T]) {
    in_default_mode!(softmax(x, p));
    forward(x, p, x.len().min(p.len()), Rule::Softmax);
}

/// yⱼ = xⱼ − ln Σₖ exp(xₖ), without overflow, and as accurate for large x as for small: the largest element
/// is taken out of both terms.
///
/// ```
/// use backrule_tensor::log_softmax;
///
/// let mut y = [0.0_f64; 2];
/// log_softmax(&[1e8, 1e8], &mut y);
/// assert_eq!(y, [-(2_f64.ln()); 2]);
/// ```
///
/// Of slices that differ in length, the shorter one counts.
pub fn log_softmax<T: Scalar>(x: &[T], y: &mut [T]) {
    in_default_mode!(log_softmax(x, y));
    forward(x, y, x.len().min(y.len()), Rule::LogSoftmax);
}

/// y of all rows of x, which have `columns` elements and lie one after the other.
///
/// Of slices that differ in length, the shorter one counts.
pub fn forward<T: Scalar>(x: &[T], y: &mut [T], columns: usize, rule: Rule) {
    let len = x.len().min(y.len()) / columns.max(1) * columns;
    let (x, y) = (&x[..len], &mut y[..len]);
    match rule {
        Rule::Softmax => simd::run(Softmax { columns, x, p: y }),
        Rule::LogSoftmax => simd::run(LogSoftmax { columns, x, y }),
    }
}

/// [`forward`] where a row of `x` begins `strides[0]` elements after the one before it, and one of `y`
/// `strides[1]`. Nothing is written between the rows. There are no rows where they would overlap.
pub fn forward_strided<T: Scalar>(x: &[T], y: &mut [T], columns: usize, strides: [usize; 2], rule: Rule) {
    if strides == [columns; 2] {
        return forward(x, y, columns, rule);
    }
    let rows = row::count(x.len(), columns, strides[0]).min(row::count(y.len(), columns, strides[1]));
    let at = |stride, i| i * stride..i * stride + columns;
    if columns > CHUNK {
        for i in 0..rows {
            forward(&x[at(strides[0], i)], &mut y[at(strides[1], i)], columns, rule);
        }
        return;
    }
    // Short rows are computed 32 at once.
    let (mut packed, mut out) = ([T::ZERO; GROUP * CHUNK], [T::ZERO; GROUP * CHUNK]);
    for first in (0..rows).step_by(GROUP) {
        let group = first..rows.min(first + GROUP);
        for (i, packed) in group.clone().zip(packed.chunks_exact_mut(columns)) {
            packed.copy_from_slice(&x[at(strides[0], i)]);
        }
        forward(&packed[..group.len() * columns], &mut out, columns, rule);
        for (i, out) in group.zip(out.chunks_exact(columns)) {
            y[at(strides[1], i)].copy_from_slice(out);
        }
    }
}

/// ∂l/∂x from y and ∂l/∂y, of all rows, which have `columns` elements and lie one after the other.
///
/// ```
/// use backrule_tensor::kernels::softmax::{self, Rule};
///
/// let mut dx = [0.0; 2];
/// softmax::backward(&[0.5, 0.5], &[1.0, 0.0], &mut dx, 2, Rule::Softmax);
/// assert_eq!(dx, [0.25, -0.25]); // ½ (1 − ½), ½ (0 − ½)
/// ```
///
/// Of slices that differ in length, the shortest one counts.
pub fn backward<T: Scalar>(y: &[T], dy: &[T], dx: &mut [T], columns: usize, rule: Rule) {
    let len = y.len().min(dy.len()).min(dx.len()) / columns.max(1) * columns;
    let (y, dy, dx) = (&y[..len], &dy[..len], &mut dx[..len]);
    match rule {
        Rule::Softmax => backward_rows(columns, y, dy, dx, OfSoftmax),
        Rule::LogSoftmax => backward_rows(columns, y, dy, dx, OfLogSoftmax),
    }
}

/// [`backward`] where a row of `y`, `dy` and `dx` begins `strides[0]`, `[1]` and `[2]` elements after the one
/// before it. Nothing is written between the rows. There are no rows where they would overlap.
pub fn backward_strided<T: Scalar>(
    y: &[T],
    dy: &[T],
    dx: &mut [T],
    columns: usize,
    strides: [usize; 3],
    rule: Rule,
) {
    if strides == [columns; 3] {
        return backward(y, dy, dx, columns, rule);
    }
    let [s, t, u] = strides;
    let rows = row::count(y.len(), columns, s).min(row::count(dy.len(), columns, t));
    for i in 0..rows.min(row::count(dx.len(), columns, u)) {
        let (y, dy) = (&y[i * s..][..columns], &dy[i * t..][..columns]);
        backward(y, dy, &mut dx[i * u..][..columns], columns, rule);
    }
}

/// A computation from max x and Σ exp(x − max x) of each row.
pub trait SumExp<T: Scalar> {
    /// eᵈ for a d ≤ 0. The default gives 0 where that is below the normal numbers, as no sum that begins at 1
    /// sees them.
    #[inline(always)]
    fn exp(d: T) -> T {
        d.exp_in_sum()
    }

    /// Where the exponentials of a long row go, if anybody wants them. They are written as by [`row::store`].
    fn exponentials(&mut self, row: usize) -> Option<&mut [T]>;

    /// Goes on with a row of more than [`CHUNK`] elements.
    fn long_row(&mut self, row: usize, max: T, sum: f64);

    /// Goes on with up to [`GROUP`] rows of at most [`CHUNK`] elements.
    fn short_rows<S: Simd>(&mut self, rows: ShortRows<'_, T>);
}

/// A group of rows of at most [`CHUNK`] elements.
#[derive(Clone, Copy)]
pub struct ShortRows<'a, T> {
    /// The number of the first one.
    pub first: usize,
    /// How many there are, at most [`GROUP`].
    pub rows: usize,
    /// max x of each row.
    pub max: &'a [T; GROUP],
    /// Σ exp(x − max x) of each row.
    pub sum: &'a [f64; GROUP],
    /// exp(x − max x), transposed.
    pub e: &'a Transposed<T>,
}

/// Computes max x and Σ exp(x − max x) of all rows of `columns` elements, in their order, and hands them to
/// `kernel`. The sum runs in f64, or its error would grow with the row.
///
/// NaN is never the maximum, but makes the sum NaN.
#[inline(always)]
pub fn sum_exp<T: Scalar, S: Simd, K: SumExp<T>>(x: &[T], columns: usize, kernel: &mut K) {
    let n = columns;
    let count = x.len() / n.max(1);
    if n > CHUNK {
        for i in 0..count {
            let x = &x[i * n..];
            let max = row::max(x, n);
            let sum = exp_sum::<T, K>(x, n, max, kernel.exponentials(i));
            kernel.long_row(i, max, sum);
        }
        return;
    }
    let (mut transposed, mut e) = ([[T::ZERO; GROUP]; CHUNK], [[T::ZERO; GROUP]; CHUNK]);
    let mut first = 0;
    while first < count {
        let rows = (count - first).min(GROUP);
        row::transpose::<T, S>(&x[first * n..], n, rows, &mut transposed);
        let max = row::max_each(&transposed[..n]);
        let sum = exp_sum_each(&transposed[..n], &max, &mut e, K::exp);
        kernel.short_rows::<S>(ShortRows { first, rows, max: &max, sum: &sum, e: &e });
        first += rows;
    }
}

/// Σ exp(x − max) over the `n` elements of a row. In long rows each term is the sum of four.
/// The exponentials are written to `e` if there is one, as by [`row::store`].
// By K, and not by a closure: with that, a cross-entropy of 1000 classes takes 1.13 times as long.
#[inline(always)]
fn exp_sum<T: Scalar, K: SumExp<T>>(x: &[T], n: usize, max: T, mut e: Option<&mut [T]>) -> f64 {
    const FOUR: usize = 4 * CHUNK;
    let mut sums = [0.0; CHUNK];
    let (blocks, _) = x[..n].as_chunks::<FOUR>();
    for (i, x) in blocks.iter().enumerate() {
        let mut block = *x;
        for x in &mut block {
            *x = K::exp(*x - max);
        }
        for (j, sum) in sums.iter_mut().enumerate() {
            let four = (block[j] + block[j + CHUNK]) + (block[j + 2 * CHUNK] + block[j + 3 * CHUNK]);
            *sum += four.to_f64();
        }
        if let Some(e) = &mut e {
            e[i * FOUR..][..FOUR].copy_from_slice(&block);
        }
    }
    let done = blocks.len() * FOUR;
    for (at, left) in row::chunks(n - done) {
        let chunk = exp_of_chunk(&x[done + at..], left, max, K::exp);
        for (sum, &e) in sums.iter_mut().zip(&chunk) {
            *sum += e.to_f64();
        }
        if let Some(e) = &mut e {
            row::store(chunk, &mut e[done + at..]);
        }
    }
    row::sum(sums)
}

/// exp(x − max) for the first sixteen elements of `x`; 0 from position `left` on.
#[inline(always)]
fn exp_of_chunk<T: Scalar>(x: &[T], left: usize, max: T, exp: impl Fn(T) -> T) -> [T; CHUNK] {
    let mut e = row::read(x, max);
    let left = left.min(CHUNK) as u32;
    for (j, e) in (0..).zip(&mut e) {
        let exp = exp(*e - max);
        *e = if j < left { exp } else { T::ZERO };
    }
    e
}

/// exp(x − max) of all elements, and their sum for each row.
#[inline(always)]
fn exp_sum_each<T: Scalar>(
    x: &[[T; GROUP]],
    max: &[T; GROUP],
    e: &mut Transposed<T>,
    exp: impl Fn(T) -> T,
) -> [f64; GROUP] {
    let mut sum = [0.0; GROUP];
    for (x, e) in x.iter().zip(e) {
        for i in 0..GROUP {
            e[i] = exp(x[i] - max[i]);
            sum[i] += e[i].to_f64();
        }
    }
    sum
}

struct Softmax<'a, T> {
    columns: usize,
    x: &'a [T],
    p: &'a mut [T],
}

impl<T: Scalar> Kernel for Softmax<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        sum_exp::<T, S, _>(self.x, self.columns, &mut self);
    }
}

impl<T: Scalar> SumExp<T> for Softmax<'_, T> {
    /// A probability may be below the normal numbers.
    #[inline(always)]
    fn exp(d: T) -> T {
        d.exp_of_negative()
    }

    #[inline(always)]
    fn exponentials(&mut self, row: usize) -> Option<&mut [T]> {
        Some(&mut self.p[row * self.columns..])
    }

    #[inline(always)]
    fn long_row(&mut self, row: usize, _: T, sum: f64) {
        let (p, scale) = (&mut self.p[row * self.columns..], T::from_f64(1.0 / sum));
        for (at, _) in row::chunks(self.columns) {
            let mut e = row::read(&p[at..], T::ZERO);
            e.iter_mut().for_each(|e| *e *= scale);
            row::store(e, &mut p[at..]);
        }
    }

    #[inline(always)]
    fn short_rows<S: Simd>(&mut self, group: ShortRows<'_, T>) {
        let mut scale = [T::ZERO; GROUP];
        scale.iter_mut().zip(group.sum).for_each(|(scale, sum)| *scale = T::from_f64(1.0 / sum));
        let p = &mut self.p[group.first * self.columns..];
        row::transpose_back::<T, S>(group.e, &scale, self.columns, group.rows, p);
    }
}

struct LogSoftmax<'a, T> {
    columns: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Scalar> Kernel for LogSoftmax<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        sum_exp::<T, S, _>(self.x, self.columns, &mut self);
    }
}

impl<T: Scalar> SumExp<T> for LogSoftmax<'_, T> {
    #[inline(always)]
    fn exponentials(&mut self, _: usize) -> Option<&mut [T]> {
        None
    }

    #[inline(always)]
    fn long_row(&mut self, row: usize, max: T, sum: f64) {
        let start = row * self.columns;
        let (x, y, ln_sum) = (&self.x[start..], &mut self.y[start..], T::from_f64(ln(sum)));
        for (at, _) in row::chunks(self.columns) {
            let mut x = row::read(&x[at..], T::ZERO);
            x.iter_mut().for_each(|x| *x = (*x - max) - ln_sum);
            row::store(x, &mut y[at..]);
        }
    }

    #[inline(always)]
    fn short_rows<S: Simd>(&mut self, group: ShortRows<'_, T>) {
        let mut ln_sum = [T::ZERO; GROUP];
        ln_sum.iter_mut().zip(group.sum).for_each(|(ln_sum, &sum)| *ln_sum = T::from_f64(ln(sum)));
        let mut start = group.first * self.columns;
        for (max, ln_sum) in group.max.iter().zip(&ln_sum).take(group.rows) {
            let mut x = row::read(&self.x[start..], T::ZERO);
            x.iter_mut().for_each(|x| *x = (*x - *max) - *ln_sum);
            row::store(x, &mut self.y[start..]);
            start += self.columns;
        }
    }
}

/// The logarithm of a sum of exponentials: a positive normal number, or NaN. The same bits on every machine,
/// and within one unit in the last place of the exact result in double precision.
#[inline(always)]
pub fn ln(sum: f64) -> f64 {
    double::ln_of_normal(sum)
}

/// A rule of two steps: a sum over the row, then an element of ∂l/∂x from it.
trait RowRule: Copy {
    /// The terms of the sum in the next chunk, of which `left` elements belong to the row.
    fn terms<T: Scalar>(self, y: &[T], dy: &[T], left: usize) -> [T; CHUNK];
    /// ∂l/∂xⱼ
    fn dx<T: Scalar>(self, y: T, dy: T, sum: T) -> T;
}

/// ∂l/∂xⱼ = yⱼ (∂l/∂yⱼ − Σₖ ∂l/∂yₖ yₖ)
#[derive(Clone, Copy)]
struct OfSoftmax;

impl RowRule for OfSoftmax {
    #[inline(always)]
    fn terms<T: Scalar>(self, y: &[T], dy: &[T], left: usize) -> [T; CHUNK] {
        let (mut terms, dy) = (row::load(y, left, T::ZERO), row::load(dy, left, T::ZERO));
        terms.iter_mut().zip(dy).for_each(|(y, dy)| *y *= dy);
        terms
    }
    #[inline(always)]
    fn dx<T: Scalar>(self, y: T, dy: T, sum: T) -> T {
        y * (dy - sum)
    }
}

/// ∂l/∂xⱼ = ∂l/∂yⱼ − exp(yⱼ) Σₖ ∂l/∂yₖ
#[derive(Clone, Copy)]
struct OfLogSoftmax;

impl RowRule for OfLogSoftmax {
    #[inline(always)]
    fn terms<T: Scalar>(self, _: &[T], dy: &[T], left: usize) -> [T; CHUNK] {
        row::load(dy, left, T::ZERO)
    }
    #[inline(always)]
    fn dx<T: Scalar>(self, y: T, dy: T, sum: T) -> T {
        dy - y.exp() * sum
    }
}

kernel!(
    fn backward_rows<T: Scalar, R: RowRule>(columns: usize, y: &[T], dy: &[T], dx: &mut [T], rule: R) {
        for start in (0..y.len()).step_by(columns.max(1)) {
            let (y, dy, dx) = (&y[start..], &dy[start..], &mut dx[start..]);
            let mut sums = [0.0; CHUNK];
            for (at, left) in row::chunks(columns) {
                let terms = rule.terms(&y[at..], &dy[at..], left);
                sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term.to_f64());
            }
            let sum = T::from_f64(row::sum(sums));
            for (at, _) in row::chunks(columns) {
                let (y, mut chunk) = (row::read(&y[at..], T::ZERO), row::read(&dy[at..], T::ZERO));
                for (dx, y) in chunk.iter_mut().zip(y) {
                    *dx = rule.dx(y, *dx, sum);
                }
                row::store(chunk, &mut dx[at..]);
            }
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_end_with_their_row() {
        // Exponentials behind the row would be NaN or infinite.
        for (n, after) in [(3, f32::NAN), (10, f32::INFINITY), (15, 1e4)] {
            let mut x = [after; CHUNK];
            x[..n].fill(1.0);
            for x in [&x[..], &x[..n]] {
                let e = exp_of_chunk(x, n, 2.0, f32::exp_in_sum);
                assert_eq!(e[..n], [f32::exp_in_sum(-1.0); CHUNK][..n]);
                assert_eq!(e[n..], [0.0; CHUNK][n..]);
            }
        }
    }
    #[test]
    fn exponentials_of_transposed_rows_and_their_sums() {
        let x: [[f64; GROUP]; 3] = std::array::from_fn(|j| std::array::from_fn(|i| (i * (j + 2) % 7) as f64));
        let (max, mut e) = (row::max_each(&x), [[0.0; GROUP]; CHUNK]);
        let sum = exp_sum_each(&x, &max, &mut e, f64::exp);
        for i in 0..GROUP {
            let row = x.map(|column| column[i]);
            assert_eq!(max[i], row.into_iter().fold(f64::NEG_INFINITY, f64::max));
            let exp = row.map(|x| (x - max[i]).exp());
            assert_eq!([e[0][i], e[1][i], e[2][i]], exp);
            assert_eq!(sum[i], exp[0] + exp[1] + exp[2]);
        }
    }
    /// The default exponential only.
    struct Exponentials;

    impl SumExp<f64> for Exponentials {
        fn exponentials(&mut self, _: usize) -> Option<&mut [f64]> {
            None
        }

        fn long_row(&mut self, _: usize, _: f64, _: f64) {}

        fn short_rows<S: Simd>(&mut self, _: ShortRows<'_, f64>) {}
    }

    #[test]
    fn the_sum_of_exponentials_counts_each_element_once() {
        for n in [1, 15, 16, 17, 63, 64, 65, 128, 130, 200] {
            // Elements behind the row would make the sum infinite.
            let x: Vec<f64> = (0..n + 20).map(|j| if j < n { -((j % 5) as f64) } else { 1e4 }).collect();
            let mut e = vec![-1.0; n + 20];
            let sum = exp_sum::<f64, Exponentials>(&x, n, 0.0, Some(&mut e));
            let expected: f64 = x[..n].iter().map(|x| x.exp()).sum();
            assert!((sum - expected).abs() < 1e-13 * expected, "{n}: {sum}, {expected}");
            assert!(e[..n].iter().zip(&x).all(|(e, x)| *e == x.exp()), "{n}");
            assert!(e[n.next_multiple_of(CHUNK)..].iter().all(|&e| e == -1.0), "{n}");
            assert_eq!(exp_sum::<f64, Exponentials>(&x, n, 0.0, None), sum);
        }
    }
    /// e⁻¹⁰⁰ is below the normal numbers, and the first two terms of a sum must not hide it.
    #[test]
    fn probabilities_go_through_the_subnormal_numbers() {
        for n in [2, 16, 17, 70] {
            let (mut x, mut p) = (vec![-1000.0_f32; n], vec![1.0; n]);
            (x[0], x[1]) = (0.0, -100.0);
            softmax(&x, &mut p);
            assert_eq!(p[..2], [1.0, (-100.0_f64).exp() as f32], "{n}");
            assert!(p[2..].iter().all(|&p| p == 0.0), "{n}");
        }
    }

    /// In one accumulator a lane, these sums were off by the square root of the row's length.
    #[test]
    fn sums_of_long_rows_do_not_lose_terms() {
        const EPSILON: f64 = f32::EPSILON as f64;
        let n = 3_000_001;
        let x: Vec<f32> = (0..n).map(|j| -((j * 7919 % 1009) as f32) / 4096.0).collect();
        let dy: Vec<f32> = (0..n).map(|j| 0.1 + (j % 3) as f32).collect();
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        for rule in RULES {
            let (mut y, mut exact) = (vec![0.0_f32; n], vec![0.0; n]);
            forward(&x, &mut y, n, rule);
            forward(&wide(&x), &mut exact, n, rule);
            for (y, exact) in y.iter().zip(&exact) {
                assert!(
                    (f64::from(*y) - exact).abs() <= 3.0 * EPSILON * exact.abs(),
                    "{rule:?}: {y:e}, {exact:e}"
                );
            }
            // The rule's two terms are of the size of dy, times y in a softmax.
            let (mut dx, mut exact) = (vec![0.0_f32; n], vec![0.0; n]);
            backward(&y, &dy, &mut dx, n, rule);
            backward(&wide(&y), &wide(&dy), &mut exact, n, rule);
            for ((dx, exact), y) in dx.iter().zip(&exact).zip(&y) {
                let size = if rule == Rule::Softmax { 4.0 * f64::from(*y) } else { 4.0 };
                assert!((f64::from(*dx) - exact).abs() <= EPSILON * size, "{rule:?}: {dx:e}, {exact:e}");
            }
        }
    }

    #[test]
    fn softmax_and_its_logarithm_at_the_edges() {
        let (ln2, mut p, mut y) = (2_f64.ln(), [0.0_f64; 3], [0.0_f64; 3]);
        softmax(&[1e4, -1e4, 1e4], &mut p);
        assert_eq!(p, [0.5, 0.0, 0.5]);
        log_softmax(&[1e4, -1e4, 1e4], &mut y);
        assert_eq!(y, [-ln2, -2e4 - ln2, -ln2]);
        // An impossible class.
        softmax(&[0.0, f64::NEG_INFINITY, 0.0], &mut p);
        assert_eq!(p, [0.5, 0.0, 0.5]);
        log_softmax(&[0.0, f64::NEG_INFINITY, 0.0], &mut y);
        assert_eq!(y, [-ln2, f64::NEG_INFINITY, -ln2]);
        // One class.
        softmax(&[-1e4], &mut p[..1]);
        log_softmax(&[-1e4], &mut y[..1]);
        assert_eq!((p[0], y[0]), (1.0, 0.0));
        // NaN spreads over its row.
        softmax(&[0.0, f64::NAN, 1.0], &mut p);
        log_softmax(&[0.0, f64::NAN, 1.0], &mut y);
        assert!(p.iter().chain(&y).all(|x| x.is_nan()));
        softmax::<f64>(&[], &mut []);
    }
    const RULES: [Rule; 2] = [Rule::Softmax, Rule::LogSoftmax];

    /// Widths on both sides of every limit, in a batch that is as long as two groups of short rows and a bit.
    fn batches() -> impl Iterator<Item = (usize, Vec<f32>)> {
        let value = |i: usize, j: usize| ((i * 31 + j * 7919) % 997) as f32 * 0.02 - 10.0;
        let batch = move |n| (0..70 * n).map(|at| value(at / n, at % n)).collect();
        [1, 2, 7, 10, 15, 16, 17, 33, 64, 100].into_iter().map(move |n| (n, batch(n)))
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
    }

    fn forward_of(x: &[f32], columns: usize, rule: Rule) -> Vec<f32> {
        let mut y = vec![-1.0; x.len()];
        forward(x, &mut y, columns, rule);
        y
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbors() {
        for (n, mut x) in batches() {
            x.chunks_exact_mut(n).skip(5).step_by(9).for_each(|row| row.fill(f32::NAN));
            let [p, y] = RULES.map(|rule| forward_of(&x, n, rule));
            for (x, (p, y)) in x.chunks_exact(n).zip(p.chunks_exact(n).zip(y.chunks_exact(n))) {
                assert_eq!(bits(p), bits(&forward_of(x, n, Rule::Softmax)));
                assert_eq!(bits(y), bits(&forward_of(x, n, Rule::LogSoftmax)));
                let sum: f32 = p.iter().sum();
                assert!((sum - 1.0).abs() < 1e-6 || x[0].is_nan());
                assert!(p.iter().zip(y).all(|(p, y)| (p.ln() - y).abs() < 1e-5 || x[0].is_nan()));
            }
        }
    }

    /// `x` with `gap` numbers of 7 behind each row.
    fn with_gaps(x: &[f32], columns: usize, gap: usize) -> Vec<f32> {
        let rows = x.chunks_exact(columns);
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(7.0, gap))).collect()
    }

    #[test]
    fn rows_apart_have_the_bits_of_rows_side_by_side_and_nothing_between_them_changes() {
        for (n, x) in batches() {
            let dy: Vec<f32> = x.iter().rev().copied().collect();
            let gaps = [[0, 0, 1], [0, 1, 0], [2, 0, 0], [2, 1, 21]];
            for (rule, [a, b, c]) in RULES.into_iter().flat_map(|rule| gaps.map(|gaps| (rule, gaps))) {
                let y = forward_of(&x, n, rule);
                let mut apart = with_gaps(&vec![-1.0; x.len()], n, c);
                forward_strided(&with_gaps(&x, n, a), &mut apart, n, [n + a, n + c], rule);
                assert_eq!(bits(&apart), bits(&with_gaps(&y, n, c)), "{rule:?}, {n}, {a}, {c}");

                let mut dx = vec![-1.0; x.len()];
                backward(&y, &dy, &mut dx, n, rule);
                let mut apart = with_gaps(&vec![-1.0; x.len()], n, c);
                let (y, dy) = (with_gaps(&y, n, a), with_gaps(&dy, n, b));
                backward_strided(&y, &dy, &mut apart, n, [n + a, n + b, n + c], rule);
                assert_eq!(bits(&apart), bits(&with_gaps(&dx, n, c)), "{rule:?}, {n}, {a}, {b}, {c}");
            }
        }
    }

    #[test]
    fn the_backward_rules_are_derivatives() {
        const H: f64 = 1e-5;
        for (n, x) in batches() {
            let x: Vec<f64> = x[3 * n..4 * n].iter().map(|&x| 0.1 * f64::from(x)).collect();
            let dy: Vec<f64> = (0..n).map(|j| (j * 37 % 11) as f64 - 5.0).collect();
            for rule in RULES {
                let y_at = |j: usize, h: f64| {
                    let (mut x, mut y) = (x.clone(), vec![0.0; n]);
                    x[j] += h;
                    forward(&x, &mut y, n, rule);
                    y
                };
                let mut dx = vec![f64::NAN; n];
                backward(&y_at(0, 0.0), &dy, &mut dx, n, rule);
                for (j, &dx) in dx.iter().enumerate() {
                    let change = y_at(j, H).iter().zip(y_at(j, -H)).map(|(a, b)| a - b).collect::<Vec<_>>();
                    let numeric = change.iter().zip(&dy).map(|(c, dy)| c * dy).sum::<f64>() / (2.0 * H);
                    assert!((dx - numeric).abs() <= 1e-8 + 1e-6 * numeric.abs(), "{rule:?}, {n}, {j}");
                }
            }
        }
    }

    #[test]
    fn slices_that_do_not_fit_are_cut() {
        let (x, mut y) = ([1.0_f32; 10], [-1.0_f32; 7]);
        forward(&x, &mut y, 3, Rule::Softmax);
        assert_eq!(y[6], -1.0);
        assert!(y[..6].iter().all(|y| (y - 1.0 / 3.0).abs() < 1e-7));
        // Rows that overlap, rows without elements, and none.
        for (strides, columns) in [([3, 2], 3), ([0, 0], 0), ([20, 20], 20)] {
            let mut y = [-1.0; 7];
            forward_strided(&x, &mut y, columns, strides, Rule::LogSoftmax);
            assert_eq!(y, [-1.0; 7]);
        }
        let mut dx = [-1.0_f32; 5];
        backward(&x, &x[..6], &mut dx, 2, Rule::Softmax);
        assert_eq!(dx[4], -1.0);
        assert_eq!(dx[0], -1.0); // 1 · (1 − 2)
    }

    /// In single precision nothing here is contracted, and exponentials are ours.
    #[test]
    fn instruction_sets_agree() {
        for (columns, x) in batches() {
            let at = |level| {
                let mut p = vec![0.0; x.len()];
                simd::run_at(level, Softmax { columns, x: &x, p: &mut p }).map(|()| p)
            };
            let expected = at("baseline").unwrap();
            for level in ["avx2", "avx512"] {
                assert!(at(level).is_none_or(|p| p == expected), "{level}, {columns}");
            }
        }
    }
}
