//! Which groups share a rectangle of a floor plan.
//!
//! A stage is a group with much work, and the light ones that follow it: what these need is where it was made, and a rectangle
//! of their own would be idle. What changes states, once all items have passed, is changed where its gradient was made.

use super::Wafer;
use crate::groups::{Group, GroupKind};
use crate::lower::Emitter;
use orrery_base::Result;
use orrery_ir::{Def, ValueId};
use orrery_program::memory::unbound;
use std::collections::BTreeMap;

/// A group is light with less than this part of what groups have to do on average.
pub(super) const LIGHT: f64 = 0.05;

/// The stages of a graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Stages {
    /// Of each group.
    pub(super) of: Vec<usize>,
    /// True for groups that change states once all items have passed.
    pub(super) after: Vec<bool>,
    /// Where inputs lie: with the group that makes their new value or, where they are no states, that reads them first.
    pub(super) inputs: BTreeMap<ValueId, usize>,
    /// The work of each stage in cycles of one PE.
    pub(super) work: Vec<f64>,
}

impl Wafer<'_> {
    /// The stages of the graph's groups, of which those marked in `after` change states; each stage has at least `least` times
    /// the work that groups have on average.
    pub(super) fn stages(&self, after: &[bool], least: f64) -> Result<Stages> {
        let emitter = Emitter::new(self.graph, self.facts, self.target, self.options);
        let cycles: Vec<f64> =
            self.groups.iter().map(|group| self.cycles(&emitter, group)).collect::<Result<_>>()?;
        let staged: Vec<usize> = (0..self.groups.len())
            .filter(|&number| self.groups[number].kind == GroupKind::Compute && !after[number])
            .collect();
        let mean = staged.iter().map(|&number| cycles[number]).sum::<f64>() / staged.len().max(1) as f64;
        let mut stages =
            Stages { of: vec![0; self.groups.len()], after: after.to_vec(), ..Stages::default() };
        for &number in &staged {
            match stages.work.last_mut() {
                Some(work) if cycles[number] < LIGHT * mean || *work < least * mean => {
                    *work += cycles[number];
                }
                _ => stages.work.push(cycles[number]),
            }
            stages.of[number] = stages.work.len() - 1;
        }
        self.place_the_rest(&mut stages);
        Ok(stages)
    }

    /// Groups that move data go with the next that computes, and those that change states with what makes their largest operand.
    fn place_the_rest(&self, stages: &mut Stages) {
        let mut next = stages.work.len().saturating_sub(1);
        for (number, group) in self.groups.iter().enumerate().rev().filter(|(n, _)| !stages.after[*n]) {
            if group.kind == GroupKind::Compute { next = stages.of[number] } else { stages.of[number] = next }
        }
        let mut made: BTreeMap<ValueId, usize> = BTreeMap::new();
        let mut origins: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for (number, group) in self.groups.iter().enumerate() {
            let nodes = || group.nodes.iter().map(|id| &self.graph.nodes[*id]);
            if stages.after[number] {
                let operands = nodes().flat_map(|node| node.inputs.iter().flatten());
                let known = operands.filter_map(|value| Some((self.elements(*value), *made.get(value)?)));
                if let Some((_, stage)) = known.max() {
                    stages.of[number] = stage;
                }
            }
            let stage = stages.of[number];
            for node in nodes() {
                for input in node.inputs.iter().flatten() {
                    let origin = origins.get(input).copied().unwrap_or(*input);
                    if group.kind == GroupKind::Compute {
                        stages.inputs.entry(origin).or_insert(stage);
                    } else {
                        origins.extend(node.outputs.iter().flatten().map(|output| (*output, origin)));
                    }
                }
                made.extend(node.outputs.iter().flatten().map(|output| (*output, stage)));
            }
        }
        for state in &self.graph.states {
            let (input, output) = (self.graph.inputs[state.input], self.graph.outputs[state.output]);
            if let (Def::Node(..), Some(stage)) = (&self.graph.values[output].def, made.get(&output)) {
                stages.inputs.insert(input, *stage);
            }
        }
    }

    fn elements(&self, value: ValueId) -> usize {
        let extents = self.facts[value].ty.as_tensor().and_then(orrery_ir::TensorType::extents);
        extents.map_or(0, |extents| extents.iter().product())
    }

    /// Work of a group in cycles of one PE.
    fn cycles(&self, emitter: &Emitter<'_>, group: &Group) -> Result<f64> {
        let nominal = self.options.nominal();
        let work = emitter.work(&group.nodes);
        let number =
            |dim: &orrery_ir::Dim| dim.eval(&nominal).map(|n| n as f64).map_err(|s| Box::new(unbound(&s)));
        let vector = number(&work.vector)? / self.machine.vector_fp16;
        let special = number(&work.special)? / self.machine.special_functions;
        Ok(number(&work.macs)? / self.target.precision.macs() + vector + special)
    }
}
