//! Losses on a model's outputs.

use orrery_base::{Diagnostic, Result};
use orrery_ir::{Attrs, Def, Extend, Op, Type, ValueId};
use orrery_numerics::DType;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of the softmax of the output with class labels, the mean over all that are not -100.
    CrossEntropy,
    /// Mean squared error.
    Mse,
    /// Mean absolute error.
    Mae,
    /// Binary cross-entropy of the sigmoid of the output, the mean.
    Bce,
    /// One minus the Dice coefficient of the sigmoid of the output and the labels, over each sample, the mean.
    Dice,
    /// The output is the loss.
    Output,
}

impl Loss {
    /// The names that [`Loss::parse`] knows.
    pub const NAMES: [&'static str; 6] = ["cross-entropy", "mse", "mae", "bce", "dice", "output"];
    /// The loss of that name; none where there is none such.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cross-entropy" => Self::CrossEntropy,
            "mse" => Self::Mse,
            "mae" => Self::Mae,
            "bce" => Self::Bce,
            "dice" => Self::Dice,
            "output" => Self::Output,
            _ => return None,
        })
    }
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Mse => "mse",
            Self::Mae => "mae",
            Self::Bce => "bce",
            Self::Dice => "dice",
            Self::Output => "output",
        }
    }
}

/// A loss and what it is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossSpec {
    /// The loss.
    pub kind: Loss,
    /// The model's output, by name; the first where none.
    pub output: Option<String>,
}

/// The label that counts for nothing in a cross-entropy, as in PyTorch.
pub const IGNORED_LABEL: i64 = -100;

/// A loss on a graph.
pub(super) struct Attached {
    /// A scalar.
    pub(super) loss: ValueId,
    pub(super) labels: Option<ValueId>,
    pub(super) notes: Vec<Diagnostic>,
}

/// Adds the input `labels` and the loss.
pub(super) fn attach(
    graph: &mut Extend,
    spec: &LossSpec,
    outputs: &[ValueId],
    names: &[String],
) -> Result<Attached> {
    let output = named(spec, outputs, names)?;
    let (scores, notes) = before(graph, spec.kind, output);
    graph.set_scope("loss");
    let shape = graph.shape(scores)?;
    let (loss, labels) = match spec.kind {
        Loss::Output if shape.iter().product::<i64>() == 1 => (graph.reshape(scores, &[])?, None),
        Loss::Output => {
            let cause = format!("an output of shape {shape:?} is no loss: it must be one number");
            return Diagnostic::error("loss-output", cause).help("name the loss, as in --loss mse").err();
        }
        Loss::CrossEntropy => cross_entropy(graph, scores, &shape)?,
        kind => {
            graph.set_scope("");
            let labels = graph.input("labels", Type::tensor(graph.dtype(scores), shape.clone()));
            graph.set_scope("loss");
            (of_equal_shape(graph, kind, scores, labels, &shape)?, Some(labels))
        }
    };
    graph.set_scope("");
    Ok(Attached { loss, labels, notes })
}

/// What the loss is taken of: an output, or what goes into the softmax or sigmoid that makes it.
pub(super) fn scores(
    graph: &Extend,
    spec: &LossSpec,
    outputs: &[ValueId],
    names: &[String],
) -> Result<ValueId> {
    Ok(before(graph, spec.kind, named(spec, outputs, names)?).0)
}

fn named(spec: &LossSpec, outputs: &[ValueId], names: &[String]) -> Result<ValueId> {
    let at = match &spec.output {
        None => 0,
        Some(name) => names.iter().position(|n| n == name).ok_or_else(|| {
            let cause = format!("the model has no output called `{name}`");
            Box::new(Diagnostic::error("loss-output", cause).help(format!("outputs: {}", names.join(", "))))
        })?,
    };
    match outputs.get(at) {
        Some(output) => Ok(*output),
        None => Diagnostic::error("loss-output", "the model has no output").err(),
    }
}

/// What a softmax or sigmoid at the end of the model is made of, where the loss has it inside.
fn before(graph: &Extend, kind: Loss, output: ValueId) -> (ValueId, Vec<Diagnostic>) {
    let Def::Node(maker, 0) = graph.graph().values[output].def else { return (output, Vec::new()) };
    let node = &graph.graph().nodes[maker];
    let inside = matches!(
        (kind, node.op),
        (Loss::CrossEntropy, Op::Softmax | Op::LogSoftmax) | (Loss::Bce | Loss::Dice, Op::Sigmoid)
    );
    match node.inputs.first().copied().flatten().filter(|_| inside) {
        Some(input) => {
            let cause = format!(
                "{} has the model's last {} inside: it is taken of what goes in there",
                kind.name(),
                node.op
            );
            (input, vec![Diagnostic::note("loss-inside", cause)])
        }
        None => (output, Vec::new()),
    }
}

/// Classes lie along the last dimension of scores of rank 2 and 3, sequences among them, and along the second of images.
fn cross_entropy(graph: &mut Extend, scores: ValueId, shape: &[i64]) -> Result<(ValueId, Option<ValueId>)> {
    let labels_of = match shape {
        [batch, _] => vec![*batch],
        [batch, sequence, _] => vec![*batch, *sequence],
        [batch, _, rest @ ..] if !rest.is_empty() => [&[*batch], rest].concat(),
        _ => {
            let cause =
                format!("scores of shape {shape:?} have no classes: two dimensions at least are needed");
            return Diagnostic::error("loss-output", cause).err();
        }
    };
    graph.set_scope("");
    let labels = graph.input("labels", Type::tensor(DType::I64, labels_of));
    graph.set_scope("loss");
    let (scores, targets) = if let [batch, sequence, classes] = shape {
        let rows = batch * sequence;
        (graph.reshape(scores, &[rows, *classes])?, graph.reshape(labels, &[rows])?)
    } else {
        (scores, labels)
    };
    let attrs = Attrs::new().with("ignore_index", IGNORED_LABEL);
    Ok((graph.op(Op::SoftmaxCrossEntropyLoss, &[scores, targets], attrs)?, Some(labels)))
}

fn of_equal_shape(
    graph: &mut Extend,
    kind: Loss,
    scores: ValueId,
    labels: ValueId,
    shape: &[i64],
) -> Result<ValueId> {
    let all: Vec<i64> = (0..shape.len() as i64).collect();
    let each = match kind {
        Loss::Mae => {
            let distance = graph.sub(scores, labels)?;
            graph.unary(Op::Abs, distance)?
        }
        Loss::Bce => {
            // -t log s(x) - (1 - t) log(1 - s(x)) = log(1 + e^x) - t x.
            let soft = graph.unary(Op::Softplus, scores)?;
            let product = graph.mul(labels, scores)?;
            graph.sub(soft, product)?
        }
        Loss::Dice => {
            let probability = graph.unary(Op::Sigmoid, scores)?;
            let rest = &all[1.min(all.len())..];
            let both = graph.mul(probability, labels)?;
            let both = graph.sum(both, rest, false)?;
            let sum = graph.add(probability, labels)?;
            let sum = graph.sum(sum, rest, false)?;
            // One added above and below keeps an empty sample's loss at zero.
            let twice = graph.scale(both, 2.0)?;
            let above = graph.plus(twice, 1.0)?;
            let below = graph.plus(sum, 1.0)?;
            let ratio = graph.div(above, below)?;
            let minus = graph.unary(Op::Neg, ratio)?;
            graph.plus(minus, 1.0)?
        }
        _ => {
            let distance = graph.sub(scores, labels)?;
            graph.mul(distance, distance)?
        }
    };
    graph.op(Op::ReduceMean, &[each], Attrs::new().with("keepdims", 0))
}
