//! What a model is worth on data that it does not learn from.

use super::batches::Columns;
use super::engine::{Engine, precision};
use super::fit::{Request, micro_batch};
use super::metrics::{Metric, Totals};
use crate::model::{Bound, Model};
use orrery_base::{Diagnostic, Result};
use orrery_data::{Dataset, Last, Loader, Plan};
use orrery_ir::weights::initial;
use orrery_numerics::Tensor;
use orrery_transform::Weights;
use orrery_transform::training::{self, Evaluation, Loss, Spec, Step, evaluation};
use std::time::Instant;

/// Figures over data, of whatever weights there are.
pub(super) struct Judge {
    evaluation: Evaluation,
    engine: Engine,
    loader: Loader,
    columns: Columns,
    loss: Loss,
}

impl Judge {
    /// `trained` is the way from the data that was trained on.
    pub(super) fn new(
        bound: &Bound,
        spec: &Spec,
        step: &Step,
        request: &Request,
        data: &Dataset,
        trained: Option<&Columns>,
    ) -> Result<Self> {
        let formats = precision(&request.place)?;
        let evaluation = evaluation(&bound.graph, spec, formats.as_ref(), Weights::Compute)?;
        let engine = Engine::new(&evaluation.graph, &request.place, request.threads, false)?;
        let plan = Plan { batch: micro_batch(request)?, shuffle: None, last: Last::Pad, augment: None };
        let loader = Loader::new(data.clone(), plan)?;
        let columns = Columns::new(bound, step, data, &request.columns, trained)?;
        Ok(Self { evaluation, engine, loader, columns, loss: spec.loss.kind })
    }
    /// The figures of a model with these states.
    pub(super) fn metrics<'a>(
        &self,
        states: impl Iterator<Item = (&'a str, &'a Tensor)>,
    ) -> Result<Vec<Metric>> {
        let held: Vec<(&str, &Tensor)> = states.collect();
        let state = |name: &String| match held.iter().find(|(known, _)| known == name) {
            Some((_, tensor)) => Ok((*tensor).clone()),
            None => Diagnostic::error("state-mismatch", format!("the training has no state `{name}`")).err(),
        };
        let states = self.evaluation.states.iter().map(state).collect::<Result<Vec<Tensor>>>()?;
        let mut totals = Totals::new(self.loss);
        let mut loader = self.loader.clone();
        for _ in 0..loader.batches_per_epoch() {
            let batch = loader.next_batch()?;
            let (mut inputs, labels) = self.columns.of(&batch, 0, 1)?;
            inputs.extend(states.iter().cloned());
            let made = self.engine.run(inputs, 0)?;
            totals.add(&made[0], labels.as_ref(), batch.valid)?;
        }
        Ok(totals.metrics())
    }
}

/// What a model is worth on data.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The figures; the first is the loss.
    pub metrics: Vec<Metric>,
    /// Samples, each counted once.
    pub samples: u64,
    /// Seconds on this host.
    pub seconds: f64,
    /// What is done to the data and the model, one line each.
    pub about: Vec<String>,
}

/// Computes a model's loss and metrics over data with the weights that it has. Of the request, what concerns learning
/// has no effect.
///
/// # Errors
/// As [`train`](super::train), but for those of learning.
pub fn evaluate(model: &Model, data: &Dataset, request: &Request) -> Result<Evaluated> {
    let bound = model.at_batch(Some(micro_batch(request)? as u64))?;
    let formats = precision(&request.place)?;
    // The step is not run: it says which values are weights and where the labels go.
    let step = training::step(&bound.graph, &request.spec, formats.as_ref(), Weights::Compute)?;
    let judge = Judge::new(&bound, &request.spec, &step, request, data, None)?;
    let states = step.graph.states.iter().map(|state| initial(&step.graph, state));
    let states = states.collect::<Result<Vec<Tensor>>>()?;
    let since = Instant::now();
    let names = step.states.iter().map(|slot| slot.name.as_str());
    let metrics = judge.metrics(names.zip(&states))?;
    let about = data.about().iter().cloned().chain(judge.columns.about()).collect();
    Ok(Evaluated { metrics, samples: data.len() as u64, seconds: since.elapsed().as_secs_f64(), about })
}
