//! Elements of constants that are made rather than read.

use crate::{Def, Graph, State, Type, Value, ValueId, Weight};
use orrery_base::{Diagnostic, Result};
use orrery_numerics::{Rounding, Tensor};

/// A 64-bit hash of a counter: the generator behind every seeded value, the same on every machine.
pub fn hash64(seed: u64, counter: u64) -> u64 {
    // SplitMix64 (Steele, Lea, Flood 2014) over the counter, keyed by the mixed seed.
    fn mix(mut z: u64) -> u64 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    let key = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    mix(key.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// `count` elements, approximately normal: each is the sum of four uniform 16-bit numbers, so it stays within 3.46
/// deviations and needs no function whose last bit differs between machines.
pub fn normal(seed: u64, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
    let scale = deviation * 3_f64.sqrt() / 65536.0;
    (0..count as u64)
        .map(|i| {
            let h = hash64(seed, i);
            let sum: i64 = (0..4).map(|k| ((h >> (16 * k)) & 0xffff) as i64).sum();
            (mean + (sum - 131_070) as f64 * scale) as f32
        })
        .collect()
}

/// The elements of a constant.
///
/// # Errors
/// `weights-absent` where the graph does not hold them; `weights-symbolic` where their shape is not known in numbers;
/// `weights-type` where a seeded weight is not of a float type.
pub fn materialize(graph: &Graph, id: ValueId) -> Result<Tensor> {
    let value = &graph.values[id];
    let Def::Constant(weight) = &value.def else {
        return Diagnostic::error("weights-absent", format!("`{}` is no constant", value.name)).err();
    };
    elements(value, weight)
}

/// What the first run finds in a state.
///
/// # Errors
/// As [`materialize`].
pub fn initial(graph: &Graph, state: &State) -> Result<Tensor> {
    elements(&graph.values[graph.inputs[state.input]], &state.initial)
}

/// The elements of a weight that a value has.
fn elements(value: &Value, weight: &Weight) -> Result<Tensor> {
    match weight {
        Weight::Data(tensor) => Ok(tensor.clone()),
        Weight::Absent | Weight::Digest(_) => Diagnostic::error(
            "weights-absent",
            format!("the elements of weight `{}` are not in the model", value.name),
        )
        .help("the model can be compiled and timed as it is; to run it, give a file with its weights")
        .err(),
        Weight::Seeded { seed, mean, deviation } => {
            let shape = value.ty.as_tensor().and_then(crate::TensorType::extents);
            let (Some(shape), Type::Tensor(ty)) = (shape, &value.ty) else {
                return Diagnostic::error(
                    "weights-symbolic",
                    format!("weight `{}` has type {}, which leaves its size open", value.name, value.ty),
                )
                .err();
            };
            if !ty.dtype.is_float() {
                let cause =
                    format!("weight `{}` of type {} cannot be drawn, only floats can", value.name, value.ty);
                return Diagnostic::error("weights-type", cause).err();
            }
            let elements = normal(*seed, shape.iter().product(), *mean, *deviation);
            Ok(Tensor::from_f32(ty.dtype, shape, elements, Rounding::NearestEven, false))
        }
    }
}
