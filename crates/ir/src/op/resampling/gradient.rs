//! Gradient rules of resampling, all of them of what is linear.

use crate::gradient::Backward;
use crate::{Attrs, Op};
use orrery_base::Result;
use orrery_numerics::Tensor;

pub(super) fn resize(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let (from, to) = (b.shape(x)?, b.shape(dy)?);
    let extents: Vec<i64> = from.iter().zip(&to).map(|(a, b)| if a == b { -1 } else { *a }).collect();
    let mut inputs = b.node().inputs.clone();
    inputs[0] = Some(dy);
    let attrs = b.attrs().clone().with("extents", extents);
    let dx = b.ops(Op::ResizeGrad, &inputs, attrs, 1)?[0];
    b.give(0, dx);
    Ok(())
}

/// The places of the identity, which the maps were applied to, and ones for what they add.
pub(super) fn affine_grid(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let (dtype, shape) = (b.dtype(dy), b.shape(dy)?);
    let (spatial, places) = (shape.len() - 2, shape[1..shape.len() - 1].iter().product());
    let identity: Vec<f64> =
        (0..spatial * (spatial + 1)).map(|i| if i % (spatial + 2) == 0 { 1.0 } else { 0.0 }).collect();
    let identity = b.tensor("identity", Tensor::from_vec(vec![1, spatial, spatial + 1], identity));
    let identity = b.cast(identity, dtype)?;
    let size: Vec<i64> = [1, 1].into_iter().chain(shape[1..=spatial].iter().copied()).collect();
    let size = b.ints(&size);
    let attrs = b.attrs().clone();
    let at = b.op(Op::AffineGrid, &[identity, size], attrs)?;
    let at = b.reshape(at, &[1, places, spatial as i64])?;
    let one = b.scalar(dtype, 1.0);
    let ones = b.expand(one, &[1, places, 1])?;
    let at = b.op(Op::Concat, &[at, ones], Attrs::new().with("axis", 2))?;
    let dy = b.reshape(dy, &[shape[0], places, spatial as i64])?;
    let dy = b.transpose_last(dy)?;
    let dtheta = b.matmul(dy, at)?;
    b.give(0, dtheta);
    Ok(())
}

/// The blocks of the image: a convolution with one output channel for each element of a block.
pub(super) fn col2im(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let (columns, image) = (b.shape(x)?, b.shape(dy)?);
    let block =
        b.known(|ctx| ctx.ints(2).ok_or_else(|| "the extents of a block are not known".to_owned()))?;
    let taps = block.iter().product::<i64>() as usize;
    let unit: Vec<f64> =
        (0..taps * taps).map(|i| if i % (taps + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let weights = [taps, 1].into_iter().chain(block.iter().map(|&n| n as usize)).collect();
    let weights = b.tensor("blocks", Tensor::from_vec(weights, unit));
    let dtype = b.dtype(dy);
    let weights = b.cast(weights, dtype)?;
    let channels = [image[0] * image[1], 1].into_iter().chain(image[2..].iter().copied()).collect::<Vec<_>>();
    let dy = b.reshape(dy, &channels)?;
    let attrs = b.attrs().clone();
    let blocks = b.op(Op::Conv, &[dy, weights], attrs)?;
    let dx = b.reshape(blocks, &columns)?;
    b.give(0, dx);
    Ok(())
}
