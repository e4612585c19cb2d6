//! Upgrades of normalization and dropout.

use super::super::call::Call;
use super::super::import::Import;
use super::super::operators::Done;
use orrery_base::Result;
use orrery_ir::{Attrs, Op, Type};
use orrery_numerics::Tensor;

/// BatchNormalization before 14: training shows in the number of outputs.
pub(in super::super) fn batch_normalization<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
) -> Result<Done> {
    call.take_int("is_test")?;
    let data = call.needed(0)?;
    if call.take_int("spatial")? == Some(0) && import.build.rank(data) != Some(2) {
        return Ok(Done::Cannot(
            "statistics for each element rather than each channel were dropped in operator set 9".into(),
        ));
    }
    if call.outputs.len() > 3 {
        return Ok(Done::Cannot("saved mean and variance were dropped in operator set 14".into()));
    }
    if call.outputs.len() > 1 {
        call.set.set("training_mode", 1);
    }
    Ok(Done::Becomes(Op::BatchNormalization))
}

/// GroupNormalization 18: scale and bias for each group rather than each channel.
pub(in super::super) fn group_normalization<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
) -> Result<Done> {
    let data = call.needed(0)?;
    let groups = call.take_int("num_groups")?.ok_or_else(|| call.lacks("num_groups"))?;
    call.set.set("num_groups", groups);
    let build = &mut import.build;
    let channels = Attrs::new().with("start", 1).with("end", 2);
    let channels = build.step(call, Op::Shape, "channels", &[Some(data)], channels)?;
    let groups = build.ints(call, "groups", &[groups]);
    let each = build.step(call, Op::Div, "each", &[Some(channels), Some(groups)], Attrs::new())?;
    let wide =
        build.step(call, Op::Concat, "wide", &[Some(groups), Some(each)], Attrs::new().with("axis", 0))?;
    let (last, flat) = (build.ints(call, "last", &[1]), build.ints(call, "flat", &[-1]));
    for (at, name) in [(1, "scale"), (2, "bias")] {
        let given = call.needed(at)?;
        let column = build.step(call, Op::Unsqueeze, name, &[Some(given), Some(last)], Attrs::new())?;
        let spread = build.step(call, Op::Expand, name, &[Some(column), Some(wide)], Attrs::new())?;
        let channelwise = build.step(call, Op::Reshape, name, &[Some(spread), Some(flat)], Attrs::new())?;
        call.inputs[at] = Some(channelwise);
    }
    Ok(Done::Becomes(Op::GroupNormalization))
}

/// Dropout before 12: the ratio is an attribute, and nothing is dropped outside of training.
pub(in super::super) fn dropout<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let ratio = call.take_float("ratio")?.unwrap_or(0.5);
    if call.version < 7 && call.take_int("is_test")?.unwrap_or(0) == 0 {
        call.approximation = Some("dropout in training mode is imported in inference mode".into());
    }
    let name = import.build.step_name(call, "ratio");
    let ratio = import.build.constant(&name, Tensor::scalar(ratio as f32));
    call.set_input(1, ratio);
    let Some(&mask) = call.outputs.get(1).filter(|_| call.version < 10) else {
        return Ok(Done::Becomes(Op::Dropout));
    };
    call.outputs.truncate(1);
    if !import.build.env().used.contains(mask) {
        return Ok(Done::Becomes(Op::Dropout));
    }
    // The mask was of the data's type before 10, and is bool since.
    let data = call.needed(0)?;
    let names = [import.build.value_name(call.outputs[0]), import.build.step_name(call, "mask")];
    let outputs = names.into_iter().map(|name| Some((name, Type::Unknown))).collect();
    let attrs = std::mem::take(&mut call.set);
    let made = import.build.node(Op::Dropout, &call.name, call.inputs.clone(), outputs, attrs, Vec::new())?;
    import.build.bind(call.outputs[0], made[0])?;
    call.outputs = vec![mask];
    call.inputs = vec![made[1], Some(data)];
    Ok(Done::Becomes(Op::CastLike))
}
