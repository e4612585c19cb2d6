//! Gradient rules of elementwise ops.

use crate::gradient::Backward;
use crate::{Attrs, Op};
use orrery_base::Result;

pub(super) fn add(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    for i in (0..2).filter(|i| b.wants(*i)).collect::<Vec<_>>() {
        b.give_summed(i, dy)?;
    }
    Ok(())
}

pub(super) fn sub(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    if b.wants(0) {
        b.give_summed(0, dy)?;
    }
    if b.wants(1) {
        let minus = b.unary(Op::Neg, dy)?;
        b.give_summed(1, minus)?;
    }
    Ok(())
}

pub(super) fn mul(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    for i in (0..2).filter(|i| b.wants(*i)).collect::<Vec<_>>() {
        let other = b.x(1 - i)?;
        let product = b.mul(dy, other)?;
        b.give_summed(i, product)?;
    }
    Ok(())
}

/// The gradient where the result is above zero. At zero it is zero, as frameworks have it.
pub(super) fn relu(b: &mut Backward<'_>) -> Result<()> {
    let (dy, y) = (b.dy0()?, b.y(0)?);
    let zero = b.scalar_like(y, 0.0);
    let above = b.op(Op::Greater, &[y, zero], Attrs::new())?;
    let gradient = b.op(Op::Where, &[above, dy, zero], Attrs::new())?;
    b.give(0, gradient);
    Ok(())
}
