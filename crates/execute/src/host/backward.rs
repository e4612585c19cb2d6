//! Gradient ops and the optimizer's step.

use super::prepare::Choice;
use super::spatial::WindowAttrs;
use super::step::{Call, HostKernel, Outcome};
use super::value::{Layout, Value};
use crate::kernels::backward::{DepthwiseBack, NormalizedRows, ROW_MULTIPLE, softmax_back};
use crate::kernels::conv::Geometry;
use crate::kernels::movement::transpose;
use crate::kernels::optimizer::Adam;
use crate::kernels::outer::{Left, outer_sum};
use crate::kernels::softmax::softmax;
use crate::kernels::window::MaxGradient;
use orrery_ir::op::context::normalize_axis;
use orrery_ir::{Node, Op};

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let node = choice.node;
    let attrs = &node.attrs;
    let centered = matches!(node.op, Op::LayerNormalizationGrad | Op::LayerNormalizationScaleGrad);
    let axis = attrs.int_or("axis", -1);
    let epsilon = attrs.float_or("epsilon", 1e-5) as f32;
    if node.op == Op::GatherGrad {
        let first = attrs.int_or("axis", 0) == 0 && choice.is_f32(1);
        return first.then(|| Box::new(GatherGrad) as Box<dyn HostKernel>);
    }
    if !choice.is_f32(0) {
        return None;
    }
    Some(match node.op {
        Op::MaxPoolGrad => {
            let dims = attrs.ints("kernel_shape")?.len();
            Box::new(MaxPoolGrad { window: WindowAttrs::of(node, dims, None)? })
        }
        Op::ConvWeightGrad => {
            let dims = attrs.ints("kernel_shape")?.len();
            let own = match attrs.int("group_channels") {
                None => None,
                Some(own) => Some(usize::try_from(own).ok().filter(|own| *own > 0)?),
            };
            let told = attrs.get("accumulate").is_some();
            let window = WindowAttrs::of(node, dims, None).filter(|_| !told)?;
            Box::new(ConvWeightGrad { window, own })
        }
        Op::SoftmaxGrad => Box::new(SoftmaxGrad { axis }),
        Op::SoftmaxCrossEntropyGrad if node.inputs.get(3).copied().flatten().is_none() => {
            Box::new(CrossEntropyGrad { ignored: attrs.int("ignore_index") })
        }
        Op::LayerNormalizationGrad | Op::RMSNormalizationGrad => {
            Box::new(NormalizationGrad { axis, centered, epsilon })
        }
        Op::LayerNormalizationScaleGrad | Op::RMSNormalizationScaleGrad => {
            Box::new(ScaleGrad { axis, centered, epsilon })
        }
        Op::AdamStep => Box::new(AdamStep::of(node)),
        _ => return None,
    })
}

struct MaxPoolGrad {
    window: WindowAttrs,
}
impl HostKernel for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "pooling, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let placed = self.window.size(&shape).and_then(|size| self.window.place(size));
        let Some((place, _)) = placed.filter(|_| !shape.contains(&0)) else { return Ok(Outcome::Declined) };
        let (Some(data), Some(given)) =
            (call.floats(0, Layout::ChannelsLast), call.floats(1, Layout::ChannelsLast))
        else {
            return Ok(Outcome::Declined);
        };
        let mut out = call.room_for(&shape)?;
        let windows = self.window.windows(shape[1], place);
        MaxGradient { data: &data, given: &given, windows }.run(&call.machine.threads, &mut out);
        call.make(shape, out, Layout::ChannelsLast)
    }
}

struct ConvWeightGrad {
    window: WindowAttrs,
    /// Channels of a group, where there are several.
    own: Option<usize>,
}
impl HostKernel for ConvWeightGrad {
    fn name(&self) -> &'static str {
        "convolution, backward to weights"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let (shape, made) = (call.shape(0), call.shape(1));
        let WindowAttrs { taps, stride, dilation, .. } = self.window;
        let (Some(size), Some(out_size)) = (self.window.size(&shape), self.window.size(&made)) else {
            return Ok(Outcome::Declined);
        };
        let (all, all_out) = (shape[1], made[1]);
        let channels = self.own.unwrap_or(all);
        let groups = all.checked_div(channels).unwrap_or(1);
        if groups * channels != all || groups == 0 || all_out % groups != 0 || made.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let (Some(data), Some(given)) =
            (call.floats(0, Layout::ChannelsLast), call.floats(1, Layout::ChannelsLast))
        else {
            return Ok(Outcome::Declined);
        };
        let out_channels = all_out / groups;
        let place = self.window.at(size, out_size);
        let geometry = Geometry { channels, out_channels, groups: 1, taps, stride, dilation };
        let area = taps[0] * taps[1];
        let out_shape = self.window.shape(all_out, channels, taps);
        let mut out = call.room_for(&out_shape)?;
        let threads = &call.machine.threads;
        if channels == 1 && out_channels == 1 {
            let mut turned = call.room(out.len());
            let windows = self.window.windows(all, place);
            DepthwiseBack { data: &data, given: &given, windows }.run(threads, &mut turned);
            transpose(threads, &turned, &[area, all], &[1, 0], &mut out);
            call.machine.give(turned);
            return call.make(out_shape, out, Layout::Plain);
        }
        let mut turned = call.room(out.len() / groups);
        for (group, out) in out.chunks_exact_mut(turned.len().max(1)).enumerate() {
            // The channels of a group, beside each other.
            let part = |of: &[f32], all: usize, own: usize| -> Vec<f32> {
                of.chunks_exact(all).flat_map(|pixel| &pixel[group * own..][..own]).copied().collect()
            };
            let parts =
                (groups > 1).then(|| (part(&data, all, channels), part(&given, all_out, out_channels)));
            let (data, given) =
                parts.as_ref().map_or((&*data, &*given), |(data, given)| (data.as_slice(), given.as_slice()));
            let left = Left::Window { data, geometry: &geometry, place: &place };
            outer_sum(threads, &left, given, out_channels, &mut turned);
            transpose(threads, &turned, &[area, channels, out_channels], &[2, 1, 0], out);
        }
        call.machine.give(turned);
        call.make(out_shape, out, Layout::Plain)
    }
}

struct SoftmaxGrad {
    axis: i64,
}
impl HostKernel for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let last = !shape.is_empty() && normalize_axis(self.axis, shape.len())? + 1 == shape.len();
        if !last || shape.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let Some(y) = call.floats(0, Layout::Plain) else { return Ok(Outcome::Declined) };
        let mut out = match call.take_over(1, Layout::Plain) {
            Some(buffer) => buffer,
            None => {
                let Some(dy) = call.floats(1, Layout::Plain) else { return Ok(Outcome::Declined) };
                let mut out = call.room(dy.len());
                out.copy_from_slice(&dy);
                out
            }
        };
        softmax_back(&call.machine.threads, &y, &mut out, shape[shape.len() - 1]);
        call.make(shape, out, Layout::Plain)
    }
}

struct CrossEntropyGrad {
    ignored: Option<i64>,
}
impl HostKernel for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross entropy, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let [rows, classes] = *shape.as_slice() else { return Ok(Outcome::Declined) };
        let (Some(scores), Some(loss), Some(labels)) =
            (call.floats(0, Layout::Plain), call.floats(2, Layout::Plain), call.integers(1))
        else {
            return Ok(Outcome::Declined);
        };
        let sound = |label: &i64| Some(*label) == self.ignored || (0..classes as i64).contains(label);
        if rows == 0 || !labels.iter().all(sound) {
            return Ok(Outcome::Declined);
        }
        let mut out = call.room(scores.len());
        out.copy_from_slice(&scores);
        softmax(&call.machine.threads, &mut out, classes, false);
        call.machine.threads.chunks(&mut out, classes, |i, row| {
            if Some(labels[i]) == self.ignored {
                return row.fill(0.0);
            }
            row[labels[i] as usize] -= 1.0;
            let factor = loss[if loss.len() == 1 { 0 } else { i }];
            row.iter_mut().for_each(|x| *x *= factor);
        });
        call.make(shape, out, Layout::Plain)
    }
}

/// Length of the rows that start at an axis, where the kernels take it.
fn row_length(shape: &[usize], axis: i64) -> Result<Option<usize>, String> {
    let len: usize = shape[normalize_axis(axis, shape.len())?..].iter().product();
    Ok(Some(len).filter(|len| *len > 0 && len % ROW_MULTIPLE == 0))
}

struct NormalizationGrad {
    axis: i64,
    centered: bool,
    epsilon: f32,
}
impl HostKernel for NormalizationGrad {
    fn name(&self) -> &'static str {
        "normalization, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let Some(len) = row_length(&shape, self.axis)? else { return Ok(Outcome::Declined) };
        let [Some(x), Some(scale), Some(dy)] = [0, 1, 2].map(|i| call.floats(i, Layout::Plain)) else {
            return Ok(Outcome::Declined);
        };
        if scale.len() != len {
            return Ok(Outcome::Declined);
        }
        let mut out = call.room(x.len());
        NormalizedRows { x: &x, dy: &dy, len, center: self.centered, epsilon: self.epsilon }.rows(
            &call.machine.threads,
            &scale,
            &mut out,
        );
        call.make(shape, out, Layout::Plain)
    }
}

struct ScaleGrad {
    axis: i64,
    centered: bool,
    epsilon: f32,
}
impl HostKernel for ScaleGrad {
    fn name(&self) -> &'static str {
        "normalization, backward to scale"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let Some(len) = row_length(&shape, self.axis)? else { return Ok(Outcome::Declined) };
        let [Some(x), Some(dy)] = [0, 1].map(|i| call.floats(i, Layout::Plain)) else {
            return Ok(Outcome::Declined);
        };
        let row = shape[normalize_axis(self.axis, shape.len())?..].iter().copied();
        let out_shape: Vec<usize> = self.centered.then_some(2).into_iter().chain(row).collect();
        let mut out = call.room_for(&out_shape)?;
        NormalizedRows { x: &x, dy: &dy, len, center: self.centered, epsilon: self.epsilon }
            .scale(&call.machine.threads, &mut out);
        call.make(out_shape, out, Layout::Plain)
    }
}

/// Along the first dimension of the data.
struct GatherGrad;
impl HostKernel for GatherGrad {
    fn name(&self) -> &'static str {
        "gather, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let (Some(indices), Some(dy)) = (call.integers(0), call.floats(1, Layout::Plain)) else {
            return Ok(Outcome::Declined);
        };
        let made = call.step.outputs[0].and_then(|id| call.graph.values[id].ty.as_tensor()?.extents());
        let Some(shape) = made.filter(|shape| !shape.contains(&0)) else { return Ok(Outcome::Declined) };
        let (extent, run) = (shape[0], shape[1..].iter().product::<usize>());
        let places: Option<Vec<usize>> = indices
            .iter()
            .map(|&i| usize::try_from(if i < 0 { i + extent as i64 } else { i }).ok().filter(|i| *i < extent))
            .collect();
        let Some(places) = places.filter(|places| places.len() * run == dy.len()) else {
            return Ok(Outcome::Declined);
        };
        let mut out = call.room(extent * run);
        out.fill(0.0);
        for (place, dy) in places.iter().zip(dy.chunks_exact(run)) {
            out[place * run..][..run].iter_mut().zip(dy).for_each(|(sum, x)| *sum += x);
        }
        call.make(shape, out, Layout::Plain)
    }
}

struct AdamStep {
    betas: [f64; 2],
    epsilon: f32,
    decay: f32,
    decoupled: bool,
}
impl AdamStep {
    fn of(node: &Node) -> Self {
        let number = |name: &str, default: f64| node.attrs.float_or(name, default);
        Self {
            betas: [number("beta1", 0.9), number("beta2", 0.999)],
            epsilon: number("epsilon", 1e-8) as f32,
            decay: number("weight_decay", 0.0) as f32,
            decoupled: node.attrs.flag("decoupled"),
        }
    }
}
impl HostKernel for AdamStep {
    fn name(&self) -> &'static str {
        "optimizer"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(2);
        let (Some(rate), Some(time)) = (call.floats(0, Layout::Plain), call.integers(1)) else {
            return Ok(Outcome::Declined);
        };
        let [Some(p), Some(g), Some(m), Some(v)] = [2, 3, 4, 5].map(|i| call.floats(i, Layout::Plain)) else {
            return Ok(Outcome::Declined);
        };
        let (Some(&rate), Some(&time)) = (rate.first(), time.first()) else { return Ok(Outcome::Declined) };
        let time = time.max(1) as f64;
        let [first, second] = self.betas.map(|beta| 1.0 - beta.powf(time));
        let adam = Adam {
            betas: self.betas.map(|beta| beta as f32),
            epsilon: self.epsilon,
            decay: if self.decoupled { 0.0 } else { self.decay },
            kept: if self.decoupled { 1.0 - rate * self.decay } else { 1.0 },
            rate: (f64::from(rate) / first) as f32,
            root: second.sqrt() as f32,
        };
        let [mut new_p, mut new_m, mut new_v] = [(); 3].map(|()| call.room(p.len()));
        adam.run(&call.machine.threads, [&p, &g, &m, &v], [&mut new_p, &mut new_m, &mut new_v]);
        for (i, made) in [new_p, new_m, new_v].into_iter().enumerate() {
            call.set(i, Value::floats(shape.clone(), made, Layout::Plain));
        }
        Ok(Outcome::Made)
    }
}
