//! Which columns of a dataset go into which inputs of a model.

use crate::model::Bound;
use crate::run::in_type;
use orrery_base::{Diagnostic, Result, nearest};
use orrery_data::{Batch, Dataset};
use orrery_ir::{Graph, ValueId};
use orrery_numerics::{DType, Tensor};
use orrery_transform::training::{IGNORED_LABEL, Step};
use std::collections::BTreeMap;

/// Where an input comes from.
#[derive(Clone, Debug)]
enum Source {
    /// A column, and the shape in which the model takes it.
    Column(String, DType, Vec<usize>),
    /// The same for all samples: a mask that masks nothing.
    Ones(DType, Vec<usize>),
}

/// The way from a batch to a model's inputs.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    inputs: Vec<(String, Source)>,
    label: Option<Label>,
    /// What is told of columns that are held in another type than the model takes.
    conversions: Vec<String>,
}

/// Where the labels come from.
#[derive(Clone, Debug)]
struct Label {
    column: String,
    shape: Vec<usize>,
    dtype: DType,
    /// What the classes are called, where they are words.
    names: Option<Vec<String>>,
    /// The class of each label, where labels are not the classes themselves.
    numbered: Option<BTreeMap<i64, i64>>,
}

/// What columns of labels are called.
const LABEL_NAMES: [&str; 7] = ["labels", "label", "target", "targets", "y", "class", "centre"];

impl Columns {
    /// `trained` is the way from the data that was trained on, whose classes count where there is one.
    pub(super) fn new(
        bound: &Bound,
        step: &Step,
        data: &Dataset,
        named: &[(String, String)],
        trained: Option<&Self>,
    ) -> Result<Self> {
        let names: Vec<&str> = data.columns().iter().map(orrery_data::Column::name).collect();
        let label = match step.labels {
            None => None,
            Some(_) => Some(label_column(data)?),
        };
        check_named(&bound.graph, named)?;
        let (mut inputs, mut conversions) = (Vec::new(), Vec::new());
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
                    conversions.extend(converts(data, &column, &name, dtype)?);
                    data.check_finite(&column)?;
                    (name, Source::Column(column, dtype, shape))
                }
                None if name.contains("mask") => (name, Source::Ones(dtype, shape)),
                None => return Err(Box::new(no_column(&name, &free))),
            });
        }
        let label = match (label, step.labels) {
            (Some(column), Some(at)) => {
                let id = step.graph.inputs[at];
                let (dtype, shape) = extents(&step.graph, id)?;
                fits(data, &column, LABELS, &shape)?;
                conversions.extend(converts(data, &column, LABELS, dtype)?);
                data.check_finite(&column)?;
                let names = data.column(&column)?.classes().map(<[String]>::to_vec);
                let mut numbered = None;
                if let Some(classes) = classes_of(&step.graph, id).filter(|_| dtype == DType::I64) {
                    numbered = match trained.and_then(|trained| trained.label.as_ref()) {
                        Some(label) => label.numbering(data, names.as_deref())?,
                        None => renumbered(data.column(&column)?.numbers(), classes),
                    };
                    if numbered.is_none() {
                        check_labels(data, &column, classes)?;
                    }
                }
                Some(Label { column, shape, dtype, names, numbered })
            }
            _ => None,
        };
        Ok(Self { inputs, label, conversions })
    }
    /// What goes where, in lines.
    pub(super) fn about(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (input, source) in &self.inputs {
            lines.push(match source {
                Source::Column(column, ..) => format!("input `{input}` from column `{column}`"),
                Source::Ones(..) => format!("input `{input}` is all ones: the data have no such column"),
            });
        }
        if let Some(Label { column, numbered, .. }) = &self.label {
            lines.push(format!("labels from column `{column}`"));
            lines.extend(numbered.as_ref().map(|numbered| {
                let named =
                    numbered.iter().take(NAMED).map(|(label, class)| format!("{label} is class {class}"));
                let more = if numbered.len() > NAMED { ", …" } else { "" };
                let named = named.collect::<Vec<_>>().join(", ");
                format!("labels that are no classes of the model are numbered: {named}{more}")
            }));
        }
        lines.extend(self.conversions.iter().cloned());
        lines
    }
    /// Refuses a column that the model does not see, to which `option` would do something for nothing.
    pub(super) fn sees(&self, column: &str, option: &str) -> Result<()> {
        let inputs = self.inputs.iter().filter_map(|(_, source)| match source {
            Source::Column(name, ..) => Some(name.as_str()),
            Source::Ones(..) => None,
        });
        let seen: Vec<&str> = inputs.chain(self.label.iter().map(|label| label.column.as_str())).collect();
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
        let column = |name: &str, dtype: DType, shape: &[usize]| -> Result<Tensor> {
            let found = batch.columns.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor);
            match found {
                Some(tensor) => in_type(&share(tensor, part, parts)?.reshaped(shape.to_vec()), dtype),
                None => Diagnostic::error("data-column", format!("the batch has no column `{name}`")).err(),
            }
        };
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (_, source) in &self.inputs {
            inputs.push(match source {
                Source::Column(name, dtype, shape) => column(name, *dtype, shape)?,
                Source::Ones(dtype, shape) => {
                    let ones = Tensor::from_vec(shape.clone(), vec![1_i64; shape.iter().product()]);
                    in_type(&ones, *dtype)?
                }
            });
        }
        let labels = match &self.label {
            Some(Label { column: name, shape, dtype, numbered, .. }) => {
                let labels = column(name, *dtype, shape)?;
                Some(numbered.as_ref().map_or(Ok(labels.clone()), |classes| by_number(&labels, classes))?)
            }
            None => None,
        };
        Ok((inputs, labels))
    }
}

/// What labels are called where an input would be named.
const LABELS: &str = "labels";

/// Classes named in a line about them.
const NAMED: usize = 12;

/// The classes of labels that are numbers, in their order: none where all lie in the model's classes as they are, or they
/// are more.
fn renumbered(numbers: Option<&[i64]>, classes: usize) -> Option<BTreeMap<i64, i64>> {
    let numbers = numbers?;
    let inside = |label: &i64| usize::try_from(*label).is_ok_and(|label| label < classes);
    (numbers.len() <= classes && !numbers.iter().all(inside))
        .then(|| numbers.iter().copied().zip(0..).collect())
}

impl Label {
    /// The classes that labels of other data have, whose words for them are `names`.
    fn numbering(&self, data: &Dataset, names: Option<&[String]>) -> Result<Option<BTreeMap<i64, i64>>> {
        let (Some(own), Some(names)) = (&self.names, names) else { return Ok(self.numbered.clone()) };
        if own == names {
            return Ok(None);
        }
        let class = |(label, name): (i64, &String)| match own.iter().position(|known| known == name) {
            Some(class) => Ok((label, class as i64)),
            None => Diagnostic::error(
                "train-label",
                format!("`{name}` is no class of the data that is trained on"),
            )
            .at(data.name().to_owned())
            .help(format!("its classes: {}", own.join(", ")))
            .err(),
        };
        (0..).zip(names).map(class).collect::<Result<_>>().map(Some)
    }
}

/// Labels as their classes.
fn by_number(labels: &Tensor, classes: &BTreeMap<i64, i64>) -> Result<Tensor> {
    let values = labels.to_i64().map_err(|e| Box::new(Diagnostic::error("train-label", e.to_string())))?;
    let class = |label: &i64| match classes.get(label) {
        Some(class) => Ok(*class),
        None if *label == IGNORED_LABEL => Ok(IGNORED_LABEL),
        None => {
            Diagnostic::error("train-label", format!("label {label} is not in the data that is trained on"))
                .err()
        }
    };
    let classes = values.iter().map(class).collect::<Result<Vec<i64>>>()?;
    Ok(Tensor::from_vec(labels.shape().to_vec(), classes))
}

/// What there is to say where a column is of another type than `input` takes: numbers become floats, and integers other
/// integers.
fn converts(data: &Dataset, column: &str, input: &str, wanted: DType) -> Result<Option<String>> {
    let held = data.column(column)?.dtype();
    if held == wanted {
        return Ok(None);
    }
    let number = |dtype: DType| dtype.is_int() || dtype == DType::Bool;
    if (wanted.is_float() && (held.is_float() || number(held))) || (wanted.is_int() && number(held)) {
        // Labels of another width are as good.
        let told = input != LABELS || held.is_float() != wanted.is_float();
        return Ok(told.then(|| format!("column `{column}` is {held}, and becomes {wanted} for `{input}`")));
    }
    let error =
        Diagnostic::error("data-type", format!("column `{column}` is {held}, `{input}` takes {wanted}"));
    let error = error.at(data.name().to_owned());
    match (input, held.is_float() && wanted.is_int()) {
        (LABELS, true) => {
            error.help("classes are whole numbers; for values, choose --loss mse or another of values")
        }
        (_, true) => {
            error.help("floats are not rounded to integers here: convert the file, as with x.astype(...)")
        }
        _ => error.help("convert the file, or name another column with --column"),
    }
    .err()
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
        error.place = data.place_of(sample, column);
        error
    };
    let marked = format!("{IGNORED_LABEL} marks what is not to be learned");
    if classes == 1 {
        let cause = format!("label {label} is no class of a model with one output: it has a single class, 0");
        return error(cause)
            .help("where the labels are values, choose --loss mse; where they are 0 and 1, --loss bce")
            .help("or choose a model with an output for each class");
    }
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
