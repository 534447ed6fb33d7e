//! `cargo bench --bench tensor`: matrix products in the three forms of a dense layer, nalgebra's beside them;
//! operations on elements and rows; the pool of threads. Throughput counts floating-point operations of
//! products, 2 m n k each, and bytes where memory is the bound.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use backrule_tensor::kernels::row::CHUNK;
use backrule_tensor::nalgebra::{DMatrixViewMut, Dyn, MatrixView};
use backrule_tensor::simd::{self, Kernel, Simd};
use backrule_tensor::{Tensor, matmul_into, matmul_nt_into, matmul_tn_into, parallel};
use common::{Product, bench, normal};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

/// Batch, inputs and outputs of dense layers: one sample, a few, tiny, cache-sized, large.
const LAYERS: [[usize; 3]; 14] = [
    [1, 784, 128],
    [4, 784, 128],
    [16, 784, 128],
    [4, 4096, 1000],
    [8, 256, 256],
    [1, 64, 32],
    [32, 64, 32],
    [32, 32, 10],
    [64, 64, 10],
    [7, 33, 33],
    [32, 784, 128],
    [64, 784, 128],
    [1024, 784, 128],
    [256, 1024, 4096],
];

fn matmul(c: &mut Criterion) {
    // `matmul/forward_nt/*`: y = x Wᵀ of a dense layer; batch × inputs × outputs
    // `matmul/forward_nt_nalgebra/*`: the same by nalgebra
    // `matmul/dx_nn/*`: dx = dy W of the same layer
    // `matmul/dx_nn_nalgebra/*`: the same by nalgebra
    // `matmul/dw_tn/*`: dW = dyᵀ x of the same layer
    // `matmul/dw_tn_nalgebra/*`: the same by nalgebra
    // As nalgebra's, which uses one.
    parallel::set_threads(NonZeroUsize::MIN);
    let mut group = c.benchmark_group("matmul");
    for [batch, inputs, outputs] in LAYERS {
        group.throughput(Throughput::Elements(2 * (batch * inputs * outputs) as u64));
        let (x, w, dy) = ([batch, inputs], [outputs, inputs], [batch, outputs]);
        // Operands, which of them is transposed, and the result.
        for (name, a, b, transposed, product, result) in [
            ("forward_nt", x, w, [false, true], matmul_nt_into as Product, dy),
            ("dx_nn", dy, w, [false, false], matmul_into, x),
            ("dw_tn", dy, x, [true, false], matmul_tn_into, w),
        ] {
            let size = format!("{batch}x{inputs}x{outputs}");
            let operands = || (normal(a, 1), normal(b, 2), Tensor::zeros(result).unwrap());
            bench(&mut group, format!("{name}/{size}"), || {
                let (a, b, mut result) = operands();
                move || product(&a, &b, 0.0, &mut result)
            });
            // With fewer rows nalgebra leaves its fast kernel, and that path is not one to compare with or
            // rely on.
            if batch > 5 {
                bench(&mut group, format!("{name}_nalgebra/{size}"), || {
                    let (a, b, mut result) = operands();
                    move || nalgebra_product(&a, &b, transposed, &mut result)
                });
            }
        }
    }
    group.finish();
}

/// Products too small for a tile, and a plain loop beside each.
fn small_matmul(c: &mut Criterion) {
    // `small_matmul/*`: m × n results from k terms each: what a product costs before it multiplies
    // `small_matmul/loop/*`: a plain loop for the same product
    let mut group = c.benchmark_group("small_matmul");
    for [m, n, k] in [[1, 1, 1], [2, 3, 2], [5, 5, 5], [1, 33, 10], [3, 7, 33], [7, 33, 33], [16, 16, 16]] {
        let operands = || (normal([m, k], 1), normal([k, n], 2), Tensor::zeros([m, n]).unwrap());
        let size = format!("{m}x{n}x{k}");
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        bench(&mut group, &size, || {
            let (a, b, mut result) = operands();
            move || matmul_into(&a, &b, 0.0, &mut result)
        });
        bench(&mut group, format!("loop/{size}"), || {
            let (a, b, mut result) = operands();
            move || plain_loop(black_box(&a), black_box(&b), black_box(&mut result))
        });
    }
    group.finish();
}

/// Operations on elements and rows, on one thread: a bias's gradient, an activation, a prediction's class.
/// Bytes are those that are read and written.
fn elements(c: &mut Criterion) {
    // `copy/*`: a copy of rows × columns: what memory alone costs
    // `relu/*`: y = max(x, 0) by `map_from`
    // `product/*`: y = a b by `zip_from`
    // `softmax/*`: the softmax of each row
    // `log_softmax/*`: the log-softmax of each row
    // `sum_of_rows/*`: all rows added to one: the gradient of a bias
    // `argmax/*`: the largest of each row: a prediction
    type Operation = fn(&mut Tensor, &Tensor, &Tensor);
    let operations: [(&str, usize, Operation); 7] = [
        ("copy", 2, |y, a, _| y.copy_from(a).unwrap()),
        ("relu", 2, |y, a, _| y.map_from(a, |a| a.max(0.0)).unwrap()),
        ("product", 3, |y, a, b| y.zip_from(a, b, |a, b| a * b).unwrap()),
        ("softmax", 2, |y, a, _| y.softmax_from(a).unwrap()),
        ("log_softmax", 2, |y, a, _| y.log_softmax_from(a).unwrap()),
        ("sum_of_rows", 1, |sum, a, _| {
            if sum.is_empty() {
                *sum = Tensor::zeros([a.shape().columns()]).unwrap();
            }
            sum.add_sum_of_rows(a).unwrap();
        }),
        ("argmax", 1, |_, a, _| _ = black_box(a.argmax_rows().sum::<usize>())),
    ];
    for (name, tensors, operation) in operations {
        let mut group = c.benchmark_group(name);
        for shape in [[1, 128], [32, 128], [1024, 128], [1024, 8192]] {
            let elements = shape[0] * shape[1];
            group.throughput(Throughput::Bytes((tensors * 4 * elements) as u64));
            bench(&mut group, format!("{}x{}", shape[0], shape[1]), || {
                let (a, b, mut y) = (normal(shape, 1), normal(shape, 2), Tensor::default());
                move || operation(&mut y, &a, &b)
            });
        }
        group.finish();
    }
}

fn plain_loop(a: &Tensor, b: &Tensor, c: &mut Tensor) {
    c.fill(0.0);
    for (a, c) in a.rows().zip(c.rows_mut()) {
        for (&a, b) in a.iter().zip(b.rows()) {
            for (c, &b) in c.iter_mut().zip(b) {
                *c += a * b;
            }
        }
    }
}

/// The bounds of the machine: multiply-adds in registers, and bytes from memory.
fn roofline(c: &mut Criterion) {
    // `roofline/fma_f32`: multiply-adds in registers: the bound of the core
    // `roofline/triad`: a = b + 3 c over 240 MB: the bound of the memory; 16 bytes an element move
    // `roofline/update_1`: an update's bound: one stream is read, and one read and written: 12 bytes an element
    // `roofline/update_2`: the same with two that are written, as by momentum: 20 bytes
    // `roofline/update_3`: the same with three, as by Adam: 28 bytes
    let mut group = c.benchmark_group("roofline");
    group.throughput(Throughput::Elements(Fma::FLOP));
    let mut numbers = [1.0; NUMBERS];
    group.bench_function("fma_f32", |b| b.iter(|| simd::run(Fma(&mut numbers, black_box(0.5)))));
    // aᵢ = bᵢ + 3 cᵢ: 240 MB, more than any cache but one of a server. A store reads its cache line first.
    let shape = [20_000, 1000];
    group.sample_size(20);
    let elements = (shape[0] * shape[1]) as u64;
    group.throughput(Throughput::Bytes(4 * 4 * elements));
    bench(&mut group, "triad", || {
        let (x, y, mut z) = (normal(shape, 1), normal(shape, 2), Tensor::default());
        move || z.zip_from(&x, &y, |x, y| x + 3.0 * y)
    });
    update::<1>(&mut group, elements);
    update::<2>(&mut group, elements);
    update::<3>(&mut group, elements);
    group.finish();
}

/// The bytes moved by an update that keeps STREAMS numbers for each parameter, itself among them.
fn update<const STREAMS: usize>(group: &mut BenchmarkGroup<'_, WallTime>, elements: u64) {
    group.throughput(Throughput::Bytes((1 + 2 * STREAMS as u64) * 4 * elements));
    bench(group, format!("update_{STREAMS}"), || {
        let (dx, mut streams) =
            (vec![1e-3; elements as usize], [(); STREAMS].map(|()| vec![0.5; elements as usize]));
        move || simd::run(Update { dx: &dx, streams: &mut streams })
    });
}

struct Update<'a, const STREAMS: usize> {
    dx: &'a [f32],
    streams: &'a mut [Vec<f32>; STREAMS],
}

impl<const STREAMS: usize> Kernel for Update<'_, STREAMS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut streams = self.streams.each_mut().map(|stream| stream.as_chunks_mut::<CHUNK>().0.iter_mut());
        for dx in self.dx.as_chunks::<CHUNK>().0 {
            for x in streams.iter_mut().filter_map(Iterator::next) {
                x.iter_mut().zip(dx).for_each(|(x, &dx)| *x = S::mul_add(-0.5, dx, *x));
            }
        }
    }
}

const NUMBERS: usize = 1280;

/// Chains of multiplications and additions on numbers that stay in registers, many of them at once.
struct Fma<'a>(&'a mut [f32; NUMBERS], f32);

impl Fma<'_> {
    const CHAIN: usize = 512;
    const FLOP: u64 = (2 * NUMBERS * Self::CHAIN) as u64;

    /// AT_ONCE numbers at a time.
    #[inline(always)]
    fn chains<S: Simd, const AT_ONCE: usize>(self) {
        let Self(numbers, a) = self;
        for x in numbers.as_chunks_mut::<AT_ONCE>().0 {
            for _ in 0..Self::CHAIN {
                for x in &mut *x {
                    *x = S::mul_add(*x, a, 0.25);
                }
            }
        }
    }
}

impl Kernel for Fma<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        // Sixteen registers of 64 bytes, ten of 32: of these there are only sixteen.
        match S::BYTES {
            64 => self.chains::<S, 256>(),
            _ => self.chains::<S, 80>(),
        }
    }
}

/// C = A·B by nalgebra: Cᵀ = Bᵀ·Aᵀ on column-major views of the same bytes.
fn nalgebra_product(a: &Tensor, b: &Tensor, transposed: [bool; 2], c: &mut Tensor) {
    let (a, b) = (strided(a, transposed[0]), strided(b, transposed[1]));
    let (rows, columns) = (c.shape().columns(), c.shape().rows());
    DMatrixViewMut::from_slice(c.as_mut_slice(), rows, columns).gemm(1.0, &b, &a, 0.0);
}

fn strided(t: &Tensor, transposed: bool) -> MatrixView<'_, f32, Dyn, Dyn, Dyn, Dyn> {
    let (rows, columns) = (t.shape().columns(), t.shape().rows());
    let ([rows, columns], [row_stride, column_stride]) =
        if transposed { ([columns, rows], [rows, 1]) } else { ([rows, columns], [1, rows]) };
    MatrixView::from_slice_with_strides_generic(
        t.as_slice(),
        Dyn(rows),
        Dyn(columns),
        Dyn(row_stride),
        Dyn(column_stride),
    )
}

/// A mini-batch from 1,437 rows.
fn rows(c: &mut Criterion) {
    // `rows/gather/*`: a mini-batch of rows × columns gathered from 1,437 rows
    let mut group = c.benchmark_group("rows");
    for [count, columns] in [[1, 64], [32, 64], [1024, 784]] {
        group.throughput(Throughput::Bytes(2 * 4 * (count * columns) as u64));
        bench(&mut group, format!("gather/{count}x{columns}"), || {
            let (data, mut batch) = (normal([1437, columns], 1), Tensor::default());
            let indices: Vec<usize> = (0..count).map(|i| i * 37 % 1437).collect();
            move || batch.gather(&data, &indices)
        });
    }
    group.finish();
}

/// The cost of handing out two empty tasks: to a worker that is awake, to one that sleeps, to a new thread.
fn wake(c: &mut Criterion) {
    // `parallel/awake`: two empty tasks, the worker awake
    // `parallel/asleep`: two empty tasks, the worker asleep
    // `parallel/scoped_thread`: two empty tasks, a new thread for one of them
    // `parallel/round_trip`: a number written by two threads in turn: a cache line's way to another core and back
    let mut group = c.benchmark_group("parallel");
    group.throughput(Throughput::Elements(2));
    parallel::set_threads(NonZeroUsize::MIN.saturating_add(1));
    let two_tasks = || parallel::run(2, |task| _ = black_box(task));
    group.bench_function("awake", |b| b.iter(two_tasks));
    let pause = || std::thread::sleep(Duration::from_micros(500));
    group.bench_function("asleep", |b| b.iter_batched(pause, |()| two_tasks(), BatchSize::PerIteration));
    group.bench_function("scoped_thread", |b| {
        b.iter(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| _ = black_box(1));
                _ = black_box(0);
            })
        })
    });
    round_trip(&mut group);
    group.finish();
}

/// A number that two threads write in turn: the way of a cache line to another core and back.
fn round_trip(group: &mut BenchmarkGroup<'_, WallTime>) {
    const THEIRS: u8 = 0;
    const OURS: u8 = 1;
    const OVER: u8 = 2;
    let turn = AtomicU8::new(OURS);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                match turn.load(Acquire) {
                    THEIRS => turn.store(OURS, Release),
                    OVER => break,
                    _ => std::hint::spin_loop(),
                }
            }
        });
        group.throughput(Throughput::Elements(1)).bench_function("round_trip", |b| {
            b.iter(|| {
                turn.store(THEIRS, Release);
                while turn.load(Acquire) == THEIRS {
                    std::hint::spin_loop();
                }
            });
        });
        turn.store(OVER, Release);
    });
}

criterion_group!(benches, matmul, small_matmul, elements, roofline, rows, wake);
criterion_main!(benches);
