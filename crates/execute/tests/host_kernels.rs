//! Kernels against plain sums in f64, on random shapes, with bounds that follow from the length of each sum.

use orrery_execute::kernels::attention::{Attention, Heads, Mask};
use orrery_execute::kernels::conv::{Convolution, Geometry, Placement};
use orrery_execute::kernels::gemm::{Finish, Packed, Product, Rows};
use orrery_execute::kernels::matmul::{Batch, Turned};
use orrery_execute::kernels::movement::{copy_region, gather_strided, transpose};
use orrery_execute::kernels::pointwise::{Binary, Bound, Function, Instruction, Operand, Program, Source};
use orrery_execute::kernels::reduce::{Normalize, Reduction, reduce};
use orrery_execute::kernels::softmax::softmax;
use orrery_execute::kernels::threads::Threads;
use orrery_execute::kernels::transposed::Transposed;
use orrery_execute::kernels::window::{Pool, Pooling, Samples, Windows, resize};
use orrery_execute::kernels::winograd::Winograd;
use orrery_ir::weights::hash64;

/// Numbers from a seed.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        hash64(7, self.0)
    }
    fn up_to(&mut self, most: usize) -> usize {
        1 + (self.next() % most as u64) as usize
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.next() % of.len() as u64) as usize]
    }
    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

/// A sum in f64 with the sum of magnitudes of its terms, from which the bound follows.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    magnitude: f64,
    terms: usize,
}
impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }
    /// Each term is rounded at most once for the product and once for each addition after it.
    fn holds(&self, got: f32) {
        let bound = (self.terms + 1) as f64 * f64::from(f32::EPSILON) * self.magnitude + 1e-37;
        let error = (f64::from(got) - self.value).abs();
        assert!(error <= bound, "{got} for {}: error {error:e}, bound {bound:e}", self.value);
    }
}

fn all_threads() -> [Threads; 3] {
    [Threads::new(1), Threads::new(2), Threads::new(3)]
}

/// Runs on one, two and three threads, sees that all give the same bits, and returns them.
fn same_on_all(len: usize, run: impl Fn(&Threads, &mut [f32])) -> Vec<f32> {
    let results = all_threads().map(|threads| {
        let mut out = vec![f32::NAN; len];
        run(&threads, &mut out);
        out
    });
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&results[0]), bits(&results[1]));
    assert_eq!(bits(&results[0]), bits(&results[2]));
    results.into_iter().next().expect("there is one for each number of threads")
}

#[test]
fn products_of_all_shapes() {
    let mut random = Random(1);
    for round in 0..60 {
        let (m, n) = (random.up_to(90), random.up_to(150));
        let k = if round % 10 == 0 { 600 + random.up_to(900) } else { random.up_to(70) };
        let (a, b, bias) = (random.floats(m * k), random.floats(k * n), random.floats(n));
        let packed = [Packed::from_rows(k, n, &b)];
        let clamp = (round % 3 == 0).then_some((-0.5, 0.75));
        let got = same_on_all(m * n, |threads, out| {
            let finish = Finish { bias: Some(&bias), clamp, ..Finish::default() };
            Product { rows: Rows::Dense { data: &a, stride: k }, segments: 1, packed: &packed, finish }
                .run(threads, out);
        });
        let mut turned = Packed::room(k, n);
        turned.repack_transposed(
            &(0..n).flat_map(|j| (0..k).map(move |i| (i, j))).map(|(i, j)| b[i * n + j]).collect::<Vec<_>>(),
            k,
        );
        let mut again = vec![0.0; m * n];
        Product {
            rows: Rows::Dense { data: &a, stride: k },
            segments: 1,
            packed: &[turned],
            finish: Finish { bias: Some(&bias), clamp, ..Finish::default() },
        }
        .run_here(&mut again);
        assert_eq!(got, again, "packed from rows and from columns");
        for i in 0..m {
            for j in 0..n {
                let mut sum = Sum::default();
                sum.add(bias[j], 1.0);
                (0..k).for_each(|q| sum.add(a[i * k + q], b[q * n + j]));
                if let Some((least, largest)) = clamp {
                    sum.value = sum.value.clamp(least.into(), largest.into());
                }
                sum.holds(got[i * n + j]);
            }
        }
    }
}

#[test]
fn batches_share_or_broadcast_the_right_matrix() {
    let mut random = Random(2);
    for round in 0..30 {
        let (m, k, n, batch) = (random.up_to(20), random.up_to(20), random.up_to(40), random.up_to(9));
        let shared = round % 2 == 0;
        let turned = [Turned::None, Turned::Left, Turned::Right][round % 3];
        let (a, b) = (random.floats(batch * m * k), random.floats(if shared { 1 } else { batch } * k * n));
        let left: Vec<usize> = (0..batch).map(|i| i * m * k).collect();
        let right: Vec<usize> = (0..batch).map(|i| if shared { 0 } else { i * k * n }).collect();
        let got = same_on_all(batch * m * n, |threads, out| {
            Batch { a: &a, b: &b, left: &left, right: &right, m, k, n, turned }.run(threads, out);
        });
        for (i, got) in got.iter().enumerate() {
            let (at, row, column) = (i / (m * n), i / n % m, i % n);
            let mut sum = Sum::default();
            for q in 0..k {
                let place = if turned == Turned::Right { column * k + q } else { q * n + column };
                let own = if turned == Turned::Left { q * m + row } else { row * k + q };
                sum.add(a[left[at] + own], b[right[at] + place]);
            }
            sum.holds(*got);
        }
    }
}

/// Images `[images, height, width, channels]` under a window, summed plainly.
fn plain_convolution(
    g: &Geometry,
    place: &Placement,
    data: &[f32],
    weights: &[f32],
    bias: &[f32],
    at: [usize; 4],
) -> Sum {
    let [image, y, x, c] = at;
    let (inner, outer) = (g.channels / g.groups, g.out_channels / g.groups);
    let group = c / outer;
    let mut sum = Sum::default();
    sum.add(bias[c], 1.0);
    for ky in 0..g.taps[0] {
        for kx in 0..g.taps[1] {
            let row = (y * g.stride[0] + ky * g.dilation[0]).wrapping_sub(place.pad[0]);
            let column = (x * g.stride[1] + kx * g.dilation[1]).wrapping_sub(place.pad[1]);
            if row < place.size[0] && column < place.size[1] {
                for k in 0..inner {
                    let pixel = ((image * place.size[0] + row) * place.size[1] + column) * g.channels;
                    let weight = ((c * inner + k) * g.taps[0] + ky) * g.taps[1] + kx;
                    sum.add(data[pixel + group * inner + k], weights[weight]);
                }
            }
        }
    }
    sum
}

#[test]
fn convolutions_of_all_kinds() {
    let mut random = Random(3);
    for round in 0..120 {
        let taps = random.pick(&[[1, 1], [3, 3], [5, 5], [1, 7], [2, 3], [7, 7], [1, 1]]);
        let (groups, inner, outer) = match round % 4 {
            0 => (random.up_to(40), 1, 1),
            1 => (random.up_to(4), random.up_to(9), random.up_to(20)),
            2 => (1, random.up_to(11), random.up_to(80)),
            _ => (1, random.up_to(70), random.up_to(40)),
        };
        let stride = random.pick(&[[1, 1], [2, 2], [1, 2], [3, 1]]);
        let dilation = random.pick(&[[1, 1], [1, 1], [1, 1], [2, 2]]);
        let geometry = Geometry {
            channels: groups * inner,
            out_channels: groups * outer,
            groups,
            taps,
            stride,
            dilation,
        };
        let (images, pad) = (random.up_to(2), [random.up_to(4) - 1, random.up_to(4) - 1]);
        let size = [0, 1].map(|d| (taps[d] - 1) * dilation[d] + random.up_to(14));
        let out = [0, 1].map(|d| (size[d] + 2 * pad[d] - (taps[d] - 1) * dilation[d] - 1) / stride[d] + 1);
        let place = Placement { size, out, pad };
        let data = random.floats(images * size[0] * size[1] * geometry.channels);
        let weights = random.floats(geometry.out_channels * inner * taps[0] * taps[1]);
        let bias = random.floats(geometry.out_channels);
        let packed = Convolution::new(geometry, &weights, None);
        if Winograd::takes(&geometry) && Winograd::pays(&geometry, images, out) {
            // Other sums: see the test of their own.
            continue;
        }
        let got = same_on_all(images * out[0] * out[1] * geometry.out_channels, |threads, result| {
            let finish = Finish { bias: Some(&bias), ..Finish::default() };
            packed.run(threads, &data, images, &place, finish, result);
        });
        if packed.takes_planes() {
            let mut planes = vec![0.0; data.len()];
            let order = [images, size[0] * size[1], geometry.channels];
            transpose(&Threads::new(1), &data, &order, &[0, 2, 1], &mut planes);
            let from_planes = same_on_all(got.len(), |threads, result| {
                let finish = Finish { bias: Some(&bias), ..Finish::default() };
                packed.run_planes(threads, &planes, &place, finish, result);
            });
            assert_eq!(got, from_planes);
        }
        for (i, got) in got.iter().enumerate() {
            let c = geometry.out_channels;
            let at = [i / c / out[1] / out[0], i / c / out[1] % out[0], i / c % out[1], i % c];
            plain_convolution(&geometry, &place, &data, &weights, &bias, at).holds(*got);
        }
    }
}

#[test]
fn transposed_convolutions_scatter() {
    let mut random = Random(4);
    for _ in 0..40 {
        let (groups, inner, outer) = (random.up_to(3), random.up_to(9), random.up_to(9));
        let taps = random.pick(&[[2, 2], [3, 3], [1, 4]]);
        let (stride, dilation) = (random.pick(&[[2, 2], [1, 1], [3, 2]]), random.pick(&[[1, 1], [2, 1]]));
        let geometry = Geometry {
            channels: groups * inner,
            out_channels: groups * outer,
            groups,
            taps,
            stride,
            dilation,
        };
        let size = [random.up_to(6), random.up_to(6)];
        let out = [0, 1].map(|d| (size[d] - 1) * stride[d] + (taps[d] - 1) * dilation[d] + 1);
        let data = random.floats(2 * size[0] * size[1] * geometry.channels);
        let weights = random.floats(geometry.channels * outer * taps[0] * taps[1]);
        let bias = random.floats(geometry.out_channels);
        let c = geometry.out_channels;
        let mut expected = vec![Sum::default(); 2 * out[0] * out[1] * c];
        for (i, sum) in expected.iter_mut().enumerate() {
            sum.add(bias[i % c], 1.0);
        }
        for image in 0..2 {
            for (y, x) in (0..size[0]).flat_map(|y| (0..size[1]).map(move |x| (y, x))) {
                for (ky, kx) in (0..taps[0]).flat_map(|ky| (0..taps[1]).map(move |kx| (ky, kx))) {
                    let (ty, tx) = (y * stride[0] + ky * dilation[0], x * stride[1] + kx * dilation[1]);
                    for k in 0..geometry.channels {
                        for o in 0..outer {
                            let weight = weights[((k * outer + o) * taps[0] + ky) * taps[1] + kx];
                            let from = data[((image * size[0] + y) * size[1] + x) * geometry.channels + k];
                            let to = ((image * out[0] + ty) * out[1] + tx) * c + k / inner * outer + o;
                            expected[to].add(from, weight);
                        }
                    }
                }
            }
        }
        let packed = Transposed::new(geometry, &weights);
        let place = Placement { size, out, pad: [0, 0] };
        let got = same_on_all(expected.len(), |threads, result| {
            packed.run(threads, &data, &place, Finish { bias: Some(&bias), ..Finish::default() }, result);
        });
        got.iter().zip(&expected).for_each(|(got, sum)| sum.holds(*got));
    }
}

#[test]
fn moved_numbers_arrive() {
    let mut random = Random(5);
    for _ in 0..60 {
        let rank = random.up_to(5);
        let shape: Vec<usize> = (0..rank).map(|_| random.pick(&[1, 2, 3, 5, 17, 40])).collect();
        let mut order: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            order.swap(i, random.up_to(i + 1) - 1);
        }
        let data: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
        let strides: Vec<usize> = (0..rank).map(|d| shape[d + 1..].iter().product()).collect();
        let out_shape: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
        let place = |mut i: usize| {
            let mut at = 0;
            for (p, &d) in order.iter().enumerate().rev() {
                at += i % out_shape[p] * strides[d];
                i /= out_shape[p];
            }
            at as u32
        };
        for threads in all_threads() {
            let mut out = vec![u32::MAX; data.len()];
            transpose(&threads, &data, &shape, &order, &mut out);
            assert!(out.iter().enumerate().all(|(i, &x)| x == place(i)), "{shape:?} {order:?}");
        }
    }
    let threads = Threads::new(2);
    let data: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let mut out = vec![0.0; 12];
    gather_strided(&threads, &data, 59, &[(3, 0), (2, -20), (2, -3)], &mut out);
    assert_eq!(out[..4], [59.0, 56.0, 39.0, 36.0]);
    assert_eq!(out[8..], out[..4]);
    let mut to = vec![-1.0; 3 * 4 * 5];
    copy_region(&data, &[3, 4, 5], &[1, 1, 0], &mut to, &[3, 4, 5], &[0, 2, 1], &[2, 2, 3]);
    for (i, &x) in to.iter().enumerate() {
        let (a, b, c) = (i / 20, i / 5 % 4, i % 5);
        let inside = a < 2 && b >= 2 && (1..4).contains(&c);
        let expected = if inside { (((a + 1) * 4 + b - 1) * 5 + c - 1) as f32 } else { -1.0 };
        assert_eq!(x, expected);
    }
}

#[test]
fn programs_broadcast_and_agree_in_parts() {
    let mut random = Random(6);
    for _ in 0..40 {
        let shape = [random.up_to(4), random.up_to(30), random.pick(&[1, 3, 16, 33, 1500])];
        let len: usize = shape.iter().product();
        let (full, last, middle) = (random.floats(len), random.floats(shape[2]), random.floats(shape[1]));
        let mut program = Program::default();
        let sum = program.push(Instruction::Binary(Binary::Add, Source::Input(0), Source::Input(1)));
        let line = program.line(sum, 2.0, -0.5, f32::NEG_INFINITY, f32::INFINITY);
        let line = program.line(line, 1.0, 0.25, f32::NEG_INFINITY, f32::INFINITY);
        let bounded = program.line(line, 1.0, 0.0, -1.0, 1.5);
        let product = program.push(Instruction::MulAdd(bounded, Source::Input(2), Source::Input(0)));
        program.push(Instruction::Unary(Function::Abs, product));
        let simple = program.simplified();
        assert_eq!(simple.instructions().len(), 4);
        let operands = || {
            vec![
                Operand::Full(&full),
                Operand::strided(&last, &[(shape[0], 0), (shape[1], 0), (shape[2], 1)]),
                Operand::strided(&middle, &[(shape[0], 0), (shape[1], 1), (shape[2], 0)]),
            ]
        };
        let got = same_on_all(len, |threads, out| Bound::new(&simple, operands()).run(threads, out));
        let mut in_place = full.clone();
        let mut operands_in_place = operands();
        operands_in_place[0] = Operand::InPlace;
        Bound::new(&simple, operands_in_place).run(&Threads::new(1), &mut in_place);
        assert_eq!(got, in_place);
        for (i, &got) in got.iter().enumerate() {
            let (x, b, c) = (full[i], last[i % shape[2]], middle[i / shape[2] % shape[1]]);
            let bounded = ((f64::from(x) + f64::from(b)) * 2.0 - 0.25).clamp(-1.0, 1.5);
            let exact = (bounded * f64::from(c) + f64::from(x)).abs();
            assert!((f64::from(got) - exact).abs() <= 8.0 * f64::from(f32::EPSILON) * 4.0, "{got} {exact}");
        }
    }
}

#[test]
fn extremes_let_nan_through() {
    for (function, other) in [(Binary::Max, 1.0), (Binary::Min, 3.0)] {
        let mut program = Program::default();
        program.push(Instruction::Binary(function, Source::Input(0), Source::Input(1)));
        let (a, b) = ([f32::NAN, 2.0, other, 2.0], [2.0, f32::NAN, 2.0, other]);
        let mut out = [0.0; 4];
        Bound::new(&program, vec![Operand::Full(&a), Operand::Full(&b)]).run(&Threads::new(1), &mut out);
        assert!(out[0].is_nan() && out[1].is_nan());
        assert_eq!(out[2..], [2.0, 2.0]);
    }
}

#[test]
fn reductions_of_rows_and_columns() {
    let mut random = Random(7);
    for _ in 0..60 {
        let (outer, reduced, inner) =
            (random.up_to(5), random.pick(&[1, 2, 31, 300, 1025]), random.pick(&[1, 1, 3, 16, 70]));
        let data = random.floats(outer * reduced * inner);
        for how in [
            Reduction::Sum,
            Reduction::SumOfSquares,
            Reduction::SumOfMagnitudes,
            Reduction::Max,
            Reduction::Min,
        ] {
            let got =
                same_on_all(outer * inner, |threads, out| reduce(threads, &data, reduced, inner, how, out));
            for (i, &got) in got.iter().enumerate() {
                let values = (0..reduced).map(|r| data[(i / inner * reduced + r) * inner + i % inner]);
                let mut sum = Sum::default();
                match how {
                    Reduction::Sum => values.for_each(|x| sum.add(x, 1.0)),
                    Reduction::SumOfSquares => values.for_each(|x| sum.add(x, x)),
                    Reduction::SumOfMagnitudes => values.for_each(|x| sum.add(x.abs(), 1.0)),
                    Reduction::Max => sum.add(values.fold(f32::NEG_INFINITY, f32::max), 1.0),
                    Reduction::Min => sum.add(values.fold(f32::INFINITY, f32::min), 1.0),
                }
                sum.holds(got);
            }
        }
    }
}

#[test]
fn softmax_and_normalization_of_rows() {
    let mut random = Random(8);
    for _ in 0..40 {
        let (rows, len) = (random.up_to(20), random.pick(&[1, 2, 15, 16, 33, 128, 1000]));
        let data: Vec<f32> = random.floats(rows * len).into_iter().map(|x| 9.0 * x).collect();
        for logarithm in [false, true] {
            let got = same_on_all(rows * len, |threads, out| {
                out.copy_from_slice(&data);
                softmax(threads, out, len, logarithm);
            });
            for (row, got) in data.chunks(len).zip(got.chunks(len)) {
                let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let total: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
                for (&x, &got) in row.iter().zip(got) {
                    let exact = f64::from(x) - largest - total.ln();
                    // The argument of the exponential is rounded at up to 18; a relative error of 18 units follows.
                    let (exact, bound) =
                        if logarithm { (exact, 30.0) } else { (exact.exp(), 32.0 * exact.exp()) };
                    assert!((f64::from(got) - exact).abs() <= bound * f64::from(f32::EPSILON) + 1e-37);
                }
            }
        }
        let (scale, shift) = (random.floats(len), random.floats(len));
        let got = same_on_all(rows * len, |threads, out| {
            let (scale, shift) = (Some(&*scale), Some(&*shift));
            Normalize { len, center: true, epsilon: 1e-5, scale, shift, by_row: false }
                .run(threads, &data, out);
        });
        for (i, &got) in got.iter().enumerate() {
            let row = &data[i / len * len..][..len];
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / len as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / len as f64;
            let scaled = (f64::from(data[i]) - mean) / (variance + 1e-5).sqrt();
            let exact = scaled * f64::from(scale[i % len]) + f64::from(shift[i % len]);
            // The mean is off by up to the length of its sum in units of 9; the rest is a few roundings.
            let off = (len as f64 + 8.0) * 9.0 * f64::from(f32::EPSILON) / (variance + 1e-5).sqrt();
            assert!((f64::from(got) - exact).abs() <= off + 1e-5, "{got} {exact}");
        }
    }
}

#[test]
fn winograd_is_convolution_within_its_bound() {
    // The transforms with all numbers positive: what rounding errors can grow to.
    let into = [
        [4, 0, 5, 0, 1, 0],
        [0, 4, 4, 1, 1, 0],
        [0, 4, 4, 1, 1, 0],
        [0, 2, 1, 2, 1, 0],
        [0, 2, 1, 2, 1, 0],
        [0, 4, 0, 5, 0, 1],
    ]
    .map(|row| row.map(f64::from));
    let (sixth, twelfth) = (1.0 / 6.0, 1.0 / 12.0);
    let weight = [
        [0.25, 0.0, 0.0],
        [sixth; 3],
        [sixth; 3],
        [twelfth / 2.0, twelfth, sixth],
        [twelfth / 2.0, twelfth, sixth],
        [0.0, 0.0, 1.0],
    ];
    let from = [[1, 1, 1, 1, 1, 0], [0, 1, 1, 2, 2, 0], [0, 1, 1, 4, 4, 0], [0, 1, 1, 8, 8, 1]]
        .map(|row| row.map(f64::from));
    let mut random = Random(11);
    for round in 0..9 {
        let (channels, out_channels) = (15 + random.up_to(20), 15 + random.up_to(20));
        // Of the smaller ones, some hundred tiles are computed together.
        let (images, least) = if round < 6 { (2, 12) } else { (150, 4) };
        let (stride, dilation) = ([1, 1], [1, 1]);
        let geometry = Geometry { channels, out_channels, groups: 1, taps: [3, 3], stride, dilation };
        let (size, pad) = ([0; 2].map(|_| least + random.up_to(least)), [random.up_to(3) - 1, 1]);
        let out = [0, 1].map(|d| size[d] + 2 * pad[d] - 2);
        let place = Placement { size, out, pad };
        assert!(Winograd::takes(&geometry));
        let data = random.floats(images * size[0] * size[1] * channels);
        let weights = random.floats(out_channels * channels * 9);
        let (bias, added) =
            (random.floats(out_channels), random.floats(images * out[0] * out[1] * out_channels));
        let packed = Winograd::new(geometry, &weights);
        let got = same_on_all(added.len(), |threads, result| {
            let finish = Finish { bias: Some(&bias), added: Some(&added), ..Finish::default() };
            packed.run(threads, &data, &place, &finish, result);
        });
        for (i, &got) in got.iter().enumerate().step_by(7 * images) {
            let c = i % out_channels;
            let (image, y, x) = (
                i / out_channels / out[1] / out[0],
                i / out_channels / out[1] % out[0],
                i / out_channels % out[1],
            );
            let exact = plain_convolution(&geometry, &place, &data, &weights, &bias, [image, y, x, c]).value;
            let mut largest = 0.0_f64;
            for k in 0..channels {
                let mut pixels = [[0.0; 6]; 6];
                for (r, row) in pixels.iter_mut().enumerate() {
                    for (q, pixel) in row.iter_mut().enumerate() {
                        let (v, h) =
                            ((y / 4 * 4 + r).wrapping_sub(pad[0]), (x / 4 * 4 + q).wrapping_sub(pad[1]));
                        if v < size[0] && h < size[1] {
                            *pixel =
                                f64::from(data[((image * size[0] + v) * size[1] + h) * channels + k].abs());
                        }
                    }
                }
                for (r, q) in (0..6).flat_map(|r| (0..6).map(move |q| (r, q))) {
                    let d: f64 =
                        (0..36).map(|t| into[r][t / 6] * into[q][t % 6] * pixels[t / 6][t % 6]).sum();
                    let g: f64 = (0..9)
                        .map(|t| {
                            weight[r][t / 3]
                                * weight[q][t % 3]
                                * f64::from(weights[(c * channels + k) * 9 + t].abs())
                        })
                        .sum();
                    largest += from[y % 4][r] * from[x % 4][q] * d * g;
                }
            }
            // Six roundings on each way of each transform in each dimension, one for the weights, one for each product.
            let bound = (channels + 26) as f64 * f64::from(f32::EPSILON) * largest + 1e-6;
            let exact = exact + f64::from(added[i]);
            assert!((f64::from(got) - exact).abs() <= bound, "{got} {exact} {bound}");
        }
    }
}

#[test]
fn attention_is_softmax_of_products() {
    let mut random = Random(9);
    for round in 0..16 {
        let (batch, share, queries, keys) =
            (random.up_to(2), 1 + round % 2, random.up_to(if round < 8 { 4 } else { 100 }), random.up_to(70));
        let (heads, width, value_width) = (share * random.up_to(3), random.up_to(40), random.up_to(40));
        let kv_heads = heads / share;
        let by_head = round % 3 == 0;
        let steps = |heads: usize, length: usize, size: usize| {
            if by_head {
                [heads * length * size, length * size, size]
            } else {
                [heads * length * size, size, heads * size]
            }
        };
        let (q_steps, k_steps) = (steps(heads, queries, width), steps(kv_heads, keys, width));
        let (v_steps, out_steps) = (steps(kv_heads, keys, value_width), steps(heads, queries, value_width));
        let q = random.floats(batch * heads * queries * width);
        let k = random.floats(batch * kv_heads * keys * width);
        let v = random.floats(batch * kv_heads * keys * value_width);
        let added = random.floats(batch * queries * keys);
        let mask = Mask { data: &added, steps: [queries * keys, 0, keys], keys };
        let (masked, causal) = (round % 4 != 1, (round % 4 != 2).then_some(round % 5));
        let cap = (round % 4 == 3).then_some(2.0_f32);
        let got = same_on_all(batch * heads * queries * value_width, |threads, out| {
            Attention {
                q: Heads { data: &q, steps: q_steps },
                k: Heads { data: &k, steps: k_steps },
                v: Heads { data: &v, steps: v_steps },
                heads,
                share,
                queries,
                keys,
                width,
                value_width,
                scale: 0.3,
                mask: masked.then_some(mask),
                causal,
                counted: None,
                cap,
                by_head,
            }
            .run(threads, out);
        });
        for at in 0..batch * heads * queries {
            let (b, h, query) = (at / queries / heads, at / queries % heads, at % queries);
            let place = |steps: [usize; 3], h: usize, p: usize| b * steps[0] + h * steps[1] + p * steps[2];
            let weights: Vec<f64> = (0..keys)
                .map(|key| {
                    let (from, to) = (place(q_steps, h, query), place(k_steps, h / share, key));
                    let dot: f64 = (0..width).map(|w| f64::from(q[from + w]) * f64::from(k[to + w])).sum();
                    let mut score = 0.3 * dot;
                    if masked {
                        score += f64::from(added[(b * queries + query) * keys + key]);
                    }
                    if causal.is_some_and(|before| key > before + query) {
                        score = f64::NEG_INFINITY;
                    }
                    let capped = cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                    capped.exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for column in 0..value_width {
                let sum: f64 = (0..keys)
                    .map(|key| weights[key] * f64::from(v[place(v_steps, h / share, key) + column]))
                    .sum();
                let got = f64::from(got[place(out_steps, h, query) + column]);
                // Scores of up to 13 with a sum of `width` terms each, weights that add up to one.
                let bound = (width + keys + 20) as f64 * 13.0 * f64::from(f32::EPSILON);
                assert!((got - sum / total).abs() <= bound, "{got} {}", sum / total);
            }
        }
    }
}

#[test]
fn windows_pool_and_resize() {
    let mut random = Random(10);
    for round in 0..30 {
        let (channels, size) = (random.up_to(40), [2 + random.up_to(9), 2 + random.up_to(9)]);
        let (taps, stride, pad) = ([2 + round % 2, 3], random.pick(&[[1, 1], [2, 2]]), [1, round % 2]);
        let out = [0, 1].map(|d| (size[d] + pad[d] - taps[d]) / stride[d] + 1);
        let place = Placement { size, out, pad };
        let data = random.floats(2 * size[0] * size[1] * channels);
        let counts = |d: usize| (0..out[d]).map(|i| (i + 1) as f32).collect::<Vec<_>>();
        for kind in [Pooling::Max, Pooling::Average(counts(0), counts(1))] {
            let average = matches!(kind, Pooling::Average(..));
            let windows = Windows { channels, place, taps, stride, dilation: [1, 1] };
            let pool = Pool { kind, windows };
            let got =
                same_on_all(2 * out[0] * out[1] * channels, |threads, out| pool.run(threads, &data, out));
            for (i, &got) in got.iter().enumerate() {
                let (image, y, x, c) = (
                    i / channels / out[1] / out[0],
                    i / channels / out[1] % out[0],
                    i / channels % out[1],
                    i % channels,
                );
                let mut values = Vec::new();
                for (ky, kx) in (0..taps[0]).flat_map(|ky| (0..taps[1]).map(move |kx| (ky, kx))) {
                    let row = (y * stride[0] + ky).wrapping_sub(pad[0]);
                    let column = (x * stride[1] + kx).wrapping_sub(pad[1]);
                    if row < size[0] && column < size[1] {
                        values.push(data[((image * size[0] + row) * size[1] + column) * channels + c]);
                    }
                }
                if average {
                    let total: f32 = values.iter().sum();
                    let exact = total / ((y + 1) * (x + 1)) as f32;
                    assert!((got - exact).abs() <= 12.0 * f32::EPSILON, "{got} {exact}");
                } else {
                    assert_eq!(got, values.into_iter().fold(f32::NEG_INFINITY, f32::max));
                }
            }
        }
        let rows = Samples::Nearest((0..7).map(|i| i * size[0] / 7).collect());
        let columns = Samples::Linear((0..5).map(|i| (i % 2, (i + 1) % 2, i as f32 / 5.0)).collect());
        let got = same_on_all(2 * 35 * channels, |threads, out| {
            resize(threads, &data, size, channels, &rows, &columns, out);
        });
        for (i, &got) in got.iter().enumerate() {
            let (image, y, x, c) = (i / channels / 35, i / channels / 5 % 7, i / channels % 5, i % channels);
            let at = |x: usize| data[((image * size[0] + y * size[0] / 7) * size[1] + x) * channels + c];
            let weight = x as f32 / 5.0;
            let exact = at(x % 2) * (1.0 - weight) + at((x + 1) % 2) * weight;
            assert!((got - exact).abs() <= 4.0 * f32::EPSILON);
        }
    }
}
