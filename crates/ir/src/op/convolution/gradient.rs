//! Gradient rules of convolutions: each is the transpose of the other, and both have the gradient of their weights from
//! [`Op::ConvWeightGrad`].

use super::transposed;
use super::window::Span;
use super::{ACCUMULATE, PLAIN};
use crate::gradient::Backward;
use crate::{Attrs, Dim, Op, ValueId};
use orrery_base::Result;

pub(super) const OPEN: &str = "the extents are not known";

pub(super) fn conv(b: &mut Backward<'_>) -> Result<()> {
    let (x, w, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let (spans, group) = b.known(|ctx| {
        let e = PLAIN.extents(ctx)?.ok_or(OPEN)?;
        let input: Option<Vec<usize>> = e.input.iter().map(Dim::extent).collect();
        Ok((Span::all(&e.windows, &input.ok_or(OPEN)?)?, e.group.ok_or(OPEN)?))
    })?;
    if b.wants(0) {
        let attrs = accumulation(b).with("group", group);
        let dx = transpose(b, dy, w, &spans, attrs)?;
        b.give(0, dx);
    }
    if b.wants(1) {
        let own = b.shape(w)?[1];
        let dw = weights(b, x, dy, &spans, group, own)?;
        b.give(1, dw);
    }
    bias(b, dy, 2)
}

pub(super) fn conv_transpose(b: &mut Backward<'_>) -> Result<()> {
    let (x, w, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let shape = b.shape(dy)?;
    let (mut spans, group) = b.known(|ctx| transposed::spans(ctx, &shape[2..]))?;
    for span in &mut spans {
        span.after = (reach(span) - span.before - span.input as i64).max(0);
    }
    if b.wants(0) {
        let attrs = Span::describe(&spans, accumulation(b)).with("group", group);
        let dx = b.op(Op::Conv, &[dy, w], attrs)?;
        let dx = crop_like(b, dx, x)?;
        b.give(0, dx);
    }
    if b.wants(1) {
        let own = b.shape(w)?[1];
        let dw = weights(b, dy, x, &spans, group, own)?;
        b.give(1, dw);
    }
    bias(b, dy, 2)
}

/// Extent that the windows reach over, from the start of the padding.
fn reach(span: &Span) -> i64 {
    (span.output as i64 - 1) * span.stride + (span.kernel as i64 - 1) * span.dilation + 1
}

/// The transpose of the convolution of `w` over the spans' inputs.
pub(in super::super) fn transpose(
    b: &mut Backward<'_>,
    dy: ValueId,
    w: ValueId,
    spans: &[Span],
    attrs: Attrs,
) -> Result<ValueId> {
    let mut spans = spans.to_vec();
    let mut added = Vec::new();
    for span in &mut spans {
        // What the windows leave over at the end is padding of the result, what they have too much of is cut off.
        let left = span.input as i64 + span.before - reach(span);
        span.after = (-left).max(0);
        added.push(left.max(0));
    }
    b.op(Op::ConvTranspose, &[dy, w], Span::describe(&spans, attrs).with("output_padding", added))
}

fn weights(
    b: &mut Backward<'_>,
    x: ValueId,
    dy: ValueId,
    spans: &[Span],
    group: i64,
    own: i64,
) -> Result<ValueId> {
    let mut attrs = Span::describe(spans, accumulation(b));
    if group != 1 {
        attrs.set("group_channels", own);
    }
    b.op(Op::ConvWeightGrad, &[x, dy], attrs)
}

/// Gives the bias, input `i`, what comes back for each channel.
pub(super) fn bias(b: &mut Backward<'_>, dy: ValueId, i: usize) -> Result<()> {
    if b.wants(i) {
        let axes: Vec<i64> = (0..b.rank(dy)? as i64).filter(|d| *d != 1).collect();
        let db = b.sum(dy, &axes, false)?;
        b.give(i, db);
    }
    Ok(())
}

/// The forward op's attribute that says what it sums in.
fn accumulation(b: &Backward<'_>) -> Attrs {
    let mut attrs = Attrs::new();
    if let Some(format) = b.attrs().get(ACCUMULATE.name) {
        attrs.set(ACCUMULATE.name, format.clone());
    }
    attrs
}

/// The first elements of `a` along each dimension, as many as `like` has.
fn crop_like(b: &mut Backward<'_>, a: ValueId, like: ValueId) -> Result<ValueId> {
    let wanted = b.shape(like)?;
    if b.shape(a)? == wanted {
        return Ok(a);
    }
    let (starts, ends) = (b.ints(&vec![0; wanted.len()]), b.ints(&wanted));
    b.op(Op::Slice, &[a, starts, ends], Attrs::new())
}
