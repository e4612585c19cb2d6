//! One of each: equal constants and equal computations.

use crate::rewrite::Rewriter;
use orrery_ir::op::Class;
use orrery_ir::{Def, Graph, NodeId, Op, ValueId, Weight};
use orrery_numerics::{DType, Tensor};
use std::collections::HashMap;

/// Bytes up to which integers are compared by their elements.
const COMPARED: usize = 4 << 10;

/// Makes one of equal constants: shapes and indices, single numbers, and tensors that share their memory. Other weights
/// keep their names, equal or not: they are the user's parameters.
pub(super) fn share_constants(rewriter: &mut Rewriter) {
    let mut first: HashMap<(DType, Vec<usize>, Key<'_>), ValueId> = HashMap::new();
    let mut same = Vec::new();
    for (id, value) in rewriter.graph().values.iter() {
        let Def::Constant(Weight::Data(tensor)) = &value.def else { continue };
        if rewriter.resolve(id) != id || rewriter.uses(id) == 0 {
            continue;
        }
        if let Some(key) = key(tensor) {
            let first = *first.entry((tensor.dtype(), tensor.shape().to_vec(), key)).or_insert(id);
            if first != id {
                same.push((id, first));
            }
        }
    }
    for (old, new) in same {
        rewriter.replace(old, new);
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Elements(&'a [u8]),
    Memory(*const u8),
}

fn key(tensor: &Tensor) -> Option<Key<'_>> {
    let bytes = tensor.bytes();
    let exact = !tensor.dtype().is_float() && bytes.len() <= COMPARED;
    if tensor.dtype() == DType::Str || bytes.is_empty() {
        None
    } else if tensor.len() == 1 || exact {
        Some(Key::Elements(bytes))
    } else {
        Some(Key::Memory(bytes.as_ptr()))
    }
}

/// Computes once what several nodes compute from the same values.
pub(crate) fn share_nodes(graph: Graph) -> Graph {
    let mut rewriter = Rewriter::new(graph);
    let mut seen: HashMap<(Op, Vec<Option<ValueId>>), Vec<NodeId>> = HashMap::new();
    for id in rewriter.node_ids() {
        let node = rewriter.node(id);
        if rewriter.is_dead(id) || !node.bodies.is_empty() || node.op.def().class == Class::Random {
            continue;
        }
        let inputs = (0..node.inputs.len()).map(|i| rewriter.input(id, i)).collect();
        let alike = seen.entry((node.op, inputs)).or_default();
        let first = alike.iter().copied().find(|first| {
            let first = rewriter.node(*first);
            let has_all = node
                .outputs
                .iter()
                .enumerate()
                .all(|(i, o)| o.is_none() || matches!(first.outputs.get(i), Some(Some(_))));
            first.attrs == node.attrs && has_all && first.outputs.len() == node.outputs.len()
        });
        let Some(first) = first else {
            alike.push(id);
            continue;
        };
        for number in 0..rewriter.node(id).outputs.len() {
            if let (Some(old), Some(new)) = (rewriter.output(id, number), rewriter.output(first, number)) {
                rewriter.replace(old, new);
            }
        }
    }
    rewriter.finish()
}
