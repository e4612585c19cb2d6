//! Pooling over regions of interest.

use super::super::elements::{Float, by_float, integers};
use super::super::space::parallel;
use super::super::{
    Access, AttrDef, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, req, rules,
};
use super::Pool;
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::DType;

const SPATIAL_SCALE: AttrDef =
    opt("spatial_scale", AttrKind::Float, "Factor from the regions' coordinates to the image's; 1.");

/// Of pooling whole pixels.
pub(super) const POOL_ATTRS: &[AttrDef] =
    &[req("pooled_shape", AttrKind::Ints, "Height and width of the output."), SPATIAL_SCALE];

/// Of aligned samples.
pub(super) const ALIGN_ATTRS: &[AttrDef] = &[
    opt(
        "coordinate_transformation_mode",
        AttrKind::Str,
        "`half_pixel`: half a pixel is taken off coordinates; `output_half_pixel`: not; `half_pixel`.",
    ),
    opt("mode", AttrKind::Str, "`avg` or `max` over the samples of a cell; `avg`."),
    opt("output_height", AttrKind::Int, "Height of the output; 1."),
    opt("output_width", AttrKind::Int, "Width of the output; 1."),
    opt(
        "sampling_ratio",
        AttrKind::Int,
        "Samples of a cell in each direction; 0: one for each pixel of it.",
    ),
    SPATIAL_SCALE,
];

pub(super) const MAX_ROI_POOL: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("rois")],
    outputs: &[Port::One("Y")],
    attrs: POOL_ATTRS,
    infer: pool_infer,
    // Every element of a region is compared about once.
    work: |ctx| Work::vector(ctx.output_elements(0), Dim::Known(0)),
    space,
    eval: max_roi_pool,
    ..OpDef::new(
        Op::MaxRoiPool,
        "The largest element in each cell of a grid over each region [image, x1, y1, x2, y2], borders rounded.",
    )
};

pub(super) const ROI_ALIGN: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("rois"), Port::One("batch_indices")],
    outputs: &[Port::One("Y")],
    attrs: ALIGN_ATTRS,
    class: Class::Rounding,
    infer: align_infer,
    work: |ctx| {
        let out = ctx.output_elements(0);
        Work::vector(out.clone() * sampled(ctx.attrs()), out)
    },
    space,
    eval: roi_align,
    ..OpDef::new(
        Op::RoiAlign,
        "Mean or maximum of samples, interpolated linearly, in each cell of a grid over each region [x1, y1, x2, y2].",
    )
};

pub(super) fn pooled_shape(attrs: &Attrs) -> Result<[i64; 2], String> {
    match attrs.ints("pooled_shape") {
        Some([height, width]) => Ok([*height, *width]),
        other => Err(format!("attribute `pooled_shape` must be height and width, is {other:?}")),
    }
}

fn align_attrs(attrs: &Attrs) -> Result<(), String> {
    let choices: [(&str, &str, &[&str]); 2] = [
        ("coordinate_transformation_mode", "half_pixel", &["half_pixel", "output_half_pixel"]),
        ("mode", "avg", &["avg", "max"]),
    ];
    for (name, default, allowed) in choices {
        let given = attrs.str_or(name, default);
        if !allowed.contains(&given) {
            return Err(format!("attribute `{name}` is `{given}`, must be one of {}", allowed.join(", ")));
        }
    }
    match attrs.int_or("sampling_ratio", 0) {
        0..=4096 => Ok(()),
        ratio => Err(format!("attribute `sampling_ratio` is {ratio}, must be between 0 and 4096")),
    }
}

pub(super) fn pool_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let [height, width] = pooled_shape(ctx.attrs())?;
    infer(ctx, 5, height, width)
}

pub(super) fn align_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    align_attrs(ctx.attrs())?;
    rules::of_type(ctx, [2], DType::I64)?;
    let regions = ctx.shape(1).and_then(|s| s.first().cloned());
    if let Some(regions) = regions {
        rules::has_shape(ctx, 2, &[regions])?;
    }
    infer(ctx, 4, ctx.attrs().int_or("output_height", 1), ctx.attrs().int_or("output_width", 1))
}

/// Products and sums for a cell: four of each for a sample. How many samples a cell has may depend on the region: at least
/// one.
pub(super) fn sampled(attrs: &Attrs) -> Dim {
    let samples = attrs.int_or("sampling_ratio", 0).max(1);
    Dim::Known(samples) * Dim::Known(samples) * Dim::Known(8)
}

fn infer(ctx: &Ctx<'_>, columns: i64, height: i64, width: i64) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1], dtype)?;
    for (what, extent) in [("height", height), ("width", width)] {
        if !(1..=i64::from(i32::MAX)).contains(&extent) {
            return Err(format!("the output's {what} is {extent}, must be at least 1"));
        }
    }
    let x = rules::ranked(ctx, 0, 4)?;
    let rois = rules::ranked(ctx, 1, 2)?;
    if let Some(rois) = &rois {
        rules::equal(&rois[1], &Dim::Known(columns), || "a region's numbers and what the op needs".into())?;
    }
    let regions = rois.map_or_else(|| ctx.unknown_dim(0, 0), |s| s[0].clone());
    let channels = x.map_or_else(|| ctx.unknown_dim(0, 1), |s| s[1].clone());
    Ok(vec![Fact::tensor(dtype, vec![regions, channels, Dim::Known(height), Dim::Known(width)])])
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let out = ctx.output_shape(0)?;
    let mut inputs = vec![
        vec![Access::Whole, Access::along(1), Access::Whole, Access::Whole],
        vec![Access::along(0), Access::Whole],
    ];
    inputs.resize(ctx.input_count(), vec![Access::along(0)]);
    Some(IterSpace {
        axes: vec![parallel("region", out[0].clone()), parallel("channel", out[1].clone())],
        inputs,
        outputs: vec![vec![Access::along(0), Access::along(1), Access::Whole, Access::Whole]],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

pub(super) fn image_index(index: f64, images: usize) -> Result<usize, String> {
    if index >= 0.0 && index < images as f64 {
        Ok(index as usize)
    } else {
        Err(format!("a region is of image {index}, there are {images}"))
    }
}

/// The pixels of a region's cells, row by row: from and to in height, from and to in width.
pub(super) fn pooled_cells(roi: &[f64], scale: f64, cells: [usize; 2], extents: [usize; 2]) -> Vec<[usize; 4]> {
    let [x1, y1, x2, y2] = [1, 2, 3, 4].map(|i| (roi[i] * scale).round());
    let cell = |start: f64, end: f64, i: usize, cells: usize, extent: usize| {
        let size = (end - start + 1.0).max(1.0) / cells as f64;
        let clamp = |at: f64| (at + start).clamp(0.0, extent as f64) as usize;
        (clamp((i as f64 * size).floor()), clamp(((i + 1) as f64 * size).ceil()))
    };
    let mut found = Vec::with_capacity(cells[0] * cells[1]);
    for row in 0..cells[0] {
        let (top, bottom) = cell(y1, y2, row, cells[0], extents[0]);
        for column in 0..cells[1] {
            let (left, right) = cell(x1, x2, column, cells[1], extents[1]);
            found.push([top, bottom, left, right]);
        }
    }
    found
}

fn max_roi_pool(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let [images, channels, height, width] = [0, 1, 2, 3].map(|d| x.shape()[d]);
    let scale = ctx.attrs().float_or("spatial_scale", 1.0);
    let rois = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    Ok(vec![by_float!(dtype, T => {
        let x = T::read(x)?;
        let mut out = Vec::with_capacity(shape.iter().product());
        for roi in rois.chunks_exact(5) {
            let image = image_index(roi[0], images)?;
            let cells = pooled_cells(roi, scale, [shape[2], shape[3]], [height, width]);
            for c in 0..channels {
                let plane = &x[(image * channels + c) * height * width..];
                out.extend(cells.iter().map(|&[top, bottom, left, right]| {
                    if top >= bottom || left >= right {
                        return T::ZERO;
                    }
                    let pixels =
                        (top..bottom).flat_map(|y| plane[y * width + left..y * width + right].iter().copied());
                    Pool::Max.gather(pixels, 1)
                }));
            }
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}

/// A pixel that a sample is interpolated from.
pub(super) struct Tap {
    pub(super) at: usize,
    pub(super) weight: f64,
    /// What steps of the region's x1, y1, x2 and y2 add to the weight.
    pub(super) slopes: [f64; 4],
}

/// The pixels of one dimension around a place.
struct Side {
    /// Those before and behind, with their weights and what a step of the place adds to them.
    pixels: [(usize, f64, f64); 2],
    /// What steps of the region's two ends add to the place.
    moves: [f64; 2],
}

/// How regions are sampled.
pub(super) struct Align {
    scale: f64,
    half: bool,
    ratio: i64,
    /// True where a cell is the largest of its samples.
    pub(super) largest: bool,
    cells: [usize; 2],
    extents: [usize; 2],
}

impl Align {
    /// Of so many cells in height and width over images of those extents.
    pub(super) fn new(attrs: &Attrs, cells: [usize; 2], extents: [usize; 2]) -> Result<Self, String> {
        if extents.contains(&0) {
            return Err("the images are empty".into());
        }
        Ok(Self {
            scale: attrs.float_or("spatial_scale", 1.0),
            half: attrs.str_or("coordinate_transformation_mode", "half_pixel") == "half_pixel",
            ratio: attrs.int_or("sampling_ratio", 0),
            largest: attrs.str_or("mode", "avg") == "max",
            cells,
            extents,
        })
    }
    /// For each cell of a dimension its samples, none for those outside of the image; or how many too many there are.
    fn sides(&self, from: f64, to: f64, dimension: usize) -> Result<Vec<Vec<Option<Side>>>, usize> {
        let (cells, extent) = (self.cells[dimension], self.extents[dimension]);
        let [from, to] = [from, to].map(|end| end * self.scale - if self.half { 0.5 } else { 0.0 });
        let least = if self.half { f64::NEG_INFINITY } else { 1.0 };
        let size = (to - from).max(least) / cells as f64;
        let count = if self.ratio > 0 { self.ratio as usize } else { size.ceil().max(0.0) as usize };
        if count > 4096 {
            return Err(count);
        }
        let side = |i: usize, k: usize| {
            let at = from + i as f64 * size + (k as f64 + 0.5) * size / count as f64;
            if !(-1.0..=extent as f64).contains(&at) {
                return None;
            }
            let low = at.max(0.0) as usize;
            let (high, share, slope) = match at {
                _ if low + 1 >= extent => (extent - 1, 0.0, 0.0),
                _ if at < 0.0 => (low + 1, 0.0, 0.0),
                _ => (low + 1, at - low as f64, 1.0),
            };
            let way = (i as f64 + (k as f64 + 0.5) / count as f64) / cells as f64;
            let moves = if to - from > least { [1.0 - way, way] } else { [1.0, 0.0] };
            Some(Side {
                pixels: [(low.min(extent - 1), 1.0 - share, -slope), (high, share, slope)],
                moves: moves.map(|step| step * self.scale),
            })
        };
        Ok((0..cells).map(|i| (0..count).map(|k| side(i, k)).collect()).collect())
    }
    /// For each cell of a region, row by row, the taps of its samples, four of each.
    pub(super) fn cells(&self, roi: &[f64]) -> Result<Vec<Vec<Tap>>, String> {
        let wrong = |count| format!("region {roi:?} has {count} samples in a cell, at most 4096 are taken");
        let rows = self.sides(roi[1], roi[3], 0).map_err(wrong)?;
        let columns = self.sides(roi[0], roi[2], 1).map_err(wrong)?;
        let width = self.extents[1];
        let sample = |y: &Option<Side>, x: &Option<Side>| {
            let (Some(y), Some(x)) = (y, x) else {
                return [0; 4].map(|at| Tap { at, weight: 0.0, slopes: [0.0; 4] });
            };
            [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(i, j)| {
                let ((row, down, fall), (column, across, rise)) = (y.pixels[i], x.pixels[j]);
                let (by_x, by_y) = (down * rise, across * fall);
                let slopes = [by_x * x.moves[0], by_y * y.moves[0], by_x * x.moves[1], by_y * y.moves[1]];
                Tap { at: row * width + column, weight: down * across, slopes }
            })
        };
        let cell = |ys: &[Option<Side>], xs: &[Option<Side>]| -> Vec<Tap> {
            ys.iter().flat_map(|y| xs.iter().flat_map(move |x| sample(y, x))).collect()
        };
        Ok(rows.iter().flat_map(|ys| columns.iter().map(move |xs| cell(ys, xs))).collect())
    }
}

fn roi_align(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let [images, channels, height, width] = [0, 1, 2, 3].map(|d| x.shape()[d]);
    let align = Align::new(ctx.attrs(), [shape[2], shape[3]], [height, width])?;
    let rois = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    let indices = integers(ctx.tensor(2)?)?;
    Ok(vec![by_float!(dtype, T => {
        let x = T::read(x)?;
        let mut out = Vec::with_capacity(shape.iter().product());
        for (roi, &image) in rois.chunks_exact(4).zip(indices.iter()) {
            let image = image_index(image as f64, images)?;
            let cells = align.cells(roi)?;
            for c in 0..channels {
                let plane = &x[(image * channels + c) * height * width..];
                for taps in &cells {
                    let weighted = taps.iter().map(|tap| plane[tap.at] * T::from_f64(tap.weight));
                    out.push(if taps.is_empty() {
                        T::ZERO
                    } else if align.largest {
                        // The largest weighted pixel, not the largest interpolated value: so ONNX has it.
                        Pool::Max.gather(weighted, 1)
                    } else {
                        weighted.sum::<T>() / T::from_f64((taps.len() / 4) as f64)
                    });
                }
            }
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}
