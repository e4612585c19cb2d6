//! Parameters and work of a graph, in counts.

use crate::op::Work;
use crate::{Bindings, Def, Dim, Graph, NodeId, Op, ValueId, infer, infer::Facts};
use orrery_base::{Diagnostic, IndexVec, Result};

/// Elements of the weights: of what training changes, each counted once however often it is used.
///
/// Weights are constants of float type that some node uses, scalars aside (they are factors of formulas), and integer
/// constants in the place of a quantised weight. The running mean and variance of BatchNormalization are statistics and
/// not counted, as frameworks have it. A weight whose size is not known in numbers counts as none.
pub fn parameters(graph: &Graph) -> u64 {
    let mut is_weight: IndexVec<ValueId, bool> = graph.values.ids().map(|_| false).collect();
    let mut bodies = 0_u64;
    for node in graph.nodes.values() {
        bodies = node.bodies.iter().map(parameters).fold(bodies, u64::saturating_add);
        for (place, id) in node.inputs.iter().enumerate() {
            let Some(id) = *id else { continue };
            let Some(ty) = graph.values[id].ty.as_tensor() else { continue };
            let trained = match node.op {
                Op::BatchNormalization => place < 3,
                Op::DequantizeLinear => place == 0,
                Op::MatMulInteger | Op::ConvInteger => place < 2,
                Op::QLinearMatMul | Op::QLinearConv => place == 0 || place == 3,
                _ => ty.dtype.is_float(),
            };
            is_weight[id] |= trained && (ty.dtype.is_float() || ty.dtype.is_int());
        }
    }
    let own =
        graph.values.iter().filter(|(id, value)| is_weight[*id] && matches!(value.def, Def::Constant(_)));
    let elements = own.filter_map(|(_, value)| {
        let ty =
            value.ty.as_tensor().filter(|ty| ty.shape.as_ref().is_some_and(|shape| !shape.is_empty()))?;
        u64::try_from(ty.elements()?.known()?).ok()
    });
    elements.fold(bodies, u64::saturating_add)
}

/// Work of every node, as formulas over the graph's symbols. `facts` are those of [`infer::facts`].
pub fn work(graph: &Graph, facts: &Facts) -> IndexVec<NodeId, Work> {
    graph.nodes.iter().map(|(id, node)| infer::with_ctx(graph, facts, id, node.op.def().work)).collect()
}

/// Work of all nodes together.
pub fn total(work: &IndexVec<NodeId, Work>) -> Work {
    work.values().fold(Work::NONE, |sum, node| Work {
        macs: sum.macs + node.macs.clone(),
        vector: sum.vector + node.vector.clone(),
        special: sum.special + node.special.clone(),
    })
}

/// Multiply-accumulates of running the graph once with these values of its symbols.
///
/// # Errors
/// What inference says; `unbound-symbol` where a symbol has no value.
pub fn macs(graph: &Graph, bindings: &Bindings) -> Result<u64> {
    evaluate(&total(&work(graph, &infer::facts(graph)?)).macs, bindings)
}

/// A count with these values of its symbols.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub fn evaluate(count: &Dim, bindings: &Bindings) -> Result<u64> {
    match count.eval(bindings) {
        Ok(number) => Ok(u64::try_from(number).unwrap_or(0)),
        Err(symbol) => Diagnostic::error("unbound-symbol", format!("the dimension `{symbol}` has no value"))
            .help(format!("bind it, as in `{symbol}=1`"))
            .err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn parameters_are_what_training_changes() {
        let graph = text::parse(
            r#"graph "counts" {
              input %x: f32[batch, 3, 8, 8]
              constant %w: f32[4, 3, 1, 1] = absent
              constant %scale: f32[4] = absent
              constant %shift: f32[4] = absent
              constant %mean: f32[4] = absent
              constant %variance: f32[4] = absent
              constant %half: f32[] = 0.5
              constant %axes: i64[2] = [2, 3]
              constant %unused: f32[1000] = absent
              constant %quantised: i8[4, 4] = absent
              constant %step: f32[4] = absent
              %c: f32[..] = Conv(%x, %w)
              %n: f32[..] = BatchNormalization(%c, %scale, %shift, %mean, %variance)
              %h: f32[..] = Mul(%n, %half)
              %m: f32[..] = ReduceMean(%h, %axes) {keepdims = 0}
              %q: f32[..] = DequantizeLinear(%quantised, %step)
              %y: f32[..] = MatMul(%m, %q)
              %z: f32[..] = MatMul(%y, %q)
              output %z
            }"#,
        )
        .unwrap();
        assert_eq!(parameters(&graph), 12 + 4 + 4 + 16);
    }
}
