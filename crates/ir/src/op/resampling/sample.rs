//! Sampling at the places of a grid, and its gradients.

use super::super::elements::{Float, by_float, element_count};
use super::super::space::parallel;
use super::super::{
    Access, AttrDef, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use crate::gradient::Backward;
use crate::{AttrKind, Attrs, Dim};
use orrery_base::Result as Done;

pub(super) const ALIGN_CORNERS: AttrDef = opt(
    "align_corners",
    AttrKind::Int,
    "1 where -1 and 1 are the centres of the corner elements, not their edges; 0.",
);
const ATTRS: &[AttrDef] = &[
    ALIGN_CORNERS,
    opt("mode", AttrKind::Str, "`linear`, `nearest` or `cubic`; `linear`."),
    opt("padding_mode", AttrKind::Str, "What lies outside: `zeros`, `border` or `reflection`; `zeros`."),
];

pub(super) const GRID_SAMPLE: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("grid")],
    outputs: &[Port::One("Y")],
    attrs: ATTRS,
    class: Class::Rounding,
    infer,
    work: |ctx| Work::vector(ctx.output_elements(0) * Dim::Known(16), Dim::Known(0)),
    space: |ctx| space(ctx, true),
    eval,
    ..OpDef::new(
        Op::GridSample,
        "Interpolates an image at the places that a grid names, in coordinates from -1 to 1.",
    )
};

pub(super) const GRID_SAMPLE_GRAD: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("grid"), Port::One("dY")],
    outputs: &[Port::One("dX"), Port::Optional("dgrid")],
    attrs: ATTRS,
    class: Class::Rounding,
    infer: |ctx| {
        let y = infer(ctx)?.remove(0);
        rules::of_type(ctx, [2], ctx.dtype(0)?)?;
        if let Some(shape) = y.ty.as_tensor().and_then(|ty| ty.shape.as_ref()) {
            rules::has_shape(ctx, 2, shape)?;
        }
        let own = |i: usize| Ok::<_, String>(Fact::of(ctx.fact(i).ok_or("an input is missing")?.ty.clone()));
        Ok(vec![own(0)?, own(1)?])
    },
    // For each element that a sample is made of, a product and a sum for the image, and as many for each coordinate.
    work: |ctx| {
        let sides = if ctx.output_count() > 1 { ctx.rank(0).map_or(0, |rank| rank as i64 - 2) } else { 0 };
        Work::vector(ctx.input_elements(2) * Dim::Known(16 * (1 + sides)), Dim::Known(0))
    },
    space: |ctx| space(ctx, false),
    eval: eval_gradient,
    ..OpDef::new(
        Op::GridSampleGrad,
        "Gradients of the image and of the grid of GridSample: each sample goes back to the elements that it was \
         interpolated from, and pulls its place to where they would have been larger.",
    )
};

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
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

/// Along the batch, and forward along channels and places. Samples add to the same elements of an image on their way
/// back, and all channels to the gradient of a place.
fn space(ctx: &Ctx<'_>, is_forward: bool) -> Option<IterSpace> {
    let (image, grid) = (ctx.shape(0)?, ctx.shape(1)?);
    let rank = image.len();
    let batch = || {
        let mut access = vec![Access::Whole; rank];
        access[0] = Access::along(0);
        access
    };
    let mut axes = vec![parallel("n", image[0].clone())];
    if !is_forward {
        let outputs = vec![batch(); ctx.output_count()];
        let inputs = vec![batch(); 3];
        return Some(IterSpace { axes, inputs, outputs, part_attrs: Attrs::new(), padding: 0.0 });
    }
    axes.push(parallel("channel", image[1].clone()));
    axes.extend(grid[1..rank - 1].iter().map(|extent| parallel("place", extent.clone())));
    let (mut x, mut places) = (batch(), batch());
    x[1] = Access::along(1);
    (1..rank - 1).for_each(|d| places[d] = Access::along(d + 1));
    let y = (0..rank).map(Access::along).collect();
    Some(IterSpace {
        axes,
        inputs: vec![x, places],
        outputs: vec![y],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

/// Cubic convolution filter (Keys 1981) with coefficient -0.75: weights of the places -1, 0, 1 and 2 for a place `x`, and
/// their slopes.
fn cubic(x: f64) -> [(f64, f64); 4] {
    let a = -0.75;
    let near =
        |x: f64| (((a + 2.0) * x - (a + 3.0)) * x * x + 1.0, (3.0 * (a + 2.0) * x - 2.0 * (a + 3.0)) * x);
    let far = |x: f64| (((x - 5.0) * x + 8.0) * x * a - 4.0 * a, ((3.0 * x - 10.0) * x + 8.0) * a);
    // Those behind come nearer where `x` grows.
    let behind = |(weight, slope): (f64, f64)| (weight, -slope);
    [far(x + 1.0), near(x), behind(near(1.0 - x)), behind(far(2.0 - x))]
}

/// Mirrored at the borders until it lies within them; and 1 where it then moves as `x` does, -1 where against it.
fn reflect(x: f64, low: f64, high: f64) -> (f64, f64) {
    let range = high - low;
    if range <= 0.0 {
        return (low, 0.0);
    }
    let over = if x < low {
        low - x
    } else if x > high {
        x - high
    } else {
        return (x, 1.0);
    };
    let (turns, rest) = ((over / range).floor(), over % range);
    let is_even = turns % 2.0 == 0.0;
    (if is_even == (x < low) { low + rest } else { high - rest }, if is_even { -1.0 } else { 1.0 })
}

/// An element of one dimension, its weight in a sample, and what a step of the coordinate adds to the weight.
#[derive(Clone, Copy)]
struct Tap {
    at: usize,
    weight: f64,
    slope: f64,
}

struct Sampler<'a> {
    mode: &'a str,
    padding: &'a str,
    align: bool,
}

impl<'a> Sampler<'a> {
    fn new(attrs: &'a Attrs) -> Result<Self, String> {
        let sampler = Self {
            mode: attrs.str_or("mode", "linear"),
            padding: attrs.str_or("padding_mode", "zeros"),
            align: attrs.flag("align_corners"),
        };
        if !["linear", "nearest", "cubic"].contains(&sampler.mode) {
            return Err(format!("mode `{}` is unknown", sampler.mode));
        }
        if !["zeros", "border", "reflection"].contains(&sampler.padding) {
            return Err(format!("padding_mode `{}` is unknown", sampler.padding));
        }
        Ok(sampler)
    }
    fn border(&self, extent: usize) -> (f64, f64) {
        if self.align { (0.0, extent as f64 - 1.0) } else { (-0.5, extent as f64 - 0.5) }
    }
    /// The element at an integer place, or none where it is padding of zeros.
    fn index(&self, i: i64, extent: usize) -> Option<usize> {
        let last = extent as i64 - 1;
        match self.padding {
            _ if extent == 0 => None,
            "border" => Some(i.clamp(0, last) as usize),
            "reflection" => {
                let (low, high) = self.border(extent);
                Some((reflect(i as f64, low, high).0 as i64).clamp(0, last) as usize)
            }
            _ => (0..=last).contains(&i).then_some(i as usize),
        }
    }
    /// Elements with weights along one dimension.
    fn taps(&self, coordinate: f64, extent: usize) -> Vec<Tap> {
        let size = extent as f64;
        // Elements for each step of the coordinate.
        let mut pace = if self.align { (size - 1.0) / 2.0 } else { size / 2.0 };
        let mut x = if self.align {
            (coordinate + 1.0) / 2.0 * (size - 1.0)
        } else {
            ((coordinate + 1.0) * size - 1.0) / 2.0
        };
        if self.mode == "nearest" {
            (x, pace) = (x.round_ties_even(), 0.0);
        }
        let (low, high) = self.border(extent);
        if !(low..=high).contains(&x) {
            match self.padding {
                "border" => (x, pace) = (x.clamp(0.0, (size - 1.0).max(0.0)), 0.0),
                "reflection" => {
                    let (mirrored, along) = reflect(x, low, high);
                    (x, pace) = (mirrored, pace * along);
                }
                _ => {}
            }
        }
        let base = x.floor();
        let part = x - base;
        let (first, weights): (i64, Vec<(f64, f64)>) = match self.mode {
            "nearest" => (0, vec![(1.0, 0.0)]),
            "cubic" => (-1, cubic(part).to_vec()),
            _ => (0, vec![(1.0 - part, -1.0), (part, 1.0)]),
        };
        let taps = weights.into_iter().zip(first..).filter_map(|((weight, slope), i)| {
            let at = self.index((base as i64).saturating_add(i), extent)?;
            Some(Tap { at, weight, slope: slope * pace })
        });
        taps.collect()
    }
}

/// The product of taps of all dimensions: elements of an image with their weights. Along the dimension `sloping` slopes
/// take the place of weights.
fn joint(taps: &[Vec<Tap>], extents: &[usize], sloping: Option<usize>) -> Vec<(usize, f64)> {
    let mut joint = vec![(0_usize, 1.0_f64)];
    for (d, (taps, &extent)) in taps.iter().zip(extents).enumerate() {
        let factor = |tap: &Tap| if sloping == Some(d) { tap.slope } else { tap.weight };
        joint = joint
            .iter()
            .flat_map(|&(at, w)| taps.iter().map(move |tap| (at * extent + tap.at, w * factor(tap))))
            .collect();
    }
    joint
}

/// The taps of each place of a grid over images of these extents. Coordinates name the last dimension first.
fn each_place(
    ctx: &EvalCtx<'_>,
    extents: &[usize],
    mut each: impl FnMut(usize, &[Vec<Tap>]),
) -> Result<(), String> {
    let sampler = Sampler::new(ctx.attrs())?;
    let coordinates = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    for (place, coordinates) in coordinates.chunks_exact(extents.len()).enumerate() {
        let taps: Vec<Vec<Tap>> =
            coordinates.iter().rev().zip(extents).map(|(&c, &e)| sampler.taps(c, e)).collect();
        each(place, &taps);
    }
    Ok(())
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    rules::check(ctx)?;
    by_float!(ctx.tensor(0)?.dtype(), T => sample::<T>(ctx))
}

fn sample<T: Float>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let image = ctx.tensor(0)?;
    let values = T::read(image)?;
    let extents = &image.shape()[2..];
    let (channels, plane) = (shape[1], extents.iter().product::<usize>());
    let places: usize = shape[2..].iter().product();
    let mut out = vec![T::ZERO; element_count(dtype, &shape)?];
    each_place(ctx, extents, |place, taps| {
        let taps = joint(taps, extents, None);
        let (b, place) = (place / places, place % places);
        for c in b * channels..(b + 1) * channels {
            let source = &values[c * plane..][..plane];
            let sum: f64 = taps.iter().map(|&(at, w)| source[at].to_f64() * w).sum();
            out[c * places + place] = T::from_f64(sum);
        }
    })?;
    Ok(vec![T::tensor(dtype, shape, out).into()])
}

fn eval_gradient(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    rules::check(ctx)?;
    by_float!(ctx.tensor(0)?.dtype(), T => sample_back::<T>(ctx))
}

fn sample_back<T: Float>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let [image, grid, dy] = [ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?];
    let (values, dy_values) = (T::read(image)?, T::read(dy)?);
    let extents = &image.shape()[2..];
    let (channels, plane) = (image.shape()[1], extents.iter().product::<usize>());
    let places: usize = dy.shape()[2..].iter().product();
    let mut dx = vec![0.0; values.len()];
    let mut dgrid = Vec::new();
    each_place(ctx, extents, |place, taps| {
        let straight = joint(taps, extents, None);
        let (b, place) = (place / places, place % places);
        let all = b * channels..(b + 1) * channels;
        for c in all.clone() {
            let dy = dy_values[c * places + place].to_f64();
            straight.iter().for_each(|&(at, w)| dx[c * plane + at] += dy * w);
        }
        for d in (0..extents.len()).rev().filter(|_| ctx.wants(1)) {
            let sloping = joint(taps, extents, Some(d));
            let pull = |c: usize| {
                let sum: f64 = sloping.iter().map(|&(at, w)| values[c * plane + at].to_f64() * w).sum();
                sum * dy_values[c * places + place].to_f64()
            };
            dgrid.push(all.clone().map(pull).sum::<f64>());
        }
    })?;
    let mut made = vec![f64::tensor(image.dtype(), image.shape().to_vec(), dx).into()];
    if ctx.wants(1) {
        made.push(f64::tensor(grid.dtype(), grid.shape().to_vec(), dgrid).into());
    }
    Ok(made)
}

pub(super) fn gradient(b: &mut Backward<'_>) -> Done<()> {
    let inputs = vec![b.given(0), b.given(1), Some(b.dy0()?)];
    let attrs = b.attrs().clone();
    let outputs = if b.wants(1) { 2 } else { 1 };
    let made = b.ops(Op::GridSampleGrad, &inputs, attrs, outputs)?;
    for (i, gradient) in made.into_iter().enumerate() {
        b.give(i, gradient);
    }
    Ok(())
}
