//! Dealing a model over chips in sequence.

use crate::groups::{Group, is_inline};
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::infer::{Facts, node_place};
use orrery_ir::{Bindings, Def, Graph, Type, ValueId};
use orrery_machine::StreamMachine;
use orrery_program::memory::unbound;
use orrery_program::{BufferClass, Program};
use std::collections::BTreeSet;

/// How often a dealing is tried, each time with less room for weights.
pub(super) const ATTEMPTS: usize = 12;
/// What is left of the room for weights each time.
pub(super) const LESS: f64 = 0.92;

/// Chips that hold the weights of some steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// Number of the first chip.
    pub(super) first: u64,
    /// How many.
    pub(super) chips: u64,
}

/// Which stage each group runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    /// In sequence.
    pub(super) list: Vec<Stage>,
    /// Of each group.
    pub(super) of_group: Vec<usize>,
}

impl Stages {
    /// Everything on one chip.
    pub(super) fn one(groups: usize) -> Self {
        Self { list: vec![Stage { first: 0, chips: 1 }], of_group: vec![0; groups] }
    }
    /// Chips in all.
    pub(super) fn chips(&self) -> u64 {
        self.list.iter().map(|stage| stage.chips).sum()
    }
}

/// Bytes of a chip that are left for weights beside the values of a run; none where those alone are too many.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub(super) fn room(program: &Program, machine: &StreamMachine, nominal: &Bindings) -> Result<Option<f64>> {
    let usable = machine.sram_bytes.saturating_sub(machine.program_bytes) as f64;
    let mut values = 0_u64;
    for (_, peak) in program.memory_use(nominal)? {
        if program.memories[peak.memory].bytes < u64::MAX {
            let classes = peak.by_class.iter().filter(|(class, _)| *class != BufferClass::Parameter);
            values = values.max(classes.map(|(_, bytes)| *bytes).sum());
        }
    }
    let left = usable - values as f64;
    Ok((left > 0.0).then(|| left.max(usable / 8.0)))
}

/// Deals groups over stages with so many bytes of weights on each chip.
///
/// # Errors
/// `does-not-fit` where that takes more chips than there are; `unbound-symbol`.
pub(super) fn deal(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    machine: &StreamMachine,
    room: f64,
    nominal: &Bindings,
) -> Result<Stages> {
    let mut stages = Stages { list: vec![Stage { first: 0, chips: 1 }], of_group: Vec::new() };
    let (mut here, mut filled, mut total) = (BTreeSet::new(), 0.0, 0.0);
    let mut largest = (0.0, String::new());
    for group in groups {
        let needs = weights(graph, group);
        let size = |values: &BTreeSet<ValueId>| -> Result<f64> {
            values.iter().map(|v| bytes(facts, *v, nominal)).sum()
        };
        let new: BTreeSet<ValueId> = needs.difference(&here).copied().collect();
        let mut added = size(&new)?;
        if filled > 0.0 && filled + added > room {
            let Some(last) = stages.list.last() else { continue };
            stages.list.push(Stage { first: last.first + last.chips, chips: 1 });
            (here, filled, added) = (BTreeSet::new(), 0.0, size(&needs)?);
        }
        if added > largest.0 {
            largest = (added, node_place(graph, group.nodes[0]));
        }
        here.extend(needs);
        filled += added;
        total += added;
        if let Some(stage) = stages.list.last_mut() {
            stage.chips = stage.chips.max((filled / room).ceil() as u64).max(1);
        }
        stages.of_group.push(stages.list.len() - 1);
    }
    let chips = stages.chips();
    if chips <= machine.installation_chips {
        return Ok(stages);
    }
    let held = machine.installation_chips as f64 * room;
    Diagnostic::error(
        "does-not-fit",
        format!(
            "needs {chips} chips in sequence, {} more than the {} of the installation: its weights are {}, {} more than \
             those hold beside the values of a run; the largest step holds {} (`{}`)",
            chips - machine.installation_chips,
            machine.installation_chips,
            show_bytes(total),
            show_bytes((total - held).max(0.0)),
            show_bytes(largest.0),
            largest.1,
        ),
    )
    .help("a narrower precision, a smaller model, or a file of the machine with a larger installation_chips")
    .err()
}

/// The weights that the steps of a group need.
fn weights(graph: &Graph, group: &Group) -> BTreeSet<ValueId> {
    let inputs = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
    inputs
        .copied()
        .filter(|v| matches!(graph.values[*v].def, Def::Constant(_)) && !is_inline(graph, *v))
        .collect()
}

fn bytes(facts: &Facts, value: ValueId, nominal: &Bindings) -> Result<f64> {
    let Type::Tensor(ty) = &facts[value].ty else { return Ok(0.0) };
    let mut elements = 1.0;
    for dim in ty.shape.iter().flatten() {
        elements *= dim.eval(nominal).map_err(|s| unbound(&s))? as f64;
    }
    Ok(elements * ty.dtype.bits() as f64 / 8.0)
}
