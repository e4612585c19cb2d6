//! Convolutions and the gradients of their weights as products of matrices.

use super::Array;
use super::evaluate::Evaluator;
use orrery_ir::Node;
use orrery_numerics::DType;

/// Elements of the right-hand side of a weight gradient's product that are laid out at a time.
const LAID_OUT: usize = 1 << 20;
/// Where a tap sees nothing but padding.
const OUTSIDE: u32 = u32::MAX;

/// What a convolution, or its transpose, is of.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// Images, and their shape.
    pub(super) x: (&'a [f32], &'a [usize]),
    /// Weights, and their shape.
    pub(super) w: (&'a [f32], &'a [usize]),
    /// What is added to each channel.
    pub(super) bias: Option<&'a [f32]>,
}

impl Evaluator<'_> {
    /// A convolution as a product: every output position is a row of what its window sees.
    pub(super) fn convolution(&self, node: &Node, operands: Operands<'_>) -> Option<Array> {
        let Operands { x: (x, xs), w: (w, ws), bias } = operands;
        let spatial = xs.len().checked_sub(2)?;
        if ws.len() != xs.len() {
            return None;
        }
        let (strides, dilations, mut pads) = (
            ints(node, "strides", 1, spatial)?,
            ints(node, "dilations", 1, spatial)?,
            ints(node, "pads", 0, 2 * spatial)?,
        );
        // A part of a grouped convolution has as many groups as its channels make.
        let groups = match node.attrs.int_or("group", 1) {
            0 => xs[1].checked_div(ws[1])?,
            given => usize::try_from(given).ok()?,
        };
        if groups == 0 {
            return None;
        }
        let (kernel, input) = (&ws[2..], &xs[2..]);
        let padding = node.attrs.str_or("auto_pad", "NOTSET");
        for d in 0..spatial {
            let after = d + spatial;
            (pads[d], pads[after]) = match padding {
                "" | "NOTSET" => (pads[d], pads[after]),
                "VALID" => (0, 0),
                same => {
                    // As many windows as strides begin in the input; the odd element of padding is in front or behind.
                    let (extent, stride) = (input[d] as i64, strides[d].max(1));
                    let (windows, reach) =
                        ((extent + stride - 1) / stride, dilations[d] * (kernel[d] as i64 - 1) + 1);
                    let total = ((windows - 1).max(0) * stride + reach - extent).max(0);
                    let less = total / 2;
                    if same == "SAME_UPPER" { (less, total - less) } else { (total - less, less) }
                }
            };
        }
        let mut output = Vec::with_capacity(spatial);
        for d in 0..spatial {
            let reach = dilations[d] * (kernel[d] as i64 - 1) + 1;
            let span = input[d] as i64 + pads[d] + pads[d + spatial] - reach;
            output.push(usize::try_from(span.div_euclid(strides[d].max(1)) + 1).ok()?);
        }
        let (channels, outs) = (ws[1], ws[0] / groups);
        if xs[1] != channels * groups || !ws[0].is_multiple_of(groups) {
            return None;
        }
        let (positions, window): (usize, usize) = (output.iter().product(), kernel.iter().product());
        let depth = channels * window;
        let windows =
            Windows { kernel, input, output: &output, strides: &strides, dilations: &dilations, pads: &pads };
        let plane: usize = input.iter().product();
        let mut out = vec![0.0; xs[0] * ws[0] * positions];
        let mut columns = vec![0.0; depth * positions];
        for image in 0..xs[0] {
            for group in 0..groups {
                for row in 0..depth {
                    let (channel, tap) = (row / window, row % window);
                    let source = &x[((image * groups + group) * channels + channel) * plane..][..plane];
                    fill_row(&mut columns[row * positions..][..positions], source, 0.0, tap, &windows);
                }
                let to = &mut out[(image * ws[0] + group * outs) * positions..][..outs * positions];
                self.product(
                    &w[group * outs * depth..][..outs * depth],
                    &columns,
                    [outs, depth, positions],
                    to,
                );
            }
        }
        add_bias(&mut out, bias, ws[0], positions);
        let shape = [xs[0], ws[0]].into_iter().chain(output).collect();
        Some(Array::floats(DType::F32, shape, out))
    }
    /// The transpose of a convolution as a product: every output position is a column of what added its window to it.
    pub(super) fn transposed(&self, node: &Node, operands: Operands<'_>) -> Option<Array> {
        let Operands { x: (x, xs), w: (w, ws), bias } = operands;
        let spatial = xs.len().checked_sub(2)?;
        let given = matches!(node.attrs.str_or("auto_pad", "NOTSET"), "" | "NOTSET");
        if !given || node.attrs.ints("output_shape").is_some() || ws.len() != xs.len() || xs[1] != ws[0] {
            return None;
        }
        let (strides, dilations, pads, added) = (
            ints(node, "strides", 1, spatial)?,
            ints(node, "dilations", 1, spatial)?,
            ints(node, "pads", 0, 2 * spatial)?,
            ints(node, "output_padding", 0, spatial)?,
        );
        let groups = usize::try_from(node.attrs.int_or("group", 1)).ok()?;
        let (kernel, input, outs) = (&ws[2..], &xs[2..], ws[1]);
        let channels = xs[1].checked_div(groups).filter(|channels| channels * groups == xs[1])?;
        let mut output = Vec::with_capacity(spatial);
        for d in 0..spatial {
            let reach = dilations[d] * (kernel[d] as i64 - 1) + 1;
            let full = (input[d] as i64 - 1) * strides[d] + reach + added[d];
            output.push(usize::try_from(full - pads[d] - pads[d + spatial]).ok()?);
        }
        let (positions, taps): (usize, usize) = (output.iter().product(), kernel.iter().product());
        let plane: usize = input.iter().product();
        if positions * taps == 0 || u32::try_from(plane).is_err() {
            return None;
        }
        // For each tap and output position, the input element whose window reaches there, dimension after dimension.
        let (mut seen, mut count) = (vec![0_u32], 1);
        for d in 0..spatial {
            let (extent, stride) = (output[d], strides[d].max(1));
            let reached: Vec<u32> = (0..kernel[d] * extent)
                .map(|i| {
                    let from = (i % extent) as i64 + pads[d] - (i / extent) as i64 * dilations[d];
                    let inside = from % stride == 0 && (0..input[d] as i64).contains(&(from / stride));
                    if inside { (from / stride) as u32 } else { OUTSIDE }
                })
                .collect();
            let both = |row: u32, at: u32| match (row, at) {
                (OUTSIDE, _) | (_, OUTSIDE) => OUTSIDE,
                (row, at) => row * input[d] as u32 + at,
            };
            let mut next = Vec::with_capacity(seen.len() * reached.len());
            for rows in seen.chunks_exact(count) {
                for reached in reached.chunks_exact(extent) {
                    next.extend(rows.iter().flat_map(|&row| reached.iter().map(move |&at| both(row, at))));
                }
            }
            seen = next;
            count *= extent;
        }
        let depth = channels * taps;
        let mut out = vec![0.0; xs[0] * groups * outs * positions];
        let (mut left, mut columns) = (vec![0.0; outs * depth], vec![0.0; depth * positions]);
        for group in 0..groups {
            for (i, window) in left.chunks_exact_mut(taps).enumerate() {
                let (row, channel) = (i / channels, group * channels + i % channels);
                window.copy_from_slice(&w[(channel * outs + row) * taps..][..taps]);
            }
            for image in 0..xs[0] {
                for (row, line) in columns.chunks_exact_mut(positions.max(1)).enumerate() {
                    let channel = (image * groups + group) * channels + row / taps;
                    let source = &x[channel * plane..][..plane];
                    for (value, place) in line.iter_mut().zip(&seen[row % taps * positions..]) {
                        *value = source.get(*place as usize).copied().unwrap_or(0.0);
                    }
                }
                let to = &mut out[(image * groups + group) * outs * positions..][..outs * positions];
                self.product(&left, &columns, [outs, depth, positions], to);
            }
        }
        add_bias(&mut out, bias, groups * outs, positions);
        let shape = [xs[0], groups * outs].into_iter().chain(output).collect();
        Some(Array::floats(DType::F32, shape, out))
    }
    /// The gradient of a convolution's weights as a product: `[out, n * position]`, what came back, times
    /// `[n * position, channel * tap]`, what the windows saw. Each sum runs over the positions of one image after the other.
    pub(super) fn weight_gradient(
        &self,
        node: &Node,
        x: &[f32],
        xs: &[usize],
        dy: &[f32],
        dys: &[usize],
    ) -> Option<Array> {
        let spatial = xs.len().checked_sub(2)?;
        let kernel: Vec<usize> = node
            .attrs
            .ints("kernel_shape")?
            .iter()
            .map(|&n| usize::try_from(n).ok())
            .collect::<Option<_>>()?;
        if spatial == 0 || kernel.len() != spatial || dys.len() != xs.len() || dys[0] != xs[0] {
            return None;
        }
        let channels = match node.attrs.int("group_channels") {
            None => xs[1],
            Some(own) => usize::try_from(own).ok()?,
        };
        let groups =
            xs[1].checked_div(channels).filter(|&groups| groups > 0 && groups * channels == xs[1])?;
        if !dys[1].is_multiple_of(groups) {
            return None;
        }
        let (strides, dilations, pads) = (
            ints(node, "strides", 1, spatial)?,
            ints(node, "dilations", 1, spatial)?,
            ints(node, "pads", 0, 2 * spatial)?,
        );
        let windows = Windows {
            kernel: &kernel,
            input: &xs[2..],
            output: &dys[2..],
            strides: &strides,
            dilations: &dilations,
            pads: &pads,
        };
        let (images, outs) = (xs[0], dys[1] / groups);
        let (positions, taps): (usize, usize) = (dys[2..].iter().product(), kernel.iter().product());
        let plane: usize = xs[2..].iter().product();
        let (depth, columns) = (images * positions, channels * taps);
        if outs * depth * columns == 0 {
            return None;
        }
        // For each tap and position, the place that the window sees there.
        let places: Vec<u32> = (0..u32::try_from(plane).ok()?).collect();
        let mut seen = vec![OUTSIDE; taps * positions];
        for (tap, row) in seen.chunks_exact_mut(positions).enumerate() {
            fill_row(row, &places, OUTSIDE, tap, &windows);
        }
        // Sums that are rounded in groups go on from one slab to the next where a slab has whole groups.
        let group = self.group().map_or(1, |(_, group)| group);
        let slab = (LAID_OUT / columns / group).max(1).saturating_mul(group).min(depth);
        let mut out = vec![0.0; groups * outs * columns];
        let (mut left, mut right) = (vec![0.0; outs * slab], vec![0.0; slab * columns]);
        for (of_group, sums) in out.chunks_exact_mut(outs * columns).enumerate() {
            for first in (0..depth).step_by(slab) {
                let length = slab.min(depth - first);
                for (at, k) in (first..first + length).enumerate() {
                    let (image, position) = (k / positions, k % positions);
                    for row in 0..outs {
                        left[row * length + at] =
                            dy[(image * dys[1] + of_group * outs + row) * positions + position];
                    }
                    for (channel, line) in right[at * columns..][..columns].chunks_exact_mut(taps).enumerate()
                    {
                        let source = &x[(image * xs[1] + of_group * channels + channel) * plane..][..plane];
                        for (tap, value) in line.iter_mut().enumerate() {
                            let place = seen[tap * positions + position];
                            *value = source.get(place as usize).copied().unwrap_or(0.0);
                        }
                    }
                }
                self.product(
                    &left[..outs * length],
                    &right[..length * columns],
                    [outs, length, columns],
                    sums,
                );
            }
        }
        let shape = [dys[1], channels].into_iter().chain(kernel).collect();
        Some(Array::floats(DType::F32, shape, out))
    }
}

/// Adds to each channel its bias.
fn add_bias(out: &mut [f32], bias: Option<&[f32]>, channels: usize, positions: usize) {
    let Some(bias) = bias else { return };
    for (i, row) in out.chunks_exact_mut(positions.max(1)).enumerate() {
        row.iter_mut().for_each(|v| *v += bias[i % channels]);
    }
}

/// Integers of an attribute, all `default` where it is absent; none where there are not as many as wanted.
fn ints(node: &Node, name: &str, default: i64, count: usize) -> Option<Vec<i64>> {
    match node.attrs.ints(name) {
        Some(values) if values.len() == count => Some(values.to_vec()),
        Some(_) => None,
        None => Some(vec![default; count]),
    }
}

/// The windows of a convolution over an image.
struct Windows<'a> {
    kernel: &'a [usize],
    input: &'a [usize],
    output: &'a [usize],
    strides: &'a [i64],
    dilations: &'a [i64],
    pads: &'a [i64],
}

/// What one kernel tap of one channel sees at every output position.
fn fill_row<T: Copy>(row: &mut [T], source: &[T], outside: T, tap: usize, windows: &Windows<'_>) {
    let Windows { kernel, input, output, strides, dilations, pads } = *windows;
    let spatial = kernel.len();
    let mut offset = vec![0_i64; spatial];
    let mut rest = tap;
    for d in (0..spatial).rev() {
        offset[d] = (rest % kernel[d]) as i64 * dilations[d] - pads[d];
        rest /= kernel[d];
    }
    let Some(last) = spatial.checked_sub(1) else {
        row.copy_from_slice(source);
        return;
    };
    for (outer, line) in row.chunks_exact_mut(output[last].max(1)).enumerate() {
        let (mut rest, mut index, mut stride, mut inside) = (outer, 0_i64, input[last] as i64, true);
        for d in (0..last).rev() {
            let at = (rest % output[d]) as i64 * strides[d] + offset[d];
            rest /= output[d];
            inside &= (0..input[d] as i64).contains(&at);
            index += at * stride;
            stride *= input[d] as i64;
        }
        for (i, value) in line.iter_mut().enumerate() {
            let at = i as i64 * strides[last] + offset[last];
            *value = if inside && (0..input[last] as i64).contains(&at) {
                source[(index + at) as usize]
            } else {
                outside
            };
        }
    }
}
