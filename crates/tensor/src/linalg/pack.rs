//! Packing: panels of A and B in the order in which the microkernel reads them.

use crate::linalg::product::{Form, range_by, unrolled};
use crate::scalar::Scalar;
use crate::simd::vector::{Quad, Register, Vector};
use crate::simd::{self, Kernel, Simd};

/// Elements of a panel that are packed at once: 32 KB in single precision. They stay in the first-level cache
/// while their columns are written, four at a time.
const AT_ONCE: usize = 8192;

/// Copies columns of a row-major matrix whose rows are `n` elements apart into panels of `depth` rows, row
/// after row. Panel q begins at column `start(q)`, and the last one has `width` columns. Sums of
/// columns beside a panel's own are never stored.
#[inline(always)]
pub(super) fn pack<T: Scalar, S: Simd, const W: usize>(
    b: &[T],
    n: usize,
    start: impl Fn(usize) -> usize,
    width: usize,
    panels: &mut [[T; W]],
    depth: usize,
) {
    let (count, mut done) = (panels.len() / depth, 0);
    while done < count {
        let rest = &mut panels[done * depth..];
        let starts = std::array::from_fn(|q| start(done + q));
        if count - done >= 4 && pack_four(b, n, starts, rest, depth) {
            done += 4;
            continue;
        }
        let b = &b[start(done)..];
        let width = if done + 1 == count { width } else { W };
        for (p, panel) in rest[..depth].iter_mut().enumerate() {
            let b = &b[p * n..];
            if let Some(b) = b.first_chunk() {
                *panel = *b;
            } else {
                for j in range_by(0, width, 4) {
                    T::Quad::<S>::load_at_most(&b[j..]).store(&mut panel[j..]);
                }
            }
        }
        done += 1;
    }
}

/// Four panels at once, unless the last one would end behind the matrix. Where rows lie pages apart, each is
/// a page of its own: elements side by side in it are read together.
#[inline(always)]
fn pack_four<T: Scalar, const W: usize>(
    b: &[T],
    n: usize,
    starts: [usize; 4],
    panels: &mut [[T; W]],
    depth: usize,
) -> bool {
    let end = starts[3] + W;
    if (depth - 1) * n + end > b.len() {
        return false;
    }
    let (x0, rest) = panels.split_at_mut(depth);
    let (x1, rest) = rest.split_at_mut(depth);
    let (x2, x3) = rest.split_at_mut(depth);
    let places = x0.iter_mut().zip(x1).zip(x2.iter_mut().zip(x3));
    for (p, ((x0, x1), (x2, x3))) in places.enumerate() {
        let row = &b[p * n..][..end];
        x0.copy_from_slice(&row[starts[0]..][..W]);
        x1.copy_from_slice(&row[starts[1]..][..W]);
        x2.copy_from_slice(&row[starts[2]..][..W]);
        x3.copy_from_slice(&row[starts[3]..][..W]);
    }
    true
}

/// The same for a matrix whose transpose is stored: `width` rows, `k` elements apart, become columns. With
/// several accumulators the rows of the panel are sorted by accumulator.
#[inline(always)]
pub(super) fn pack_transposed<T: Scalar, S: Simd, const W: usize>(
    form: Form,
    b: &[T],
    k: usize,
    width: usize,
    panel: &mut [[T; W]],
) {
    let terms = panel.len();
    if form.accumulators(terms) > 1 {
        return simd::run_within(
            32,
            PackByAccumulator {
                form,
                b,
                k,
                columns: width,
                terms,
                panel: panel.as_flattened_mut(),
                width: W,
            },
        );
    }
    for j in range_by(0, width, 4) {
        // With fewer than four left, the last one is copied again: such columns are never stored.
        let rows: [&[T]; 4] = std::array::from_fn(|i| &b[(j + i).min(width - 1) * k..][..terms]);
        let [(b0, rest0), (b1, rest1), (b2, rest2), (b3, rest3)] = rows.map(|row| row.as_chunks::<4>());
        let (groups, last) = panel.as_chunks_mut::<4>();
        for (group, ((b0, b1), (b2, b3))) in groups.iter_mut().zip(b0.iter().zip(b1).zip(b2.iter().zip(b3))) {
            let columns = transposed::<T, S>([b0, b1, b2, b3]);
            unrolled!(i < 4 => { columns[i].store(&mut group[i][j..]); });
        }
        for (i, last) in last.iter_mut().enumerate() {
            last[j..][..4].copy_from_slice(&[rest0[i], rest1[i], rest2[i], rest3[i]]);
        }
    }
}

/// Rows that become the first `columns` of a panel of `terms` rows of length `width`, sorted by accumulator.
/// A kernel of its own is compiled once for A and B, and not for AVX-512, which it doesn't need.
struct PackByAccumulator<'a, T> {
    form: Form,
    b: &'a [T],
    k: usize,
    columns: usize,
    terms: usize,
    panel: &'a mut [T],
    width: usize,
}

impl<T: Scalar> Kernel for PackByAccumulator<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { form, b, k, columns: count, terms, panel, width } = self;
        let accumulators = form.accumulators(terms);
        let (shift, rest) = (accumulators.ilog2(), terms & (accumulators - 1));
        // Where the terms of an accumulator begin.
        let start = |accumulator: usize| accumulator * (terms >> shift) + accumulator.min(rest);
        for from in range_by(0, terms, AT_ONCE / width) {
            let until = terms.min(from + AT_ONCE / width);
            // Four accumulators at a time: quads of terms of four rows, `step` quads apart.
            let step = accumulators / 4;
            for first in 0..step.min((until - from) / 4) {
                let accumulator = |i: usize| {
                    let accumulator = 4 * first + i;
                    (start(accumulator) + (from >> shift)) * width..start(accumulator + 1) * width
                };
                let four =
                    panel.get_disjoint_mut([accumulator(0), accumulator(1), accumulator(2), accumulator(3)]);
                let Ok([l0, l1, l2, l3]) = four else { unreachable!("accumulators follow each other") };
                for j in range_by(0, count, 4) {
                    // With fewer than four left, the last one is copied again: such columns are never stored.
                    let [b0, b1, b2, b3]: [&[[T; 4]]; 4] = std::array::from_fn(|i| {
                        let row = (j + i).min(count - 1) * k;
                        b[row + from + 4 * first..row + until].as_chunks().0
                    });
                    let (l0, l1) = (l0.chunks_exact_mut(width), l1.chunks_exact_mut(width));
                    let (l2, l3) = (l2.chunks_exact_mut(width), l3.chunks_exact_mut(width));
                    let places = l0.zip(l1).zip(l2.zip(l3));
                    // Two loops: one with a variable step is slower.
                    if step == 1 {
                        let quads = b0.iter().zip(b1).zip(b2.iter().zip(b3));
                        for (((l0, l1), (l2, l3)), ((b0, b1), (b2, b3))) in places.zip(quads) {
                            let columns = transposed::<T, S>([b0, b1, b2, b3]);
                            columns[0].store(&mut l0[j..]);
                            columns[1].store(&mut l1[j..]);
                            columns[2].store(&mut l2[j..]);
                            columns[3].store(&mut l3[j..]);
                        }
                    } else {
                        let pairs = b0.chunks(2).zip(b1.chunks(2)).zip(b2.chunks(2).zip(b3.chunks(2)));
                        for (((l0, l1), (l2, l3)), ((b0, b1), (b2, b3))) in places.zip(pairs) {
                            let columns = transposed::<T, S>([&b0[0], &b1[0], &b2[0], &b3[0]]);
                            columns[0].store(&mut l0[j..]);
                            columns[1].store(&mut l1[j..]);
                            columns[2].store(&mut l2[j..]);
                            columns[3].store(&mut l3[j..]);
                        }
                    }
                }
            }
        }
        // The terms behind the last quad.
        for p in terms / 4 * 4..terms {
            let place = (start(p & (accumulators - 1)) + (p >> shift)) * width;
            for (j, x) in panel[place..][..count].iter_mut().enumerate() {
                *x = b[j * k + p];
            }
        }
    }
}

#[inline(always)]
fn transposed<T: Scalar, S: Simd>([b0, b1, b2, b3]: [&[T; 4]; 4]) -> [T::Quad<S>; 4] {
    T::Quad::<S>::transpose([
        T::Quad::<S>::load(b0),
        T::Quad::<S>::load(b1),
        T::Quad::<S>::load(b2),
        T::Quad::<S>::load(b3),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Term p goes to accumulator p % accumulators, and accumulators follow each other.
    #[test]
    fn terms_are_sorted_by_lane() {
        let k = 1024;
        let b: Vec<f32> = (0..9 * k).map(|i| i as f32).collect();
        for terms in [65, 66, 67, 300, 511, 512, 513, 516, 519, 1023, 1024] {
            let accumulators = Form::Nt.accumulators(terms);
            let places: Vec<usize> = (0..accumulators)
                .flat_map(|accumulator| (accumulator..terms).step_by(accumulators))
                .collect();
            for (columns, width) in [(1, 8), (6, 8), (9, 16), (8, 32)] {
                for level in ["baseline", "avx2", "avx512"] {
                    let mut panel = vec![f32::NAN; terms * width];
                    let kernel = PackByAccumulator {
                        form: Form::Nt,
                        b: &b,
                        k,
                        columns,
                        terms,
                        panel: &mut panel,
                        width,
                    };
                    if simd::run_at(level, kernel).is_some() {
                        for (row, &p) in panel.chunks(width).zip(&places) {
                            for (j, &x) in row[..columns].iter().enumerate() {
                                assert_eq!(x, b[j * k + p], "{terms} terms, column {j}, term {p}, {level}");
                            }
                        }
                    }
                }
            }
        }
    }
}
