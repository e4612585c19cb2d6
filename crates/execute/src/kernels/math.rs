//! Transcendental functions on vectors of f32.
//!
//! Polynomials over a reduced range. The errors stated are the largest found against f64 over the tested range, in units
//! in the last place of the exact result; the tests hold them.

use super::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first with few enough bits that its multiples by whole numbers are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `c[0] + c[1] x + ...` by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut sum = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.fma(sum, x, s.splat(c[i]));
    }
    sum
}

/// `e^x`, within 2 units; subnormal results and infinity included, NaN passes through.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond these the result is zero or infinity. The bound comes first: a NaN passes through.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_LOW), s.fma(n, s.splat(-LN2_HIGH), x));
    // e^r = 1 + r + r^2 p(r), fitted to 3.2e-9 of the result over |r| <= ln(2) / 2.
    let p = polynomial(s, r, [0.5, 0.166_665_18, 0.041_666_206, 0.008_368_908, 0.001_395_052_4]);
    let p = s.fma(s.mul(r, r), p, r);
    s.scale(s.add(p, s.splat(1.0)), n)
}

/// `1 / (1 + e^-x)`, within 4 units.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    // Of e^-|x| alone, which does not overflow: f(-x) = 1 - f(x) = e^-x f(x).
    let e = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let top = s.select_less(x, s.splat(0.0), e, one);
    s.div(top, s.add(one, e))
}

/// Hyperbolic tangent, within 3 units.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let q = s.mul(a, a);
    let small =
        polynomial(s, q, [-0.333_332_8, 0.133_313_83, -0.053_734_004, 0.020_618_131, -0.005_679_312_6]);
    let small = s.fma(s.mul(small, q), a, a);
    let two = s.splat(2.0);
    let large = s.sub(s.splat(1.0), s.div(two, s.add(exp(s, s.mul(a, two)), s.splat(1.0))));
    s.copysign(s.select_less(a, s.splat(0.625), small, large), x)
}

/// Error function, within 3 units.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let q = s.mul(a, a);
    let small = polynomial(
        s,
        q,
        [
            0.128_379_17,
            -0.376_126_35,
            0.112_837_07,
            -0.026_860_023,
            0.005_202_603_5,
            -0.000_816_081_1,
            8.447_859e-5,
        ],
    );
    let small = s.fma(small, a, a);
    // 1 - e^-p(a) with p fitted to -ln(erfc(a)) over 0.89..4; above 4 the result is one.
    let bounded = s.min(s.splat(4.0), a);
    let p = polynomial(
        s,
        bounded,
        [
            0.000_152_824_17,
            1.127_854_5,
            0.636_878_1,
            0.104_201_04,
            -0.022_357_937,
            0.003_076_353,
            -0.000_199_340_95,
        ],
    );
    let large = s.sub(s.splat(1.0), exp(s, s.sub(s.splat(0.0), p)));
    s.copysign(s.select_less(a, s.splat(0.9), small, large), x)
}

/// `x * (1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.mul(x, s.splat(0.5));
    s.fma(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// The approximation of [`gelu`] by `tanh(sqrt(2 / pi) (x + 0.044715 x^3))`.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.mul(s.fma(cube, s.splat(0.044_715), x), s.splat(0.797_884_6));
    let half = s.mul(x, s.splat(0.5));
    s.fma(half, tanh(s, inner), half)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Level};
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Erf,
    }
    struct Apply<'a>(Function, &'a mut [f32]);
    impl Kernel for Apply<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for chunk in self.1.chunks_exact_mut(S::LANES) {
                let x = s.load(chunk);
                let y = match self.0 {
                    Function::Exp => exp(s, x),
                    Function::Sigmoid => sigmoid(s, x),
                    Function::Tanh => tanh(s, x),
                    Function::Erf => erf(s, x),
                };
                s.store(chunk, y);
            }
        }
    }

    /// By its Taylor series, which suffices in f64 for |x| <= 4.
    fn erf_f64(x: f64) -> f64 {
        if x.abs() > 4.0 {
            return x.signum() * (1.0 - 7.7e-9_f64.min((-x * x).exp() / x.abs() / 1.77));
        }
        let (mut sum, mut term) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn worst(level: Level, function: Function, low: f32, high: f32) -> f64 {
        let count = 400_000;
        let xs: Vec<f32> = (0..count).map(|i| low + (high - low) * (i as f32 / count as f32)).collect();
        let mut ys = xs.clone();
        level.run(Apply(function, &mut ys));
        xs.iter()
            .zip(&ys)
            .map(|(&x, &y)| {
                let x = f64::from(x);
                let exact = match function {
                    Function::Exp => x.exp(),
                    Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                    Function::Tanh => x.tanh(),
                    Function::Erf => erf_f64(x),
                };
                let rounded = (exact as f32).abs();
                let unit = f64::from(rounded.next_up() - rounded).max(f64::from(f32::MIN_POSITIVE) / 8e6);
                (f64::from(y) - exact).abs() / unit
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_are_within_the_units_stated() {
        for level in Level::available() {
            for (function, low, high, units) in [
                (Function::Exp, -87.0, 88.7, 2.0),
                (Function::Exp, -1.0, 1.0, 2.0),
                (Function::Exp, -103.0, -87.0, 2.0),
                (Function::Sigmoid, -86.0, 40.0, 4.0),
                (Function::Tanh, -10.0, 10.0, 3.0),
                (Function::Tanh, -0.7, 0.7, 3.0),
                (Function::Erf, -5.0, 5.0, 3.0),
                (Function::Erf, -1.0, 1.0, 3.0),
            ] {
                let found = worst(level, function, low, high);
                assert!(found <= units, "{} {function:?} {low}..{high}: {found}", level.name());
            }
        }
    }

    #[test]
    fn limits_and_nan() {
        for level in Level::available() {
            for (function, x, y) in [
                (Function::Exp, f32::INFINITY, f32::INFINITY),
                (Function::Exp, 88.8, f32::INFINITY),
                (Function::Exp, f32::NEG_INFINITY, 0.0),
                (Function::Exp, -200.0, 0.0),
                (Function::Exp, 0.0, 1.0),
                (Function::Sigmoid, f32::INFINITY, 1.0),
                (Function::Sigmoid, f32::NEG_INFINITY, 0.0),
                (Function::Tanh, f32::INFINITY, 1.0),
                (Function::Tanh, -0.0, -0.0),
                (Function::Erf, f32::NEG_INFINITY, -1.0),
            ] {
                let mut values = [x; 16];
                level.run(Apply(function, &mut values));
                assert_eq!(values[3].to_bits(), y.to_bits(), "{} {function:?}({x})", level.name());
            }
            for function in [Function::Exp, Function::Sigmoid, Function::Tanh, Function::Erf] {
                let mut values = [f32::NAN; 16];
                level.run(Apply(function, &mut values));
                assert!(values[0].is_nan(), "{} {function:?}", level.name());
            }
        }
    }
}
