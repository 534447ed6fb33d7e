//! Windows that move over images, and the matrix of their elements: a convolution is a product with it.

use std::ops::Range;

use crate::kernels::sum::{Pairwise, Sum};
use crate::kernels::twofold;
use crate::scalar::Scalar;
use crate::simd::{self, kernel};

/// A window along one axis. Position o of the window has tap t at element o · stride + t · dilation − padding
/// of the axis.
///
/// ```
/// use backrule_tensor::kernels::im2col::Window;
///
/// let window = Window { kernel: 3, stride: 2, padding: 1, dilation: 1 };
/// assert_eq!(window.positions(5), Some(3)); // elements (−1) 0 1, 1 2 3, 3 4 (5)
/// assert_eq!(window.taps(0, 5), 1..3);
/// assert_eq!(window.element(0, 1), 0);
/// assert_eq!(window.positions_of(2, 5, 3), 0..2); // tap 2 is element 1, 3, (5)
/// assert_eq!(window.overlap(3), 2); // element 1 is tap 2, and then tap 0
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps: at least 1.
    pub kernel: usize,
    /// Elements from one position to the next: at least 1.
    pub stride: usize,
    /// Elements that are thought before the axis, and behind it.
    pub padding: usize,
    /// Elements from one tap to the next: at least 1.
    pub dilation: usize,
}

impl Window {
    /// The elements from the first to the last tap: (kernel − 1) · dilation + 1. `None`: more than can be
    /// counted.
    pub fn reach(self) -> Option<usize> {
        self.kernel.checked_sub(1)?.checked_mul(self.dilation)?.checked_add(1)
    }

    /// The number of positions on an axis of `size`: ⌊(size + 2 padding − reach) / stride⌋ + 1. `None`: not
    /// even one.
    pub fn positions(self, size: usize) -> Option<usize> {
        let padded = self.padding.checked_mul(2)?.checked_add(size)?;
        (padded.checked_sub(self.reach()?)? / self.stride).checked_add(1)
    }

    /// The taps that are on an axis of `size` when the window is at `position`: without those in the padding.
    pub fn taps(self, position: usize, size: usize) -> Range<usize> {
        let start = position * self.stride;
        let first = self.padding.saturating_sub(start).div_ceil(self.dilation);
        let end = (size + self.padding).saturating_sub(start).div_ceil(self.dilation);
        within(first, end, self.kernel)
    }

    /// The positions of `positions` at which `tap` is on an axis of `size`.
    pub fn positions_of(self, tap: usize, size: usize, positions: usize) -> Range<usize> {
        let offset = tap * self.dilation;
        let first = self.padding.saturating_sub(offset).div_ceil(self.stride);
        let end = (size + self.padding).saturating_sub(offset).div_ceil(self.stride);
        within(first, end, positions)
    }

    /// How many of `positions` see an element, at most: the taps whose distance is one of positions.
    pub fn overlap(self, positions: usize) -> usize {
        let (mut a, mut b) = (self.stride, self.dilation);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        self.kernel.div_ceil(self.stride / a.max(1)).min(positions)
    }

    /// The element at which `tap` is at `position`, which isn't in the padding.
    pub fn element(self, position: usize, tap: usize) -> usize {
        position * self.stride + tap * self.dilation - self.padding
    }
}

/// The numbers from `first` to below `end` that are less than `len`.
fn within(first: usize, end: usize, len: usize) -> Range<usize> {
    let end = end.min(len);
    first.min(end)..end
}

/// A window that moves over the planes of an image: along their rows, and along their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Down and across.
    pub window: [Window; 2],
    /// The plane: height and width.
    pub size: [usize; 2],
    /// Positions of the window, down and across.
    pub positions: [usize; 2],
}

impl Windows {
    /// Calls `f` for each row of the matrix of [`im2col`] and each position down: with the start of that run
    /// in the matrix, the positions across whose tap is in the plane, and the first of those elements.
    /// Without any: an empty range.
    #[inline(always)]
    fn runs(&self, mut f: impl FnMut(usize, Range<usize>, usize)) {
        let ([down, across], [height, width], [rows, columns]) = (self.window, self.size, self.positions);
        let mut start = 0;
        for i in 0..down.kernel {
            let inside = down.positions_of(i, height, rows);
            for j in 0..across.kernel {
                let run = across.positions_of(j, width, columns);
                for row in 0..rows {
                    if inside.contains(&row) && !run.is_empty() {
                        let first = down.element(row, i) * width + across.element(run.start, j);
                        f(start, run.clone(), first);
                    } else {
                        f(start, 0..0, 0);
                    }
                    start += columns;
                }
            }
        }
    }

    /// The elements of [`col2im`]'s notes: none as long as few windows see an element.
    pub fn room(&self) -> usize {
        let overlap = self.window.iter().zip(self.positions).map(|(window, n)| window.overlap(n));
        if overlap.fold(1, usize::saturating_mul) <= twofold::FEW { 0 } else { self.sizes()[0] }
    }

    /// Elements of a plane, and of the rows of the matrix that belong to it.
    fn sizes(&self) -> [usize; 2] {
        let rows: usize = self.window.iter().map(|window| window.kernel).product();
        [self.size.iter().product(), rows * self.positions.iter().product::<usize>()]
    }
}

/// The matrix `[channels · kernel, positions]` of an image `[channels, height, width]`: its columns are
/// the window's elements, position by position, with 0 in the padding.
///
/// ```
/// use backrule_tensor::kernels::im2col::{Window, Windows, im2col};
///
/// let pair = Window { kernel: 2, stride: 1, padding: 0, dilation: 1 };
/// let windows = Windows { window: [pair; 2], size: [2, 3], positions: [1, 2] };
/// let mut columns = [0.0; 8];
/// im2col(&windows, &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &mut columns);
/// // Columns 1 2 4 5 and 2 3 5 6.
/// assert_eq!(columns, [1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0]);
/// ```
pub fn im2col<T: Scalar>(windows: &Windows, x: &[T], columns: &mut [T]) {
    let [plane, part] = windows.sizes();
    if plane == 0 {
        return columns.fill(T::ZERO);
    }
    let (stride, width) = (windows.window[1].stride, windows.positions[1]);
    for (x, columns) in x.chunks_exact(plane).zip(columns.chunks_exact_mut(part.max(1))) {
        windows.runs(|start, run, first| {
            let row = &mut columns[start..start + width];
            row[..run.start].fill(T::ZERO);
            row[run.end..].fill(T::ZERO);
            let row = &mut row[run];
            if stride == 1 {
                row.copy_from_slice(&x[first..first + row.len()]);
            } else {
                row.iter_mut().zip(x[first..].iter().step_by(stride)).for_each(|(row, &x)| *row = x);
            }
        });
    }
}

kernel!(
    /// The elements of the matrix of [`im2col`], added to where they came from: the transpose of that map.
    /// Each element of dx is the sum for the windows that see it.
    ///
    /// `low` has [`Windows::room`] elements and may hold anything: it takes the rest of each sum of a plane,
    /// if they are so long that it counts.
    ///
    /// ```
    /// use backrule_tensor::kernels::im2col::{Window, Windows, col2im};
    ///
    /// let pair = Window { kernel: 2, stride: 1, padding: 0, dilation: 1 };
    /// let windows = Windows { window: [pair; 2], size: [2, 3], positions: [1, 2] };
    /// let mut dx = [f32::NAN; 6];
    /// col2im(&windows, &[1.0; 8], &mut dx, &mut []);
    /// assert_eq!(dx, [1.0, 2.0, 1.0, 1.0, 2.0, 1.0]); // in how many windows each element is
    /// ```
    pub fn col2im<T: Scalar>(windows: &Windows, columns: &[T], dx: &mut [T], low: &mut [T]) {
        let [plane, part] = windows.sizes();
        let stride = windows.window[1].stride;
        dx.fill(T::ZERO);
        for (dx, columns) in dx.chunks_exact_mut(plane.max(1)).zip(columns.chunks_exact(part.max(1))) {
            low.fill(T::ZERO);
            windows.runs(|start, run, first| {
                let row = &columns[start + run.start..start + run.end];
                let dx = dx[first..].iter_mut();
                let add = |(dx, &d): (&mut T, &T)| *dx += d;
                let add_twofold = |((dx, low), &d): ((&mut T, &mut T), &T)| twofold::add(dx, low, d);
                match (low.is_empty(), stride) {
                    (true, 1) => dx.zip(row).for_each(add),
                    (true, _) => dx.step_by(stride).zip(row).for_each(add),
                    (false, 1) => dx.zip(&mut low[first..]).zip(row).for_each(add_twofold),
                    (false, _) => dx.zip(&mut low[first..]).step_by(stride).zip(row).for_each(add_twofold),
                }
            });
        }
    }
);

/// Adds to db the sums of planes of `plane` elements, of images whose planes are as many as db is long: the
/// gradient of a bias of each channel.
///
/// ```
/// use backrule_tensor::kernels::im2col::add_sums_of_planes;
///
/// let mut db = [0.0_f32, 100.0];
/// // Two images of two planes.
/// add_sums_of_planes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 2, &mut db);
/// assert_eq!(db, [14.0, 122.0]); // 1 + 2 + 5 + 6, 100 + 3 + 4 + 7 + 8
/// ```
pub fn add_sums_of_planes<T: Scalar>(dy: &[T], plane: usize, db: &mut [T]) {
    if plane == 0 {
        return;
    }
    let planes = db.len().max(1);
    for (j, db) in db.iter_mut().enumerate() {
        let mut total = Pairwise::default();
        for plane in dy.chunks_exact(plane).skip(j).step_by(planes) {
            total.add(simd::run(Sum(plane)));
        }
        *db = T::from_f64(db.to_f64() + total.total());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each element's place in the plane by its definition, for many windows.
    #[test]
    fn columns_are_what_the_window_sees() {
        let mut seen = 0;
        for code in 0..2 * 3 * 4 * 3 * 6_usize {
            let [kernel, stride, padding, dilation, size] =
                [1 + code % 2, 1 + code / 2 % 3, code / 6 % 4, 1 + code / 24 % 3, 1 + code / 72];
            let down = Window { kernel, stride, padding, dilation };
            let across = Window { kernel: 3, stride, padding: 2, dilation: 1 };
            let size = [size, 4];
            let (Some(rows), Some(columns)) = (down.positions(size[0]), across.positions(size[1])) else {
                continue;
            };
            let windows = Windows { window: [down, across], size, positions: [rows, columns] };
            let x: Vec<f64> = (1..=2 * size[0] * size[1]).map(|x| x as f64).collect();
            let mut expected = Vec::new();
            let at = |window: Window, position: usize, tap: usize, size: usize| {
                (position * window.stride + tap * window.dilation)
                    .checked_sub(window.padding)
                    .filter(|&at| at < size)
            };
            let mut counts = vec![0.0; x.len()];
            for c in 0..2 {
                for (i, j) in (0..kernel).flat_map(|i| (0..3).map(move |j| (i, j))) {
                    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                        let place = at(down, row, i, size[0]).zip(at(across, column, j, size[1]));
                        let place = place.map(|(row, column)| (c * size[0] + row) * size[1] + column);
                        expected.push(place.map_or(0.0, |place| x[place]));
                        if let Some(place) = place {
                            counts[place] += 1.0;
                            assert!(down.taps(row, size[0]).contains(&i));
                            assert!(across.taps(column, size[1]).contains(&j));
                        } else {
                            let [i, j] = [
                                down.taps(row, size[0]).contains(&i),
                                across.taps(column, size[1]).contains(&j),
                            ];
                            assert!(!(i && j));
                        }
                    }
                }
            }
            let mut got = vec![f64::NAN; expected.len()];
            im2col(&windows, &x, &mut got);
            assert_eq!(got, expected, "{windows:?}");
            let most = [down.overlap(rows), across.overlap(columns)].iter().product::<usize>();
            let seen_by = counts.iter().fold(0.0, |most: f64, &count| most.max(count));
            assert!(seen_by <= most as f64, "{windows:?}");
            for room in [0, size[0] * size[1]] {
                let (mut sums, mut low) = (vec![f64::NAN; x.len()], vec![f64::NAN; room]);
                col2im(&windows, &vec![1.0; got.len()], &mut sums, &mut low);
                assert_eq!(sums, counts, "{windows:?}");
            }
            seen += 1;
        }
        assert!(seen > 200, "{seen}");
    }

    #[test]
    fn what_cannot_be_counted_has_no_position() {
        let window = Window { kernel: 2, stride: 1, padding: 0, dilation: 1 };
        assert_eq!(window.positions(1), None);
        assert_eq!(window.positions(2), Some(1));
        assert_eq!(Window { dilation: usize::MAX, ..window }.reach(), None);
        assert_eq!(Window { padding: usize::MAX, ..window }.positions(1), None);
        assert_eq!(Window { kernel: 0, ..window }.positions(1), None);
    }

    #[test]
    fn sums_of_planes_stay_exact() {
        let ones = vec![1.0_f32; 3 << 22];
        let mut db = [(1 << 24) as f32; 2];
        add_sums_of_planes(&ones, 2, &mut db);
        let each = (1 << 24) + (3 << 21);
        assert_eq!(db, [each as f32; 2]);
    }
}
