//! Which columns of a dataset go into which inputs of a model.

use crate::model::Bound;
use crate::run::in_type;
use orrery_base::{Diagnostic, Result, nearest};
use orrery_data::{Batch, Dataset};
use orrery_ir::{Graph, ValueId};
use orrery_numerics::{DType, Tensor};
use orrery_transform::training::{IGNORED_LABEL, Step};

/// Where an input comes from.
#[derive(Clone, Debug)]
enum Source {
    /// A column, and the shape in which the model takes it.
    Column(String, Vec<usize>),
    /// The same for all samples: a mask that masks nothing.
    Ones(DType, Vec<usize>),
}

/// The way from a batch to a model's inputs.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    inputs: Vec<(String, Source)>,
    label: Option<(String, Vec<usize>)>,
}

/// What columns of labels are called.
const LABEL_NAMES: [&str; 7] = ["labels", "label", "target", "targets", "y", "class", "centre"];

impl Columns {
    pub(super) fn new(
        bound: &Bound,
        step: &Step,
        data: &Dataset,
        named: &[(String, String)],
    ) -> Result<Self> {
        let names: Vec<&str> = data.columns().iter().map(orrery_data::Column::name).collect();
        let label = match step.labels {
            None => None,
            Some(_) => Some(label_column(data)?),
        };
        check_named(&bound.graph, named)?;
        let mut inputs = Vec::new();
        let free: Vec<&str> = names.iter().copied().filter(|n| Some(*n) != label.as_deref()).collect();
        for id in &bound.graph.inputs {
            let name = bound.graph.values[*id].name.clone();
            let (dtype, shape) = extents(&bound.graph, *id)?;
            let column = named.iter().find(|(input, _)| *input == name).map(|(_, column)| column.as_str());
            let column = match column {
                Some(column) => Some(data.column(column)?.name().to_owned()),
                None if free.contains(&name.as_str()) => Some(name.clone()),
                None if bound.graph.inputs.len() == 1 && free.len() == 1 => Some(free[0].to_owned()),
                None => None,
            };
            inputs.push(match column {
                Some(column) => {
                    fits(data, &column, &name, &shape)?;
                    (name, Source::Column(column, shape))
                }
                None if name.contains("mask") => (name, Source::Ones(dtype, shape)),
                None => return Err(Box::new(no_column(&name, &free))),
            });
        }
        let label = match (label, step.labels) {
            (Some(column), Some(at)) => {
                let id = step.graph.inputs[at];
                let (dtype, shape) = extents(&step.graph, id)?;
                fits(data, &column, "labels", &shape)?;
                if let Some(classes) = classes_of(&step.graph, id).filter(|_| dtype == DType::I64) {
                    check_labels(data, &column, classes)?;
                }
                Some((column, shape))
            }
            _ => None,
        };
        Ok(Self { inputs, label })
    }
    /// What goes where, in lines.
    pub(super) fn about(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (input, source) in &self.inputs {
            lines.push(match source {
                Source::Column(column, _) => format!("input `{input}` from column `{column}`"),
                Source::Ones(..) => format!("input `{input}` is all ones: the data have no such column"),
            });
        }
        if let Some((column, _)) = &self.label {
            lines.push(format!("labels from column `{column}`"));
        }
        lines
    }
    /// Refuses a column that the model does not see, to which `option` would do something for nothing.
    pub(super) fn sees(&self, column: &str, option: &str) -> Result<()> {
        let inputs = self.inputs.iter().filter_map(|(_, source)| match source {
            Source::Column(name, _) => Some(name.as_str()),
            Source::Ones(..) => None,
        });
        let seen: Vec<&str> = inputs.chain(self.label.iter().map(|(name, _)| name.as_str())).collect();
        if seen.contains(&column) {
            return Ok(());
        }
        Diagnostic::error(
            "train-option",
            format!("{option} `{column}` has no effect: the model does not see it"),
        )
        .help(format!("what it sees: {}", seen.join(", ")))
        .err()
    }
    /// The model's inputs and the labels of part `part` of `parts` equal ones of a batch.
    pub(super) fn of(
        &self,
        batch: &Batch,
        part: usize,
        parts: usize,
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let column = |name: &str, shape: &[usize]| -> Result<Tensor> {
            let found = batch.columns.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor);
            match found {
                Some(tensor) => Ok(share(tensor, part, parts)?.reshaped(shape.to_vec())),
                None => Diagnostic::error("data-column", format!("the batch has no column `{name}`")).err(),
            }
        };
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (_, source) in &self.inputs {
            inputs.push(match source {
                Source::Column(name, shape) => column(name, shape)?,
                Source::Ones(dtype, shape) => {
                    let ones = Tensor::from_vec(shape.clone(), vec![1_i64; shape.iter().product()]);
                    in_type(&ones, *dtype)?
                }
            });
        }
        let labels = match &self.label {
            Some((name, shape)) => Some(column(name, shape)?),
            None => None,
        };
        Ok((inputs, labels))
    }
}

/// Part `part` of `parts` equal ones along the first dimension.
fn share(tensor: &Tensor, part: usize, parts: usize) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    if parts == 1 || shape.is_empty() {
        return Ok(tensor.clone());
    }
    shape[0] /= parts;
    let each = tensor.bytes().len() / parts;
    let bytes = bytes::Bytes::copy_from_slice(&tensor.bytes()[part * each..(part + 1) * each]);
    Tensor::from_bytes(tensor.dtype(), shape, bytes)
        .map_err(|error| Box::new(Diagnostic::error("data-shape", error.to_string())))
}

fn extents(graph: &Graph, id: ValueId) -> Result<(DType, Vec<usize>)> {
    let value = &graph.values[id];
    let found = value.ty.as_tensor().and_then(|ty| Some((ty.dtype, ty.extents()?)));
    found.ok_or_else(|| {
        let cause = format!("input `{}` of type {} has no extents", value.name, value.ty);
        Box::new(Diagnostic::error("open-shape", cause).help("bind the model's symbols, as in --dim seq=128"))
    })
}

/// The classes of the scores that a cross-entropy of these labels is taken of.
fn classes_of(graph: &Graph, labels: ValueId) -> Option<usize> {
    use orrery_ir::Op;
    let mut reached = vec![labels];
    for node in graph.nodes.values() {
        let reads = node.inputs.iter().flatten().any(|v| reached.contains(v));
        if !reads {
            continue;
        }
        if node.op == Op::SoftmaxCrossEntropyLoss {
            let scores = node.inputs.first().copied().flatten()?;
            return graph.values[scores].ty.as_tensor()?.extents()?.get(1).copied();
        }
        if matches!(node.op, Op::Reshape | Op::Cast | Op::Flatten) {
            reached.extend(node.outputs.iter().flatten());
        }
    }
    None
}

/// The column of labels: the one that is named, or by what such columns are called.
pub(super) fn label_column(data: &Dataset) -> Result<String> {
    if let Some(name) = data.label() {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = data.columns().iter().map(orrery_data::Column::name).collect();
    let known = LABEL_NAMES.iter().find(|name| names.contains(name));
    if let Some(name) = known {
        return Ok((*name).to_owned());
    }
    Diagnostic::error("data-label", "which column holds the labels is not clear")
        .at(data.name().to_owned())
        .help(format!(
            "columns: {}; name it, as in --label {}",
            names.join(", "),
            names.last().unwrap_or(&"y")
        ))
        .err()
}

/// Refuses columns for what is no input of the model, and two columns for one input.
fn check_named(graph: &Graph, named: &[(String, String)]) -> Result<()> {
    let inputs: Vec<&str> = graph.inputs.iter().map(|id| graph.values[*id].name.as_str()).collect();
    for (i, (input, column)) in named.iter().enumerate() {
        if let Some((_, first)) = named[..i].iter().find(|(before, _)| before == input) {
            let cause = format!("the input `{input}` cannot come from `{first}` and from `{column}`");
            return Diagnostic::error("data-column", cause).err();
        }
        if !inputs.contains(&input.as_str()) {
            let cause = format!("column `{column}` has no effect: the model has no input called `{input}`");
            let error = Diagnostic::error("data-column", cause);
            return match nearest(input, inputs.iter().copied()) {
                Some(close) => error.help(format!("did you mean `{close}`?")),
                None => error.help(format!("inputs: {}", inputs.join(", "))),
            }
            .err();
        }
    }
    Ok(())
}

/// Samples whose labels are read at once.
const AT_ONCE: usize = 4096;

/// Refuses labels that are no class of the model, before anything is computed.
fn check_labels(data: &Dataset, column: &str, classes: usize) -> Result<()> {
    for first in (0..data.len()).step_by(AT_ONCE) {
        let labels = data.read(column, first..data.len().min(first + AT_ONCE))?;
        let Ok(values) = labels.to_i64() else { return Ok(()) };
        let wrong = values.iter().position(|v| *v != IGNORED_LABEL && (*v < 0 || *v >= classes as i64));
        if let Some(at) = wrong {
            let each = labels.len() / labels.shape()[0];
            return Err(Box::new(no_class(data, column, classes, first + at / each, values[at])));
        }
    }
    Ok(())
}

/// A label that is no class of the model, as its file has it.
fn no_class(data: &Dataset, column: &str, classes: usize, sample: usize, label: i64) -> Diagnostic {
    let known = data.columns().iter().find(|c| c.name() == column).and_then(orrery_data::Column::classes);
    let class = known.and_then(|known| known.get(usize::try_from(label).ok()?));
    let error = |cause: String| {
        let mut error = Diagnostic::error("train-label", cause);
        error.place = data.place_of_label(sample, column);
        error
    };
    let marked = format!("{IGNORED_LABEL} marks what is not to be learned");
    let Some((class, known)) = class.zip(known) else {
        return error(format!("label {label} is none of the model's {classes} classes"))
            .help(format!("labels count from 0 to {}; {marked}", classes.saturating_sub(1)))
            .help(format!("or choose a model with more than {classes} outputs"));
    };
    let numbered: Vec<String> =
        known.iter().take(12).enumerate().map(|(i, c)| format!("{i} `{c}`")).collect();
    let more = if known.len() > numbered.len() { ", …" } else { "" };
    let count = known.len();
    error(format!("label `{class}` is none of the model's {classes} classes: the labels are of {count}"))
        .help(format!("classes in their order: {}{more}; {marked}", numbered.join(", ")))
        .help(format!("choose a model with {count} outputs, or leave out rows of other classes"))
}

fn fits(data: &Dataset, column: &str, input: &str, shape: &[usize]) -> Result<()> {
    let held = data.column(column)?.shape();
    let wanted = &shape[1.min(shape.len())..];
    if held.iter().product::<usize>() == wanted.iter().product::<usize>() {
        return Ok(());
    }
    let cause = format!("column `{column}` holds {held:?} a sample, `{input}` takes {wanted:?}");
    Diagnostic::error("data-shape", cause)
        .at(data.name().to_owned())
        .help("choose the model's dimensions or options to fit the data, or another column with --column")
        .err()
}

fn no_column(input: &str, columns: &[&str]) -> Diagnostic {
    let error =
        Diagnostic::error("data-column", format!("the data have no column for the model's input `{input}`"))
            .help(format!("columns: {}; name one, as in --column {input}=NAME", columns.join(", ")));
    match nearest(input, columns.iter().copied()) {
        Some(close) => error.help(format!("`{close}` may be meant")),
        None => error,
    }
}
