//! What went wrong in a training run: where, and what to do.

use super::metrics::Metric;
use super::trainer::Trainer;
use orrery_base::{Diagnostic, Result};
use orrery_ir::infer::node_place;
use orrery_ir::interpret::run_observed;
use orrery_ir::op::Datum;
use orrery_ir::{Def, Graph, NodeId, ValueId};
use orrery_numerics::Tensor;
use orrery_transform::training::StateKind;
use std::collections::VecDeque;

/// The first op whose result is no number, though its operands are.
#[derive(Clone, Debug)]
struct First {
    node: NodeId,
    value: ValueId,
    nan: bool,
    /// Largest magnitude among its operands.
    largest: f64,
}

/// Explains a step whose loss or gradients are no numbers: runs it again on the same inputs, op by op.
pub(super) fn not_a_number(
    trainer: &Trainer,
    inputs: Vec<Tensor>,
    seed: u64,
    step: u64,
    rate: f64,
    precision: Option<&str>,
) -> Box<Diagnostic> {
    let graph = &trainer.description().graph;
    let parts = [trainer.description().backward, trainer.description().update];
    let said = |what: &str| format!("step {step}: {what}");
    let error = match first(graph, inputs, seed) {
        Ok(Some(first)) => {
            let phase = match first.node.0 as usize {
                n if n >= parts[1] => "update",
                n if n >= parts[0] => "backward pass",
                _ => "forward pass",
            };
            let dtype = graph.values[first.value].ty.as_tensor().map(|ty| ty.dtype.name());
            let kind = if first.nan { "not a number" } else { "infinite" };
            let cause = said(&format!(
                "the first result that is {kind} is made in the {phase} by {} in {}, of operands up to {:.3e}",
                node_place(graph, first.node),
                precision.or(dtype).unwrap_or("its type"),
                first.largest,
            ));
            let error = Diagnostic::error("train-not-a-number", cause).at(node_place(graph, first.node));
            let narrow = dtype == Some("f16");
            if narrow && phase == "backward pass" && trainer.description().loss_scale.is_some() {
                error.help("gradients overflow: let --loss-scale be dynamic, or smaller")
            } else if narrow && first.largest < 1e6 {
                error.help(
                    "fp16 ends at 65,504: bf16 or fp32 hold this value; normalise the inputs or the weights",
                )
            } else {
                error
            }
        }
        Ok(None) => Diagnostic::error(
            "train-not-a-number",
            said(
                "the loss or a gradient is no number, though every op gives numbers when computed one by one",
            ),
        ),
        Err(found) => *found,
    };
    let error = error
        .help(format!(
            "the learning rate is {rate:.3e}: too high a one makes weights grow; try a tenth of it"
        ))
        .help("or begin with --warmup, or bound the gradients with --clip-norm 1");
    Box::new(error)
}

fn first(graph: &Graph, inputs: Vec<Tensor>, seed: u64) -> Result<Option<First>> {
    let mut largest = vec![0.0_f64; graph.values.len()];
    let mut bad_before = vec![false; graph.values.len()];
    let extent = |tensor: &Tensor| -> (f64, bool, bool) {
        let Ok(values) = tensor.to_f64() else { return (0.0, false, false) };
        let top = values.iter().filter(|v| v.is_finite()).fold(0.0_f64, |m, v| m.max(v.abs()));
        (top, values.iter().any(|v| v.is_nan()), values.iter().any(|v| v.is_infinite()))
    };
    for (id, tensor) in graph.inputs.iter().zip(&inputs) {
        let (top, nan, infinite) = extent(tensor);
        largest[id.0 as usize] = top;
        bad_before[id.0 as usize] = tensor.dtype().is_float() && (nan || infinite);
    }
    let mut found: Option<First> = None;
    let mut observe = |value: ValueId, datum: &Datum| {
        let (Datum::Tensor(tensor), Def::Node(node, _)) = (datum, &graph.values[value].def) else { return };
        if !tensor.dtype().is_float() {
            return;
        }
        let (top, nan, infinite) = extent(tensor);
        largest[value.0 as usize] = top;
        bad_before[value.0 as usize] = nan || infinite;
        if found.is_some() || !(nan || infinite) {
            return;
        }
        let operands = || graph.nodes[*node].inputs.iter().flatten();
        if operands().any(|v| bad_before[v.0 as usize]) {
            return;
        }
        let most = operands().fold(0.0_f64, |m, v| m.max(largest[v.0 as usize]));
        found = Some(First { node: *node, value, nan, largest: most });
    };
    run_observed(graph, inputs.into_iter().map(Datum::from).collect(), seed, &mut observe)?;
    Ok(found)
}

/// Watches the loss of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    recent: VecDeque<f64>,
    first: Option<f64>,
    best: Option<f64>,
}

/// Steps over whose losses a mean is taken: fewer swing by themselves.
const WINDOW: usize = 10;
/// A mean of so many times the first loss and the best mean is divergence.
const DIVERGED: f64 = 3.0;

/// A loss that has grown far above where it began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grown {
    mean: f64,
    first: f64,
    best: f64,
}

impl Watch {
    /// After a step.
    pub(super) fn after(&mut self, loss: f64) -> Option<Grown> {
        let first = *self.first.get_or_insert(loss);
        self.recent.push_back(loss);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        if self.recent.len() < WINDOW {
            return None;
        }
        let mean = self.recent.iter().sum::<f64>() / WINDOW as f64;
        let best = self.best.map_or(mean, |best| best.min(mean)).min(first);
        self.best = Some(best);
        let bar = (DIVERGED - 1.0) * first.abs().max(best.abs());
        (mean > first + bar && mean > best + bar).then_some(Grown { mean, first, best })
    }
}

/// Explains a loss that has grown: the op of the forward pass whose results are largest.
pub(super) fn diverged(
    trainer: &Trainer,
    inputs: Vec<Tensor>,
    seed: u64,
    step: u64,
    rate: f64,
    grown: Grown,
) -> Box<Diagnostic> {
    let Grown { mean, first, best } = grown;
    let mut cause = format!(
        "step {step}: the loss diverges: its mean over {WINDOW} steps is {mean:.4}, it began at {first:.4} and was {best:.4} \
         at best"
    );
    let graph = &trainer.description().graph;
    let mut largest: Option<(f64, NodeId)> = None;
    let mut observe = |value: ValueId, datum: &Datum| {
        let (Datum::Tensor(tensor), Def::Node(node, _)) = (datum, &graph.values[value].def) else { return };
        if !tensor.dtype().is_float() || node.0 as usize >= trainer.description().backward {
            return;
        }
        let top = tensor.to_f64().map_or(0.0, |v| v.iter().fold(0.0_f64, |m, v| m.max(v.abs())));
        if largest.is_none_or(|(most, _)| top > most) {
            largest = Some((top, *node));
        }
    };
    // Where the step cannot be computed op by op, the loss alone is told.
    let traced = run_observed(graph, inputs.into_iter().map(Datum::from).collect(), seed, &mut observe);
    let mut error = Diagnostic::error("train-diverged", String::new());
    if let (Ok(_), Some((top, node))) = (traced, largest) {
        cause += &format!(
            "; the largest values of the forward pass, up to {top:.3e}, are made by {}",
            node_place(graph, node)
        );
        error = error.at(node_place(graph, node));
    }
    error.cause = cause;
    Box::new(
        error
            .help(format!("the learning rate is {rate:.3e}: try a third to a tenth of it"))
            .help("or begin with --warmup, or bound the gradients with --clip-norm 1"),
    )
}

/// A warning for figures over data that are no numbers.
pub(super) fn no_figure(metrics: &[Metric], step: u64) -> Option<Diagnostic> {
    let metric = metrics.iter().find(|metric| !metric.value.is_finite())?;
    let cause = format!(
        "after step {step} the {} over data that is not learned from is {}",
        metric.name, metric.value
    );
    Some(Diagnostic::warning("held-out-value", cause).help(
        "the model's outputs leave the range of their type there: a lower learning rate, --clip-norm 1, or a precision of \
         more range",
    ))
}

/// A note for parameters that none of some steps has moved.
pub(super) fn unmoved(trainer: &Trainer, before: &[Tensor], steps: u64) -> Option<Diagnostic> {
    if steps == 0 {
        return None;
    }
    let slots = &trainer.description().states;
    let still: Vec<&str> = slots
        .iter()
        .zip(trainer.states().zip(before))
        .filter(|(slot, ((_, now), then))| slot.kind == StateKind::Parameter && now == then)
        .map(|(slot, _)| slot.name.as_str())
        .collect();
    let first = still.first()?;
    let more = if still.len() > 1 { format!(" and {} more", still.len() - 1) } else { String::new() };
    let s = if steps == 1 { "" } else { "s" };
    let cause = format!("`{first}`{more} did not move in {steps} step{s}");
    Some(
        Diagnostic::warning("train-unmoved", cause)
            .help(
                "its gradient is zero: the loss does not depend on it, an activation is dead, or steps are too small for \
                 the type it is kept in",
            ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loss_that_stays_up_diverges() {
        fn grows(mut losses: impl Iterator<Item = f64>) -> bool {
            let mut watch = Watch::default();
            losses.any(|loss| watch.after(loss).is_some())
        }
        assert!(!grows((0..200).map(|i| 2.3 / (1.0 + f64::from(i) * 0.1))));
        assert!(!grows((0..200).map(|i| if i == 50 { 20.0 } else { 2.3 })));
        assert!(grows((0..40).map(|i| if i < 3 { 2.3 } else { 60.0 })));
        assert!(grows((0..400).map(|i| 0.1 + (f64::from(i) * 0.01).powi(2))));
    }
}
