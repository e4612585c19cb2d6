//! Gradient rules of Fourier transforms: of a matrix F, the gradient is its conjugate transpose, which is the inverse
//! transform without the division by the length.

use super::number_of;
use crate::gradient::Backward;
use crate::{Attrs, Dim, Op, ValueId};
use orrery_base::Result;
use orrery_numerics::Tensor;

const OPEN: &str = "lengths and axes must be known";

pub(super) fn dft(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let (length, axis) = b.known(|ctx| {
        let given = |i: usize| number_of(ctx, i).as_ref().and_then(Dim::known);
        let axis = if ctx.has(2) { given(2).ok_or(OPEN)? } else { -2 };
        let axis = ctx.axis(axis, shape.len())?;
        let length = if ctx.has(1) { given(1).ok_or(OPEN)? } else { shape[axis] };
        Ok((length, axis))
    })?;
    let inverse = b.attrs().flag("inverse");
    let back = transposed(b, dy, length, axis, inverse)?;
    let dx = fit(b, back, &shape)?;
    b.give(0, dx);
    Ok(())
}

/// The conjugate transpose of the transform along `axis`, of `length` elements, applied to what came back. Frequencies
/// that were not made got nothing back.
fn transposed(b: &mut Backward<'_>, dy: ValueId, length: i64, axis: usize, inverse: bool) -> Result<ValueId> {
    let count = b.tensor("dft_length", Tensor::scalar(length));
    let at = b.tensor("axis", Tensor::scalar(axis as i64));
    let attrs = Attrs::new().with("inverse", i64::from(!inverse));
    let back = b.op(Op::DFT, &[dy, count, at], attrs)?;
    b.scale(back, if inverse { 1.0 / length as f64 } else { length as f64 })
}

/// The first elements along each dimension, and zeros where there are too few.
fn fit(b: &mut Backward<'_>, mut a: ValueId, wanted: &[i64]) -> Result<ValueId> {
    let have = b.shape(a)?;
    let cut: Vec<i64> = have.iter().zip(wanted).map(|(have, wanted)| *have.min(wanted)).collect();
    if cut != have {
        let (starts, ends) = (b.ints(&vec![0; cut.len()]), b.ints(&cut));
        a = b.op(Op::Slice, &[a, starts, ends], Attrs::new())?;
    }
    if cut == wanted {
        return Ok(a);
    }
    let behind = wanted.iter().zip(&cut).map(|(wanted, have)| wanted - have);
    let pads: Vec<i64> = cut.iter().map(|_| 0).chain(behind).collect();
    let pads = b.ints(&pads);
    b.op(Op::Pad, &[a, pads], Attrs::new())
}

/// Frames go back to where they were taken from, added where they overlap.
pub(super) fn stft(b: &mut Backward<'_>) -> Result<()> {
    if b.wants(2) {
        return Err(b.fails("the gradient of the window is not known".into()));
    }
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let (shape, made) = (b.shape(x)?, b.shape(dy)?);
    let (batch, parts, frames) = (shape[0], shape[2], made[1]);
    let (step, length) = b.known(|ctx| {
        let given = |i: usize| number_of(ctx, i).as_ref().and_then(Dim::known);
        let window = ctx.shape(2).and_then(|s| s[0].known());
        let length = if ctx.has(3) { given(3) } else { window.or(Some(shape[1])) };
        Ok((given(1).ok_or(OPEN)?, length.ok_or(OPEN)?))
    })?;
    let back = transposed(b, dy, length, 2, false)?;
    let mut back = fit(b, back, &[batch, frames, length, parts])?;
    if let Some(window) = b.given(2) {
        let window = b.reshape(window, &[length, 1])?;
        back = b.mul(back, window)?;
    }
    let columns = b.transpose(back, &[0, 3, 2, 1])?;
    let columns = b.reshape(columns, &[batch, parts * length, frames])?;
    let (image, block) = (b.ints(&[(frames - 1) * step + length]), b.ints(&[length]));
    let signal = b.op(Op::Col2Im, &[columns, image, block], Attrs::new().with("strides", vec![step]))?;
    let signal = b.transpose(signal, &[0, 2, 1])?;
    let dx = fit(b, signal, &shape)?;
    b.give(0, dx);
    Ok(())
}
