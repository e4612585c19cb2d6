//! Ops of the family `attention`.
//!
//! Operands hold heads in one of two forms: `[batch, head, length, size]`, or `[batch, length, head * size]` with the
//! number of heads in an attribute. Parts of a cut op have fewer heads, so they are told the size of a head instead.

mod gradient;
mod real;
mod rotary;
mod scaled;

pub use real::Real;

use super::{AttrDef, Ctx, Datum, EvalCtx, Op, OpDef, opt, rules};
use crate::{AttrKind, Attrs, Dim};

/// The entries.
pub const TABLE: &[OpDef] = &[scaled::ATTENTION, gradient::ATTENTION_GRAD, rotary::ROTARY_EMBEDDING];

const HEAD_SIZE: AttrDef = opt(
    "head_size",
    AttrKind::Int,
    "Size of a head for inputs of three dimensions, in place of the numbers of heads: for parts of a cut op. Not part of \
     ONNX.",
);

/// What attention or its gradient makes, in numbers of any kind.
///
/// # Errors
/// What the op says, and for other ops.
pub fn evaluate<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    match ctx.node.op {
        Op::Attention => scaled::evaluate::<T>(ctx),
        Op::AttentionGrad => gradient::evaluate::<T>(ctx),
        other => Err(format!("{other} is no attention")),
    }
}

/// Extents of an operand that holds heads.
#[derive(Clone, Debug)]
struct Heads {
    batch: Dim,
    heads: Dim,
    length: Dim,
    size: Dim,
}

impl Heads {
    /// From shape and number of heads; of the latter only one of `heads` and `size` is needed, and none with four
    /// dimensions.
    fn new(ctx: &Ctx<'_>, i: usize, heads: Option<&Dim>, size: Option<&Dim>) -> Result<Option<Self>, String> {
        let name = rules::input_name(ctx, i);
        let Some(shape) = ctx.shape(i) else { return Ok(None) };
        match shape.as_slice() {
            [batch, own, length, size] => {
                if let Some(heads) = heads {
                    rules::equal(own, heads, || {
                        format!("the heads of input `{name}` and the attribute for them")
                    })?;
                }
                let [batch, heads, length, size] = [batch, own, length, size].map(Clone::clone);
                Ok(Some(Self { batch, heads, length, size }))
            }
            [batch, length, hidden] => {
                let by = heads.or(size).ok_or_else(|| {
                    format!("input `{name}` has three dimensions: the number of its heads must be given")
                })?;
                if let (Some(all), Some(by)) = (hidden.known(), by.known())
                    && (by <= 0 || all % by != 0)
                {
                    return Err(format!(
                        "input `{name}` has {all} elements a position, which {by} does not divide"
                    ));
                }
                let other = hidden.floor_div(by);
                let (heads, size) = if heads.is_some() { (by.clone(), other) } else { (other, by.clone()) };
                Ok(Some(Self { batch: batch.clone(), heads, length: length.clone(), size }))
            }
            _ => Err(format!(
                "input `{name}` must have three or four dimensions, has {}",
                rules::shape_text(&shape)
            )),
        }
    }
}

/// A positive count in an attribute.
fn count(attrs: &Attrs, name: &str) -> Result<Option<Dim>, String> {
    match attrs.int(name) {
        None | Some(0) => Ok(None),
        Some(given) if given > 0 => Ok(Some(Dim::Known(given))),
        Some(given) => Err(format!("attribute `{name}` is {given}, must be at least 1")),
    }
}

/// Where an operand of heads keeps its elements: the one at (batch, head, position, element) is at
/// `batch * steps[0] + head * steps[1] + position * steps[2] + element`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    steps: [usize; 3],
}

impl Layout {
    fn new(rank: usize, heads: usize, length: usize, size: usize) -> Self {
        let image = heads * length * size;
        Self { steps: if rank == 4 { [image, length * size, size] } else { [image, size, heads * size] } }
    }
    fn at(self, batch: usize, head: usize, position: usize) -> usize {
        batch * self.steps[0] + head * self.steps[1] + position * self.steps[2]
    }
}
