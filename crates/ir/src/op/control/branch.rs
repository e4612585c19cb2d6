//! `If`.

use super::super::{Ctx, Datum, EvalCtx, Fact, Work};
use super::{body, body_work, either, fact, given, known_bool, one_bool, outside, symbols_outside, truth};
use crate::Dim;

pub(super) fn if_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    one_bool(ctx, 0)?;
    let captures = (1..ctx.input_count()).map(|i| fact(ctx, i)).collect::<Result<Vec<_>, _>>()?;
    let [then, other] = [0, 1].map(|i| body(ctx.node, i, captures.len()));
    let (then, other) = (then?, other?);
    let known = symbols_outside(ctx);
    let leave = |facts: Vec<Fact>| -> Vec<Fact> {
        let outside = |(i, fact): (usize, Fact)| {
            let content =
                fact.content.filter(|c| c.iter().flat_map(Dim::symbols).all(|s| known.contains(&s)));
            Fact { ty: outside(ctx, i, fact.ty, &known), content, tensor: fact.tensor }
        };
        facts.into_iter().enumerate().map(outside).collect()
    };
    if let Some(holds) = known_bool(ctx, 0) {
        return Ok(leave((ctx.infer_body)(if holds { then } else { other }, &captures)?));
    }
    let (then, other) = match ((ctx.infer_body)(then, &captures), (ctx.infer_body)(other, &captures)) {
        // A body that contradicts these inputs makes nothing of them: what comes out, the other makes.
        (Ok(facts), Err(_)) | (Err(_), Ok(facts)) => return Ok(leave(facts)),
        (then, other) => (then?, other?),
    };
    if then.len() != other.len() {
        return Err(format!("its bodies have {} and {} outputs", then.len(), other.len()));
    }
    let mut facts = Vec::with_capacity(then.len());
    for (i, (a, b)) in leave(then).into_iter().zip(leave(other)).enumerate() {
        let ty = either(&a.ty, &b.ty, &|d| ctx.unknown_dim(i, d))
            .map_err(|e| format!("its bodies do not agree on output {i}: {e}"))?;
        let content = a.content.filter(|content| b.content.as_ref() == Some(content));
        facts.push(Fact { ty, content, tensor: None });
    }
    Ok(facts)
}

/// Work of the body that is run; where that is not known, the more of each count.
pub(super) fn if_work(ctx: &Ctx<'_>) -> Work {
    let captures: Vec<Fact> = ctx.inputs.iter().skip(1).flatten().cloned().collect();
    let works: Vec<Work> = ctx.node.bodies.iter().map(|body| body_work(body, &captures)).collect();
    match (known_bool(ctx, 0), works.as_slice()) {
        (Some(true), [then, _]) => then.clone(),
        (Some(false), [_, other]) => other.clone(),
        (None, [a, b]) => Work {
            macs: a.macs.larger(&b.macs),
            vector: a.vector.larger(&b.vector),
            special: a.special.larger(&b.special),
        },
        _ => Work::NONE,
    }
}

pub(super) fn if_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let holds = truth(ctx.tensor(0)?, "the condition")?;
    let captures = given(ctx, 1)?;
    let body = body(ctx.node, usize::from(!holds), captures.len())?;
    (ctx.run_body)(body, captures)
}
