//! Batch normalization in training, spelled out.
//!
//! The statistics of a batch need all of it, so that the op in one piece brings each channel together in one place. Spelled
//! out it is a reduction, which parts of a machine share, a handful of ops on channels, and the normalization by given
//! statistics, which goes element by element.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::extend::Extend;
use orrery_ir::op::normalization::batch_moments;
use orrery_ir::{Attrs, Graph, Node, Op, Type, ValueId};

/// Spells out every batch normalization in training mode. Its running mean, which an input says, is what distances are
/// taken from: as close to the mean as is known before the batch is seen.
///
/// # Errors
/// `open-shape` where the shape of one is not known.
pub fn spread_batch_norm(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    for id in rewriter.node_ids() {
        let node = rewriter.node(id).clone();
        let training = node.op == Op::BatchNormalization && node.attrs.flag("training_mode");
        let inputs: Vec<ValueId> = (0..5).filter_map(|i| rewriter.input(id, i)).collect();
        if !training || rewriter.is_dead(id) || inputs.len() < 5 {
            continue;
        }
        let types: Vec<Type> = inputs.iter().map(|v| rewriter.ty(*v).clone()).collect();
        let made = rewriter.inline(id, &spelled(&node, types)?, &inputs);
        rewriter.replace_outputs(id, &made);
    }
    let graph = rewriter.finish();
    check(&graph)?;
    Ok(graph)
}

/// What a node becomes, as a graph of its five inputs and three outputs.
fn spelled(node: &Node, types: Vec<Type>) -> Result<Graph> {
    let mut graph = Extend::new(Graph::new("batch"))?;
    let names = ["x", "scale", "bias", "running_mean", "running_variance"];
    let inputs: Vec<ValueId> = names.iter().zip(types).map(|(name, ty)| graph.input(name, ty)).collect();
    let [mean, variance] = batch_moments(&mut graph, inputs[0], inputs[3])?;
    let mut attrs = Attrs::new();
    if let Some(epsilon) = node.attrs.float("epsilon") {
        attrs.set("epsilon", epsilon);
    }
    let y = graph.op(Op::BatchNormalization, &[inputs[0], inputs[1], inputs[2], mean, variance], attrs)?;
    graph.output("y", y);
    let kept = node.attrs.float_or("momentum", 0.9);
    for (name, old, new) in [("mean", inputs[3], mean), ("variance", inputs[4], variance)] {
        let dtype = graph.dtype(old);
        let new = graph.cast(new, dtype)?;
        let (old, new) = (graph.scale(old, kept)?, graph.scale(new, 1.0 - kept)?);
        let moved = graph.add(old, new)?;
        graph.output(name, moved);
    }
    Ok(graph.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::op::Datum;
    use orrery_ir::weights::normal;
    use orrery_ir::{infer, interpret, text};
    use orrery_numerics::Tensor;

    #[test]
    fn what_is_spelled_out_computes_the_same() {
        let source = "graph \"g\" {
  input %x: f64[3, 2, 4]
  input %s: f64[2]
  input %b: f64[2]
  input %m: f64[2]
  input %v: f64[2]
  %y: f64[3, 2, 4], %mean: f64[2], %var: f64[2] = BatchNormalization(%x, %s, %b, %m, %v) {epsilon = 0.01, momentum = 0.7, training_mode = 1}
  output %y
  output %mean
  output %var
}
";
        let graph = text::parse(source).unwrap();
        let mut spread = spread_batch_norm(&graph).unwrap();
        infer::infer(&mut spread).unwrap();
        assert!(spread.nodes.values().any(|n| n.op == Op::ChannelMoments));
        assert!(!spread.nodes.values().any(|n| n.attrs.flag("training_mode")));
        let draw = |(i, shape): (usize, Vec<usize>)| {
            let count = shape.iter().product();
            let numbers = normal(i as u64, count, 1.0, 0.5).into_iter().map(f64::from).collect();
            Datum::from(Tensor::from_vec(shape, numbers))
        };
        let shapes = [vec![3, 2, 4], vec![2], vec![2], vec![2], vec![2]];
        let inputs: Vec<Datum> = shapes.into_iter().enumerate().map(draw).collect();
        let expected = interpret::run(&graph, inputs.clone(), 0).unwrap();
        let found = interpret::run(&spread, inputs, 0).unwrap();
        for (expected, found) in expected.iter().zip(&found) {
            let read = |d: &Datum| d.as_tensor().unwrap().to_f64().unwrap().into_owned();
            for (e, f) in read(expected).iter().zip(read(found)) {
                assert!((e - f).abs() < 1e-12, "{e} and {f}");
            }
        }
    }
}
