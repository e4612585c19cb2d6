//! The instructions of pointwise programs over tiles that are in the first cache.

use super::math;
use super::pointwise::{Binary, Function, Instruction, Source};
use super::simd::Simd;

/// What an instruction reads.
#[derive(Clone, Copy)]
pub(super) enum Tile<'a> {
    /// As many numbers as it writes.
    Slice(&'a [f32]),
    /// One number for all.
    Number(f32),
    /// What is where it writes.
    Same,
}

/// `$to = $body` for each vector of `$x`. A macro rather than a function of a closure, so that all of it is compiled with
/// the instructions of the kernel around it.
macro_rules! map1 {
    ($s:ident, $x:expr, $to:expr, |$v:ident| $body:expr) => {
        match $x {
            Tile::Number(x) => {
                let $v = $s.splat(x);
                let y = $body;
                for to in $to.chunks_mut(S::LANES) {
                    $s.store_partial(to, y);
                }
            }
            Tile::Slice(x) => {
                let mut from = x[..$to.len()].chunks_exact(S::LANES);
                let mut into = $to.chunks_exact_mut(S::LANES);
                for (x, to) in (&mut from).zip(&mut into) {
                    let $v = $s.load(x);
                    $s.store(to, $body);
                }
                let $v = $s.load_partial(from.remainder());
                $s.store_partial(into.into_remainder(), $body);
            }
            Tile::Same => {
                let mut into = $to.chunks_exact_mut(S::LANES);
                for to in &mut into {
                    let $v = $s.load(to);
                    $s.store(to, $body);
                }
                let rest = into.into_remainder();
                let $v = $s.load_partial(rest);
                $s.store_partial(rest, $body);
            }
        }
    };
}

/// As [`map1`], of two operands.
macro_rules! map2 {
    ($s:ident, $a:expr, $b:expr, $to:expr, |$v:ident, $w:ident| $body:expr) => {
        match ($a, $b) {
            (Tile::Number(a), b) => {
                let $v = $s.splat(a);
                map1!($s, b, $to, |$w| $body);
            }
            (a, Tile::Number(b)) => {
                let $w = $s.splat(b);
                map1!($s, a, $to, |$v| $body);
            }
            (Tile::Slice(a), Tile::Slice(b)) => {
                let mut first = a[..$to.len()].chunks_exact(S::LANES);
                let mut second = b[..$to.len()].chunks_exact(S::LANES);
                let mut into = $to.chunks_exact_mut(S::LANES);
                for ((a, b), to) in (&mut first).zip(&mut second).zip(&mut into) {
                    let ($v, $w) = ($s.load(a), $s.load(b));
                    $s.store(to, $body);
                }
                let ($v, $w) = ($s.load_partial(first.remainder()), $s.load_partial(second.remainder()));
                $s.store_partial(into.into_remainder(), $body);
            }
            (Tile::Same, Tile::Slice(b)) => {
                let mut second = b[..$to.len()].chunks_exact(S::LANES);
                let mut into = $to.chunks_exact_mut(S::LANES);
                for (b, to) in (&mut second).zip(&mut into) {
                    let ($v, $w) = ($s.load(to), $s.load(b));
                    $s.store(to, $body);
                }
                let rest = into.into_remainder();
                let ($v, $w) = ($s.load_partial(rest), $s.load_partial(second.remainder()));
                $s.store_partial(rest, $body);
            }
            (Tile::Slice(a), Tile::Same) => {
                let mut first = a[..$to.len()].chunks_exact(S::LANES);
                let mut into = $to.chunks_exact_mut(S::LANES);
                for (a, to) in (&mut first).zip(&mut into) {
                    let ($v, $w) = ($s.load(a), $s.load(to));
                    $s.store(to, $body);
                }
                let rest = into.into_remainder();
                let ($v, $w) = ($s.load_partial(first.remainder()), $s.load_partial(rest));
                $s.store_partial(rest, $body);
            }
            (Tile::Same, Tile::Same) => map1!($s, Tile::Same, $to, |$v| {
                let $w = $v;
                $body
            }),
        }
    };
}

/// Carries out one instruction, whose operands `source` finds.
#[inline(always)]
pub(super) fn execute<'a, S: Simd>(
    s: S,
    instruction: &Instruction,
    source: impl Fn(Source) -> Tile<'a>,
    to: &mut [f32],
) {
    match *instruction {
        Instruction::Line { x, scale, shift, least, largest } => {
            let (scale, shift) = (s.splat(scale), s.splat(shift));
            if least == f32::NEG_INFINITY && largest == f32::INFINITY {
                map1!(s, source(x), to, |x| s.fma(x, scale, shift));
            } else {
                let (least, largest) = (s.splat(least), s.splat(largest));
                map1!(s, source(x), to, |x| s.min(largest, s.max(least, s.fma(x, scale, shift))));
            }
        }
        Instruction::Unary(function, x) => unary(s, function, source(x), to),
        Instruction::Binary(function, a, b) => {
            let (a, b) = (source(a), source(b));
            match function {
                Binary::Add => map2!(s, a, b, to, |a, b| s.add(a, b)),
                Binary::Sub => map2!(s, a, b, to, |a, b| s.sub(a, b)),
                Binary::Mul => map2!(s, a, b, to, |a, b| s.mul(a, b)),
                Binary::Div => map2!(s, a, b, to, |a, b| s.div(a, b)),
                // `min` and `max` let a NaN of the second through; that of the first is put back.
                Binary::Min => map2!(s, a, b, to, |a, b| s.select_nan(a, a, s.min(a, b))),
                Binary::Max => map2!(s, a, b, to, |a, b| s.select_nan(a, a, s.max(a, b))),
                Binary::Pow => {
                    for i in 0..to.len() {
                        to[i] = one(a, to, i).powf(one(b, to, i));
                    }
                }
            }
        }
        Instruction::MulAdd(a, b, c) => {
            let (a, b, c) = (source(a), source(b), source(c));
            let len = to.len();
            for i in (0..len - len % S::LANES).step_by(S::LANES) {
                let (a, b, c) = (vector(s, a, to, i), vector(s, b, to, i), vector(s, c, to, i));
                s.store(&mut to[i..], s.fma(a, b, c));
            }
            let i = len - len % S::LANES;
            let (a, b, c) = (rest(s, a, to, i), rest(s, b, to, i), rest(s, c, to, i));
            s.store_partial(&mut to[i..], s.fma(a, b, c));
        }
        Instruction::SelectLess([a, b, x, y]) => {
            let (a, b, x, y) = (source(a), source(b), source(x), source(y));
            let len = to.len();
            for i in (0..len - len % S::LANES).step_by(S::LANES) {
                let (a, b) = (vector(s, a, to, i), vector(s, b, to, i));
                let (x, y) = (vector(s, x, to, i), vector(s, y, to, i));
                s.store(&mut to[i..], s.select_less(a, b, x, y));
            }
            let i = len - len % S::LANES;
            let (a, b, x, y) = (rest(s, a, to, i), rest(s, b, to, i), rest(s, x, to, i), rest(s, y, to, i));
            s.store_partial(&mut to[i..], s.select_less(a, b, x, y));
        }
    }
}

#[inline(always)]
fn unary<S: Simd>(s: S, function: Function, x: Tile<'_>, to: &mut [f32]) {
    match function {
        Function::Copy => map1!(s, x, to, |x| x),
        Function::Abs => map1!(s, x, to, |x| s.abs(x)),
        Function::Sqrt => map1!(s, x, to, |x| s.sqrt(x)),
        Function::Round => map1!(s, x, to, |x| s.round(x)),
        Function::Exp => map1!(s, x, to, |x| math::exp(s, x)),
        Function::Sigmoid => map1!(s, x, to, |x| math::sigmoid(s, x)),
        Function::Tanh => map1!(s, x, to, |x| math::tanh(s, x)),
        Function::Erf => map1!(s, x, to, |x| math::erf(s, x)),
        Function::Gelu => map1!(s, x, to, |x| math::gelu(s, x)),
        Function::GeluTanh => map1!(s, x, to, |x| math::gelu_tanh(s, x)),
        Function::Swish(alpha) => {
            let alpha = s.splat(alpha);
            map1!(s, x, to, |x| s.mul(x, math::sigmoid(s, s.mul(x, alpha))));
        }
        Function::HardSwish => {
            let (zero, half, one) = (s.splat(0.0), s.splat(0.5), s.splat(1.0));
            let sixth = s.splat(1.0 / 6.0);
            map1!(s, x, to, |x| s.mul(x, s.min(one, s.max(zero, s.fma(x, sixth, half)))));
        }
        Function::Scalar(f) => {
            for i in 0..to.len() {
                to[i] = f(one(x, to, i));
            }
        }
    }
}

/// Number `i` of an operand.
#[inline(always)]
fn one(tile: Tile<'_>, to: &[f32], i: usize) -> f32 {
    match tile {
        Tile::Number(x) => x,
        Tile::Slice(x) => x[i],
        Tile::Same => to[i],
    }
}

/// A vector of an operand from number `i` on.
#[inline(always)]
fn vector<S: Simd>(s: S, tile: Tile<'_>, to: &[f32], i: usize) -> S::V {
    match tile {
        Tile::Number(x) => s.splat(x),
        Tile::Slice(x) => s.load(&x[i..]),
        Tile::Same => s.load(&to[i..]),
    }
}

/// What is left of an operand from number `i` on, less than a vector.
#[inline(always)]
fn rest<S: Simd>(s: S, tile: Tile<'_>, to: &[f32], i: usize) -> S::V {
    match tile {
        Tile::Number(x) => s.splat(x),
        Tile::Slice(x) => s.load_partial(&x[i..to.len()]),
        Tile::Same => s.load_partial(&to[i..]),
    }
}
