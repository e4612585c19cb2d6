//! Holding a step against the interpreter.
//!
//! The interpreter runs the step's body on the same operands, undivided. Where an op is exact, and where the machine
//! rounds each element from the same value, every bit must agree. Where a sum is added up in another order or another
//! format, both may stray from the exact sum by a bound that follows from the length of the sum and the formats; they must
//! agree within the sum of the two bounds.

use super::evaluate::{Evaluator, interpret, multiplies, summed_wide};
use super::stray::of_attention;
use super::{Array, Machine};
use orrery_base::{Diagnostic, Result};
use orrery_ir::op::{Class, Engine};
use orrery_ir::{Graph, Node, Op, ValueId};
use orrery_numerics::accumulate::{Accumulation, rounded_bound};
use orrery_numerics::{DType, Format, Rounding, Tensor};
use orrery_program::{Step, StepId, WriteMode};
use std::collections::BTreeMap;

/// A step whose result is not what its body means.
#[derive(Clone, Debug, PartialEq)]
pub struct Disagreement {
    /// The step.
    pub step: StepId,
    /// Its name.
    pub name: String,
    /// The result.
    pub output: String,
    /// Elements out of bounds.
    pub elements: usize,
    /// The largest difference.
    pub difference: f64,
    /// What was allowed there.
    pub bound: f64,
}

/// A value with how far it may stray from what the interpreter makes.
struct Expected {
    value: Tensor,
    /// For each element; empty where it must agree exactly.
    bound: Vec<f64>,
}

impl Machine<'_> {
    /// Compares what a compute step wrote with the interpreter on what it read. `before` is, for each write that adds to
    /// what was there, what was there.
    pub(super) fn check(
        &mut self,
        id: StepId,
        step: &Step,
        evaluator: &Evaluator<'_>,
        operands: &[Array],
        before: &[Option<Array>],
    ) -> Result<()> {
        let expected = expect(&step.body, operands, evaluator, split_parts(step).max(combined_parts(step)))?;
        self.checked += 1;
        for ((write, mut expected), before) in step.writes.iter().zip(expected).zip(before) {
            let got = self.whole(write.buffer)?;
            let name = self.program.buffers[write.buffer].name.clone();
            let split = split_parts(step) > 1;
            if let Some(before) = before {
                expected = added_to(&expected, before, &got, split);
            }
            let got = if split { summed(&got) } else { got };
            let allowed_rounding = stray(self.program.buffers[write.buffer].dtype, &expected, evaluator);
            if let Some(found) = compare(&got, &expected, &allowed_rounding) {
                let (elements, difference, bound) = found;
                self.disagreements.push(Disagreement {
                    step: id,
                    name: step.name.clone(),
                    output: name,
                    elements,
                    difference,
                    bound,
                });
            }
        }
        Ok(())
    }
}

/// Parts of a cut sum, whose results lie one after the other in the first dimension of what the step writes.
fn split_parts(step: &Step) -> u64 {
    step.grid
        .iter()
        .find(|c| c.name == "split")
        .map_or(1, |c| if let orrery_program::Cutting::Parts(parts) = c.cutting { parts } else { 1 })
}

/// Parts of a sum that are combined on their way.
fn combined_parts(step: &Step) -> u64 {
    let Some(write) = step.writes.first() else { return 1 };
    if !matches!(write.mode, WriteMode::Combined(_)) {
        return 1;
    }
    let summed = step
        .grid
        .iter()
        .enumerate()
        .filter(|(axis, _)| !write.access.iter().any(|a| a.axis() == Some(*axis)));
    let parts = summed
        .map(|(_, cut)| if let orrery_program::Cutting::Parts(parts) = cut.cutting { parts } else { 1 });
    parts.product()
}

/// The sum over the first dimension, in f64 and then f32: only for comparing.
fn summed(partials: &Array) -> Array {
    let (Some(values), Some((&parts, rest))) = (partials.as_f32(), partials.shape().split_first()) else {
        return partials.clone();
    };
    let count: usize = rest.iter().product();
    let sum = (0..count)
        .map(|i| (0..parts).map(|p| f64::from(values[p * count + i])).sum::<f64>() as f32)
        .collect();
    Array::floats(DType::F32, rest.to_vec(), sum)
}

/// What is expected where a result is added to what was there `before`: each addition is rounded once to the type in which
/// the sum is kept, of which `after` is the outcome.
fn added_to(expected: &Expected, before: &Array, after: &Array, split: bool) -> Expected {
    let total = |array: &Array| if split { summed(array) } else { array.clone() };
    let magnitudes = match after.as_f32() {
        Some(values) => {
            let magnitudes = values.iter().map(|v| v.abs()).collect();
            total(&Array::floats(DType::F32, after.shape().to_vec(), magnitudes))
        }
        None => total(after),
    };
    let unit = Format::of(after.dtype()).unwrap_or(Format::FP32).unit_roundoff();
    let numbers = |tensor: &Tensor| tensor.to_f64().map(std::borrow::Cow::into_owned).unwrap_or_default();
    let (value, before) = (numbers(&expected.value), numbers(&total(before).to_tensor()));
    let magnitudes = numbers(&magnitudes.to_tensor());
    let sum = value.iter().zip(&before).map(|(a, b)| a + b).collect();
    let bound = magnitudes.iter().enumerate().map(|(i, magnitude)| {
        let carried = expected.bound.get(i).copied().unwrap_or(0.0);
        // What was there and what there is now are summed in f32 for comparing.
        carried + magnitude * (unit + 2.0 * Format::FP32.unit_roundoff()) * 1.01
    });
    Expected { bound: bound.collect(), value: Tensor::from_vec(expected.value.shape().to_vec(), sum) }
}

fn expect(body: &Graph, operands: &[Array], evaluator: &Evaluator<'_>, splits: u64) -> Result<Vec<Expected>> {
    // The interpreter's values; what the machine may differ by comes with them.
    let mut values: BTreeMap<ValueId, (Tensor, Vec<f64>)> =
        body.inputs.iter().copied().zip(operands.iter().map(|a| (a.to_tensor(), Vec::new()))).collect();
    for id in body.values.ids() {
        if let Some(tensor) = body.tensor_of(id) {
            values.insert(id, (tensor.clone(), Vec::new()));
        }
    }
    for node in body.nodes.values() {
        let node = &if multiplies(node.op) { summed_wide(node) } else { node.clone() };
        let inputs: Vec<Option<Tensor>> =
            node.inputs.iter().map(|v| v.map(|v| values[&v].0.clone())).collect();
        let bounds: Vec<Option<&[f64]>> =
            node.inputs.iter().map(|v| v.map(|v| values[&v].1.as_slice())).collect();
        let outputs = interpret(node, &inputs, evaluator.seed)?;
        let made = own_bound(node, &inputs, &outputs, evaluator, splits)?;
        let carried = carried_bound(node, &inputs, &bounds, &outputs, evaluator)?;
        for ((output, value), number) in node.outputs.iter().zip(outputs).zip(0..) {
            let Some(output) = *output else { continue };
            let mut bound = made.get(number).cloned().unwrap_or_default();
            add(&mut bound, &carried);
            values.insert(output, (value, bound));
        }
    }
    Ok(body
        .outputs
        .iter()
        .map(|id| Expected { value: values[id].0.clone(), bound: values[id].1.clone() })
        .collect())
}

fn add(to: &mut Vec<f64>, more: &[f64]) {
    if to.is_empty() {
        to.extend_from_slice(more);
    } else {
        to.iter_mut().zip(more).for_each(|(a, b)| *a += b);
    }
}

/// The magnitudes of the sums that a vector op takes over axes that can be cut, for each output; none where it takes none.
fn vector_sums(
    node: &Node,
    inputs: &[Option<Tensor>],
    outputs: &[Tensor],
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    let magnitude = |tensor: &Tensor, sign: f32| {
        let values = tensor.to_f32().ok()?.iter().map(|x| sign * x.abs()).collect();
        Some(Tensor::from_vec(tensor.shape().to_vec(), values))
    };
    let numbers = |tensor: &Tensor| tensor.to_f64().map(std::borrow::Cow::into_owned).unwrap_or_default();
    // Signs with which the magnitudes of the inputs make sums of magnitudes.
    let signs: &[f32] = match node.op {
        Op::ReduceSumSquare | Op::ReduceL1 => &[1.0],
        Op::ChannelMoments => &[1.0, -1.0, 1.0],
        Op::NegativeLogLikelihoodLoss => &[-1.0],
        // Every place's loss is no less than zero.
        Op::SoftmaxCrossEntropyLoss => return Ok(outputs.iter().take(1).map(numbers).collect()),
        Op::LayerNormalizationScaleGrad | Op::RMSNormalizationScaleGrad => &[],
        _ => return Ok(Vec::new()),
    };
    if signs.is_empty() {
        // No normalised element is larger than the root of their number in a row.
        let Some(dy) = inputs.get(1).and_then(Option::as_ref) else { return Ok(Vec::new()) };
        let columns = outputs.first().map_or(1, Tensor::len).max(1);
        let mut sums = vec![0.0; columns];
        for (i, value) in numbers(dy).into_iter().enumerate() {
            sums[i % columns] += value.abs();
        }
        let largest = (columns as f64).sqrt();
        let scaled = sums.iter().map(|sum| sum * largest).collect();
        return Ok(vec![scaled, sums]);
    }
    let signed = inputs.iter().enumerate().map(|(i, tensor)| match (tensor, signs.get(i)) {
        (Some(tensor), Some(sign)) if tensor.dtype().is_float() => magnitude(tensor, *sign),
        _ => tensor.clone(),
    });
    let made = interpret(node, &signed.collect::<Vec<_>>(), seed)?;
    Ok(made.iter().map(|t| numbers(t).into_iter().map(f64::abs).collect()).collect())
}

/// How far the machine's results may lie from the interpreter's when both start from equal operands: the bounds of both
/// sums. Empty where they add alike.
fn own_bound(
    node: &Node,
    inputs: &[Option<Tensor>],
    outputs: &[Tensor],
    evaluator: &Evaluator<'_>,
    splits: u64,
) -> Result<Vec<Vec<f64>>> {
    let sums = node.op.def().engine == Engine::Matrix || node.op == Op::ReduceSum;
    let [output, ..] = outputs else { return Ok(Vec::new()) };
    if node.op.def().class == Class::Rounding && !sums && splits > 1 {
        // Cut in parts, the sums are taken in another order, by both in binary32.
        let terms = sum_length(node, inputs, output);
        let wide = Accumulation::new(Format::FP32).bounds(terms);
        let bound = |(tensor, magnitudes): (&Tensor, Vec<f64>)| {
            let format = Format::of(tensor.dtype()).unwrap_or(Format::FP32);
            let each = |m: f64| 2.0 * wide(m) + 2.0 * rounded_bound(0.0, m, format, Rounding::NearestEven);
            magnitudes.into_iter().map(each).collect()
        };
        let magnitudes = vector_sums(node, inputs, outputs, evaluator.seed)?;
        return Ok(outputs.iter().zip(magnitudes).map(bound).collect());
    }
    if !sums || node.op.def().class != Class::Rounding || !output.dtype().is_float() {
        return Ok(Vec::new());
    }
    let rounding =
        if evaluator.stochastic { Rounding::Stochastic { seed: 0 } } else { Rounding::NearestEven };
    // What the machine makes and what the interpreter does, each rounded to the type.
    let rounded = |tensor: &Tensor, stray: f64, magnitude: f64| {
        let format = Format::of(tensor.dtype()).unwrap_or(Format::FP32);
        rounded_bound(stray, magnitude, format, rounding)
            + rounded_bound(0.0, magnitude, format, Rounding::NearestEven)
    };
    if matches!(node.op, Op::Attention | Op::AttentionGrad) {
        let how = evaluator.sums().unwrap_or(Accumulation::new(Format::FP32));
        let strays =
            of_attention(node, inputs, how).map_err(|cause| Diagnostic::error("evaluation", cause))?;
        let bounds = outputs.iter().zip(&strays).map(|(output, strays)| {
            let (Ok(values), Ok(strays)) = (output.to_f64(), strays.to_f64()) else { return Vec::new() };
            let each = values.iter().zip(strays.iter()).map(|(value, &stray)| match stray {
                // Copied, or hidden.
                0.0 => 0.0,
                // Where sums may overflow, there is no telling.
                _ if stray.is_nan() => f64::INFINITY,
                _ => rounded(output, stray, value.abs() + stray),
            });
            each.collect()
        });
        return Ok(bounds.collect());
    }
    // The sum of the magnitudes of all products of each output element: the op applied to magnitudes.
    let magnitudes: Vec<Option<Tensor>> = inputs
        .iter()
        .map(|t| match t {
            Some(t) if t.dtype().is_float() => t
                .to_f32()
                .ok()
                .map(|v| Tensor::from_vec(t.shape().to_vec(), v.iter().map(|x| x.abs()).collect())),
            other => other.clone(),
        })
        .collect();
    let mut plain = summed_wide(node);
    if let Some(alpha) = plain.attrs.float("alpha") {
        plain.attrs.set("alpha", alpha.abs());
    }
    if let Some(beta) = plain.attrs.float("beta") {
        plain.attrs.set("beta", beta.abs());
    }
    let magnitude = interpret(&plain, &magnitudes, evaluator.seed)?;
    let Some(magnitude) = magnitude.first().and_then(|t| t.to_f64().ok()) else { return Ok(Vec::new()) };
    let terms = sum_length(node, inputs, output);
    let format = Format::parse(&evaluator.arithmetic.accumulate).unwrap_or(Format::FP32);
    let grouped =
        Accumulation::new(format).grouped(u64::from(evaluator.arithmetic.group.max(1))).bounds(terms);
    // Within a group the products are added in fp32; so the interpreter adds products and magnitudes, one by one.
    let wide = Accumulation::new(Format::FP32).bounds(terms);
    // What only the interpreter knows to compute is summed alike by both, as the node asks.
    let asked = node.attrs.str("accumulate").and_then(Format::parse).unwrap_or(Format::FP32);
    let asked = Accumulation::new(asked).bounds(terms);
    let multiplied = multiplies(node.op) || node.op == Op::ReduceSum;
    // Inputs that the matrix unit narrows are off by one rounding each before they are multiplied.
    let narrowed = evaluator
        .arithmetic
        .inputs
        .as_deref()
        .and_then(Format::parse)
        .map_or(0.0, |f| 2.0 * f.unit_roundoff() * 1.01);
    let bound = magnitude
        .iter()
        .map(|&m| {
            let m = m + wide(m);
            let sums = if multiplied { grouped(m) + 2.0 * wide(m) } else { 2.0 * asked(m) };
            let mut stray = sums + narrowed * m;
            if splits > 1 {
                stray += rounded_bound(0.0, m, format, Rounding::NearestEven);
            }
            rounded(output, stray, m)
        })
        .collect();
    Ok(vec![bound])
}

/// Products in each sum of a node.
fn sum_length(node: &Node, inputs: &[Option<Tensor>], output: &Tensor) -> u64 {
    let first = inputs.first().and_then(Option::as_ref).map_or(0, Tensor::len) as u64;
    let second = inputs.get(1).and_then(Option::as_ref);
    let extra = u64::from(inputs.len() > 2);
    match (node.op, second) {
        (Op::ReduceSum, _) => first / (output.len().max(1) as u64),
        (Op::Conv, Some(w)) => (w.len() / w.shape().first().copied().unwrap_or(1).max(1)) as u64 + extra,
        (Op::ConvTranspose, Some(w)) => {
            (w.len() / w.shape().get(1).copied().unwrap_or(1).max(1)) as u64 + extra
        }
        (Op::ConvWeightGrad, Some(dy)) => (dy.len() / dy.shape().get(1).copied().unwrap_or(1).max(1)) as u64,
        (Op::MatMul | Op::Gemm, Some(b)) => {
            let flip = node.op == Op::Gemm && node.attrs.flag("transB");
            let depth =
                if flip { b.shape().last() } else { b.shape().iter().rev().nth(1).or(b.shape().last()) };
            depth.copied().unwrap_or(1) as u64 + extra
        }
        (Op::GatherMatMul, Some(b)) => b.shape().get(1).copied().unwrap_or(1) as u64,
        (Op::GatherMatMulGrad, Some(dy)) => {
            (dy.len() / dy.shape().last().copied().unwrap_or(1).max(1)) as u64
        }
        // For the others no sum is longer than all the operands together.
        _ => inputs.iter().flatten().map(|t| t.len() as u64).max().unwrap_or(1),
    }
}

/// What differences of the operands become: the largest change of the output when each operand moves by its bound.
///
/// Followers are element-wise, so the output is probed with all operands moved up and down; between the probes the ops
/// that are fused (sums, products, activations) are monotone or as smooth as the probes tell, which is why the change is
/// doubled, and a unit in the last place is added for the rounding of the result.
fn carried_bound(
    node: &Node,
    inputs: &[Option<Tensor>],
    bounds: &[Option<&[f64]>],
    outputs: &[Tensor],
    evaluator: &Evaluator<'_>,
) -> Result<Vec<f64>> {
    if bounds.iter().flatten().all(|b| b.is_empty()) {
        return Ok(Vec::new());
    }
    let [output, ..] = outputs else { return Ok(Vec::new()) };
    let Ok(base) = output.to_f64() else { return Ok(Vec::new()) };
    let mut widest = vec![0.0_f64; base.len()];
    for direction in [-1.0, 1.0] {
        let moved: Vec<Option<Tensor>> = inputs
            .iter()
            .zip(bounds)
            .map(|(tensor, bound)| match (tensor, bound) {
                (Some(t), Some(b)) if !b.is_empty() => t.to_f64().ok().map(|values| {
                    let values: Vec<f64> = values.iter().zip(*b).map(|(v, b)| v + direction * b).collect();
                    Tensor::from_f64(t.dtype(), t.shape().to_vec(), values, Rounding::AwayFromZero, false)
                }),
                _ => tensor.clone(),
            })
            .collect();
        let probed = interpret(node, &moved, evaluator.seed)?;
        if let Some(probed) = probed.first().and_then(|t| t.to_f64().ok()) {
            for ((widest, probed), base) in widest.iter_mut().zip(probed.iter()).zip(base.iter()) {
                *widest = widest.max((probed - base).abs());
            }
        }
    }
    let unit = Format::of(output.dtype()).map_or(0.0, |f| 2.0 * f.unit_roundoff());
    Ok(widest.iter().zip(base.iter()).map(|(w, b)| 2.0 * w + unit * b.abs()).collect())
}

/// What the rounding to a buffer's type may add: nothing to the nearest from equal values, a unit in the last place at
/// random.
fn stray(dtype: DType, expected: &Expected, evaluator: &Evaluator<'_>) -> Vec<f64> {
    let (true, Some(format)) = (evaluator.stochastic, Format::of(dtype)) else { return Vec::new() };
    let values = expected.value.to_f64().map(std::borrow::Cow::into_owned).unwrap_or_default();
    values
        .iter()
        .map(|v| 2.0 * rounded_bound(0.0, v.abs(), format, Rounding::Stochastic { seed: 0 }))
        .collect()
}

/// The number of elements out of bounds and the worst of them, or none.
fn compare(got: &Array, expected: &Expected, stray: &[f64]) -> Option<(usize, f64, f64)> {
    let tensor = got.to_tensor();
    if tensor.shape() != expected.value.shape() {
        return Some((tensor.len(), f64::INFINITY, 0.0));
    }
    if expected.bound.is_empty()
        && stray.is_empty()
        && tensor.dtype() == expected.value.dtype()
        && !tensor.dtype().is_float()
    {
        return (tensor.bytes() != expected.value.bytes()).then_some((tensor.len(), f64::INFINITY, 0.0));
    }
    let (Ok(got), Ok(want)) = (tensor.to_f64(), expected.value.to_f64()) else { return None };
    let (mut count, mut worst, mut allowed) = (0, 0.0, 0.0);
    for (i, (g, w)) in got.iter().zip(want.iter()).enumerate() {
        let bound = expected.bound.get(i).copied().unwrap_or(0.0) + stray.get(i).copied().unwrap_or(0.0);
        let difference = (g - w).abs();
        let agree = difference <= bound || g == w || (g.is_nan() && w.is_nan());
        if !agree {
            count += 1;
            if difference > worst || difference.is_nan() {
                (worst, allowed) = (difference, bound);
            }
        }
    }
    (count > 0).then_some((count, worst, allowed))
}
