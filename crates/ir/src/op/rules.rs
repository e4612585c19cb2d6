//! What type rules share, and how meanings reuse them.
//!
//! A meaning first asks its op's own type rule with the operands at hand ([`check`]): so shapes are checked in one
//! place, and a kernel may rely on all that the rule promises.

use super::elements::element_count;
use super::{Ctx, EvalCtx, Fact, Port};
use crate::{Dim, Type};
use orrery_numerics::DType;

/// What the op's type rule says of the operands at hand, open shapes allowed.
///
/// # Errors
/// Where the type rule is broken.
pub fn facts(ctx: &EvalCtx<'_>) -> Result<Vec<Fact>, String> {
    let facts: Vec<Option<Fact>> = ctx
        .inputs
        .iter()
        .map(|datum| datum.as_ref().map(|d| d.as_tensor().map_or(Fact::of(Type::Unknown), Fact::constant)))
        .collect();
    (ctx.node.op.def().infer)(&Ctx {
        node: ctx.node,
        inputs: &facts,
        outputs: &[],
        output_names: &[],
        infer_body: &|_, _| Err("a body is not inferred while running".into()),
    })
}

/// Element types and shapes of the outputs, by the op's type rule on the operands at hand.
///
/// # Errors
/// Where the type rule is broken, leaves a shape open, or an output would be too large.
pub fn check(ctx: &EvalCtx<'_>) -> Result<Vec<(DType, Vec<usize>)>, String> {
    facts(ctx)?
        .into_iter()
        .map(|fact| {
            let ty = fact.ty.as_tensor().ok_or("an output is no tensor")?;
            let shape = ty.extents().ok_or_else(|| format!("the shape of an output is open: {ty}"))?;
            element_count(ty.dtype, &shape)?;
            Ok((ty.dtype, shape))
        })
        .collect()
}

/// As [`check`], for the first output alone.
///
/// # Errors
/// As [`check`].
pub fn check_one(ctx: &EvalCtx<'_>) -> Result<(DType, Vec<usize>), String> {
    check(ctx)?.into_iter().next().ok_or_else(|| "it has no output".into())
}

/// The name of input `i` in the op's entry.
pub fn input_name(ctx: &Ctx<'_>, i: usize) -> &'static str {
    let ports = ctx.node.op.def().inputs;
    match ports.get(i).or(ports.last()) {
        Some(Port::One(name) | Port::Optional(name) | Port::Variadic(name)) => name,
        None => "?",
    }
}

/// Element type of input `i`, a float.
///
/// # Errors
/// Where it is missing or none.
pub fn float(ctx: &Ctx<'_>, i: usize) -> Result<DType, String> {
    typed(ctx, i, "floating-point numbers", DType::is_float)
}

/// Element type of input `i`, a float or an integer.
///
/// # Errors
/// Where it is missing or neither.
pub fn real(ctx: &Ctx<'_>, i: usize) -> Result<DType, String> {
    typed(ctx, i, "numbers", |t| t.is_float() || t.is_int())
}

/// Element type of input `i`, an integer.
///
/// # Errors
/// Where it is missing or none.
pub fn integer(ctx: &Ctx<'_>, i: usize) -> Result<DType, String> {
    typed(ctx, i, "integers", DType::is_int)
}

/// Element type of input `i`, an integer of eight bits.
///
/// # Errors
/// Where it is missing or none.
pub fn eight_bit(ctx: &Ctx<'_>, i: usize) -> Result<DType, String> {
    typed(ctx, i, "8-bit integers", |t| matches!(t, DType::I8 | DType::U8))
}

fn typed(ctx: &Ctx<'_>, i: usize, what: &str, allowed: impl Fn(DType) -> bool) -> Result<DType, String> {
    let dtype = ctx.dtype(i)?;
    if allowed(dtype) {
        return Ok(dtype);
    }
    Err(format!("input `{}` must hold {what}, is {dtype}", input_name(ctx, i)))
}

/// Checks that those of `inputs` that are given hold elements of type `dtype`.
///
/// # Errors
/// Where one does not.
pub fn of_type(ctx: &Ctx<'_>, inputs: impl IntoIterator<Item = usize>, dtype: DType) -> Result<(), String> {
    for i in inputs {
        if ctx.has(i) && ctx.dtype(i)? != dtype {
            let found = ctx.dtype(i)?;
            return Err(format!("input `{}` must be of type {dtype}, is {found}", input_name(ctx, i)));
        }
    }
    Ok(())
}

/// Shape of input `i` where given and its rank is known, which must then be `rank`.
///
/// # Errors
/// Where it is of another rank or no tensor.
pub fn ranked(ctx: &Ctx<'_>, i: usize, rank: usize) -> Result<Option<Vec<Dim>>, String> {
    if !ctx.has(i) {
        return Ok(None);
    }
    match &ctx.tensor_type(i)?.shape {
        Some(shape) if shape.len() != rank => Err(format!(
            "input `{}` must have {rank} dimensions, has {}",
            input_name(ctx, i),
            shape_text(shape)
        )),
        shape => Ok(shape.clone()),
    }
}

/// What two extents are that must be equal: the better known of both.
///
/// # Errors
/// `what` and both, where they are known to differ.
pub fn equal(a: &Dim, b: &Dim, what: impl FnOnce() -> String) -> Result<Dim, String> {
    match (a.known(), b.known()) {
        (Some(x), Some(y)) if x != y => Err(format!("{} must be equal, are {x} and {y}", what())),
        (None, Some(_)) => Ok(b.clone()),
        _ => Ok(a.clone()),
    }
}

/// Checks that input `i`, where given and of known rank, has the shape `shape`.
///
/// # Errors
/// Where it is known to have another.
pub fn has_shape(ctx: &Ctx<'_>, i: usize, shape: &[Dim]) -> Result<(), String> {
    if let Some(found) = ranked(ctx, i, shape.len())? {
        for (f, s) in found.iter().zip(shape) {
            equal(f, s, String::new).map_err(|_| {
                format!(
                    "input `{}` must have shape {}, has {}",
                    input_name(ctx, i),
                    shape_text(shape),
                    shape_text(&found)
                )
            })?;
        }
    }
    Ok(())
}

/// Checks that input `i`, where given and of known rank, is one value or a vector of `extent`.
///
/// # Errors
/// Where it is known to be of another shape.
pub fn one_or_vector(ctx: &Ctx<'_>, i: usize, extent: &Dim) -> Result<(), String> {
    match ctx.shape(i).as_deref() {
        None | Some([]) => Ok(()),
        Some([one]) if one.is(1) => Ok(()),
        _ => has_shape(ctx, i, std::slice::from_ref(extent)),
    }
}

/// A shape as `[2, n]`.
pub fn shape_text(shape: &[Dim]) -> String {
    let list: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", list.join(", "))
}

/// Product of extents.
pub fn product(dims: &[Dim]) -> Dim {
    dims.iter().cloned().product()
}
