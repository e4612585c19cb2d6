//! `Scan`.

use super::super::elements::crop;
use super::super::{Ctx, Datum, EvalCtx, Fact, Work, context, rules};
use super::{
    body, body_work, counted, fact, given, known_fact, outside, settled, stack, stacked, symbols_outside,
    tensor_of, times, unrun,
};
use crate::{Attrs, Dim, Graph, TensorType, Type};
use orrery_numerics::Tensor;

/// The axis and direction of scan input or output number `i`.
fn way(attrs: &Attrs, axes: &str, directions: &str, i: usize) -> (i64, bool) {
    let at = |name: &str| attrs.ints(name).and_then(|list| list.get(i).copied()).unwrap_or(0);
    (at(axes), at(directions) != 0)
}

struct ScanParts<'a> {
    body: &'a Graph,
    states: usize,
    scans: usize,
}

impl<'a> ScanParts<'a> {
    fn new(node: &'a crate::Node, inputs: usize) -> Result<Self, String> {
        let states = counted(&node.attrs, "states", inputs)?;
        let scans = counted(&node.attrs, "scans", inputs - states)?;
        if scans == 0 {
            return Err("there is nothing to scan".into());
        }
        Ok(Self { body: body(node, 0, inputs)?, states, scans })
    }
}

struct ScanFacts {
    states: Vec<Type>,
    /// Slices of the scan inputs and captures.
    rest: Vec<Fact>,
    length: Dim,
}

fn scan_facts(ctx: &Ctx<'_>, parts: &ScanParts<'_>) -> Result<ScanFacts, String> {
    let states = (0..parts.states).map(|i| Ok(fact(ctx, i)?.ty)).collect::<Result<Vec<_>, String>>()?;
    let mut length: Option<Dim> = None;
    let mut rest = Vec::new();
    for i in parts.states..ctx.input_count() {
        let whole = fact(ctx, i)?;
        if i >= parts.states + parts.scans {
            rest.push(whole);
            continue;
        }
        let (axis, _) = way(ctx.attrs(), "scan_input_axes", "scan_input_directions", i - parts.states);
        let ty = ctx.tensor_type(i)?;
        let shape = match &ty.shape {
            Some(shape) if shape.is_empty() => return Err(format!("input {i}, a scalar, cannot be scanned")),
            Some(shape) => {
                let mut shape = shape.clone();
                let own = shape.remove(context::normalize_axis(axis, shape.len())?);
                length = Some(match length {
                    Some(length) => rules::equal(&length, &own, || "the lengths of all scan inputs".into())?,
                    None => own,
                });
                Some(shape)
            }
            None => None,
        };
        rest.push(Fact::of(Type::Tensor(TensorType { dtype: ty.dtype, shape })));
    }
    let length = length.unwrap_or_else(|| ctx.unknown_dim(parts.states, 0));
    Ok(ScanFacts { states, rest, length })
}

pub(super) fn scan_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let parts = ScanParts::new(ctx.node, ctx.input_count())?;
    let scan = scan_facts(ctx, &parts)?;
    let (types, outputs) = settled(ctx, parts.body, &[], &scan.states, &scan.rest, 0)?;
    let mut known = symbols_outside(ctx);
    known.extend(scan.length.symbols());
    let mut facts: Vec<Fact> =
        types.into_iter().enumerate().map(|(i, ty)| Fact::of(outside(ctx, i, ty, &known))).collect();
    for (i, made) in outputs.into_iter().enumerate().skip(parts.states) {
        let (axis, _) = way(ctx.attrs(), "scan_output_axes", "scan_output_directions", i - parts.states);
        facts.push(Fact::of(stacked(ctx, i, made.ty, scan.length.clone(), axis, &known)?));
    }
    Ok(facts)
}

/// Number of slices, where it is known before running.
pub(super) fn scan_turns(ctx: &Ctx<'_>) -> Option<Dim> {
    let parts = ScanParts::new(ctx.node, ctx.input_count()).ok()?;
    Some(scan_facts(ctx, &parts).ok()?.length)
}

pub(super) fn scan_work(ctx: &Ctx<'_>) -> Work {
    let Ok(parts) = ScanParts::new(ctx.node, ctx.input_count()) else { return Work::NONE };
    let Ok(scan) = scan_facts(ctx, &parts) else { return Work::NONE };
    let Ok((types, _)) = settled(ctx, parts.body, &[], &scan.states, &scan.rest, 0) else {
        return Work::NONE;
    };
    let mut inputs: Vec<Fact> = types.into_iter().map(Fact::of).collect();
    inputs.extend(scan.rest);
    times(&body_work(parts.body, &inputs), &scan.length)
}

/// Element `i` of a tensor along a dimension, which goes.
fn slice(tensor: &Tensor, axis: usize, i: usize) -> Tensor {
    let mut start = vec![0; tensor.rank()];
    start[axis] = i;
    let mut shape = tensor.shape().to_vec();
    shape[axis] = 1;
    let cut = crop(tensor, &start, &shape);
    shape.remove(axis);
    cut.reshaped(shape)
}

pub(super) fn scan_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let ScanParts { body, states: count, scans } = ScanParts::new(ctx.node, ctx.inputs.len())?;
    let mut states = given(ctx, 0)?;
    let captures = states.split_off(count + scans);
    let scanned = states.split_off(count);
    let mut sources = Vec::with_capacity(scans);
    for (i, datum) in scanned.iter().enumerate() {
        let tensor = datum.as_tensor().ok_or_else(|| format!("input {} must be a tensor", count + i))?;
        let (axis, backwards) = way(ctx.attrs(), "scan_input_axes", "scan_input_directions", i);
        if tensor.rank() == 0 {
            return Err(format!("input {}, a scalar, cannot be scanned", count + i));
        }
        sources.push((tensor, context::normalize_axis(axis, tensor.rank())?, backwards));
    }
    let length = sources[0].0.shape()[sources[0].1];
    if let Some((tensor, axis, _)) = sources.iter().find(|(t, axis, _)| t.shape()[*axis] != length) {
        return Err(format!("scan inputs have {length} and {} slices", tensor.shape()[*axis]));
    }
    let made_count = body.outputs.len().checked_sub(count).ok_or_else(|| {
        format!("body `{}` has {} outputs, needs {count} or more", body.name, body.outputs.len())
    })?;
    let mut turns: Vec<Vec<Tensor>> = vec![Vec::new(); made_count];
    for turn in 0..length {
        let mut inputs = states;
        inputs.extend(sources.iter().map(|(tensor, axis, backwards)| {
            Datum::from(slice(tensor, *axis, if *backwards { length - 1 - turn } else { turn }))
        }));
        inputs.extend_from_slice(&captures);
        states = (ctx.run_body)(body, inputs)?;
        for (turns, datum) in turns.iter_mut().zip(states.split_off(count)) {
            turns.push(tensor_of(&datum)?);
        }
    }
    for (i, turns) in turns.into_iter().enumerate() {
        let (axis, backwards) = way(ctx.attrs(), "scan_output_axes", "scan_output_directions", i);
        let open = || {
            let mut facts: Vec<Fact> = states[..count].iter().map(known_fact).collect();
            for (tensor, axis, _) in &sources {
                let mut shape: Vec<Dim> = tensor.shape().iter().map(|&n| Dim::from(n)).collect();
                shape.remove(*axis);
                facts.push(Fact::tensor(tensor.dtype(), shape));
            }
            facts.extend(captures.iter().map(known_fact));
            unrun(body, &facts, count + i)
        };
        let stacked = stack(&turns, axis, backwards, open)?;
        states.push(stacked);
    }
    Ok(states)
}
