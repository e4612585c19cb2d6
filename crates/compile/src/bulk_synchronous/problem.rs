//! What the partition search is asked about a group.

use super::Lowering;
use crate::groups::Group;
use crate::lower::{Body, grid};
use crate::partition::{Axis, Choice, Operand, Problem};
use orrery_base::{Diagnostic, Result};
use orrery_cost::Contraction;
use orrery_ir::op::{Access, AxisKind, Combine, IterSpace};
use orrery_ir::{Dim, ValueId};
use orrery_numerics::DType;
use orrery_program::{Cut, Cutting};

impl Lowering<'_> {
    pub(super) fn problem(&self, group: &Group, body: &Body) -> Result<Problem> {
        let space =
            group.space.as_ref().ok_or_else(|| Diagnostic::error("partition", "a group without axes"))?;
        let mut axes = Vec::new();
        for axis in &space.axes {
            let extent = self.extent(&axis.extent)?.max(1);
            axes.push(Axis { extent, reduce: axis.kind != AxisKind::Parallel });
        }
        let operand = |value: &ValueId, access: &Vec<Access>| -> Result<Operand> {
            let (dtype, shape) = self.emitter.type_of(*value);
            let mut dims = Vec::new();
            for (dim, access) in shape.iter().zip(access) {
                let access = match access {
                    Access::Along { axis, scale } => {
                        Access::Along { axis: *axis, scale: Dim::Known(self.extent(scale)?) }
                    }
                    other => other.clone(),
                };
                dims.push((access, self.extent(dim)?));
            }
            Ok(Operand { dims, bits: dtype.bits() as f64 })
        };
        let work = self.emitter.work(&group.nodes);
        let number = |dim: &Dim| self.extent(dim).map(|n| n as f64);
        let dtypes = body.operands.iter().map(|v| self.emitter.type_of(*v).0);
        let dtype = dtypes.max_by_key(|dtype| (dtype.is_float(), dtype.bits())).unwrap_or(DType::F32);
        let macs = number(&work.macs)?;
        let matrix = if macs > 0.0 { self.emitter.contraction(group, &self.nominal)? } else { None };
        Ok(Problem {
            axes,
            operands: body
                .operands
                .iter()
                .zip(&body.reads)
                .map(|(v, a)| operand(v, a))
                .collect::<Result<_>>()?,
            results: body
                .results
                .iter()
                .zip(&body.writes)
                .map(|(v, a)| operand(v, a))
                .collect::<Result<_>>()?,
            turned: if matrix.is_some() { turned(space) } else { None },
            matrix,
            macs,
            vector: number(&work.vector)?,
            special: number(&work.special)?,
            dtype,
        })
    }
    pub(super) fn choose(&mut self, problem: &Problem) -> Choice {
        let key = signature(problem);
        self.chosen.entry(key).or_insert_with(|| self.tiles.choose(problem)).clone()
    }
    /// The grid under which the group's first operand stays where it is, where there is one.
    pub(super) fn kept_grid(&self, group: &Group, body: &Body) -> Option<(Vec<Cut>, u64)> {
        let space = group.space.as_ref()?;
        let first = *body.operands.first()?;
        if self.moved.contains_key(&first) {
            return None;
        }
        let buffer = &self.emitter.program.buffers[*self.emitter.buffer_of.get(&first)?];
        if buffer.home != self.tile || !buffer.layout.copies().is_empty() {
            return None;
        }
        let mut cuts = grid(space, |_| Cutting::Parts(1));
        for (have, want) in buffer.layout.access.iter().zip(&body.reads[0]) {
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

/// The axis along which a sum can be taken in turns: the first one, where its length is known.
fn turned(space: &IterSpace) -> Option<usize> {
    let sum = space.axes.iter().position(|a| a.kind == AxisKind::Reduce(Combine::Sum))?;
    space.axes[sum].extent.known().map(|_| sum)
}

/// Equal for problems that are cut alike.
fn signature(problem: &Problem) -> Vec<u64> {
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
