//! Biases, spelled out.
//!
//! A product that adds a bias cannot be summed up in parts, as each part would add it. As an addition of its own after the
//! product it is no hindrance, and a machine that fuses takes it along in the step of the product.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::{Attrs, Graph, Op, Type, Weight};
use orrery_numerics::Tensor;

/// Takes the biases of known length out of convolutions.
///
/// # Errors
/// `invalid-graph` where the graph was none.
pub fn spread_bias(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    for id in rewriter.node_ids() {
        let node = rewriter.node(id).clone();
        if !matches!(node.op, Op::Conv | Op::ConvTranspose) || rewriter.is_dead(id) {
            continue;
        }
        let operands = (rewriter.input(id, 0), rewriter.input(id, 1), rewriter.input(id, 2));
        let ((Some(x), Some(w), Some(bias)), Some(sum)) = (operands, rewriter.output(id, 0)) else {
            continue;
        };
        let ty = rewriter.ty(sum).clone();
        let rank = ty.as_tensor().and_then(|ty| ty.shape.as_ref()).map_or(0, Vec::len);
        let of_bias = rewriter.ty(bias).as_tensor().and_then(|ty| Some((ty.dtype, ty.extents()?)));
        let Some((dtype, channels)) = of_bias.filter(|_| rank > 2) else { continue };
        let shape: Vec<usize> = channels.into_iter().chain(vec![1; rank - 2]).collect();
        let product = rewriter.insert_before(id, node.op, &node.name, &[x, w], node.attrs, ty);
        let name = format!("{}/bias", node.name);
        let shaped = Type::tensor(dtype, shape.iter().copied());
        let known = match rewriter.weight(bias) {
            Some(Weight::Data(elements)) => Some(Weight::Data(elements.reshaped(shape.clone()))),
            Some(weight @ (Weight::Absent | Weight::Seeded { .. })) => Some(weight.clone()),
            Some(Weight::Digest(_)) | None => None,
        };
        let bias = match known {
            Some(weight) => {
                let name = rewriter.value(bias).name.clone();
                rewriter.add_constant(&name, shaped, weight)
            }
            None => {
                let wanted = shape.iter().map(|extent| *extent as i64).collect();
                let wanted = rewriter.add_tensor("shape", Tensor::from_vec::<i64>(vec![shape.len()], wanted));
                rewriter.insert_before(id, Op::Reshape, &name, &[bias, wanted], Attrs::new(), shaped)
            }
        };
        rewriter.change(id, Op::Add, vec![Some(product), Some(bias)], Attrs::new());
        rewriter.set_name(id, name);
    }
    let graph = rewriter.finish();
    check(&graph)?;
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::op::Datum;
    use orrery_ir::weights::normal;
    use orrery_ir::{infer, interpret, text};

    #[test]
    fn a_bias_on_its_own_adds_the_same() {
        for (op, size) in [("Conv", 3), ("ConvTranspose", 5)] {
            let source = format!(
                "graph \"g\" {{\n  input %x: f64[2, 3, 4, 4]\n  input %w: f64[3, 3, 2, 2]\n  input %b: f64[3]\n  \
                 %y: f64[2, 3, {size}, {size}] = {op}(%x, %w, %b)\n  output %y\n}}\n"
            );
            let graph = text::parse(&source).unwrap();
            let mut spread = spread_bias(&graph).unwrap();
            infer::infer(&mut spread).unwrap();
            assert!(spread.nodes.values().any(|node| node.op == Op::Add), "{op}");
            let shapes = [vec![2, 3, 4, 4], vec![3, 3, 2, 2], vec![3]];
            let draw = |(i, shape): (usize, Vec<usize>)| {
                let numbers = normal(i as u64, shape.iter().product(), 1.0, 0.5);
                Datum::from(Tensor::from_vec(shape, numbers.into_iter().map(f64::from).collect()))
            };
            let inputs: Vec<Datum> = shapes.into_iter().enumerate().map(draw).collect();
            let run = |graph: &Graph| {
                let results = interpret::run(graph, inputs.clone(), 0).unwrap();
                results[0].as_tensor().unwrap().to_f64().unwrap().into_owned()
            };
            for (expected, found) in run(&graph).into_iter().zip(run(&spread)) {
                assert!((expected - found).abs() < 1e-12, "{op}: {expected} and {found}");
            }
        }
    }
}
