//! Products of quantised matrices: exact in 32 bits.

use super::super::elements::{Loops, broadcast_shapes, broadcast_strides, integers};
use super::super::{Class, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, rules};
use super::{multiply, product_fact, product_space, product_work};
use crate::Dim;
use orrery_numerics::{DType, Tensor};

pub(super) const MATMUL_INTEGER: OpDef = OpDef {
    inputs: &[Port::One("A"), Port::One("B"), Port::Optional("a_zero_point"), Port::Optional("b_zero_point")],
    outputs: &[Port::One("Y")],
    engine: Engine::Matrix,
    infer: |ctx| {
        let (a, b) = (rules::eight_bit(ctx, 0)?, rules::eight_bit(ctx, 1)?);
        rules::of_type(ctx, [2], a)?;
        rules::of_type(ctx, [3], b)?;
        one_or_along(ctx, 2, 0, 2)?;
        one_or_along(ctx, 3, 1, 1)?;
        product_fact(ctx, [0, 1], DType::I32)
    },
    work: |ctx| product_work(ctx, [0, 1]),
    space: |ctx| {
        // Zero points for each row or column would have to be cut with it.
        let single = |i| !ctx.has(i) || ctx.input_elements(i).is(1);
        if single(2) && single(3) { product_space(ctx, [0, 1], true) } else { None }
    },
    eval: |ctx| {
        let (dtype, shape) = rules::check_one(ctx)?;
        let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
        let x = centred(a, ctx.optional(2)?, Side::Rows)?;
        let y = centred(b, ctx.optional(3)?, Side::Columns)?;
        let sums = multiply((&x, a.shape()), (&y, b.shape()), &shape, None);
        Ok(vec![Tensor::from_raw(dtype, shape, sums).into()])
    },
    ..OpDef::new(
        Op::MatMulInteger,
        "Matrix product of 8-bit integers less their zero points, summed in i32 with wrap-around.",
    )
};

pub(super) const QLINEAR_MATMUL: OpDef = OpDef {
    inputs: &[
        Port::One("a"),
        Port::One("a_scale"),
        Port::One("a_zero_point"),
        Port::One("b"),
        Port::One("b_scale"),
        Port::One("b_zero_point"),
        Port::One("y_scale"),
        Port::One("y_zero_point"),
    ],
    outputs: &[Port::One("y")],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer: qlinear_infer,
    work: |ctx| {
        let product = product_work(ctx, [0, 3]);
        // Each sum is scaled, rounded, shifted and held within the type's range.
        super::Work { vector: ctx.output_elements(0) * Dim::Known(4), ..product }
    },
    space: |ctx| {
        let single = (1..8).filter(|&i| i != 3).all(|i| ctx.input_elements(i).is(1));
        if single { product_space(ctx, [0, 3], false) } else { None }
    },
    eval: qlinear,
    ..OpDef::new(
        Op::QLinearMatMul,
        "Matrix product of quantised operands, summed in i32, scaled by a_scale b_scale / y_scale, rounded to the \
         nearest (ties to even), shifted by y_zero_point and saturated.",
    )
};

/// Which dimension of a matrix has a parameter of its own for each index.
#[derive(Clone, Copy)]
enum Side {
    Rows,
    Columns,
}

/// Checks that input `i` is one value, a vector along the dimension of input `of` that is the `from_end`th from its
/// end, or of the operand's rank.
fn one_or_along(ctx: &Ctx<'_>, i: usize, of: usize, from_end: usize) -> Result<(), String> {
    let (Some(parameter), Some(operand)) = (ctx.shape(i), ctx.shape(of)) else { return Ok(()) };
    if parameter.len() <= 1 {
        let along = operand.len().checked_sub(from_end).map_or(Dim::Known(1), |d| operand[d].clone());
        return rules::one_or_vector(ctx, i, &along);
    }
    if parameter.len() != operand.len() {
        return Err(format!(
            "input `{}` of shape {} has neither one value nor the rank of the operand of shape {}",
            rules::input_name(ctx, i),
            rules::shape_text(&parameter),
            rules::shape_text(&operand)
        ));
    }
    Ok(())
}

/// The shape of a scale or zero point when it is spread over the matrix it belongs to.
fn spread(shape: &[usize], side: Side) -> Vec<usize> {
    match (shape, side) {
        ([n], Side::Rows) if *n != 1 => vec![*n, 1],
        _ => shape.to_vec(),
    }
}

/// The place in a parameter of shape `parameter` for every element of shape `shape`.
fn places(parameter: &[usize], shape: &[usize], side: Side) -> Result<Vec<usize>, String> {
    let parameter = spread(parameter, side);
    if broadcast_shapes(&[&parameter, shape])? != shape {
        return Err(format!("a scale or zero point of shape {parameter:?} does not fit a matrix {shape:?}"));
    }
    let mut places = Vec::with_capacity(shape.iter().product());
    Loops::new(shape, [&broadcast_strides(&parameter, shape)]).each(|[at]| places.push(at as usize));
    Ok(places)
}

/// Elements less their zero points.
fn centred(tensor: &Tensor, zero: Option<&Tensor>, side: Side) -> Result<Vec<i32>, String> {
    let values = integers(tensor)?;
    let Some(zero) = zero else { return Ok(values.iter().map(|&v| v as i32).collect()) };
    let zeros = integers(zero)?;
    let places = places(zero.shape(), tensor.shape(), side)?;
    Ok(values.iter().zip(places).map(|(&v, at)| (v - zeros[at]) as i32).collect())
}

fn qlinear_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    for (operand, from_end) in [(0, 2), (3, 1)] {
        let dtype = rules::eight_bit(ctx, operand)?;
        rules::of_type(ctx, [operand + 2], dtype)?;
        rules::float(ctx, operand + 1)?;
        one_or_along(ctx, operand + 1, operand, from_end)?;
        one_or_along(ctx, operand + 2, operand, from_end)?;
    }
    rules::float(ctx, 6)?;
    let dtype = rules::eight_bit(ctx, 7)?;
    product_fact(ctx, [0, 3], dtype)
}

fn qlinear(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(3)?);
    let x = centred(a, Some(ctx.tensor(2)?), Side::Rows)?;
    let y = centred(b, Some(ctx.tensor(5)?), Side::Columns)?;
    let sums: Vec<i32> = multiply((&x, a.shape()), (&y, b.shape()), &shape, None);
    let parameter = |i: usize, side| {
        let tensor = ctx.tensor(i)?;
        let values = tensor.to_f32().map_err(|e| e.to_string())?.into_owned();
        Ok::<_, String>((values, places(tensor.shape(), &shape, side)?))
    };
    let (a_scale, a_at) = parameter(1, Side::Rows)?;
    let (b_scale, b_at) = parameter(4, Side::Columns)?;
    let (y_scale, y_at) = parameter(6, Side::Rows)?;
    let (zero, zero_at) = parameter(7, Side::Rows)?;
    let quantised = (0..sums.len()).map(|i| {
        let scale = a_scale[a_at[i]] * b_scale[b_at[i]] / y_scale[y_at[i]];
        requantise(sums[i], scale, zero[zero_at[i]])
    });
    Ok(vec![Tensor::from_f32(dtype, shape, quantised.collect::<Vec<_>>(), Default::default(), true).into()])
}

/// A sum scaled, rounded to the nearest and shifted; storing it saturates.
pub(in super::super) fn requantise(sum: i32, scale: f32, zero: f32) -> f32 {
    (sum as f32 * scale).round_ties_even() + zero
}
