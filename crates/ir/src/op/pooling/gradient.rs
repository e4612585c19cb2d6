//! Gradient rules of pooling.

use super::super::convolution::gradient::transpose;
use super::super::convolution::window::Span;
use super::window::windows_of;
use super::{order, unpool};
use crate::gradient::Backward;
use crate::{Attrs, Dim, Op, ValueId};
use orrery_base::Result;

/// The forward op's attributes, those of `names`.
fn kept(b: &Backward<'_>, names: &[&str]) -> Attrs {
    let mut attrs = Attrs::new();
    for (name, value) in b.attrs().iter().filter(|(name, _)| names.contains(name)) {
        attrs.set(name, value.clone());
    }
    attrs
}

const WINDOW: &[&str] =
    &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"];

pub(super) fn max_pool(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let attrs = kept(b, WINDOW);
    let dx = b.op(Op::MaxPoolGrad, &[x, dy], attrs)?;
    b.give(0, dx);
    Ok(())
}

pub(super) fn average_pool(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let extents = b.shape(x)?[2..].to_vec();
    let attrs = kept(b, WINDOW).with("extents", extents);
    let dx = b.op(Op::AveragePoolGrad, &[dy], attrs)?;
    b.give(0, dx);
    Ok(())
}

/// Each window sends back dY / y^(p-1), summed where windows overlap: a transposed convolution of ones.
pub(super) fn lp_pool(b: &mut Backward<'_>) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let p = b.known(|ctx| order(ctx.attrs()))?;
    let spans = b.known(|ctx| {
        let input: Vec<usize> = shape[2..].iter().map(|&n| n as usize).collect();
        Span::all(&windows_of(ctx.attrs(), shape.len())?, &input)
    })?;
    let sent = over_norm(b, y, dy, p)?;
    let mut ones = vec![shape[1], 1];
    ones.extend(spans.iter().map(|s| s.kernel as i64));
    let one = b.scalar_like(x, 1.0);
    let ones = b.expand(one, &ones)?;
    let sums = transpose(b, sent, ones, &spans, Attrs::new().with("group", shape[1]))?;
    times_power(b, x, sums, p)
}

pub(super) fn global_average_pool(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let count: i64 = shape[2..].iter().product();
    let share = b.scale(dy, 1.0 / count as f64)?;
    let dx = b.expand(share, &shape)?;
    b.give(0, dx);
    Ok(())
}

/// That of one window over all of a channel.
pub(super) fn global_max_pool(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let kernel = b.shape(x)?[2..].to_vec();
    let dx = b.op(Op::MaxPoolGrad, &[x, dy], Attrs::new().with("kernel_shape", kernel))?;
    b.give(0, dx);
    Ok(())
}

pub(super) fn global_lp_pool(b: &mut Backward<'_>) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let p = b.known(|ctx| order(ctx.attrs()))?;
    let sent = over_norm(b, y, dy, p)?;
    times_power(b, x, sent, p)
}

/// dY / y^(p-1), and zero where the norm y is: there all elements are zero.
fn over_norm(b: &mut Backward<'_>, y: ValueId, dy: ValueId, p: i64) -> Result<ValueId> {
    if p == 1 {
        return Ok(dy);
    }
    let power = power(b, y, p - 1)?;
    let sent = b.div(dy, power)?;
    let zero = b.scalar_like(y, 0.0);
    let above = b.op(Op::Greater, &[y, zero], Attrs::new())?;
    b.op(Op::Where, &[above, sent, zero], Attrs::new())
}

/// Gives the input `sums` x |x|^(p-2), which is the sign of x times |x|^(p-1).
fn times_power(b: &mut Backward<'_>, x: ValueId, sums: ValueId, p: i64) -> Result<()> {
    let signed = if p % 2 == 0 {
        power(b, x, p - 1)?
    } else {
        let sign = b.unary(Op::Sign, x)?;
        if p == 1 {
            sign
        } else {
            let power = power(b, x, p - 1)?;
            b.mul(sign, power)?
        }
    };
    let dx = b.mul(sums, signed)?;
    b.give(0, dx);
    Ok(())
}

fn power(b: &mut Backward<'_>, x: ValueId, by: i64) -> Result<ValueId> {
    if by == 1 {
        return Ok(x);
    }
    let by = b.scalar_like(x, by as f64);
    b.op(Op::Pow, &[x, by], Attrs::new())
}

/// What came back to the places that elements were put to.
pub(super) fn max_unpool(b: &mut Backward<'_>) -> Result<()> {
    let (indices, mut dy) = (b.x(1)?, b.dy0()?);
    let pooled = b.known(|ctx| {
        let shape = ctx.shape(0).ok_or("its rank is not known")?;
        let pooled: Option<Vec<i64>> =
            unpool::pooled_from(ctx.attrs(), &shape)?.iter().map(Dim::known).collect();
        pooled.ok_or_else(|| "the extents are not known".into())
    })?;
    if b.shape(dy)? != pooled {
        // Indices count through the shape that was pooled, to which zeros were added behind.
        let (starts, ends) = (b.ints(&vec![0; pooled.len()]), b.ints(&pooled));
        dy = b.op(Op::Slice, &[dy, starts, ends], Attrs::new())?;
    }
    let dy = b.reshape(dy, &[pooled.iter().product()])?;
    let dx = b.op(Op::Gather, &[dy, indices], Attrs::new())?;
    b.give(0, dx);
    Ok(())
}
