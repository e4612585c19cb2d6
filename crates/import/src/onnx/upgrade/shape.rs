//! Upgrades of operators that move data: most turn attributes into inputs.

use super::super::call::Call;
use super::super::import::Import;
use super::super::operators::Done;
use super::super::tensor::read_tensor;
use orrery_base::Result;
use orrery_ir::{Attrs, Op};
use orrery_numerics::Tensor;

/// The op of the call's own name.
pub(super) fn same(call: &Call<'_>) -> Done {
    match Op::parse(call.operator) {
        Some(op) => Done::Becomes(op),
        None => Done::Cannot(format!("the op table has no {}", call.operator)),
    }
}

/// Attribute `name` as a constant vector at input `at`.
fn ints_input<'m>(import: &mut Import<'m>, call: &mut Call<'m>, name: &str, at: usize) -> Result<()> {
    if let Some(values) = call.take_ints(name)? {
        let input = import.build.ints(call, name, &values);
        call.set_input(at, input);
    }
    Ok(())
}

/// Reductions, Squeeze and Unsqueeze took their axes as attribute.
pub(in super::super) fn axes_input<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    ints_input(import, call, "axes", 1)?;
    Ok(same(call))
}

/// Concat 1: the axis may be left out.
pub(in super::super) fn concat<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let axis = call.take_int("axis")?.unwrap_or(1);
    call.set.set("axis", axis);
    Ok(Done::Becomes(Op::Concat))
}

/// Reshape 1: the shape is an attribute.
pub(in super::super) fn reshape<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    ints_input(import, call, "shape", 1)?;
    Ok(Done::Becomes(Op::Reshape))
}

/// Slice 1: bounds and axes are attributes.
pub(in super::super) fn slice<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    for (at, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        ints_input(import, call, name, at)?;
    }
    Ok(Done::Becomes(Op::Slice))
}

/// Split before 18: the number of parts is the number of outputs; before 13 the lengths are an attribute.
pub(in super::super) fn split<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    ints_input(import, call, "split", 1)?;
    if call.input(1).is_none() {
        call.set.set("num_outputs", call.outputs.len() as i64);
    }
    Ok(Done::Becomes(Op::Split))
}

/// Pad 1 and 2: amounts and value are attributes.
pub(in super::super) fn pad<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let data = call.needed(0)?;
    ints_input(import, call, if call.version < 2 { "paddings" } else { "pads" }, 1)?;
    if let Some(value) = call.take_float("value")? {
        let value = import.build.scalar_like(call, "value", value, data);
        call.set_input(2, value);
    }
    Ok(Done::Becomes(Op::Pad))
}

/// TopK 1: `k` is an attribute.
pub(in super::super) fn top_k<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let k = call.take_int("k")?.ok_or_else(|| call.lacks("k"))?;
    let k = import.build.ints(call, "k", &[k]);
    call.set_input(1, k);
    Ok(Done::Becomes(Op::TopK))
}

/// Scatter was given its full name.
pub(in super::super) fn scatter<'m>(_: &mut Import<'m>, _: &mut Call<'m>) -> Result<Done> {
    Ok(Done::Becomes(Op::ScatterElements))
}

/// GridSample 16: other names of the modes.
pub(in super::super) fn grid_sample<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    if let Some(mode) = call.take_str("mode")? {
        let mode = match mode.as_str() {
            "bilinear" => "linear",
            "bicubic" => "cubic",
            other => other,
        };
        call.set.set("mode", mode);
    }
    Ok(Done::Becomes(Op::GridSample))
}

/// RoiAlign 10: pixels are not at half coordinates.
pub(in super::super) fn roi_align<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    call.set.set("coordinate_transformation_mode", "output_half_pixel");
    Ok(Done::Becomes(Op::RoiAlign))
}

/// DFT 17: the axis is an attribute, the second dimension unless said otherwise.
pub(in super::super) fn dft<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let axis = call.take_int("axis")?.unwrap_or(1);
    let name = import.build.step_name(call, "axis");
    let axis = import.build.constant(&name, Tensor::scalar(axis));
    call.set_input(2, axis);
    Ok(Done::Becomes(Op::DFT))
}

/// Resize 10: scales are the only second input; coordinates are asymmetric, the nearest is the one below.
pub(in super::super) fn resize_by_scales<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let scales = call.needed(1)?;
    call.inputs[1] = None;
    call.set_input(2, scales);
    call.set.set("coordinate_transformation_mode", "asymmetric");
    call.set.set("nearest_mode", "floor");
    Ok(Done::Becomes(Op::Resize))
}

/// Resize 11: empty tensors stand for inputs that are left out; one coordinate mode was dropped later.
pub(in super::super) fn resize<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let mode = call.attributes.get("coordinate_transformation_mode").map(|a| a.s().to_vec());
    if mode.as_deref() == Some(b"tf_half_pixel_for_nn") {
        return Ok(Done::Cannot(
            "Resize has no coordinate mode tf_half_pixel_for_nn since operator set 13".into(),
        ));
    }
    for input in call.inputs.iter_mut().skip(1) {
        let empty = input.is_some_and(|id| {
            import
                .build
                .fact(id)
                .ty
                .as_tensor()
                .and_then(|t| t.shape.as_ref())
                .is_some_and(|s| s.iter().any(|d| d.is(0)))
        });
        if empty {
            *input = None;
        }
    }
    Ok(Done::Becomes(Op::Resize))
}

/// Upsample in all its versions: scales as attributes of height and width, as a list, or as input.
pub(in super::super) fn upsample<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let scales = match call.version {
        ..7 => {
            let height = call.take_float("height_scale")?.ok_or_else(|| call.lacks("height_scale"))?;
            let width = call.take_float("width_scale")?.ok_or_else(|| call.lacks("width_scale"))?;
            Some(vec![1.0, 1.0, height, width])
        }
        7..9 => Some(call.take_floats("scales")?.ok_or_else(|| call.lacks("scales"))?),
        _ => None,
    };
    let scales = match scales {
        Some(values) => {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            let name = import.build.step_name(call, "scales");
            import.build.constant(&name, Tensor::from_vec(vec![values.len()], values))
        }
        None => call.needed(1)?,
    };
    call.inputs.truncate(1);
    call.set_input(2, scales);
    let mode = call.take_str("mode")?.unwrap_or_else(|| "nearest".into());
    call.set.set("mode", if mode == "bilinear" { "linear".to_owned() } else { mode });
    call.set.set("coordinate_transformation_mode", "asymmetric");
    call.set.set("nearest_mode", "floor");
    Ok(Done::Becomes(Op::Resize))
}

/// SpaceToDepth 28 can order the depth otherwise.
pub(in super::super) fn space_to_depth<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    match call.take_str("mode")?.as_deref() {
        None | Some("DCR") => Ok(Done::Becomes(Op::SpaceToDepth)),
        Some(mode) => Ok(Done::Cannot(format!("SpaceToDepth in mode {mode} is not handled"))),
    }
}

/// The tensor of an attribute.
///
/// # Errors
/// `onnx-attribute` where it holds something else or nothing.
pub(super) fn tensor_attribute<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
    name: &str,
) -> Result<Option<Tensor>> {
    let Some(attribute) = call.take(name) else { return Ok(None) };
    let Some(proto) = &attribute.t else { return Err(call.lacks(name)) };
    let loaded = read_tensor(proto, name, &mut import.external)?;
    match loaded.tensor {
        Some(tensor) => Ok(Some(tensor)),
        None => Err(call.lacks(name)),
    }
}

/// Adds a Reshape to the shape of `like` as the call's result.
pub(super) fn finish_in_shape_of<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
    value: orrery_ir::ValueId,
    like: orrery_ir::ValueId,
) -> Result<Done> {
    let shape = import.build.step(call, Op::Shape, "shape", &[Some(like)], Attrs::new())?;
    call.inputs = vec![Some(value), Some(shape)];
    Ok(Done::Becomes(Op::Reshape))
}
