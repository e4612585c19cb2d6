//! Normalizations, spelled out.
//!
//! In one piece a normalization has parts for rows only. Spelled out its sums are ops of their own, which can be cut along
//! the row; it computes in f32 as it does in one piece.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::extend::Extend;
use orrery_ir::{Graph, Node, Op, Type, ValueId};
use orrery_numerics::DType;

/// Spells out the normalizations of at most so many rows, where only the normalized values are read.
///
/// # Errors
/// `open-shape` where a shape inside of one is not known.
pub fn spread_normalization(graph: &Graph, most_rows: u64) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    for id in rewriter.node_ids() {
        let node = rewriter.node(id).clone();
        let of_rows = matches!(node.op, Op::LayerNormalization | Op::RMSNormalization);
        if !of_rows
            || rewriter.is_dead(id)
            || (1..node.outputs.len()).any(|i| rewriter.output(id, i).is_some())
        {
            continue;
        }
        let inputs: Vec<ValueId> = (0..node.inputs.len()).filter_map(|i| rewriter.input(id, i)).collect();
        let types: Vec<Type> = inputs.iter().map(|value| rewriter.ty(*value).clone()).collect();
        let Some(shape) = types.first().and_then(|ty| ty.as_tensor()?.extents()) else { continue };
        let axis = node.attrs.int_or("axis", -1);
        let first = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let Some(rows) = usize::try_from(first).ok().and_then(|first| shape.get(..first)) else { continue };
        if rows.iter().product::<usize>() as u64 > most_rows {
            continue;
        }
        let body = spelled(&node, types, &shape, rows.len())?;
        let made = rewriter.inline(id, &body, &inputs);
        rewriter.replace_outputs(id, &made);
    }
    let graph = rewriter.finish();
    check(&graph)?;
    Ok(graph)
}

/// What a node becomes, as a graph of its inputs: `x` of this shape is normalized from dimension `first` on.
fn spelled(node: &Node, types: Vec<Type>, shape: &[usize], first: usize) -> Result<Graph> {
    let mut graph = Extend::new(Graph::new("normalization"))?;
    let inputs: Vec<ValueId> =
        ["x", "scale", "bias"].iter().zip(types).map(|(name, ty)| graph.input(name, ty)).collect();
    let axes: Vec<i64> = (first..shape.len()).map(|axis| axis as i64).collect();
    let count: usize = shape[first..].iter().product();
    let mean = |graph: &mut Extend, value: ValueId| -> Result<ValueId> {
        let sum = graph.sum(value, &axes, true)?;
        graph.scale(sum, 1.0 / count as f64)
    };
    let given = graph.dtype(inputs[0]);
    let wide = if given.bits() < 32 { DType::F32 } else { given };
    let mut x = graph.cast(inputs[0], wide)?;
    if node.op == Op::LayerNormalization {
        let middle = mean(&mut graph, x)?;
        x = graph.sub(x, middle)?;
    }
    let squares = graph.mul(x, x)?;
    let variance = mean(&mut graph, squares)?;
    let variance = graph.plus(variance, node.attrs.float_or("epsilon", 1e-5))?;
    let deviation = graph.unary(Op::Sqrt, variance)?;
    let normal = graph.div(x, deviation)?;
    let mut y = graph.cast(normal, given)?;
    if let Some(&scale) = inputs.get(1) {
        y = graph.mul(y, scale)?;
    }
    if let Some(&bias) = inputs.get(2) {
        y = graph.add(y, bias)?;
    }
    graph.output("y", y);
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
    fn what_is_spelled_out_normalizes_the_same() {
        for (op, attrs, more) in [
            ("LayerNormalization", "{axis = -1, epsilon = 0.01}", ", %b"),
            ("LayerNormalization", "{axis = 1}", ""),
            ("RMSNormalization", "{axis = -1, epsilon = 0.01}", ""),
        ] {
            let of_scale = if attrs.contains("axis = 1}") { "3, 8" } else { "8" };
            let source = format!(
                "graph \"g\" {{\n  input %x: f64[2, 3, 8]\n  input %s: f64[{of_scale}]\n  input %b: f64[{of_scale}]\n  \
                 %y: f64[2, 3, 8] = {op}(%x, %s{more}) {attrs}\n  output %y\n}}\n"
            );
            let graph = text::parse(&source).unwrap();
            let mut spread = spread_normalization(&graph, 6).unwrap();
            infer::infer(&mut spread).unwrap();
            assert!(spread.nodes.values().all(|node| node.op.name() != op), "{source}");
            assert_eq!(spread_normalization(&graph, 1).unwrap(), graph, "too many rows");
            let sizes = [vec![2, 3, 8], of_scale.split(", ").map(|n| n.parse().unwrap()).collect()];
            let draw = |i: usize| {
                let shape: Vec<usize> = sizes[i.min(1)].clone();
                let numbers = normal(i as u64, shape.iter().product(), 1.0, 0.5);
                Datum::from(Tensor::from_vec(shape, numbers.into_iter().map(f64::from).collect()))
            };
            let inputs: Vec<Datum> = (0..3).map(draw).collect();
            let run = |graph: &Graph| {
                let results = interpret::run(graph, inputs.clone(), 0).unwrap();
                results[0].as_tensor().unwrap().to_f64().unwrap().into_owned()
            };
            for (expected, found) in run(&graph).into_iter().zip(run(&spread)) {
                assert!((expected - found).abs() < 1e-6, "{op}: {expected} and {found}");
            }
        }
    }
}
