//! Attention and its gradients, spelled out.
//!
//! In one piece the ops have parts for batches and heads, and for queries only where those see all keys; keys and values get
//! gradients from all queries. Spelled out they are products and a softmax, each of which a machine with memories of its own
//! cuts as it likes, over queries and keys too. They compute the same but for the format between the products, which is that
//! of the operands.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::extend::Extend;
use orrery_ir::{Attrs, Graph, Node, Op, Type, ValueId};
use orrery_numerics::{DType, Tensor};

/// A score that a softmax makes nothing of, in any format.
const HIDDEN: f64 = -6e4;

/// Spells out attention, and its gradients where each head of queries has keys and values of its own, where nothing caps the
/// scores, nothing else reads them, and a mask, if any, is added to them or is true where they stay.
///
/// # Errors
/// `open-shape` where the shape of one is not known.
pub fn spread_attention(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    for id in rewriter.node_ids() {
        let node = rewriter.node(id).clone();
        // Operands before the mask, all operands, and results.
        let (operands, most, results) = match node.op {
            Op::Attention => (3, 6, 3),
            Op::AttentionGrad => (4, 5, 3),
            _ => continue,
        };
        let inputs: Vec<Option<ValueId>> = (0..node.inputs.len()).map(|i| rewriter.input(id, i)).collect();
        let others = (results..node.outputs.len()).filter_map(|i| rewriter.output(id, i));
        let read = others.into_iter().any(|other| rewriter.uses(other) > 0 || rewriter.is_output(other));
        let capped = node.attrs.float_or("softcap", 0.0) > 0.0;
        let plain = inputs.iter().take(operands).flatten().count() == operands
            && inputs.iter().skip(most).all(Option::is_none);
        if read || capped || !plain || rewriter.is_dead(id) {
            continue;
        }
        let types = inputs.iter().map(|v| v.map(|v| rewriter.ty(v).clone())).collect();
        let inputs: Vec<ValueId> = inputs.into_iter().flatten().collect();
        let Some(body) = spelled(&node, types, operands)? else { continue };
        let made = rewriter.inline(id, &body, &inputs);
        rewriter.replace_outputs(id, &made);
    }
    let graph = rewriter.finish();
    check(&graph)?;
    Ok(graph)
}

/// What a node becomes, as a graph of its inputs and results; none where a gradient is of heads that share keys, or a mask is
/// shorter than the keys.
fn spelled(node: &Node, types: Vec<Option<Type>>, operands: usize) -> Result<Option<Graph>> {
    let mut graph = Extend::new(Graph::new("attention"))?;
    let names = match operands {
        3 => &["q", "k", "v", "mask", "past_key", "past_value"][..],
        _ => &["q", "k", "v", "dy", "mask"],
    };
    let inputs: Vec<Option<ValueId>> =
        names.iter().zip(types).map(|(name, ty)| Some(graph.input(name, ty?))).collect();
    let input = |i: usize| inputs.get(i).copied().flatten();
    let given: Vec<Vec<i64>> =
        inputs[..operands].iter().flatten().map(|v| graph.shape(*v)).collect::<Result<_>>()?;
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
    let own = heads(1, "kv_num_heads");
    if count < 1 || own < 1 || count % own != 0 || (operands > 3 && own != count) {
        return Ok(None);
    }
    // Heads before tokens.
    let mut apart = Vec::new();
    for (number, (value, shape)) in inputs[..operands].iter().flatten().zip(&given).enumerate() {
        let heads = if matches!(number, 1 | 2) { own } else { count };
        apart.push(match shape[..] {
            [batch, length, width] => {
                let split = graph.reshape(*value, &[batch, length, heads, width / heads])?;
                graph.transpose(split, &[0, 2, 1, 3])?
            }
            _ => *value,
        });
    }
    let [q, mut k, mut v] = apart[..3] else { return Ok(None) };
    // Earlier keys and values come first.
    let mut earlier = 0;
    if let (3, Some(keys), Some(values)) = (operands, input(4), input(5)) {
        earlier = graph.shape(keys)?[2];
        let tokens = || Attrs::new().with("axis", 2_i64);
        k = graph.op(Op::Concat, &[keys, k], tokens())?;
        v = graph.op(Op::Concat, &[values, v], tokens())?;
    }
    let (batch, queries, keys, size) =
        (graph.shape(q)?[0], graph.shape(q)?[2], graph.shape(k)?[2], graph.shape(q)?[3]);
    let mask = input(operands);
    if let Some(mask) = mask
        && graph.shape(mask)?.last().is_some_and(|last| *last != keys && *last != 1)
    {
        return Ok(None);
    }
    let turned = |graph: &mut Extend, value: ValueId| graph.transpose(value, &[0, 1, 3, 2]);
    // Queries of heads that share keys are rows of one product.
    let rows = count / own * queries;
    let shared = |graph: &mut Extend, value: ValueId, width: i64| match own == count {
        true => Ok(value),
        false => graph.reshape(value, &[batch, own, rows, width]),
    };
    let each = |graph: &mut Extend, value: ValueId, width: i64| match own == count {
        true => Ok(value),
        false => graph.reshape(value, &[batch, count, queries, width]),
    };
    let scale = node.attrs.float_or("scale", 1.0 / (size as f64).sqrt());
    let across = turned(&mut graph, k)?;
    let together = shared(&mut graph, q, size)?;
    let products = graph.matmul(together, across)?;
    let products = each(&mut graph, products, keys)?;
    let mut scores = graph.scale(products, scale)?;
    if let Some(mask) = mask {
        scores = if graph.dtype(mask) == DType::Bool {
            let hidden = graph.scalar_like(scores, HIDDEN);
            graph.op(Op::Where, &[mask, scores, hidden], Attrs::new())?
        } else {
            graph.add(scores, mask)?
        };
    }
    if node.attrs.flag("is_causal") {
        let sees = (0..queries).flat_map(|i| (0..keys).map(move |j| j <= earlier + i));
        let sees = Tensor::from_bools(vec![queries as usize, keys as usize], sees);
        let sees = graph.tensor("sees", sees);
        let hidden = graph.scalar_like(scores, HIDDEN);
        scores = graph.op(Op::Where, &[sees, scores, hidden], Attrs::new())?;
    }
    let weights = graph.op(Op::Softmax, &[scores], Attrs::new().with("axis", -1_i64))?;
    let results = match apart.get(3) {
        None => {
            let width = graph.shape(v)?[3];
            let together = shared(&mut graph, weights, keys)?;
            let y = graph.matmul(together, v)?;
            let y = each(&mut graph, y, width)?;
            vec![("y", y, Some(0)), ("present_key", k, None), ("present_value", v, None)]
        }
        Some(&dy) => {
            let across = turned(&mut graph, weights)?;
            let dv = graph.matmul(across, dy)?;
            let across = turned(&mut graph, v)?;
            let dweights = graph.matmul(dy, across)?;
            let weighted = graph.mul(weights, dweights)?;
            let sums = graph.sum(weighted, &[3], true)?;
            let distance = graph.sub(dweights, sums)?;
            let dscores = graph.mul(weights, distance)?;
            let dscores = graph.scale(dscores, scale)?;
            let dq = graph.matmul(dscores, k)?;
            let across = turned(&mut graph, dscores)?;
            let dk = graph.matmul(across, q)?;
            vec![("dq", dq, Some(0)), ("dk", dk, Some(1)), ("dv", dv, Some(2))]
        }
    };
    for (name, made, like) in results {
        let made = match like {
            Some(like) if !four => {
                let width = graph.shape(made)?[3] * count;
                let joined = graph.transpose(made, &[0, 2, 1, 3])?;
                graph.reshape(joined, &[given[like][0], given[like][1], width])?
            }
            _ => made,
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
        for (op, shape, attrs) in [
            ("AttentionGrad", "2, 3, 8", "{is_causal = 1, kv_num_heads = 2, q_num_heads = 2}"),
            ("AttentionGrad", "2, 2, 3, 4", "{scale = 0.7}"),
            ("Attention", "2, 3, 8", "{is_causal = 1, kv_num_heads = 2, q_num_heads = 2}"),
            ("Attention", "2, 2, 3, 4", ""),
        ] {
            let (operands, results) = match op {
                "Attention" => (&["q", "k", "v"][..], &["y"][..]),
                _ => (&["q", "k", "v", "dy"][..], &["dq", "dk", "dv"][..]),
            };
            let lines = |names: &[&str], line: &dyn Fn(&str) -> String| -> String {
                names.iter().map(|name| line(name)).collect()
            };
            let listed = |names: &[&str], of: &str| {
                names.iter().map(|name| format!("%{name}{of}")).collect::<Vec<_>>().join(", ")
            };
            let ty = format!(": f64[{shape}]");
            let source = format!(
                "graph \"g\" {{\n{}  {} = {op}({}) {attrs}\n{}}}\n",
                lines(operands, &|name| format!("  input %{name}{ty}\n")),
                listed(results, &ty),
                listed(operands, ""),
                lines(results, &|name| format!("  output %{name}\n")),
            );
            let graph = text::parse(&source).unwrap();
            let mut spread = spread_attention(&graph).unwrap();
            infer::infer(&mut spread).unwrap();
            assert!(spread.nodes.values().any(|n| n.op == Op::Softmax), "{source}");
            let shape: Vec<usize> = shape.split(", ").map(|n| n.parse().unwrap()).collect();
            let draw = |i: usize| {
                let count = shape.iter().product();
                let numbers = normal(i as u64, count, 1.0, 0.5).into_iter().map(f64::from).collect();
                Datum::from(Tensor::from_vec(shape.clone(), numbers))
            };
            let inputs: Vec<Datum> = (0..operands.len()).map(draw).collect();
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

    #[test]
    fn earlier_keys_and_keys_that_heads_share_are_spelled_out_too() {
        for (causal, mask) in [(0, ""), (1, ""), (0, ", %mask")] {
            let source = format!(
                "graph \"g\" {{\n  input %q: f64[2, 3, 16]\n  input %k: f64[2, 3, 8]\n  input %v: f64[2, 3, 8]\n  \
                 input %mask: f64[3, 8]\n  input %pk: f64[2, 2, 5, 4]\n  input %pv: f64[2, 2, 5, 4]\n  %y: f64[2, 3, 16], \
                 %nk: f64[2, 2, 8, 4], %nv: f64[2, 2, 8, 4] = Attention(%q, %k, %v, {}, %pk, %pv) {{is_causal = {causal}, \
                 kv_num_heads = 2, q_num_heads = 4}}\n  output %y\n  output %nk\n  output %nv\n}}\n",
                if mask.is_empty() { "_" } else { "%mask" }
            );
            let graph = text::parse(&source).unwrap();
            let mut spread = spread_attention(&graph).unwrap();
            infer::infer(&mut spread).unwrap();
            assert!(spread.nodes.values().all(|n| n.op != Op::Attention), "{source}");
            let shapes: [&[usize]; 6] =
                [&[2, 3, 16], &[2, 3, 8], &[2, 3, 8], &[3, 8], &[2, 2, 5, 4], &[2, 2, 5, 4]];
            let draw = |(i, shape): (usize, &&[usize])| {
                let count = shape.iter().product();
                let numbers = normal(i as u64, count, 1.0, 0.5).into_iter().map(f64::from).collect();
                Datum::from(Tensor::from_vec(shape.to_vec(), numbers))
            };
            let inputs: Vec<Datum> = shapes.iter().enumerate().map(draw).collect();
            let read = |d: &Datum| d.as_tensor().unwrap().to_f64().unwrap().into_owned();
            let expected = interpret::run(&graph, inputs.clone(), 0).unwrap();
            let found = interpret::run(&spread, inputs, 0).unwrap();
            for (expected, found) in expected.iter().zip(&found) {
                for (e, f) in read(expected).iter().zip(read(found)) {
                    assert!((e - f).abs() < 1e-9, "{e} and {f}, {source}");
                }
            }
        }
    }
}
