//! Gradient ops and the optimizer's step.

use super::prepare::Choice;
use super::spatial::WindowAttrs;
use super::step::{Call, HostKernel, Outcome};
use super::value::{Layout, Value};
use crate::kernels::backward::{AttentionBack, NormalizedRows, ROW_MULTIPLE, softmax_back};
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
            let whole = attrs.int("group_channels").is_none() && attrs.get("accumulate").is_none();
            let window = WindowAttrs::of(node, dims, None).filter(|_| whole)?;
            Box::new(ConvWeightGrad { window })
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
        Op::AttentionGrad => Box::new(AttentionGrad::of(node)?),
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
        let WindowAttrs { taps, stride, dilation, .. } = self.window;
        MaxGradient { data: &data, given: &given, channels: shape[1], place, taps, stride, dilation }
            .run(&call.machine.threads, &mut out);
        call.make(shape, out, Layout::ChannelsLast)
    }
}

struct ConvWeightGrad {
    window: WindowAttrs,
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
        let (Some(data), Some(given)) =
            (call.floats(0, Layout::ChannelsLast), call.floats(1, Layout::ChannelsLast))
        else {
            return Ok(Outcome::Declined);
        };
        let (channels, out_channels) = (shape[1], made[1]);
        let place = self.window.at(size, out_size);
        let geometry = Geometry { channels, out_channels, groups: 1, taps, stride, dilation };
        let area = taps[0] * taps[1];
        let out_shape = self.window.shape(out_channels, channels, taps);
        let mut out = call.room_for(&out_shape)?;
        let mut turned = call.room(out.len());
        let threads = &call.machine.threads;
        let left = Left::Window { data: &data, geometry: &geometry, place: &place };
        outer_sum(threads, &left, &given, out_channels.max(1), &mut turned);
        transpose(threads, &turned, &[area, channels, out_channels], &[2, 1, 0], &mut out);
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

struct AttentionGrad {
    q_heads: usize,
    head_size: usize,
    scale: Option<f64>,
    causal: bool,
}
impl AttentionGrad {
    /// None where the op table is needed: for masks, capped scores and scores that are asked for.
    fn of(node: &Node) -> Option<Self> {
        let masked = node.inputs.iter().skip(4).any(Option::is_some);
        let shown = node.outputs.get(3).copied().flatten().is_some();
        let capped = node.attrs.float("softcap").is_some_and(|cap| cap > 0.0);
        let told = node.attrs.get("accumulate").is_some();
        let count = |name: &str| usize::try_from(node.attrs.int_or(name, 0)).ok();
        (!masked && !shown && !capped && !told).then_some(Self {
            q_heads: count("q_num_heads")?,
            head_size: count("head_size")?,
            scale: node.attrs.float("scale"),
            causal: node.attrs.flag("is_causal"),
        })
    }
    fn back(&self, call: &mut Call<'_>) -> Option<Outcome> {
        let shapes = [0, 1, 2].map(|i| call.shape(i));
        // Batch, heads, length and size, and the steps of the first three.
        let laid = |shape: &[usize]| match *shape {
            [batch, heads, length, size] => {
                Some(([batch, heads, length, size], [heads * length * size, length * size, size]))
            }
            [batch, length, all] => {
                let heads = if self.head_size > 0 { all.checked_div(self.head_size)? } else { self.q_heads };
                let size = all.checked_div(heads).filter(|size| size * heads == all)?;
                Some(([batch, heads, length, size], [length * all, size, all]))
            }
            _ => None,
        };
        let [(q, q_steps), (k, k_steps), (v, v_steps)] =
            [laid(&shapes[0])?, laid(&shapes[1])?, laid(&shapes[2])?];
        let [batch, heads, queries, size] = q;
        let agree = k[..2] == q[..2] && v[..3] == k[..3] && k[3] == size && !shapes.concat().contains(&0);
        if !agree || shapes.iter().any(|s| s.len() != shapes[0].len()) {
            return None;
        }
        let y_steps = if shapes[0].len() == 4 {
            [heads * queries * v[3], queries * v[3], v[3]]
        } else {
            [queries * heads * v[3], v[3], heads * v[3]]
        };
        let [q_data, k_data, v_data, dy] = [0, 1, 2, 3].map(|i| call.floats(i, Layout::Plain));
        let (q_data, k_data, v_data, dy) = (q_data?, k_data?, v_data?, dy?);
        let attention = AttentionBack {
            operands: [&q_data, &k_data, &v_data, &dy],
            steps: [q_steps, k_steps, v_steps, y_steps],
            heads,
            queries,
            keys: k[2],
            size,
            v_size: v[3],
            scale: self.scale.unwrap_or(1.0 / (size as f64).sqrt()) as f32,
            causal: self.causal,
        };
        let width = attention.width();
        let mut made = call.room(batch * heads * width);
        attention.run(&call.machine.threads, &mut made);
        let mut from = 0;
        for (i, ([_, _, length, size], steps)) in
            [(q, q_steps), (k, k_steps), (v, v_steps)].into_iter().enumerate()
        {
            let mut out = call.room(batch * heads * length * size);
            for (head, made) in made.chunks_exact(width).enumerate() {
                let at = head / heads * steps[0] + head % heads * steps[1];
                for (row, made) in made[from..][..length * size].chunks_exact(size).enumerate() {
                    out[at + row * steps[2]..][..size].copy_from_slice(made);
                }
            }
            from += length * size;
            call.set(i, Value::floats(shapes[i].clone(), out, Layout::Plain));
        }
        call.machine.give(made);
        Some(Outcome::Made)
    }
}
impl HostKernel for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        Ok(self.back(call).unwrap_or(Outcome::Declined))
    }
}
