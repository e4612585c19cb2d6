//! A whole training run.

use super::batches::Columns;
use super::checkpoint::{self, At};
use super::history::Epoch;
use super::judge::Judge;
use super::metrics::Metric;
use super::scaling::{LossScaling, Scale};
use super::schedule::Schedule;
use super::trainer::Trainer;
use super::trouble::{self, Watch};
use crate::model::Model;
use crate::run::Place;
use orrery_base::{Diagnostic, Progress, Result};
use orrery_data::{Augment, Dataset, Last, Loader, Plan};
use orrery_ir::weights::hash64;
use orrery_numerics::Tensor;
use orrery_transform::training::Spec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many passes over the data.
    Epochs(u64),
    /// So many steps.
    Steps(u64),
    /// So many samples, rounded up to whole steps.
    Samples(u64),
}

/// A run as the user wants it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Loss, optimizer and what belongs to the step.
    pub spec: Spec,
    /// Where the numbers are computed as if.
    pub place: Place,
    /// Threads of this host.
    pub threads: usize,
    /// Results are rounded at random in proportion, on machines that can.
    pub stochastic: bool,
    /// Loss scaling.
    pub scaling: LossScaling,
    /// Samples in a step.
    pub batch: usize,
    /// How long.
    pub length: Length,
    /// Learning rate.
    pub rate: f64,
    /// What becomes of it.
    pub schedule: Schedule,
    /// Seed of order, dropout, rounding and augmentation.
    pub seed: u64,
    /// Augmentation of an image column.
    pub augment: Option<(String, Augment)>,
    /// Which columns go into which inputs, where the names differ: input, column.
    pub columns: Vec<(String, String)>,
    /// Columns to bring to mean 0 and deviation 1, by the part that is trained on.
    pub normalise: Vec<String>,
    /// File that checkpoints are written to, and after how many steps each; at the end in any case.
    pub checkpoint: Option<(PathBuf, Option<u64>)>,
    /// Goes on from this checkpoint.
    pub resume: Option<PathBuf>,
    /// What the user set, in the user's own words: kept in checkpoints, and without effect on the run.
    pub options: BTreeMap<String, Vec<String>>,
}

/// What is told as a run goes on.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// What the run does to the data and the model.
    About(Vec<String>),
    /// After a step.
    Step {
        /// Its number.
        step: u64,
        /// Steps of the whole run.
        of: u64,
        /// Mean loss of the epoch's steps so far.
        mean: f64,
        /// Loss before it.
        loss: f64,
        /// Samples a second on this host, over the run so far.
        rate: f64,
        /// Seconds left on this host.
        left: f64,
    },
    /// After an epoch.
    Epoch(&'a Epoch),
    /// Something the user should know.
    Note(&'a Diagnostic),
    /// A checkpoint was written.
    Checkpoint(&'a Path, u64),
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Its epochs; the last may be a part of one.
    pub history: Vec<Epoch>,
    /// Steps done, those before a resumed checkpoint counted.
    pub steps: u64,
    /// Samples learned from, likewise.
    pub samples: u64,
    /// Passes over the data, the part of the last one counted.
    pub epochs: f64,
    /// Loss before the last step of this run; none where it had none.
    pub last_loss: Option<f64>,
    /// Figures over the test data at the end, where there are some.
    pub test: Option<BTreeMap<String, f64>>,
    /// Seconds of this run on this host, evaluation counted apart.
    pub seconds: f64,
    /// Steps of this run alone.
    pub steps_timed: u64,
    /// Samples of this run alone.
    pub samples_timed: u64,
    /// Seconds that evaluation took.
    pub evaluation_seconds: f64,
    /// The model with its trained weights, by name.
    pub states: Vec<(String, Tensor)>,
}

/// Trains a model.
///
/// # Errors
/// `train-not-a-number`, `train-diverged`, `train-label` with what to do; `cancelled` after a step, whose checkpoint is
/// written where there is a file for it; those of data, compiling and running.
pub fn train(
    model: &Model,
    mut data: Dataset,
    mut held_out: Option<Dataset>,
    mut test: Option<Dataset>,
    request: &Request,
    progress: &Progress,
    tell: &mut dyn FnMut(&Event<'_>),
) -> Result<Trained> {
    if let Some((path, _)) = &request.checkpoint {
        checkpoint::prepare(path)?;
    }
    for column in &request.normalise {
        // What is not trained on must not say how it is scaled.
        let by = data.statistics(column)?;
        data.normalise(column, &by)?;
        for judged in [&mut held_out, &mut test].into_iter().flatten() {
            judged.normalise(column, &by)?;
        }
    }
    let micro = micro_batch(request)?;
    let bound = model.at_batch(Some(micro as u64))?;
    let mut spec = request.spec.clone();
    spec.gradient_norm = true;
    spec.loss_scaling = request.scaling.is_on();
    let mut trainer = Trainer::new(&bound, &spec, &request.place, request.threads, request.stochastic)?;
    trainer.description().notes.iter().for_each(|note| tell(&Event::Note(note)));
    let augment = request.augment.clone().map(|(column, how)| (column, how, hash64(request.seed, 2)));
    let plan = Plan { batch: request.batch, shuffle: Some(request.seed), last: Last::Drop, augment };
    let mut loader = Loader::new(data, plan)?;
    let columns = Columns::new(&bound, trainer.description(), loader.data(), &request.columns, None)?;
    request.normalise.iter().try_for_each(|column| columns.sees(column, "--normalise"))?;
    request.augment.iter().try_for_each(|(column, _)| columns.sees(column, "--augment"))?;
    let mut about = loader.about();
    about.extend(columns.about());
    tell(&Event::About(about));
    let per_epoch = loader.batches_per_epoch() as u64;
    let total = match request.length {
        Length::Epochs(epochs) => epochs.saturating_mul(per_epoch),
        Length::Steps(steps) => steps,
        Length::Samples(samples) => samples.div_ceil(request.batch.max(1) as u64),
    };
    if let Some(note) = request.schedule.beyond(total) {
        tell(&Event::Note(&note));
    }
    let judge = |data: &Option<Dataset>| match data {
        Some(data) => {
            Judge::new(&bound, &spec, trainer.description(), request, data, Some(&columns)).map(Some)
        }
        None => Ok(None),
    };
    let (judge, test) = (judge(&held_out)?, judge(&test)?);
    let mut run = Run {
        request,
        scale: request.scaling.start(),
        watch: Watch::default(),
        step: 0,
        epoch_loss: 0.0,
        epoch_samples: 0,
        applied: 0,
        last_loss: None,
        saved: None,
        history: Vec::new(),
    };
    if let Some(path) = &request.resume {
        run.resume(path, model, &mut trainer, &mut loader)?;
    }
    let begun = run.step;
    let start = Instant::now();
    let mut judged = 0.0;
    let mut before: Vec<Tensor> = trainer.states().map(|(_, tensor)| tensor.clone()).collect();
    while run.step < total {
        let batch = loader.next_batch()?;
        run.one(&mut trainer, &columns, &batch, total, tell)?;
        let spent = start.elapsed().as_secs_f64() - judged;
        let done = run.step - begun;
        let each = spent / done.max(1) as f64;
        let event = Event::Step {
            step: run.step,
            of: total,
            mean: run.epoch_loss / run.epoch_samples.max(1) as f64 * request.batch as f64,
            loss: run.last_loss.unwrap_or(f64::NAN),
            rate: request.batch as f64 / each,
            left: each * (total - run.step) as f64,
        };
        tell(&event);
        // An epoch that the run's end cuts short is not over for a run that goes on from here.
        let ends = batch.ends_epoch();
        if !ends {
            run.save(model, &trainer, &loader, total, tell)?;
        }
        if ends || run.step == total {
            let since = Instant::now();
            let metrics = match &judge {
                Some(judge) => judge.metrics(trainer.states())?,
                None => Vec::new(),
            };
            judged += since.elapsed().as_secs_f64();
            run.close_epoch(batch.at.epoch + 1, ends, &metrics);
            if let Some(epoch) = run.history.last() {
                tell(&Event::Epoch(epoch));
            }
            if let Some(note) = trouble::no_figure(&metrics, run.step) {
                tell(&Event::Note(&note));
            }
            if let Some(note) = trouble::unmoved(&trainer, &before, run.applied) {
                tell(&Event::Note(&note));
            }
            run.applied = 0;
            before = trainer.states().map(|(_, tensor)| tensor.clone()).collect();
        }
        if ends {
            run.save(model, &trainer, &loader, total, tell)?;
        }
        if !progress.step("training", run.step, total) {
            return run.stop(model, &trainer, &loader, tell);
        }
    }
    let since = Instant::now();
    let tested = test.map(|judge| judge.metrics(trainer.states())).transpose()?;
    if let Some(note) = tested.as_ref().and_then(|metrics| trouble::no_figure(metrics, run.step)) {
        tell(&Event::Note(&note));
    }
    judged += since.elapsed().as_secs_f64();
    let (at, each) = (loader.position(), per_epoch * request.batch as u64);
    Ok(Trained {
        epochs: at.epoch as f64 + (at.sample as f64 / each as f64).min(1.0),
        last_loss: run.last_loss,
        test: tested.map(|metrics| by_name(&metrics)),
        steps: run.step,
        samples: run.history.iter().map(|epoch| epoch.samples).sum(),
        history: run.history,
        seconds: start.elapsed().as_secs_f64() - judged,
        steps_timed: run.step - begun,
        samples_timed: (run.step - begun) * request.batch as u64,
        evaluation_seconds: judged,
        states: trainer.states().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect(),
    })
}

fn by_name(metrics: &[Metric]) -> BTreeMap<String, f64> {
    metrics.iter().map(|metric| (metric.name.to_owned(), metric.value)).collect()
}

/// Samples of one micro-batch.
pub(super) fn micro_batch(request: &Request) -> Result<usize> {
    let parts = usize::try_from(request.spec.accumulations.max(1)).unwrap_or(usize::MAX);
    if request.batch.is_multiple_of(parts) {
        return Ok(request.batch / parts);
    }
    let cause = format!("a batch of {} cannot be cut in {parts} equal micro-batches", request.batch);
    Diagnostic::error("train-accumulation", cause)
        .help("choose a batch that is a multiple of --accumulate")
        .err()
}

struct Run<'a> {
    request: &'a Request,
    scale: Scale,
    watch: Watch,
    step: u64,
    /// Sum over the epoch's steps of the loss.
    epoch_loss: f64,
    epoch_samples: u64,
    /// Steps that changed the states since parameters were last looked at.
    applied: u64,
    last_loss: Option<f64>,
    /// The step of the last checkpoint that this run wrote.
    saved: Option<u64>,
    history: Vec<Epoch>,
}

impl Run<'_> {
    fn one(
        &mut self,
        trainer: &mut Trainer,
        columns: &Columns,
        batch: &orrery_data::Batch,
        total: u64,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<()> {
        let number = self.step + 1;
        let rate = self.request.rate * self.request.schedule.factor(number, total);
        let seed = hash64(self.request.seed, number);
        let parts = self.request.spec.accumulations.max(1);
        let held = self.scale.factor;
        let mut loss = 0.0;
        for part in 0..parts {
            let (data, labels) = columns.of(batch, part as usize, parts as usize)?;
            let inputs = trainer.inputs(&data, labels.as_ref(), rate, number, held, part + 1 == parts)?;
            let seed = hash64(seed, part);
            let outcome = trainer.step(inputs.clone(), seed)?;
            loss += outcome.loss / parts as f64;
            if outcome.applied && part + 1 < parts {
                continue;
            }
            let expected = self.scale.after(outcome.applied);
            // With dynamic scaling an overflow of gradients is expected now and then; that of the loss itself is not.
            if !(outcome.applied || expected && outcome.loss.is_finite()) {
                let precision = match &self.request.place {
                    Place::Machine(setup) => Some(setup.target()?.precision.name.clone()),
                    Place::Host => None,
                };
                return Err(trouble::not_a_number(trainer, inputs, seed, number, rate, precision.as_deref()));
            }
            if !outcome.applied {
                let cause =
                    format!("step {number} is left out: gradients overflow at a loss scale of {held}");
                tell(&Event::Note(&Diagnostic::note("train-scale-overflow", cause)));
                trainer.drop_accumulated()?;
                break;
            }
            self.applied += u64::from(part + 1 == parts);
            if let Some(grown) = self.watch.after(loss) {
                return Err(trouble::diverged(trainer, inputs, seed, number, rate, grown));
            }
        }
        self.step = number;
        self.last_loss = Some(loss);
        self.epoch_loss += loss;
        self.epoch_samples += batch.valid as u64;
        Ok(())
    }
    fn close_epoch(&mut self, epoch: u64, whole: bool, metrics: &[Metric]) {
        let steps = self.epoch_samples as f64 / self.request.batch as f64;
        self.history.push(Epoch {
            epoch,
            whole,
            step: self.step,
            samples: self.epoch_samples,
            loss: self.epoch_loss / steps.max(1.0),
            held_out: by_name(metrics),
        });
        self.epoch_loss = 0.0;
        self.epoch_samples = 0;
    }
    /// Writes a checkpoint where one is due.
    fn save(
        &mut self,
        model: &Model,
        trainer: &Trainer,
        loader: &Loader,
        total: u64,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<()> {
        let Some((path, every)) = &self.request.checkpoint else { return Ok(()) };
        if self.step == total || every.is_some_and(|n| self.step.is_multiple_of(n.max(1))) {
            self.write(path, model, trainer, loader, tell)?;
        }
        Ok(())
    }
    fn write(
        &mut self,
        path: &Path,
        model: &Model,
        trainer: &Trainer,
        loader: &Loader,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<()> {
        checkpoint::write(path, trainer.states(), &self.at(model, loader)).map_err(|error| {
            match self.saved {
                Some(before) => {
                    Box::new(error.help(format!("the checkpoint of step {before} is there still, and whole")))
                }
                None => error,
            }
        })?;
        self.saved = Some(self.step);
        tell(&Event::Checkpoint(path, self.step));
        Ok(())
    }
    /// Ends the run before its end, with a checkpoint where there is a file for it.
    fn stop<T>(
        &mut self,
        model: &Model,
        trainer: &Trainer,
        loader: &Loader,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<T> {
        if let Some((path, _)) = self.request.checkpoint.as_ref().filter(|_| self.saved != Some(self.step)) {
            self.write(path, model, trainer, loader, tell)?;
        }
        Diagnostic::error("cancelled", format!("stopped after step {}", self.step)).err()
    }
    fn at(&self, model: &Model, loader: &Loader) -> At {
        let position = loader.position();
        At {
            version: checkpoint::VERSION,
            model: model.name.clone(),
            options: self.request.options.clone(),
            step: self.step,
            epoch: position.epoch,
            sample: position.sample,
            seed: self.request.seed,
            loss_scale: self.scale.factor,
            loss_scale_steady: self.scale.steady,
            epoch_loss: self.epoch_loss,
            epoch_samples: self.epoch_samples,
            history: self.history.clone(),
        }
    }
    fn resume(
        &mut self,
        path: &Path,
        model: &Model,
        trainer: &mut Trainer,
        loader: &mut Loader,
    ) -> Result<()> {
        let (states, at) = checkpoint::read(path)?;
        let wrong = |cause: String| {
            Diagnostic::error("checkpoint-mismatch", cause).at(path.display().to_string()).err()
        };
        if at.model != model.name {
            return wrong(format!("it is of the model `{}`, this run is of `{}`", at.model, model.name));
        }
        if at.seed != self.request.seed {
            return wrong(format!(
                "it is of a run with seed {}; give --seed {} to go on with it",
                at.seed, at.seed
            ));
        }
        let (held, wanted) = (states.len(), trainer.description().states.len());
        if held != wanted {
            return wrong(format!(
                "it has {held} states, this run has {wanted}: another optimizer or other frozen weights"
            ));
        }
        for (name, tensor) in states {
            let values = tensor.to_f64().unwrap_or_default();
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let cause = format!("`{name}` holds {} at element {at}, counted from 0", values[at]);
                return Diagnostic::error("checkpoint-value", cause)
                    .at(path.display().to_string())
                    .help("no step mends it: go on from an earlier checkpoint, or begin again")
                    .err();
            }
            trainer.set_state(&name, tensor)?;
        }
        loader.resume(at.position())?;
        self.step = at.step;
        self.scale.factor = at.loss_scale;
        self.scale.steady = at.loss_scale_steady;
        self.epoch_loss = at.epoch_loss;
        self.epoch_samples = at.epoch_samples;
        self.history = at.history;
        Ok(())
    }
}
