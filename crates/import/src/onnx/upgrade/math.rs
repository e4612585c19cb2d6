//! Upgrades of arithmetic.

use super::super::call::Call;
use super::super::import::Import;
use super::super::operators::Done;
use super::shape::{finish_in_shape_of, same};
use orrery_base::Result;
use orrery_ir::{Attrs, Op};

/// Arithmetic and comparison before 7: broadcasting only where asked for, from a stated axis on.
pub(in super::super) fn old_broadcast<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let (broadcast, axis) = (call.take_int("broadcast")?.unwrap_or(0), call.take_int("axis")?);
    if let (1, Some(axis)) = (broadcast, axis) {
        let (left, right) = (call.needed(0)?, call.needed(1)?);
        let (Some(rank), Some(of)) = (import.build.rank(left), import.build.rank(right)) else {
            return Ok(Done::Cannot("broadcasting along an axis needs operands of known rank".into()));
        };
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        let behind = rank as i64 - axis - of as i64;
        if axis < 0 || behind < 0 {
            return Ok(Done::Cannot(format!(
                "an operand of rank {of} does not fit in rank {rank} at axis {axis}"
            )));
        }
        if behind > 0 {
            let axes: Vec<i64> = (of as i64..of as i64 + behind).collect();
            let axes = import.build.ints(call, "axes", &axes);
            let wide =
                import.build.step(call, Op::Unsqueeze, "wide", &[Some(right), Some(axes)], Attrs::new())?;
            call.inputs[1] = Some(wide);
        }
    }
    Ok(same(call))
}

/// PRelu before 7: a slope for each channel.
pub(in super::super) fn channel_slope<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let (data, slope) = (call.needed(0)?, call.needed(1)?);
    let single = import.build.fact(slope).ty.as_tensor().and_then(orrery_ir::TensorType::elements);
    if single.is_some_and(|n| n.is(1)) {
        return Ok(Done::Becomes(Op::PRelu));
    }
    match (import.build.rank(data), import.build.rank(slope)) {
        (Some(rank), Some(1)) if rank > 2 => {
            let axes: Vec<i64> = (1..rank as i64 - 1).collect();
            let axes = import.build.ints(call, "axes", &axes);
            let wide =
                import.build.step(call, Op::Unsqueeze, "slope", &[Some(slope), Some(axes)], Attrs::new())?;
            call.inputs[1] = Some(wide);
            Ok(Done::Becomes(Op::PRelu))
        }
        (Some(_), Some(_)) => Ok(Done::Becomes(Op::PRelu)),
        _ => Ok(Done::Cannot("a slope for each channel needs operands of known rank".into())),
    }
}

/// Gemm before 7: broadcasting of `C` only where asked for.
pub(in super::super) fn gemm<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    call.take_int("broadcast")?;
    Ok(Done::Becomes(Op::Gemm))
}

/// Recurrent operators before 7: a flag says whether the sequence is wanted; the number of outputs says it too.
pub(in super::super) fn recurrent<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    call.take_int("output_sequence")?;
    Ok(same(call))
}

/// LpPool 1 and GlobalLpPool 1: the order of the norm is a float.
pub(in super::super) fn float_norm<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let order = call.take_float("p")?.unwrap_or(2.0);
    if order.fract() != 0.0 {
        return Ok(Done::Cannot(format!("the order of the norm is {order}, no integer")));
    }
    call.set.set("p", order as i64);
    Ok(same(call))
}

/// Clip before 11: bounds are attributes.
pub(in super::super) fn clip<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let data = call.needed(0)?;
    for (at, name) in [(1, "min"), (2, "max")] {
        if let Some(bound) = call.take_float(name)? {
            let bound = import.build.scalar_like(call, name, bound, data);
            call.set_input(at, bound);
        }
    }
    Ok(Done::Becomes(Op::Clip))
}

/// Softmax, LogSoftmax and Hardmax before 13: over all dimensions from the axis on, as one.
pub(in super::super) fn flattened_softmax<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let (data, axis) = (call.needed(0)?, call.take_int("axis")?.unwrap_or(1));
    let Done::Becomes(op) = same(call) else { return Ok(same(call)) };
    let rank = import.build.rank(data).map(|rank| rank as i64);
    if axis == -1 || rank == Some(axis + 1) {
        call.set.set("axis", -1);
        return Ok(Done::Becomes(op));
    }
    let flat =
        import.build.step(call, Op::Flatten, "flat", &[Some(data)], Attrs::new().with("axis", axis))?;
    let done = import.build.step(call, op, "rows", &[Some(flat)], Attrs::new().with("axis", -1))?;
    finish_in_shape_of(import, call, done, data)
}

/// Range since 27 says in which type numbers of 16 bits are made.
pub(in super::super) fn range<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let stash = call.take_int("stash_type")?.unwrap_or(1);
    let start = call.needed(0)?;
    if import.build.dtype(start).is_some_and(|dtype| dtype.bits() == 16 && dtype.is_float()) && stash != 1 {
        call.approximation = Some("numbers are made in binary32 rather than in 16 bits".into());
    }
    Ok(Done::Becomes(Op::Range))
}

/// SwiGLU: Swish of the first times the second.
pub(in super::super) fn swiglu<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let alpha = call.take_float("alpha")?.unwrap_or(1.0);
    let gate = [Some(call.needed(0)?)];
    let gate = import.build.step(call, Op::Swish, "gate", &gate, Attrs::new().with("alpha", alpha))?;
    call.inputs[0] = Some(gate);
    Ok(Done::Becomes(Op::Mul))
}
