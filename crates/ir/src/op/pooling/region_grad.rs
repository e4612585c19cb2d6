//! Gradients of pooling over regions of interest.

use super::super::elements::{Float, by_float, integers};
use super::super::space::parallel;
use super::super::{Access, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, rules};
use super::region::{
    ALIGN_ATTRS, Align, POOL_ATTRS, align_infer, image_index, pool_infer, pooled_cells, sampled,
};
use crate::gradient::Backward;
use crate::{Attrs, Dim};
use orrery_base::Result as Done;

pub(super) const MAX_ROI_POOL_GRAD: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("rois"), Port::One("dY")],
    outputs: &[Port::One("dX")],
    attrs: POOL_ATTRS,
    class: Class::Rounding,
    infer: |ctx| gradients(ctx, &pool_infer(ctx)?, 2),
    // Every element of a region is compared about once, and one of each cell added to.
    work: |ctx| Work::vector(ctx.input_elements(2) * Dim::Known(2), Dim::Known(0)),
    space: |ctx| space(ctx, 2),
    eval: max_roi_pool,
    ..OpDef::new(
        Op::MaxRoiPoolGrad,
        "Gradient of MaxRoiPool: what comes back for a cell goes to the first of its largest elements.",
    )
};

pub(super) const ROI_ALIGN_GRAD: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("rois"), Port::One("batch_indices"), Port::One("dY")],
    outputs: &[Port::One("dX"), Port::Optional("drois")],
    attrs: ALIGN_ATTRS,
    class: Class::Rounding,
    infer: |ctx| gradients(ctx, &align_infer(ctx)?, 3),
    // As forward for the image, and for each of a region's four numbers.
    work: |ctx| {
        let sides = if ctx.output_count() > 1 { 5 } else { 1 };
        let cells = ctx.input_elements(3);
        Work::vector(cells.clone() * sampled(ctx.attrs()) * Dim::Known(sides), cells)
    },
    space: |ctx| space(ctx, 3),
    eval: roi_align,
    ..OpDef::new(
        Op::RoiAlignGrad,
        "Gradients of the image and of the regions of RoiAlign: what comes back for a cell goes to the pixels that its \
         samples were interpolated from, and moves the region's borders.",
    )
};

/// Images and regions, where the gradient at input `dy` is as the op's output `y`.
fn gradients(ctx: &Ctx<'_>, y: &[Fact], dy: usize) -> Result<Vec<Fact>, String> {
    rules::of_type(ctx, [dy], rules::float(ctx, 0)?)?;
    if let Some(shape) = y.first().and_then(|y| y.ty.as_tensor()).and_then(|ty| ty.shape.as_ref()) {
        rules::has_shape(ctx, dy, shape)?;
    }
    let own = |i: usize| Ok::<_, String>(Fact::of(ctx.fact(i).ok_or("an input is missing")?.ty.clone()));
    Ok(vec![own(0)?, own(1)?])
}

/// Along channels: regions that overlap add to the same pixels. All channels add to the gradient of a region.
fn space(ctx: &Ctx<'_>, dy: usize) -> Option<IterSpace> {
    if ctx.output_count() > 1 {
        return None;
    }
    let channels = || vec![Access::Whole, Access::along(0), Access::Whole, Access::Whole];
    let mut inputs = vec![channels(), vec![Access::Whole; 2]];
    inputs.resize(dy, vec![Access::Whole]);
    inputs.push(channels());
    Some(IterSpace {
        axes: vec![parallel("channel", ctx.shape(0)?[1].clone())],
        inputs,
        outputs: vec![channels()],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

fn max_roi_pool(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let [images, channels, height, width] = [0, 1, 2, 3].map(|d| shape[d]);
    let scale = ctx.attrs().float_or("spatial_scale", 1.0);
    let rois = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    let dy = ctx.tensor(2)?;
    let pooled = [dy.shape()[2], dy.shape()[3]];
    Ok(vec![by_float!(dtype, T => {
        let (x, dy) = (T::read(ctx.tensor(0)?)?, T::read(dy)?);
        let mut back = dy.iter().copied();
        let mut out = vec![T::ZERO; x.len()];
        for roi in rois.chunks_exact(5) {
            let image = image_index(roi[0], images)?;
            let cells = pooled_cells(roi, scale, pooled, [height, width]);
            for plane in (image * channels..(image + 1) * channels).map(|c| c * height * width) {
                for (&[top, bottom, left, right], dy) in cells.iter().zip(&mut back) {
                    let pixels = (top..bottom).flat_map(|y| (left..right).map(move |x| plane + y * width + x));
                    let largest = pixels.reduce(|most, at| if x[at] > x[most] { at } else { most });
                    if let Some(at) = largest {
                        out[at] += dy;
                    }
                }
            }
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}

fn roi_align(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let (dtype, shape) = types[0].clone();
    let [images, channels, height, width] = [0, 1, 2, 3].map(|d| shape[d]);
    let dy = ctx.tensor(3)?;
    let align = Align::new(ctx.attrs(), [dy.shape()[2], dy.shape()[3]], [height, width])?;
    let rois = ctx.tensor(1)?.to_f64().map_err(|e| e.to_string())?;
    let indices = integers(ctx.tensor(2)?)?;
    let mut drois = vec![0.0; rois.len()];
    let dx = by_float!(dtype, T => {
        let (x, dy) = (T::read(ctx.tensor(0)?)?, T::read(dy)?);
        let mut back = dy.iter().copied();
        let mut out = vec![T::ZERO; x.len()];
        for ((roi, droi), &image) in
            rois.chunks_exact(4).zip(drois.chunks_exact_mut(4)).zip(indices.iter())
        {
            let image = image_index(image as f64, images)?;
            let cells = align.cells(roi)?;
            for plane in (image * channels..(image + 1) * channels).map(|c| c * height * width) {
                for (taps, dy) in cells.iter().zip(&mut back) {
                    let weighted = |i: usize| x[plane + taps[i].at] * T::from_f64(taps[i].weight);
                    let (those, share) = if align.largest {
                        let most = (0..taps.len()).reduce(|most, i| if weighted(i) > weighted(most) { i } else { most });
                        (most.map_or(0..0, |i| i..i + 1), 1.0)
                    } else {
                        (0..taps.len(), 4.0 / taps.len() as f64)
                    };
                    for tap in &taps[those] {
                        let at = plane + tap.at;
                        out[at] += dy * T::from_f64(tap.weight * share);
                        for (droi, slope) in droi.iter_mut().zip(tap.slopes) {
                            *droi += dy.to_f64() * x[at].to_f64() * slope * share;
                        }
                    }
                }
            }
        }
        T::tensor(dtype, shape, out)
    });
    let mut made = vec![dx.into()];
    if ctx.wants(1) {
        made.push(f64::tensor(types[1].0, types[1].1.clone(), drois).into());
    }
    Ok(made)
}

/// Borders of regions are rounded to pixels: what comes back for them is nothing.
pub(super) fn max_roi_pool_gradient(b: &mut Backward<'_>) -> Done<()> {
    if b.wants(0) {
        let (inputs, attrs) = ([b.x(0)?, b.x(1)?, b.dy0()?], b.attrs().clone());
        let dx = b.op(Op::MaxRoiPoolGrad, &inputs, attrs)?;
        b.give(0, dx);
    }
    Ok(())
}

pub(super) fn roi_align_gradient(b: &mut Backward<'_>) -> Done<()> {
    let inputs = [b.x(0)?, b.x(1)?, b.x(2)?, b.dy0()?].map(Some);
    let attrs = b.attrs().clone();
    let outputs = if b.wants(1) { 2 } else { 1 };
    let made = b.ops(Op::RoiAlignGrad, &inputs, attrs, outputs)?;
    for (i, gradient) in made.into_iter().enumerate() {
        b.give(i, gradient);
    }
    Ok(())
}
