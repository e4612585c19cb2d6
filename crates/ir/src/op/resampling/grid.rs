//! Sampling at places of a grid, grids of affine maps, and images from columns.

use super::super::elements::{Float, by_float, element_count};
use super::super::{Ctx, Datum, EvalCtx, Fact, rules};
use crate::Dim;

pub(super) fn sample_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::real(ctx, 0)?;
    rules::float(ctx, 1)?;
    let (Some(image), Some(grid)) = (ctx.shape(0), ctx.shape(1)) else {
        return Ok(vec![Fact::unranked(dtype)]);
    };
    if image.len() < 3 || grid.len() != image.len() {
        return Err(format!(
            "the image must have batch, channels and at least one dimension, and the grid as many, are {} and {}",
            rules::shape_text(&image),
            rules::shape_text(&grid)
        ));
    }
    let last = grid.len() - 1;
    rules::equal(&grid[last], &Dim::from(image.len() - 2), || {
        "the coordinates of a place and the image's dimensions".into()
    })?;
    let batch = rules::equal(&image[0], &grid[0], || "the batch of image and grid".into())?;
    let shape = [batch, image[1].clone()].into_iter().chain(grid[1..last].iter().cloned()).collect();
    Ok(vec![Fact::tensor(dtype, shape)])
}

/// Cubic convolution filter (Keys 1981) with coefficient -0.75: weights of the places -1, 0, 1 and 2 for a place `x`.
fn cubic(x: f64) -> [f64; 4] {
    let a = -0.75;
    let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((x - 5.0) * x + 8.0) * x * a - 4.0 * a;
    [far(x + 1.0), near(x), near(1.0 - x), far(2.0 - x)]
}

/// Mirrored at the borders until it lies within them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let over = if x < low {
        low - x
    } else if x > high {
        x - high
    } else {
        return x;
    };
    let (turns, rest) = ((over / range).floor(), over % range);
    if (turns % 2.0 == 0.0) == (x < low) { low + rest } else { high - rest }
}

struct Sampler<'a> {
    mode: &'a str,
    padding: &'a str,
    align: bool,
}

impl Sampler<'_> {
    fn border(&self, extent: usize) -> (f64, f64) {
        if self.align { (0.0, extent as f64 - 1.0) } else { (-0.5, extent as f64 - 0.5) }
    }
    /// The element at an integer place, or none where it is padding of zeros.
    fn index(&self, i: i64, extent: usize) -> Option<usize> {
        let last = extent as i64 - 1;
        match self.padding {
            "border" => Some(i.clamp(0, last) as usize),
            "reflection" => {
                let (low, high) = self.border(extent);
                Some((reflect(i as f64, low, high) as i64).clamp(0, last) as usize)
            }
            _ => (0..=last).contains(&i).then_some(i as usize),
        }
    }
    /// Elements with weights along one dimension.
    fn taps(&self, coordinate: f64, extent: usize) -> Vec<(usize, f64)> {
        let mut x = if self.align {
            (coordinate + 1.0) / 2.0 * (extent as f64 - 1.0)
        } else {
            ((coordinate + 1.0) * extent as f64 - 1.0) / 2.0
        };
        if self.mode == "nearest" {
            x = x.round_ties_even();
        }
        let (low, high) = self.border(extent);
        if !(low..=high).contains(&x) {
            match self.padding {
                "border" => x = x.clamp(0.0, (extent as f64 - 1.0).max(0.0)),
                "reflection" => x = reflect(x, low, high),
                _ => {}
            }
        }
        let base = x.floor();
        let part = x - base;
        let (first, weights): (i64, Vec<f64>) = match self.mode {
            "nearest" => (0, vec![1.0]),
            "cubic" => (-1, cubic(part).to_vec()),
            _ => (0, vec![1.0 - part, part]),
        };
        weights
            .into_iter()
            .zip(first..)
            .filter_map(|(weight, i)| {
                self.index((base as i64).saturating_add(i), extent).map(|at| (at, weight))
            })
            .collect()
    }
}

pub(super) fn sample(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    rules::check(ctx)?;
    by_float!(ctx.tensor(0)?.dtype(), T => sample_typed::<T>(ctx))
}

fn sample_typed<T: Float>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, out_shape) = rules::check_one(ctx)?;
    let (image, grid) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let sampler = Sampler {
        mode: ctx.attrs().str_or("mode", "linear"),
        padding: ctx.attrs().str_or("padding_mode", "zeros"),
        align: ctx.attrs().flag("align_corners"),
    };
    if !["linear", "nearest", "cubic"].contains(&sampler.mode) {
        return Err(format!("mode `{}` is unknown", sampler.mode));
    }
    if !["zeros", "border", "reflection"].contains(&sampler.padding) {
        return Err(format!("padding_mode `{}` is unknown", sampler.padding));
    }
    let values = T::read(image)?;
    let places = grid.to_f64().map_err(|e| e.to_string())?;
    let extents = &image.shape()[2..];
    let plane: usize = extents.iter().product();
    let (batch, channels) = (image.shape()[0], image.shape()[1]);
    let outputs: usize = out_shape[2..].iter().product();
    let mut out = vec![T::ZERO; element_count(dtype, &out_shape)?];
    for b in 0..batch {
        for place in 0..outputs {
            let coordinates = &places[(b * outputs + place) * extents.len()..][..extents.len()];
            // Coordinates name the last dimension first.
            let taps: Vec<Vec<(usize, f64)>> =
                coordinates.iter().rev().zip(extents).map(|(&c, &e)| sampler.taps(c, e)).collect();
            let mut flat = vec![(0_usize, 1.0_f64)];
            for (taps, &extent) in taps.iter().zip(extents) {
                flat = flat
                    .iter()
                    .flat_map(|&(at, w)| taps.iter().map(move |&(i, v)| (at * extent + i, w * v)))
                    .collect();
            }
            for c in 0..channels {
                let source = &values[(b * channels + c) * plane..][..plane];
                let sum: f64 = flat.iter().map(|&(at, w)| source[at].to_f64() * w).sum();
                out[(b * channels + c) * outputs + place] = T::from_f64(sum);
            }
        }
    }
    Ok(vec![T::tensor(dtype, out_shape, out).into()])
}

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
