//! Convolutions as matrix products: windows are laid out a block at a time and multiplied with the weights.

use super::super::matrix::kernel::{Left, Scalar, View};
use super::window::Span;

/// Elements of a block of windows: few enough for a cache, enough for many products with each.
const BLOCK: usize = 1 << 17;

/// A run of places in a row of windows: where it starts among the windows of a block, where in the input, how many.
struct Run {
    window: usize,
    input: usize,
    count: usize,
}

/// The windows of an image of one channel.
pub(super) struct Windows<'a> {
    spans: &'a [Span],
}

impl<'a> Windows<'a> {
    pub(super) fn new(spans: &'a [Span]) -> Self {
        Self { spans }
    }
    /// Number of windows.
    pub(super) fn count(&self) -> usize {
        self.spans.iter().map(|s| s.output).product()
    }
    /// Elements of the input.
    pub(super) fn input(&self) -> usize {
        self.spans.iter().map(|s| s.input).product()
    }
    /// Elements of a window.
    pub(super) fn kernel(&self) -> usize {
        self.spans.iter().map(|s| s.kernel).product()
    }
    /// Input elements from one window to the next in a run.
    fn step(&self) -> usize {
        self.spans.last().map_or(1, |s| s.stride as usize)
    }
    /// True where the windows are the input's elements themselves.
    pub(super) fn are_elements(&self) -> bool {
        self.spans.iter().all(|s| s.kernel == 1 && s.stride == 1 && s.before == 0 && s.input == s.output)
    }
    /// Number of windows in a block when each gives `rows` elements.
    pub(super) fn block(rows: usize) -> usize {
        (BLOCK / rows.max(1)).clamp(8, 512) / 8 * 8
    }
    /// Where element number `k` of the windows `from..to` lies, padding left out.
    fn runs(&self, k: usize, from: usize, to: usize) -> Vec<Run> {
        let Some((last, outer)) = self.spans.split_last() else {
            return vec![Run { window: 0, input: 0, count: to - from }];
        };
        let mut kernel = vec![0; self.spans.len()];
        let mut rest = k;
        for (index, span) in kernel.iter_mut().zip(self.spans).rev() {
            *index = rest % span.kernel;
            rest /= span.kernel;
        }
        let k_last = kernel[outer.len()];
        let mut runs = Vec::new();
        let mut at = from;
        while at < to {
            let (row, start) = (at / last.output, at % last.output);
            let end = last.output.min(start + to - at);
            let mut rest = row;
            let mut place = Some((0, last.input));
            for (d, span) in outer.iter().enumerate().rev() {
                let here = span.place(rest % span.output, kernel[d]);
                rest /= span.output;
                place = match (place, usize::try_from(here)) {
                    (Some((sum, stride)), Ok(here)) if here < span.input => {
                        Some((sum + here * stride, stride * span.input))
                    }
                    _ => None,
                };
            }
            if let Some((base, _)) = place {
                let (first, behind) = last.inside(k_last, start, end);
                if first < behind {
                    runs.push(Run {
                        window: at - from + first - start,
                        input: base + last.place(first, k_last) as usize,
                        count: behind - first,
                    });
                }
            }
            at += end - start;
        }
        runs
    }
}

/// Sizes of a convolution besides those of its windows.
pub(super) struct Sizes {
    pub(super) images: usize,
    pub(super) groups: usize,
    /// Input channels of a group.
    pub(super) inputs: usize,
    /// Output channels of a group.
    pub(super) outputs: usize,
}

/// The weights of each group, ready to be multiplied.
pub(super) fn group_weights<T: Scalar>(
    sizes: &Sizes,
    weights: &[T],
    rows: usize,
    inner: usize,
    how: Option<orrery_numerics::Accumulation>,
) -> Vec<Left<T>> {
    let size = rows * inner;
    (0..sizes.groups).map(|g| Left::new(View::rows(&weights[g * size..], inner), rows, inner, how)).collect()
}

/// Images of `groups * inputs` channels convolved with `[groups * outputs, inputs, kernel]` weights.
pub(super) fn convolve<T: Scalar>(
    sizes: &Sizes,
    spans: &[Span],
    x: &[T],
    weights: &[T],
    how: Option<orrery_numerics::Accumulation>,
) -> Vec<T> {
    let windows = Windows::new(spans);
    let (count, input, kernel) = (windows.count(), windows.input(), windows.kernel());
    let rows = sizes.inputs * kernel;
    let weights = group_weights(sizes, weights, sizes.outputs, rows, how);
    let mut out = vec![T::default(); sizes.images * sizes.groups * sizes.outputs * count];
    if out.is_empty() {
        return out;
    }
    let source = |i: usize, g: usize| &x[(i * sizes.groups + g) * sizes.inputs * input..];
    let target = |i: usize, g: usize| (i * sizes.groups + g) * sizes.outputs * count;
    if windows.are_elements() {
        for i in 0..sizes.images {
            for (g, weights) in weights.iter().enumerate() {
                let out = &mut out[target(i, g)..];
                weights.multiply(View::rows(source(i, g), count), count, out, count);
            }
        }
        return out;
    }
    let step = windows.step();
    let block = Windows::block(rows).min(count);
    let mut patch = vec![T::default(); rows * block];
    for from in (0..count).step_by(block) {
        let width = block.min(count - from);
        let runs: Vec<Vec<Run>> = (0..kernel).map(|k| windows.runs(k, from, from + width)).collect();
        // What no run covers is padding: the same places for all images and groups.
        patch.fill(T::default());
        for i in 0..sizes.images {
            for (g, weights) in weights.iter().enumerate() {
                let x = source(i, g);
                for (row, patch) in patch.chunks_exact_mut(width).take(rows).enumerate() {
                    let channel = &x[row / kernel * input..];
                    for run in &runs[row % kernel] {
                        let patch = &mut patch[run.window..run.window + run.count];
                        if step == 1 {
                            patch.copy_from_slice(&channel[run.input..run.input + run.count]);
                        } else {
                            let source = channel[run.input..].iter().step_by(step);
                            patch.iter_mut().zip(source).for_each(|(p, &x)| *p = x);
                        }
                    }
                }
                let out = &mut out[target(i, g) + from..];
                weights.multiply(View::rows(&patch, width), width, out, count);
            }
        }
    }
    out
}

/// The transpose of a convolution from `outputs` to `inputs` channels in each group: every input element adds its
/// window to the output. `weights` are `[groups * inputs, outputs, kernel]`; the spans' outputs are the images here.
pub(super) fn convolve_transposed<T: Scalar + std::ops::AddAssign>(
    sizes: &Sizes,
    spans: &[Span],
    x: &[T],
    weights: &[T],
    how: Option<orrery_numerics::Accumulation>,
) -> Vec<T> {
    let windows = Windows::new(spans);
    let (count, output, kernel) = (windows.count(), windows.input(), windows.kernel());
    let rows = sizes.outputs * kernel;
    let size = rows * sizes.inputs;
    let weights: Vec<Left<T>> = (0..sizes.groups)
        .map(|g| {
            let view = View::rows(&weights[g * size..], rows).transposed();
            Left::new(view, rows, sizes.inputs, how)
        })
        .collect();
    let mut out = vec![T::default(); sizes.images * sizes.groups * sizes.outputs * output];
    if out.is_empty() || count == 0 {
        return out;
    }
    let step = windows.step();
    let block = Windows::block(rows).min(count);
    let mut patch = vec![T::default(); rows * block];
    for from in (0..count).step_by(block) {
        let width = block.min(count - from);
        let runs: Vec<Vec<Run>> = (0..kernel).map(|k| windows.runs(k, from, from + width)).collect();
        for i in 0..sizes.images {
            for (g, weights) in weights.iter().enumerate() {
                let x = &x[(i * sizes.groups + g) * sizes.inputs * count..];
                let right = View { data: &x[from.min(x.len())..], row_step: count, column_step: 1 };
                weights.multiply(right, width, &mut patch, width);
                let start = (i * sizes.groups + g) * sizes.outputs * output;
                for (row, patch) in patch.chunks_exact(width).take(rows).enumerate() {
                    let channel = &mut out[start + row / kernel * output..];
                    for run in &runs[row % kernel] {
                        let target = channel[run.input..].iter_mut().step_by(step);
                        target.zip(&patch[run.window..run.window + run.count]).for_each(|(o, &p)| *o += p);
                    }
                }
            }
        }
    }
    out
}

/// The gradient of the weights of [`convolve`] by its images and the gradient `dy` of what it makes: every element is one
/// sum over images and windows, in this order.
pub(super) fn weight_gradient<T: Scalar>(
    sizes: &Sizes,
    spans: &[Span],
    x: &[T],
    dy: &[T],
    how: Option<orrery_numerics::Accumulation>,
) -> Vec<T> {
    let windows = Windows::new(spans);
    let (count, input, kernel) = (windows.count(), windows.input(), windows.kernel());
    let (inner, columns) = (sizes.images * count, sizes.inputs * kernel);
    let mut out = vec![T::default(); sizes.groups * sizes.outputs * columns];
    if out.is_empty() || inner == 0 {
        return out;
    }
    let step = windows.step();
    let runs: Vec<Vec<Run>> = (0..kernel).map(|k| windows.runs(k, 0, count)).collect();
    let block = Windows::block(inner).min(columns);
    let mut patch = vec![T::default(); block * inner];
    let mut left = Vec::with_capacity(sizes.outputs * inner);
    for g in 0..sizes.groups {
        left.clear();
        for o in 0..sizes.outputs {
            for i in 0..sizes.images {
                let start = ((i * sizes.groups + g) * sizes.outputs + o) * count;
                left.extend_from_slice(&dy[start..start + count]);
            }
        }
        let left = Left::new(View::rows(&left, inner), sizes.outputs, inner, how);
        for from in (0..columns).step_by(block) {
            let width = block.min(columns - from);
            patch.fill(T::default());
            for (column, patch) in patch.chunks_exact_mut(inner).take(width).enumerate() {
                let (channel, k) = ((from + column) / kernel, (from + column) % kernel);
                for (i, patch) in patch.chunks_exact_mut(count).enumerate() {
                    let channel = &x[((i * sizes.groups + g) * sizes.inputs + channel) * input..];
                    for run in &runs[k] {
                        let source = channel[run.input..].iter().step_by(step);
                        let patch = &mut patch[run.window..run.window + run.count];
                        patch.iter_mut().zip(source).for_each(|(p, &x)| *p = x);
                    }
                }
            }
            let out = &mut out[g * sizes.outputs * columns + from..];
            left.multiply(View::rows(&patch, inner).transposed(), width, out, columns);
        }
    }
    out
}
