//! `Loop`.

use super::super::elements::scalar_i64;
use super::super::{Ctx, Datum, EvalCtx, Fact, Work, content, rules};
use super::{
    body, body_work, counted, fact, given, known_bool, known_fact, one_bool, outside, settled, stack,
    stacked, symbols_outside, tensor_of, times, truth, unrun,
};
use crate::{Dim, Graph, Type};
use orrery_numerics::{DType, Tensor};

/// Facts of a loop's iteration number and condition.
fn loop_lead(ctx: &Ctx<'_>) -> Vec<Fact> {
    let iteration = Fact::tensor(DType::I64, Vec::new());
    let always = !ctx.has(1) || known_bool(ctx, 1) == Some(true);
    let condition = if always {
        Fact::constant(&Tensor::from_bools(Vec::new(), [true]))
    } else {
        Fact::tensor(DType::Bool, Vec::new())
    };
    vec![iteration, condition]
}

/// Types of carried values, facts of captures, and the body.
fn loop_parts<'a>(ctx: &Ctx<'a>) -> Result<(&'a Graph, Vec<Type>, Vec<Fact>), String> {
    let carried = counted(ctx.attrs(), "carried", ctx.input_count().saturating_sub(2))?;
    let body = body(ctx.node, 0, ctx.input_count().max(2))?;
    let mut types = Vec::with_capacity(carried);
    for i in 2..2 + carried {
        types.push(fact(ctx, i)?.ty);
    }
    let captures = (2 + carried..ctx.input_count()).map(|i| fact(ctx, i)).collect::<Result<Vec<_>, _>>()?;
    Ok((body, types, captures))
}

/// Number of turns, where nothing but M ends the loop and M is known.
fn turns(ctx: &Ctx<'_>, condition: &Fact) -> Option<Dim> {
    let goes_on =
        condition.tensor.as_ref().and_then(content::of_tensor).or_else(|| condition.content.clone());
    if goes_on.as_deref() != Some(&[Dim::Known(1)]) || ctx.has(1) && known_bool(ctx, 1) != Some(true) {
        return None;
    }
    match content::of(ctx, 0)?.as_slice() {
        [Dim::Known(n)] => Some(Dim::Known(*n.max(&0))),
        [turns] => Some(turns.clone()),
        _ => None,
    }
}

pub(super) fn loop_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    rules::of_type(ctx, [0], DType::I64)?;
    rules::one_or_vector(ctx, 0, &Dim::Known(1))?;
    one_bool(ctx, 1)?;
    let (body, first, captures) = loop_parts(ctx)?;
    let (types, outputs) = settled(ctx, body, &loop_lead(ctx), &first, &captures, 1)?;
    let known = symbols_outside(ctx);
    let turns = turns(ctx, &outputs[0]);
    let carried = types.len();
    let mut facts: Vec<Fact> =
        types.into_iter().enumerate().map(|(i, ty)| Fact::of(outside(ctx, i, ty, &known))).collect();
    for (i, made) in outputs.into_iter().enumerate().skip(1 + carried) {
        let i = i - 1;
        let length = turns.clone().unwrap_or_else(|| ctx.unknown_dim(i, 0));
        facts.push(Fact::of(stacked(ctx, i, made.ty, length, 0, &known)?));
    }
    Ok(facts)
}

/// Number of turns, where it is known before running.
pub(super) fn loop_turns(ctx: &Ctx<'_>) -> Option<Dim> {
    let (body, first, captures) = loop_parts(ctx).ok()?;
    let (_, outputs) = settled(ctx, body, &loop_lead(ctx), &first, &captures, 1).ok()?;
    turns(ctx, outputs.first()?)
}

/// Work of all turns; of one, where their number is not known before running.
pub(super) fn loop_work(ctx: &Ctx<'_>) -> Work {
    let Ok((body, first, captures)) = loop_parts(ctx) else { return Work::NONE };
    let Ok((types, outputs)) = settled(ctx, body, &loop_lead(ctx), &first, &captures, 1) else {
        return Work::NONE;
    };
    let turns = turns(ctx, &outputs[0]).unwrap_or(Dim::Known(1));
    let mut inputs = loop_lead(ctx);
    inputs.extend(types.into_iter().map(Fact::of));
    inputs.extend(captures);
    times(&body_work(body, &inputs), &turns)
}

pub(super) fn loop_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let most = ctx.optional(0)?.map(scalar_i64).transpose()?;
    let mut goes_on = ctx.optional(1)?.map_or(Ok(true), |t| truth(t, "the condition"))?;
    let count = counted(ctx.attrs(), "carried", ctx.inputs.len().saturating_sub(2))?;
    let body = body(ctx.node, 0, ctx.inputs.len().max(2))?;
    let mut carried = given(ctx, 2)?;
    let captures = carried.split_off(count);
    let scans = body.outputs.len().checked_sub(1 + count).ok_or_else(|| {
        format!("body `{}` has {} outputs, needs {} or more", body.name, body.outputs.len(), 1 + count)
    })?;
    let mut turns: Vec<Vec<Tensor>> = vec![Vec::new(); scans];
    let inputs_of = |turn: i64, goes_on: bool, carried: &[Datum]| {
        let mut inputs: Vec<Datum> =
            vec![Tensor::scalar(turn).into(), Tensor::from_bools(Vec::new(), [goes_on]).into()];
        inputs.extend_from_slice(carried);
        inputs.extend_from_slice(&captures);
        inputs
    };
    let mut turn = 0;
    while goes_on && most.is_none_or(|most| turn < most) {
        let mut outputs = (ctx.run_body)(body, inputs_of(turn, goes_on, &carried))?;
        let made = outputs.split_off(1 + count);
        for (turns, datum) in turns.iter_mut().zip(&made) {
            turns.push(tensor_of(datum)?);
        }
        carried = outputs.split_off(1);
        goes_on = truth(outputs[0].as_tensor().ok_or("the condition must be a tensor")?, "the condition")?;
        turn += 1;
    }
    for (i, turns) in turns.into_iter().enumerate() {
        let open = || {
            let facts: Vec<Fact> = inputs_of(0, true, &carried[..count]).iter().map(known_fact).collect();
            unrun(body, &facts, 1 + count + i)
        };
        let stacked = stack(&turns, 0, false, open)?;
        carried.push(stacked);
    }
    Ok(carried)
}
