//! Legalising a graph to the number formats of a machine's matrix unit.
//!
//! - Every float of 16 bits or more, activation, weight or constant, becomes the storage type. Integers, bools and 8-bit
//!   floats stay: they are indices, masks, or quantised on purpose, and the scales of quantisation stay binary32.
//! - Ops compute in binary32 inside and round their result once to the type they are stored in. So softmax,
//!   normalizations, sums, exponentials and logarithms need no types of their own.
//! - What leads from positions to a sine or cosine stays binary32 up to it: an angle of a thousand radians has no
//!   fraction in 16 bits.
//! - Sums over a batch, and means and variances made of them, stay binary32 until a whole tensor is normalised by them.
//! - An op whose type rule does not take the storage type computes in binary32 between two casts.
//! - The user's types stay at the border: an input is cast to storage first, an output cast back last. [`store_border`]
//!   then leaves these casts to the host.
//! - Where the unit reads less of an operand than storage holds (tf32), operands of products are rounded by
//!   [`Op::RoundTo`], constant ones here and once. What a fused attention multiplies inside, its weights, is not rounded.
//! - Partials other than binary32 (binary64 for f64) are written on each op as the attribute `accumulate`.
//! - A finite constant out of range of the storage type becomes its largest number, never infinite: masks of -3.4e38
//!   are multiplied by zero. [`Narrowing`] reports it, and what becomes subnormal or zero.
//! - Formats of 8 bits need a scale for each tensor, which only calibration data give. Where no elements are asked for,
//!   bytes and rates follow without: every float is then an 8-bit one, and a note says so.

mod angles;
mod border;
mod convert;
mod narrow;
mod statistics;

pub use border::store_border;
pub use narrow::{NarrowedWeight, Narrowing};

use crate::Weights;
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Graph, infer};
use orrery_numerics::{DType, Format};

/// The number formats of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrecisionSpec {
    /// How tensors lie in memory.
    pub storage: DType,
    /// Format the operands of a product are rounded to: the name of a [`Format`] or a [`DType`].
    pub multiply: String,
    /// Format products are summed in: the name of a [`Format`] or a [`DType`].
    pub accumulate: String,
    /// Whether the machine narrows results stochastically. The graph rounds to nearest; a note says so.
    pub stochastic: bool,
}

impl PrecisionSpec {
    /// Operands stored and multiplied in `storage`, summed in binary32 (binary64 for f64).
    pub fn plain(storage: DType) -> Self {
        let sum = if storage == DType::F64 { DType::F64 } else { DType::F32 };
        Self { storage, multiply: storage.name().into(), accumulate: sum.name().into(), stochastic: false }
    }
}

/// A legal graph.
#[derive(Clone, Debug)]
pub struct Legalised {
    /// The graph.
    pub graph: Graph,
    /// What narrowing did to the weights.
    pub narrowing: Narrowing,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// The formats of a [`PrecisionSpec`], read.
struct Formats {
    storage: DType,
    /// What operands of products are rounded to, where storage holds more.
    multiply: Option<Format>,
    /// What products are summed in, where an op would not do so by itself.
    accumulate: Option<Format>,
}

/// Brings a graph's floats to the formats of a machine: see the module.
///
/// # Errors
/// `legalise-needs-calibration` for formats that need scales per tensor; `legalise-format` where the formats name
/// nothing known; `type-rule` where the graph breaks one.
pub fn legalise(graph: &Graph, spec: &PrecisionSpec, weights: Weights) -> Result<Legalised> {
    let mut typed = graph.clone();
    infer::infer(&mut typed)?;
    if spec.storage.bits() < 16 && !has_wide_floats(&typed) {
        // What the user quantised stays as it is.
        return Ok(Legalised { graph: typed, narrowing: Narrowing::default(), notes: Vec::new() });
    }
    let formats = read(spec, weights)?;
    let mut legalised = convert::convert(&typed, &formats, weights)?;
    infer::infer(&mut legalised.graph)?;
    legalised.notes.extend(legalised.narrowing.note(spec.storage));
    if spec.storage.bits() < 16 {
        let cause = format!("timed as if every tensor were quantised to {}", spec.storage);
        legalised.notes.push(
            Diagnostic::note("legalise-as-quantised", cause)
                .help("to compute with it, quantise the model with calibration data first"),
        );
    }
    if spec.stochastic {
        legalised.notes.push(Diagnostic::note(
            "legalise-stochastic",
            "the machine can narrow to 16 bits stochastically; the model computed here rounds to nearest",
        ));
    }
    crate::check(&legalised.graph)?;
    Ok(legalised)
}

/// Whether any tensor is of a float type that would have to be narrowed.
fn has_wide_floats(graph: &Graph) -> bool {
    let mut types = graph.values.values().filter_map(|value| value.ty.as_tensor());
    types.any(|ty| ty.dtype.is_float() && ty.dtype.bits() >= 16)
}

fn read(spec: &PrecisionSpec, weights: Weights) -> Result<Formats> {
    let storage = spec.storage;
    if storage.bits() == 8 && weights == Weights::ShapeOnly {
        return Ok(Formats { storage: DType::F8E4M3FN, multiply: None, accumulate: None });
    }
    if !storage.is_float() || storage.bits() < 16 {
        let cause = format!(
            "a model cannot be brought to {storage} by changing types alone: its tensors need scales"
        );
        return Diagnostic::error("legalise-needs-calibration", cause)
            .help("quantise the model with calibration data first; QuantizeLinear and DequantizeLinear are kept")
            .help("or choose a precision of 16 bits or more")
            .err();
    }
    let format = |name: &str| {
        Format::parse(name).ok_or_else(|| {
            let names: Vec<&str> = Format::ALL.iter().map(|f| f.name).collect();
            Box::new(
                Diagnostic::error("legalise-format", format!("`{name}` is no number format"))
                    .help(format!("known formats: {}", names.join(", "))),
            )
        })
    };
    let held = Format::of(storage).expect("floating-point types have a format");
    let multiply = Some(format(&spec.multiply)?).filter(|m| !m.contains(held));
    let usual = if storage == DType::F64 { Format::FP64 } else { Format::FP32 };
    let accumulate = Some(format(&spec.accumulate)?).filter(|a| *a != usual);
    Ok(Formats { storage, multiply, accumulate })
}

/// True for the types that become the storage type.
fn changes(dtype: DType) -> bool {
    dtype.is_float() && dtype.bits() >= 16
}
