//! What the machine itself would take for a run that is executed here.

use super::fit::{Request, micro_batch};
use super::timed::Wanted;
use crate::model::Model;
use crate::outcome::simulated;
use crate::run::Place;
use crate::work::Work;
use orrery_base::Result;
use orrery_record::{Record, Scope};

/// A prediction for the steps of a run, from the machine's description alone: nothing of it is measured here.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The step of one micro-batch, or the reason why it cannot be timed.
    pub record: Record,
    /// Micro-batches of an update.
    pub accumulations: u64,
}

/// A predicted figure and the interval in which it lies by the machine's band, where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// The figure.
    pub value: f64,
    /// Where 8 of 10 measured ones would lie.
    pub interval: Option<(f64, f64)>,
}

impl Forecast {
    /// Of a run's steps; none on the host. What the machine cannot do is a Record with the reason.
    ///
    /// # Errors
    /// `train-accumulation`; those of binding the model to the batch.
    pub fn of(model: &Model, request: &Request) -> Result<Option<Self>> {
        let Place::Machine(setup) = &request.place else { return Ok(None) };
        let bound = model.at_batch(Some(micro_batch(request)? as u64))?;
        let mut spec = request.spec.clone();
        spec.loss_scaling = request.scaling.is_on();
        let work = Work::Training(Wanted { spec: Some(Box::new(spec)), ..Wanted::default() });
        let accumulations = request.spec.accumulations.max(1);
        Ok(Some(Self { record: simulated(&bound, setup, &work), accumulations }))
    }
    /// Seconds of so many updates one after the other, evaluation left out.
    pub fn seconds(&self, updates: u64) -> Option<Predicted> {
        self.figure("latency_ms", updates as f64 * self.accumulations as f64 * 1e-3)
    }
    /// Samples a second.
    pub fn rate(&self) -> Option<Predicted> {
        self.figure("samples_per_s", 1.0)
    }
    fn figure(&self, metric: &str, factor: f64) -> Option<Predicted> {
        let figure = self.record.figure(metric, Scope::Device)?;
        let interval = figure.interval.map(|(low, high)| (low * factor, high * factor));
        Some(Predicted { value: figure.value * factor, interval })
    }
}
