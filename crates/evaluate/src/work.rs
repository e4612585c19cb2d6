//! What is simulated of a model: a run, or a step of its training.

use crate::model::Bound;
use crate::placement::{self, Placement};
use crate::setup::Setup;
use crate::training::{Anatomy, Holdings, TimedStep, Wanted, can_train, time_step};
use crate::way::{Built, time};
use orrery_base::Result;
use orrery_ir::Graph;
use orrery_machine::Precision;
use orrery_record::Record;
use orrery_simulate::Timeline;
use orrery_transform::training::Optimizer;
use serde_json::{Map, Value, json};

/// What is simulated.
#[derive(Clone, Debug, Default)]
pub enum Work {
    /// A run of the model.
    #[default]
    Inference,
    /// A training step: forward, backward and optimizer.
    Training(Wanted),
}

/// Work in time.
pub(crate) struct Timed {
    /// What ran, as a graph: the model, or the step.
    pub(crate) graph: Bound,
    pub(crate) built: Built,
    pub(crate) timeline: Timeline,
    pub(crate) placement: Placement,
    /// Where the time of a training step goes, and what its memories hold.
    pub(crate) training: Option<(Anatomy, Vec<Holdings>)>,
}

impl Work {
    /// Its name as a mode of Records.
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Training(_) => "train",
        }
    }
    /// Whether it can be done in a precision.
    pub(crate) fn takes(&self, precision: &Precision) -> bool {
        matches!(self, Self::Inference) || can_train(precision)
    }
    /// Loss and optimizer of a training step, and which of them nobody said.
    pub(crate) fn step(&self, model: &Graph) -> Option<Value> {
        let Self::Training(wanted) = self else { return None };
        let (loss, optimizer) = (wanted.loss_of(model), wanted.optimizer_of(model));
        let known = wanted.spec.is_some();
        let assumed = [("loss", wanted.loss.is_some()), ("optimizer", wanted.optimizer.is_some())];
        let assumed: Vec<&str> =
            assumed.iter().filter(|(_, said)| !said && !known).map(|(what, _)| *what).collect();
        Some(
            json!({ "loss": loss.kind.name(), "optimizer": optimizer_words(&optimizer), "assumed": assumed }),
        )
    }
    /// Compiles and times it, on all devices of an installation.
    ///
    /// # Errors
    /// Those of compiling.
    pub(crate) fn time(&self, model: &Bound, setup: &Setup) -> Result<Timed> {
        placement::place(model, setup, self.times_sums(), &|part| self.on_one(part, setup))
    }
    /// How often what devices share is added up, over the sums of a forward pass: in training, each has one in the backward
    /// pass.
    const fn times_sums(&self) -> f64 {
        match self {
            Self::Inference => 1.0,
            Self::Training(_) => 2.0,
        }
    }
    /// Compiles and times it on one device.
    fn on_one(&self, model: &Bound, setup: &Setup) -> Result<Timed> {
        match self {
            Self::Inference => {
                let (built, timeline) = time(model, setup)?;
                Ok(Timed { graph: model.clone(), built, timeline, placement: Placement::ONE, training: None })
            }
            Self::Training(wanted) => {
                let TimedStep { step, built, timeline, anatomy, holdings, .. } =
                    time_step(model, setup, wanted)?;
                Ok(Timed {
                    graph: step,
                    built,
                    timeline,
                    placement: Placement::ONE,
                    training: Some((anatomy, holdings)),
                })
            }
        }
    }
}

/// An optimizer with what tells it from others.
fn optimizer_words(optimizer: &Optimizer) -> String {
    let name = match optimizer {
        Optimizer::Sgd { .. } => "sgd",
        Optimizer::Adam { decoupled: false, .. } => "adam",
        Optimizer::Adam { decoupled: true, .. } => "adamw",
        Optimizer::Adamax { .. } => "adamax",
        Optimizer::RmsProp { .. } => "rmsprop",
        Optimizer::Lamb { .. } => "lamb",
    };
    let momentum = match optimizer {
        Optimizer::Sgd { momentum, .. } | Optimizer::RmsProp { momentum, .. } => *momentum,
        _ => 0.0,
    };
    if momentum > 0.0 { format!("{name} with a momentum of {momentum}") } else { name.to_owned() }
}

/// Puts into a Record where the time of a step goes and what the memories hold.
pub(crate) fn note_training(record: &mut Record, anatomy: &Anatomy, holdings: &[Holdings]) {
    let parts: Map<String, Value> = anatomy
        .parts
        .iter()
        .map(|(part, time)| (part.name().to_owned(), json!(time.seconds() * 1e3)))
        .collect();
    record.extra.insert("anatomy_ms".into(), parts.into());
    // What a training step keeps has words of its own, which say more than the classes of buffers.
    let memories = record.extra.get_mut("memory").and_then(Value::as_array_mut);
    for (memory, held) in memories.into_iter().flatten().zip(holdings) {
        let bytes: Map<String, Value> =
            held.bytes.iter().map(|(holding, bytes)| (holding.name().to_owned(), (*bytes).into())).collect();
        memory["peak_by_class"] = bytes.into();
    }
}
