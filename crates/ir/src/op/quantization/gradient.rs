//! Straight-through gradients of numbers that are quantized and brought back (Bengio et al. 2013, arXiv:1308.3432): the
//! rounding is taken for the identity, and what was held at an end of the range gets nothing back.
//!
//! Between the two ops the gradient is that of the number which the integer stands for, a float. Scales are not trained.

use crate::gradient::Backward;
use crate::{Attrs, Def, Op, ValueId};
use orrery_base::Result;
use orrery_numerics::Tensor;

fn untrained(b: &Backward<'_>) -> Result<()> {
    if b.wants(1) { Err(b.fails("scales of quantized numbers are not trained".into())) } else { Ok(()) }
}

/// Passes on what comes back, for numbers that a [`Op::QuantizeLinear`] of the same scale made.
pub(super) fn dequantize(b: &mut Backward<'_>) -> Result<()> {
    untrained(b)?;
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let same = |b: &Backward<'_>, ours: Option<ValueId>, theirs: Option<ValueId>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => {
            let tensor = |v: ValueId| b.fact(v).tensor.as_ref();
            ours == theirs || tensor(ours).is_some() && tensor(ours) == tensor(theirs)
        }
        (ours, theirs) => ours == theirs,
    };
    let pair = match b.graph().values[x].def {
        Def::Node(maker, _) => {
            let maker = &b.graph().nodes[maker];
            let theirs = |i: usize| maker.inputs.get(i).copied().flatten();
            maker.op == Op::QuantizeLinear && (1..3).all(|i| same(b, b.given(i), theirs(i)))
        }
        _ => false,
    };
    if !pair {
        let cause = "only numbers that are quantized and brought back with one scale have a gradient";
        return Err(b.fails(cause.into()));
    }
    b.give(0, dy);
    Ok(())
}

/// Passes on what comes back for numbers within the range, half a step beyond its ends included.
pub(super) fn quantize(b: &mut Backward<'_>) -> Result<()> {
    untrained(b)?;
    let (x, scale, y, dy) = (b.x(0)?, b.x(1)?, b.y(0)?, b.dy0()?);
    let integer = b.dtype(y);
    if !integer.is_int() {
        return Err(b.fails("only quantization to integers has a gradient".into()));
    }
    let (least, most) = integer.int_range();
    let shape = if b.shape(scale)?.iter().product::<i64>() == 1 { Vec::new() } else { b.shape(x)? };
    let dtype = b.dtype(x);
    let attrs = ["axis", "block_size"].into_iter().fold(Attrs::new(), |mut attrs, name| {
        if let Some(value) = b.attrs().get(name) {
            attrs.set(name, value.clone());
        }
        attrs
    });
    let stands_for = |b: &mut Backward<'_>, number: i128| {
        let number = b.tensor("number", Tensor::from_i64(integer, vec![], vec![number as i64]));
        let number = b.expand(number, &shape)?;
        let inputs = [Some(number), Some(scale), b.given(2)];
        let made = b.ops(Op::DequantizeLinear, &inputs, attrs.clone(), 1)?[0];
        b.cast(made, dtype)
    };
    // The end of the range and half a step more.
    let border = |b: &mut Backward<'_>, end: i128, inner: i128| {
        let (end, inner) = (stands_for(b, end)?, stands_for(b, inner)?);
        let step = b.sub(end, inner)?;
        let half = b.scale(step, 0.5)?;
        b.add(end, half)
    };
    let (low, high) = (border(b, least, least + 1)?, border(b, most, most - 1)?);
    let above = b.op(Op::GreaterOrEqual, &[x, low], Attrs::new())?;
    let below = b.op(Op::LessOrEqual, &[x, high], Attrs::new())?;
    let within = b.op(Op::And, &[above, below], Attrs::new())?;
    let zero = b.scalar(dtype, 0.0);
    let dy = b.cast(dy, dtype)?;
    let dx = b.op(Op::Where, &[within, dy, zero], Attrs::new())?;
    b.give(0, dx);
    Ok(())
}
