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

pub(super) const MAX_ROI_POOL: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("rois")],
    outputs: &[Port::One("Y")],
    attrs: &[req("pooled_shape", AttrKind::Ints, "Height and width of the output."), SPATIAL_SCALE],
    infer: |ctx| {
        let [height, width] = pooled_shape(ctx.attrs())?;
        infer(ctx, 5, height, width)
    },
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
    attrs: &[
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
    ],
    class: Class::Rounding,
    infer: |ctx| {
        align_attrs(ctx.attrs())?;
        rules::of_type(ctx, [2], DType::I64)?;
        let regions = ctx.shape(1).and_then(|s| s.first().cloned());
        if let Some(regions) = regions {
            rules::has_shape(ctx, 2, &[regions])?;
        }
        infer(ctx, 4, ctx.attrs().int_or("output_height", 1), ctx.attrs().int_or("output_width", 1))
    },
    // Four products and sums for each sample; how many samples a cell has may depend on the region: at least one.
    work: |ctx| {
        let samples = ctx.attrs().int_or("sampling_ratio", 0).max(1);
        let samples = ctx.output_elements(0) * Dim::Known(samples) * Dim::Known(samples);
        Work::vector(samples * Dim::Known(8), ctx.output_elements(0))
    },
    space,
    eval: roi_align,
    ..OpDef::new(
        Op::RoiAlign,
        "Mean or maximum of samples, interpolated linearly, in each cell of a grid over each region [x1, y1, x2, y2].",
    )
};

fn pooled_shape(attrs: &Attrs) -> Result<[i64; 2], String> {
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

fn image_index(index: f64, images: usize) -> Result<usize, String> {
    if index >= 0.0 && index < images as f64 {
        Ok(index as usize)
    } else {
        Err(format!("a region is of image {index}, there are {images}"))
    }
}

fn max_roi_pool(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let [images, channels, height, width] = [0, 1, 2, 3].map(|d| x.shape()[d]);
    let scale = ctx.attrs().float_or("spatial_scale", 1.0);
    let rois = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    Ok(vec![
        by_float!(dtype, T => {
            let x = T::read(x)?;
            let mut out = Vec::with_capacity(shape.iter().product());
            for roi in rois.chunks_exact(5) {
                let image = image_index(roi[0], images)?;
                let [x1, y1, x2, y2] = [1, 2, 3, 4].map(|i| (roi[i] * scale).round());
                // The pixels from..to of cell `i` of `cells`.
                let cell = |start: f64, end: f64, i: usize, cells: usize, extent: usize| {
                    let size = (end - start + 1.0).max(1.0) / cells as f64;
                    let clamp = |at: f64| (at + start).clamp(0.0, extent as f64) as usize;
                    (clamp((i as f64 * size).floor()), clamp(((i + 1) as f64 * size).ceil()))
                };
                for c in 0..channels {
                    let plane = &x[(image * channels + c) * height * width..];
                    for row in 0..shape[2] {
                        let (top, bottom) = cell(y1, y2, row, shape[2], height);
                        for column in 0..shape[3] {
                            let (left, right) = cell(x1, x2, column, shape[3], width);
                            out.push(if top < bottom && left < right {
                                let pixels = (top..bottom)
                                    .flat_map(|y| plane[y * width + left..y * width + right].iter().copied());
                                Pool::Max.gather(pixels, 1)
                            } else {
                                T::ZERO
                            });
                        }
                    }
                }
            }
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

/// Four places of a channel with their weights: a sample between pixels.
type Sample = [(usize, f64); 4];

/// The sample at a place, all weights nought where it lies outside of the image.
fn sample(y: f64, x: f64, height: usize, width: usize) -> Sample {
    let outside = |at: f64, extent: usize| !(-1.0..=extent as f64).contains(&at);
    if outside(y, height) || outside(x, width) {
        return [(0, 0.0); 4];
    }
    // The pixels before and behind, and the distance from the one before.
    let between = |at: f64, extent: usize| {
        let at = at.max(0.0);
        let low = at as usize;
        if low + 1 >= extent { (extent - 1, extent - 1, 0.0) } else { (low, low + 1, at - low as f64) }
    };
    let ((top, bottom, dy), (left, right, dx)) = (between(y, height), between(x, width));
    [
        (top * width + left, (1.0 - dy) * (1.0 - dx)),
        (top * width + right, (1.0 - dy) * dx),
        (bottom * width + left, dy * (1.0 - dx)),
        (bottom * width + right, dy * dx),
    ]
}

fn roi_align(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let [images, channels, height, width] = [0, 1, 2, 3].map(|d| x.shape()[d]);
    let attrs = ctx.attrs();
    let scale = attrs.float_or("spatial_scale", 1.0);
    let half = attrs.str_or("coordinate_transformation_mode", "half_pixel") == "half_pixel";
    let ratio = attrs.int_or("sampling_ratio", 0);
    let largest = attrs.str_or("mode", "avg") == "max";
    let rois = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    let indices = integers(ctx.tensor(2)?)?;
    if height == 0 || width == 0 {
        return Err("the images are empty".into());
    }
    Ok(vec![by_float!(dtype, T => {
        let x = T::read(x)?;
        let mut out = Vec::with_capacity(shape.iter().product());
        for (roi, &image) in rois.chunks_exact(4).zip(indices.iter()) {
            let image = image_index(image as f64, images)?;
            let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|i| roi[i] * scale - if half { 0.5 } else { 0.0 });
            let least = if half { f64::NEG_INFINITY } else { 1.0 };
            let cell = [(y2 - y1).max(least) / shape[2] as f64, (x2 - x1).max(least) / shape[3] as f64];
            let mut counts = [0; 2];
            for (count, size) in counts.iter_mut().zip(cell) {
                *count = if ratio > 0 { ratio as usize } else { size.ceil().max(0.0) as usize };
                if *count > 4096 {
                    return Err(format!("region {roi:?} has {count} samples in a cell, at most 4096 are taken"));
                }
            }
            let mut cells: Vec<Vec<Sample>> = Vec::with_capacity(shape[2] * shape[3]);
            for row in 0..shape[2] {
                for column in 0..shape[3] {
                    let places = (0..counts[0]).flat_map(|iy| (0..counts[1]).map(move |ix| (iy, ix)));
                    let at = |start: f64, cell: f64, i: usize, k: usize, count: usize| {
                        start + i as f64 * cell + (k as f64 + 0.5) * cell / count as f64
                    };
                    let samples = places.map(|(iy, ix)| {
                        let y = at(y1, cell[0], row, iy, counts[0]);
                        sample(y, at(x1, cell[1], column, ix, counts[1]), height, width)
                    });
                    cells.push(samples.collect());
                }
            }
            for c in 0..channels {
                let plane = &x[(image * channels + c) * height * width..];
                for samples in &cells {
                    let weighted = samples.iter().map(|s| s.map(|(at, weight)| plane[at] * T::from_f64(weight)));
                    out.push(if samples.is_empty() {
                        T::ZERO
                    } else if largest {
                        // The largest weighted pixel, not the largest interpolated value: so ONNX has it.
                        Pool::Max.gather(weighted.flatten(), 1)
                    } else {
                        weighted.flatten().sum::<T>() / T::from_f64(samples.len() as f64)
                    });
                }
            }
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}
