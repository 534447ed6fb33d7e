//! Layer norm and batch norm: statistics, y, and their backward rules.
//!
//! A group of elements is normalized together: a row in layer norm, a channel of all samples in batch norm.
//! With the mean μ and the variance v = Σ (x − μ)² / m of a group of m elements, x̂ = (x − μ) / √(v + ε), y =
//! w x̂ + b, and
//!
//! | derivative | layer norm | batch norm |
//! |---|---|---|
//! | ∂l/∂x | (g − Σ g / m − x̂ Σ g x̂ / m) / √(v + ε), with g = w ∂l/∂y | the same |
//! | ∂l/∂w | Σ ∂l/∂y x̂ over rows | Σ ∂l/∂y x̂ over the channel |
//! | ∂l/∂b | Σ ∂l/∂y over rows | Σ ∂l/∂y over the channel |
//!
//! The variance takes a second pass over x: the mean of squares less the square of the mean is nothing but
//! rounding errors where the mean is far larger than the deviations. For the same reason μ is two numbers,
//! see [`Normal`].
//!
//! Sums are made as in [`sum`](crate::kernels::sum): runs of eight terms in the element's type, the runs in
//! f64. Their order depends on sizes alone. Large tensors are shared between threads by rows, planes or
//! columns.

use crate::kernels::bias::{columns as columns_of, sum};
use crate::kernels::row::{self, CHUNK};
use crate::kernels::sum::{Pairwise, RUN};
use crate::parallel;
use crate::scalar::Scalar;
use crate::simd::kernel;

/// Places of a row that are added up in f64 before the next such block begins.
const BLOCK: usize = 4096;
/// Columns whose f64 sums lie on the stack.
const STRIP: usize = 256;
/// Elements of a task for a thread: some ten microseconds.
const TASK: usize = 1 << 16;

/// How a group is normalized, with one element for each group: x̂ = ((x − `mean`) − `rest`) · `scale`.
///
/// `rest` is the part rounded off the mean. In f32 the mean of numbers around 10⁶ is off by up to 0.03,
/// while their differences are exact.
#[derive(Clone, Copy, Debug)]
pub struct Normal<V> {
    /// μ, rounded.
    pub mean: V,
    /// The mean of x − `mean`.
    pub rest: V,
    /// 1 / √(v + ε)
    pub scale: V,
}

impl<'a, T: Scalar> Normal<&'a [T]> {
    #[inline(always)]
    fn of(self, group: usize) -> Normal<T> {
        Normal { mean: self.mean[group], rest: self.rest[group], scale: self.scale[group] }
    }

    /// Of sixteen groups from `at` on.
    #[inline(always)]
    fn chunk(self, at: usize) -> Normal<[T; CHUNK]> {
        let read = |x: &[T]| row::read(&x[at..], T::ZERO);
        Normal { mean: read(self.mean), rest: read(self.rest), scale: read(self.scale) }
    }

    fn groups(self, start: usize, len: usize) -> Self {
        let part = |x: &'a [T]| &x[start..start + len];
        Self { mean: part(self.mean), rest: part(self.rest), scale: part(self.scale) }
    }
}

impl<T: Scalar> Normal<T> {
    /// x̂
    #[inline(always)]
    fn of_one(self, x: T) -> T {
        (x - self.mean - self.rest) * self.scale
    }

    /// x̂ of a chunk.
    #[inline(always)]
    fn apply(self, mut x: [T; CHUNK]) -> [T; CHUNK] {
        x.iter_mut().for_each(|x| *x = self.of_one(*x));
        x
    }
}

impl<T: Scalar> Normal<[T; CHUNK]> {
    /// x̂ of a chunk, each element with its own group.
    #[inline(always)]
    fn apply(&self, mut x: [T; CHUNK]) -> [T; CHUNK] {
        for (j, x) in x.iter_mut().enumerate() {
            *x = (*x - self.mean[j] - self.rest[j]) * self.scale[j];
        }
        x
    }
}

/// The terms of K sums at the places of a row.
trait Terms<T, const K: usize> {
    /// Those of sixteen places from `at` on; 0 from the place `left` of these on.
    fn chunk(&self, at: usize, left: usize) -> [[T; CHUNK]; K];

    /// The sums of [`RUN`] chunks from `at` on: their ends are looked for once.
    fn run(&self, at: usize) -> [[T; CHUNK]; K];
}

/// [`RUN`] chunks from `at` on. The caller has seen that they are there.
#[inline(always)]
fn chunks_of_run<T>(x: &[T], at: usize) -> &[[T; CHUNK]] {
    x[at..at + RUN * CHUNK].as_chunks().0
}

/// Σ of all terms at `n` places.
#[inline(always)]
fn sums<T: Scalar, const K: usize>(n: usize, terms: &impl Terms<T, K>) -> [f64; K] {
    if n <= BLOCK {
        return block_sums(0, n, terms);
    }
    let mut totals: [Pairwise; K] = std::array::from_fn(|_| Pairwise::default());
    for start in (0..n).step_by(BLOCK) {
        let sums = block_sums(start, BLOCK.min(n - start), terms);
        totals.iter_mut().zip(sums).for_each(|(total, sum)| total.add(sum));
    }
    totals.map(|total| total.total())
}

#[inline(always)]
fn block_sums<T: Scalar, const K: usize>(start: usize, n: usize, terms: &impl Terms<T, K>) -> [f64; K] {
    let mut totals = [[0.0; CHUNK]; K];
    let (whole, end) = (start + n / (RUN * CHUNK) * (RUN * CHUNK), start + n);
    for at in (start..whole).step_by(RUN * CHUNK) {
        add_to_totals(&mut totals, &terms.run(at));
    }
    let mut run = [[T::ZERO; CHUNK]; K];
    for at in (whole..end).step_by(CHUNK) {
        let left = if at + CHUNK <= end { usize::MAX } else { end - at };
        add(&mut run, terms.chunk(at, left));
    }
    add_to_totals(&mut totals, &run);
    totals.map(row::sum)
}

#[inline(always)]
fn add<T: Scalar, const K: usize>(sums: &mut [[T; CHUNK]; K], terms: [[T; CHUNK]; K]) {
    for (sums, terms) in sums.iter_mut().zip(terms) {
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
}

#[inline(always)]
fn add_to_totals<T: Scalar, const K: usize>(totals: &mut [[f64; CHUNK]; K], sums: &[[T; CHUNK]; K]) {
    for (totals, sums) in totals.iter_mut().zip(sums) {
        totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
    }
}

/// The terms of K sums over the rows of a matrix.
trait ColumnTerms<T, const K: usize> {
    /// The values of sixteen columns that are the same for all rows.
    type Of;

    /// Those of the columns from `at` on.
    fn of(&self, at: usize) -> Self::Of;

    /// The terms of a row at these columns. Terms past the last column count for nothing.
    fn chunk(&self, of: &Self::Of, row: usize, at: usize) -> [[T; CHUNK]; K];
}

/// Σ over `rows` rows, for `columns` columns from `first` on. `done` gets the sums of sixteen columns, and
/// the place of the first of these behind `first`.
#[inline(always)]
fn column_sums<T: Scalar, const K: usize>(
    rows: usize,
    first: usize,
    columns: usize,
    terms: &impl ColumnTerms<T, K>,
    mut done: impl FnMut(usize, &[[f64; CHUNK]; K]),
) {
    for strip in (0..columns).step_by(STRIP) {
        let mut totals = [[[0.0; CHUNK]; K]; STRIP / CHUNK];
        let places = (strip..columns).step_by(CHUNK);
        for start in (0..rows).step_by(RUN) {
            for (totals, at) in totals.iter_mut().zip(places.clone()) {
                let (mut run, of) = ([[T::ZERO; CHUNK]; K], terms.of(first + at));
                for row in start..rows.min(start + RUN) {
                    add(&mut run, terms.chunk(&of, row, first + at));
                }
                add_to_totals(totals, &run);
            }
        }
        for (totals, at) in totals.iter().zip(places) {
            done(at, totals);
        }
    }
}

/// Σ over the rows of x, which begin `stride` elements apart, for `columns` columns: as by [`column_sums`],
/// but for terms that are there already. `done` gets the sums of some columns, and the place of the first.
#[inline(always)]
fn sums_of_rows<T: Scalar>(x: &[T], stride: usize, columns: usize, mut done: impl FnMut(usize, &[f64])) {
    const WIDE: usize = 4 * CHUNK;
    let mut at = 0;
    while at + WIDE <= columns {
        done(at, &sums_of_block::<T, WIDE>(x, stride, |row| columns_of(row, at)));
        at += WIDE;
    }
    while at < columns {
        let sums = sums_of_block(x, stride, |row| row::read(&row[at..], T::ZERO));
        done(at, &sums[..CHUNK.min(columns - at)]);
        at += CHUNK;
    }
}

/// The same for the N columns that `read` takes from each row.
#[inline(always)]
fn sums_of_block<T: Scalar, const N: usize>(
    x: &[T],
    stride: usize,
    read: impl Fn(&[T]) -> [T; N],
) -> [f64; N] {
    let mut totals = [0.0; N];
    for rows in x.chunks(RUN * stride) {
        let mut run = [T::ZERO; N];
        if rows.len() == RUN * stride {
            // Written out: the sums stay in registers.
            let row = |i| read(&rows[i * stride..(i + 1) * stride]);
            let first = sum(sum(sum(sum(run, row(0)), row(1)), row(2)), row(3));
            run = sum(sum(sum(sum(first, row(4)), row(5)), row(6)), row(7));
        } else {
            for row in rows.chunks(stride) {
                run = sum(run, read(row));
            }
        }
        totals.iter_mut().zip(run).for_each(|(total, sum)| *total += sum.to_f64());
    }
    totals
}

/// The second of two terms alone: the products.
struct Second<C>(C);

impl<T: Scalar, C: Terms<T, 2>> Terms<T, 1> for Second<C> {
    #[inline(always)]
    fn chunk(&self, at: usize, left: usize) -> [[T; CHUNK]; 1] {
        [self.0.chunk(at, left)[1]]
    }

    #[inline(always)]
    fn run(&self, at: usize) -> [[T; CHUNK]; 1] {
        [self.0.run(at)[1]]
    }
}

impl<T: Scalar, C: ColumnTerms<T, 2>> ColumnTerms<T, 1> for Second<C> {
    type Of = C::Of;

    #[inline(always)]
    fn of(&self, at: usize) -> C::Of {
        self.0.of(at)
    }

    #[inline(always)]
    fn chunk(&self, of: &C::Of, row: usize, at: usize) -> [[T; CHUNK]; 1] {
        [self.0.chunk(of, row, at)[1]]
    }
}

/// x.
struct Values<'a, T>(&'a [T]);

impl<T: Scalar> Terms<T, 1> for Values<'_, T> {
    #[inline(always)]
    fn chunk(&self, at: usize, left: usize) -> [[T; CHUNK]; 1] {
        [row::load(&self.0[at..], left, T::ZERO)]
    }

    #[inline(always)]
    fn run(&self, at: usize) -> [[T; CHUNK]; 1] {
        let mut run = [[T::ZERO; CHUNK]];
        for x in chunks_of_run(self.0, at) {
            add(&mut run, [*x]);
        }
        run
    }
}

/// d = x − mean, and d².
struct Deviations<'a, T>(&'a [T], T);

impl<T: Scalar> Terms<T, 2> for Deviations<'_, T> {
    #[inline(always)]
    fn chunk(&self, at: usize, left: usize) -> [[T; CHUNK]; 2] {
        self.of(row::load(&self.0[at..], left, self.1))
    }

    #[inline(always)]
    fn run(&self, at: usize) -> [[T; CHUNK]; 2] {
        let mut run = [[T::ZERO; CHUNK]; 2];
        for x in chunks_of_run(self.0, at) {
            add(&mut run, self.of(*x));
        }
        run
    }
}

impl<T: Scalar> Deviations<'_, T> {
    #[inline(always)]
    fn of(&self, mut x: [T; CHUNK]) -> [[T; CHUNK]; 2] {
        x.iter_mut().for_each(|d| *d -= self.1);
        [x, square(x)]
    }
}

#[inline(always)]
fn square<T: Scalar>(mut d: [T; CHUNK]) -> [T; CHUNK] {
    d.iter_mut().for_each(|d| *d *= *d);
    d
}

#[inline(always)]
fn times<T: Scalar>(mut a: [T; CHUNK], b: [T; CHUNK]) -> [T; CHUNK] {
    a.iter_mut().zip(b).for_each(|(a, b)| *a *= b);
    a
}

/// The mean of `m` numbers, the part rounded off it, and their variance: from Σ x, and then Σ d and Σ d².
struct Moments {
    mean: f64,
    rest: f64,
    variance: f64,
}

impl Moments {
    /// The second pass. The square of the rest is the share of the mean's rounding in d².
    #[inline(always)]
    fn new<T: Scalar>(m: usize, mean: T, [sum, squares]: [f64; 2]) -> Self {
        let m = m as f64;
        let rest = sum / m;
        let variance = squares / m - rest * rest;
        // NaN is neither.
        Self { mean: mean.to_f64(), rest, variance: if variance < 0.0 { 0.0 } else { variance } }
    }

    #[inline(always)]
    fn normal<T: Scalar>(&self, epsilon: f64) -> Normal<T> {
        let scale = T::from_f64(1.0 / (self.variance + epsilon).sqrt());
        Normal { mean: T::from_f64(self.mean), rest: T::from_f64(self.rest), scale }
    }
}

/// Rows of a task for a thread.
fn rows_of_task(columns: usize) -> usize {
    (TASK / columns.max(1)).max(1)
}

/// y of all rows of x, and how they are normalized. Without weights and biases both are empty.
pub fn layer_forward<T: Scalar>(
    x: &[T],
    columns: usize,
    epsilon: f64,
    [weight, bias]: [&[T]; 2],
    normal: Normal<&mut [T]>,
    y: &mut [T],
) {
    let n = columns.max(1);
    let rows = rows_of_task(n);
    let Normal { mean, rest, scale } = normal;
    let normal = mean.chunks_mut(rows).zip(rest.chunks_mut(rows)).zip(scale.chunks_mut(rows));
    let parts = x.chunks(rows * n).zip(y.chunks_mut(rows * n)).zip(normal);
    parallel::for_each(parts, |((x, y), ((mean, rest), scale))| {
        let normal = Normal { mean, rest, scale };
        layer_forward_rows(x, n, epsilon, weight, bias, normal, y);
    });
}

kernel!(
    fn layer_forward_rows<T: Scalar>(
        x: &[T],
        n: usize,
        epsilon: f64,
        weight: &[T],
        bias: &[T],
        normal: Normal<&mut [T]>,
        y: &mut [T],
    ) {
        for (i, start) in (0..x.len() / n * n).step_by(n).enumerate() {
            let (x, y) = (&x[start..], &mut y[start..]);
            let [sum] = sums(n, &Values(x));
            let mean = T::from_f64(sum / n as f64);
            let own = Moments::new(n, mean, sums(n, &Deviations(x, mean))).normal(epsilon);
            (normal.mean[i], normal.rest[i], normal.scale[i]) = (own.mean, own.rest, own.scale);
            let (x, y) = (&x[..n], &mut y[..n]);
            normalize(own, x, y);
            scale_and_shift(weight, bias, y);
        }
    }
);

/// x̂ of a group.
#[inline(always)]
fn normalize<T: Scalar>(own: Normal<T>, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = own.of_one(x);
    }
}

/// y ← w y + b, if there are weights. Elements just written are still near.
#[inline(always)]
fn scale_and_shift<T: Scalar>(weight: &[T], bias: &[T], y: &mut [T]) {
    for ((y, &w), &b) in y.iter_mut().zip(weight).zip(bias) {
        *y = *y * w + b;
    }
}

/// ∂l/∂x of all rows.
pub fn layer_backward<T: Scalar>(
    x: &[T],
    dy: &[T],
    columns: usize,
    weight: &[T],
    normal: Normal<&[T]>,
    dx: &mut [T],
) {
    let n = columns.max(1);
    let rows = rows_of_task(n);
    let parts = x.chunks(rows * n).zip(dy.chunks(rows * n)).zip(dx.chunks_mut(rows * n)).enumerate();
    parallel::for_each(parts, |(i, ((x, dy), dx))| {
        let normal = normal.groups(i * rows, x.len() / n);
        layer_backward_rows(x, dy, n, weight, normal, dx);
    });
}

/// g and g x̂ of a group.
struct Products<'a, T> {
    x: &'a [T],
    g: &'a [T],
    normal: Normal<T>,
}

impl<T: Scalar> Terms<T, 2> for Products<'_, T> {
    #[inline(always)]
    fn chunk(&self, at: usize, left: usize) -> [[T; CHUNK]; 2] {
        let g = row::load(&self.g[at..], left, T::ZERO);
        [g, times(g, self.normal.apply(row::load(&self.x[at..], left, self.normal.mean)))]
    }

    #[inline(always)]
    fn run(&self, at: usize) -> [[T; CHUNK]; 2] {
        let mut run = [[T::ZERO; CHUNK]; 2];
        for (x, g) in chunks_of_run(self.x, at).iter().zip(chunks_of_run(self.g, at)) {
            add(&mut run, [*g, times(*g, self.normal.apply(*x))]);
        }
        run
    }
}

kernel!(
    fn layer_backward_rows<T: Scalar>(
        x: &[T],
        dy: &[T],
        n: usize,
        weight: &[T],
        normal: Normal<&[T]>,
        dx: &mut [T],
    ) {
        for (i, start) in (0..x.len() / n * n).step_by(n).enumerate() {
            let (x, dy, dx) = (&x[start..][..n], &dy[start..][..n], &mut dx[start..][..n]);
            dx.copy_from_slice(dy);
            dx.iter_mut().zip(weight).for_each(|(g, &w)| *g *= w);
            let own = normal.of(i);
            let terms = Products { x, g: dx, normal: own };
            let means = sums(n, &terms).map(|sum| T::from_f64(sum / n as f64));
            without_means(own, x, means, dx);
            dx.iter_mut().for_each(|dx| *dx *= own.scale);
        }
    }
);

/// g ← g − mean of g − x̂ · mean of g x̂
#[inline(always)]
fn without_means<T: Scalar>(own: Normal<T>, x: &[T], [a, c]: [T; 2], g: &mut [T]) {
    for (g, &x) in g.iter_mut().zip(x) {
        *g = *g - a - own.of_one(x) * c;
    }
}

/// Adds Σ ∂l/∂y x̂ over the rows to `dw`, and Σ ∂l/∂y to `db`: to each that is there, and the same.
pub fn add_layer_sums<T: Scalar>(
    x: &[T],
    dy: &[T],
    columns: usize,
    normal: Normal<&[T]>,
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
) {
    let (n, len) = (columns.max(1), columns_of_task(columns, x.len()));
    let terms = OfRows { x, dy, columns: n, normal };
    for_each_part(dw, db, len, |i, dw, db| add_column_sums(x.len() / n, i * len, terms, dw, db));
}

/// Shares the given gradients between threads: `f` gets the number of a part and `len` elements of each.
fn for_each_part<T: Scalar>(
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
    len: usize,
    f: impl Fn(usize, Option<&mut [T]>, Option<&mut [T]>) + Sync,
) {
    match (dw, db) {
        (Some(dw), Some(db)) => {
            let parts = dw.chunks_mut(len).zip(db.chunks_mut(len)).enumerate();
            parallel::for_each(parts, |(i, (dw, db))| f(i, Some(dw), Some(db)));
        }
        (Some(dw), None) => {
            parallel::for_each(dw.chunks_mut(len).enumerate(), |(i, dw)| f(i, Some(dw), None))
        }
        (None, Some(db)) => {
            parallel::for_each(db.chunks_mut(len).enumerate(), |(i, db)| f(i, None, Some(db)))
        }
        (None, None) => {}
    }
}

/// Columns of a task for a thread.
fn columns_of_task(columns: usize, elements: usize) -> usize {
    if elements <= TASK { columns.max(1) } else { STRIP }
}

/// ∂l/∂y and ∂l/∂y x̂, where a row is a group.
#[derive(Clone, Copy)]
struct OfRows<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    columns: usize,
    normal: Normal<&'a [T]>,
}

impl<T: Scalar> ColumnTerms<T, 2> for OfRows<'_, T> {
    type Of = ();

    #[inline(always)]
    fn of(&self, _: usize) {}

    #[inline(always)]
    fn chunk(&self, (): &(), row: usize, at: usize) -> [[T; CHUNK]; 2] {
        let at = row * self.columns + at;
        let dy = row::read(&self.dy[at..], T::ZERO);
        [dy, times(dy, self.normal.of(row).apply(row::read(&self.x[at..], T::ZERO)))]
    }
}

/// The same, where a column is a group.
struct OfColumns<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    columns: usize,
    normal: Normal<&'a [T]>,
}

impl<T: Scalar> ColumnTerms<T, 2> for OfColumns<'_, T> {
    type Of = Normal<[T; CHUNK]>;

    #[inline(always)]
    fn of(&self, at: usize) -> Self::Of {
        self.normal.chunk(at)
    }

    #[inline(always)]
    fn chunk(&self, of: &Self::Of, row: usize, at: usize) -> [[T; CHUNK]; 2] {
        let place = row * self.columns + at;
        let dy = row::read(&self.dy[place..], T::ZERO);
        [dy, times(dy, of.apply(row::read(&self.x[place..], T::ZERO)))]
    }
}

kernel!(
    fn add_column_sums<T: Scalar>(
        rows: usize,
        first: usize,
        terms: OfRows<'_, T>,
        dw: Option<&mut [T]>,
        db: Option<&mut [T]>,
    ) {
        // Added before it is rounded.
        let add = |to: &mut [T], sums: &[f64]| {
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to = T::from_f64(to.to_f64() + sum));
        };
        match (dw, db) {
            (Some(dw), Some(db)) => column_sums(rows, first, dw.len(), &terms, |at, [sums, products]| {
                add(&mut db[at..], sums);
                add(&mut dw[at..], products);
            }),
            (Some(dw), None) => column_sums(rows, first, dw.len(), &Second(terms), |at, [products]| {
                add(&mut dw[at..], products);
            }),
            (None, Some(db)) => {
                sums_of_rows(&terms.dy[first..], terms.columns, db.len(), |at, sums| {
                    add(&mut db[at..], sums);
                });
            }
            (None, None) => {}
        }
    }
);

/// The sizes of a batch norm: x is `[samples, channels, plane]`. All slices of channels have `channels`
/// elements; weights and biases may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// The first axis.
    pub samples: usize,
    /// The second axis: the groups.
    pub channels: usize,
    /// The elements of all further axes.
    pub plane: usize,
}

impl Channels {
    /// The elements of a group.
    pub fn group(self) -> usize {
        self.samples * self.plane
    }

    /// Where the plane of a sample and channel begins.
    #[inline(always)]
    fn start(self, sample: usize, channel: usize) -> usize {
        (sample * self.channels + channel) * self.plane
    }

    /// Channels of a task for a thread.
    fn of_task(self) -> usize {
        match self.plane {
            1 => columns_of_task(self.channels, self.group() * self.channels),
            _ => rows_of_task(self.group()),
        }
    }

    /// The elements of x of all samples of a task, whole samples.
    fn elements_of_task(self) -> usize {
        let sample = (self.channels * self.plane).max(1);
        rows_of_task(sample) * sample
    }

    /// How the channels of x are normalized, and their variances.
    pub fn moments<T: Scalar>(self, x: &[T], epsilon: f64, normal: Normal<&mut [T]>, variance: &mut [T]) {
        let len = self.of_task();
        let Normal { mean, rest, scale } = normal;
        let normal = mean.chunks_mut(len).zip(rest.chunks_mut(len)).zip(scale.chunks_mut(len));
        let parts = normal.zip(variance.chunks_mut(len)).enumerate();
        parallel::for_each(parts, |(i, (((mean, rest), scale), variance))| {
            let normal = Normal { mean, rest, scale };
            channel_moments(self, i * len, x, epsilon, normal, variance);
        });
    }

    /// y = w x̂ + b
    pub fn forward<T: Scalar>(self, x: &[T], normal: Normal<&[T]>, [weight, bias]: [&[T]; 2], y: &mut [T]) {
        let len = self.elements_of_task();
        parallel::for_each(x.chunks(len).zip(y.chunks_mut(len)), |(x, y)| {
            channel_forward(self, x, normal, weight, bias, y);
        });
    }

    /// Σ ∂l/∂y x̂ and Σ ∂l/∂y of each channel: each for which there is a place, and the same.
    pub fn sums<T: Scalar>(
        self,
        x: &[T],
        dy: &[T],
        normal: Normal<&[T]>,
        dw: Option<&mut [T]>,
        db: Option<&mut [T]>,
    ) {
        let len = self.of_task();
        for_each_part(dw, db, len, |i, dw, db| channel_sums(self, i * len, x, dy, normal, dw, db));
    }

    /// ∂l/∂x. `sums` are those of [`sums`](Self::sums) if the statistics are x's own, else there are none.
    pub fn backward<T: Scalar>(
        self,
        x: &[T],
        dy: &[T],
        normal: Normal<&[T]>,
        weight: &[T],
        sums: Option<[&[T]; 2]>,
        dx: &mut [T],
    ) {
        let len = self.elements_of_task();
        parallel::for_each(x.chunks(len).zip(dy.chunks(len)).zip(dx.chunks_mut(len)), |((x, dy), dx)| {
            channel_backward(self, x, dy, normal, weight, sums, dx);
        });
    }
}

/// x, or d and d² from the mean of each column.
struct ColumnValues<'a, T>(&'a [T], usize);
struct ColumnDeviations<'a, T> {
    x: &'a [T],
    columns: usize,
    first: usize,
    mean: &'a [T],
}

impl<T: Scalar> ColumnTerms<T, 1> for ColumnValues<'_, T> {
    type Of = ();

    #[inline(always)]
    fn of(&self, _: usize) {}

    #[inline(always)]
    fn chunk(&self, (): &(), row: usize, at: usize) -> [[T; CHUNK]; 1] {
        [row::read(&self.0[row * self.1 + at..], T::ZERO)]
    }
}

impl<T: Scalar> ColumnTerms<T, 2> for ColumnDeviations<'_, T> {
    type Of = [T; CHUNK];

    #[inline(always)]
    fn of(&self, at: usize) -> [T; CHUNK] {
        row::read(&self.mean[at - self.first..], T::ZERO)
    }

    #[inline(always)]
    fn chunk(&self, mean: &[T; CHUNK], row: usize, at: usize) -> [[T; CHUNK]; 2] {
        let mut d = row::read(&self.x[row * self.columns + at..], T::ZERO);
        d.iter_mut().zip(mean).for_each(|(d, &mean)| *d -= mean);
        [d, square(d)]
    }
}

kernel!(
    fn channel_moments<T: Scalar>(
        sizes: Channels,
        first: usize,
        x: &[T],
        epsilon: f64,
        normal: Normal<&mut [T]>,
        variance: &mut [T],
    ) {
        let Normal { mean, rest, scale } = normal;
        let m = sizes.group();
        let mut write = |j: usize, mean: T, sums| {
            let moments = Moments::new(m, mean, sums);
            let own = moments.normal(epsilon);
            (rest[j], scale[j], variance[j]) = (own.rest, own.scale, T::from_f64(moments.variance));
        };
        if sizes.plane == 1 {
            let (rows, columns) = (sizes.samples, mean.len());
            column_sums(rows, first, columns, &ColumnValues(x, sizes.channels), |at, [sums]| {
                mean[at..].iter_mut().zip(sums).for_each(|(mean, sum)| *mean = T::from_f64(sum / m as f64));
            });
            let terms = ColumnDeviations { x, columns: sizes.channels, first, mean };
            column_sums(rows, first, columns, &terms, |at, [sums, squares]| {
                for (j, (&sum, &squares)) in (at..columns).zip(sums.iter().zip(squares)) {
                    write(j, terms.mean[j], [sum, squares]);
                }
            });
            return;
        }
        for (j, mean) in mean.iter_mut().enumerate() {
            let planes = |i| &x[sizes.start(i, first + j)..];
            let [sum] = plane_sums(sizes, |i| Values(planes(i)));
            *mean = T::from_f64(sum / m as f64);
            write(j, *mean, plane_sums(sizes, |i| Deviations(planes(i), *mean)));
        }
    }
);

/// Σ over the planes of all samples.
#[inline(always)]
fn plane_sums<T: Scalar, P: Terms<T, K>, const K: usize>(
    sizes: Channels,
    terms: impl Fn(usize) -> P,
) -> [f64; K] {
    let mut totals: [Pairwise; K] = std::array::from_fn(|_| Pairwise::default());
    for i in 0..sizes.samples {
        let sums = sums(sizes.plane, &terms(i));
        totals.iter_mut().zip(sums).for_each(|(total, sum)| total.add(sum));
    }
    totals.map(|total| total.total())
}

/// Element j, or the default if there are none.
#[inline(always)]
fn of<T: Scalar>(values: &[T], j: usize, default: T) -> T {
    if values.is_empty() { default } else { values[j] }
}

/// x̂ of a row, each element with its own group.
#[inline(always)]
fn normals<T: Scalar>(normal: Normal<&[T]>, x: &[T]) -> impl Iterator<Item = T> {
    let own = normal.mean.iter().zip(normal.rest).zip(normal.scale);
    x.iter().zip(own).map(|(&x, ((&mean, &rest), &scale))| Normal { mean, rest, scale }.of_one(x))
}

kernel!(
    fn channel_forward<T: Scalar>(
        sizes: Channels,
        x: &[T],
        normal: Normal<&[T]>,
        weight: &[T],
        bias: &[T],
        y: &mut [T],
    ) {
        let Channels { channels, plane, .. } = sizes;
        let samples = x.len() / (channels * plane).max(1);
        if plane == 1 {
            for i in 0..samples {
                let (x, y) = (&x[i * channels..][..channels], &mut y[i * channels..][..channels]);
                y.iter_mut().zip(normals(normal, x)).for_each(|(y, x)| *y = x);
                scale_and_shift(weight, bias, y);
            }
            return;
        }
        for i in 0..samples * channels {
            let (j, x, y) = (i % channels, &x[i * plane..][..plane], &mut y[i * plane..][..plane]);
            let (own, w, b) = (normal.of(j), of(weight, j, T::ONE), of(bias, j, T::ZERO));
            for (y, &x) in y.iter_mut().zip(x) {
                *y = own.of_one(x) * w + b;
            }
        }
    }
);

kernel!(
    fn channel_sums<T: Scalar>(
        sizes: Channels,
        first: usize,
        x: &[T],
        dy: &[T],
        normal: Normal<&[T]>,
        dw: Option<&mut [T]>,
        db: Option<&mut [T]>,
    ) {
        let columns = OfColumns { x, dy, columns: sizes.channels, normal };
        let plane = |i, j| {
            let start = sizes.start(i, first + j);
            Products { x: &x[start..], g: &dy[start..], normal: normal.of(first + j) }
        };
        match (dw, db) {
            (Some(dw), Some(db)) => {
                each_channel(sizes, first, dw.len(), columns, plane, |j, [sum, product]| {
                    (dw[j], db[j]) = (T::from_f64(product), T::from_f64(sum));
                })
            }
            (Some(dw), None) => {
                let (columns, plane) = (Second(columns), |i, j| Second(plane(i, j)));
                each_channel(sizes, first, dw.len(), columns, plane, |j, [product]| {
                    dw[j] = T::from_f64(product)
                });
            }
            (None, Some(db)) if sizes.plane == 1 => {
                sums_of_rows(&dy[first..], sizes.channels, db.len(), |at, sums| {
                    db[at..].iter_mut().zip(sums).for_each(|(db, &sum)| *db = T::from_f64(sum));
                });
            }
            (None, Some(db)) => {
                for (j, db) in db.iter_mut().enumerate() {
                    let [sum] = plane_sums(sizes, |i| Values(&dy[sizes.start(i, first + j)..]));
                    *db = T::from_f64(sum);
                }
            }
            (None, None) => {}
        }
    }
);

/// Σ of `len` channels from `first` on: of columns where a plane is one element, else of the planes of each
/// sample and channel. `done` gets a channel's place behind `first`, and its sums.
#[inline(always)]
fn each_channel<T: Scalar, P: Terms<T, K>, const K: usize>(
    sizes: Channels,
    first: usize,
    len: usize,
    columns: impl ColumnTerms<T, K>,
    plane: impl Fn(usize, usize) -> P,
    mut done: impl FnMut(usize, [f64; K]),
) {
    if sizes.plane == 1 {
        column_sums(sizes.samples, first, len, &columns, |at, sums| {
            for j in 0..CHUNK.min(len - at) {
                done(at + j, sums.map(|sums| sums[j]));
            }
        });
    } else {
        for j in 0..len {
            done(j, plane_sums(sizes, |i| plane(i, j)));
        }
    }
}

kernel!(
    fn channel_backward<T: Scalar>(
        sizes: Channels,
        x: &[T],
        dy: &[T],
        normal: Normal<&[T]>,
        weight: &[T],
        sums: Option<[&[T]; 2]>,
        dx: &mut [T],
    ) {
        let Channels { channels, plane, .. } = sizes;
        let m = T::from_f64(sizes.group() as f64);
        let samples = x.len() / (channels * plane).max(1);
        if plane == 1 {
            for i in 0..samples {
                let row = i * channels..(i + 1) * channels;
                let (x, dx) = (&x[row.clone()], &mut dx[row.clone()]);
                dx.copy_from_slice(&dy[row]);
                if let Some([dw, db]) = sums {
                    for (((g, x), &c), &a) in dx.iter_mut().zip(normals(normal, x)).zip(dw).zip(db) {
                        *g = *g - a / m - x * (c / m);
                    }
                }
                dx.iter_mut().zip(normal.scale).for_each(|(dx, &scale)| *dx *= scale);
                dx.iter_mut().zip(weight).for_each(|(dx, &w)| *dx *= w);
            }
            return;
        }
        for i in 0..samples * channels {
            let (j, start) = (i % channels, i * plane);
            let (x, dy) = (&x[start..][..plane], &dy[start..][..plane]);
            let (dx, own) = (&mut dx[start..][..plane], normal.of(j));
            let scale = own.scale * of(weight, j, T::ONE);
            match sums.map(|[dw, db]| [db[j] / m, dw[j] / m]) {
                Some([a, c]) => {
                    for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
                        *dx = (dy - a - own.of_one(x) * c) * scale;
                    }
                }
                None => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy * scale),
            }
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::at_level;

    const EPSILON: f64 = 1e-5;

    /// Numbers from −0.5 to 0.5 without a pattern.
    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        let mixed = |i: usize| ((i + seed) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        (0..n).map(|i| mixed(i) as f64 / 16_777_216.0 - 0.5).collect()
    }

    fn close(name: &str, got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert!(
                (got - expected).abs() <= 1e-11 * (1.0 + expected.abs()),
                "{name}, {i}: {got} {expected}"
            );
        }
    }

    /// All results of a norm: y, ∂l/∂x, ∂l/∂w, ∂l/∂b.
    type Results = [Vec<f64>; 4];

    /// The formulas as they stand above. `group` and `weight` say which group and which weight an element
    /// has.
    fn by_the_book(
        x: &[f64],
        dy: &[f64],
        w: &[f64],
        groups: usize,
        group: impl Fn(usize) -> usize,
        weight: impl Fn(usize) -> usize,
    ) -> Results {
        let m = (x.len() / groups) as f64;
        let sum = |f: &dyn Fn(usize) -> f64| {
            let mut sums = vec![0.0; groups];
            (0..x.len()).for_each(|k| sums[group(k)] += f(k));
            sums
        };
        let mean: Vec<_> = sum(&|k| x[k]).iter().map(|sum| sum / m).collect();
        let scale: Vec<_> = sum(&|k| (x[k] - mean[group(k)]).powi(2))
            .iter()
            .map(|sum| 1.0 / (sum / m + EPSILON).sqrt())
            .collect();
        let normal = |k: usize| (x[k] - mean[group(k)]) * scale[group(k)];
        let g = |k: usize| w[weight(k)] * dy[k];
        let (a, c) = (sum(&g), sum(&|k| g(k) * normal(k)));
        let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        for k in 0..x.len() {
            dw[weight(k)] += dy[k] * normal(k);
            db[weight(k)] += dy[k];
        }
        let y = (0..x.len()).map(|k| w[weight(k)] * normal(k) + w[weight(k)] / 2.0).collect();
        let dx = |k: usize| (g(k) - a[group(k)] / m - normal(k) * c[group(k)] / m) * scale[group(k)];
        [y, (0..x.len()).map(dx).collect(), dw, db]
    }

    /// A chunk, its neighbors, blocks and strips, and parts for several threads.
    #[test]
    fn rows_are_normalized_by_the_book() {
        for [rows, n] in [[1, 1], [3, 15], [3, 16], [9, 17], [2, 4100], [300, 257], [70_000, 1]] {
            let (x, dy, w) = (numbers(rows * n, 1), numbers(rows * n, 7), numbers(n, 11));
            let b: Vec<_> = w.iter().map(|w| w / 2.0).collect();
            let [mut mean, mut rest, mut scale] = [0; 3].map(|_| vec![0.0; rows]);
            let [mut y, mut dx] = [0; 2].map(|_| vec![f64::NAN; rows * n]);
            let [mut dw, mut db] = [0; 2].map(|_| vec![1.0; n]);
            let normal = Normal { mean: &mut mean[..], rest: &mut rest[..], scale: &mut scale[..] };
            layer_forward(&x, n, EPSILON, [&w, &b], normal, &mut y);
            let normal = Normal { mean: &mean[..], rest: &rest[..], scale: &scale[..] };
            layer_backward(&x, &dy, n, &w, normal, &mut dx);
            add_layer_sums(&x, &dy, n, normal, Some(&mut dw), Some(&mut db));
            let [mut only_dw, mut only_db] = [0; 2].map(|_| vec![1.0; n]);
            add_layer_sums(&x, &dy, n, normal, Some(&mut only_dw), None);
            add_layer_sums(&x, &dy, n, normal, None, Some(&mut only_db));
            assert!(only_dw == dw && only_db == db, "{rows} {n}: one sum alone");
            let expected = by_the_book(&x, &dy, &w, rows, |k| k / n, |k| k % n);
            let added = |sums: &[f64]| sums.iter().map(|sum| sum + 1.0).collect::<Vec<_>>();
            close(&format!("{rows} {n}: y"), &y, &expected[0]);
            close(&format!("{rows} {n}: dx"), &dx, &expected[1]);
            close(&format!("{rows} {n}: dw"), &dw, &added(&expected[2]));
            close(&format!("{rows} {n}: db"), &db, &added(&expected[3]));
        }
    }

    #[test]
    fn channels_are_normalized_by_the_book() {
        let sizes = [
            [2, 1, 1],
            [3, 17, 1],
            [9, 300, 1],
            [400, 300, 1],
            [70_000, 1, 1],
            [1, 3, 16],
            [3, 2, 15],
            [2, 3, 4100],
            [70, 40, 36],
        ];
        for [samples, channels, plane] in sizes {
            let all = Channels { samples, channels, plane };
            let n = samples * channels * plane;
            let (x, dy, w) = (numbers(n, 1), numbers(n, 7), numbers(channels, 11));
            let b: Vec<_> = w.iter().map(|w| w / 2.0).collect();
            let [mut mean, mut rest, mut scale, mut variance] = [0; 4].map(|_| vec![0.0; channels]);
            let [mut y, mut dx] = [0; 2].map(|_| vec![f64::NAN; n]);
            let [mut dw, mut db] = [0; 2].map(|_| vec![f64::NAN; channels]);
            let normal = Normal { mean: &mut mean[..], rest: &mut rest[..], scale: &mut scale[..] };
            all.moments(&x, EPSILON, normal, &mut variance);
            let normal = Normal { mean: &mean[..], rest: &rest[..], scale: &scale[..] };
            all.forward(&x, normal, [&w, &b], &mut y);
            all.sums(&x, &dy, normal, Some(&mut dw), Some(&mut db));
            let [mut only_dw, mut only_db] = [0; 2].map(|_| vec![f64::NAN; channels]);
            all.sums(&x, &dy, normal, Some(&mut only_dw), None);
            all.sums(&x, &dy, normal, None, Some(&mut only_db));
            assert!(only_dw == dw && only_db == db, "{all:?}: one sum alone");
            all.backward(&x, &dy, normal, &w, Some([&dw, &db]), &mut dx);
            let channel = |k: usize| k / plane % channels;
            let expected = by_the_book(&x, &dy, &w, channels, channel, channel);
            close(&format!("{all:?}: y"), &y, &expected[0]);
            close(&format!("{all:?}: dx"), &dx, &expected[1]);
            close(&format!("{all:?}: dw"), &dw, &expected[2]);
            close(&format!("{all:?}: db"), &db, &expected[3]);
            for (variance, scale) in variance.iter().zip(&scale) {
                assert!((1.0 / (variance + EPSILON).sqrt() - scale).abs() <= 1e-12 * scale);
            }
        }
    }

    /// In f32 a running sum of these would be off in its third digit.
    #[test]
    fn long_sums_in_f32_stay_exact() {
        let n = 3_000_000;
        let (x, dy) = (vec![1.0_f32; n], vec![0.1_f32; n]);
        let one = |x: f32| vec![x];
        let (mean, rest, scale) = (one(0.0), one(0.0), one(1.0));
        let normal = Normal { mean: &mean[..], rest: &rest[..], scale: &scale[..] };
        let expected = f64::from(0.1_f32) * n as f64;
        for [samples, plane] in [[n, 1], [1, n], [n / 3, 3]] {
            let (mut dw, mut db) = (one(0.0), one(0.0));
            let all = Channels { samples, channels: 1, plane };
            all.sums(&x, &dy, normal, Some(&mut dw), Some(&mut db));
            for sum in [dw[0], db[0]] {
                assert!((f64::from(sum) - expected).abs() <= 1e-6 * expected, "{samples} {plane}: {sum}");
            }
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let x: Vec<f32> = numbers(37 * 50, 3).iter().map(|&x| x as f32).collect();
        let run = |level| {
            let [mut mean, mut rest, mut scale] = [0; 3].map(|_| vec![0.0; 50]);
            let mut y = vec![0.0; x.len()];
            let normal = Normal { mean: &mut mean[..], rest: &mut rest[..], scale: &mut scale[..] };
            let (weight, bias) = (&[][..], &[][..]);
            at_level(level, || layer_forward_rows(&x, 37, EPSILON, weight, bias, normal, &mut y)).map(|()| y)
        };
        let expected = run("baseline");
        for level in ["avx2", "avx512"] {
            let got = run(level);
            assert!(got.is_none() || got == expected, "{level}");
        }
    }
}
