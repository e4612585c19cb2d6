//! Every operator of ONNX: since which version of its operator set, and how it becomes ops of the graph.
//!
//! A row lists the versions at which the way it is imported changes; the first is where the operator appears.

use super::call::Call;
use super::import::Import;
use super::{control, upgrade};
use orrery_base::Result;
use orrery_ir::Op;

/// What an upgrade did.
pub(super) enum Done {
    /// It added all nodes and bound the results.
    Made,
    /// The call, as changed, is this op.
    Becomes(Op),
    /// It cannot, for this reason.
    Cannot(String),
}

/// From an older form to the newest.
pub(super) type Upgrade = for<'m> fn(&mut Import<'m>, &mut Call<'m>) -> Result<Done>;

/// How an operator is imported.
pub(super) enum Form {
    /// As the op of the same name, attributes and operands as they are.
    Same,
    /// By a function.
    Upgrade(Upgrade),
    /// Not at all.
    Unknown(&'static str),
}
use Form::{Same, Unknown, Upgrade as By};

type Row = (&'static str, &'static [(i64, Form)]);

const LINEAR: &str = "recurrences over a state are written as Scan or Loop";
const TREES: &str = "tree ensembles and other classical models have no place on an accelerator";
const MAPS: &str = "maps and classical models have no place on an accelerator";

/// Newest version that is known of each domain.
const NEWEST: &[(&str, i64)] = &[("", 28), ("ai.onnx.ml", 5), ("ai.onnx.preview.training", 1)];

/// `ai.onnx`.
const STANDARD: &[Row] = &[
    ("Abs", &[(1, Same)]),
    ("Acos", &[(7, Same)]),
    ("Acosh", &[(9, Same)]),
    ("Add", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("AffineGrid", &[(20, Same)]),
    ("And", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("ArgMax", &[(1, Same)]),
    ("ArgMin", &[(1, Same)]),
    ("Asin", &[(7, Same)]),
    ("Asinh", &[(9, Same)]),
    ("Atan", &[(7, Same)]),
    ("Atanh", &[(9, Same)]),
    ("Attention", &[(23, Same)]),
    ("AveragePool", &[(1, Same)]),
    ("BatchNormalization", &[(1, By(upgrade::normalization::batch_normalization)), (14, Same)]),
    ("Bernoulli", &[(15, Same)]),
    ("BitCast", &[(26, Unknown("the bits of one type cannot be taken for another's"))]),
    ("BitShift", &[(11, Same)]),
    ("BitwiseAnd", &[(18, Same)]),
    ("BitwiseNot", &[(18, Same)]),
    ("BitwiseOr", &[(18, Same)]),
    ("BitwiseXor", &[(18, Same)]),
    ("BlackmanWindow", &[(17, Same)]),
    ("Cast", &[(1, Same)]),
    ("CastLike", &[(15, Same)]),
    ("CausalConvWithState", &[(27, Unknown(LINEAR))]),
    ("Ceil", &[(1, Same)]),
    ("Celu", &[(12, Same)]),
    ("CenterCropPad", &[(18, Same)]),
    ("Clip", &[(1, By(upgrade::math::clip)), (11, Same)]),
    ("Col2Im", &[(18, Same)]),
    ("Compress", &[(9, Same)]),
    ("Concat", &[(1, By(upgrade::shape::concat)), (4, Same)]),
    ("ConcatFromSequence", &[(11, Same)]),
    ("Constant", &[(1, By(upgrade::constant::constant))]),
    ("ConstantOfShape", &[(9, By(upgrade::constant::constant_of_shape))]),
    ("Conv", &[(1, Same)]),
    ("ConvInteger", &[(10, Same)]),
    ("ConvTranspose", &[(1, Same)]),
    ("Cos", &[(7, Same)]),
    ("Cosh", &[(9, Same)]),
    ("CumProd", &[(26, Same)]),
    ("CumSum", &[(11, Same)]),
    ("DFT", &[(17, By(upgrade::shape::dft)), (20, Same)]),
    ("DeformConv", &[(19, Same)]),
    ("DepthToSpace", &[(1, Same)]),
    ("DequantizeLinear", &[(10, Same)]),
    ("Det", &[(11, Same)]),
    ("Div", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("Dropout", &[(1, By(upgrade::normalization::dropout)), (12, Same)]),
    ("DynamicQuantizeLinear", &[(11, Same)]),
    ("Einsum", &[(12, Same)]),
    ("Elu", &[(1, Same)]),
    ("Equal", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("Erf", &[(9, Same)]),
    ("Exp", &[(1, Same)]),
    ("Expand", &[(8, Same)]),
    ("EyeLike", &[(9, Same)]),
    ("Flatten", &[(1, Same)]),
    ("Floor", &[(1, Same)]),
    ("GRU", &[(1, By(upgrade::math::recurrent)), (7, Same)]),
    ("Gather", &[(1, Same)]),
    ("GatherElements", &[(11, Same)]),
    ("GatherND", &[(11, Same)]),
    ("Gelu", &[(20, Same)]),
    ("Gemm", &[(1, By(upgrade::math::gemm)), (7, Same)]),
    ("GlobalAveragePool", &[(1, Same)]),
    ("GlobalLpPool", &[(1, By(upgrade::math::float_norm)), (2, Same)]),
    ("GlobalMaxPool", &[(1, Same)]),
    ("Greater", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("GreaterOrEqual", &[(12, Same)]),
    ("GridSample", &[(16, By(upgrade::shape::grid_sample)), (20, Same)]),
    ("GroupNormalization", &[(18, By(upgrade::normalization::group_normalization)), (21, Same)]),
    ("HammingWindow", &[(17, Same)]),
    ("HannWindow", &[(17, Same)]),
    ("HardSigmoid", &[(1, Same)]),
    ("HardSwish", &[(14, Same)]),
    ("Hardmax", &[(1, By(upgrade::math::flattened_softmax)), (13, Same)]),
    ("Identity", &[(1, Same)]),
    ("If", &[(1, By(control::if_else))]),
    ("ImageDecoder", &[(20, Unknown("image files are decoded before a model runs, not by it"))]),
    ("InstanceNormalization", &[(1, Same)]),
    ("IsInf", &[(10, Same)]),
    ("IsNaN", &[(9, Same)]),
    ("LRN", &[(1, Same)]),
    ("LSTM", &[(1, By(upgrade::math::recurrent)), (7, Same)]),
    ("LayerNormalization", &[(17, Same)]),
    ("LeakyRelu", &[(1, Same)]),
    ("Less", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("LessOrEqual", &[(12, Same)]),
    ("LinearAttention", &[(27, Unknown(LINEAR))]),
    ("Log", &[(1, Same)]),
    ("LogSoftmax", &[(1, By(upgrade::math::flattened_softmax)), (13, Same)]),
    ("Loop", &[(1, By(control::loop_while))]),
    ("LpNormalization", &[(1, Same)]),
    ("LpPool", &[(1, By(upgrade::math::float_norm)), (2, Same)]),
    ("MatMul", &[(1, Same)]),
    ("MatMulInteger", &[(10, Same)]),
    ("Max", &[(1, Same)]),
    ("MaxPool", &[(1, Same)]),
    ("MaxRoiPool", &[(1, Same)]),
    ("MaxUnpool", &[(9, Same)]),
    ("Mean", &[(1, Same)]),
    ("MeanVarianceNormalization", &[(9, Same)]),
    ("MelWeightMatrix", &[(17, Same)]),
    ("Min", &[(1, Same)]),
    ("Mish", &[(18, Same)]),
    ("Mod", &[(10, Same)]),
    ("Mul", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("Multinomial", &[(7, Same)]),
    ("Neg", &[(1, Same)]),
    ("NegativeLogLikelihoodLoss", &[(12, Same)]),
    ("NonMaxSuppression", &[(10, Same)]),
    ("NonZero", &[(9, Same)]),
    ("Not", &[(1, Same)]),
    ("OneHot", &[(9, Same)]),
    ("Optional", &[(15, Same)]),
    ("OptionalGetElement", &[(15, Same)]),
    ("OptionalHasElement", &[(15, Same)]),
    ("Or", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("PRelu", &[(1, By(upgrade::math::channel_slope)), (7, Same)]),
    ("Pad", &[(1, By(upgrade::shape::pad)), (11, Same)]),
    ("Pow", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("QLinearConv", &[(10, Same)]),
    ("QLinearMatMul", &[(10, Same)]),
    ("QuantizeLinear", &[(10, Same)]),
    ("RMSNormalization", &[(23, Same)]),
    ("RNN", &[(1, By(upgrade::math::recurrent)), (7, Same)]),
    ("RandomNormal", &[(1, Same)]),
    ("RandomNormalLike", &[(1, Same)]),
    ("RandomUniform", &[(1, Same)]),
    ("RandomUniformLike", &[(1, Same)]),
    ("Range", &[(11, Same), (27, By(upgrade::math::range))]),
    ("Reciprocal", &[(1, Same)]),
    ("ReduceL1", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceL2", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceLogSum", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceLogSumExp", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceMax", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceMean", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceMin", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceProd", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("ReduceSum", &[(1, By(upgrade::shape::axes_input)), (13, Same)]),
    ("ReduceSumSquare", &[(1, By(upgrade::shape::axes_input)), (18, Same)]),
    ("RegexFullMatch", &[(20, Same)]),
    ("Relu", &[(1, Same)]),
    ("Reshape", &[(1, By(upgrade::shape::reshape)), (5, Same)]),
    ("Resize", &[(10, By(upgrade::shape::resize_by_scales)), (11, By(upgrade::shape::resize)), (13, Same)]),
    ("ReverseSequence", &[(10, Same)]),
    ("RoiAlign", &[(10, By(upgrade::shape::roi_align)), (16, Same)]),
    ("RotaryEmbedding", &[(23, Same)]),
    ("Round", &[(11, Same)]),
    ("STFT", &[(17, Same)]),
    ("Scan", &[(8, By(control::batched_scan)), (9, By(control::scan))]),
    ("Scatter", &[(9, By(upgrade::shape::scatter))]),
    ("ScatterElements", &[(11, Same)]),
    ("ScatterND", &[(11, Same)]),
    ("Selu", &[(1, Same)]),
    ("SequenceAt", &[(11, Same)]),
    ("SequenceConstruct", &[(11, Same)]),
    ("SequenceEmpty", &[(11, Same)]),
    ("SequenceErase", &[(11, Same)]),
    ("SequenceInsert", &[(11, Same)]),
    ("SequenceLength", &[(11, Same)]),
    ("SequenceMap", &[(17, By(control::sequence_map))]),
    ("Shape", &[(1, Same)]),
    ("Shrink", &[(9, Same)]),
    ("Sigmoid", &[(1, Same)]),
    ("Sign", &[(9, Same)]),
    ("Sin", &[(7, Same)]),
    ("Sinh", &[(9, Same)]),
    ("Size", &[(1, Same)]),
    ("Slice", &[(1, By(upgrade::shape::slice)), (10, Same)]),
    ("Softmax", &[(1, By(upgrade::math::flattened_softmax)), (13, Same)]),
    ("SoftmaxCrossEntropyLoss", &[(12, Same)]),
    ("Softplus", &[(1, Same)]),
    ("Softsign", &[(1, Same)]),
    ("SpaceToDepth", &[(1, Same), (28, By(upgrade::shape::space_to_depth))]),
    ("Split", &[(1, By(upgrade::shape::split)), (18, Same)]),
    ("SplitToSequence", &[(11, Same)]),
    ("Sqrt", &[(1, Same)]),
    ("Squeeze", &[(1, By(upgrade::shape::axes_input)), (13, Same)]),
    ("StringConcat", &[(20, Same)]),
    ("StringNormalizer", &[(10, Same)]),
    ("StringSplit", &[(20, Same)]),
    ("Sub", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
    ("Sum", &[(1, Same)]),
    ("SwiGLU", &[(28, By(upgrade::math::swiglu))]),
    ("Swish", &[(24, Same)]),
    ("Tan", &[(7, Same)]),
    ("Tanh", &[(1, Same)]),
    ("TensorScatter", &[(24, Same)]),
    ("TfIdfVectorizer", &[(9, Same)]),
    ("ThresholdedRelu", &[(10, Same)]),
    ("Tile", &[(1, Unknown("Tile of operator sets before 6 counts along one axis")), (6, Same)]),
    ("TopK", &[(1, By(upgrade::shape::top_k)), (10, Same)]),
    ("Transpose", &[(1, Same)]),
    ("Trilu", &[(14, Same)]),
    ("Unique", &[(11, Same)]),
    ("Unsqueeze", &[(1, By(upgrade::shape::axes_input)), (13, Same)]),
    ("Upsample", &[(1, By(upgrade::shape::upsample))]),
    ("Where", &[(9, Same)]),
    ("Xor", &[(1, By(upgrade::math::old_broadcast)), (7, Same)]),
];

/// `ai.onnx.ml`.
const LEARNING: &[Row] = &[
    ("ArrayFeatureExtractor", &[(1, Same)]),
    ("Binarizer", &[(1, Same)]),
    ("CastMap", &[(1, Unknown(MAPS))]),
    ("CategoryMapper", &[(1, Unknown(MAPS))]),
    ("DictVectorizer", &[(1, Unknown(MAPS))]),
    ("FeatureVectorizer", &[(1, Unknown(MAPS))]),
    ("Imputer", &[(1, Unknown(MAPS))]),
    (
        "LabelEncoder",
        &[
            (1, Unknown("LabelEncoder of its first version maps both ways")),
            (2, By(upgrade::constant::label_encoder)),
        ],
    ),
    ("LinearClassifier", &[(1, Unknown(MAPS))]),
    ("LinearRegressor", &[(1, Unknown(MAPS))]),
    ("Normalizer", &[(1, Unknown(MAPS))]),
    ("OneHotEncoder", &[(1, Unknown(MAPS))]),
    ("SVMClassifier", &[(1, Unknown(MAPS))]),
    ("SVMRegressor", &[(1, Unknown(MAPS))]),
    ("Scaler", &[(1, Unknown(MAPS))]),
    ("TreeEnsemble", &[(5, Unknown(TREES))]),
    ("TreeEnsembleClassifier", &[(1, Unknown(TREES))]),
    ("TreeEnsembleRegressor", &[(1, Unknown(TREES))]),
    ("ZipMap", &[(1, Unknown(MAPS))]),
];

/// `ai.onnx.preview.training`.
const TRAINING: &[Row] = &[
    ("Adagrad", &[(1, Same)]),
    ("Adam", &[(1, Same)]),
    ("Gradient", &[(1, Unknown("gradients are made by the product's own backward pass"))]),
    ("Momentum", &[(1, Same)]),
];

/// `com.microsoft`: the fused operators that ONNX Runtime's optimiser and common exporters write.
const MICROSOFT: &[Row] = &[
    ("BiasGelu", &[(1, By(upgrade::microsoft::bias_gelu))]),
    ("FastGelu", &[(1, By(upgrade::microsoft::fast_gelu))]),
    ("FusedMatMul", &[(1, By(upgrade::microsoft::fused_matmul))]),
    ("Gelu", &[(1, Same)]),
    ("QuickGelu", &[(1, By(upgrade::microsoft::quick_gelu))]),
    ("SkipLayerNormalization", &[(1, By(upgrade::microsoft::skip_layer_normalization))]),
    ("SkipSimplifiedLayerNormalization", &[(1, By(upgrade::microsoft::skip_rms_normalization))]),
];

fn table(domain: &str) -> Option<&'static [Row]> {
    Some(match domain {
        "" => STANDARD,
        "ai.onnx.ml" => LEARNING,
        "ai.onnx.preview.training" => TRAINING,
        "com.microsoft" => MICROSOFT,
        _ => return None,
    })
}

/// The newest version of a domain's operator set that is known.
pub(super) fn newest(domain: &str) -> Option<i64> {
    NEWEST.iter().find(|(name, _)| *name == domain).map(|(_, version)| *version)
}

/// Domain of an op's operator and the version at which it appears; none for ops that ONNX has not.
pub(super) fn home(op: Op) -> Option<(&'static str, i64)> {
    ["", "ai.onnx.ml", "ai.onnx.preview.training"].into_iter().find_map(|domain| {
        let table = table(domain)?;
        let at = table.binary_search_by_key(&op.name(), |row| row.0).ok()?;
        Some((domain, table[at].1[0].0))
    })
}

/// How an operator of a version is imported, or why it is not.
pub(super) fn lookup(domain: &str, operator: &str, version: i64) -> Result<&'static Form, String> {
    let Some(table) = table(domain) else {
        return Err(format!(
            "operators of the domain `{domain}` are not known, and the file does not define it"
        ));
    };
    let Ok(at) = table.binary_search_by_key(&operator, |row| row.0) else {
        return Err(format!(
            "there is no operator `{operator}` in {}",
            if domain.is_empty() { "ONNX" } else { domain }
        ));
    };
    let forms = table[at].1;
    match forms.iter().rev().find(|(since, _)| *since <= version) {
        Some((_, form)) => Ok(form),
        None => Err(format!("{operator} appears in operator set {}, the model is of {version}", forms[0].0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_versions_rise() {
        for table in [STANDARD, LEARNING, TRAINING, MICROSOFT] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
            for (name, forms) in table {
                assert!(forms.is_sorted_by(|a, b| a.0 < b.0) && !forms.is_empty(), "{name}");
            }
        }
    }

    #[test]
    fn operators_of_the_same_form_are_ops() {
        for (name, forms) in [STANDARD, LEARNING, TRAINING, MICROSOFT].into_iter().flatten() {
            if forms.iter().any(|(_, form)| matches!(form, Same)) {
                assert!(Op::parse(name).is_some(), "{name}");
            }
        }
    }
}
