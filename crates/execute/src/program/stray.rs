//! Numbers that know how far two computations of them can lie apart: the machine's, which adds products in its own way,
//! and the interpreter's. All but sums of products both take in binary32.

use orrery_ir::Node;
use orrery_ir::op::attention::{self, Real};
use orrery_ir::op::matrix::kernel::Scalar;
use orrery_ir::op::{Datum, EvalCtx};
use orrery_numerics::{Accumulation, DType, Format, Tensor};
use std::borrow::Cow;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A rounding to binary32 in each of the two.
const TWO_ROUNDINGS: f64 = 2.0 / (1_u64 << 24) as f64;
/// What may be lost below the smallest binary32, in both.
const UNDERFLOW: f64 = f32::from_bits(1) as f64;
/// Functions are at most two units in the last place off.
const TWO_FUNCTIONS: f64 = 4.0 * TWO_ROUNDINGS;

/// The exact number, and how far the two can be from each other and each from it.
#[derive(Clone, Copy, Debug, Default)]
struct Stray {
    value: f64,
    by: f64,
}

/// For each output of an attention or its gradient, how far its elements can lie apart before they are rounded to their
/// type, where the machine adds products in the way `how`.
///
/// # Errors
/// What the op says.
pub(super) fn of_attention(
    node: &Node,
    inputs: &[Option<Tensor>],
    how: Accumulation,
) -> Result<Vec<Tensor>, String> {
    let inputs: Vec<Option<Datum>> = inputs.iter().map(|t| t.clone().map(Datum::Tensor)).collect();
    let run_body = |_: &_, _| Err("attention has no body".into());
    let ctx = EvalCtx { node, inputs: &inputs, seed: 0, accumulation: Some(how), run_body: &run_body };
    let made = attention::evaluate::<Stray>(&ctx)?;
    Ok(made.iter().filter_map(|datum| datum.as_tensor().cloned()).collect())
}

impl Stray {
    fn new(value: f64, by: f64) -> Self {
        // Both hide what is hidden.
        Self { value, by: if value.is_infinite() { 0.0 } else { by } }
    }
    /// The result of an operation that has been rounded in each of the two.
    fn rounded(value: f64, by: f64) -> Self {
        Self::new(value, by + TWO_ROUNDINGS * (value.abs() + by) + UNDERFLOW)
    }
}

impl PartialEq for Stray {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
impl PartialOrd for Stray {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}
impl Add for Stray {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::rounded(self.value + other.value, self.by + other.by)
    }
}
impl Sub for Stray {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}
impl Neg for Stray {
    type Output = Self;
    fn neg(self) -> Self {
        Self { value: -self.value, ..self }
    }
}
impl Mul for Stray {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self::rounded(self.value * other.value, apart(self, other))
    }
}
/// What the strays of two factors make of their product.
fn apart(a: Stray, b: Stray) -> f64 {
    a.value.abs() * b.by + b.value.abs() * a.by + a.by * b.by
}
impl Div for Stray {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        // The divisor is at least so large; where it may be nothing, the quotient may be anything.
        let least = other.value.abs() - other.by;
        let by = if least > 0.0 { (self.by + value.abs() * other.by) / least } else { f64::INFINITY };
        Self::rounded(value, by)
    }
}
impl AddAssign for Stray {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl std::iter::Sum for Stray {
    fn sum<I: Iterator<Item = Self>>(numbers: I) -> Self {
        numbers.fold(Self::ZERO, Add::add)
    }
}

impl Scalar for Stray {
    fn add_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }
    fn dot(how: &Accumulation, pairs: impl Iterator<Item = (Self, Self)>) -> Self {
        let (mut terms, mut value, mut magnitude, mut by) = (0, 0.0, 0.0, 0.0);
        for (a, b) in pairs {
            terms += 1;
            value += a.value * b.value;
            by += apart(a, b);
            magnitude += (a.value * b.value).abs() + apart(a, b);
        }
        let sums = how.bound(terms, magnitude) + Accumulation::new(Format::FP32).bound(terms, magnitude);
        Self::new(value, by + sums)
    }
}

impl Real for Stray {
    const ZERO: Self = Self { value: 0.0, by: 0.0 };
    const ONE: Self = Self { value: 1.0, by: 0.0 };
    const INFINITY: Self = Self { value: f64::INFINITY, by: 0.0 };
    fn from_f64(value: f64) -> Self {
        // Both take the same number, rounded once.
        Self { value: f64::from(value as f32), by: 0.0 }
    }
    fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String> {
        let values = tensor.to_f64().map_err(|e| e.to_string())?;
        Ok(values.iter().map(|&value| Self { value, by: 0.0 }).collect())
    }
    /// How far they stray.
    fn tensor(_: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
        Tensor::from_vec(shape, values.into_iter().map(|v| v.by).collect::<Vec<f64>>())
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        Self::new(value, value * (self.by.exp_m1() * (1.0 + TWO_FUNCTIONS) + TWO_FUNCTIONS) + UNDERFLOW)
    }
    fn tanh(self) -> Self {
        let value = self.value.tanh();
        Self::new(value, self.by + TWO_FUNCTIONS * value.abs())
    }
    /// Either may be the larger where they are close: the larger of both is no farther off than the farther.
    fn larger(self, other: Self) -> Self {
        Self::new(self.value.max(other.value), self.by.max(other.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::interpret::eval_node_adding;
    use orrery_ir::weights::normal;
    use orrery_ir::{Attrs, Op};

    /// Results that add in the machine's way stay within the bounds, and far enough apart to be told from those that do not.
    #[test]
    fn attention_strays_no_farther_than_said() {
        let tensor = |seed: u64, shape: &[usize]| {
            Tensor::from_vec(shape.to_vec(), normal(seed, shape.iter().product(), 0.0, 1.0))
        };
        let heads = Attrs::new().with("q_num_heads", 4_i64).with("kv_num_heads", 2_i64);
        for (op, attrs) in [
            (Op::Attention, heads.clone()),
            (Op::AttentionGrad, heads.clone().with("is_causal", 1_i64)),
            (Op::AttentionGrad, heads.with("softcap", 2.0)),
        ] {
            let backward = op == Op::AttentionGrad;
            let mut inputs = vec![tensor(1, &[2, 24, 64]), tensor(2, &[2, 40, 32]), tensor(3, &[2, 40, 32])];
            inputs.extend(backward.then(|| tensor(4, &[2, 24, 64])));
            let inputs: Vec<Option<Tensor>> = inputs.into_iter().map(Some).collect();
            let operands: Vec<Option<Datum>> = inputs.iter().map(|t| t.clone().map(Datum::Tensor)).collect();
            let (name, outputs) = (String::new(), vec![None; if backward { 3 } else { 1 }]);
            let node = Node { op, name, inputs: Vec::new(), outputs, attrs, bodies: Vec::new() };
            let group = Accumulation::new(Format::FP16).grouped(16);
            let how = Accumulation { within: Some(Format::FP32), ..group };
            let run = |how| eval_node_adding(&node, &operands, 0, how).unwrap();
            let bounds = of_attention(&node, &inputs, how).unwrap();
            let close = of_attention(&node, &inputs, Accumulation::new(Format::FP32)).unwrap();
            for (i, (machine, plain)) in run(Some(how)).iter().zip(run(None)).enumerate() {
                let read = |t: &Tensor| t.to_f64().unwrap().into_owned();
                let (machine, plain) = (read(machine.as_tensor().unwrap()), read(plain.as_tensor().unwrap()));
                let (bounds, close) = (read(&bounds[i]), read(&close[i]));
                let apart: Vec<f64> = machine.iter().zip(&plain).map(|(a, b)| (a - b).abs()).collect();
                assert!(apart.iter().zip(&bounds).all(|(d, bound)| d <= bound), "{op}, output {i}");
                let told = apart.iter().zip(&close).filter(|(d, bound)| d > bound).count();
                assert!(told * 4 > apart.len(), "{op}, output {i}: {told} of {}", apart.len());
                let size = |of: &[f64]| of.iter().map(|v| v.abs()).sum::<f64>();
                assert!(
                    size(&bounds) < 0.3 * size(&plain),
                    "{op}, output {i}: {} {}",
                    size(&bounds),
                    size(&plain)
                );
            }
        }
    }
}
