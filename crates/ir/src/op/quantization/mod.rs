//! Ops between numbers and their quantized form, `(number / scale) + zero point`.
//!
//! A scale is one for all, one for each index of an axis, or one for each block along an axis.

mod gradient;

use super::context::normalize_axis;
use super::number::Number;
use super::rules::{check, check_one, equal, of_type, real};
use super::space::{Access, AxisKind, IterSpace, free_except};
use super::{AttrDef, Class, Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, Work, opt};
use crate::{AttrKind, Attrs, Dim, TensorType, Type};
use orrery_numerics::{DType, Rounding, Tensor};

/// What the shape of a scale says of an operand of shape `shape`.
struct Granularity {
    /// Product of the extents before the axis, the axis' extent, product of those behind.
    outer: usize,
    extent: usize,
    inner: usize,
    kind: Kind,
}
enum Kind {
    One,
    Axis,
    /// So many elements a block, so many blocks.
    Blocks(usize, usize),
}
impl Granularity {
    fn new(attrs: &Attrs, shape: &[usize], scale: &Tensor) -> Result<Self, String> {
        let block = attrs.int_or("block_size", 0);
        let misfit = || format!("a scale of shape {:?} does not fit an operand of {shape:?}", scale.shape());
        if scale.len() == 1 && scale.rank() <= 1 {
            return Ok(Self { outer: 1, extent: 1, inner: shape.iter().product(), kind: Kind::One });
        }
        let axis = normalize_axis(attrs.int_or("axis", 1), shape.len())?;
        let extent = *shape.get(axis).ok_or_else(misfit)?;
        let kind = match usize::try_from(block) {
            Ok(0) if scale.shape() == [extent] => Kind::Axis,
            Ok(block) if block > 0 && scale.rank() == shape.len() => {
                let blocks = extent.div_ceil(block);
                let same = |d: usize| scale.shape()[d] == if d == axis { blocks } else { shape[d] };
                if !(0..shape.len()).all(same) {
                    return Err(misfit());
                }
                Kind::Blocks(block, blocks)
            }
            _ => return Err(misfit()),
        };
        let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        Ok(Self { outer, extent, inner, kind })
    }
    /// The result for every element, from its index and that of its scale.
    fn map<R>(&self, each: impl Fn(usize, usize) -> R) -> Vec<R> {
        let mut out = Vec::with_capacity(self.outer * self.extent * self.inner);
        for row in 0..self.outer {
            for at in 0..self.extent {
                let (first, step) = match self.kind {
                    Kind::One => (0, 0),
                    Kind::Axis => (at, 0),
                    Kind::Blocks(block, blocks) => ((row * blocks + at / block) * self.inner, 1),
                };
                for i in 0..self.inner {
                    out.push(each(out.len(), first + i * step));
                }
            }
        }
        out
    }
}

fn zero_points(ctx: &EvalCtx<'_>, scale: &Tensor) -> Result<Vec<f64>, String> {
    match ctx.optional(2)? {
        None => Ok(vec![0.0; scale.len()]),
        Some(zero) if zero.len() != scale.len() => {
            Err(format!("scale {scale:?} and zero point {zero:?} must be of one shape"))
        }
        Some(zero) => zero.to_f64().map(std::borrow::Cow::into_owned).map_err(|e| e.to_string()),
    }
}

/// The type that the quotient is rounded to: what `precision` says, or the scale's where it is a wide enough float.
fn quotient_type(attrs: &Attrs, scale: DType) -> DType {
    match attrs.dtype("precision").unwrap_or(scale) {
        wide @ (DType::F64 | DType::F16 | DType::BF16) => wide,
        _ => DType::F32,
    }
}
/// A round-off to the type of the quotient; a quotient of two such numbers by way of binary64 is rounded as if once.
fn rounder(dtype: DType) -> impl Fn(f64) -> f64 {
    let format = orrery_numerics::Format::of(dtype).unwrap_or(orrery_numerics::Format::FP64);
    move |v| match dtype {
        DType::F64 => v,
        DType::F32 => f64::from(v as f32),
        _ => format.nearest(v),
    }
}
fn quantize(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = check_one(ctx)?;
    let (x, scale) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let grain = Granularity::new(ctx.attrs(), &shape, scale)?;
    let zeros = zero_points(ctx, scale)?;
    let round = rounder(quotient_type(ctx.attrs(), scale.dtype()));
    let scales: Vec<f64> = f64::read(scale)?.iter().map(|&v| round(v)).collect();
    let saturate = ctx.attrs().int_or("saturate", 1) != 0;
    let (low, high) = dtype.int_range();
    let (low, high) = (low as f64, high as f64);
    let values = {
        let x = f64::read(x)?;
        let whole = dtype.is_int();
        grain.map(|i, s| {
            let quotient = round(round(x[i]) / scales[s]);
            if whole { (quotient.round_ties_even() + zeros[s]).clamp(low, high) } else { quotient + zeros[s] }
        })
    };
    Ok(vec![
        Tensor::from_f64(dtype, shape, values, Rounding::NearestEven, saturate && !dtype.is_int()).into(),
    ])
}
fn dequantize(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = check_one(ctx)?;
    let (x, scale) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let grain = Granularity::new(ctx.attrs(), &shape, scale)?;
    let zeros = zero_points(ctx, scale)?;
    let (x, scales) = (f64::read(x)?, f64::read(scale)?);
    if dtype == DType::F64 {
        return Ok(vec![f64::write(dtype, shape, grain.map(|i, s| (x[i] - zeros[s]) * scales[s])).into()]);
    }
    // A product of two binary32 is exact in binary64, so that this rounds once to binary32.
    let product = |i: usize, s: usize| (f64::from((x[i] - zeros[s]) as f32) * scales[s]) as f32;
    Ok(vec![f32::write(dtype, shape, grain.map(product)).into()])
}
/// As in the op's documentation, in binary32.
fn quantize_dynamically(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let shape = check(ctx)?.swap_remove(0).1;
    let x = f32::read(ctx.tensor(0)?)?;
    let high = x.iter().fold(0_f32, |a, &v| a.larger(v));
    let low = x.iter().fold(0_f32, |a, &v| a.smaller(v));
    let scale = if high == low { 1.0 } else { high - low } / 255.0;
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let values: Vec<u8> =
        x.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8).collect();
    Ok(vec![
        Tensor::from_vec(shape, values).into(),
        Tensor::scalar(scale).into(),
        Tensor::scalar(zero as u8).into(),
    ])
}

fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> Fact {
    Fact::of(Type::Tensor(TensorType { dtype, shape }))
}
/// Checks what can be known of scale and zero point before running.
fn check_scale(ctx: &Ctx<'_>) -> Result<(), String> {
    if !ctx.dtype(1)?.is_float() {
        return Err(format!("the scale must hold floats, holds {}", ctx.dtype(1)?));
    }
    if let (Some(scale), Some(zero)) = (ctx.shape(1), ctx.shape(2)) {
        let single = |shape: &[Dim]| shape.iter().all(|n| n.is(1));
        if single(&scale) && single(&zero) {
            return Ok(());
        }
        if scale.len() != zero.len() {
            return Err(format!("scale {scale:?} and zero point {zero:?} must be of one shape"));
        }
        for (a, b) in scale.iter().zip(&zero) {
            equal(a, b, || "extents of scale and zero point".into())?;
        }
    }
    Ok(())
}
fn infer_quantize(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    real(ctx, 0)?;
    check_scale(ctx)?;
    let wanted = ctx.attrs().dtype("output_dtype");
    let dtype = match (ctx.has(2), wanted) {
        (true, Some(wanted)) if ctx.dtype(2)? != wanted => {
            return Err(format!("output_dtype is {wanted}, but the zero point is {}", ctx.dtype(2)?));
        }
        (true, _) => ctx.dtype(2)?,
        (false, wanted) => wanted.unwrap_or(DType::U8),
    };
    if dtype.bits() > 16 || !(dtype.is_int() || dtype.is_float()) {
        return Err(format!("{dtype} is no type to quantize to"));
    }
    Ok(vec![typed(dtype, ctx.shape(0))])
}
fn infer_dequantize(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let from = real(ctx, 0)?;
    of_type(ctx, [2], from)?;
    check_scale(ctx)?;
    let dtype = ctx.attrs().dtype("output_dtype").map_or_else(|| ctx.dtype(1), Ok)?;
    if !dtype.is_float() {
        return Err(format!("{dtype} is no type to dequantize to"));
    }
    Ok(vec![typed(dtype, ctx.shape(0))])
}
fn infer_dynamic(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    of_type(ctx, [0], DType::F32)?;
    let one = |dtype| Fact::tensor(dtype, Vec::new());
    Ok(vec![typed(DType::U8, ctx.shape(0)), one(DType::F32), one(DType::U8)])
}

/// Parallel over all dimensions; blocks of a scale are not cut apart.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (shape, scale) = (ctx.shape(0)?, ctx.shape(1)?);
    let mut space = free_except(ctx, |_| false)?;
    let block = ctx.attrs().int_or("block_size", 0);
    let access = if scale.len() == shape.len() && block > 0 {
        let axis = normalize_axis(ctx.attrs().int_or("axis", 1), shape.len()).ok()?;
        let blocks = scale.get(axis)?.clone();
        if blocks.clone() * Dim::Known(block) != shape[axis] {
            return None;
        }
        space.axes[axis].extent = blocks;
        space.axes[axis].kind = AxisKind::Parallel;
        let whole_blocks = Access::Along { axis, scale: Dim::Known(block) };
        space.inputs[0][axis] = whole_blocks.clone();
        space.outputs[0][axis] = whole_blocks;
        (0..scale.len()).map(Access::along).collect()
    } else if scale.len() == 1 && !scale[0].is(1) {
        vec![Access::along(normalize_axis(ctx.attrs().int_or("axis", 1), shape.len()).ok()?)]
    } else {
        vec![Access::Whole; scale.len()]
    };
    for input in space.inputs.iter_mut().skip(1).filter(|input| input.len() == access.len()) {
        input.clone_from(&access);
    }
    Some(space)
}
fn work<const VECTOR: i64, const SPECIAL: i64>(ctx: &Ctx<'_>) -> Work {
    let n = ctx.output_elements(0);
    Work::vector(n.clone() * Dim::Known(VECTOR), n * Dim::Known(SPECIAL))
}

const AXIS: AttrDef = opt("axis", AttrKind::Int, "The dimension that scales are for; 1.");
const BLOCK: AttrDef =
    opt("block_size", AttrKind::Int, "Elements along the axis that share a scale; 0 for all.");

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("input"), Port::One("scale"), Port::Optional("zero_point")],
        attrs: &[
            AXIS,
            BLOCK,
            opt("output_dtype", AttrKind::DType, "Type of the output; the zero point's, or u8."),
            opt("precision", AttrKind::DType, "Type of the quotient; the scale's."),
            opt("saturate", AttrKind::Int, "Floats hold what is out of range at their largest number; 1."),
        ],
        class: Class::Rounding,
        infer: infer_quantize,
        work: work::<3, 1>,
        space,
        eval: quantize,
        ..OpDef::new(
            Op::QuantizeLinear,
            "x / scale, rounded to the nearest integer, ties to even, plus the zero point, held within the type's range.",
        )
    }
    .gradient(gradient::quantize),
    OpDef {
        inputs: &[Port::One("input"), Port::One("scale"), Port::Optional("zero_point")],
        attrs: &[AXIS, BLOCK, opt("output_dtype", AttrKind::DType, "Type of the output; the scale's.")],
        class: Class::Rounding,
        infer: infer_dequantize,
        work: work::<3, 0>,
        space,
        eval: dequantize,
        ..OpDef::new(Op::DequantizeLinear, "(x - zero point) times scale.")
    }
    .gradient(gradient::dequantize),
    OpDef {
        outputs: &[Port::One("output"), Port::One("scale"), Port::One("zero_point")],
        class: Class::Rounding,
        infer: infer_dynamic,
        work: work::<5, 1>,
        eval: quantize_dynamically,
        ..OpDef::new(
            Op::DynamicQuantizeLinear,
            "Quantizes to u8 with a scale and zero point that just cover zero and all elements.",
        )
    },
];
