//! The backward pass: gradients of one value with respect to others, appended to the graph.
//!
//! Goes through the nodes backwards from the loss and asks each one's gradient rule. What several readers send back to a
//! value is added in the order of the readers. Callers [unroll](crate::unroll) loops of a known number of turns first.

use orrery_base::index::Id;
use orrery_base::{Diagnostic, IndexVec, Result};
use orrery_ir::extend::Extend;
use orrery_ir::gradient::Backward;
use orrery_ir::infer::at_node;
use orrery_ir::op::Gradient;
use orrery_ir::{Attrs, Node, NodeId, Op, ValueId};

/// Appends the gradients of `loss`, a scalar, with respect to the values `wrt`. `seed` is the gradient of the loss itself:
/// one, or the factor that keeps small gradients from vanishing in narrow types. A gradient is none where the loss does
/// not depend on the value.
///
/// # Errors
/// `no-gradient` with the node, where a value on the way has no gradient rule; what the rules say.
pub fn differentiate(
    graph: &mut Extend,
    loss: ValueId,
    seed: ValueId,
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>> {
    let forward = graph.graph().nodes.len();
    let depends = dependents(graph, wrt);
    let mut sent: IndexVec<ValueId, Vec<ValueId>> = graph.graph().values.ids().map(|_| Vec::new()).collect();
    if depends[loss] {
        sent[loss].push(seed);
    }
    for id in (0..forward).rev().map(NodeId::new) {
        let node = graph.graph().nodes[id].clone();
        let wanted: Vec<bool> = node.inputs.iter().map(|v| v.is_some_and(|v| depends[v])).collect();
        let reached = node.outputs.iter().flatten().any(|v| !sent[*v].is_empty());
        if !reached || !wanted.contains(&true) {
            continue;
        }
        graph.set_scope(&scope(graph, &node));
        let mut gradients = Vec::with_capacity(node.outputs.len());
        for output in &node.outputs {
            gradients.push(match output {
                Some(output) => total(graph, &sent[*output])?,
                None => None,
            });
        }
        let found = match node.op.def().gradient {
            Gradient::Rule(rule) => {
                let mut backward = Backward::new(graph, id, gradients, wanted.clone());
                rule(&mut backward)?;
                backward.finish()
            }
            Gradient::Zero => continue,
            Gradient::Unknown => return no_rule(graph, id).err(),
        };
        for ((input, gradient), wanted) in node.inputs.iter().zip(found).zip(wanted) {
            if let (Some(input), Some(gradient), true) = (*input, gradient, wanted) {
                sent[input].push(gradient);
            }
        }
    }
    graph.set_scope("");
    wrt.iter().map(|value| total(graph, &sent[*value])).collect()
}

/// Floats that depend on one of `wrt`, those counted.
fn dependents(graph: &Extend, wrt: &[ValueId]) -> IndexVec<ValueId, bool> {
    let of = graph.graph();
    let mut depends: IndexVec<ValueId, bool> = of.values.ids().map(|_| false).collect();
    for value in wrt {
        depends[*value] = true;
    }
    for node in of.nodes.values() {
        if matches!(node.op.def().gradient, Gradient::Zero)
            || !node.inputs.iter().flatten().any(|v| depends[*v])
        {
            continue;
        }
        // What is quantized stands for a float: its gradient is that of the number which it stands for.
        let stands = node.op == Op::QuantizeLinear;
        for output in node.outputs.iter().flatten() {
            let ty = of.values[*output].ty.as_tensor();
            depends[*output] = stands || ty.is_none_or(|ty| ty.dtype.is_float());
        }
    }
    depends
}

fn scope(graph: &Extend, node: &Node) -> String {
    let made = node.outputs.iter().flatten().next().map(|v| graph.graph().values[*v].name.clone());
    let name = if node.name.is_empty() { made.unwrap_or_default() } else { node.name.clone() };
    format!("{name}.grad")
}

fn total(graph: &mut Extend, parts: &[ValueId]) -> Result<Option<ValueId>> {
    Ok(match parts {
        [] => None,
        [one] => Some(*one),
        many => Some(graph.op(Op::Sum, many, Attrs::new())?),
    })
}

fn no_rule(graph: &Extend, id: NodeId) -> Diagnostic {
    let op = graph.graph().nodes[id].op;
    at_node(
        graph.graph(),
        id,
        "no-gradient",
        format!("{op} has no gradient rule, and the loss depends on it"),
    )
    .help("keep what is before it fixed, or replace it by ops that can be differentiated")
}
