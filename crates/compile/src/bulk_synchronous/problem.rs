//! What the partition search is asked about a group.

use super::Lowering;
use crate::groups::Group;
use crate::lower::{Body, Emitter, grid};
use crate::partition::{Axis, Choice, Operand, Problem, Tiles};
use orrery_base::{Diagnostic, Result};
use orrery_cost::{Contraction, Target};
use orrery_ir::op::{Access, AxisKind, Combine, IterSpace};
use orrery_ir::{Bindings, Dim, ValueId};
use orrery_numerics::DType;
use orrery_program::memory::unbound;
use orrery_program::{Cut, Cutting};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How ops were cut over the tiles of each machine, under its losses and in a precision. Clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<Mutex<BTreeMap<String, Chosen>>>);

impl Cuts {
    /// Runs what may look them up and add to them.
    pub(super) fn with<T>(&self, target: &Target<'_>, work: impl FnOnce(&mut Chosen) -> T) -> T {
        let key = format!("{:?} {:?} {:?}", target.system.model, target.losses, target.precision);
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chosen = all().remove(&key).unwrap_or_default();
        let result = work(&mut chosen);
        all().insert(key, chosen);
        result
    }
}

/// Problems already solved: equal layers are cut alike. For each the budgets it was solved for, with what was chosen.
#[derive(Debug, Default)]
pub(super) struct Chosen(BTreeMap<Vec<u64>, Vec<(f64, Choice)>>);

impl Chosen {
    /// As [`Tiles::choose`]. What was chosen with more room is chosen again where it has room, as less room makes no way to
    /// cut cheaper; and where nothing had room, the least that can be taken stays the same.
    pub(super) fn choose(&mut self, problem: &Problem, tiles: &Tiles<'_>) -> Choice {
        let solved = self.0.entry(signature(problem)).or_default();
        let holds = |(budget, choice): &&(f64, Choice)| {
            *budget >= tiles.budget && (choice.price.bytes <= tiles.budget || choice.price.bytes > *budget)
        };
        if let Some((_, choice)) = solved.iter().find(holds) {
            return choice.clone();
        }
        let choice = tiles.choose(problem);
        solved.push((tiles.budget, choice.clone()));
        choice
    }
}

impl Lowering<'_> {
    pub(super) fn problem(&self, group: &Group, body: &Body) -> Result<Problem> {
        problem(&self.emitter, &self.nominal, group, body)
    }
    pub(super) fn choose(&mut self, problem: &Problem) -> Choice {
        self.chosen.choose(problem, &self.tiles)
    }
    /// The operand for which a step should go where it lies: a state, which what is made of it replaces, or else the first.
    pub(super) fn staying_operand(&self, body: &Body) -> usize {
        body.operands.iter().position(|value| self.emitter.given_state(*value).is_some()).unwrap_or(0)
    }
    /// The grid under which an operand stays where it is, where there is one.
    pub(super) fn kept_grid(&self, group: &Group, body: &Body, operand: usize) -> Option<(Vec<Cut>, u64)> {
        let space = group.space.as_ref()?;
        let value = *body.operands.get(operand)?;
        if self.moved.contains_key(&value) {
            return None;
        }
        let there = self.emitter.buffer_of.get(&value).copied().or(self.emitter.given_state(value))?;
        let buffer = &self.emitter.program.buffers[there];
        if buffer.home != self.tile || !buffer.layout.copies().is_empty() {
            return None;
        }
        let mut cuts = grid(space, |_| Cutting::Parts(1));
        for (have, want) in buffer.layout.access.iter().zip(&body.reads[operand]) {
            match (have, want) {
                (Access::Along { axis, scale }, Access::Along { axis: to, scale: wanted })
                    if scale == wanted && scale.is(1) =>
                {
                    let cut = &buffer.layout.cuts[*axis];
                    if cut.extent != space.axes[*to].extent || space.axes[*to].kind != AxisKind::Parallel {
                        return None;
                    }
                    cuts[*to] = Cut { name: space.axes[*to].name.to_owned(), ..cut.clone() };
                }
                (Access::Along { axis, .. }, _) if buffer.layout.cuts[*axis].is_cut() => return None,
                (Access::Window { .. }, _) | (_, Access::Window { .. }) => return None,
                _ => {}
            }
        }
        Some((cuts, buffer.layout.base))
    }
}

/// The problem of a group with symbols at these values.
pub(crate) fn problem(
    emitter: &Emitter<'_>,
    nominal: &Bindings,
    group: &Group,
    body: &Body,
) -> Result<Problem> {
    let value_of = |dim: &Dim| dim.eval(nominal).map_err(|s| Box::new(unbound(&s)));
    let space = group.space.as_ref().ok_or_else(|| Diagnostic::error("partition", "a group without axes"))?;
    let mut axes = Vec::new();
    for axis in &space.axes {
        let extent = value_of(&axis.extent)?.max(1);
        axes.push(Axis { extent, reduce: axis.kind != AxisKind::Parallel });
    }
    let operand = |value: &ValueId, access: &Vec<Access>| -> Result<Operand> {
        let (dtype, shape) = emitter.type_of(*value);
        let mut dims = Vec::new();
        for (dim, access) in shape.iter().zip(access) {
            let access = match access {
                Access::Along { axis, scale } => {
                    Access::Along { axis: *axis, scale: Dim::Known(value_of(scale)?) }
                }
                other => other.clone(),
            };
            dims.push((access, value_of(dim)?));
        }
        Ok(Operand { dims, bits: dtype.bits() as f64 })
    };
    let work = emitter.work(&group.nodes);
    let number = |dim: &Dim| value_of(dim).map(|n| n as f64);
    let dtypes = body.operands.iter().map(|v| emitter.type_of(*v).0);
    let dtype = dtypes.max_by_key(|dtype| (dtype.is_float(), dtype.bits())).unwrap_or(DType::F32);
    let macs = number(&work.macs)?;
    let floats = body.results.iter().all(|v| emitter.type_of(*v).0.is_float());
    let adds_up =
        |axis: &orrery_ir::op::Axis| !matches!(axis.kind, AxisKind::Reduce(how) if how != Combine::Sum);
    let matrix = if macs > 0.0 { emitter.contraction(group, nominal)? } else { None };
    Ok(Problem {
        axes,
        operands: body.operands.iter().zip(&body.reads).map(|(v, a)| operand(v, a)).collect::<Result<_>>()?,
        results: body.results.iter().zip(&body.writes).map(|(v, a)| operand(v, a)).collect::<Result<_>>()?,
        sums: floats && space.axes.iter().all(adds_up),
        turned: if matrix.is_some() { turned(space) } else { None },
        matrix,
        macs,
        vector: number(&work.vector)?,
        special: number(&work.special)?,
        dtype,
    })
}

/// The axis along which a sum can be taken in turns: the first one, where its length is known.
fn turned(space: &IterSpace) -> Option<usize> {
    let sum = space.axes.iter().position(|a| a.kind == AxisKind::Reduce(Combine::Sum))?;
    space.axes[sum].extent.known().map(|_| sum)
}

/// Equal for problems that are cut alike.
pub(crate) fn signature(problem: &Problem) -> Vec<u64> {
    let mut key = vec![
        problem.macs.to_bits(),
        problem.vector.to_bits(),
        problem.special.to_bits(),
        problem.dtype as u64,
        problem.turned.map_or(0, |axis| axis as u64 + 1),
    ];
    key.extend(problem.matrix.as_ref().map(Contraction::key).unwrap_or_default());
    for axis in &problem.axes {
        key.extend([axis.extent as u64, u64::from(axis.reduce)]);
    }
    for operand in problem.operands.iter().chain(&problem.results) {
        key.push(operand.bits.to_bits());
        for (access, extent) in &operand.dims {
            let (kind, axis, a, b) = match access {
                Access::Whole => (0, 0, 0, 0),
                Access::Along { axis, scale } => (1, *axis as u64, scale.known().unwrap_or(0), 0),
                Access::Window { axis, stride, reach, .. } => (2, *axis as u64, *stride, *reach),
            };
            key.extend([kind, axis, a as u64, b as u64, *extent as u64]);
        }
    }
    key
}
