//! The sum of many products.

use crate::error::TensorError;
use crate::in_default_mode;
use crate::linalg::groups::add_group;
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::matmul;
use crate::linalg::product::{GROUP, KC};
use crate::scalar::Scalar;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// C ← β C + Σ Aᵢ·Bᵢ for any number of products, such as those of the samples of a batch. The error doesn't
/// grow with their number: it is as large as that of a single product.
///
/// ```
/// use backrule_tensor::Tensor;
/// use backrule_tensor::linalg::{MatMut, MatRef, SumOfProducts};
///
/// // 1 + 2⁻²⁴ + 2⁻²⁴ + …: beside 1, each alone is lost.
/// let (one, small) = ([1.0_f32], [0.5_f32.powi(24)]);
/// let (mut c, mut room) = ([1.0], Tensor::default());
/// let mut sum = SumOfProducts::new(1.0, MatMut::new(&mut c, [1, 1])?, &mut room);
/// for _ in 0..1_000_000 {
///     sum.add(MatRef::new(&one, [1, 1])?, MatRef::new(&small, [1, 1])?)?;
/// }
/// sum.finish();
/// let exact = 1.0 + 1e6 * 0.5_f32.powi(24);
/// assert!((c[0] - exact).abs() <= 260.0 * f32::EPSILON * exact);
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
#[derive(Debug)]
#[must_use = "C lacks a part of the sum until `finish`"]
pub struct SumOfProducts<'a, T: Scalar> {
    beta: T,
    c: MatMut<'a, T>,
    /// `[2, rows, columns]`, once there is a second group: the rest of C, and the sum of the open group.
    room: &'a mut Tensor<T>,
    in_room: bool,
    products: usize,
    blocks: usize,
    terms: usize,
}

impl<'a, T: Scalar> SumOfProducts<'a, T> {
    /// A sum without a product yet. `room` takes the memory for sums of many products: it may hold anything,
    /// and is worth keeping from call to call.
    pub fn new(beta: T, c: MatMut<'a, T>, room: &'a mut Tensor<T>) -> Self {
        Self { beta, c, room, in_room: false, products: 0, blocks: 0, terms: 0 }
    }

    /// Adds A·B.
    ///
    /// # Errors
    /// As [`matmul`]. The sum is as it was then.
    pub fn add(&mut self, a: MatRef<'_, T>, b: MatRef<'_, T>) -> Result<(), TensorError> {
        in_default_mode!(Self::add(self, a, b));
        let [_, terms] = a.shape();
        let blocks = terms.div_ceil(KC);
        // As long as one block, or as few blocks as a group may have.
        if self.terms + terms > KC && self.blocks + blocks > GROUP && self.products > 0 {
            self.end_of_group()?;
        }
        if self.in_room {
            let beta = if self.products == 0 { T::ZERO } else { T::ONE };
            let [_, part] = halves(self.room);
            matmul(a, b, beta, MatMut::new(part, self.c.shape())?)?;
        } else {
            matmul(a, b, self.beta, self.c.reborrow())?;
            self.beta = T::ONE;
        }
        self.products += 1;
        self.blocks += blocks;
        self.terms += terms;
        Ok(())
    }

    fn end_of_group(&mut self) -> Result<(), TensorError> {
        let [rows, columns] = self.c.shape();
        if self.in_room {
            self.add_room();
        } else {
            self.room.resize(Shape::new(&[2, rows, columns])?)?;
            let [low, _] = halves(self.room);
            low.fill(T::ZERO);
            self.in_room = true;
        }
        (self.products, self.blocks, self.terms) = (0, 0, 0);
        Ok(())
    }

    fn add_room(&mut self) {
        let (stride, [_, columns]) = (self.c.row_stride(), self.c.shape());
        let [low, part] = halves(self.room);
        if columns > 0 {
            add_group(self.c.reborrow().into_elements(), stride, low, part, columns);
        }
    }

    /// Ends the sum: C has all of it. Without a product C is β C.
    pub fn finish(mut self) {
        in_default_mode!(Self::finish(self));
        if self.in_room {
            if self.products > 0 {
                self.add_room();
            }
        } else if self.beta != T::ONE {
            for i in 0..self.c.shape()[0] {
                // 0·NaN is 0.
                match self.c.row_mut(i) {
                    c if self.beta == T::ZERO => c.fill(T::ZERO),
                    c => c.iter_mut().for_each(|c| *c = self.beta * *c),
                }
            }
        }
    }
}

fn halves<T: Scalar>(room: &mut Tensor<T>) -> [&mut [T]; 2] {
    let elements = room.as_mut_slice();
    let (low, part) = elements.split_at_mut(elements.len() / 2);
    [low, part]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ aᵢ bᵢ in products of `terms` terms, for one element of a C with a gap between its rows, and its
    /// error in units of ε Σ|a b|.
    fn error(terms: usize, products: usize, a: impl Fn(usize) -> f32, room: &mut Tensor) -> f64 {
        let b = vec![0.7_f32; 3 * terms];
        let mut c = [f32::NAN, f32::NAN, f32::NAN, 7.0, f32::NAN, f32::NAN, f32::NAN];
        let c_of = |c| MatMut::new(c, [2, 3]).unwrap().with_row_stride(4).unwrap();
        let mut sum = SumOfProducts::new(0.0, c_of(&mut c), room);
        let (mut exact, mut absolute) = (0.0, 0.0);
        for i in 0..products {
            let x: Vec<f32> = (i * terms..(i + 1) * terms).map(&a).collect();
            for x in &x {
                let term = f64::from(*x) * f64::from(0.7_f32);
                exact += term;
                absolute += term.abs();
            }
            let two = [&x[..], &x[..]].concat();
            let (a, b) = (MatRef::new(&two, [2, terms]).unwrap(), MatRef::new(&b, [terms, 3]).unwrap());
            sum.add(a, b).unwrap();
        }
        sum.finish();
        assert_eq!(c[3], 7.0);
        let elements = [c[0], c[1], c[2], c[4], c[5], c[6]];
        assert_eq!(elements, [c[0]; 6]);
        (f64::from(c[0]) - exact).abs() / (f64::from(f32::EPSILON) * absolute)
    }

    #[test]
    fn the_error_does_not_grow_with_the_number_of_products() {
        // The contents of the room are of no concern.
        let mut room = Tensor::full([9, 9, 9], 1e6).unwrap();
        let bound = KC as f64 / 2.0 + 4.0;
        for (terms, products) in [(1, 200_000), (1, 1), (7, 50_000), (100, 20), (600, 1000), (9000, 20)] {
            let kinds: [(&str, &dyn Fn(usize) -> f32); 3] = [
                ("equal", &|_| 0.1),
                ("one large", &|i| if i == terms * products / 3 { 1e6 } else { 0.1 }),
                ("alternating", &|i| if i % 2 == 0 { 0.7 } else { -0.1 }),
            ];
            for (kind, a) in kinds {
                let error = error(terms, products, a, &mut room);
                assert!(error <= bound, "{products} products of {terms} terms, {kind}: {error} ε");
            }
        }
    }

    #[test]
    fn few_products_have_the_bits_of_matmul_and_take_no_room() {
        let (a, b) = ([0.1_f32, 0.7, 0.3, 0.9], [1.1, 0.2, 0.6, 0.4]);
        let mat = |x| MatRef::new(x, [2, 2]).unwrap();
        for beta in [0.0, 1.0, 0.3] {
            let (mut c, mut expected, mut room) = ([0.5; 4], [0.5; 4], Tensor::default());
            let before = room.shape();
            let mut sum = SumOfProducts::new(beta, MatMut::new(&mut c, [2, 2]).unwrap(), &mut room);
            for beta in [beta, 1.0, 1.0] {
                sum.add(mat(&a), mat(&b).t()).unwrap();
                matmul(mat(&a), mat(&b).t(), beta, MatMut::new(&mut expected, [2, 2]).unwrap()).unwrap();
            }
            // One that doesn't fit changes nothing.
            assert!(sum.add(mat(&a), MatRef::new(&b, [1, 4]).unwrap()).is_err());
            sum.finish();
            assert_eq!(c, expected);
            assert_eq!(room.shape(), before);
        }
    }

    #[test]
    fn a_sum_without_a_product_is_what_was_there() {
        for (beta, expected) in [(0.0, [0.0; 2]), (1.0, [f32::NAN; 2]), (2.0, [f32::NAN; 2])] {
            let (mut c, mut room) = ([f32::NAN; 2], Tensor::default());
            SumOfProducts::new(beta, MatMut::new(&mut c, [1, 2]).unwrap(), &mut room).finish();
            assert_eq!(c.map(f32::to_bits), expected.map(f32::to_bits), "β = {beta}");
        }
    }
}
