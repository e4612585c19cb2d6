//! The update: from gradients to new parameters.

use super::parameters::no_parameter;
use super::{Spec, StateKind};
use orrery_base::Result;
use orrery_ir::{Attrs, Extend, Op, Type, ValueId};
use orrery_numerics::DType;

/// An optimizer, by the formulas and the names of `torch.optim`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Gradient descent.
    Sgd {
        /// Part of the momentum that is kept.
        momentum: f64,
        /// Looks ahead along the momentum.
        nesterov: bool,
        /// Factor of the parameter that is added to its gradient.
        weight_decay: f64,
    },
    /// Adam.
    Adam {
        /// Parts of the running means that are kept.
        betas: [f64; 2],
        /// Added to the root that is divided by.
        epsilon: f64,
        /// Factor of the parameter that is added to its gradient, or taken off the parameter where decoupled.
        weight_decay: f64,
        /// AdamW.
        decoupled: bool,
    },
    /// Adamax.
    Adamax {
        /// Parts that are kept.
        betas: [f64; 2],
        /// Added to each gradient's magnitude.
        epsilon: f64,
        /// Factor of the parameter that is added to its gradient.
        weight_decay: f64,
    },
    /// RMSprop.
    RmsProp {
        /// Part of the mean squared gradient that is kept.
        alpha: f64,
        /// Part of the momentum that is kept.
        momentum: f64,
        /// Added to the root that is divided by.
        epsilon: f64,
        /// Factor of the parameter that is added to its gradient.
        weight_decay: f64,
    },
    /// LAMB.
    Lamb {
        /// Parts of the running means that are kept.
        betas: [f64; 2],
        /// Added to the root that is divided by.
        epsilon: f64,
        /// Factor of the parameter that is added to the direction.
        weight_decay: f64,
    },
}

impl Optimizer {
    /// The optimizer of that name with the defaults of its paper or `torch.optim`; none where there is none such.
    pub fn parse(name: &str) -> Option<Self> {
        let betas = [0.9, 0.999];
        Some(match name.to_ascii_lowercase().as_str() {
            "sgd" => Self::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 },
            "adam" => Self::Adam { betas, epsilon: 1e-8, weight_decay: 0.0, decoupled: false },
            "adamw" => Self::Adam { betas, epsilon: 1e-8, weight_decay: 0.01, decoupled: true },
            "adamax" => Self::Adamax { betas, epsilon: 1e-8, weight_decay: 0.0 },
            "rmsprop" => Self::RmsProp { alpha: 0.99, momentum: 0.0, epsilon: 1e-8, weight_decay: 0.0 },
            "lamb" => Self::Lamb { betas, epsilon: 1e-6, weight_decay: 0.01 },
            _ => return None,
        })
    }
    /// The names that [`Optimizer::parse`] knows.
    pub const NAMES: [&'static str; 6] = ["sgd", "adam", "adamw", "adamax", "rmsprop", "lamb"];
    /// With a momentum; none where it has no such thing.
    #[must_use]
    pub fn with_momentum(mut self, value: f64) -> Option<Self> {
        let (Self::Sgd { momentum, .. } | Self::RmsProp { momentum, .. }) = &mut self else { return None };
        *momentum = value;
        Some(self)
    }
    /// Factor of the weight decay.
    pub fn weight_decay(mut self) -> f64 {
        *self.decay_mut()
    }
    /// With a weight decay.
    #[must_use]
    pub fn with_weight_decay(mut self, value: f64) -> Self {
        *self.decay_mut() = value;
        self
    }
    fn decay_mut(&mut self) -> &mut f64 {
        match self {
            Self::Sgd { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::Adamax { weight_decay, .. }
            | Self::RmsProp { weight_decay, .. }
            | Self::Lamb { weight_decay, .. } => weight_decay,
        }
    }
    /// The op of its step, its attributes, and the names of its moments.
    fn form(&self) -> (Op, Attrs, &'static [&'static str]) {
        let with_betas = |betas: &[f64; 2]| Attrs::new().with("beta1", betas[0]).with("beta2", betas[1]);
        match self {
            Self::Sgd { momentum, nesterov, weight_decay } => {
                let attrs = Attrs::new().with("weight_decay", *weight_decay);
                if *momentum == 0.0 {
                    return (Op::SgdStep, attrs, &[]);
                }
                let attrs = attrs.with("momentum", *momentum).with("nesterov", i64::from(*nesterov));
                (Op::SgdStep, attrs, &["momentum"])
            }
            Self::Adam { betas, epsilon, weight_decay, decoupled } => {
                let attrs = with_betas(betas).with("epsilon", *epsilon).with("weight_decay", *weight_decay);
                (Op::AdamStep, attrs.with("decoupled", i64::from(*decoupled)), &["mean", "square"])
            }
            Self::Adamax { betas, epsilon, weight_decay } => {
                let attrs = with_betas(betas).with("epsilon", *epsilon).with("weight_decay", *weight_decay);
                (Op::AdamaxStep, attrs, &["mean", "largest"])
            }
            Self::RmsProp { alpha, momentum, epsilon, weight_decay } => {
                let attrs = Attrs::new().with("alpha", *alpha).with("momentum", *momentum);
                let attrs = attrs.with("epsilon", *epsilon).with("weight_decay", *weight_decay);
                (Op::RmsPropStep, attrs, &["momentum", "square"])
            }
            Self::Lamb { betas, epsilon, weight_decay } => {
                let attrs = with_betas(betas).with("epsilon", *epsilon).with("weight_decay", *weight_decay);
                (Op::LambDirection, attrs, &["mean", "square"])
            }
        }
    }
}

/// A moment that the update keeps.
pub(super) struct Moment {
    pub(super) name: String,
    pub(super) kind: StateKind,
    pub(super) input: ValueId,
    pub(super) output: ValueId,
}

/// What the update makes.
pub(super) struct Updated {
    /// The new parameters, in the order of the old.
    pub(super) parameters: Vec<ValueId>,
    /// Norm of all gradients, where it was needed.
    pub(super) norm: Option<ValueId>,
    pub(super) moments: Vec<Moment>,
}

/// Appends the update.
pub(super) struct Update<'a> {
    spec: &'a Spec,
    rate: ValueId,
    time: ValueId,
    scale: Option<ValueId>,
    /// Whether this is the last of the micro-batches of an update, where there are several.
    apply: Option<ValueId>,
}

impl<'a> Update<'a> {
    pub(super) const fn new(
        spec: &'a Spec,
        rate: ValueId,
        time: ValueId,
        scale: Option<ValueId>,
        apply: Option<ValueId>,
    ) -> Self {
        Self { spec, rate, time, scale, apply }
    }
    /// Takes each parameter with its gradient and name.
    pub(super) fn append(
        &mut self,
        graph: &mut Extend,
        parameters: &[(ValueId, ValueId, String)],
    ) -> Result<Updated> {
        self.check_undecayed(graph, parameters)?;
        graph.set_scope("update");
        let mut gradients = Vec::with_capacity(parameters.len());
        for (_, gradient, _) in parameters {
            let wide = graph.cast(*gradient, DType::F32)?;
            gradients.push(match self.scale {
                Some(scale) => graph.div(wide, scale)?,
                None => wide,
            });
        }
        let mut updated = Updated { parameters: Vec::new(), norm: None, moments: Vec::new() };
        if let Some(apply) = self.apply {
            for ((_, _, name), gradient) in parameters.iter().zip(&mut gradients) {
                *gradient = self.accumulated(graph, *gradient, name, apply, &mut updated.moments)?;
            }
        }
        let norm = if self.spec.clip_norm.is_some() || self.spec.gradient_norm {
            Some(norm(graph, &gradients)?)
        } else {
            None
        };
        if let (Some(most), Some(norm)) = (self.spec.clip_norm, norm) {
            // As torch.nn.utils.clip_grad_norm_ has it.
            let above = graph.plus(norm, 1e-6)?;
            let most = graph.scalar_like(above, most);
            let share = graph.div(most, above)?;
            let one = graph.scalar_like(share, 1.0);
            let share = graph.op(Op::Min, &[share, one], Attrs::new())?;
            for gradient in &mut gradients {
                *gradient = graph.mul(*gradient, share)?;
            }
        }
        updated.norm = norm;
        for ((parameter, _, name), gradient) in parameters.iter().zip(gradients) {
            let new = self.one(graph, *parameter, gradient, name, &mut updated.moments)?;
            updated.parameters.push(self.applied(graph, new, *parameter)?);
        }
        graph.set_scope("");
        Ok(updated)
    }
    /// The mean gradient of the micro-batches so far, which is kept until the last of them has used it.
    fn accumulated(
        &self,
        graph: &mut Extend,
        gradient: ValueId,
        name: &str,
        apply: ValueId,
        moments: &mut Vec<Moment>,
    ) -> Result<ValueId> {
        let ty = graph.fact(gradient).ty.clone();
        graph.set_scope("");
        let name = format!("{name}.accumulated");
        let before = graph.input(&name, ty);
        graph.set_scope("update");
        let part = graph.scale(gradient, 1.0 / self.spec.accumulations.max(1) as f64)?;
        let sum = graph.add(before, part)?;
        let zero = graph.scalar_like(sum, 0.0);
        let output = graph.op(Op::Where, &[apply, zero, sum], Attrs::new())?;
        moments.push(Moment { name, kind: StateKind::Accumulated, input: before, output });
        Ok(sum)
    }
    /// The new value of a state, or the old one before the last micro-batch.
    fn applied(&self, graph: &mut Extend, new: ValueId, old: ValueId) -> Result<ValueId> {
        match self.apply {
            Some(apply) => graph.op(Op::Where, &[apply, new, old], Attrs::new()),
            None => Ok(new),
        }
    }
    fn one(
        &self,
        graph: &mut Extend,
        parameter: ValueId,
        gradient: ValueId,
        name: &str,
        moments: &mut Vec<Moment>,
    ) -> Result<ValueId> {
        let mut optimizer = self.spec.optimizer;
        if self.is_undecayed(graph, parameter, name)? {
            optimizer = optimizer.with_weight_decay(0.0);
        }
        let (op, attrs, kept) = optimizer.form();
        let stored = graph.dtype(parameter);
        let wide = graph.cast(parameter, DType::F32)?;
        let shape = graph.shape(wide)?;
        graph.set_scope("");
        let states: Vec<(String, ValueId)> = kept
            .iter()
            .map(|moment| {
                let dtype =
                    if matches!(*moment, "mean" | "momentum") { self.spec.means_in } else { DType::F32 };
                let name = format!("{name}.{moment}");
                (name.clone(), graph.input(&name, Type::tensor(dtype, shape.iter().copied())))
            })
            .collect();
        graph.set_scope("update");
        let mut found = Vec::new();
        for (_, state) in &states {
            found.push(graph.cast(*state, DType::F32)?);
        }
        let operands = [self.rate, self.time, wide, gradient].into_iter().chain(found);
        let operands: Vec<Option<ValueId>> = operands.map(Some).collect();
        let node = graph.node(op, name, &operands, attrs, Vec::new(), &vec![true; 1 + states.len()])?;
        let made: Vec<ValueId> = graph.graph().nodes[node].outputs.iter().flatten().copied().collect();
        for ((name, input), output) in states.into_iter().zip(&made[1..]) {
            let kept = graph.dtype(input);
            let output = graph.cast(*output, kept)?;
            let output = self.applied(graph, output, input)?;
            moments.push(Moment { name, kind: StateKind::Moment, input, output });
        }
        let new = if op == Op::LambDirection { self.lamb(graph, wide, made[0])? } else { made[0] };
        graph.cast(new, stored)
    }
    /// The step along LAMB's direction: as long as the learning rate times the parameter's norm.
    fn lamb(&self, graph: &mut Extend, parameter: ValueId, direction: ValueId) -> Result<ValueId> {
        let own = norm(graph, &[parameter])?;
        let way = norm(graph, &[direction])?;
        let product = graph.mul(own, way)?;
        let (zero, one) = (graph.scalar_like(own, 0.0), graph.scalar_like(own, 1.0));
        let both = graph.op(Op::Greater, &[product, zero], Attrs::new())?;
        let ratio = graph.div(own, way)?;
        let ratio = graph.op(Op::Where, &[both, ratio, one], Attrs::new())?;
        let rate = graph.mul(self.rate, ratio)?;
        let moved = graph.mul(rate, direction)?;
        graph.sub(parameter, moved)
    }
    fn is_undecayed(&self, graph: &Extend, parameter: ValueId, name: &str) -> Result<bool> {
        let flat = graph.rank(parameter)? <= 1;
        Ok(self.spec.undecayed.iter().any(|part| is_meant(part, name, flat)))
    }
    /// Refuses what is to be left undecayed and is the name of nothing.
    fn check_undecayed(&self, graph: &Extend, parameters: &[(ValueId, ValueId, String)]) -> Result<()> {
        for part in &self.spec.undecayed {
            let mut meant = false;
            for (parameter, _, name) in parameters {
                meant |= is_meant(part, name, graph.rank(*parameter)? <= 1);
            }
            if !meant {
                let names: Vec<String> = parameters.iter().map(|(_, _, name)| name.clone()).collect();
                let cause = format!("`{part}` keeps nothing from decay: no trained parameter's name has it");
                return Err(Box::new(no_parameter(cause, part, &names)));
            }
        }
        Ok(())
    }
}

/// Whether a part of a name means a parameter: `bias` all of one dimension.
fn is_meant(part: &str, name: &str, flat: bool) -> bool {
    name.contains(part) || (flat && part == "bias")
}

/// Root of the sum of the squares of all elements.
fn norm(graph: &mut Extend, values: &[ValueId]) -> Result<ValueId> {
    let mut squares = Vec::with_capacity(values.len());
    for value in values {
        squares.push(graph.op(Op::ReduceSumSquare, &[*value], Attrs::new().with("keepdims", 0))?);
    }
    let sum = match &squares[..] {
        [one] => *one,
        many => graph.op(Op::Sum, many, Attrs::new())?,
    };
    graph.unary(Op::Sqrt, sum)
}
