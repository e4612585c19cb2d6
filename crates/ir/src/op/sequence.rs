//! Ops on lists of values and on values that may be absent. They run on the host.

use super::context::normalize_axis;
use super::elements::{concat, crop, integers};
use super::rules::facts;
use super::{Class, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, content, opt, req};
use crate::{AttrKind, Dim, Graph, TensorType, Type};
use orrery_numerics::{DType, Tensor};

type Outcome = Result<Vec<Datum>, String>;
type Facts = Result<Vec<Fact>, String>;

fn input<'a>(ctx: &'a EvalCtx<'_>, i: usize) -> Result<&'a Datum, String> {
    ctx.inputs.get(i).and_then(Option::as_ref).ok_or_else(|| format!("input {i} is missing"))
}
fn list_of(datum: &Datum) -> Result<&[Datum], String> {
    match datum {
        Datum::Sequence(items) => Ok(items),
        Datum::Optional(Some(inner)) => list_of(inner),
        _ => Err("a sequence is needed".into()),
    }
}
fn list<'a>(ctx: &'a EvalCtx<'_>, i: usize) -> Result<&'a [Datum], String> {
    list_of(input(ctx, i)?)
}
/// The place that input `i` says among `count`, counted from the end where negative; `default` without it.
fn place(ctx: &EvalCtx<'_>, i: usize, count: usize, default: Option<usize>) -> Result<usize, String> {
    let Some(position) = ctx.optional(i)? else {
        return default.ok_or_else(|| "the sequence is empty".into());
    };
    let position = super::elements::scalar_i64(position)?;
    let at = if position < 0 { position.saturating_add(count as i64) } else { position };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < count)
        .ok_or_else(|| format!("position {position} is out of range for a sequence of {count}"))
}
/// A sequence, whose items must be of one kind and element type.
fn sequence_of(items: Vec<Datum>) -> Outcome {
    fn alike(a: &Datum, b: &Datum) -> bool {
        match (a, b) {
            (Datum::Tensor(a), Datum::Tensor(b)) => a.dtype() == b.dtype(),
            (Datum::Sequence(a), Datum::Sequence(b)) => {
                a.first().zip(b.first()).is_none_or(|(a, b)| alike(a, b))
            }
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
    if items.windows(2).all(|pair| alike(&pair[0], &pair[1])) {
        Ok(vec![Datum::Sequence(items)])
    } else {
        Err("a sequence holds values of one type".into())
    }
}
fn construct(ctx: &EvalCtx<'_>) -> Outcome {
    sequence_of((0..ctx.inputs.len()).map(|i| input(ctx, i).cloned()).collect::<Result<_, _>>()?)
}
fn at(ctx: &EvalCtx<'_>) -> Outcome {
    let items = list(ctx, 0)?;
    Ok(vec![items[place(ctx, 1, items.len(), None)?].clone()])
}
fn insert(ctx: &EvalCtx<'_>) -> Outcome {
    let mut items = list(ctx, 0)?.to_vec();
    // Negative positions count from the end of the old sequence; its length itself is allowed.
    let count = items.len();
    let negative = match ctx.optional(2)? {
        Some(position) => super::elements::scalar_i64(position)? < 0,
        None => false,
    };
    let place = place(ctx, 2, count + usize::from(!negative), Some(count))?;
    items.insert(place, input(ctx, 1)?.clone());
    sequence_of(items)
}
fn erase(ctx: &EvalCtx<'_>) -> Outcome {
    let mut items = list(ctx, 0)?.to_vec();
    items.remove(place(ctx, 1, items.len(), items.len().checked_sub(1))?);
    Ok(vec![Datum::Sequence(items)])
}
fn length(ctx: &EvalCtx<'_>) -> Outcome {
    Ok(vec![Tensor::scalar(list(ctx, 0)?.len() as i64).into()])
}
fn split(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let x = ctx.tensor(0)?;
    if x.rank() == 0 {
        return Err("a scalar cannot be split".into());
    }
    let axis = normalize_axis(ctx.attrs().int_or("axis", 0), x.rank())?;
    let extent = x.shape()[axis];
    let wrong = |what: &str| Err(format!("split {what} for extent {extent}"));
    let sizes: Vec<usize> = match ctx.optional(1)? {
        None => vec![1; extent],
        Some(split) if split.rank() == 0 => match integers(split)?[0] {
            size @ 1.. => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                (0..extent).step_by(size).map(|start| size.min(extent - start)).collect()
            }
            size => return wrong(&format!("into parts of {size} is impossible")),
        },
        Some(split) => {
            let sizes = super::elements::extents(&integers(split)?)?;
            if sizes.iter().try_fold(0_usize, |sum, &n| sum.checked_add(n)) != Some(extent) {
                return wrong(&format!("into {sizes:?} does not add up"));
            }
            sizes
        }
    };
    let keep = ctx.has(1) || ctx.attrs().int_or("keepdims", 1) != 0;
    let mut start = vec![0; x.rank()];
    let parts = sizes
        .into_iter()
        .map(|size| {
            let mut shape = x.shape().to_vec();
            shape[axis] = size;
            let part = crop(x, &start, &shape);
            start[axis] += size;
            if keep {
                return part.into();
            }
            shape.remove(axis);
            part.reshaped(shape).into()
        })
        .collect();
    Ok(vec![Datum::Sequence(parts)])
}
fn join(ctx: &EvalCtx<'_>) -> Outcome {
    let axis = ctx.attrs().int("axis").ok_or("attribute `axis` is missing")?;
    let tensors: Vec<&Tensor> = list(ctx, 0)?
        .iter()
        .map(|item| item.as_tensor().ok_or("the sequence must hold tensors"))
        .collect::<Result<_, _>>()?;
    let rank = tensors.first().ok_or("the sequence is empty")?.rank();
    if !ctx.attrs().flag("new_axis") {
        return Ok(vec![concat(&tensors, normalize_axis(axis, rank)?)?.into()]);
    }
    let axis = normalize_axis(axis, rank + 1)?;
    let widened: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| {
            let mut shape = tensor.shape().to_vec();
            shape.insert(axis.min(shape.len()), 1);
            tensor.reshaped(shape)
        })
        .collect();
    Ok(vec![concat(&widened.iter().collect::<Vec<_>>(), axis)?.into()])
}
/// Whether input `i`, a sequence, is given to the body item by item: all but those the body itself takes as sequences.
fn is_mapped(body: &Graph, i: usize) -> bool {
    let formal = body.inputs.get(i).map(|id| &body.values[*id].ty);
    i == 0 || !matches!(formal, Some(Type::Sequence(_)))
}
fn map(ctx: &EvalCtx<'_>) -> Outcome {
    let body = ctx.node.bodies.first().ok_or("the body is missing")?;
    let count = list(ctx, 0)?.len();
    let mut outputs = vec![Vec::with_capacity(count); ctx.output_count()];
    for item in 0..count {
        let arguments = (0..ctx.inputs.len())
            .map(|i| match input(ctx, i)? {
                Datum::Sequence(items) if is_mapped(body, i) => items
                    .get(item)
                    .cloned()
                    .ok_or_else(|| format!("sequence {i} is shorter than the first, of {count}")),
                whole => Ok(whole.clone()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (all, one) in outputs.iter_mut().zip((ctx.run_body)(body, arguments)?) {
            all.push(one);
        }
    }
    Ok(outputs.into_iter().map(Datum::Sequence).collect())
}
fn optional(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    Ok(vec![Datum::Optional(ctx.inputs.first().cloned().flatten().map(Box::new))])
}
fn get_element(ctx: &EvalCtx<'_>) -> Outcome {
    match input(ctx, 0)? {
        Datum::Optional(Some(inner)) => Ok(vec![inner.as_ref().clone()]),
        Datum::Optional(None) => Err("the optional value is absent".into()),
        present => Ok(vec![present.clone()]),
    }
}
fn has_element(ctx: &EvalCtx<'_>) -> Outcome {
    let has = !matches!(ctx.inputs.first(), None | Some(None | Some(Datum::Optional(None))));
    Ok(vec![Tensor::from_bools(Vec::new(), [has]).into()])
}

/// The type of items of the sequence at input `i`.
fn item_type(ctx: &Ctx<'_>, i: usize) -> Result<Type, String> {
    let mut ty = &ctx.fact(i).ok_or_else(|| format!("input {i} is missing"))?.ty;
    if let Type::Optional(inner) = ty {
        ty = inner;
    }
    match ty {
        Type::Sequence(item) => Ok(item.as_ref().clone()),
        Type::Unknown => Ok(Type::Unknown),
        other => Err(format!("input {i} must be a sequence, is {other}")),
    }
}
fn sequence(item: Type) -> Facts {
    Ok(vec![Fact::of(Type::Sequence(Box::new(item)))])
}
/// The type that covers both: a shape that differs is unknown.
fn covering(a: Type, b: &Type) -> Result<Type, String> {
    match (a, b) {
        (Type::Unknown, other) => Ok(other.clone()),
        (a, Type::Unknown) => Ok(a),
        (Type::Tensor(a), Type::Tensor(b)) if a.dtype == b.dtype => {
            let shape = if a.shape == b.shape { a.shape } else { None };
            Ok(Type::Tensor(TensorType { dtype: a.dtype, shape }))
        }
        (Type::Sequence(a), Type::Sequence(b)) => Ok(Type::Sequence(Box::new(covering(*a, b)?))),
        (Type::Optional(a), Type::Optional(b)) => Ok(Type::Optional(Box::new(covering(*a, b)?))),
        (a, b) => Err(format!("a sequence holds values of one type, got {a} and {b}")),
    }
}
fn infer_construct(ctx: &Ctx<'_>) -> Facts {
    let mut item = Type::Unknown;
    for i in 0..ctx.input_count() {
        item = covering(item, &ctx.fact(i).ok_or_else(|| format!("input {i} is missing"))?.ty)?;
    }
    sequence(item)
}
fn infer_insert(ctx: &Ctx<'_>) -> Facts {
    sequence(covering(item_type(ctx, 0)?, &ctx.fact(1).ok_or("input 1 is missing")?.ty)?)
}
fn infer_split(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(mut shape) = ctx.shape(0) else { return sequence(Type::Tensor(TensorType::unranked(dtype))) };
    if shape.is_empty() {
        return Err("a scalar cannot be split".into());
    }
    let axis = normalize_axis(ctx.attrs().int_or("axis", 0), shape.len())?;
    if !ctx.has(1) && ctx.attrs().int_or("keepdims", 1) == 0 {
        shape.remove(axis);
    } else {
        let size = content::list(ctx, 1)?.and_then(|sizes| {
            let first = sizes.first()?.clone();
            let even = match ctx.rank(1)? {
                0 => {
                    first.known().zip(shape[axis].known()).is_some_and(|(size, n)| size > 0 && n % size == 0)
                }
                _ => sizes.iter().all(|size| *size == first),
            };
            even.then_some(first)
        });
        shape[axis] =
            if ctx.has(1) { size.unwrap_or_else(|| ctx.unknown_dim(0, axis)) } else { Dim::Known(1) };
    }
    sequence(Type::Tensor(TensorType { dtype, shape: Some(shape) }))
}
fn infer_join(ctx: &Ctx<'_>) -> Facts {
    let axis = ctx.attrs().int("axis").ok_or("attribute `axis` is missing")?;
    match item_type(ctx, 0)? {
        Type::Tensor(TensorType { dtype, shape: Some(mut shape) }) => {
            let new = ctx.attrs().flag("new_axis");
            let axis = normalize_axis(axis, shape.len() + usize::from(new))?;
            if new {
                shape.insert(axis, ctx.unknown_dim(0, axis));
            } else {
                *shape.get_mut(axis).ok_or("scalars cannot be concatenated")? = ctx.unknown_dim(0, axis);
            }
            Ok(vec![Fact::tensor(dtype, shape)])
        }
        other => Ok(vec![Fact::of(other)]),
    }
}
fn infer_map(ctx: &Ctx<'_>) -> Facts {
    let body = ctx.node.bodies.first().ok_or("the body is missing")?;
    let arguments = (0..ctx.input_count())
        .map(|i| {
            let fact = ctx.fact(i).ok_or_else(|| format!("input {i} is missing"))?;
            Ok(match &fact.ty {
                Type::Sequence(item) if is_mapped(body, i) => Fact::of(item.as_ref().clone()),
                _ => fact.clone(),
            })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let outputs = (ctx.infer_body)(body, &arguments)?;
    Ok(outputs.into_iter().map(|fact| Fact::of(Type::Sequence(Box::new(fact.ty)))).collect())
}
fn infer_optional(ctx: &Ctx<'_>) -> Facts {
    let inner = match (ctx.fact(0), ctx.attrs().ty("type")) {
        (Some(fact), _) => fact.ty.clone(),
        (None, Some(ty)) => ty.clone(),
        (None, None) => return Err("an absent value needs a type".into()),
    };
    Ok(vec![Fact::of(Type::Optional(Box::new(inner)))])
}
fn infer_get(ctx: &Ctx<'_>) -> Facts {
    Ok(vec![match &ctx.fact(0).ok_or("input 0 is missing")?.ty {
        Type::Optional(inner) => Fact::of(inner.as_ref().clone()),
        _ => ctx.fact(0).cloned().ok_or("input 0 is missing")?,
    }])
}
fn scalar(dtype: DType) -> Facts {
    Ok(vec![Fact::tensor(dtype, Vec::new())])
}

const fn entry(
    op: Op,
    doc: &'static str,
    inputs: &'static [Port],
    infer: fn(&Ctx<'_>) -> Facts,
    eval: fn(&EvalCtx<'_>) -> Outcome,
) -> OpDef {
    OpDef { inputs, class: Class::Exact, engine: Engine::Host, infer, eval, ..OpDef::new(op, doc) }
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        attrs: &[opt("dtype", AttrKind::DType, "Type of the tensors it is to hold; f32.")],
        ..entry(
            Op::SequenceEmpty,
            "A sequence without items.",
            &[],
            |ctx| {
                let dtype = ctx.attrs().dtype("dtype").unwrap_or(DType::F32);
                sequence(Type::Tensor(TensorType::unranked(dtype)))
            },
            |_| Ok(vec![Datum::Sequence(Vec::new())]),
        )
    }
    .flat(),
    entry(
        Op::SequenceConstruct,
        "A sequence of the inputs.",
        &[Port::One("first"), Port::Variadic("more")],
        infer_construct,
        construct,
    ),
    entry(
        Op::SequenceAt,
        "The item at a position.",
        &[Port::One("sequence"), Port::One("position")],
        |ctx| Ok(vec![Fact::of(item_type(ctx, 0)?)]),
        at,
    ),
    entry(
        Op::SequenceInsert,
        "The sequence with a value put in before a position, or at the end.",
        &[Port::One("sequence"), Port::One("value"), Port::Optional("position")],
        infer_insert,
        insert,
    ),
    entry(
        Op::SequenceErase,
        "The sequence without the item at a position, or without the last.",
        &[Port::One("sequence"), Port::Optional("position")],
        |ctx| sequence(item_type(ctx, 0)?),
        erase,
    ),
    entry(
        Op::SequenceLength,
        "The number of items as an i64 scalar.",
        &[Port::One("sequence")],
        |ctx| item_type(ctx, 0).and_then(|_| scalar(DType::I64)),
        length,
    )
    .flat(),
    OpDef {
        attrs: &[
            opt("axis", AttrKind::Int, "The dimension that is split; 0."),
            opt("keepdims", AttrKind::Int, "Without `split`, parts keep the dimension with extent 1; 1."),
        ],
        ..entry(
            Op::SplitToSequence,
            "Parts of a tensor along an axis: of one size, of the given sizes, or single.",
            &[Port::One("input"), Port::Optional("split")],
            infer_split,
            split,
        )
    },
    OpDef {
        attrs: &[
            req("axis", AttrKind::Int, "The dimension along which tensors stand behind each other."),
            opt("new_axis", AttrKind::Int, "It is a new one; 0."),
        ],
        ..entry(
            Op::ConcatFromSequence,
            "The tensors of a sequence behind each other.",
            &[Port::One("sequence")],
            infer_join,
            join,
        )
    },
    OpDef {
        outputs: &[Port::Variadic("sequences")],
        engine: Engine::Control,
        ..entry(
            Op::SequenceMap,
            "Sequences of what the body makes of each item; inputs that are no sequences are the same for all items.",
            &[Port::One("sequence"), Port::Variadic("more")],
            infer_map,
            map,
        )
    },
    OpDef {
        attrs: &[opt("type", AttrKind::Type, "Type of the value where it is absent.")],
        ..entry(
            Op::Optional,
            "A value that may be absent: the input, or none.",
            &[Port::Optional("input")],
            infer_optional,
            optional,
        )
    },
    entry(
        Op::OptionalGetElement,
        "The value of one that may be absent; an error where it is.",
        &[Port::One("input")],
        infer_get,
        get_element,
    ),
    entry(
        Op::OptionalHasElement,
        "True where the value is not absent.",
        &[Port::Optional("input")],
        |_| scalar(DType::Bool),
        has_element,
    )
    .flat(),
];
