//! The microkernel: a tile of C, whose accumulators stay in vector registers.

use crate::linalg::product::{Form, Initial, LOW, range_by, unrolled};
use crate::scalar::Scalar;
use crate::simd::Simd;
use crate::simd::vector::{Register, Vector};

/// Rows of A for one row of tiles, packed or in place: term p of row i is `elements[i * row + p * term]`.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, T> {
    pub(super) form: Form,
    pub(super) elements: &'a [T],
    pub(super) row: usize,
    pub(super) term: usize,
    /// Whether the terms are sorted by accumulator.
    pub(super) sorted: bool,
    /// 0, which the compiler doesn't know: it would unroll the loop over eight accumulators.
    pub(super) zero: usize,
}

/// Rows of A and a packed block of B, of `depth` terms: their tiles are side by side in C, from column j on.
pub(super) struct Tiles<'a, T, const NR: usize> {
    pub(super) a: Strided<'a, T>,
    pub(super) depth: usize,
    pub(super) panels: &'a [[T; NR]],
    /// From the start of one panel to the next.
    pub(super) next: usize,
    pub(super) initial: Initial<'a, T>,
    pub(super) n: usize,
    pub(super) ldc: usize,
    pub(super) j: usize,
    pub(super) nc: usize,
}

impl<T: Scalar, const NR: usize> Tiles<'_, T, NR> {
    #[inline(always)]
    pub(super) fn compute<S: Simd, const MR: usize, const AW: usize>(
        self,
        height: usize,
        c: &mut [T],
        edge: &mut [[T; NR]; AW],
    ) {
        let Self { a, depth, panels, next, initial, n, ldc, j, nc } = self;
        let mut at = 0;
        for j in range_by(j, j + nc, NR) {
            let panel = &panels[at..at + depth];
            at += next;
            let width = NR.min(n - j);
            let kc = a.form.block();
            for (p, b) in range_by(0, depth, kc).zip(panel.chunks(kc)) {
                let a = Strided { elements: &a.elements[p * a.term..], ..a };
                let initial = if p == 0 { initial } else { Initial::Beta(T::ONE) };
                let whole = width == NR && height >= LOW;
                let place = whole.then_some((&mut *c, initial, ldc, j));
                match height {
                    ..=LOW => tile::<T, S, LOW, NR>(a, b, width, place, edge),
                    5 if MR >= 5 => tile::<T, S, 5, NR>(a, b, width, place, edge),
                    6 if MR >= 6 => tile::<T, S, 6, NR>(a, b, width, place, edge),
                    7 if MR >= 7 => tile::<T, S, 7, NR>(a, b, width, place, edge),
                    8 if MR >= 8 => tile::<T, S, 8, NR>(a, b, width, place, edge),
                    _ => unreachable!("no tile has more than {MR} rows"),
                }
                if !whole {
                    write_edge::<T, S, NR>(&edge[..height], initial, c, width, ldc, j);
                }
            }
        }
    }
}

/// The place of a tile: C from the tile's first row on, the initial value, the stride of C, and the tile's
/// first column.
type Place<'a, 'b, T> = (&'a mut [T], Initial<'b, T>, usize, usize);

/// Computes a tile of MR rows and `width` columns, to its place in C, or without one, into `edge`.
#[inline(always)]
fn tile<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    a: Strided<'_, T>,
    b: &[[T; NR]],
    width: usize,
    place: Option<Place<'_, '_, T>>,
    edge: &mut [[T; NR]],
) {
    let len = T::Register::<S>::LEN;
    // No closures here: one that isn't inlined would be compiled without vector instructions.
    if width > len {
        let sums = sums::<T, S, MR, NR, 2>(a, b);
        if let Some((c, initial, ldc, j)) = place {
            write_tile::<T, S, MR, NR>(&sums, initial, c, ldc, j);
        } else {
            unrolled!(i < MR => {
                sums[i][0].store(&mut edge[i]);
                sums[i][1].store(&mut edge[i][len..]);
            });
        }
    } else {
        let sums = sums::<T, S, MR, NR, 1>(a, b);
        unrolled!(i < MR => { sums[i][0].store(&mut edge[i]); });
    }
}

/// MR × V registers of sums: MR rows of A times a packed panel of B.
#[inline(always)]
fn sums<T: Scalar, S: Simd, const MR: usize, const NR: usize, const V: usize>(
    a: Strided<'_, T>,
    b: &[[T; NR]],
) -> [[T::Register<S>; V]; MR] {
    let terms = b.len();
    let zero = T::Register::<S>::splat(T::ZERO);
    // The last element that is read below: with this check all reads are within bounds.
    let _ = a.elements[(MR - 1) * a.row + terms.saturating_sub(1) * a.term];
    let accumulators = a.form.accumulators(terms) + a.zero;
    let (full, rest) = (terms >> accumulators.ilog2(), terms & (accumulators - 1));
    let len = |accumulator: usize| full + usize::from(accumulator < rest);
    let mut done = len(0);
    let mut sums = accumulate::<T, S, MR, NR, V>(a, 0, accumulators, &b[..done]);
    // All kernels begin their sums at 0, so −0 becomes 0.
    unrolled!(i < MR => {
        for sum in &mut sums[i] {
            *sum = zero.plus(*sum);
        }
    });
    for l in 1..accumulators {
        let next = done + len(l);
        let first = if a.sorted { done } else { l };
        let acc = accumulate::<T, S, MR, NR, V>(a, first, accumulators, &b[done..next]);
        unrolled!(i < MR => {
            for v in 0..V {
                sums[i][v] = sums[i][v].plus(acc[i][v]);
            }
        });
        done = next;
    }
    sums
}

/// The sums of one accumulator, whose first term has the number `first`.
#[inline(always)]
fn accumulate<T: Scalar, S: Simd, const MR: usize, const NR: usize, const V: usize>(
    a: Strided<'_, T>,
    first: usize,
    accumulators: usize,
    b: &[[T; NR]],
) -> [[T::Register<S>; V]; MR] {
    let zero = T::Register::<S>::splat(T::ZERO);
    let (mut at, step) = (first * a.term, if a.sorted { 1 } else { accumulators } * a.term);
    let mut acc = [[zero; V]; MR];
    for b in b {
        let mut columns = [zero; V];
        for v in 0..V {
            columns[v] = T::Register::<S>::load(&b[v * T::Register::<S>::LEN..]);
        }
        unrolled!(i < MR => {
            // SAFETY: i < MR, and `at` is one of the terms times a.term, so this is not behind the element
            // that `sums` has read. Price of a check: `cargo bench --bench tensor -- matmul` takes up to 1.3
            // times as long.
            #[expect(unsafe_code, reason = "the compiler doesn't see what the check in `sums` says")]
            let a = T::Register::<S>::splat(unsafe { *a.elements.get_unchecked(at + i * a.row) });
            for v in 0..V {
                acc[i][v] = a.mul_add(columns[v], acc[i][v]);
            }
        });
        at += step;
    }
    acc
}

/// The same for a whole tile.
#[inline(always)]
fn write_tile<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    sums: &[[T::Register<S>; 2]; MR],
    initial: Initial<'_, T>,
    c: &mut [T],
    ldc: usize,
    j: usize,
) {
    let len = T::Register::<S>::LEN;
    match initial {
        Initial::Zero => {
            unrolled!(i < MR => {
                let c = &mut c[i * ldc + j..][..NR];
                sums[i][0].store(c);
                sums[i][1].store(&mut c[len..]);
            });
        }
        Initial::Bias(row) => {
            let row = &row[j..][..NR];
            let row = [T::Register::<S>::load(row), T::Register::<S>::load(&row[len..])];
            unrolled!(i < MR => {
                let c = &mut c[i * ldc + j..][..NR];
                sums[i][0].plus(row[0]).store(c);
                sums[i][1].plus(row[1]).store(&mut c[len..]);
            });
        }
        Initial::Beta(beta) => {
            let beta = T::Register::<S>::splat(beta);
            unrolled!(i < MR => {
                let c = &mut c[i * ldc + j..][..NR];
                beta.mul_add(T::Register::<S>::load(c), sums[i][0]).store(c);
                beta.mul_add(T::Register::<S>::load(&c[len..]), sums[i][1]).store(&mut c[len..]);
            });
        }
    }
}

/// The same for rows of a tile that is wider than the rest of C: register by register from the top to the
/// bottom.
#[inline(always)]
fn write_edge<T: Scalar, S: Simd, const NR: usize>(
    rows: &[[T; NR]],
    initial: Initial<'_, T>,
    c: &mut [T],
    columns: usize,
    ldc: usize,
    j: usize,
) {
    let len = T::Register::<S>::LEN;
    for v in range_by(0, columns, len) {
        let (j, width) = (j + v, len.min(columns - v));
        let places = rows.iter().zip(c.chunks_mut(ldc));
        if width == len {
            for (row, c) in places {
                write(T::Register::<S>::load(&row[v..]), initial, &mut c[j..][..len], j);
            }
        } else {
            for (row, c) in places {
                write(T::Register::<S>::load(&row[v..]), initial, &mut c[j..][..width], j);
            }
        }
    }
}

/// c = sum + initial for a register's columns, of which the first is column j, or as many of them as `c` has.
#[inline(always)]
pub(super) fn write<T: Scalar, R: Register<T>>(sum: R, initial: Initial<'_, T>, c: &mut [T], j: usize) {
    let sum = match initial {
        Initial::Zero => sum,
        Initial::Bias(row) => sum.plus(R::load_at_most(&row[j..][..c.len()])),
        Initial::Beta(beta) => R::splat(beta).mul_add(R::load_at_most(c), sum),
    };
    if c.len() == R::LEN { sum.store(c) } else { sum.store_part(c) }
}

/// c = sum + initial for single elements, of which the first is in column j.
#[inline(always)]
pub(super) fn write_elements<T: Scalar, S: Simd>(sums: &[T], initial: Initial<'_, T>, c: &mut [T], j: usize) {
    let pairs = c.iter_mut().zip(sums);
    match initial {
        Initial::Zero => {
            for (c, &sum) in pairs {
                *c = sum;
            }
        }
        Initial::Bias(row) => {
            for ((c, &sum), &initial) in pairs.zip(&row[j..]) {
                *c = sum + initial;
            }
        }
        Initial::Beta(beta) => {
            for (c, &sum) in pairs {
                *c = S::mul_add(beta, *c, sum);
            }
        }
    }
}
