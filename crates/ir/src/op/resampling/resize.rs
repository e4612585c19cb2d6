//! `Resize`: a filter along each dimension that changes, one dimension after the other.

use super::super::context::normalize_axis;
use super::super::elements::{Float, by_float, element_count};
use super::super::{Access, Ctx, Datum, EvalCtx, Fact, IterSpace, rules, space};
use crate::{Attrs, Dim};
use orrery_numerics::{DType, Tensor};

/// Dimensions that roi, scales and sizes are for.
fn axes(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, String> {
    match attrs.ints("axes") {
        None => Ok((0..rank).collect()),
        Some(axes) => axes.iter().map(|a| normalize_axis(*a, rank)).collect(),
    }
}

pub(super) fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = ctx.dtype(0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
    Ok(vec![Fact::tensor(dtype, resized(ctx, &shape)?)])
}

/// What becomes of a shape.
fn resized(ctx: &Ctx<'_>, shape: &[Dim]) -> Result<Vec<Dim>, String> {
    if shape.is_empty() {
        return Err("a scalar cannot be resized".into());
    }
    let axes = axes(ctx.attrs(), shape.len())?;
    let given = |i: usize| ctx.has(i) && !ctx.shape(i).is_some_and(|s| s.len() == 1 && s[0].is(0));
    let mut out = shape.to_vec();
    let unknown = |out: &mut Vec<Dim>| axes.iter().for_each(|&d| out[d] = ctx.unknown_dim(0, d));
    match (given(2), given(3)) {
        (true, true) => return Err("scales and sizes cannot both be given".into()),
        (false, false) => return Err("one of scales and sizes must be given".into()),
        (false, true) => match ctx.content(3) {
            Some(sizes) => {
                if sizes.len() != axes.len() {
                    return Err(format!("sizes must have {} elements, has {}", axes.len(), sizes.len()));
                }
                if let Some(size) = sizes.iter().find(|size| size.known().is_some_and(|n| n < 0)) {
                    return Err(format!("size {size} is negative"));
                }
                let known: Option<Vec<usize>> = sizes.iter().map(Dim::extent).collect();
                let extents: Option<Vec<usize>> = shape.iter().map(Dim::extent).collect();
                match (ctx.attrs().str_or("keep_aspect_ratio_policy", "stretch"), known, extents) {
                    ("stretch", ..) => axes.iter().zip(sizes).for_each(|(&d, size)| out[d] = size.clone()),
                    (_, Some(sizes), Some(extents)) => {
                        let plan = Plan::from_sizes(ctx.attrs(), &extents, &axes, &sizes)?;
                        out = plan.sizes.iter().map(|&s| Dim::from(s)).collect();
                    }
                    _ => unknown(&mut out),
                }
            }
            None => unknown(&mut out),
        },
        (true, false) => {
            match ctx.constant(2).and_then(|t| t.to_f64().ok().map(std::borrow::Cow::into_owned)) {
                Some(scales) => {
                    if scales.len() != axes.len() {
                        return Err(format!(
                            "scales must have {} elements, has {}",
                            axes.len(),
                            scales.len()
                        ));
                    }
                    for (&d, &scale) in axes.iter().zip(&scales) {
                        out[d] = scaled(&shape[d], scale).unwrap_or_else(|| ctx.unknown_dim(0, d));
                    }
                }
                None => unknown(&mut out),
            }
        }
    }
    Ok(out)
}

/// The attribute `extents`, with what it leaves to the gradient's own shape.
fn extents(attrs: &Attrs, gradient: &[Dim]) -> Result<Vec<Dim>, String> {
    let given = attrs.ints("extents").unwrap_or(&[]);
    if given.len() != gradient.len() {
        let (given, rank) = (given.len(), gradient.len());
        return Err(format!("attribute `extents` has {given} numbers for a gradient of {rank} dimensions"));
    }
    let extent = |(&n, own): (&i64, &Dim)| match n {
        -1 => Ok(own.clone()),
        0.. => Ok(Dim::Known(n)),
        _ => Err(format!("attribute `extents` has {n}, which is no extent")),
    };
    given.iter().zip(gradient).map(extent).collect()
}

pub(super) fn gradient_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    let Some(gradient) = ctx.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
    let shape = extents(ctx.attrs(), &gradient)?;
    rules::has_shape(ctx, 0, &resized(ctx, &shape)?)?;
    Ok(vec![Fact::tensor(dtype, shape)])
}

/// Resizing is linear: every output element sends its weights back.
pub(super) fn gradient(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let plan = Plan::new(ctx, &shape)?;
    let filter = Filter::new(ctx.attrs());
    Ok(vec![
        by_float!(dtype, T => {
            let mut values = T::read(ctx.tensor(0)?)?.into_owned();
            for d in 0..shape.len() {
                let Some(taps) = filter.along(&plan, d, shape[d])? else { continue };
                // Dimensions before have their extents already, those behind still have the gradient's.
                let inner: usize = plan.sizes[d + 1..].iter().product();
                let outer: usize = shape[..d].iter().product();
                let mut out = vec![T::ZERO; outer * shape[d] * inner];
                for o in 0..outer {
                    for (i, place) in taps.iter().enumerate() {
                        let sent = &values[(o * taps.len() + i) * inner..][..inner];
                        for &(at, weight) in place.iter().flatten() {
                            let weight = T::from_f64(weight);
                            let target = &mut out[(o * shape[d] + at) * inner..][..inner];
                            target.iter_mut().zip(sent).for_each(|(t, s)| *t += weight * *s);
                        }
                    }
                }
                values = out;
            }
            T::tensor(dtype, shape, values)
        })
        .into(),
    ])
}

/// An extent times a scale, rounded down; as a formula where the scale or its inverse is whole.
fn scaled(extent: &Dim, scale: f64) -> Option<Dim> {
    if let Some(n) = extent.known() {
        return Some(Dim::Known((n as f64 * scale).floor() as i64));
    }
    let inverse = 1.0 / scale;
    if scale >= 1.0 && scale.fract() == 0.0 {
        Some(extent.clone() * Dim::Known(scale as i64))
    } else if inverse.is_finite() && inverse.fract() == 0.0 {
        Some(extent.floor_div(&Dim::Known(inverse as i64)))
    } else {
        None
    }
}

/// Parallel over dimensions that do not change, where no operand names their sizes, and over the places of those in which
/// each place becomes a block of its own copies.
pub(super) fn cut(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let mut space = cut_elsewhere(ctx)?;
    let (from, scales) = (ctx.shape(0)?, ctx.constant(2)?.to_f64().ok()?.into_owned());
    let filter = Filter::new(ctx.attrs());
    for (d, scale) in axes(ctx.attrs(), from.len()).ok()?.into_iter().zip(scales) {
        if scale > 1.0 && filter.repeats(scale) {
            space.axes[d].extent = from[d].clone();
            space.inputs[0][d] = Access::along(d);
            space.outputs[0][d] = Access::Along { axis: d, scale: Dim::Known(scale as i64) };
        }
    }
    Some(space)
}

/// Parallel over dimensions that do not change, where no operand names their sizes.
pub(super) fn cut_elsewhere(ctx: &Ctx<'_>) -> Option<IterSpace> {
    if ctx.shape(3).is_some_and(|s| !s.first().is_some_and(|n| n.is(0))) {
        return None;
    }
    let (from, to) = (ctx.shape(0)?, ctx.output_shape(0)?);
    let scales = ctx.constant(2)?.to_f64().ok()?.into_owned();
    let axes = axes(ctx.attrs(), from.len()).ok()?;
    let changes = |d: usize| axes.iter().zip(&scales).any(|(a, s)| *a == d && *s != 1.0) || from[d] != to[d];
    space::free_except(ctx, changes)
}

/// Output extents and scales of all dimensions, and the part of the input they show.
struct Plan {
    sizes: Vec<usize>,
    scales: Vec<f64>,
    roi: Vec<(f64, f64)>,
}

impl Plan {
    fn new(ctx: &EvalCtx<'_>, shape: &[usize]) -> Result<Self, String> {
        let axes = axes(ctx.attrs(), shape.len())?;
        let floats = |i: usize| -> Result<Vec<f64>, String> {
            match ctx.optional(i)? {
                Some(tensor) => Ok(tensor.to_f64().map_err(|e| e.to_string())?.into_owned()),
                None => Ok(Vec::new()),
            }
        };
        let (roi, scales) = (floats(1)?, floats(2)?);
        let mut plan = if scales.is_empty() {
            let sizes: Vec<usize> = floats(3)?.iter().map(|&s| s as usize).collect();
            Self::from_sizes(ctx.attrs(), shape, &axes, &sizes)?
        } else {
            if scales.len() != axes.len() {
                return Err(format!("scales must have {} elements, has {}", axes.len(), scales.len()));
            }
            let mut all = vec![1.0; shape.len()];
            axes.iter().zip(&scales).for_each(|(&d, &s)| all[d] = s);
            if let Some(bad) = all.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
                return Err(format!("a scale must be positive, is {bad}"));
            }
            let sizes = shape.iter().zip(&all).map(|(&n, s)| (n as f64 * s).floor() as usize).collect();
            Self { sizes, scales: all, roi: vec![(0.0, 1.0); shape.len()] }
        };
        if ctx.attrs().str("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
            if roi.len() != 2 * axes.len() {
                return Err(format!("roi must have {} elements, has {}", 2 * axes.len(), roi.len()));
            }
            axes.iter().enumerate().for_each(|(i, &d)| plan.roi[d] = (roi[i], roi[axes.len() + i]));
        }
        Ok(plan)
    }
    fn from_sizes(attrs: &Attrs, shape: &[usize], axes: &[usize], sizes: &[usize]) -> Result<Self, String> {
        if sizes.len() != axes.len() {
            return Err(format!("sizes must have {} elements, has {}", axes.len(), sizes.len()));
        }
        let mut plan = Self {
            sizes: shape.to_vec(),
            scales: vec![1.0; shape.len()],
            roi: vec![(0.0, 1.0); shape.len()],
        };
        let ratio = |d: usize, size: usize| if shape[d] == 0 { 1.0 } else { size as f64 / shape[d] as f64 };
        let ratios: Vec<f64> = axes.iter().zip(sizes).map(|(&d, &s)| ratio(d, s)).collect();
        let common = match attrs.str_or("keep_aspect_ratio_policy", "stretch") {
            "stretch" => None,
            "not_larger" => ratios.iter().copied().reduce(f64::min),
            "not_smaller" => ratios.iter().copied().reduce(f64::max),
            other => return Err(format!("keep_aspect_ratio_policy `{other}` is unknown")),
        };
        for ((&d, &size), &ratio) in axes.iter().zip(sizes).zip(&ratios) {
            (plan.sizes[d], plan.scales[d]) = match common {
                None => (size, ratio),
                Some(scale) => ((scale * shape[d] as f64 + 0.5).floor() as usize, scale),
            };
        }
        Ok(plan)
    }
}

/// Scales up to this one are looked at for repeating places.
const MOST_REPEATED: f64 = 1024.0;

/// For one output place along a dimension: input places with weights, or nothing where it lies outside of the roi.
type Taps = Option<Vec<(usize, f64)>>;

struct Filter<'a> {
    attrs: &'a Attrs,
    mode: &'a str,
    transformation: &'a str,
}

impl<'a> Filter<'a> {
    fn new(attrs: &'a Attrs) -> Self {
        Self {
            attrs,
            mode: attrs.str_or("mode", "nearest"),
            transformation: attrs.str_or("coordinate_transformation_mode", "half_pixel"),
        }
    }
    /// For every output place along dimension `d`, whose input has extent `from`; none where nothing changes.
    fn along(&self, plan: &Plan, d: usize, from: usize) -> Result<Option<Vec<Taps>>, String> {
        let (to, scale, roi) = (plan.sizes[d], plan.scales[d], plan.roi[d]);
        if from == to && scale == 1.0 && roi == (0.0, 1.0) {
            return Ok(None);
        }
        (0..to).map(|x| self.taps(x, from, to, scale, roi)).collect::<Result<_, _>>().map(Some)
    }
    /// Whether each place becomes `scale` places that show nothing else, wherever it is.
    fn repeats(&self, scale: f64) -> bool {
        // The place after the first of three stands for all: these modes look at no border.
        let shows_itself = |x: usize| {
            let taps = self.taps(x, 3, 3 * scale as usize, scale, (0.0, 1.0));
            taps.is_ok_and(|taps| taps.is_some_and(|taps| taps == [(1, 1.0)]))
        };
        let alike = matches!(self.transformation, "half_pixel" | "pytorch_half_pixel" | "asymmetric");
        let whole = scale.fract() == 0.0 && scale <= MOST_REPEATED;
        self.mode == "nearest" && alike && whole && (scale as usize..2 * scale as usize).all(shows_itself)
    }
    /// The place in the input that an output place shows.
    fn origin(
        &self,
        x: f64,
        input: usize,
        output: usize,
        scale: f64,
        roi: (f64, f64),
    ) -> Result<f64, String> {
        let (last, wide) = (input as f64 - 1.0, scale * input as f64);
        Ok(match self.transformation {
            "half_pixel" => (x + 0.5) / scale - 0.5,
            "pytorch_half_pixel" if wide <= 1.0 => -0.5,
            "pytorch_half_pixel" => (x + 0.5) / scale - 0.5,
            "half_pixel_symmetric" => {
                input as f64 / 2.0 * (1.0 - output as f64 / wide) + (x + 0.5) / scale - 0.5
            }
            "align_corners" if wide == 1.0 => 0.0,
            "align_corners" => x * last / (wide - 1.0),
            "asymmetric" => x / scale,
            "tf_crop_and_resize" if wide == 1.0 => roi.0 * last + (roi.1 - roi.0) * last / 2.0,
            "tf_crop_and_resize" => roi.0 * last + x * (roi.1 - roi.0) * last / (wide - 1.0),
            other => return Err(format!("coordinate_transformation_mode `{other}` is unknown")),
        })
    }
    /// Weights of the input places from `first` on, for a place `ratio` (above 0, up to 1) to the right of place 0.
    fn weights(&self, ratio: f64, scale: f64) -> Result<(i64, Vec<f64>), String> {
        let a = self.attrs.float_or("cubic_coeff_a", -0.75);
        let cubic = move |x: f64| match x.abs() {
            x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => ((x - 5.0) * x + 8.0) * x * a - 4.0 * a,
            _ => 0.0,
        };
        let linear = |x: f64| (1.0 - x.abs()).clamp(0.0, 1.0);
        let shrink = if self.attrs.flag("antialias") { scale.min(1.0) } else { 1.0 };
        let spread = |reach: f64, weight: &dyn Fn(f64) -> f64| {
            let first = (-reach / shrink).floor() as i64 + 1;
            let weights: Vec<f64> = (first..2 - first).map(|i| weight(shrink * (i as f64 - ratio))).collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|w| w / sum).collect())
        };
        let whole = ratio == 1.0;
        match self.mode {
            "linear" => Ok(spread(1.0, &linear)),
            "cubic" => Ok(spread(2.0, &cubic)),
            "nearest" => {
                let right = match self.attrs.str_or("nearest_mode", "round_prefer_floor") {
                    "round_prefer_floor" => ratio > 0.5,
                    "round_prefer_ceil" => ratio >= 0.5,
                    "floor" => whole,
                    "ceil" => true,
                    other => return Err(format!("nearest_mode `{other}` is unknown")),
                };
                Ok((i64::from(right), vec![1.0]))
            }
            other => Err(format!("mode `{other}` is unknown")),
        }
    }
    fn taps(
        &self,
        x: usize,
        input: usize,
        output: usize,
        scale: f64,
        roi: (f64, f64),
    ) -> Result<Taps, String> {
        let place = self.origin(x as f64, input, output, scale, roi)?;
        if self.transformation == "tf_crop_and_resize" && !(0.0..=input as f64 - 1.0).contains(&place) {
            return Ok(None);
        }
        let base = place.ceil() - 1.0;
        let (first, mut weights) = self.weights(place - base, scale)?;
        let last = input as i64 - 1;
        let at = |i: usize| base as i64 + first + i as i64;
        if self.attrs.flag("exclude_outside") {
            weights
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| !(0..=last).contains(&at(*i)))
                .for_each(|(_, w)| *w = 0.0);
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        Ok(Some(weights.into_iter().enumerate().map(|(i, w)| (at(i).clamp(0, last) as usize, w)).collect()))
    }
}

pub(super) fn evaluate(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    rules::facts(ctx)?;
    let input = ctx.tensor(0)?;
    let plan = Plan::new(ctx, input.shape())?;
    let count = element_count(input.dtype(), &plan.sizes)?;
    match (input.is_empty(), count) {
        (true, 1..) => return Err("an empty tensor cannot be made larger".into()),
        (true, 0) => return Ok(vec![<f32 as Float>::tensor(input.dtype(), plan.sizes, Vec::new()).into()]),
        _ => {}
    }
    let tensor = by_float!(wide(input.dtype()), T => resize::<T>(ctx, input, &plan))?;
    Ok(vec![tensor.into()])
}

/// Wide integers are interpolated in f64, which holds them.
fn wide(dtype: DType) -> DType {
    if dtype.is_int() && dtype.bits() > 16 { DType::F64 } else { dtype }
}

fn resize<T: Float>(ctx: &EvalCtx<'_>, input: &Tensor, plan: &Plan) -> Result<Tensor, String> {
    let filter = Filter::new(ctx.attrs());
    let outside = T::from_f64(ctx.attrs().float_or("extrapolation_value", 0.0));
    let mut shape = input.shape().to_vec();
    let mut values = T::read(input)?.into_owned();
    for d in 0..shape.len() {
        let (from, to) = (shape[d], plan.sizes[d]);
        let Some(taps) = filter.along(plan, d, from)? else { continue };
        let inner: usize = shape[d + 1..].iter().product();
        let mut out = Vec::with_capacity(shape[..d].iter().product::<usize>() * to * inner);
        for block in values.chunks((from * inner).max(1)) {
            for taps in &taps {
                let start = out.len();
                match taps {
                    None => out.resize(start + inner, outside),
                    Some(taps) if taps.len() == 1 => {
                        out.extend_from_slice(&block[taps[0].0 * inner..][..inner]);
                    }
                    Some(taps) => {
                        out.resize(start + inner, T::ZERO);
                        for &(source, weight) in taps {
                            let weight = T::from_f64(weight);
                            out[start..]
                                .iter_mut()
                                .zip(&block[source * inner..][..inner])
                                .for_each(|(o, v)| *o += weight * *v);
                        }
                    }
                }
            }
        }
        values = out;
        shape[d] = to;
    }
    Ok(T::tensor(input.dtype(), shape, values))
}
