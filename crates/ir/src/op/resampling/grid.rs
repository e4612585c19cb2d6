//! Grids of affine maps, and images from columns.

use super::super::elements::{Float, by_float, element_count};
use super::super::{Ctx, Datum, EvalCtx, Fact, rules};
use crate::Dim;

pub(super) fn affine_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    let theta = rules::ranked(ctx, 0, 3)?;
    let Some(size) = ctx.content(1) else {
        return Ok(vec![match theta.and_then(|t| t[1].known()) {
            Some(spatial @ 2..=3) => {
                Fact::tensor(dtype, (0..spatial as usize + 2).map(|d| ctx.unknown_dim(0, d)).collect())
            }
            _ => Fact::unranked(dtype),
        }]);
    };
    let [batch, _, spatial @ ..] = size else {
        return Err("size must name batch, channels and an image".into());
    };
    if spatial.len() != 2 && spatial.len() != 3 {
        return Err(format!("an image of 2 or 3 dimensions is needed, size has {}", spatial.len()));
    }
    if let Some(theta) = theta {
        let (rows, columns) = (Dim::from(spatial.len()), Dim::from(spatial.len() + 1));
        rules::has_shape(ctx, 0, &[theta[0].clone(), rows, columns])?;
    }
    let shape = std::iter::once(batch).chain(spatial).cloned().chain([Dim::from(spatial.len())]).collect();
    Ok(vec![Fact::tensor(dtype, shape)])
}

pub(super) fn affine(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let theta = ctx.tensor(0)?.to_f64().map_err(|e| e.to_string())?;
    let spatial = shape.len() - 2;
    let extents = &shape[1..=spatial];
    if ctx.tensor(0)?.shape()[0] != shape[0] {
        return Err(format!("theta has a batch of {}, size one of {}", ctx.tensor(0)?.shape()[0], shape[0]));
    }
    let align = ctx.attrs().flag("align_corners");
    let coordinate = |i: usize, extent: usize| match (align, extent) {
        (true, 1) => 0.0,
        (true, _) => -1.0 + 2.0 * i as f64 / (extent as f64 - 1.0),
        (false, _) => (2.0 * i as f64 + 1.0) / extent as f64 - 1.0,
    };
    let places: usize = extents.iter().product();
    let mut out = Vec::with_capacity(element_count(dtype, &shape)?);
    for map in theta.chunks_exact(spatial * (spatial + 1)) {
        for place in 0..places {
            let (mut rest, mut at) = (place, Vec::with_capacity(spatial));
            // The last dimension of the image is the first coordinate.
            for &extent in extents.iter().rev() {
                at.push(coordinate(rest % extent, extent));
                rest /= extent;
            }
            for row in map.chunks_exact(spatial + 1) {
                out.push(row.iter().zip(&at).map(|(m, x)| m * x).sum::<f64>() + row[spatial]);
            }
        }
    }
    Ok(vec![f64::tensor(dtype, shape, out).into()])
}

/// One of the attributes with a value for each dimension.
fn per_dimension(attrs: &crate::Attrs, name: &str, default: i64, count: usize) -> Result<Vec<i64>, String> {
    let values = attrs.ints(name).map_or_else(|| vec![default; count], <[i64]>::to_vec);
    if values.len() != count {
        return Err(format!("{name} must have {count} values, has {}", values.len()));
    }
    Ok(values)
}

pub(super) fn col2im_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::real(ctx, 0)?;
    let columns = rules::ranked(ctx, 0, 3)?;
    let (Some(columns), Some(image), Some(block)) = (columns, ctx.content(1), ctx.content(2)) else {
        return Ok(vec![Fact::unranked(dtype)]);
    };
    let channels = columns[1].floor_div(&rules::product(block));
    let shape = [columns[0].clone(), channels].into_iter().chain(image.iter().cloned()).collect();
    Ok(vec![Fact::tensor(dtype, shape)])
}

pub(super) fn col2im(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    by_float!(ctx.tensor(0)?.dtype(), T => col2im_typed::<T>(ctx))
}

fn col2im_typed<T: Float>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let columns = ctx.tensor(0)?;
    let (image, block) = (ctx.ints(1)?, ctx.ints(2)?);
    let n = image.len();
    if block.len() != n || image.iter().chain(&block).any(|e| *e <= 0) {
        return Err("image_shape and block_shape must have as many positive extents each".into());
    }
    let strides = per_dimension(ctx.attrs(), "strides", 1, n)?;
    let dilations = per_dimension(ctx.attrs(), "dilations", 1, n)?;
    let pads = per_dimension(ctx.attrs(), "pads", 0, 2 * n)?;
    if strides.iter().any(|s| *s <= 0) {
        return Err("strides must be positive".into());
    }
    let blocks: Vec<i64> = (0..n)
        .map(|d| {
            (image[d] + pads[d] + pads[d + n] - dilations[d] * (block[d] - 1) - 1).div_euclid(strides[d]) + 1
        })
        .collect();
    let (taps, count): (i64, i64) = (block.iter().product(), blocks.iter().product());
    let [batch, rows, given] = columns.shape()[..] else {
        return Err("columns must have three dimensions".into());
    };
    if blocks.iter().any(|b| *b <= 0) || given as i64 != count || rows as i64 % taps != 0 {
        return Err(format!(
            "{rows} x {given} columns do not make an image of {image:?} from blocks of {block:?}"
        ));
    }
    let values = T::read(columns)?;
    let plane: i64 = image.iter().product();
    let mut out = vec![T::ZERO; element_count(dtype, &shape)?];
    for (row, line) in values.chunks_exact(given.max(1)).enumerate() {
        let (target, tap) = ((row as i64 / taps) * plane, row as i64 % taps);
        for (position, &value) in line.iter().enumerate() {
            let (mut tap, mut position, mut at, mut step, mut inside) = (tap, position as i64, 0, 1, true);
            for d in (0..n).rev() {
                let i = (position % blocks[d]) * strides[d] - pads[d] + (tap % block[d]) * dilations[d];
                inside &= (0..image[d]).contains(&i);
                at += i * step;
                step *= image[d];
                position /= blocks[d];
                tap /= block[d];
            }
            if inside {
                out[(target + at) as usize] += value;
            }
        }
    }
    debug_assert_eq!(batch * rows / taps as usize * plane as usize, out.len(), "blocks fill the image");
    Ok(vec![T::tensor(dtype, shape, out).into()])
}
