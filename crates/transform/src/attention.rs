//! Gradients of attention, spelled out.
//!
//! In one piece the op has parts for batches and heads alone, since keys and values get gradients from all queries. Spelled
//! out it is five products and a softmax, each of which a machine with memories of its own cuts as it likes, over queries
//! and keys too. It computes the same but for the format between the products, which is that of the operands.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::extend::Extend;
use orrery_ir::{Attrs, Graph, Node, Op, Type, ValueId};
use orrery_numerics::{DType, Tensor};

/// A score that a softmax makes nothing of, in any format.
const HIDDEN: f64 = -6e4;

/// Spells out the gradients of attention where each head of queries has keys and values of its own, nothing caps the
/// scores, and a mask, if any, is added to them or is true where they stay.
///
/// # Errors
/// `open-shape` where the shape of one is not known.
pub fn spread_attention_grad(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    for id in rewriter.node_ids() {
        let node = rewriter.node(id).clone();
        if node.op != Op::AttentionGrad || rewriter.is_dead(id) {
            continue;
        }
        let inputs: Vec<ValueId> = (0..node.inputs.len()).filter_map(|i| rewriter.input(id, i)).collect();
        let scores = rewriter.output(id, 3).is_some_and(|scores| rewriter.uses(scores) > 0);
        let capped = node.attrs.float_or("softcap", 0.0) > 0.0;
        if scores || capped || inputs.len() != node.inputs.len() || inputs.len() > 5 {
            continue;
        }
        let types: Vec<Type> = inputs.iter().map(|v| rewriter.ty(*v).clone()).collect();
        let Some(body) = spelled(&node, types)? else { continue };
        let made = rewriter.inline(id, &body, &inputs);
        for (i, made) in made.into_iter().enumerate() {
            if let Some(output) = rewriter.output(id, i) {
                rewriter.replace(output, made);
            }
        }
    }
    let graph = rewriter.finish();
    check(&graph)?;
    Ok(graph)
}

/// What a node becomes, as a graph of its inputs and three outputs; none where heads share keys.
fn spelled(node: &Node, types: Vec<Type>) -> Result<Option<Graph>> {
    let mut graph = Extend::new(Graph::new("attention"))?;
    let names = ["q", "k", "v", "dy", "mask"];
    let inputs: Vec<ValueId> = names.iter().zip(types).map(|(name, ty)| graph.input(name, ty)).collect();
    let given: Vec<Vec<i64>> = inputs[..4].iter().map(|v| graph.shape(*v)).collect::<Result<_>>()?;
    let four = given[0].len() == 4;
    let heads = |number: usize, name: &str| match given[number][..] {
        [_, heads, _, _] => heads,
        [_, _, width] => {
            let size = node.attrs.int("head_size").filter(|size| *size > 0);
            size.map_or_else(|| node.attrs.int_or(name, 1), |size| width / size)
        }
        _ => 0,
    };
    let count = heads(0, "q_num_heads");
    if count < 1 || heads(1, "kv_num_heads") != count {
        return Ok(None);
    }
    // Heads before tokens.
    let mut apart = Vec::new();
    for (value, shape) in inputs[..4].iter().zip(&given) {
        apart.push(match shape[..] {
            [batch, length, width] => {
                let split = graph.ints(&[batch, length, count, width / count]);
                let split = graph.op(Op::Reshape, &[*value, split], Attrs::new())?;
                graph.transpose(split, &[0, 2, 1, 3])?
            }
            _ => *value,
        });
    }
    let [q, k, v, dy] = apart[..] else { return Ok(None) };
    let (queries, keys, size) = (graph.shape(q)?[2], graph.shape(k)?[2], graph.shape(q)?[3]);
    let turned = |graph: &mut Extend, value: ValueId| graph.transpose(value, &[0, 1, 3, 2]);
    let scale = node.attrs.float_or("scale", 1.0 / (size as f64).sqrt());
    let across = turned(&mut graph, k)?;
    let products = graph.matmul(q, across)?;
    let mut scores = graph.scale(products, scale)?;
    if let Some(&mask) = inputs.get(4) {
        scores = if graph.dtype(mask) == DType::Bool {
            let hidden = graph.scalar_like(scores, HIDDEN);
            graph.op(Op::Where, &[mask, scores, hidden], Attrs::new())?
        } else {
            graph.add(scores, mask)?
        };
    }
    if node.attrs.flag("is_causal") {
        let sees = (0..queries).flat_map(|i| (0..keys).map(move |j| j <= i + keys - queries));
        let sees = Tensor::from_bools(vec![queries as usize, keys as usize], sees);
        let sees = graph.tensor("sees", sees);
        let hidden = graph.scalar_like(scores, HIDDEN);
        scores = graph.op(Op::Where, &[sees, scores, hidden], Attrs::new())?;
    }
    let weights = graph.op(Op::Softmax, &[scores], Attrs::new().with("axis", -1_i64))?;
    let across = turned(&mut graph, weights)?;
    let dv = graph.matmul(across, dy)?;
    let across = turned(&mut graph, v)?;
    let dweights = graph.matmul(dy, across)?;
    let weighted = graph.mul(weights, dweights)?;
    let sums = graph.sum(weighted, &[3], true)?;
    let apart = graph.sub(dweights, sums)?;
    let dscores = graph.mul(weights, apart)?;
    let dscores = graph.scale(dscores, scale)?;
    let dq = graph.matmul(dscores, k)?;
    let across = turned(&mut graph, dscores)?;
    let dk = graph.matmul(across, q)?;
    for (number, (name, made)) in [("dq", dq), ("dk", dk), ("dv", dv)].into_iter().enumerate() {
        let made = match four {
            true => made,
            false => {
                let joined = graph.transpose(made, &[0, 2, 1, 3])?;
                let shape = graph.ints(&given[number]);
                graph.op(Op::Reshape, &[joined, shape], Attrs::new())?
            }
        };
        graph.output(name, made);
    }
    Ok(Some(graph.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::op::Datum;
    use orrery_ir::weights::normal;
    use orrery_ir::{infer, interpret, text};

    #[test]
    fn what_is_spelled_out_computes_the_same() {
        for (shape, attrs) in [
            ("2, 3, 8", "{is_causal = 1, kv_num_heads = 2, q_num_heads = 2}"),
            ("2, 2, 3, 4", "{scale = 0.7}"),
        ] {
            let source = format!(
                "graph \"g\" {{
  input %q: f64[{shape}]
  input %k: f64[{shape}]
  input %v: f64[{shape}]
  input %dy: f64[{shape}]
  %dq: f64[{shape}], %dk: f64[{shape}], %dv: f64[{shape}] = AttentionGrad(%q, %k, %v, %dy) {attrs}
  output %dq
  output %dk
  output %dv
}}
"
            );
            let graph = text::parse(&source).unwrap();
            let mut spread = spread_attention_grad(&graph).unwrap();
            infer::infer(&mut spread).unwrap();
            assert!(!spread.nodes.values().any(|n| n.op == Op::AttentionGrad));
            let shape: Vec<usize> = shape.split(", ").map(|n| n.parse().unwrap()).collect();
            let draw = |i: u64| {
                let count = shape.iter().product();
                let numbers = normal(i, count, 1.0, 0.5).into_iter().map(f64::from).collect();
                Datum::from(Tensor::from_vec(shape.clone(), numbers))
            };
            let inputs: Vec<Datum> = (0..4).map(draw).collect();
            let expected = interpret::run(&graph, inputs.clone(), 0).unwrap();
            let found = interpret::run(&spread, inputs, 0).unwrap();
            for (expected, found) in expected.iter().zip(&found) {
                let read = |d: &Datum| d.as_tensor().unwrap().to_f64().unwrap().into_owned();
                for (e, f) in read(expected).iter().zip(read(found)) {
                    assert!((e - f).abs() < 1e-9, "{e} and {f}");
                }
            }
        }
    }
}
