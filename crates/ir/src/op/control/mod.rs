//! Ops of the family `control`: what runs bodies.
//!
//! Bodies are closed graphs: what a body takes from outside comes in by further inputs of the node, its *captures*.
//!
//! | op | inputs of the node | bodies | inputs of a body | outputs of a body |
//! |---|---|---|---|---|
//! | `If` | condition, captures... | then, else | captures... | the node's outputs |
//! | `Loop` | trip count?, condition?, carried..., captures... | one | iteration (i64), condition (bool), carried..., captures... | condition, carried..., scan outputs... |
//! | `Scan` | states..., scan inputs..., captures... | one | states..., a slice of each scan input..., captures... | states..., scan outputs... |
//! | `SequenceMap` | sequence, further operands..., captures... | one | an item of each sequence or the operand as it is | an item of each output |
//!
//! How many inputs are carried says the attribute `carried` of `Loop`; how many are states and scan inputs say `states` and
//! `scans` of `Scan`. The axes and directions of `Scan` are named as in ONNX. Carried values and states keep their element
//! type; their shapes may change from one turn to the next.

mod branch;
mod repeat;
mod scan;

use super::elements::{bools, concat};
use super::{Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Work, content, context, opt, req, rules};
use crate::{AttrKind, Attrs, Dim, Graph, TensorType, Type, infer};
use branch::{if_eval, if_infer, if_work};
use orrery_numerics::{DType, Tensor};
use repeat::{loop_eval, loop_infer, loop_work};
use scan::{scan_eval, scan_infer, scan_work};
use std::collections::BTreeSet;

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("cond"), Port::Variadic("captures")],
        outputs: &[Port::Variadic("outputs")],
        engine: Engine::Control,
        infer: if_infer,
        work: if_work,
        eval: if_eval,
        ..OpDef::new(
            Op::If,
            "What the first body makes where the condition holds, and what the second makes otherwise.",
        )
    },
    OpDef {
        inputs: &[Port::Optional("M"), Port::Optional("cond"), Port::Variadic("carried and captures")],
        outputs: &[Port::Variadic("carried and scan outputs")],
        attrs: &[req("carried", AttrKind::Int, "Number of values handed from one turn to the next.")],
        engine: Engine::Control,
        infer: loop_infer,
        work: loop_work,
        eval: loop_eval,
        ..OpDef::new(
            Op::Loop,
            "Runs its body while the condition holds, at most M times; gives the carried values and, stacked along a new \
             first dimension, the scan outputs of all turns.",
        )
    },
    OpDef {
        inputs: &[Port::Variadic("states, scan inputs and captures")],
        outputs: &[Port::Variadic("states and scan outputs")],
        attrs: &[
            opt("scan_input_axes", AttrKind::Ints, "Dimension of each scan input that is gone along; 0."),
            opt(
                "scan_input_directions",
                AttrKind::Ints,
                "1 for each scan input that is gone through backwards; 0.",
            ),
            opt("scan_output_axes", AttrKind::Ints, "Where the new dimension of each scan output stands; 0."),
            opt(
                "scan_output_directions",
                AttrKind::Ints,
                "1 for each scan output that is filled from its end; 0.",
            ),
            req("scans", AttrKind::Int, "Number of scan inputs."),
            req("states", AttrKind::Int, "Number of states."),
        ],
        engine: Engine::Control,
        infer: scan_infer,
        work: scan_work,
        eval: scan_eval,
        ..OpDef::new(
            Op::Scan,
            "Runs its body for every slice of the scan inputs; gives the last states and the scan outputs, stacked.",
        )
    },
];

/// Number of turns of a `Loop` or `Scan`, where it is a number before running.
pub fn known_turns(ctx: &Ctx<'_>) -> Option<usize> {
    match ctx.node.op {
        Op::Loop => repeat::loop_turns(ctx)?.extent(),
        Op::Scan => scan::scan_turns(ctx)?.extent(),
        _ => None,
    }
}

fn body(node: &crate::Node, i: usize, inputs: usize) -> Result<&Graph, String> {
    let body =
        node.bodies.get(i).ok_or_else(|| format!("it has {} bodies, needs more", node.bodies.len()))?;
    if body.inputs.len() == inputs {
        Ok(body)
    } else {
        Err(format!("body `{}` takes {} inputs, is given {inputs}", body.name, body.inputs.len()))
    }
}

fn counted(attrs: &Attrs, name: &str, most: usize) -> Result<usize, String> {
    let given = attrs.int_or(name, 0);
    usize::try_from(given)
        .ok()
        .filter(|&n| n <= most)
        .ok_or_else(|| format!("attribute `{name}` is {given}, must be between 0 and {most}"))
}

fn fact(ctx: &Ctx<'_>, i: usize) -> Result<Fact, String> {
    ctx.fact(i).cloned().ok_or_else(|| format!("input {i} is missing"))
}

/// The type of a value that may be of either type; extents in which they differ come from `fresh`.
fn either(a: &Type, b: &Type, fresh: &dyn Fn(usize) -> Dim) -> Result<Type, String> {
    Ok(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Type::Unknown, known) | (known, Type::Unknown) => match known {
            Type::Tensor(t) => Type::Tensor(TensorType::unranked(t.dtype)),
            other => other.clone(),
        },
        (Type::Tensor(a), Type::Tensor(b)) if a.dtype == b.dtype => Type::Tensor(TensorType {
            dtype: a.dtype,
            shape: match (&a.shape, &b.shape) {
                (Some(a), Some(b)) if a.len() == b.len() => Some(
                    a.iter()
                        .zip(b)
                        .enumerate()
                        .map(|(d, (x, y))| if x == y { x.clone() } else { fresh(d) })
                        .collect(),
                ),
                _ => None,
            },
        }),
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(either(a, b, fresh)?)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(either(a, b, fresh)?)),
        // What may be absent at first and is there later may be absent.
        (Type::Optional(a), b) | (b, Type::Optional(a)) => Type::Optional(Box::new(either(a, b, fresh)?)),
        (a, b) => return Err(format!("it is {a} and {b}")),
    })
}

/// The symbols that are known outside of a body.
fn symbols_outside(ctx: &Ctx<'_>) -> BTreeSet<String> {
    let mut symbols = BTreeSet::new();
    for fact in ctx.inputs.iter().flatten() {
        note_symbols(&fact.ty, &mut symbols);
        symbols.extend(fact.content.iter().flatten().flat_map(Dim::symbols));
    }
    symbols
}

fn note_symbols(ty: &Type, symbols: &mut BTreeSet<String>) {
    match ty {
        Type::Tensor(tensor) => symbols.extend(tensor.shape.iter().flatten().flat_map(Dim::symbols)),
        Type::Sequence(of) | Type::Optional(of) => note_symbols(of, symbols),
        Type::Unknown => {}
    }
}

/// The type of output `i` of the node with what only a body knows of its extents left open.
fn outside(ctx: &Ctx<'_>, i: usize, ty: Type, known: &BTreeSet<String>) -> Type {
    let Type::Tensor(TensorType { dtype, shape: Some(shape) }) = ty else { return ty };
    let open = |(d, dim): (usize, Dim)| {
        if dim.symbols().iter().all(|s| known.contains(s)) { dim } else { ctx.unknown_dim(i, d) }
    };
    Type::Tensor(TensorType { dtype, shape: Some(shape.into_iter().enumerate().map(open).collect()) })
}

/// Facts of a body's outputs when it is run again and again, the first outputs after `skip` becoming the inputs after
/// `lead`: each is what covers its first value and what the body makes of it.
fn settled(
    ctx: &Ctx<'_>,
    body: &Graph,
    lead: &[Fact],
    first: &[Type],
    rest: &[Fact],
    skip: usize,
) -> Result<(Vec<Type>, Vec<Fact>), String> {
    let mut types = first.to_vec();
    let mut round = 0;
    loop {
        let mut inputs = lead.to_vec();
        inputs.extend(types.iter().cloned().map(Fact::of));
        inputs.extend_from_slice(rest);
        let outputs = (ctx.infer_body)(body, &inputs)?;
        if outputs.len() < skip + types.len() {
            return Err(format!(
                "body `{}` has {} outputs, needs at least {}",
                body.name,
                outputs.len(),
                skip + types.len()
            ));
        }
        let mut next = Vec::with_capacity(types.len());
        for (i, ty) in types.iter().enumerate() {
            let made = &outputs[skip + i].ty;
            let covering = either(ty, made, &|d| ctx.unknown_dim(i, d))
                .map_err(|e| format!("value {i} changes its type from one turn to the next: {e}"))?;
            // Extents that have not settled by now grow with every turn.
            next.push(match covering {
                Type::Tensor(t) if round > 3 && covering_differs(ty, &t) => {
                    Type::Tensor(TensorType::unranked(t.dtype))
                }
                other => other,
            });
        }
        if next == types || round > 5 {
            return Ok((types, outputs));
        }
        types = next;
        round += 1;
    }
}

fn covering_differs(ty: &Type, covering: &TensorType) -> bool {
    ty.as_tensor() != Some(covering)
}

/// Work of a body that is given these inputs.
fn body_work(body: &Graph, inputs: &[Fact]) -> Work {
    match infer::body_facts(body, inputs) {
        Ok(facts) => crate::count::total(&crate::count::work(body, &facts)),
        Err(_) => Work::NONE,
    }
}

fn times(work: &Work, turns: &Dim) -> Work {
    Work {
        macs: work.macs.clone() * turns.clone(),
        vector: work.vector.clone() * turns.clone(),
        special: work.special.clone() * turns.clone(),
    }
}

/// The tensor as a body sees it before it runs.
fn known_fact(datum: &Datum) -> Fact {
    datum.as_tensor().map_or_else(|| Fact::of(Type::Unknown), Fact::constant)
}

/// Puts tensors of one shape side by side along a new dimension. Without any, `open` says what they would have been.
fn stack(
    turns: &[Tensor],
    axis: i64,
    backwards: bool,
    open: impl FnOnce() -> Result<TensorType, String>,
) -> Result<Datum, String> {
    let Some(first) = turns.first() else {
        let ty = open()?;
        // An extent that no turn has set is zero.
        let mut shape: Vec<usize> =
            ty.shape.unwrap_or_default().iter().map(|d| d.extent().unwrap_or(0)).collect();
        let at = context::normalize_axis(axis, shape.len() + 1)?;
        shape.insert(at, 0);
        return Ok(match ty.dtype {
            DType::Str => Tensor::from_strings(shape, Vec::new()),
            dtype => Tensor::from_raw::<u8>(dtype, shape, Vec::new()),
        }
        .into());
    };
    let at = context::normalize_axis(axis, first.rank() + 1)?;
    let mut widened = Vec::with_capacity(turns.len());
    for tensor in turns {
        if tensor.shape() != first.shape() {
            return Err(format!("a scan output changes its shape from {first:?} to {tensor:?}"));
        }
        let mut shape = tensor.shape().to_vec();
        shape.insert(at, 1);
        widened.push(tensor.reshaped(shape));
    }
    if backwards {
        widened.reverse();
    }
    Ok(concat(&widened.iter().collect::<Vec<_>>(), at)?.into())
}

/// Types of the outputs of a body that never ran.
fn unrun(body: &Graph, inputs: &[Fact], output: usize) -> Result<TensorType, String> {
    let facts = infer::body_facts(body, inputs).map_err(|d| d.cause)?;
    let id = body.outputs.get(output).ok_or("the body lacks an output")?;
    facts[*id].ty.as_tensor().cloned().ok_or_else(|| "the type of a scan output is not known".into())
}

fn tensor_of(datum: &Datum) -> Result<Tensor, String> {
    datum.as_tensor().cloned().ok_or_else(|| "a scan output must be a tensor".into())
}

fn truth(tensor: &Tensor, what: &str) -> Result<bool, String> {
    match bools(tensor)? {
        [value] => Ok(*value != 0),
        _ => Err(format!("{what} must be a single bool, is {tensor:?}")),
    }
}

/// Checks that input `i`, where given, is a single bool.
fn one_bool(ctx: &Ctx<'_>, i: usize) -> Result<(), String> {
    rules::of_type(ctx, [i], DType::Bool)?;
    rules::one_or_vector(ctx, i, &Dim::Known(1))
}

fn known_bool(ctx: &Ctx<'_>, i: usize) -> Option<bool> {
    match content::of(ctx, i)?.as_slice() {
        [one] => one.known().map(|n| n != 0),
        _ => None,
    }
}

/// Inputs from `first` on, which must all be given.
fn given(ctx: &EvalCtx<'_>, first: usize) -> Result<Vec<Datum>, String> {
    ctx.inputs
        .iter()
        .enumerate()
        .skip(first)
        .map(|(i, datum)| datum.clone().ok_or_else(|| format!("input {i} is missing")))
        .collect()
}

/// The type of scan output `i` of the node, whose slices are of type `slice`.
fn stacked(
    ctx: &Ctx<'_>,
    i: usize,
    slice: Type,
    length: Dim,
    axis: i64,
    known: &BTreeSet<String>,
) -> Result<Type, String> {
    Ok(match slice {
        Type::Tensor(TensorType { dtype, shape: Some(mut shape) }) => {
            let at = context::normalize_axis(axis, shape.len() + 1)?;
            shape.insert(at, Dim::Known(0));
            let ty = outside(ctx, i, Type::Tensor(TensorType { dtype, shape: Some(shape) }), known);
            match ty {
                Type::Tensor(TensorType { dtype, shape: Some(mut shape) }) => {
                    shape[at] = length;
                    Type::Tensor(TensorType { dtype, shape: Some(shape) })
                }
                other => other,
            }
        }
        other => other,
    })
}
