//! Steps of training, and the states they leave.

use super::engine::{Engine, precision};
use super::timed::trains;
use crate::memory;
use crate::model::Bound;
use crate::run::{Place, in_type};
use orrery_base::{Diagnostic, Result};
use orrery_ir::weights::initial;
use orrery_numerics::Tensor;
use orrery_transform::Weights;
use orrery_transform::training::{self, Slot, Spec, StateKind, Step};

/// What a step found.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The loss before the step.
    pub loss: f64,
    /// Norm of all gradients, where the step gives it; not a number where one of them is none.
    pub gradient_norm: Option<f64>,
    /// Whether the states were changed: they stay as they are where the loss or a gradient is no number.
    pub applied: bool,
}

/// A model in training.
pub struct Trainer {
    step: Step,
    engine: Engine,
    /// What the states hold, in the order of [`Step::states`].
    states: Vec<Tensor>,
}

impl Trainer {
    /// Makes and compiles the step of a model with the batch it is bound to. `stochastic` rounds results at random in
    /// proportion, on machines that can.
    ///
    /// # Errors
    /// `host-memory`; `weights-absent` where the model has no elements to start from; those of [`training::step`] and of compiling.
    pub fn new(model: &Bound, spec: &Spec, place: &Place, threads: usize, stochastic: bool) -> Result<Self> {
        if let Place::Machine(setup) = place {
            trains(&setup.target()?)?;
        }
        let formats = precision(place)?;
        let step = training::step(&model.graph, spec, formats.as_ref(), Weights::Compute)?;
        let (parameters, others): (Vec<_>, Vec<_>) =
            step.states.iter().partition(|slot| slot.kind == StateKind::Parameter);
        let held = |slots: &[&Slot]| {
            slots.iter().fold(0_u64, |sum, slot| sum.saturating_add(memory::bytes(&slot.ty)))
        };
        let (parameters, others) = (held(&parameters), held(&others));
        memory::check(&[("parameters", parameters), ("gradients", parameters), ("other states", others)])?;
        let states = step.graph.states.iter().map(|state| initial(&step.graph, state));
        let states = states.collect::<Result<_>>()?;
        let engine = Engine::new(&step.graph, place, threads, stochastic)?;
        Ok(Self { step, engine, states })
    }
    /// The step.
    pub const fn description(&self) -> &Step {
        &self.step
    }
    /// What the states hold, with their names.
    pub fn states(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.step.states.iter().map(|slot| slot.name.as_str()).zip(&self.states)
    }
    /// Puts elements in a state.
    ///
    /// # Errors
    /// `state-mismatch` where there is no state of that name, type and shape.
    pub fn set_state(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let at = self.step.states.iter().position(|slot| slot.name == name);
        let Some(at) = at else {
            return Diagnostic::error("state-mismatch", format!("the training has no state `{name}`")).err();
        };
        let held = &self.states[at];
        if (held.dtype(), held.shape()) != (tensor.dtype(), tensor.shape()) {
            let cause = format!("state `{name}` is {held:?}, got {tensor:?}");
            return Diagnostic::error("state-mismatch", cause).err();
        }
        self.states[at] = tensor;
        Ok(())
    }
    /// All inputs of a step on a batch: `data` in the order of the model's inputs. `number` is 1 for the first step; `apply` is
    /// true for the last micro-batch of an update.
    ///
    /// # Errors
    /// `input-mismatch` where the batch does not have all inputs of the model, or one is of another type.
    pub fn inputs(
        &self,
        data: &[Tensor],
        labels: Option<&Tensor>,
        rate: f64,
        number: u64,
        loss_scale: f64,
        apply: bool,
    ) -> Result<Vec<Tensor>> {
        let step = &self.step;
        let mut inputs: Vec<Option<Tensor>> = vec![None; step.graph.inputs.len()];
        let mut put = |at: usize, tensor: &Tensor| -> Result<()> {
            let ty = step.graph.values[step.graph.inputs[at]].ty.as_tensor();
            inputs[at] = Some(in_type(tensor, ty.map_or(tensor.dtype(), |ty| ty.dtype))?);
            Ok(())
        };
        for (at, tensor) in step.data.clone().zip(data) {
            put(at, tensor)?;
        }
        if let (Some(at), Some(labels)) = (step.labels, labels) {
            put(at, labels)?;
        }
        put(step.learning_rate, &Tensor::scalar(rate as f32))?;
        put(step.step, &Tensor::scalar(number as i64))?;
        if let Some(at) = step.apply {
            put(at, &Tensor::from_bools(vec![], [apply]))?;
        }
        if let Some(at) = step.loss_scale {
            put(at, &Tensor::scalar(loss_scale as f32))?;
        }
        for (slot, state) in step.states.iter().zip(&self.states) {
            inputs[slot.input] = Some(state.clone());
        }
        let all: Option<Vec<Tensor>> = inputs.into_iter().collect();
        all.ok_or_else(|| {
            let cause = "the batch does not have all inputs of the model";
            Box::new(Diagnostic::error("input-mismatch", cause))
        })
    }
    /// Forgets gradients of micro-batches whose update is left out.
    ///
    /// # Errors
    /// Never for states of a step.
    pub(super) fn drop_accumulated(&mut self) -> Result<()> {
        let graph = &self.step.graph;
        for ((slot, state), held) in self.step.states.iter().zip(&graph.states).zip(&mut self.states) {
            if slot.kind == StateKind::Accumulated {
                *held = initial(graph, state)?;
            }
        }
        Ok(())
    }
    /// One step on inputs from [`Trainer::inputs`]. `seed` is that of dropouts and stochastic rounding.
    ///
    /// # Errors
    /// Those of running.
    pub fn step(&mut self, inputs: Vec<Tensor>, seed: u64) -> Result<StepOutcome> {
        let step = &self.step;
        let mut made = self.engine.run(inputs, seed)?;
        let number =
            |tensor: &Tensor| tensor.to_f64().ok().and_then(|v| v.first().copied()).unwrap_or(f64::NAN);
        let loss = number(&made[0]);
        let gradient_norm = step.gradient_norm.map(|at| number(&made[at]));
        let sound = loss.is_finite() && gradient_norm.is_none_or(f64::is_finite);
        if sound {
            for (slot, state) in step.states.iter().zip(&mut self.states) {
                std::mem::swap(state, &mut made[slot.output]);
            }
        }
        Ok(StepOutcome { loss, gradient_norm, applied: sound })
    }
}
