//! Ops of the family `resampling`: images at other sizes and other places.

mod gradient;
mod grid;
mod resize;
mod sample;

use super::{AttrDef, Class, Op, OpDef, Port, Work, opt, req};
use crate::{AttrKind, Dim};

const RESIZE_GRAD_ATTRS: &[AttrDef] = &[
    opt("antialias", AttrKind::Int, "1 to widen the filter when making smaller; 0."),
    opt("axes", AttrKind::Ints, "Dimensions that roi, scales and sizes are for; all."),
    opt(
        "coordinate_transformation_mode",
        AttrKind::Str,
        "Which place of the input an output element lies at; `half_pixel`.",
    ),
    opt("cubic_coeff_a", AttrKind::Float, "Coefficient of the cubic filter; -0.75."),
    opt(
        "exclude_outside",
        AttrKind::Int,
        "1 to give no weight to places outside; 0: they repeat the border.",
    ),
    opt(
        "extrapolation_value",
        AttrKind::Float,
        "What lies outside of the roi of `tf_crop_and_resize`; 0.",
    ),
    opt(
        "keep_aspect_ratio_policy",
        AttrKind::Str,
        "`stretch`, `not_larger` or `not_smaller` than sizes; `stretch`.",
    ),
    opt("mode", AttrKind::Str, "`nearest`, `linear` or `cubic`; `nearest`."),
    opt(
        "nearest_mode",
        AttrKind::Str,
        "`round_prefer_floor`, `round_prefer_ceil`, `floor` or `ceil`; `round_prefer_floor`.",
    ),
    req("extents", AttrKind::Ints, "Extents of what was resized; -1 where they are the gradient's."),
];
/// All but the last, which the gradient has alone.
const RESIZE_ATTRS: &[AttrDef] = RESIZE_GRAD_ATTRS.split_at(RESIZE_GRAD_ATTRS.len() - 1).0;

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("X"), Port::Optional("roi"), Port::Optional("scales"), Port::Optional("sizes")],
        outputs: &[Port::One("Y")],
        attrs: RESIZE_ATTRS,
        class: Class::Rounding,
        infer: resize::infer,
        work: |ctx| Work::vector(ctx.output_elements(0) * Dim::Known(8), Dim::Known(0)),
        space: resize::cut,
        eval: resize::evaluate,
        ..OpDef::new(
            Op::Resize,
            "Changes the extents of a tensor, each output element taken or interpolated from its place.",
        )
    }
    .gradient(gradient::resize),
    OpDef {
        inputs: &[Port::One("dY"), Port::Optional("roi"), Port::Optional("scales"), Port::Optional("sizes")],
        outputs: &[Port::One("dX")],
        attrs: RESIZE_GRAD_ATTRS,
        class: Class::Rounding,
        infer: resize::gradient_infer,
        work: |ctx| Work::vector(ctx.input_elements(0) * Dim::Known(8), Dim::Known(0)),
        space: resize::cut_elsewhere,
        eval: resize::gradient,
        ..OpDef::new(
            Op::ResizeGrad,
            "Gradient of Resize: each element goes back to the places that it was interpolated from.",
        )
    },
    sample::GRID_SAMPLE.gradient(sample::gradient),
    sample::GRID_SAMPLE_GRAD,
    OpDef {
        inputs: &[Port::One("theta"), Port::One("size")],
        outputs: &[Port::One("grid")],
        attrs: &[sample::ALIGN_CORNERS],
        class: Class::Rounding,
        infer: grid::affine_infer,
        work: |ctx| Work::vector(ctx.output_elements(0) * Dim::Known(4), Dim::Known(0)),
        eval: grid::affine,
        ..OpDef::new(
            Op::AffineGrid,
            "The places that an affine map sends the elements of an image of a size to.",
        )
    }
    .gradient(gradient::affine_grid),
    OpDef {
        inputs: &[Port::One("input"), Port::One("image_shape"), Port::One("block_shape")],
        attrs: &[
            opt("dilations", AttrKind::Ints, "Steps between the elements of a block; 1."),
            opt("pads", AttrKind::Ints, "Padding in front of and behind each dimension; 0."),
            opt("strides", AttrKind::Ints, "Steps between blocks; 1."),
        ],
        class: Class::Rounding,
        infer: grid::col2im_infer,
        work: |ctx| Work::vector(ctx.input_elements(0), Dim::Known(0)),
        eval: grid::col2im,
        ..OpDef::new(Op::Col2Im, "Adds overlapping blocks, given as columns, up to an image.")
    }
    .gradient(gradient::col2im),
];
