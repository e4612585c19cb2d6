//! Fused operators of the domain `com.microsoft`, in terms of the standard ones.

use super::super::call::Call;
use super::super::import::Import;
use super::super::operators::Done;
use orrery_base::Result;
use orrery_ir::{Attrs, Op};

/// Gelu after adding a bias.
pub(in super::super) fn bias_gelu<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let inputs = [call.input(0), call.input(1)];
    let sum = import.build.step(call, Op::Add, "sum", &inputs, Attrs::new())?;
    call.inputs = vec![Some(sum)];
    Ok(Done::Becomes(Op::Gelu))
}

/// Gelu by its approximation with tanh, after adding a bias where there is one.
pub(in super::super) fn fast_gelu<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    call.set.set("approximate", "tanh");
    if call.input(1).is_some() { bias_gelu(import, call) } else { Ok(Done::Becomes(Op::Gelu)) }
}

/// `x * sigmoid(alpha * x)`.
pub(in super::super) fn quick_gelu<'m>(_: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let alpha = call.take_float("alpha")?.unwrap_or_else(|| f64::from(1.702_f32));
    call.set.set("alpha", alpha);
    Ok(Done::Becomes(Op::Swish))
}

/// Matrix product with transposes and a factor.
pub(in super::super) fn fused_matmul<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    for (at, name) in [(0, "transA"), (1, "transB")] {
        if call.take_int(name)?.unwrap_or(0) == 0 {
            continue;
        }
        let operand = call.needed(at)?;
        let Some(rank @ 2..) = import.build.rank(operand) else {
            return Ok(Done::Cannot("a transposed operand needs a known rank".into()));
        };
        let mut order: Vec<i64> = (0..rank as i64).collect();
        order.swap(rank - 1, rank - 2);
        let turned = import.build.step(
            call,
            Op::Transpose,
            name,
            &[Some(operand)],
            Attrs::new().with("perm", order),
        )?;
        call.inputs[at] = Some(turned);
    }
    if call.take_int("transBatchA")?.unwrap_or(0) != 0 || call.take_int("transBatchB")?.unwrap_or(0) != 0 {
        return Ok(Done::Cannot("transposed batch dimensions are not handled".into()));
    }
    let alpha = call.take_float("alpha")?.unwrap_or(1.0);
    if alpha == 1.0 {
        return Ok(Done::Becomes(Op::MatMul));
    }
    let inputs = [call.input(0), call.input(1)];
    let product = import.build.step(call, Op::MatMul, "product", &inputs, Attrs::new())?;
    let factor = import.build.scalar_like(call, "alpha", alpha, product);
    call.inputs = vec![Some(product), Some(factor)];
    Ok(Done::Becomes(Op::Mul))
}

/// Sum of input, residual and bias, then layer normalization over the last dimension.
pub(in super::super) fn skip_layer_normalization<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
) -> Result<Done> {
    let (gamma, beta, bias) = (call.input(2), call.input(3), call.input(4));
    skip(import, call, Op::LayerNormalization, vec![gamma, beta], bias)
}

/// Sum of input, residual and bias, then RMS normalization over the last dimension.
pub(in super::super) fn skip_rms_normalization<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
) -> Result<Done> {
    let (gamma, bias) = (call.input(2), call.input(3));
    skip(import, call, Op::RMSNormalization, vec![gamma], bias)
}

fn skip<'m>(
    import: &mut Import<'m>,
    call: &mut Call<'m>,
    op: Op,
    scales: Vec<Option<orrery_ir::ValueId>>,
    bias: Option<orrery_ir::ValueId>,
) -> Result<Done> {
    if call.outputs.len() > 1 && call.outputs[1..].iter().any(|o| !o.is_empty()) {
        return Ok(Done::Cannot("only the normalized output of the fused operator is handled".into()));
    }
    let inputs = [call.input(0), call.input(1)];
    let mut sum = import.build.step(call, Op::Add, "sum", &inputs, Attrs::new())?;
    if bias.is_some() {
        sum = import.build.step(call, Op::Add, "biased", &[Some(sum), bias], Attrs::new())?;
    }
    let epsilon = call.take_float("epsilon")?.unwrap_or_else(|| f64::from(1e-12_f32));
    call.set.set("epsilon", epsilon);
    call.set.set("axis", -1);
    call.outputs.truncate(1);
    call.inputs = std::iter::once(Some(sum)).chain(scales).collect();
    Ok(Done::Becomes(op))
}
