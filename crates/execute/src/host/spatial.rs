//! Convolution, pooling and resizing of one- and two-dimensional images, channels last.

use super::prepare::{Choice, integers, layout_at_hand};
use super::step::{Call, HostKernel, Outcome};
use super::value::Layout;
use crate::kernels::conv::{Convolution, Geometry, Placement};
use crate::kernels::reduce::{Reduction, reduce};
use crate::kernels::transposed::Transposed;
use crate::kernels::window::{Pool, Pooling, Samples, Windows, resize};
use orrery_ir::{Dim, Node, Op};

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    if !choice.is_f32(0) {
        return None;
    }
    let node = choice.node;
    match node.op {
        Op::Conv | Op::ConvTranspose => {
            let weights = node.inputs.get(1).copied().flatten().filter(|_| choice.is_f32(1))?;
            let shape = choice.graph.values[weights].ty.as_tensor()?.extents()?;
            let dims = shape.len().checked_sub(2).filter(|d| (1..=2).contains(d))?;
            let window = WindowAttrs::of(node, dims, Some(&shape[2..]))?;
            let groups = usize::try_from(node.attrs.int_or("group", 1)).ok().filter(|g| *g > 0)?;
            if shape.contains(&0) || shape[0] % groups != 0 {
                return None;
            }
            let constant = match choice.constant(1) {
                Some(weights) => Some(weights.values::<f32>()?),
                None => None,
            };
            let transposed = node.op == Op::ConvTranspose;
            let (channels, out_channels) =
                if transposed { (shape[0], shape[1] * groups) } else { (shape[1] * groups, shape[0]) };
            let WindowAttrs { taps, stride, dilation, .. } = window;
            let geometry = Geometry { channels, out_channels, groups, taps, stride, dilation };
            if transposed {
                let extra = two(&integers(node, "output_padding", dims, 0)?, 0);
                let sizes = node.attrs.ints("output_shape").is_some();
                if sizes || window.same.is_some() {
                    return None;
                }
                let packed = constant.map(|values| Transposed::new(geometry, &values));
                return Some(Box::new(ConvTranspose { window, extra, geometry, packed }));
            }
            let made = node.outputs.first().copied().flatten()?;
            let extents = choice.graph.values[made].ty.as_tensor().and_then(|t| t.shape.clone());
            let images = extents.as_ref().and_then(|s| s.first()?.extent()).unwrap_or(1);
            let out: Option<Vec<usize>> = extents.and_then(|s| s.get(2..)?.iter().map(Dim::extent).collect());
            let out = out.map(|out| (images, two(&out, 1)));
            let packed = constant.map(|values| Convolution::new(geometry, &values, out));
            Some(Box::new(Conv { window, geometry, packed }))
        }
        Op::MaxPool | Op::AveragePool => {
            if node.outputs.len() > 1 && node.outputs[1].is_some() {
                return None;
            }
            let dims = node.attrs.ints("kernel_shape")?.len();
            let window = WindowAttrs::of(node, dims, None)?;
            let include_pad = node.attrs.flag("count_include_pad");
            Some(Box::new(PoolKernel { window, average: node.op == Op::AveragePool, include_pad }))
        }
        Op::GlobalAveragePool | Op::GlobalMaxPool => {
            Some(Box::new(GlobalPool { average: node.op == Op::GlobalAveragePool }))
        }
        Op::Resize => ResizeKernel::of(node).map(|k| Box::new(k) as Box<dyn HostKernel>),
        _ => None,
    }
}

/// A pair from one or two values; one-dimensional images are one row.
fn two(values: &[usize], first: usize) -> [usize; 2] {
    match values {
        [x] => [first, *x],
        [y, x, ..] => [*y, *x],
        [] => [first, first],
    }
}

/// The window as the attributes say.
pub(super) struct WindowAttrs {
    dims: usize,
    pub(super) taps: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    before: [usize; 2],
    after: [usize; 2],
    /// Padding so that the output is the input over the stride; true where the odd one goes before.
    same: Option<bool>,
    round_up: bool,
}

impl WindowAttrs {
    pub(super) fn of(node: &Node, dims: usize, taps: Option<&[usize]>) -> Option<Self> {
        if !(1..=2).contains(&dims) {
            return None;
        }
        let taps = match taps {
            Some(taps) => taps.to_vec(),
            None => integers(node, "kernel_shape", dims, 1)?,
        };
        let stride = two(&integers(node, "strides", dims, 1)?, 1);
        let pads = integers(node, "pads", 2 * dims, 0)?;
        let (same, explicit) = match node.attrs.str_or("auto_pad", "NOTSET") {
            "NOTSET" => (None, true),
            "VALID" => (None, false),
            "SAME_UPPER" => (Some(false), false),
            "SAME_LOWER" => (Some(true), false),
            _ => return None,
        };
        let pads = if explicit { pads } else { vec![0; 2 * dims] };
        let window = Self {
            dims,
            taps: two(&taps, 1),
            stride,
            dilation: two(&integers(node, "dilations", dims, 1)?, 1),
            before: two(&pads[..dims], 0),
            after: two(&pads[dims..], 0),
            same,
            round_up: node.attrs.flag("ceil_mode"),
        };
        let positive = [window.taps, window.stride, window.dilation].iter().flatten().all(|&n| n > 0);
        positive.then_some(window)
    }
    /// Height and width of an input shape.
    pub(super) fn size(&self, shape: &[usize]) -> Option<[usize; 2]> {
        (shape.len() == self.dims + 2).then(|| two(&shape[2..], 1))
    }
    /// Shape of the output.
    pub(super) fn shape(&self, images: usize, channels: usize, out: [usize; 2]) -> Vec<usize> {
        [images, channels].into_iter().chain(out[2 - self.dims..].iter().copied()).collect()
    }
    /// The window on an image of that size, at as many places as given.
    pub(super) fn at(&self, size: [usize; 2], out: [usize; 2]) -> Placement {
        Placement { size, out, pad: self.before }
    }
    /// A window on each of so many channels.
    pub(super) const fn windows(&self, channels: usize, place: Placement) -> Windows {
        let Self { taps, stride, dilation, .. } = *self;
        Windows { channels, place, taps, stride, dilation }
    }
    /// Length of the window in dimension `d`.
    fn reach(&self, d: usize) -> usize {
        (self.taps[d] - 1) * self.dilation[d] + 1
    }
    /// Where the window goes on an image of that size, and the padding after; none where it does not fit.
    pub(super) fn place(&self, size: [usize; 2]) -> Option<(Placement, [usize; 2])> {
        let mut place = Placement { size, out: [0; 2], pad: self.before };
        let mut after = self.after;
        for d in 0..2 {
            let (extent, stride, reach) = (size[d], self.stride[d], self.reach(d));
            if let Some(before) = self.same {
                place.out[d] = extent.div_ceil(stride);
                let total = ((place.out[d].max(1) - 1) * stride + reach).saturating_sub(extent);
                place.pad[d] = if before { total - total / 2 } else { total / 2 };
                after[d] = total - place.pad[d];
                continue;
            }
            let room = (extent + place.pad[d] + after[d]).checked_sub(reach)?;
            place.out[d] = if self.round_up { room.div_ceil(stride) } else { room / stride } + 1;
            // A window that would start behind the image and the padding before it is left out.
            if self.round_up && (place.out[d] - 1) * stride >= extent + place.pad[d] {
                place.out[d] -= 1;
            }
        }
        Some((place, after))
    }
}

struct Conv {
    window: WindowAttrs,
    geometry: Geometry,
    /// None where the weights are made at run time.
    packed: Option<Convolution>,
}
impl HostKernel for Conv {
    fn name(&self) -> &'static str {
        "convolution"
    }
    fn takes_tail(&self) -> bool {
        true
    }
    fn takes_bias(&self) -> bool {
        true
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let fits = self.window.size(&shape).filter(|_| shape[1] == self.geometry.channels);
        let Some((place, _)) = fits.and_then(|size| self.window.place(size)) else {
            return Ok(Outcome::Declined);
        };
        let out = self.window.shape(shape[0], self.geometry.out_channels, place.out);
        if let Some(packed) = &self.packed {
            return convolve(call, packed, &place, out);
        }
        let Some(weights) = call.floats(1, Layout::Plain) else { return Ok(Outcome::Declined) };
        let packed = Convolution::new(self.geometry, &weights, Some((shape[0], place.out)));
        convolve(call, &packed, &place, out)
    }
}

/// Convolves input 0 to images of shape `out`, with input 2 as bias.
fn convolve(
    call: &mut Call<'_>,
    packed: &Convolution,
    place: &Placement,
    out: Vec<usize>,
) -> Result<Outcome, String> {
    let turned = call.input(0).is_some_and(|v| v.has(Layout::ChannelsLast));
    let planes = packed.takes_planes() && !turned;
    let layout = if planes { Layout::Plain } else { Layout::ChannelsLast };
    let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
    let bias = call.floats(2, Layout::Plain);
    if bias.as_ref().is_some_and(|b| b.len() != packed.geometry().out_channels) {
        return Ok(Outcome::Declined);
    }
    let images = out[0];
    call.make_with_tail(out, Layout::ChannelsLast, bias.as_deref(), packed.adds(), |call, finish, out| {
        let threads = &call.machine.threads;
        if planes {
            packed.run_planes(threads, &data, place, finish, out);
        } else {
            packed.run(threads, &data, images, place, finish, out);
        }
    })
}

struct ConvTranspose {
    window: WindowAttrs,
    extra: [usize; 2],
    geometry: Geometry,
    /// None where the weights are made at run time.
    packed: Option<Transposed>,
}
impl ConvTranspose {
    /// Where the windows go if this is a convolution with the window turned round: a step of one, all in one group, and
    /// no more cut off than a window reaches.
    fn as_convolution(&self, size: [usize; 2], out: [usize; 2]) -> Option<Placement> {
        let cut = self.window.before;
        let pad = [0, 1].map(|d| (self.window.reach(d) - 1).checked_sub(cut[d]));
        let plain = self.window.stride == [1, 1] && self.geometry.groups == 1;
        let [Some(down), Some(across)] = pad else { return None };
        plain.then_some(Placement { size, out, pad: [down, across] })
    }
    /// The weights of that convolution, `[out channels, channels, taps down, taps across]`.
    fn turned_round(&self, weights: &[f32]) -> Vec<f32> {
        let Geometry { channels, out_channels, taps: [down, across], .. } = self.geometry;
        let area = down * across;
        let mut turned = Vec::with_capacity(weights.len());
        for o in 0..out_channels {
            for c in 0..channels {
                turned.extend(weights[(c * out_channels + o) * area..][..area].iter().rev());
            }
        }
        turned
    }
}
impl HostKernel for ConvTranspose {
    fn name(&self) -> &'static str {
        "transposed convolution"
    }
    fn takes_tail(&self) -> bool {
        true
    }
    fn takes_bias(&self) -> bool {
        true
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let (geometry, window) = (&self.geometry, &self.window);
        let Some(size) = window.size(&shape).filter(|_| shape[1] == geometry.channels) else {
            return Ok(Outcome::Declined);
        };
        let mut out = [0; 2];
        for d in 0..2 {
            let full = (size[d].max(1) - 1) * window.stride[d] + window.reach(d) + self.extra[d];
            let Some(extent) = full.checked_sub(window.before[d] + window.after[d]) else {
                return Ok(Outcome::Declined);
            };
            out[d] = extent;
        }
        let out_shape = window.shape(shape[0], geometry.out_channels, out);
        let mut made = None;
        let packed = match &self.packed {
            Some(packed) => packed,
            None => {
                let Some(weights) = call.floats(1, Layout::Plain) else { return Ok(Outcome::Declined) };
                if let Some(place) = self.as_convolution(size, out) {
                    let turned = self.turned_round(&weights);
                    let packed = Convolution::new(*geometry, &turned, Some((shape[0], out)));
                    return convolve(call, &packed, &place, out_shape);
                }
                &*made.insert(Transposed::new(*geometry, &weights))
            }
        };
        let Some(data) = call.floats(0, Layout::ChannelsLast) else { return Ok(Outcome::Declined) };
        let bias = call.floats(2, Layout::Plain);
        if bias.as_ref().is_some_and(|b| b.len() != geometry.out_channels) {
            return Ok(Outcome::Declined);
        }
        let place = Placement { size, out, pad: window.before };
        call.make_with_tail(out_shape, Layout::ChannelsLast, bias.as_deref(), false, |call, finish, out| {
            packed.run(&call.machine.threads, &data, &place, finish, out);
        })
    }
}

struct PoolKernel {
    window: WindowAttrs,
    average: bool,
    include_pad: bool,
}
impl HostKernel for PoolKernel {
    fn name(&self) -> &'static str {
        "pooling"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let window = &self.window;
        let placed = window.size(&shape).and_then(|size| window.place(size));
        let Some((place, after)) = placed else { return Ok(Outcome::Declined) };
        let Some(data) = call.floats(0, Layout::ChannelsLast) else { return Ok(Outcome::Declined) };
        let kind = if self.average {
            // How many taps of the window count at each position.
            let counts = |d: usize| -> Vec<f32> {
                let (first, end) = if self.include_pad {
                    (0, place.size[d] + place.pad[d] + after[d])
                } else {
                    (place.pad[d], place.pad[d] + place.size[d])
                };
                (0..place.out[d])
                    .map(|at| {
                        let taps =
                            (0..window.taps[d]).map(|k| at * window.stride[d] + k * window.dilation[d]);
                        taps.filter(|p| (first..end).contains(p)).count() as f32
                    })
                    .collect()
            };
            Pooling::Average(counts(0), counts(1))
        } else {
            Pooling::Max
        };
        let out_shape = window.shape(shape[0], shape[1], place.out);
        let mut out = call.room_for(&out_shape)?;
        let windows = window.windows(shape[1], place);
        Pool { kind, windows }.run(&call.machine.threads, &data, &mut out);
        call.make(out_shape, out, Layout::ChannelsLast)
    }
}

struct GlobalPool {
    average: bool,
}
impl HostKernel for GlobalPool {
    fn name(&self) -> &'static str {
        "global pooling"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        if shape.len() < 3 || shape.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let Some(layout) = call.input(0).map(|v| layout_at_hand(v)) else { return Ok(Outcome::Declined) };
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        let spatial: usize = shape[2..].iter().product();
        let mut out = call.room(shape[0] * shape[1]);
        let how = if self.average { Reduction::Sum } else { Reduction::Max };
        let inner = if layout == Layout::Plain { 1 } else { shape[1] };
        reduce(&call.machine.threads, &data, spatial, inner, how, &mut out);
        if self.average {
            let factor = 1.0 / spatial as f32;
            out.iter_mut().for_each(|x| *x *= factor);
        }
        let out_shape = shape[..2].iter().copied().chain(std::iter::repeat_n(1, shape.len() - 2)).collect();
        call.make(out_shape, out, layout)
    }
}

/// How positions of the result follow from positions of the operand.
#[derive(Clone, Copy)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    TorchHalfPixel,
    AlignCorners,
    Asymmetric,
}
#[derive(Clone, Copy)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}
struct ResizeKernel {
    coordinates: Coordinates,
    /// None for linear.
    nearest: Option<Rounding>,
    axes: Option<Vec<i64>>,
}
impl ResizeKernel {
    fn of(node: &Node) -> Option<Self> {
        let attrs = &node.attrs;
        if attrs.flag("antialias")
            || attrs.flag("exclude_outside")
            || attrs.str_or("keep_aspect_ratio_policy", "stretch") != "stretch"
        {
            return None;
        }
        let coordinates = match attrs.str_or("coordinate_transformation_mode", "half_pixel") {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::TorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            _ => return None,
        };
        let nearest = match attrs.str_or("mode", "nearest") {
            "linear" => None,
            "nearest" => Some(match attrs.str_or("nearest_mode", "round_prefer_floor") {
                "round_prefer_floor" => Rounding::PreferFloor,
                "round_prefer_ceil" => Rounding::PreferCeil,
                "floor" => Rounding::Floor,
                "ceil" => Rounding::Ceil,
                _ => return None,
            }),
            _ => return None,
        };
        Some(Self { coordinates, nearest, axes: attrs.ints("axes").map(<[i64]>::to_vec) })
    }
    /// Extents and scales of the result; none where this kernel does not take them.
    fn target(&self, call: &mut Call<'_>, shape: &[usize]) -> Option<Vec<(usize, f64)>> {
        let rank = shape.len();
        let mut target: Vec<(usize, f64)> = shape.iter().map(|&n| (n, 1.0)).collect();
        let axes: Vec<usize> = match &self.axes {
            None => (0..rank).collect(),
            Some(axes) => axes
                .iter()
                .map(|&a| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|a| *a < rank))
                .collect::<Option<_>>()?,
        };
        let sizes = call.integers(3).filter(|s| !s.is_empty());
        let scales = call.floats(2, Layout::Plain).filter(|s| !s.is_empty());
        match (sizes, scales) {
            (Some(sizes), _) if sizes.len() == axes.len() => {
                for (&axis, size) in axes.iter().zip(sizes) {
                    let size = usize::try_from(size).ok()?;
                    target[axis] = (size, size as f64 / shape[axis] as f64);
                }
            }
            (None, Some(scales)) if scales.len() == axes.len() => {
                for (&axis, &scale) in axes.iter().zip(scales.iter()) {
                    let scale = f64::from(scale);
                    target[axis] = ((shape[axis] as f64 * scale).floor() as usize, scale);
                }
            }
            _ => return None,
        }
        Some(target)
    }
    fn samples(&self, extent: usize, (out, scale): (usize, f64)) -> Samples {
        let last = extent - 1;
        // The true length of the result, of which a part may be cut off.
        let wide = scale * extent as f64;
        let position = |i: usize| {
            let i = i as f64;
            match self.coordinates {
                Coordinates::Asymmetric => i / scale,
                Coordinates::AlignCorners if wide == 1.0 => 0.0,
                Coordinates::AlignCorners => i * last as f64 / (wide - 1.0),
                Coordinates::TorchHalfPixel if wide <= 1.0 => -0.5,
                Coordinates::HalfPixel | Coordinates::TorchHalfPixel => (i + 0.5) / scale - 0.5,
                Coordinates::HalfPixelSymmetric => {
                    // What is left is put in the middle.
                    let offset = extent as f64 / 2.0 * (1.0 - out as f64 / wide);
                    offset + (i + 0.5) / scale - 0.5
                }
            }
        };
        let place = |x: f64| x.clamp(0.0, last as f64) as usize;
        match self.nearest {
            Some(rounding) => Samples::Nearest(
                (0..out)
                    .map(|i| {
                        let x = position(i);
                        place(match rounding {
                            Rounding::PreferFloor => (x - 0.5).ceil(),
                            Rounding::PreferCeil => (x + 0.5).floor(),
                            Rounding::Floor => x.floor(),
                            Rounding::Ceil => x.ceil(),
                        })
                    })
                    .collect(),
            ),
            None => Samples::Linear(
                (0..out)
                    .map(|i| {
                        let x = position(i);
                        let (a, b) = (place(x.floor()), place(x.floor() + 1.0));
                        let weight = if a == b { 0.0 } else { (x - x.floor()) as f32 };
                        (a, b, weight)
                    })
                    .collect(),
            ),
        }
    }
}
impl HostKernel for ResizeKernel {
    fn name(&self) -> &'static str {
        "resize"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        if !(3..=4).contains(&shape.len()) || shape.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let Some(target) = self.target(call, &shape) else { return Ok(Outcome::Declined) };
        let untouched = target[..2].iter().zip(&shape).all(|(t, &n)| t.0 == n);
        if !untouched || target.iter().any(|t| t.0 == 0) {
            return Ok(Outcome::Declined);
        }
        let layout = call.input(0).map_or(Layout::Plain, |v| layout_at_hand(v));
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        let out_shape: Vec<usize> = target.iter().map(|t| t.0).collect();
        let mut out = call.room_for(&out_shape)?;
        let size = two(&shape[2..], 1);
        let rows =
            if shape.len() == 4 { self.samples(size[0], target[2]) } else { Samples::Nearest(vec![0]) };
        let columns = self.samples(size[1], target[shape.len() - 1]);
        let pixel = if layout == Layout::Plain { 1 } else { shape[1] };
        resize(&call.machine.threads, &data, size, pixel, &rows, &columns, &mut out);
        call.make(out_shape, out, layout)
    }
}
