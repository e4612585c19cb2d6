//! Ops of the family `control`: branches and loops.
//!
//! Bodies are closed graphs: what they use from outside comes in through extra inputs of the node, the *captures*.
//!
//! | op | inputs of the node | inputs of the body | outputs of the body |
//! | --- | --- | --- | --- |
//! | If | condition, captures | captures (of both bodies) | outputs |
//! | Loop | trip count or none, condition or none, carried, captures | iteration, condition, carried, captures | condition, carried, scanned |
//! | Scan | states, scanned, captures | states, slices, captures | states, scanned |

use super::elements::{bools, concat, scalar_i64, transpose};
use super::{Class, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Work, context, opt, req};
use crate::{AttrKind, Attrs, Dim, Graph, TensorType, Type, count, infer};
use orrery_numerics::{DType, Tensor};

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("cond"), Port::Variadic("captures")],
        outputs: &[Port::Variadic("outputs")],
        class: Class::Rounding,
        engine: Engine::Control,
        infer: if_infer,
        work: if_work,
        eval: if_eval,
        ..OpDef::new(Op::If, "Runs the first body where the condition holds, the second where it does not.")
    },
    OpDef {
        inputs: &[Port::Optional("M"), Port::Optional("cond"), Port::Variadic("carried_and_captures")],
        outputs: &[Port::Variadic("carried_and_scanned")],
        attrs: &[req("carried", AttrKind::Int, "Number of values carried from iteration to iteration.")],
        class: Class::Rounding,
        engine: Engine::Control,
        infer: loop_infer,
        work: loop_work,
        eval: loop_eval,
        ..OpDef::new(
            Op::Loop,
            "Runs the body M times or while its condition holds; scanned outputs are stacked.",
        )
    },
    OpDef {
        inputs: &[Port::Variadic("states_scanned_and_captures")],
        outputs: &[Port::Variadic("states_and_scanned")],
        attrs: &[
            req("states", AttrKind::Int, "Number of values carried from slice to slice."),
            req("scans", AttrKind::Int, "Number of inputs that are cut into slices."),
            opt("scan_input_axes", AttrKind::Ints, "Dimension along which each scanned input is cut; 0."),
            opt(
                "scan_input_directions",
                AttrKind::Ints,
                "1 for each scanned input that is cut from its end; 0.",
            ),
            opt(
                "scan_output_axes",
                AttrKind::Ints,
                "Dimension along which each scanned output is stacked; 0.",
            ),
            opt(
                "scan_output_directions",
                AttrKind::Ints,
                "1 for each scanned output that is stacked from its end; 0.",
            ),
        ],
        class: Class::Rounding,
        engine: Engine::Control,
        infer: scan_infer,
        work: scan_work,
        eval: scan_eval,
        ..OpDef::new(
            Op::Scan,
            "Runs the body on slice after slice of its inputs; scanned outputs are stacked.",
        )
    },
];

fn body(bodies: &[Graph], i: usize) -> Result<&Graph, String> {
    bodies.get(i).ok_or_else(|| "a body is missing".into())
}

fn facts_from(ctx: &Ctx<'_>, first: usize) -> Result<Vec<Fact>, String> {
    (first..ctx.input_count())
        .map(|i| ctx.fact(i).cloned().ok_or_else(|| format!("input {i} is missing")))
        .collect()
}

/// What two types have in common: extents that differ are named anew.
fn common(a: &Type, b: &Type, fresh: &dyn Fn(usize) -> Dim) -> Type {
    match (a, b) {
        (Type::Tensor(x), Type::Tensor(y)) if x.dtype == y.dtype => Type::Tensor(TensorType {
            dtype: x.dtype,
            shape: match (&x.shape, &y.shape) {
                (Some(x), Some(y)) if x.len() == y.len() => Some(
                    x.iter()
                        .zip(y)
                        .enumerate()
                        .map(|(d, (x, y))| if x == y { x.clone() } else { fresh(d) })
                        .collect(),
                ),
                _ => None,
            },
        }),
        (Type::Sequence(x), Type::Sequence(y)) => {
            Type::Sequence(Box::new(common(x, y, &|_| Dim::symbol("?"))))
        }
        (Type::Unknown, known) | (known, Type::Unknown) => known.clone(),
        _ if a == b => a.clone(),
        _ => Type::Unknown,
    }
}

fn if_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let captures = facts_from(ctx, 1)?;
    let (then, other) = (body(&ctx.node.bodies, 0)?, body(&ctx.node.bodies, 1)?);
    if then.outputs.len() != other.outputs.len() {
        return Err(format!("the bodies have {} and {} outputs", then.outputs.len(), other.outputs.len()));
    }
    if let Some(tensor) = ctx.constant(0) {
        let holds = bools(tensor)?.first().is_some_and(|b| *b != 0);
        return (ctx.infer_body)(if holds { then } else { other }, &captures);
    }
    let (then, other) = ((ctx.infer_body)(then, &captures)?, (ctx.infer_body)(other, &captures)?);
    Ok(then
        .iter()
        .zip(&other)
        .enumerate()
        .map(
            |(i, (a, b))| {
                if a == b { a.clone() } else { Fact::of(common(&a.ty, &b.ty, &|d| ctx.unknown_dim(i, d))) }
            },
        )
        .collect())
}

/// Work of a body that is given these inputs, where its shapes are known.
fn body_work(body: &Graph, inputs: &[Fact]) -> Work {
    infer::body_facts(body, inputs).map_or(Work::NONE, |facts| count::total(&count::work(body, &facts)))
}

fn times(work: Work, count: &Dim) -> Work {
    Work {
        macs: work.macs * count.clone(),
        vector: work.vector * count.clone(),
        special: work.special * count.clone(),
    }
}

/// The larger body: which one runs is not known.
fn if_work(ctx: &Ctx<'_>) -> Work {
    let captures = facts_from(ctx, 1).unwrap_or_default();
    let works: Vec<Work> = ctx.node.bodies.iter().map(|b| body_work(b, &captures)).collect();
    let [a, b] = &works[..] else { return Work::NONE };
    Work {
        macs: a.macs.larger(&b.macs),
        vector: a.vector.larger(&b.vector),
        special: a.special.larger(&b.special),
    }
}

fn if_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let holds = bools(ctx.tensor(0)?)?.first().is_some_and(|b| *b != 0);
    let branch = body(&ctx.node.bodies, usize::from(!holds))?;
    (ctx.run_body)(branch, inputs_from(ctx, 1)?)
}

fn inputs_from(ctx: &EvalCtx<'_>, first: usize) -> Result<Vec<Datum>, String> {
    (first..ctx.inputs.len())
        .map(|i| ctx.inputs[i].clone().ok_or_else(|| format!("input {i} is missing")))
        .collect()
}

fn counted(attrs: &Attrs, name: &str, given: usize) -> Result<usize, String> {
    attrs
        .int(name)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n <= given)
        .ok_or_else(|| format!("attribute {name} must say how many of {given} inputs"))
}

/// What is known of a loop: the body's inputs, and its outputs after any number of iterations.
fn loop_facts(ctx: &Ctx<'_>) -> Result<(Vec<Fact>, Vec<Fact>), String> {
    let carried = counted(ctx.attrs(), "carried", ctx.input_count().saturating_sub(2))?;
    let body = body(&ctx.node.bodies, 0)?;
    let given = facts_from(ctx, 2)?;
    let mut inputs = vec![Fact::tensor(DType::I64, Vec::new()), Fact::tensor(DType::Bool, Vec::new())];
    // Of what an iteration changes only the type is known.
    inputs.extend(
        given.iter().enumerate().map(|(i, f)| if i < carried { Fact::of(f.ty.clone()) } else { f.clone() }),
    );
    // Extents that an iteration changes are unknown; once they are, nothing else changes, or only the rank.
    for round in 0..3 {
        let outputs = (ctx.infer_body)(body, &inputs)?;
        let mut same = true;
        for i in 0..carried {
            let Some(made) = outputs.get(i + 1) else {
                return Err("the body does not return all it carries".into());
            };
            let before = inputs[i + 2].ty.clone();
            let mut after = common(&before, &made.ty, &|d| ctx.unknown_dim(i, d));
            if round > 0
                && after != before
                && let Type::Tensor(t) = &mut after
            {
                t.shape = None;
            }
            same &= after == before;
            inputs[i + 2].ty = after;
        }
        if same {
            return Ok((inputs, outputs));
        }
    }
    let outputs = (ctx.infer_body)(body, &inputs)?;
    Ok((inputs, outputs))
}

fn stacked(fact: &Fact, count: &Dim, axis: i64) -> Fact {
    Fact::of(match &fact.ty {
        Type::Tensor(TensorType { dtype, shape: Some(shape) }) => {
            let at = context::normalize_axis(axis, shape.len() + 1).unwrap_or(0);
            let mut shape = shape.clone();
            shape.insert(at, count.clone());
            Type::Tensor(TensorType { dtype: *dtype, shape: Some(shape) })
        }
        other => other.clone(),
    })
}

fn loop_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let carried = counted(ctx.attrs(), "carried", ctx.input_count().saturating_sub(2))?;
    let (inputs, outputs) = loop_facts(ctx)?;
    let mut facts: Vec<Fact> = inputs[2..2 + carried].to_vec();
    facts.extend(
        outputs
            .iter()
            .skip(1 + carried)
            .enumerate()
            .map(|(i, f)| stacked(f, &ctx.unknown_dim(carried + i, 0), 0)),
    );
    Ok(facts)
}

fn loop_work(ctx: &Ctx<'_>) -> Work {
    let trips = ctx.content(0).and_then(|c| c.first().cloned()).unwrap_or(Dim::Known(1));
    match (loop_facts(ctx), ctx.node.bodies.first()) {
        (Ok((inputs, _)), Some(body)) => times(body_work(body, &inputs), &trips),
        _ => Work::NONE,
    }
}

fn loop_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let carried = counted(ctx.attrs(), "carried", ctx.inputs.len().saturating_sub(2))?;
    let trips = ctx.optional(0)?.map(scalar_i64).transpose()?.unwrap_or(i64::MAX);
    let holds = |t: &Tensor| bools(t).map(|b| b.first().is_some_and(|b| *b != 0));
    let mut goes_on = ctx.optional(1)?.map(holds).transpose()?.unwrap_or(true);
    let body = body(&ctx.node.bodies, 0)?;
    let mut values = inputs_from(ctx, 2)?;
    let captures = values.split_off(carried);
    let scans = body.outputs.len().saturating_sub(1 + carried);
    let mut scanned: Vec<Vec<Datum>> = vec![Vec::new(); scans];
    let mut iteration = 0;
    while goes_on && iteration < trips {
        let mut inputs: Vec<Datum> =
            vec![Tensor::scalar(iteration).into(), Tensor::from_bools(Vec::new(), [goes_on]).into()];
        inputs.append(&mut values);
        inputs.extend(captures.iter().cloned());
        let mut outputs = (ctx.run_body)(body, inputs)?.into_iter();
        let condition = outputs.next().ok_or("the body returns no condition")?;
        goes_on = holds(condition.as_tensor().ok_or("the body's condition is no tensor")?)?;
        values = outputs.by_ref().take(carried).collect();
        scanned.iter_mut().zip(outputs).for_each(|(list, made)| list.push(made));
        iteration += 1;
    }
    for (i, list) in scanned.into_iter().enumerate() {
        values.push(stack(&list, 0, false, body, 1 + carried + i)?);
    }
    Ok(values)
}

/// Stacks what the iterations made along a new dimension. Of no iterations it has none of that dimension, and the others
/// are as far as the body declares them.
fn stack(list: &[Datum], axis: i64, reverse: bool, body: &Graph, output: usize) -> Result<Datum, String> {
    let mut tensors: Vec<&Tensor> = list
        .iter()
        .map(|d| d.as_tensor().ok_or_else(|| "only tensors can be stacked".to_owned()))
        .collect::<Result<_, _>>()?;
    if reverse {
        tensors.reverse();
    }
    let Some(first) = tensors.first() else {
        let (dtype, shape) = match &body.values[body.outputs[output]].ty {
            Type::Tensor(t) => (t.dtype, t.shape.clone().unwrap_or_default()),
            _ => (DType::F32, Vec::new()),
        };
        let extents = std::iter::once(0).chain(shape.iter().map(|d| d.extent().unwrap_or(0))).collect();
        return Ok(Tensor::from_raw(dtype, extents, Vec::<u8>::new()).into());
    };
    let at = context::normalize_axis(axis, first.rank() + 1)?;
    let widened: Vec<Tensor> = tensors
        .iter()
        .map(|t| {
            let mut shape = t.shape().to_vec();
            shape.insert(at, 1);
            t.reshaped(shape)
        })
        .collect();
    Ok(concat(&widened.iter().collect::<Vec<_>>(), at)?.into())
}

/// The axis and direction of scanned operand `i`.
fn scan_axis(attrs: &Attrs, which: &str, i: usize) -> (i64, bool) {
    let of = |name: String| attrs.ints(&name).and_then(|l| l.get(i).copied()).unwrap_or(0);
    (of(format!("scan_{which}_axes")), of(format!("scan_{which}_directions")) != 0)
}

/// The body's inputs, its outputs, and the number of slices.
fn scan_facts(ctx: &Ctx<'_>) -> Result<(Vec<Fact>, Vec<Fact>, Dim), String> {
    let states = counted(ctx.attrs(), "states", ctx.input_count())?;
    let scans = counted(ctx.attrs(), "scans", ctx.input_count() - states)?;
    let mut length = None;
    let mut inputs = Vec::new();
    for (i, fact) in facts_from(ctx, 0)?.into_iter().enumerate() {
        if !(states..states + scans).contains(&i) {
            inputs.push(if i < states { Fact::of(fact.ty) } else { fact });
            continue;
        }
        let Type::Tensor(TensorType { dtype, shape }) = fact.ty else {
            return Err(format!("input {i} must be a tensor"));
        };
        inputs.push(match shape {
            None => Fact::unranked(dtype),
            Some(mut shape) => {
                let axis =
                    context::normalize_axis(scan_axis(ctx.attrs(), "input", i - states).0, shape.len())?;
                if shape.is_empty() {
                    return Err(format!("input {i} is a scalar and cannot be cut into slices"));
                }
                length = Some(shape.remove(axis));
                Fact::tensor(dtype, shape)
            }
        });
    }
    let outputs = (ctx.infer_body)(body(&ctx.node.bodies, 0)?, &inputs)?;
    Ok((inputs, outputs, length.unwrap_or_else(|| ctx.unknown_dim(states, 0))))
}

fn scan_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let states = counted(ctx.attrs(), "states", ctx.input_count())?;
    let (_, outputs, length) = scan_facts(ctx)?;
    Ok(outputs
        .iter()
        .enumerate()
        .map(|(i, fact)| {
            if i < states {
                Fact::of(fact.ty.clone())
            } else {
                stacked(fact, &length, scan_axis(ctx.attrs(), "output", i - states).0)
            }
        })
        .collect())
}

fn scan_work(ctx: &Ctx<'_>) -> Work {
    match (scan_facts(ctx), ctx.node.bodies.first()) {
        (Ok((inputs, _, length)), Some(body)) => times(body_work(body, &inputs), &length),
        _ => Work::NONE,
    }
}

fn scan_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let states = counted(ctx.attrs(), "states", ctx.inputs.len())?;
    let scans = counted(ctx.attrs(), "scans", ctx.inputs.len() - states)?;
    let body = body(&ctx.node.bodies, 0)?;
    let mut values = inputs_from(ctx, 0)?;
    let captures = values.split_off(states + scans);
    let sequences: Vec<Datum> = values.split_off(states);
    // Each scanned input with the dimension it is cut along in front.
    let mut cut = Vec::new();
    let mut length = None;
    for (i, sequence) in sequences.iter().enumerate() {
        let tensor = sequence.as_tensor().ok_or("only tensors can be cut into slices")?;
        let (axis, reverse) = scan_axis(ctx.attrs(), "input", i);
        if tensor.rank() == 0 {
            return Err("a scalar cannot be cut into slices".into());
        }
        let axis = context::normalize_axis(axis, tensor.rank())?;
        let order: Vec<usize> =
            std::iter::once(axis).chain((0..tensor.rank()).filter(|d| *d != axis)).collect();
        let front = transpose(tensor, &order);
        let extent = front.shape()[0];
        if *length.get_or_insert(extent) != extent {
            return Err(format!("scanned inputs have {} and {extent} slices", length.unwrap_or(0)));
        }
        cut.push((front, reverse));
    }
    let length = length.unwrap_or(0);
    let mut scanned: Vec<Vec<Datum>> = vec![Vec::new(); body.outputs.len().saturating_sub(states)];
    for step in 0..length {
        let mut inputs = std::mem::take(&mut values);
        for (front, reverse) in &cut {
            let at = if *reverse { length - 1 - step } else { step };
            let mut start = vec![0; front.rank()];
            start[0] = at;
            let mut shape = front.shape().to_vec();
            shape[0] = 1;
            let slice = super::elements::crop(front, &start, &shape);
            inputs.push(slice.reshaped(front.shape()[1..].to_vec()).into());
        }
        inputs.extend(captures.iter().cloned());
        let mut outputs = (ctx.run_body)(body, inputs)?.into_iter();
        values = outputs.by_ref().take(states).collect();
        scanned.iter_mut().zip(outputs).for_each(|(list, made)| list.push(made));
    }
    for (i, list) in scanned.into_iter().enumerate() {
        let (axis, reverse) = scan_axis(ctx.attrs(), "output", i);
        values.push(stack(&list, axis, reverse, body, states + i)?);
    }
    Ok(values)
}
