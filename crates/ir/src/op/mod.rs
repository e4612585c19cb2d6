//! The op table: every op declared once.
//!
//! An op's entry ([`OpDef`]) states its name, documentation, inputs, outputs and attributes, its numerical class, its
//! type rule ([`OpDef::infer`]), its work in counts ([`OpDef::work`]), how it can be cut ([`OpDef::space`]) and its meaning
//! ([`OpDef::eval`]). Ops carry the names and semantics of the newest ONNX operator set; older forms are upgraded on import.
//! To add an op: name it in [`ops!`] below and put its entry in the table of its family.

pub mod content;
pub mod context;
pub mod elements;
pub mod number;
pub mod rules;
pub mod space;

pub use context::{Ctx, Datum, EvalCtx, Fact};
pub use space::{Access, Axis, AxisKind, Combine, IterSpace};

use crate::{AttrKind, Dim};
use std::sync::LazyLock;

macro_rules! families {
    ($($family:ident),*) => {
        $(pub mod $family;)*
        /// The tables of all families.
        fn tables() -> Vec<&'static [OpDef]> {
            vec![$($family::TABLE),*]
        }
    };
}
families!(
    attention,
    control,
    convolution,
    elementwise,
    indexing,
    loss,
    matrix,
    movement,
    normalization,
    optimizer,
    pooling,
    quantization,
    random,
    recurrent,
    reduction,
    resampling,
    sequence,
    signal,
    strings,
    training
);

macro_rules! ops {
    ($($name:ident)*) => {
        /// An op by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "documented in the op's entry, see OpDef::doc")]
        pub enum Op { $($name),* }
        impl Op {
            /// Every op.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// Its name, as in the text form.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
            /// The op of that name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}
ops! {
    // elementwise
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Round Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Tan Tanh Not BitwiseNot IsNaN IsInf Relu LeakyRelu ThresholdedRelu Elu Celu Selu Gelu HardSigmoid HardSwish
    Mish Swish Shrink Identity Clip Cast CastLike RoundTo
    Add Sub Mul Div Mod Pow And Or Xor BitwiseAnd BitwiseOr BitwiseXor BitShift Equal Less Greater LessOrEqual GreaterOrEqual
    PRelu Max Min Mean Sum Where
    // reduction
    ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare
    ArgMax ArgMin CumSum CumProd Softmax LogSoftmax Hardmax SoftmaxGrad
    // normalization
    BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization LpNormalization LRN
    MeanVarianceNormalization LayerNormalizationGrad LayerNormalizationScaleGrad RMSNormalizationGrad
    RMSNormalizationScaleGrad ChannelMoments
    // matrix
    MatMul Gemm MatMulInteger QLinearMatMul Einsum Det GatherMatMul GatherMatMulGrad
    // convolution
    Conv ConvTranspose ConvInteger QLinearConv DeformConv ConvWeightGrad DeformConvGrad
    // attention
    Attention RotaryEmbedding AttentionGrad
    // pooling
    MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxUnpool MaxRoiPool RoiAlign
    MaxPoolGrad AveragePoolGrad MaxRoiPoolGrad RoiAlignGrad
    // movement
    Shape Size Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Expand Tile Pad DepthToSpace SpaceToDepth
    ConstantOfShape Range EyeLike Trilu ReverseSequence CenterCropPad
    // indexing
    Gather GatherElements GatherND ScatterElements ScatterND OneHot NonZero TopK Unique Compress NonMaxSuppression TensorScatter
    GatherGrad
    // resampling
    Resize ResizeGrad GridSample GridSampleGrad AffineGrid Col2Im
    // quantization
    QuantizeLinear DequantizeLinear DynamicQuantizeLinear
    // recurrent
    RNN GRU LSTM RNNGrad GRUGrad LSTMGrad
    // control
    If Loop Scan
    // sequence
    SequenceEmpty SequenceConstruct SequenceAt SequenceInsert SequenceErase SequenceLength SplitToSequence ConcatFromSequence
    SequenceMap Optional OptionalGetElement OptionalHasElement
    // random
    RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial Dropout
    // signal
    DFT STFT HannWindow HammingWindow BlackmanWindow MelWeightMatrix
    // loss
    NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss SoftmaxCrossEntropyGrad
    // training
    Adam Adagrad Momentum
    // optimizer
    SgdStep AdamStep AdamaxStep RmsPropStep LambDirection
    // strings
    StringNormalizer StringConcat StringSplit RegexFullMatch TfIdfVectorizer LabelEncoder ArrayFeatureExtractor Binarizer
}

/// How an input or output takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Exactly one.
    One(&'static str),
    /// One or none.
    Optional(&'static str),
    /// Any number, last in the list.
    Variadic(&'static str),
}

/// An attribute an op knows.
#[derive(Clone, Copy, Debug)]
pub struct AttrDef {
    /// Name.
    pub name: &'static str,
    /// Kind of value.
    pub kind: AttrKind,
    /// True where it must be given.
    pub required: bool,
    /// What it says, and its default.
    pub doc: &'static str,
}

/// What an execution may change about the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Bit-exact however it is executed.
    Exact,
    /// Rounds: agrees within a bound that follows from format and length of sums.
    Rounding,
    /// Depends on a seed.
    Random,
}

/// What kind of unit does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Matrix unit: the MACs dominate.
    Matrix,
    /// Vector unit.
    Vector,
    /// Moves data and computes nothing.
    Movement,
    /// Renames data: no work on a machine with one address space.
    View,
    /// Runs bodies.
    Control,
    /// Cannot run on an accelerator: strings, sequences.
    Host,
}

/// Appends the gradients of a node's inputs to a graph: see [`crate::gradient`].
pub type Rule = fn(&mut crate::gradient::Backward<'_>) -> orrery_base::Result<()>;

/// How the gradient of an op is had.
#[derive(Clone, Copy)]
pub enum Gradient {
    /// By a rule.
    Rule(Rule),
    /// It is zero wherever it exists: steps, comparisons, indices, shapes.
    Zero,
    /// There is no rule.
    Unknown,
}

/// Work in counts, as formulas over symbols. Bytes follow from the operands' types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Multiply-accumulates.
    pub macs: Dim,
    /// Simple vector operations: one add, multiply, compare, select or convert of an element.
    pub vector: Dim,
    /// Exponentials, logarithms, roots, divisions, trigonometry: one for each element.
    pub special: Dim,
}

impl Work {
    /// None.
    pub const NONE: Self = Self { macs: Dim::Known(0), vector: Dim::Known(0), special: Dim::Known(0) };
    /// So many MACs and nothing else.
    pub fn macs(macs: Dim) -> Self {
        Self { macs, ..Self::NONE }
    }
    /// So many simple and special operations.
    pub fn vector(vector: Dim, special: Dim) -> Self {
        Self { vector, special, ..Self::NONE }
    }
}

/// The entry of an op.
pub struct OpDef {
    /// The op.
    pub op: Op,
    /// What it computes, in a sentence or two.
    pub doc: &'static str,
    /// Inputs.
    pub inputs: &'static [Port],
    /// Outputs.
    pub outputs: &'static [Port],
    /// Attributes.
    pub attrs: &'static [AttrDef],
    /// Numerical class.
    pub class: Class,
    /// Kind of unit.
    pub engine: Engine,
    /// Type rule: what is known of the outputs. Unknown shapes are legal; contradictions are errors, in the user's terms.
    pub infer: fn(&Ctx<'_>) -> Result<Vec<Fact>, String>,
    /// Work counts; called with all shapes known as formulas.
    pub work: fn(&Ctx<'_>) -> Work,
    /// How it can be cut into parts; none where only as a whole.
    pub space: fn(&Ctx<'_>) -> Option<IterSpace>,
    /// Gradient.
    pub gradient: Gradient,
    /// Meaning: the outputs' values. Plain, in the declared types; the definition, not the fast path.
    pub eval: fn(&EvalCtx<'_>) -> Result<Vec<Datum>, String>,
}

impl OpDef {
    /// What an entry starts from: one input `input`, one output `output`, same type as the input, no work, vector engine.
    pub const fn new(op: Op, doc: &'static str) -> Self {
        Self {
            op,
            doc,
            inputs: &[Port::One("input")],
            outputs: &[Port::One("output")],
            attrs: &[],
            class: Class::Exact,
            engine: Engine::Vector,
            infer: context::same_as_first,
            work: context::no_work,
            space: space::indivisible,
            gradient: Gradient::Unknown,
            eval: context::not_defined,
        }
    }
    /// With a gradient rule.
    pub(crate) const fn gradient(self, rule: Rule) -> Self {
        Self { gradient: Gradient::Rule(rule), ..self }
    }
    /// With a gradient that is zero wherever it exists.
    pub(crate) const fn flat(self) -> Self {
        Self { gradient: Gradient::Zero, ..self }
    }
    /// Least and largest number of inputs; no largest where variadic.
    pub fn input_range(&self) -> (usize, Option<usize>) {
        port_range(self.inputs)
    }
    /// Least and largest number of outputs.
    pub fn output_range(&self) -> (usize, Option<usize>) {
        port_range(self.outputs)
    }
    /// The attribute of that name.
    pub fn attr(&self, name: &str) -> Option<&'static AttrDef> {
        self.attrs.iter().find(|a| a.name == name)
    }
}

fn port_range(ports: &[Port]) -> (usize, Option<usize>) {
    let least = ports.iter().filter(|p| matches!(p, Port::One(_))).count();
    let variadic = matches!(ports.last(), Some(Port::Variadic(_)));
    (least, (!variadic).then_some(ports.len()))
}

static BY_OP: LazyLock<Vec<&'static OpDef>> = LazyLock::new(|| {
    let mut all: Vec<&'static OpDef> = tables().into_iter().flatten().collect();
    all.sort_by_key(|def| def.op);
    all
});

impl Op {
    /// Its entry.
    pub fn def(self) -> &'static OpDef {
        let at = BY_OP.binary_search_by_key(&self, |def| def.op);
        BY_OP[at.unwrap_or_else(|_| panic!("{self} has an entry in the table of its family"))]
    }
    /// Whether it is of the family that makes each element of those at the same place.
    pub fn is_elementwise(self) -> bool {
        elementwise::TABLE.iter().any(|def| def.op == self)
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An optional attribute.
pub(crate) const fn opt(name: &'static str, kind: AttrKind, doc: &'static str) -> AttrDef {
    AttrDef { name, kind, required: false, doc }
}
/// An attribute that must be given.
pub(crate) const fn req(name: &'static str, kind: AttrKind, doc: &'static str) -> AttrDef {
    AttrDef { name, kind, required: true, doc }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_has_exactly_one_entry() {
        let mut declared: Vec<Op> = tables().into_iter().flatten().map(|def| def.op).collect();
        declared.sort();
        assert_eq!(
            declared,
            Op::ALL
                .iter()
                .copied()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_entry_is_documented() {
        for def in tables().into_iter().flatten() {
            assert!(def.doc.ends_with('.') && def.doc.len() > 15, "{}: {:?}", def.op, def.doc);
        }
    }
}
