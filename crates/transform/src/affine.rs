//! Folding what is done to each channel into the weights before it.
//!
//! After a `Conv`, `ConvTranspose` or `Gemm`, a batch normalization in inference and products, quotients, sums and
//! differences with one constant per channel are all y = s x + t per channel. They become part of weights and bias:
//! W' = s W, b' = s b + t, computed in binary64 and rounded once. Where a weight is absent the new one is absent; where only
//! shapes are asked for large ones are.

use crate::report::{Exactness, Kind, Replacement, Report};
use crate::rewrite::Rewriter;
use crate::{Weights, check};
use orrery_base::Result;
use orrery_ir::infer::node_place;
use orrery_ir::weights::materialize;
use orrery_ir::{Graph, NodeId, Op, Type, ValueId, Weight};
use orrery_numerics::{DType, Rounding, Tensor};

/// Bytes up to which weights are computed even where only shapes are asked for.
const SMALL: usize = 64 << 10;

/// Folds batch normalizations, and constants per channel, into the weights before them.
///
/// # Errors
/// What the verifier says of the result, in tests and debug builds.
pub fn fold_batch_norm(graph: &Graph, weights: Weights) -> Result<(Graph, Report)> {
    let mut report = Report { nodes_before: graph.nodes.len(), ..Report::default() };
    let folded = fold(graph.clone(), weights, &mut report);
    report.nodes_after = folded.nodes.len();
    check(&folded)?;
    Ok((folded, report))
}

pub(crate) fn fold(graph: Graph, weights: Weights, report: &mut Report) -> Graph {
    let mut pass = Pass { rewriter: Rewriter::new(graph), weights, report, pending: Vec::new() };
    for id in pass.rewriter.node_ids() {
        if !pass.rewriter.is_dead(id) {
            pass.node(id);
        }
    }
    pass.write_weights();
    pass.rewriter.finish()
}

/// A linear op that collects what is done to its channels.
struct Linear {
    node: NodeId,
    channels: usize,
    /// None where some number is not at hand.
    affine: Option<Affine>,
    /// Nodes folded.
    folded: usize,
    place: String,
}

/// y = scale x + shift, for each channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

/// What a node does to each channel, by constants.
enum Step {
    Times(ValueId),
    Over(ValueId),
    Plus(ValueId),
    Minus(ValueId),
    From(ValueId),
    /// Scale, bias, mean, variance.
    Normalize([ValueId; 4], f64),
}

struct Pass<'a> {
    rewriter: Rewriter,
    weights: Weights,
    report: &'a mut Report,
    pending: Vec<Linear>,
}

impl Pass<'_> {
    /// Takes a node that acts on channels into the linear op before it. Weights are written at the end, once for a chain.
    fn node(&mut self, id: NodeId) {
        let Some((source, step)) = self.step(id) else { return };
        let Some(output) = self.rewriter.output(id, 0) else { return };
        let Some(linear) = self.rewriter.maker(source) else { return };
        if self.rewriter.uses(source) != 1 || self.rewriter.is_output(source) {
            return;
        }
        let known = self.pending.iter().rposition(|p| p.node == linear);
        let Some(channels) = known.map(|at| self.pending[at].channels).or_else(|| self.channels(linear))
        else {
            return;
        };
        let rank = self.rewriter.ty(source).as_tensor().and_then(|t| Some(t.shape.as_ref()?.len()));
        let Some(next) = self.affine(&step, channels, rank) else { return };
        let at = known.unwrap_or_else(|| {
            let affine = Some(Affine { scale: vec![1.0; channels], shift: vec![0.0; channels] });
            let place = node_place(self.rewriter.graph(), id);
            self.pending.push(Linear { node: linear, channels, affine, folded: 0, place });
            self.pending.len() - 1
        });
        let pending = &mut self.pending[at];
        pending.folded += 1;
        pending.affine = pending.affine.take().zip(next).map(|(first, next)| Affine {
            scale: first.scale.iter().zip(&next.scale).map(|(a, b)| a * b).collect(),
            shift: first
                .shift
                .iter()
                .zip(&next.scale)
                .zip(&next.shift)
                .map(|((t, s), u)| t * s + u)
                .collect(),
        });
        // The linear op now makes what the node made, under its name.
        self.rewriter.move_output(output, linear, 0);
    }

    /// The value a node acts on, and what it does, where it acts on each channel alone by constants.
    fn step(&self, id: NodeId) -> Option<(ValueId, Step)> {
        let node = self.rewriter.node(id);
        let input = |i| self.rewriter.input(id, i);
        let (source, step) = match node.op {
            Op::BatchNormalization if !node.attrs.flag("training_mode") => {
                let parameters = [input(1)?, input(2)?, input(3)?, input(4)?];
                (input(0)?, Step::Normalize(parameters, node.attrs.float_or("epsilon", 1e-5)))
            }
            Op::Mul | Op::Add | Op::Div | Op::Sub => {
                let constant = |v: ValueId| self.rewriter.weight(v).is_some();
                let (a, b) = (input(0)?, input(1)?);
                match (node.op, constant(a), constant(b)) {
                    (Op::Mul, false, true) => (a, Step::Times(b)),
                    (Op::Mul, true, false) => (b, Step::Times(a)),
                    (Op::Add, false, true) => (a, Step::Plus(b)),
                    (Op::Add, true, false) => (b, Step::Plus(a)),
                    (Op::Div, false, true) => (a, Step::Over(b)),
                    (Op::Sub, false, true) => (a, Step::Minus(b)),
                    (Op::Sub, true, false) => (b, Step::From(a)),
                    _ => return None,
                }
            }
            _ => return None,
        };
        (self.rewriter.ty(source) == self.rewriter.ty(self.rewriter.output(id, 0)?)).then_some((source, step))
    }

    /// Number of output channels of a linear op whose weights are constants.
    fn channels(&self, id: NodeId) -> Option<usize> {
        let node = self.rewriter.node(id);
        let weight = self.rewriter.input(id, 1)?;
        self.rewriter.weight(weight)?;
        let ty = self.rewriter.ty(weight).as_tensor()?;
        let shape = ty.extents().filter(|_| ty.dtype.is_float())?;
        let channels = match node.op {
            Op::Conv => *shape.first()?,
            Op::ConvTranspose => shape.get(1)? * usize::try_from(node.attrs.int_or("group", 1)).ok()?,
            Op::Gemm if shape.len() == 2 => shape[usize::from(!node.attrs.flag("transB"))],
            _ => return None,
        };
        if let Some(bias) = self.rewriter.input(id, 2) {
            self.rewriter.weight(bias)?;
            // A bias of Gemm may also be one per row.
            per_channel(&self.rewriter.ty(bias).as_tensor()?.extents()?, channels, Some(2), 1)?;
        }
        Some(channels)
    }

    /// The numbers of a step: none at all where they are not one for each channel, none inside where one is not at hand.
    fn affine(&self, step: &Step, channels: usize, rank: Option<usize>) -> Option<Option<Affine>> {
        let read = |v: ValueId, rank: Option<usize>, channel_at: usize| -> Option<Option<Vec<f64>>> {
            per_channel(&self.rewriter.ty(v).as_tensor()?.extents()?, channels, rank, channel_at)?;
            let Ok(tensor) = materialize(self.rewriter.graph(), v) else { return Some(None) };
            let values = tensor.to_f64().ok()?;
            Some(Some(if values.len() == 1 { vec![values[0]; channels] } else { values.into_owned() }))
        };
        let operand = |v: &ValueId| read(*v, rank, 1);
        let each = |value| vec![value; channels];
        let times = |scale| Affine { scale, shift: each(0.0) };
        let plus = |shift| Affine { scale: each(1.0), shift };
        Some(match step {
            Step::Times(v) => operand(v)?.map(times),
            Step::Over(v) => operand(v)?.map(|d| times(d.iter().map(|d| 1.0 / d).collect())),
            Step::Plus(v) => operand(v)?.map(plus),
            Step::Minus(v) => operand(v)?.map(|d| plus(d.iter().map(|d| -d).collect())),
            Step::From(v) => operand(v)?.map(|shift| Affine { scale: each(-1.0), shift }),
            Step::Normalize(parameters, epsilon) => {
                let read: Option<Vec<Option<Vec<f64>>>> =
                    parameters.iter().map(|v| read(*v, Some(1), 0)).collect();
                let read: Option<Vec<Vec<f64>>> = read?.into_iter().collect();
                read.map(|read| {
                    let [gain, bias, mean, variance] = [&read[0], &read[1], &read[2], &read[3]];
                    let scale: Vec<f64> =
                        gain.iter().zip(variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
                    let shift = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
                    Affine { scale, shift }
                })
            }
        })
    }

    fn write_weights(&mut self) {
        for linear in std::mem::take(&mut self.pending) {
            let node = self.rewriter.node(linear.node);
            let (op, attrs) = (node.op, node.attrs.clone());
            let mut inputs: Vec<Option<ValueId>> =
                (0..2).map(|i| self.rewriter.input(linear.node, i)).collect();
            let weight = inputs[1].expect("linear ops have weights");
            let affine = linear.affine.as_ref();
            if affine.is_none_or(|a| a.scale.iter().any(|s| *s != 1.0)) {
                let new =
                    affine.and_then(|a| self.scaled(weight, op, &attrs, &a.scale)).unwrap_or(Weight::Absent);
                let value = self.rewriter.value(weight);
                let (name, ty) = (format!("{}.folded", value.name), value.ty.clone());
                inputs[1] = Some(self.rewriter.add_constant(&name, ty, new));
            }
            let dtype = self.rewriter.ty(weight).as_tensor().map_or(DType::F32, |t| t.dtype);
            let bias = self.rewriter.input(linear.node, 2);
            let factor = if op == Op::Gemm { attrs.float_or("beta", 1.0) } else { 1.0 };
            let new = affine.and_then(|a| self.shifted(bias, factor, a, dtype)).unwrap_or(Weight::Absent);
            let needed = bias.is_some() || affine.is_none_or(|a| a.shift.iter().any(|t| *t != 0.0));
            if needed {
                let owner = bias.unwrap_or_else(|| self.rewriter.output(linear.node, 0).expect("it is read"));
                let suffix = if bias.is_some() { "folded" } else { "bias" };
                let name = format!("{}.{suffix}", self.rewriter.value(owner).name);
                let ty = Type::tensor(dtype, [linear.channels]);
                inputs.push(Some(self.rewriter.add_constant(&name, ty, new)));
            }
            self.rewriter.set_inputs(linear.node, inputs);
            self.rewriter.remove_attr(linear.node, "beta");
            self.report.replacements.push(Replacement {
                kind: Kind::ChannelAffine,
                place: linear.place,
                nodes: (linear.folded + 1, 1),
                exactness: Exactness::Exact,
            });
        }
    }

    /// A weight with each output channel multiplied; none where its elements are not at hand or not to be computed.
    fn scaled(&self, weight: ValueId, op: Op, attrs: &orrery_ir::Attrs, scale: &[f64]) -> Option<Weight> {
        let ty = self.rewriter.ty(weight).as_tensor()?;
        let shape = ty.extents()?;
        let elements: usize = shape.iter().product();
        if self.weights == Weights::ShapeOnly && elements * ty.dtype.host_bytes() > SMALL {
            return None;
        }
        let tensor = materialize(self.rewriter.graph(), weight).ok()?;
        let channels = scale.len();
        // Elements one behind the other that are of the same channel, and the channel of each such run.
        let (run, channel): (usize, Box<dyn Fn(usize) -> usize>) = match op {
            Op::ConvTranspose => {
                let per_group = shape[1];
                let inputs = shape[0] * per_group / channels.max(1);
                let of = move |at: usize| (at / per_group / inputs.max(1)) * per_group + at % per_group;
                (shape[2..].iter().product(), Box::new(of))
            }
            Op::Gemm if !attrs.flag("transB") => (1, Box::new(move |at| at % channels)),
            _ => (shape[1..].iter().product(), Box::new(|at| at)),
        };
        if run == 0 || channels == 0 {
            return Some(Weight::Data(tensor));
        }
        let made = if ty.dtype == DType::F32 {
            let mut values = tensor.raw::<f32>().into_owned();
            for (at, run) in values.chunks_exact_mut(run).enumerate() {
                let scale = scale[channel(at)];
                run.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
            }
            Tensor::from_vec(shape, values)
        } else {
            let mut values = tensor.to_f64().ok()?.into_owned();
            for (at, run) in values.chunks_exact_mut(run).enumerate() {
                let scale = scale[channel(at)];
                run.iter_mut().for_each(|v| *v *= scale);
            }
            Tensor::from_f64(ty.dtype, shape, values, Rounding::NearestEven, false)
        };
        Some(Weight::Data(made))
    }

    /// The new bias; none where the old one is not at hand.
    fn shifted(&self, bias: Option<ValueId>, factor: f64, affine: &Affine, dtype: DType) -> Option<Weight> {
        let mut values = affine.shift.clone();
        if let Some(bias) = bias {
            let tensor = materialize(self.rewriter.graph(), bias).ok()?;
            let old = tensor.to_f64().ok()?;
            for (at, (value, scale)) in values.iter_mut().zip(&affine.scale).enumerate() {
                *value += factor * old[if old.len() == 1 { 0 } else { at }] * scale;
            }
        }
        let shape = vec![values.len()];
        Some(Weight::Data(Tensor::from_f64(dtype, shape, values, Rounding::NearestEven, false)))
    }
}

/// Whether a constant of this shape is one number, or one for each channel, beside an operand of `rank` dimensions whose
/// channels are dimension `channel_at`.
fn per_channel(shape: &[usize], channels: usize, rank: Option<usize>, channel_at: usize) -> Option<()> {
    if shape.iter().all(|&n| n == 1) && rank.is_none_or(|r| shape.len() <= r) {
        return Some(());
    }
    let rank = rank?;
    let at = (channel_at + shape.len()).checked_sub(rank)?;
    let fits = shape.len() <= rank
        && shape.iter().enumerate().all(|(d, &n)| if d == at { n == channels } else { n == 1 });
    fits.then_some(())
}
