//! Casting and rounding weights, and counting what a narrower range does to them.

use crate::Weights;
use orrery_base::Diagnostic;
use orrery_ir::Weight;
use orrery_numerics::{DType, Format, Rounding, Tensor, cast, round_slice};

/// Bytes up to which constants are computed even where only shapes are asked for: they may be needed to compile.
const SMALL: usize = 64 << 10;

/// A weight of which narrowing changed more than the last place of some elements.
#[derive(Clone, Debug, PartialEq)]
pub struct NarrowedWeight {
    /// Its name.
    pub name: String,
    /// Number of elements.
    pub elements: u64,
    /// Finite elements out of range, held at the largest number.
    pub overflowed: u64,
    /// Elements that lost digits because they became subnormal.
    pub subnormal: u64,
    /// Elements that became zero.
    pub vanished: u64,
    /// Largest magnitude before.
    pub largest: f64,
}

/// What narrowing did to the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Narrowing {
    /// Weights that were converted.
    pub converted: usize,
    /// Those that suffered, the worst first: most elements out of range, then most that vanished.
    pub suffered: Vec<NarrowedWeight>,
}

impl Narrowing {
    /// A warning where elements are out of range; a note where some only vanish.
    pub(super) fn note(&self, storage: DType) -> Option<Diagnostic> {
        let worst = self.suffered.first()?;
        let names: Vec<String> = self.suffered.iter().take(3).map(|w| format!("`{}`", w.name)).collect();
        let and_more = if self.suffered.len() > 3 { ", ..." } else { "" };
        let total = |count: fn(&NarrowedWeight) -> u64| self.suffered.iter().map(count).sum::<u64>();
        let overflowed = total(|w| w.overflowed);
        let counts = [
            (overflowed, "are out of range and held at its largest number"),
            (total(|w| w.vanished), "become zero"),
            (total(|w| w.subnormal), "become subnormal"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if counts.is_empty() {
            return None;
        }
        let cause = format!(
            "{} of {} weights lose more than digits in {storage} ({}{and_more}): of their elements {}; the worst is `{}` \
             with magnitudes up to {:.4e}",
            self.suffered.len(),
            self.converted,
            names.join(", "),
            counts.join(", "),
            worst.name,
            worst.largest,
        );
        Some(if overflowed > 0 {
            Diagnostic::warning("legalise-overflow", cause)
                .help("bf16 has the range of fp32, where the machine offers it")
        } else {
            Diagnostic::note("legalise-underflow", cause)
        })
    }
    pub(super) fn sort(&mut self) {
        self.suffered.sort_by(|a, b| {
            (b.overflowed, b.vanished, b.subnormal)
                .cmp(&(a.overflowed, a.vanished, a.subnormal))
                .then(a.name.cmp(&b.name))
        });
    }
    fn count(&mut self, name: &str, values: &[f32], format: Format) {
        self.converted += 1;
        // Magnitudes compare as their bits do, which makes the common case one pass over integers.
        let magnitude = |v: f32| v.to_bits() & 0x7fff_ffff;
        let largest = values.iter().map(|&v| magnitude(v)).filter(|&m| m < 0x7f80_0000).max().unwrap_or(0);
        let (max, normal) = (format.max_finite() as f32, format.min_normal() as f32);
        let low = values.iter().filter(|&&v| magnitude(v).wrapping_sub(1) < normal.to_bits() - 1).count();
        let mut weight = NarrowedWeight {
            name: name.to_owned(),
            elements: values.len() as u64,
            overflowed: 0,
            subnormal: 0,
            vanished: 0,
            largest: f32::from_bits(largest).into(),
        };
        if f32::from_bits(largest) > max {
            weight.overflowed = values
                .iter()
                .filter(|v| v.is_finite() && format.nearest(f64::from(**v)).is_infinite())
                .count() as u64;
        }
        if low > 0 {
            for &value in values.iter().filter(|v| **v != 0.0 && v.abs() < normal) {
                let narrow = format.nearest(value.into());
                weight.vanished += u64::from(narrow == 0.0);
                weight.subnormal += u64::from(narrow != 0.0 && narrow != f64::from(value));
            }
        }
        if weight.overflowed + weight.subnormal + weight.vanished > 0 {
            self.suffered.push(weight);
        }
    }
}

/// A weight as `dtype`; out of range at its largest number.
pub(super) fn cast_weight(
    name: &str,
    weight: &Weight,
    dtype: DType,
    weights: Weights,
    narrowing: &mut Narrowing,
) -> Weight {
    match weight {
        // Seeded elements are made in the type of the value.
        Weight::Absent | Weight::Digest(_) => Weight::Absent,
        Weight::Seeded { .. } => weight.clone(),
        Weight::Data(tensor) if tensor.dtype() == dtype => weight.clone(),
        Weight::Data(tensor) if too_large(tensor, weights) => Weight::Absent,
        Weight::Data(tensor) => Weight::Data(narrow(name, tensor, dtype, narrowing)),
    }
}

fn too_large(tensor: &Tensor, weights: Weights) -> bool {
    weights == Weights::ShapeOnly && tensor.bytes().len() > SMALL
}

fn narrow(name: &str, tensor: &Tensor, dtype: DType, narrowing: &mut Narrowing) -> Tensor {
    let (from, to) = (Format::of(tensor.dtype()), Format::of(dtype));
    let (Some(from), Some(to)) = (from, to) else { unreachable!("only floats are narrowed") };
    let number = "floating-point tensors hold numbers";
    if to.contains(from) {
        return cast(tensor, dtype, Rounding::NearestEven, false).expect(number);
    }
    if from == Format::FP64 && to == Format::FP32 {
        let values = tensor.to_f64().expect(number);
        let held: Vec<f32> = values
            .iter()
            .map(|&v| if v.is_finite() { v.clamp(-max(to), max(to)) as f32 } else { v as f32 })
            .collect();
        narrowing.converted += 1;
        return Tensor::from_vec(tensor.shape().to_vec(), held);
    }
    let values = tensor.to_f32().expect(number);
    let before = narrowing.suffered.len();
    narrowing.count(name, &values, to);
    let overflowed = narrowing.suffered.get(before).is_some_and(|w| w.overflowed > 0);
    if !overflowed {
        return Tensor::from_f32(dtype, tensor.shape().to_vec(), &*values, Rounding::NearestEven, false);
    }
    let limit = max(to) as f32;
    let held: Vec<f32> =
        values.iter().map(|&v| if v.is_finite() { v.clamp(-limit, limit) } else { v }).collect();
    Tensor::from_f32(dtype, tensor.shape().to_vec(), held, Rounding::NearestEven, false)
}

fn max(format: Format) -> f64 {
    format.max_finite()
}

/// A weight as `dtype`, its elements rounded to a format that is narrower still; none where it can only be rounded when it
/// is made.
pub(super) fn round_weight(
    weight: &Weight,
    dtype: DType,
    format: Format,
    weights: Weights,
) -> Option<Weight> {
    match weight {
        Weight::Absent | Weight::Digest(_) => Some(Weight::Absent),
        Weight::Seeded { .. } => None,
        Weight::Data(tensor) if too_large(tensor, weights) => Some(Weight::Absent),
        Weight::Data(tensor) => {
            let mut values = tensor.to_f32().ok()?.into_owned();
            round_slice(&mut values, format, Rounding::NearestEven, false, 0);
            let shape = tensor.shape().to_vec();
            Some(Weight::Data(Tensor::from_f32(dtype, shape, values, Rounding::NearestEven, false)))
        }
    }
}
