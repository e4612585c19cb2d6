//! Batch normalization in training, spelled out: sums over the batch, then a product and a sum for each element.
//!
//! Sums of parts add up, so that no core needs a whole channel, and the backward pass finds mean and variance as they are.

use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::op::normalization::batch_moments;
use orrery_ir::{Attrs, Extend, Graph, Node, Op};

/// Replaces the batch normalizations in training mode whose extents are known.
///
/// # Errors
/// Those of building ops.
pub(super) fn spelled_out(graph: Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph);
    for id in rewriter.node_ids() {
        let node = rewriter.node(id).clone();
        let training = node.op == Op::BatchNormalization && node.attrs.flag("training_mode");
        let inputs: Vec<_> = (0..5).filter_map(|i| rewriter.input(id, i)).collect();
        let known =
            inputs.iter().all(|v| rewriter.ty(*v).as_tensor().is_some_and(|ty| ty.extents().is_some()));
        if !training || rewriter.is_dead(id) || inputs.len() < 5 || !known {
            continue;
        }
        let types = inputs.iter().map(|v| rewriter.ty(*v).clone());
        let made = rewriter.inline(id, &body(&node, types)?, &inputs);
        for (number, new) in made.into_iter().enumerate() {
            if let Some(old) = rewriter.output(id, number) {
                rewriter.replace(old, new);
            }
        }
    }
    Ok(rewriter.finish())
}

/// From X, scale, bias and the running mean and variance: Y and the new running ones.
fn body(node: &Node, types: impl Iterator<Item = orrery_ir::Type>) -> Result<Graph> {
    let mut b = Extend::new(Graph::new(""))?;
    let inputs: Vec<_> = ["x", "scale", "bias", "mean", "variance"]
        .into_iter()
        .zip(types)
        .map(|(name, ty)| b.input(name, ty))
        .collect();
    let [mean, variance] = batch_moments(&mut b, inputs[0], inputs[3])?;
    let mut attrs = Attrs::new();
    if let Some(epsilon) = node.attrs.float("epsilon") {
        attrs.set("epsilon", epsilon);
    }
    let dtype = b.dtype(inputs[3]);
    let (mean, variance) = (b.cast(mean, dtype)?, b.cast(variance, dtype)?);
    let y = b.op(Op::BatchNormalization, &[inputs[0], inputs[1], inputs[2], mean, variance], attrs)?;
    b.output("y", y);
    let kept = node.attrs.float_or("momentum", 0.9);
    for (old, new, name) in [(inputs[3], mean, "mean.moved"), (inputs[4], variance, "variance.moved")] {
        let (old, new) = (b.scale(old, kept)?, b.scale(new, 1.0 - kept)?);
        let moved = b.add(old, new)?;
        b.output(name, moved);
    }
    Ok(b.finish())
}
