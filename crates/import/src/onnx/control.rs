//! Operators with bodies. A body of the file sees the values around it; a body of the graph is closed, so what it takes
//! from outside becomes an input of the node, behind the others.

use super::build::Level;
use super::call::Call;
use super::import::Import;
use super::operators::Done;
use super::proto::GraphProto;
use orrery_base::{Diagnostic, Result};
use orrery_ir::op::Fact;
use orrery_ir::{Attrs, Graph, Op, TensorType, Type, ValueId};
use orrery_numerics::DType;

/// Gives the call the captured values as further inputs, all bodies the same, and makes it `op`.
fn close<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
    op: Op,
    ports: usize,
    mut bodies: Vec<Level>,
) -> Result<Done> {
    let mut outer: Vec<ValueId> = Vec::new();
    for (id, _) in bodies.iter().flat_map(|body| &body.captures) {
        if !outer.contains(id) {
            outer.push(*id);
        }
    }
    for body in &mut bodies {
        body.arrange_captures(&outer, import.build.level());
    }
    call.inputs.resize(ports, None);
    call.inputs.extend(outer.into_iter().map(Some));
    let bodies: Vec<Graph> = bodies.into_iter().map(|body| body.graph).collect();
    import.build.finish(call, op, bodies)?;
    Ok(Done::Made)
}

/// If: condition, then what both branches take from outside.
pub(super) fn if_else<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let (taken, other) = (call.take_graph("then_branch")?, call.take_graph("else_branch")?);
    let bodies = vec![import.body(taken, &[])?, import.body(other, &[])?];
    close(import, call, Op::If, 1, bodies)
}

/// What is known of a value that a loop may change: not its shape.
fn changing(fact: Option<&Fact>) -> Fact {
    Fact::of(match fact.map(|f| &f.ty) {
        Some(Type::Tensor(tensor)) => Type::Tensor(TensorType::unranked(tensor.dtype)),
        Some(other) => other.clone(),
        None => Type::Unknown,
    })
}

/// Loop: trip count, condition, carried values, captured values.
pub(super) fn loop_while<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let body = call.take_graph("body")?;
    let ports = call.inputs.len().max(body.input.len());
    let carried = ports.saturating_sub(2);
    let mut formal = vec![Fact::tensor(DType::I64, Vec::new()), Fact::tensor(DType::Bool, Vec::new())];
    formal.extend((2..ports).map(|i| changing(call.input(i).map(|id| import.build.fact(id)))));
    let body = import.body(body, &formal)?;
    call.set.set("carried", carried as i64);
    close(import, call, Op::Loop, ports, vec![body])
}

/// How many of `given` inputs are states, the others being scanned.
fn states_of(call: &mut Call<'_>, given: usize) -> Result<(usize, usize)> {
    let scans = call.take_int("num_scan_inputs")?.ok_or_else(|| call.lacks("num_scan_inputs"))?;
    match usize::try_from(scans).ok().and_then(|scans| Some((given.checked_sub(scans)?, scans))) {
        Some(found) => Ok(found),
        None => Diagnostic::error("onnx-body", format!("{scans} of {given} inputs cannot be scanned")).err(),
    }
}

/// What is known of one slice of a value along a dimension; from the end where negative.
fn slice_of(fact: Option<&Fact>, axis: i64) -> Fact {
    let Some(Type::Tensor(tensor)) = fact.map(|f| &f.ty) else { return Fact::of(Type::Unknown) };
    let mut shape = tensor.shape.clone();
    if let Some(dims) = &mut shape {
        let at = if axis < 0 { axis + dims.len() as i64 } else { axis };
        match usize::try_from(at) {
            Ok(at) if at < dims.len() => {
                dims.remove(at);
            }
            _ => shape = None,
        }
    }
    Fact::of(Type::Tensor(TensorType { dtype: tensor.dtype, shape }))
}

fn plain(fact: Option<&Fact>) -> Fact {
    Fact::of(fact.map_or(Type::Unknown, |f| f.ty.clone()))
}

/// Scan: states, scanned values, captured values.
pub(super) fn scan<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let body = call.take_graph("body")?;
    let given = call.inputs.len();
    let (states, scans) = states_of(call, given)?;
    let axes = match call.attributes.get("scan_input_axes") {
        Some(axes) => axes.ints.clone(),
        None => Vec::new(),
    };
    let formal: Vec<Fact> = (0..given)
        .map(|i| {
            let fact = call.input(i).map(|id| import.build.fact(id));
            if i < states { plain(fact) } else { slice_of(fact, axes.get(i - states).copied().unwrap_or(0)) }
        })
        .collect();
    let body = import.body(body, &formal)?;
    call.set.set("states", states as i64);
    call.set.set("scans", scans as i64);
    close(import, call, Op::Scan, given, vec![body])
}

/// Scan 8 has a batch dimension in front of everything: a scan over the batch whose body is the scan of one sequence.
pub(super) fn batched_scan<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    if call.input(0).is_some() {
        return Ok(Done::Cannot(
            "sequences of different lengths in one batch were dropped from Scan in operator set 9".into(),
        ));
    }
    let body: &'m GraphProto = call.take_graph("body")?;
    call.inputs.remove(0);
    let given = call.inputs.len();
    let (states, scans) = states_of(call, given)?;
    let directions = call.take_ints("directions")?;
    if body.input.len() != given {
        return Diagnostic::error(
            "onnx-body",
            format!("the body takes {} inputs but is given {given}", body.input.len()),
        )
        .err();
    }
    let single: Vec<Fact> =
        (0..given).map(|i| slice_of(call.input(i).map(|id| import.build.fact(id)), 0)).collect();
    import.build.enter_graph("sequence");
    let mut operands = Vec::with_capacity(given);
    for (input, fact) in body.input.iter().zip(&single) {
        operands.push(Some(import.build.unnamed_input(&format!("{}.one", input.name()), fact.clone())));
    }
    let formal: Vec<Fact> = single
        .iter()
        .enumerate()
        .map(|(i, fact)| if i < states { fact.clone() } else { slice_of(Some(fact), 0) })
        .collect();
    let mut inner = import.body(body, &formal)?;
    let captured: Vec<ValueId> = inner.captures.iter().map(|(outer, _)| *outer).collect();
    inner.arrange_captures(&captured, import.build.level());
    operands.extend(captured.into_iter().map(Some));
    let mut attrs = Attrs::new().with("states", states as i64).with("scans", scans as i64);
    if let Some(directions) = directions {
        attrs.set("scan_input_directions", directions);
    }
    let mut outputs = Vec::with_capacity(body.output.len());
    for output in &body.output {
        outputs.push(Some((import.build.value_name(&format!("{}.one", output.name())), Type::Unknown)));
    }
    let made = import.build.node(Op::Scan, "", operands, outputs, attrs, vec![inner.graph])?;
    import.build.level().graph.outputs = made.into_iter().flatten().collect();
    let outer = import.build.leave_graph();
    call.set.set("states", 0);
    call.set.set("scans", given as i64);
    close(import, call, Op::Scan, given, vec![outer])
}

/// SequenceMap: the sequence, further operands, captured values.
pub(super) fn sequence_map<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let body = call.take_graph("body")?;
    let given = call.inputs.len();
    let formal: Vec<Fact> = (0..given)
        .map(|i| match call.input(i).map(|id| &import.build.fact(id).ty) {
            Some(Type::Sequence(of)) => Fact::of(of.as_ref().clone()),
            Some(other) => Fact::of(other.clone()),
            None => Fact::of(Type::Unknown),
        })
        .collect();
    let body = import.body(body, &formal)?;
    if body.captures.iter().any(|(outer, _)| matches!(import.build.fact(*outer).ty, Type::Sequence(_))) {
        return Ok(Done::Cannot("the body takes a whole sequence from outside".into()));
    }
    close(import, call, Op::SequenceMap, given, vec![body])
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::Dim;

    fn extents(fact: &Fact) -> Option<Vec<Dim>> {
        fact.ty.as_tensor()?.shape.clone()
    }

    #[test]
    fn a_slice_loses_its_dimension() {
        let fact = Fact::tensor(DType::F32, vec![Dim::Known(2), Dim::Known(3), Dim::symbol("n")]);
        assert_eq!(extents(&slice_of(Some(&fact), 0)), Some(vec![Dim::Known(3), Dim::symbol("n")]));
        assert_eq!(extents(&slice_of(Some(&fact), -1)), Some(vec![Dim::Known(2), Dim::Known(3)]));
        assert_eq!(extents(&slice_of(Some(&fact), 5)), None);
    }
}
