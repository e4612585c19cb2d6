//! What is simulated of a model: a run, or a step of its training.

use crate::model::Bound;
use crate::placement::{self, Placement};
use crate::setup::Setup;
use crate::training::{Anatomy, Holdings, TimedStep, Wanted, time_step};
use crate::way::{Built, time};
use orrery_base::Result;
use orrery_record::Record;
use orrery_simulate::Timeline;
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

/// Puts into a Record where the time of a step goes and what the memories hold.
pub(crate) fn note_training(record: &mut Record, anatomy: &Anatomy, holdings: &[Holdings]) {
    let parts: Map<String, Value> = anatomy
        .parts
        .iter()
        .map(|(part, time)| (part.name().to_owned(), json!(time.seconds() * 1e3)))
        .collect();
    record.extra.insert("anatomy_ms".into(), parts.into());
    let memories = holdings.iter().map(|held| {
        let bytes: Map<String, Value> =
            held.bytes.iter().map(|(holding, bytes)| (holding.name().to_owned(), (*bytes).into())).collect();
        json!({ "name": held.memory, "cores": held.cores, "capacity_bytes": held.capacity, "bytes": bytes })
    });
    record.extra.insert("memory_by_kind".into(), memories.collect());
}
