//! Functions of one number, in binary64.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// 1 / (1 + e^-x).
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
/// ln(1 + e^x), without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 }
}
/// x Φ(x), Φ the normal distribution's.
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * libm::erfc(-x * FRAC_1_SQRT_2)
}
/// The approximation of [`gelu`] by a hyperbolic tangent.
pub(crate) fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
}
/// x up to zero becomes alpha (e^x - 1).
pub(crate) fn elu(x: f64, alpha: f64) -> f64 {
    if x < 0.0 { alpha * x.exp_m1() } else { x }
}
/// [`elu`], smooth at zero.
pub(crate) fn celu(x: f64, alpha: f64) -> f64 {
    if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x }
}
/// alpha x + beta within 0 to 1.
pub(crate) fn hard_sigmoid(x: f64, alpha: f64, beta: f64) -> f64 {
    (alpha * x + beta).clamp(0.0, 1.0)
}
/// x moved towards zero by `bias` outside of ±`lambda`, zero within.
pub(super) fn shrink(x: f64, lambda: f64, bias: f64) -> f64 {
    if x < -lambda {
        x + bias
    } else if x > lambda {
        x - bias
    } else if x.is_nan() {
        x
    } else {
        0.0
    }
}
/// Integer powers wrap; negative ones are the quotient cut off, and none is asked of zero.
pub(super) fn integer_power(base: i64, exponent: i64) -> i64 {
    match (base, u64::try_from(exponent)) {
        (_, Ok(mut exponent)) => {
            let (mut square, mut product) = (base, 1_i64);
            while exponent > 0 {
                if exponent & 1 == 1 {
                    product = product.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                exponent >>= 1;
            }
            product
        }
        (1, Err(_)) => 1,
        (-1, Err(_)) => 1 - 2 * (exponent & 1),
        (_, Err(_)) => 0,
    }
}
