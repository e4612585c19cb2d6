//! Gradient rules of reductions.

use super::rules;
use crate::ValueId;
use crate::gradient::Backward;
use orrery_base::Result;

/// A value of the reduced shape with the reduced dimensions back, of extent 1.
fn unreduced(b: &mut Backward<'_>, value: ValueId) -> Result<ValueId> {
    let x = b.x(0)?;
    let reduced = b.known(rules::known_axes)?.ok_or_else(|| b.fails("the axes are not known".into()))?;
    let extents = b.shape(x)?.into_iter().zip(reduced);
    let shape: Vec<i64> = extents.map(|(extent, gone)| if gone { 1 } else { extent }).collect();
    b.reshape(value, &shape)
}

pub(super) fn sum(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let dy = unreduced(b, dy)?;
    let shape = b.shape(b.x(0)?)?;
    let dx = b.expand(dy, &shape)?;
    b.give(0, dx);
    Ok(())
}
