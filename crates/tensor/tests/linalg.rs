//! Matrices in slices: a result from slices has the bits of a result from copies.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use backrule_tensor::linalg::{
    Epilogue, MatMut, MatRef, add_to_rows, affine, log_softmax, matmul, softmax, sum_of_rows,
};
use backrule_tensor::{Scalar, ShapeError, Tensor, TensorError, affine_activation_into, apply, random};
use backrule_tensor::{matmul_into, matmul_nt_into, matmul_tn_into};

fn normal<T: Scalar>(shape: [usize; 2], seed: u64) -> Tensor<T> {
    Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap()
}

/// The matrix with `gap` elements of NaN before and behind each row, which no result may contain.
fn spread<T: Scalar>(x: &Tensor<T>, gap: usize) -> Vec<T> {
    let nan = vec![T::from_f64(f64::NAN); gap];
    x.rows().flat_map(|row| [&nan, row, &nan].concat()).collect()
}

fn view<T: Scalar>(data: &[T], shape: [usize; 2], gap: usize) -> MatRef<'_, T> {
    let gap = gap.min(data.len());
    MatRef::new(&data[gap..], shape).unwrap().with_row_stride(shape[1] + 2 * gap).unwrap()
}

fn view_mut<T: Scalar>(data: &mut [T], shape: [usize; 2], gap: usize) -> MatMut<'_, T> {
    let gap = gap.min(data.len());
    MatMut::new(&mut data[gap..], shape).unwrap().with_row_stride(shape[1] + 2 * gap).unwrap()
}

fn products_of_views<T: Scalar>() {
    let sizes = [
        [1, 1, 1],
        [2, 3, 1],
        [1, 9, 70],
        [3, 4, 5],
        [1, 300, 65],
        [5, 40, 1],
        [8, 13, 519],
        [9, 1, 3],
        [9, 33, 0],
        [1, 20, 30],
        [14, 260, 129],
        [33, 17, 1030],
        [200, 130, 90],
    ];
    for [m, n, k] in sizes {
        for gap in [1, 3] {
            for beta in [0.0, 1.0, -0.5].map(T::from_f64) {
                let c0 = normal::<T>([m, n], 9);
                let check = |form: &str, expected: &Tensor<T>, a: MatRef<'_, T>, b: MatRef<'_, T>| {
                    let mut c = spread(&c0, gap);
                    matmul(a, b, beta, view_mut(&mut c, [m, n], gap)).unwrap();
                    let whole = spread(expected, gap);
                    let same = c.iter().zip(&whole).all(|(c, e)| c == e || (c.is_nan() && e.is_nan()));
                    assert!(same, "{form} [{m}, {n}, {k}], gap {gap}, beta {beta}");
                };
                let (a, b) = (normal::<T>([m, k], 1), normal::<T>([k, n], 2));
                let mut expected = c0.clone();
                matmul_into(&a, &b, beta, &mut expected).unwrap();
                let (sa, sb) = (spread(&a, gap), spread(&b, gap));
                check("nn", &expected, view(&sa, [m, k], gap), view(&sb, [k, n], gap));
                check("nn of tensors", &expected, a.mat(), b.mat());

                let b = normal::<T>([n, k], 3);
                let mut expected = c0.clone();
                matmul_nt_into(&a, &b, beta, &mut expected).unwrap();
                let sb = spread(&b, gap);
                check("nt", &expected, view(&sa, [m, k], gap), view(&sb, [n, k], gap).t());

                let (a, b) = (normal::<T>([k, m], 4), normal::<T>([k, n], 5));
                let mut expected = c0.clone();
                matmul_tn_into(&a, &b, beta, &mut expected).unwrap();
                let (sa, sb) = (spread(&a, gap), spread(&b, gap));
                check("tn", &expected, view(&sa, [k, m], gap).t(), view(&sb, [k, n], gap));
            }
        }
    }
}

#[test]
fn products_of_views_have_the_bits_of_copies() {
    products_of_views::<f32>();
    products_of_views::<f64>();
}

#[test]
fn a_dense_layer_of_views_with_an_epilogue() {
    let slope = 0.25;
    let leaky = |y: &mut [f32]| apply(y, |y| if y < 0.0 { slope * y } else { y });
    for [rows, inputs, outputs] in
        [[1, 3, 2], [2, 70, 9], [40, 33, 65], [9, 1, 5], [7, 0, 4], [30, 20, 300], [20, 300, 1100]]
    {
        let (x, w, b) = (normal([rows, inputs], 1), normal([outputs, inputs], 2), normal([1, outputs], 3));
        let b = b.reshape([outputs]).unwrap();
        let mut expected = Tensor::default();
        affine_activation_into(&x, &w, Some(&b), Some(Epilogue::new(&leaky)), &mut expected).unwrap();
        let mut apart = x.matmul_nt(&w).unwrap();
        add_to_rows(b.as_slice(), apart.mat_mut()).unwrap();
        apart.apply(|y| if y < 0.0 { slope * y } else { y });
        let close = expected.as_slice().iter().zip(apart.as_slice()).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(close, "{rows} {inputs} {outputs}");
        let (sx, sw) = (spread(&x, 2), spread(&w, 1));
        let mut y = spread(&expected, 3);
        view_mut(&mut y, [rows, outputs], 3).row_mut(0).fill(f32::NAN);
        let (mx, mw) = (view(&sx, [rows, inputs], 2), view(&sw, [outputs, inputs], 1));
        let my = view_mut(&mut y, [rows, outputs], 3);
        affine(mx, mw, Some(b.as_slice()), Some(Epilogue::new(&leaky)), my).unwrap();
        let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&y), bits(&spread(&expected, 3)), "{rows} {inputs} {outputs}");
    }
}

#[test]
fn sums_and_softmax_of_views_have_the_bits_of_copies() {
    for [rows, columns] in [[1, 1], [5000, 1], [3, 7], [40, 16], [70, 17], [33, 100], [0, 4], [4, 0]] {
        let x = normal::<f32>([rows, columns], 1);
        let data = spread(&x, 2);
        let mat = view(&data, [rows, columns], 2);
        let (mut expected, mut db) = (Tensor::full([columns], 0.5).unwrap(), vec![0.5; columns]);
        expected.add_sum_of_rows(&x).unwrap();
        sum_of_rows(mat, 1.0, &mut db).unwrap();
        assert_eq!(db, expected.as_slice(), "{rows} x {columns}");
        db.fill(f32::NAN);
        expected.fill(0.0);
        expected.add_sum_of_rows(&x).unwrap();
        sum_of_rows(mat, 0.0, &mut db).unwrap();
        assert_eq!(db, expected.as_slice(), "{rows} x {columns}");

        let (mut p, mut y) = (Tensor::default(), Tensor::default());
        p.softmax_from(&x).unwrap();
        y.log_softmax_from(&x).unwrap();
        let (mut own_p, mut own_y) = (data.clone(), data.clone());
        softmax(mat, view_mut(&mut own_p, [rows, columns], 2)).unwrap();
        log_softmax(mat, view_mut(&mut own_y, [rows, columns], 2)).unwrap();
        let same = |a: &[f32], b: Vec<f32>| a.iter().zip(&b).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
        assert!(same(&own_p, spread(&p, 2)) && same(&own_y, spread(&y, 2)), "{rows} x {columns}");

        let b: Vec<f32> = (0..columns).map(|j| j as f32).collect();
        let (mut sum, mut own) = (x.clone(), data.clone());
        sum.add_to_rows(&Tensor::from_vec([columns], b.clone()).unwrap()).unwrap();
        add_to_rows(&b, view_mut(&mut own, [rows, columns], 2)).unwrap();
        assert!(same(&own, spread(&sum, 2)), "{rows} x {columns}");
    }
}

/// Scores q kᵀ and their mix with v, of one head among three in `[time, features]`.
#[test]
fn a_head_of_attention_where_it_lies() -> Result<(), TensorError> {
    let (time, heads, size) = (6, 3, 4);
    let features = heads * size;
    let [q, k, v] = [1, 2, 3].map(|seed| normal::<f64>([time, features], seed));
    let mut y = Tensor::zeros([time, features])?;
    for head in 0..heads {
        let start = head * size;
        let of =
            |x: &Tensor<f64>| Tensor::from_fn([time, size], |at| x.get(&[at[0], start + at[1]]).unwrap());
        let mut probabilities = Tensor::default();
        probabilities.softmax_from(&of(&q)?.matmul_nt(&of(&k)?)?)?;
        let expected = probabilities.matmul(&of(&v)?)?;

        let mat = |x| MatRef::new(x, [time, size])?.with_row_stride(features);
        let mut scores = Tensor::zeros([time, time])?;
        matmul(mat(&q.as_slice()[start..])?, mat(&k.as_slice()[start..])?.t(), 0.0, scores.mat_mut())?;
        let mut own = Tensor::zeros([time, time])?;
        softmax(scores.mat(), own.mat_mut())?;
        let out = MatMut::new(&mut y.as_mut_slice()[start..], [time, size])?.with_row_stride(features)?;
        matmul(own.mat(), mat(&v.as_slice()[start..])?, 0.0, out)?;
        assert_eq!(of(&y)?, expected);
    }
    Ok(())
}

/// h ← h + x_t Wᵀ, for one time step of `[batch, time, features]`.
#[test]
fn one_time_step_where_it_lies() -> Result<(), TensorError> {
    let (batch, time, features, units) = (3, 5, 4, 7);
    let x: Tensor<f32> = Tensor::normal([batch, time, features], 0.0, 1.0, &mut random::rng(1))?;
    let w = normal([units, features], 2);
    let mut all = Tensor::zeros([batch, time, units])?;
    for t in 0..time {
        let step = Tensor::from_fn([batch, features], |at| x.get(&[at[0], t, at[1]]).unwrap())?;
        let own = MatRef::new(&x.as_slice()[t * features..], [batch, features])?
            .with_row_stride(time * features)?;
        let out = &mut all.as_mut_slice()[t * units..];
        let out = MatMut::new(out, [batch, units])?.with_row_stride(time * units)?;
        matmul(own, w.mat().t(), 0.0, out)?;
        let expected = step.matmul_nt(&w)?;
        for sample in 0..batch {
            assert_eq!(all.row(sample * time + t), expected.row(sample));
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() {
    let data = vec![1.0_f32; 20];
    let message = |result: Result<MatRef<'_, f32>, ShapeError>| result.unwrap_err().to_string();
    assert_eq!(
        message(MatRef::new(&data, [3, 7])),
        "matrix: expected the elements of [3, 7] with a row stride of 7, got 20 elements"
    );
    let mat = MatRef::new(&data, [3, 4]).unwrap();
    assert_eq!(message(mat.with_row_stride(3)), "matrix: expected a row stride of at least 4 columns, got 3");
    assert!(mat.with_row_stride(8).is_ok());
    assert!(mat.with_row_stride(9).is_err());
    assert!(mat.with_row_stride(usize::MAX).is_err());
    assert!(MatRef::new(&data, [usize::MAX, usize::MAX]).is_err());
    assert!(MatRef::new(&data, [1 << 40, 0]).is_ok());
    // Of a single row, the stride doesn't matter.
    let row = MatRef::new(&data, [1, 20]).unwrap().with_row_stride(usize::MAX).unwrap();
    let mut one = [0.0];
    matmul(row, row.t(), 0.0, MatMut::new(&mut one, [1, 1]).unwrap().with_row_stride(usize::MAX).unwrap())
        .unwrap();
    assert_eq!(one, [20.0]);
    let mut own = data.clone();
    assert!(MatMut::new(&mut own, [3, 4]).unwrap().with_row_stride(3).is_err());
    assert!(MatMut::new(&mut own, [3, 7]).is_err());

    let mut c = vec![5.0; 9];
    let mut refuse = |a, b, shape, text: &str| {
        let c = MatMut::new(&mut c, shape).unwrap();
        assert_eq!(matmul(a, b, 0.0, c).unwrap_err().to_string(), text);
    };
    refuse(mat, mat, [3, 3], "matmul A·B: expected [_, 3], got [3, 4]");
    refuse(mat, mat.t(), [2, 3], "matmul A·Bᵀ: expected a result of [3, 3], got [2, 3]");
    refuse(mat.t(), mat.t(), [3, 3], "matmul Aᵀ·Bᵀ: expected at most one transposed operand, got two");
    let c_mat = MatMut::new(&mut c, [3, 3]).unwrap();
    let error = affine(mat, mat, Some(&[1.0; 2]), None, c_mat).unwrap_err();
    assert_eq!(error.to_string(), "matmul A·Bᵀ + b: expected a bias of [3], got [2]");
    assert!(sum_of_rows(mat, 1.0, &mut c[..3]).is_err());
    assert!(sum_of_rows(mat.t(), 1.0, &mut c[..3]).is_err());
    assert!(softmax(mat, MatMut::new(&mut c, [3, 3]).unwrap()).is_err());
    assert!(softmax(mat.t(), MatMut::new(&mut own, [4, 3]).unwrap()).is_err());
    assert!(add_to_rows(&[1.0], MatMut::new(&mut c, [3, 3]).unwrap()).is_err());
    assert_eq!(c, [5.0; 9]);
}

#[test]
fn products_of_views_on_any_number_of_threads() {
    let (x, w) = (normal::<f32>([173, 160], 1), normal([170, 160], 2));
    let (sx, sw) = (spread(&x, 2), spread(&w, 1));
    let results = [1, 2, 3, 7].map(|threads| {
        backrule_tensor::parallel::set_threads(threads.try_into().unwrap());
        let mut y = vec![0.0; 173 * 172];
        let (a, b) = (view(&sx, [173, 160], 2), view(&sw, [170, 160], 1).t());
        matmul(a, b, 0.0, view_mut(&mut y, [173, 170], 1)).unwrap();
        y
    });
    assert!(results.iter().all(|result| *result == results[0]));
}
