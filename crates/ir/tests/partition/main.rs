//! Every op that says how it can be cut: its parts, evaluated alone on what they are said to need, make the whole.
//!
//! For each case, boxes of random partitions of the iteration space are evaluated one by one: inputs are sliced as the
//! accesses say, what lies outside of an operand is filled with the space's padding, partial results are combined. The
//! result is held against the op evaluated as a whole: bit for bit for exact ops, closely for rounding ones (operands are
//! small multiples of 1/4, so that sums are nearly exact in any order).

mod cases;
mod cut;

use orrery_ir::Op;
use orrery_ir::op::Class;
use orrery_ir::weights::hash64;

/// Ops that run only as a whole, or whose parts need more than slices of the whole's operands.
const WHOLE: &[Op] = &[
    // Their result depends on all of an operand in a way that slices do not show.
    Op::Shape,
    Op::Size,
    Op::Reshape,
    Op::Expand,
    Op::NonZero,
    Op::Unique,
    Op::Compress,
    Op::NonMaxSuppression,
    Op::GatherND,
    Op::ScatterElements,
    Op::ScatterND,
    Op::OneHot,
    Op::MaxUnpool,
    Op::TensorScatter,
    Op::DynamicQuantizeLinear,
    // They make tensors from nothing, or from their own shape.
    Op::ConstantOfShape,
    Op::Range,
    Op::EyeLike,
    Op::AffineGrid,
    Op::HannWindow,
    Op::HammingWindow,
    Op::BlackmanWindow,
    Op::MelWeightMatrix,
    Op::RandomNormal,
    Op::RandomUniform,
    Op::RandomNormalLike,
    Op::RandomUniformLike,
    Op::Bernoulli,
    Op::Multinomial,
    Op::Dropout,
    Op::CenterCropPad,
    // Not for accelerators.
    Op::SequenceEmpty,
    Op::SequenceConstruct,
    Op::SequenceAt,
    Op::SequenceInsert,
    Op::SequenceErase,
    Op::SequenceLength,
    Op::SplitToSequence,
    Op::ConcatFromSequence,
    Op::SequenceMap,
    Op::Optional,
    Op::OptionalGetElement,
    Op::OptionalHasElement,
    Op::StringNormalizer,
    Op::StringConcat,
    Op::StringSplit,
    Op::RegexFullMatch,
    Op::TfIdfVectorizer,
    Op::LabelEncoder,
    Op::ArrayFeatureExtractor,
    Op::Binarizer,
    // Bodies and optimizers are cut inside, or by the passes that know them.
    Op::If,
    Op::Loop,
    Op::Scan,
    Op::Adam,
    Op::Adagrad,
    Op::Momentum,
    // Transforms and resampling.
    Op::DFT,
    Op::STFT,
    Op::Col2Im,
    Op::ResizeGrad,
    // Sums over sequences beside what belongs to one of them.
    Op::RNNGrad,
    Op::GRUGrad,
    Op::LSTMGrad,
];

#[test]
fn parts_make_the_whole() {
    let mut wrong = Vec::new();
    for (number, case) in cases::all().iter().enumerate() {
        let name = format!("case {number}, {}", case.op);
        let checked = case.space().and_then(|space| {
            for round in 0..12 {
                let parts = cut::partition(&space, hash64(number as u64, round));
                cut::check(case, &space, &parts, case.op.def().class == Class::Exact)
                    .map_err(|e| format!("{e}, cut as {parts:?}"))?;
            }
            Ok(())
        });
        if let Err(e) = checked {
            wrong.push(format!("{name}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_op_that_can_be_cut_has_a_case() {
    let cases = cases::all();
    for &op in Op::ALL {
        let tested = cases.iter().any(|case| case.op == op);
        assert!(
            tested != WHOLE.contains(&op),
            "{op} needs either a case or its place among those run as a whole"
        );
    }
}

/// Overlapping windows add to the same outputs; those side by side do not.
#[test]
fn transposed_convolutions_are_cut_over_positions() {
    let all = cases::all();
    let cut = |case: &&cases::Case| case.space().unwrap().axes.iter().any(|axis| axis.name == "width");
    let (cut, whole): (Vec<_>, Vec<_>) =
        all.iter().filter(|case| case.op == Op::ConvTranspose).partition(cut);
    // Where strides leave part of a block over, nothing is.
    assert_eq!((cut.len(), whole.len()), (7, 1));
}

/// Places that become blocks of themselves do without their neighbours; others do not.
#[test]
fn images_are_resized_in_parts_where_places_repeat() {
    let all = cases::all();
    let cut = |case: &&cases::Case| -> [bool; 2] {
        let axes = case.space().unwrap().axes;
        [2, 3].map(|d| axes[d].extent != orrery_ir::Dim::Known(1))
    };
    let found: Vec<[bool; 2]> =
        all.iter().filter(|case| case.op == Op::Resize).map(|case| cut(&case)).collect();
    let (both, second, none) = ([true, true], [false, true], [false, false]);
    assert_eq!(found, [both, both, second, none, none, none]);
}

#[test]
fn a_wrong_space_is_noticed() {
    use orrery_ir::op::Access;
    let case = cases::all().into_iter().find(|c| c.op == Op::Conv).unwrap();
    let good = case.space().unwrap();
    let axis = good.outputs[0].len() - 1;
    let mut parts = vec![vec![(0, 0)]; good.axes.len()];
    for (part, axis) in parts.iter_mut().zip(&good.axes) {
        *part = vec![(0, axis.extent.extent().unwrap())];
    }
    let extent = parts[axis][0].1;
    parts[axis] = vec![(0, 1), (1, extent)];
    assert_eq!(cut::check(&case, &good, &parts, false), Ok(()));
    // A window that starts one element too late.
    let mut shifted = good.clone();
    let last = shifted.inputs[0].len() - 1;
    if let Access::Window { before, .. } = &mut shifted.inputs[0][last] {
        *before -= 1;
    }
    assert_ne!(shifted, good);
    assert!(cut::check(&case, &shifted, &parts, false).is_err());
    // A part that is left out.
    let mut dropped = parts;
    dropped[axis].pop();
    assert!(cut::check(&case, &good, &dropped, false).is_err());
}
