//! Products of every form, size, kernel and instruction set.

mod kernels {

    use std::ops::Range;

    use crate::linalg::dispatch::buffer_len;
    use crate::linalg::epilogue::Epilogue;
    use crate::linalg::gemm::{Gemm, Tiled};
    use crate::linalg::gemv::Gemv;
    use crate::linalg::gevm::ByRowsOfB;
    use crate::linalg::product::{Choice, Form, Initial, Product};
    use crate::linalg::split::compute;
    use crate::linalg::{MatMut, MatRef, Packed, affine, matmul};
    use crate::scalar::Scalar;
    use crate::simd::{self, Kernel, Simd};

    const FORMS: [Form; 3] = [Form::Nn, Form::Nt, Form::Tn];

    /// Numbers of all signs and sizes: no two orders of summation agree by chance.
    fn numbers<T: Scalar>(len: usize, salt: usize) -> Vec<T> {
        let mixed = |i: usize| (i * 31 + salt * 17 + 3) * 2_654_435_761 % 1_000_003;
        (0..len).map(|i| T::from_f64((mixed(i) as f64 / 5e5 - 1.0).powi(3))).collect()
    }

    fn transposed<T: Scalar>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
        (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
    }

    /// All rows of a product of matrices without gaps.
    fn without_gaps<'a, T: Scalar>(
        form: Form,
        sizes: [usize; 3],
        a: &'a [T],
        b: &'a [T],
        initial: Initial<'a, T>,
        c: &'a mut [T],
    ) -> Product<'a, T> {
        let strides = form.strides(sizes);
        let (first, rows, panels, epilogue) = (0, sizes[0], None, None);
        Product { form, sizes, strides, first, rows, a, b, panels, initial, epilogue, c }
    }

    fn gemm<T: Scalar>(
        form: Form,
        sizes: [usize; 3],
        a: &[T],
        b: &[T],
        initial: Initial<'_, T>,
        c: &mut [T],
    ) {
        compute(&mut without_gaps(form, sizes, a, b, initial, c)).unwrap();
    }

    /// C for A and B that are given row-major and untransposed.
    fn product<T: Scalar>(
        form: Form,
        [m, n, k]: [usize; 3],
        a: &[T],
        b: &[T],
        initial: Initial<'_, T>,
        c: &[T],
    ) -> Vec<T> {
        let mut c = c.to_vec();
        match form {
            Form::Nn => gemm(form, [m, n, k], a, b, initial, &mut c),
            Form::Nt => gemm(form, [m, n, k], a, &transposed(b, k, n), initial, &mut c),
            Form::Tn => gemm(form, [m, n, k], &transposed(a, m, k), b, initial, &mut c),
        }
        c
    }

    fn same_bits_in_any_batch<T: Scalar>() {
        // More than the few rows whose kernels pack nothing.
        let m = 90;
        let narrow = [1, 10].map(|n| [1, 5, 64, 65, 257, 512, 518, 1025, 1540, 4100, 8200].map(|k| (n, k)));
        let wide = [33, 300].map(|n| [5, 65, 518, 1540].map(|k| (n, k)));
        let all = narrow.as_flattened().iter().chain(wide.as_flattened()).copied();
        for (n, k) in all {
            let (a, b, c) = (numbers::<T>(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            let row = numbers(n, 4);
            for initial in [Initial::Zero, Initial::Bias(&row), Initial::Beta(T::from_f64(0.3))] {
                for form in FORMS {
                    let whole = product(form, [m, n, k], &a, &b, initial, &c);
                    // Without accumulators, all forms are one.
                    if form.accumulators(k) == 1 {
                        assert_eq!(whole, product(Form::Nn, [m, n, k], &a, &b, initial, &c), "{form:?}");
                    }
                    for batch in [1, 3, 4, 8, 9, 64, m] {
                        let mut parts = Vec::new();
                        for (a, c) in a.chunks(batch * k).zip(c.chunks(batch * n)) {
                            parts.extend(product(form, [c.len() / n, n, k], a, &b, initial, c));
                        }
                        assert_eq!(whole, parts, "{form:?}, {n} columns, {k} terms, batches of {batch}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_has_the_same_bits_in_any_batch_and_place() {
        same_bits_in_any_batch::<f32>();
        same_bits_in_any_batch::<f64>();
    }

    /// C by definition, for A and B that are row-major and untransposed.
    struct Definition<'a, T>(Form, [usize; 3], &'a [T], &'a [T], Initial<'a, T>, &'a [T]);

    impl<T: Scalar> Kernel for Definition<'_, T> {
        type Output = Vec<T>;
        #[inline(always)]
        fn run<S: Simd>(self) -> Vec<T> {
            let Self(form, [m, n, k], a, b, initial, c) = self;
            let element = |i: usize, j: usize| {
                // A block: term p goes to accumulator p % accumulators, and accumulators add up in order.
                let block = |terms: Range<usize>| {
                    let (from, accumulators) = (terms.start, form.accumulators(terms.len()));
                    let mut acc = vec![T::ZERO; accumulators];
                    for p in terms {
                        let acc = &mut acc[(p - from) % accumulators];
                        *acc = S::mul_add(a[i * k + p], b[p * n + j], *acc);
                    }
                    acc.into_iter().fold(T::ZERO, |sum, acc| sum + acc)
                };
                // A group: blocks, added in order to the initial values.
                let group = |terms: Range<usize>, initial: Initial<'_, T>| {
                    let blocks = (terms.start..terms.end.max(1)).step_by(form.block());
                    blocks.map(|p| block(p..terms.end.min(p + form.block()))).enumerate().fold(
                        T::ZERO,
                        |sum, (number, block)| match initial {
                            _ if number > 0 => sum + block,
                            Initial::Zero => block,
                            Initial::Bias(row) => block + row[j],
                            Initial::Beta(beta) => S::mul_add(beta, c[i * n + j], block),
                        },
                    )
                };
                // Groups of eight blocks are added in twice the precision.
                let terms = 8 * form.block();
                let (mut sum, mut low) = (group(0..k.min(terms), initial), T::ZERO);
                for p in (terms..k).step_by(terms) {
                    let part = group(p..k.min(p + terms), Initial::Zero);
                    let high = sum + part;
                    let added = high - sum;
                    let rest = low + ((sum - (high - added)) + (part - added));
                    sum = high + rest;
                    low = rest - (sum - high);
                }
                if k > terms { sum + low } else { sum }
            };
            (0..m * n).map(|at| element(at / n, at % n)).collect()
        }
    }

    fn sums_by_definition<T: Scalar>() {
        let terms = [0, 1, 2, 3, 7, 64, 65, 67, 511, 512, 519, 1024, 1025, 1540];
        let few = [1, 2, 3, 4, 5, 9, 13, 17].map(|m| [1, 3, 4, 7, 33].map(|n| [m, n]));
        let sizes = few.as_flattened().iter().flat_map(|&[m, n]| terms.map(|k| [m, n, k]));
        // More columns than are packed at once, blocks of several panels, and groups.
        for sizes in sizes.chain([[2, 300, 70], [1, 2051, 513], [9, 530, 520], [70, 9, 513], [5, 3, 8200]]) {
            let [m, n, k] = sizes;
            let (a, b, c) = (numbers::<T>(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            let row = numbers(n, 4);
            for form in FORMS {
                for initial in [Initial::Zero, Initial::Bias(&row), Initial::Beta(T::from_f64(0.3))] {
                    let expected = simd::run(Definition(form, sizes, &a, &b, initial, &c));
                    let c = product(form, sizes, &a, &b, initial, &c);
                    assert_eq!(c, expected, "{form:?} {sizes:?} {initial:?}");
                }
            }
        }
    }

    /// On this processor: of the other instruction sets, `the_width_of_registers_changes_no_bit`.
    #[test]
    fn sums_have_the_order_of_their_definition() {
        sums_by_definition::<f32>();
        sums_by_definition::<f64>();
    }

    /// Each element once, when its sum is complete.
    #[test]
    fn an_activation_comes_last_and_once() {
        fn f(c: &mut [f32]) {
            c.iter_mut().for_each(|c| *c = *c * 0.5 + 3.0);
        }
        for [m, n, k] in [
            [1, 1, 1],
            [3, 4, 5],
            [3, 4, 0],
            [30, 40, 1],
            [2, 40, 70],
            [41, 33, 65],
            [300, 10, 520],
            [20, 300, 600],
            [2, 300, 600],
            [8, 30, 600],
            [19, 1100, 300],
        ] {
            let (a, b, c) = (numbers::<f32>(m * k, 1), numbers::<f32>(n * k, 2), numbers(m * n, 3));
            let row = numbers(n, 4);
            for form in FORMS {
                for initial in [Initial::Zero, Initial::Bias(&row), Initial::Beta(0.3)] {
                    let with = |epilogue: Option<Epilogue<'_, f32>>, c: &mut Vec<f32>| {
                        let sizes = [m, n, k];
                        compute(&mut Product {
                            form,
                            sizes,
                            strides: form.strides(sizes),
                            first: 0,
                            rows: m,
                            a: &a,
                            b: &b,
                            panels: None,
                            initial,
                            epilogue,
                            c,
                        })
                        .unwrap();
                    };
                    let (mut together, mut after) = (c.clone(), c.clone());
                    with(Some(Epilogue::new(&f)), &mut together);
                    with(None, &mut after);
                    f(&mut after);
                    assert_eq!(together, after, "{form:?} {m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn columns_do_not_depend_on_their_place() {
        let [m, n, k] = [9, 40, 300];
        let (a, b, c) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2), vec![0.0; m * n]);
        for form in FORMS {
            let whole = product(form, [m, n, k], &a, &b, Initial::Zero, &c);
            for j in 0..n {
                let column: Vec<f32> = b.iter().skip(j).step_by(n).copied().collect();
                let alone = product(form, [m, 1, k], &a, &column, Initial::Zero, &c[..m]);
                assert!(alone.iter().eq(whole.iter().skip(j).step_by(n)), "{form:?}, column {j}");
            }
        }
    }

    /// More terms than a group has, and more columns than are computed at once.
    #[test]
    fn strips_and_groups_change_no_bit() {
        // On up to two threads.
        let [m, n, k] = [1100, 520, 4200];
        let (a, b, c) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2), numbers(m * n, 3));
        let row = numbers(n, 4);
        for form in FORMS {
            for initial in [Initial::Bias(&row), Initial::Beta(0.3)] {
                let whole = product(form, [m, n, k], &a, &b, initial, &c);
                for j in [0, 255, 256, 511, 512, 519] {
                    let column: Vec<f32> = b.iter().skip(j).step_by(n).copied().collect();
                    let of_c: Vec<f32> = c.iter().skip(j).step_by(n).copied().collect();
                    let of_row = [row[j]];
                    let initial =
                        if let Initial::Bias(_) = initial { Initial::Bias(&of_row) } else { initial };
                    let alone = product(form, [m, 1, k], &a, &column, initial, &of_c);
                    assert!(alone.iter().eq(whole.iter().skip(j).step_by(n)), "{form:?}, column {j}");
                }
            }
        }
    }

    /// Fewer rows than columns, of which each thread computes some.
    #[test]
    fn columns_have_the_same_bits_on_any_number_of_threads() {
        fn f(c: &mut [f64]) {
            c.iter_mut().for_each(|c| *c = *c * 0.5 + 3.0);
        }
        let many = [[40, 600, 400], [33, 1300, 70], [70, 90, 9000]];
        let few = [[1, 2100, 1030], [2, 1500, 701], [3, 1000, 1100], [7, 33, 9500], [16, 530, 300]];
        for sizes in few.into_iter().chain(many) {
            let [m, n, k] = sizes;
            // Rows of C with a gap.
            let ldc = n + 3;
            let (a, b, c) = (numbers::<f64>(m * k, 1), numbers::<f64>(k * n, 2), numbers(m * ldc, 3));
            let row = numbers(n, 4);
            for form in FORMS {
                for initial in [Initial::Zero, Initial::Bias(&row), Initial::Beta(0.3)] {
                    let on = |threads: usize| {
                        crate::parallel::set_threads(threads.try_into().unwrap());
                        let mut c = c.clone();
                        let [lda, ldb, _] = form.strides(sizes);
                        compute(&mut Product {
                            form,
                            sizes,
                            strides: [lda, ldb, ldc],
                            first: 0,
                            rows: m,
                            a: &a,
                            b: &b,
                            panels: None,
                            initial,
                            epilogue: Some(Epilogue::new(&f)),
                            c: &mut c,
                        })
                        .unwrap();
                        c
                    };
                    let one = on(1);
                    let gaps = |c: &[f64]| c.chunks(ldc).flat_map(|c| &c[n..]).copied().collect::<Vec<_>>();
                    assert_eq!(gaps(&one), gaps(&c));
                    for threads in [2, 3, 7] {
                        assert_eq!(on(threads), one, "{form:?} {sizes:?} {initial:?} on {threads}");
                    }
                }
            }
        }
        crate::parallel::set_threads(1.try_into().unwrap());
    }

    /// Each on a thread of its own, whose buffer is as long as this product wants: with fewer rows for the
    /// last task than for the others, and with none.
    #[test]
    fn long_products_of_any_split_have_room() {
        for threads in [2, 3] {
            crate::parallel::set_threads(threads.try_into().unwrap());
            for form in FORMS {
                let k = 8 * form.block() + 1;
                for m in [0, 7, 1025, 1537] {
                    for n in [0, 600] {
                        let product = move || {
                            let (a, b, mut c) =
                                (vec![1.0_f32; m * k], vec![0.5; k * n], vec![f32::NAN; m * n]);
                            gemm(form, [m, n, k], &a, &b, Initial::Zero, &mut c);
                            c.iter().all(|&c| c == k as f32 / 2.0)
                        };
                        assert!(std::thread::spawn(product).join().unwrap(), "{form:?} {m} {n} on {threads}");
                    }
                }
            }
        }
        crate::parallel::set_threads(1.try_into().unwrap());
    }

    /// |c − Σ a b| / (ε Σ|a b|) for the first element of C.
    fn error(c: f32, pairs: impl Iterator<Item = (f32, f32)>) -> f64 {
        let (mut exact, mut absolute) = (0.0, 0.0);
        for (a, b) in pairs {
            let term = f64::from(a) * f64::from(b);
            exact += term;
            absolute += term.abs();
        }
        (f64::from(c) - exact).abs() / (f64::from(f32::EPSILON) * absolute)
    }

    /// Blocks of 20 million terms, added in order, are off by 3,750 ε if one term is large.
    #[test]
    fn the_error_does_not_grow_with_the_number_of_terms() {
        let equal = |k: usize| vec![0.1_f32; k];
        let large = |k: usize| {
            let mut x = equal(k);
            x[k / 3] = 1e6;
            x
        };
        for ([m, n, k], form) in [[1, 1, 20_000_000], [9, 20, 200_000], [2, 3, 1_000_001]]
            .into_iter()
            .flat_map(|sizes| FORMS.map(|form| (sizes, form)))
        {
            for (kind, x) in [("equal", equal(k)), ("one large", large(k)), ("random", numbers(k, 1))] {
                // The same terms for all elements of C.
                let b = vec![0.7_f32; k * n];
                let a = match form {
                    Form::Tn => x.iter().flat_map(|&x| vec![x; m]).collect(),
                    _ => x.repeat(m),
                };
                let mut c = vec![f32::NAN; m * n];
                gemm(form, [m, n, k], &a, &b, Initial::Zero, &mut c);
                let error = error(c[0], x.iter().map(|&x| (x, 0.7)));
                let bound = form.block() as f64 / 2.0 + 4.0;
                assert!(error <= bound, "{form:?} {m} {n} {k}, {kind}: {error} ε, allowed {bound}");
                assert!(c.iter().all(|&x| x == c[0]), "{form:?} {m} {n} {k}, {kind}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_long_sums() {
        let k = 20_000;
        for form in FORMS {
            for [m, n] in [[1, 1], [5, 20]] {
                for (x, at) in [(f32::INFINITY, 3), (f32::INFINITY, k - 1), (-f32::INFINITY, 9_000)] {
                    let mut a = vec![1.0; m * k];
                    a[at] = x;
                    let b = vec![1.0; k * n];
                    let c = product(form, [m, n, k], &a, &b, Initial::Zero, &vec![f32::NAN; m * n]);
                    assert!(c[..n].iter().all(|&c| c == x), "{form:?} {x} at {at}: {:?}", &c[..n]);
                    assert!(c[n..].iter().all(|&c| c == k as f32), "{form:?} {x} at {at}");
                    a[at] = f32::NAN;
                    let c = product(form, [m, n, k], &a, &b, Initial::Zero, &vec![0.0; m * n]);
                    assert!(c[..n].iter().all(|c| c.is_nan()), "{form:?} NaN at {at}");
                    // Too large for the type, at the end of a group.
                    a.fill(f32::MAX / 4096.0);
                    let c = product(form, [m, n, k], &a, &b, Initial::Zero, &vec![0.0; m * n]);
                    assert!(c.iter().all(|&c| c == f32::INFINITY), "{form:?}: {:?}", &c[..n]);
                }
            }
        }
    }

    /// Computes the product as [`gemm`] would on a processor with no more than `level`.
    fn run_at<T: Tiled>(level: &str, product: &mut Product<'_, T>) -> Option<()> {
        let choice = product.choice();
        // Numbers of an earlier product are never read.
        let len = buffer_len::<T>(product.form, product.sizes, product.strides, product.rows, false);
        let buffer = &mut vec![T::from_f64(f64::NAN); len];
        match choice {
            Choice::Gemv => simd::run_at(level, Gemv(product)),
            Choice::ByRowsOfB => simd::run_at(level, ByRowsOfB { product, sums: buffer }),
            _ => simd::run_at(level, Gemm { choice, product, buffer }),
        }
    }

    fn same_bits_with_any_registers<T: Tiled>() {
        let edges = (1..16).map(|n| [5, n, 3]);
        let few = [[1, 9, 70], [2, 600, 70], [2, 300, 65], [1, 3, 530], [8, 13, 519], [3, 40, 1030]];
        let many = [[33, 17, 300], [13, 530, 64], [14, 260, 129], [9, 20, 519]];
        for [m, n, k] in edges.chain(few).chain(many) {
            let (a, b, c) = (numbers::<T>(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            let row = numbers(n, 4);
            for form in FORMS {
                for initial in [Initial::Zero, Initial::Bias(&row), Initial::Beta(T::from_f64(0.3))] {
                    let with = |level| {
                        let mut c = c.clone();
                        let product = &mut without_gaps(form, [m, n, k], &a, &b, initial, &mut c);
                        run_at(level, product).map(|()| c)
                    };
                    if let (Some(wide), Some(narrow)) = (with("avx512"), with("avx2")) {
                        assert_eq!(wide, narrow, "{form:?} {m} {n} {k} {initial:?}");
                    }
                }
            }
        }
    }

    /// Both have FMA, so only the order of the sums could make a difference.
    #[test]
    fn the_width_of_registers_changes_no_bit() {
        same_bits_with_any_registers::<f32>();
        same_bits_with_any_registers::<f64>();
    }

    /// With every number of rows that has a kernel or a split of its own, on one thread and on several.
    fn packed_weight_changes_no_bit<T: Scalar>() {
        let f = |y: &mut [T]| y.iter_mut().for_each(|y| *y = *y * *y - T::ONE);
        let machine = simd::level();
        for ([n, k], gap) in [
            ([1, 1], 0),
            ([5, 3], 2),
            ([33, 64], 0),
            ([31, 65], 1),
            ([300, 70], 0),
            ([16, 511], 0),
            ([97, 513], 3),
            ([40, 1030], 0),
            ([600, 1300], 5),
            ([70, 8300], 0),
            ([2000, 1000], 0),
        ] {
            let (b, row) = (numbers::<T>(n * (k + gap), 2), numbers(n, 4));
            let w = MatRef::new(&b, [n, k]).unwrap().with_row_stride(k + gap).unwrap();
            for m in [1, 2, 3, 4, 5, 7, 8, 9, 17, 70, 200] {
                if m * n * k > 60_000_000 {
                    continue;
                }
                let (a, c) = (numbers::<T>(m * k, 1), numbers(m * (n + gap), 3));
                let x = MatRef::new(&a, [m, k]).unwrap();
                for level in ["baseline", "avx2", "avx512"] {
                    let with = |packed: Option<&Packed<T>>, threads: usize| {
                        crate::parallel::set_threads(threads.try_into().unwrap());
                        let w = w.with_packed(packed).unwrap();
                        let of = |c: &mut Vec<T>, f: &mut dyn FnMut(MatMut<'_, T>)| {
                            f(MatMut::new(c, [m, n]).unwrap().with_row_stride(n + gap).unwrap());
                        };
                        let [mut first, mut second] = [c.clone(), c.clone()];
                        let f = Some(Epilogue::new(&f));
                        of(&mut first, &mut |c| affine(x, w, Some(&row), f, c).unwrap());
                        of(&mut second, &mut |c| matmul(x, w.t(), T::from_f64(0.3), c).unwrap());
                        crate::parallel::set_threads(1.try_into().unwrap());
                        [first, second]
                    };
                    simd::at_level(level, || {
                        let packed = Packed::of(w).unwrap();
                        let plain = with(None, 1);
                        for threads in [1, 2, 3] {
                            // Helpers don't know the level that a test asks for.
                            if threads == 1 || level == machine {
                                assert_eq!(with(Some(&packed), threads), plain, "{m} {n} {k}, {level}");
                            }
                        }
                    });
                }
            }
        }
    }

    #[test]
    fn a_packed_weight_changes_no_bit() {
        packed_weight_changes_no_bit::<f32>();
        packed_weight_changes_no_bit::<f64>();
    }

    /// With a copy of another matrix it shows which products read it: x Wᵀ of several rows, and no other.
    #[test]
    fn several_rows_read_what_is_packed() {
        let (w, other) = ([1.0_f32; 64 * 64], [2.0; 64 * 64]);
        let packed = Packed::of(MatRef::whole(&other, [64, 64])).unwrap();
        let w = MatRef::whole(&w, [64, 64]).with_packed(Some(&packed)).unwrap();
        for (rows, factor) in [(1, 1.0), (4, 2.0), (9, 2.0), (70, 2.0)] {
            let x = vec![1.0; rows * 64];
            let x = MatRef::whole(&x, [rows, 64]);
            let mut y = vec![0.0; rows * 64];
            matmul(x, w.t(), 0.0, MatMut::whole(&mut y, [rows, 64])).unwrap();
            assert!(y.iter().all(|&y| y == 64.0 * factor), "{rows} rows");
            matmul(x, w, 0.0, MatMut::whole(&mut y, [rows, 64])).unwrap();
            assert!(y.iter().all(|&y| y == 64.0), "{rows} rows of x W");
        }
    }

    #[test]
    fn what_is_packed_has_the_shape_of_its_matrix() {
        let w = MatRef::whole(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]);
        let packed = Packed::of(w).unwrap();
        assert!(Packed::of(w.t()).is_err());
        let other = MatRef::whole(&[1.0_f32; 6], [2, 3]);
        let error = other.with_packed(Some(&packed)).unwrap_err();
        assert_eq!(error.to_string(), "packed weight: expected [2, 3], got [3, 2]");
        assert_eq!(format!("{packed:?}"), "Packed([3, 2])");
        assert_eq!(packed.clone(), packed);
        // Wherever its memory begins.
        let all: Vec<_> = (0..9).map(|_| Packed::of(w).unwrap()).collect();
        assert!(all.iter().all(|other| *other == packed));
        assert!(Packed::of(MatRef::whole(&[1.0_f32; 6], [3, 2])).unwrap() != packed);
        assert!(w.t().with_packed(Some(&packed)).is_ok());
        // With another row stride it is another matrix.
        let other = w.with_packed(Some(&packed)).unwrap();
        assert!(other.packed().is_some() && other.t().packed().is_some());
        let first = MatRef::whole(&[1.0_f32; 6], [2, 2]).with_packed(None).unwrap();
        let square = Packed::of(first).unwrap();
        let first = first.with_packed(Some(&square)).unwrap();
        assert!(first.with_row_stride(3).unwrap().packed().is_none());
        for shape in [[0, 4], [4, 0]] {
            assert_eq!(Packed::of(MatRef::<f32>::whole(&[], shape)).unwrap().shape(), shape);
        }
    }

    #[test]
    fn a_part_of_the_rows_has_the_same_bits() {
        let [m, n, k] = [29, 33, 70];
        let (a, b) = (numbers::<f32>(m * k, 1), numbers(k * n, 2));
        for form in FORMS {
            let (mut whole, mut parts) = (vec![0.0; m * n], vec![0.0; m * n]);
            gemm(form, [m, n, k], &a, &b, Initial::Zero, &mut whole);
            for (part, c) in parts.chunks_mut(5 * n).enumerate() {
                let (first, rows, initial) = (5 * part, c.len() / n, Initial::Zero);
                let sizes = [m, n, k];
                let strides = form.strides(sizes);
                let product = &mut Product {
                    form,
                    sizes,
                    strides,
                    first,
                    rows,
                    a: &a,
                    b: &b,
                    panels: None,
                    initial,
                    epilogue: None,
                    c,
                };
                run_at(simd::level(), product).unwrap();
            }
            assert_eq!(whole, parts, "{form:?}");
        }
    }

    #[test]
    fn nothing_is_swallowed() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        for m in [1, 3, 20] {
            for k in [1, 2, 9] {
                for form in FORMS {
                    let (mut a, b) = (vec![0.0; m * k], vec![infinity; 20 * k]);
                    // 0·∞ is NaN: products with 0 are not skipped.
                    let c = product(form, [m, 20, k], &a, &b, Initial::Zero, &vec![0.0; m * 20]);
                    assert!(c.iter().all(|c| c.is_nan()), "{form:?} {m} {k}");
                    a[0] = nan;
                    let c =
                        product(form, [m, 20, k], &a, &vec![1.0; 20 * k], Initial::Zero, &vec![nan; m * 20]);
                    assert!(c[..20].iter().all(|c| c.is_nan()), "{form:?} {m} {k}");
                    assert!(
                        c[20..].iter().all(|&c| c == 0.0),
                        "{form:?} {m} {k}: NaN of C or of another row"
                    );
                }
            }
        }
    }

    /// Neither the next row of A, where the terms aren't a multiple of those that are added at once, nor the
    /// old contents of the buffer.
    #[test]
    fn a_row_sees_no_other_row_and_no_old_sums() {
        for [m, n, k] in [[2, 600, 70], [3, 520, 65], [20, 600, 70]] {
            let (mut a, b) = (numbers::<f32>(m * k, 1), numbers(k * n, 2));
            let first = product(Form::Nn, [1, n, k], &a[..k], &b, Initial::Zero, &vec![0.0; n]);
            a[k..].fill(f32::INFINITY);
            for level in ["baseline", simd::level()] {
                let mut c = vec![0.0; m * n];
                let product = &mut without_gaps(Form::Nn, [m, n, k], &a, &b, Initial::Zero, &mut c);
                run_at(level, product).unwrap();
                match level == simd::level() {
                    true => assert_eq!(c[..n], first, "{m} {n} {k}"),
                    false => assert!(c[..n].iter().all(|c| c.is_finite()), "{m} {n} {k}"),
                }
            }
        }
    }

    /// A sum begins at 0, so a result that underflows is 0 rather than −0 in every kernel.
    #[test]
    fn what_vanishes_has_no_sign() {
        for m in [1, 2, 20] {
            for n in [1, 3, 20, 140, 600] {
                for k in [1, 3, 40, 70, 72] {
                    let (a, b) = (vec![1e-30_f32; m * k], vec![-1e-30; k * n]);
                    for form in FORMS {
                        let c = product(form, [m, n, k], &a, &b, Initial::Zero, &vec![1.0; m * n]);
                        assert!(c.iter().all(|c| c.to_bits() == 0), "{form:?} {m} {n} {k}: {c:?}");
                    }
                }
            }
        }
    }

    /// The kernel for processors without AVX2 is tested on the others, too.
    #[test]
    fn the_portable_kernel_computes_the_same_products() {
        for [m, n, k] in [[1, 9, 70], [2, 11, 519], [3, 20, 7], [33, 17, 300], [9, 19, 519], [4, 530, 3]] {
            // Whole numbers: exact in any order, with or without FMA.
            let whole = |len, salt| {
                numbers::<f32>(len, salt).into_iter().map(|x| (x * 9.0).round()).collect::<Vec<_>>()
            };
            let (a, b) = (whole(m * k, 1), whole(k * n, 2));
            let expected = product(Form::Nn, [m, n, k], &a, &b, Initial::Zero, &vec![0.0; m * n]);
            for form in FORMS {
                let a = if let Form::Tn = form { transposed(&a, m, k) } else { a.clone() };
                let b = if let Form::Nt = form { transposed(&b, k, n) } else { b.clone() };
                let mut c = vec![f32::NAN; m * n];
                let kernel = &mut without_gaps(form, [m, n, k], &a, &b, Initial::Zero, &mut c);
                run_at("baseline", kernel).unwrap();
                assert_eq!(c, expected, "{form:?} {m} {n} {k}");
            }
        }
    }
}

mod tensors {

    use crate::linalg::{affine_into, matmul_into, matmul_nt_into, matmul_tn_into};
    use crate::parallel;
    use crate::scalar::Scalar;
    use crate::tensor::Tensor;

    /// Σₚ A[i,p] B[p,j] + β C[i,j] by definition.
    fn triple_loop(
        [m, n, k]: [usize; 3],
        a: impl Fn(usize, usize) -> f64,
        b: impl Fn(usize, usize) -> f64,
        beta: f64,
        c: impl Fn(usize, usize) -> f64,
    ) -> Tensor<f64> {
        Tensor::from_fn([m, n], |at| {
            let (i, j) = (at[0], at[1]);
            (0..k).map(|p| a(i, p) * b(p, j)).sum::<f64>() + beta * c(i, j)
        })
        .unwrap()
    }

    /// Small whole numbers: every product is exact in both types and any order of summation.
    fn whole<T: Scalar>(rows: usize, columns: usize, salt: usize) -> Tensor<T> {
        Tensor::from_fn([rows, columns], |at| {
            let mixed = (at[0] * 31 + at[1] * 17 + salt * 7 + 3) * 2_654_435_761 % 1_000_003;
            T::from_f64((mixed % 9) as f64 - 4.0)
        })
        .unwrap()
    }

    fn at<T: Scalar>(t: &Tensor<T>) -> impl Fn(usize, usize) -> f64 {
        |i, j| t.get(&[i, j]).unwrap().to_f64()
    }

    fn check<T: Scalar>(sizes: [usize; 3]) {
        let [m, n, k] = sizes;
        for beta in [0.0, 1.0, -2.0] {
            let c0 = whole::<T>(m, n, 5);
            let poisoned = |c0: &Tensor<T>| match beta {
                0.0 => Tensor::full(c0.shape(), T::from_f64(f64::NAN)).unwrap(),
                _ => c0.clone(),
            };
            let same = |form: &str, c: &Tensor<T>, expected: &Tensor<f64>| {
                let c: Vec<f64> = c.as_slice().iter().map(|c| c.to_f64()).collect();
                assert_eq!(c, expected.as_slice(), "{form} {sizes:?} beta {beta}");
            };
            let b = T::from_f64(beta);

            let (x, y) = (whole::<T>(m, k, 1), whole::<T>(k, n, 2));
            let mut c = poisoned(&c0);
            matmul_into(&x, &y, b, &mut c).unwrap();
            same("nn", &c, &triple_loop(sizes, at(&x), at(&y), beta, at(&c0)));

            let (x, y) = (whole::<T>(m, k, 1), whole::<T>(n, k, 2));
            let mut c = poisoned(&c0);
            matmul_nt_into(&x, &y, b, &mut c).unwrap();
            let transposed = |p, j| at(&y)(j, p);
            same("nt", &c, &triple_loop(sizes, at(&x), transposed, beta, at(&c0)));

            let (x, y) = (whole::<T>(k, m, 1), whole::<T>(k, n, 2));
            let mut c = poisoned(&c0);
            matmul_tn_into(&x, &y, b, &mut c).unwrap();
            let transposed = |i, p| at(&x)(p, i);
            same("tn", &c, &triple_loop(sizes, transposed, at(&y), beta, at(&c0)));
        }
    }

    #[test]
    fn exact_for_whole_numbers_at_every_small_size_and_around_the_switch_of_kernels() {
        for m in 0..=9 {
            for n in 0..=9 {
                for k in 0..=9 {
                    check::<f32>([m, n, k]);
                    check::<f64>([m, n, k]);
                }
            }
        }
    }

    #[test]
    fn exact_for_large_and_skinny_shapes() {
        for sizes in [
            [1, 10, 784],
            [300, 1, 64],
            [64, 10, 32],
            [5, 200, 200],
            [6, 200, 200],
            [200, 5, 6],
            [200, 6, 5],
            [129, 65, 257],
            [2, 2, 5000],
            [1000, 3, 2],
        ] {
            check::<f32>(sizes);
            check::<f64>(sizes);
        }
    }

    #[test]
    fn a_bias_is_added_to_every_row() {
        for [m, n, k] in [[1, 1, 1], [2, 5, 0], [3, 40, 7], [50, 33, 300]] {
            let (x, w, b) = (whole::<f32>(m, k, 1), whole::<f32>(n, k, 2), whole::<f32>(1, n, 3));
            let b = b.reshape([n]).unwrap();
            let mut y = Tensor::full([m, n], f32::NAN).unwrap();
            affine_into(&x, &w, &b, &mut y).unwrap();
            let mut expected = x.matmul_nt(&w).unwrap();
            expected.add_to_rows(&b).unwrap();
            assert_eq!(y, expected);
        }
        let (x, w) = (whole::<f32>(2, 3, 1), whole::<f32>(4, 3, 2));
        let mut y = whole::<f32>(2, 4, 3);
        let before = y.clone();
        let error = affine_into(&x, &w, &Tensor::from([1.0; 3]), &mut y).unwrap_err();
        assert_eq!(error.to_string(), "matmul A·Bᵀ + b: expected a bias of [4], got [3]");
        assert!(affine_into(&x, &w, &Tensor::from([[1.0; 4]]), &mut y).is_err());
        assert!(affine_into(&w, &y, &Tensor::from([1.0; 2]), &mut y.clone()).is_err());
        assert_eq!(y, before);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let number = |at: &[usize]| ((at[0] * 31 + at[1] * 17) % 101) as f32 / 7.0;
        let a = Tensor::<f32>::from_fn([173, 160], number).unwrap();
        let b = Tensor::from_fn([170, 160], number).unwrap();
        let c = Tensor::from_fn([173, 170], number).unwrap();
        let results = [1, 2, 3, 7].map(|threads| {
            parallel::set_threads(threads.try_into().unwrap());
            let (nt, nn) = (a.matmul_nt(&b).unwrap(), c.matmul(&b).unwrap());
            let mut tn = b.clone();
            matmul_tn_into(&c, &a, 0.5, &mut tn).unwrap();
            (nt, nn, tn)
        });
        assert!(results.iter().all(|result| *result == results[0]));
    }

    #[test]
    fn leading_axes_are_rows() {
        let x = whole::<f32>(6, 4, 1).reshape([2, 3, 4]).unwrap();
        let w = whole::<f32>(7, 4, 2);
        let y = x.matmul_nt(&w).unwrap();
        assert_eq!(y.shape(), [2, 3, 7]);
        let flat = x.clone().reshape([6, 4]).unwrap().matmul_nt(&w).unwrap();
        assert_eq!(y.as_slice(), flat.as_slice());
        assert_eq!(x.matmul_tn(&y).unwrap().shape(), [4, 7]);
        let vector = Tensor::<f32>::zeros([4]).unwrap();
        assert_eq!(vector.matmul_nt(&w).unwrap().shape(), [7]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_and_c_is_kept() {
        let (a, b) = (whole::<f32>(2, 3, 1), whole::<f32>(4, 5, 2));
        let mut c = whole::<f32>(2, 5, 3);
        let before = c.clone();
        let error = matmul_into(&a, &b, 0.0, &mut c).unwrap_err();
        assert_eq!(error.to_string(), "matmul A·B: expected [_, 4], got [2, 3]");
        assert!(matmul_nt_into(&a, &b, 0.0, &mut c).is_err());
        let error = matmul_tn_into(&a, &b, 0.0, &mut c).unwrap_err();
        assert_eq!(error.to_string(), "matmul Aᵀ·B: expected [4, _], got [2, 3]");
        // The operands fit, the result doesn't.
        let error = matmul_into(&a, &whole(3, 6, 1), 1.0, &mut c).unwrap_err();
        assert_eq!(error.to_string(), "matmul A·B: expected a result of [2, 6], got [2, 5]");
        // As many elements are not enough.
        let mut turned = c.clone().reshape([5, 2]).unwrap();
        assert!(matmul_into(&a, &whole(3, 5, 1), 1.0, &mut turned).is_err());
        assert!(a.matmul(&Tensor::zeros([3]).unwrap()).is_err());
        let number = Tensor::scalar(1.0);
        assert!(number.matmul(&Tensor::zeros([1, 1]).unwrap()).is_err());
        assert!(number.matmul_tn(&a).is_err());
        assert_eq!(c, before);
    }

    #[test]
    fn inner_sizes_must_be_equal() {
        let zeros = |shape| Tensor::<f32>::zeros(shape).unwrap();
        for terms in [2, 4] {
            assert!(matmul_into(&zeros([1, 3]), &zeros([terms, 5]), 0.0, &mut zeros([1, 5])).is_err());
            assert!(matmul_nt_into(&zeros([1, 3]), &zeros([5, terms]), 0.0, &mut zeros([1, 5])).is_err());
            assert!(matmul_tn_into(&zeros([3, 1]), &zeros([terms, 5]), 0.0, &mut zeros([1, 5])).is_err());
        }
    }
}
