//! Computing nodes on constants.
//!
//! The interpreter's definition of an op computes it, so that a folded value is what running would have given. What is
//! made must not be larger than what it is made of, or [`SMALL`], and never larger than [`MOST`] unless it shrinks:
//! expanding a constant is left to run time. Quantised weights stay quantised. A constant too large to be made from
//! [`Op::ConstantOfShape`] becomes a weight without deviation, whose elements are made when they are needed.

use super::Pass;
use crate::Weights;
use orrery_ir::interpret::eval_node;
use orrery_ir::op::{Class, Datum};
use orrery_ir::weights::materialize;
use orrery_ir::{NodeId, Op, Type, ValueId, Weight};
use orrery_numerics::Tensor;

/// Bytes that a fold may always make.
const SMALL: u64 = 1 << 20;
/// Bytes that a fold may make where it does not shrink.
const MOST: u64 = 16 << 20;
/// Bytes above which a weight is not computed where only shapes are asked for.
const SHAPE_ONLY: u64 = 64 << 10;

/// What became of a node.
pub(super) enum Folded {
    /// It stays.
    No,
    /// Its outputs are these constants.
    To(Vec<(ValueId, Type, Weight)>),
}

pub(super) fn fold(pass: &Pass<'_>, id: NodeId) -> Folded {
    try_fold(pass, id).map_or(Folded::No, Folded::To)
}

fn try_fold(pass: &Pass<'_>, id: NodeId) -> Option<Vec<(ValueId, Type, Weight)>> {
    let rewriter = &pass.rewriter;
    let node = rewriter.node(id);
    let def = node.op.def();
    if def.class == Class::Random
        || node.op == Op::DequantizeLinear
        || node.inputs.iter().flatten().count() == 0
    {
        return None;
    }
    let mut inputs = Vec::with_capacity(node.inputs.len());
    let (mut input_bytes, mut absent) = (0, false);
    for i in 0..node.inputs.len() {
        let input = rewriter.input(id, i);
        if let Some(input) = input {
            absent |= matches!(rewriter.weight(input)?, Weight::Absent | Weight::Digest(_));
            input_bytes += bytes(rewriter.ty(input))?;
        }
        inputs.push(input);
    }
    let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
    let sizes: Option<Vec<u64>> = outputs.iter().map(|v| bytes(rewriter.ty(*v))).collect();
    let floats = outputs.iter().all(|v| rewriter.ty(*v).as_tensor().is_some_and(|t| t.dtype.is_float()));
    let largest = sizes.as_ref().and_then(|s| s.iter().copied().max());
    if node.op == Op::Transpose && largest.is_some_and(|l| l > SHAPE_ONLY) && stays(pass, &inputs, outputs[0])
    {
        return None;
    }
    if floats && let Some(largest) = largest {
        if node.op == Op::ConstantOfShape && largest > SHAPE_ONLY {
            return filled(pass, id, outputs[0]);
        }
        if absent || (pass.weights == Weights::ShapeOnly && largest > SHAPE_ONLY) {
            let absent = |v: ValueId| (v, rewriter.ty(v).clone(), Weight::Absent);
            return Some(outputs.into_iter().map(absent).collect());
        }
    }
    // Without known sizes, only what is made of little is tried: no op on small constants that grows without bound has
    // an open output shape once its inputs are constant.
    let allowed = match largest {
        Some(largest) => {
            largest <= SMALL || (largest <= input_bytes && (largest <= MOST || largest < input_bytes))
        }
        None => input_bytes <= SHAPE_ONLY,
    };
    if absent || !allowed {
        return None;
    }
    let arguments: Option<Vec<Option<Datum>>> = inputs
        .into_iter()
        .map(|v| match v {
            None => Some(None),
            Some(v) => materialize(rewriter.graph(), v).ok().map(|tensor| Some(tensor.into())),
        })
        .collect();
    // Where the op fails on these constants, running says so, with the node's name.
    let results = eval_node(rewriter.node(id), &arguments?, 0).ok()?;
    let mut constants = Vec::with_capacity(outputs.len());
    for (output, datum) in rewriter.node(id).outputs.iter().zip(results) {
        if let Some(output) = *output {
            let Datum::Tensor(tensor) = datum else { return None };
            constants.push((output, type_of(&tensor), Weight::Data(tensor)));
        }
    }
    Some(constants)
}

/// Whether a large weight is not to be transposed: it is read as it is too and would be there twice, or only products read
/// the transpose, which can do with the weight as it is.
fn stays(pass: &Pass<'_>, inputs: &[Option<ValueId>], output: ValueId) -> bool {
    let rewriter = &pass.rewriter;
    let multiplied = |(node, input): (NodeId, usize)| rewriter.node(node).op == Op::MatMul && input == 1;
    inputs.iter().flatten().any(|v| rewriter.uses(*v) > 1)
        || (!rewriter.is_output(output) && rewriter.readers(output).into_iter().all(multiplied))
}

/// A large tensor of equal elements: zeros without a second input.
fn filled(pass: &Pass<'_>, id: NodeId, output: ValueId) -> Option<Vec<(ValueId, Type, Weight)>> {
    let mean = match pass.rewriter.input(id, 1) {
        Some(element) => pass.rewriter.tensor(element)?.to_f64().ok()?.first().copied()?,
        None => 0.0,
    };
    let weight = Weight::Seeded { seed: 0, mean, deviation: 0.0 };
    Some(vec![(output, pass.rewriter.ty(output).clone(), weight)])
}

fn type_of(tensor: &Tensor) -> Type {
    Type::tensor(tensor.dtype(), tensor.shape().iter().copied())
}

/// Bytes on the host, where the shape is known in numbers.
fn bytes(ty: &Type) -> Option<u64> {
    let ty = ty.as_tensor()?;
    let elements = ty.extents()?.iter().try_fold(1_u64, |n, &d| n.checked_mul(d as u64))?;
    elements.checked_mul(ty.dtype.host_bytes().max(1) as u64)
}
