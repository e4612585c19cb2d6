//! Which weights lie on the tiles, and which in streaming memory.

use crate::groups::{Group, GroupKind, is_inline};
use crate::{Options, Streamed};
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::infer::Facts;
use orrery_ir::{Bindings, Def, Graph, State, ValueId};
use orrery_program::{BufferClass, MemoryId, Program, Unit, Write};
use std::collections::{BTreeMap, BTreeSet};

/// The weights of a graph, on the tiles at first.
pub(super) struct Weights {
    /// Those in streaming memory.
    pub(super) streamed: BTreeSet<ValueId>,
    /// The others with their bytes, the largest last.
    resident: Vec<(u64, ValueId)>,
    /// Bytes of those in streaming memory.
    bytes: u64,
    /// Bytes of those that are to stay on the tiles.
    pub(super) staying: u64,
}

impl Weights {
    /// All on the tiles, with symbols at the values for which the mapping is chosen.
    pub(super) fn of(graph: &Graph, facts: &Facts, options: &Options) -> Self {
        let nominal = options.nominal();
        let weights = graph.values.iter().filter(|(id, value)| match value.def {
            Def::Constant(_) => !is_inline(graph, *id),
            Def::Input => graph.state_of_input(*id).is_some(),
            Def::Node(..) => false,
        });
        let mut resident: Vec<(u64, ValueId)> =
            weights.filter_map(|(id, _)| Some((bytes_of(facts, &nominal, id)?, id))).collect();
        // States that only their update reads go first; of equal ones the first.
        let uses = graph.uses();
        let once = |id: ValueId| uses[id] <= 1 && matches!(graph.values[id].def, Def::Input);
        let may_go = |id: ValueId| match options.streamed {
            Streamed::Weights => true,
            Streamed::Moments => once(id),
            Streamed::Nothing => false,
        };
        let staying = resident.iter().filter(|&&(_, id)| !may_go(id));
        let staying = staying.fold(0_u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
        resident.retain(|&(_, id)| may_go(id));
        resident.sort_by_key(|&(bytes, id)| (once(id), bytes, std::cmp::Reverse(id)));
        Self { streamed: BTreeSet::new(), resident, bytes: 0, staying }
    }
    /// Moves the largest weights to streaming memory until so many bytes are gone from the tiles. False where none was left.
    pub(super) fn stream(&mut self, wanted: u64) -> bool {
        let mut gone = 0_u64;
        let before = self.streamed.len();
        while gone < wanted.max(1)
            && let Some((bytes, id)) = self.resident.pop()
        {
            gone = gone.saturating_add(bytes);
            self.streamed.insert(id);
        }
        self.bytes = self.bytes.saturating_add(gone);
        self.streamed.len() > before
    }
    /// What the user should know where some are streamed, because of what did not fit.
    pub(super) fn note(&self, refused: &Diagnostic) -> Diagnostic {
        let (streamed, all) = (self.streamed.len(), self.streamed.len() + self.resident.len());
        let cause = format!(
            "the tiles cannot hold all weights: {streamed} of {all}, {}, come from streaming memory ({})",
            show_bytes(self.bytes as f64),
            refused.cause
        );
        Diagnostic::note("weights-streamed", cause)
    }
}

/// States in streaming memory whose new values go back as soon as they are made, so that they do not lie on the tiles side by
/// side, by the number of the group after which they go.
pub(super) fn leaving<'a>(
    graph: &'a Graph,
    groups: &[Group],
    streamed: &BTreeSet<ValueId>,
) -> BTreeMap<usize, Vec<&'a State>> {
    let mut made: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut read: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        let nodes = group.nodes.iter().map(|id| &graph.nodes[*id]);
        for node in nodes {
            read.extend(node.inputs.iter().flatten().map(|value| (*value, number)));
            if group.kind == GroupKind::Compute {
                made.extend(node.outputs.iter().flatten().map(|value| (*value, number)));
            }
        }
    }
    let mut leaving: BTreeMap<usize, Vec<&State>> = BTreeMap::new();
    for state in &graph.states {
        let (old, new) = (graph.inputs[state.input], graph.outputs[state.output]);
        // What another state or the host takes of the old value is taken in the end.
        let goes = streamed.contains(&old) && !graph.outputs.contains(&old);
        if let Some(&made) = made.get(&new).filter(|_| goes) {
            let last = read.get(&old).map_or(made, |read| made.max(*read));
            leaving.entry(last).or_default().push(state);
        }
    }
    leaving
}

/// What comes next to the tiles waits until what leaves them before it has left its place.
pub(super) fn wait_for_places(program: &mut Program) {
    let mut leaves = None;
    for (id, step) in program.steps.iter_mut() {
        match step.unit {
            Unit::Streaming => {
                let goes = |write: &Write| program.buffers[write.buffer].class == BufferClass::State;
                leaves = step.writes.iter().any(goes).then_some(id).or(leaves);
            }
            Unit::Device => step.after.extend(leaves.take()),
            _ => {}
        }
    }
}

/// Bytes of a value with symbols at these values; none of what is no tensor of known shape.
pub(super) fn bytes_of(facts: &Facts, nominal: &Bindings, value: ValueId) -> Option<u64> {
    let ty = facts[value].ty.as_tensor()?;
    let elements = ty.shape.as_ref()?.iter().try_fold(1_u64, |product, dim| {
        let extent = u64::try_from(dim.eval(nominal).ok()?).ok()?;
        Some(product.saturating_mul(extent))
    })?;
    Some(ty.dtype.machine_bytes(elements))
}

/// Bytes by which the fullest core has too little of a memory, with symbols at the values for which the mapping is chosen.
///
/// # Errors
/// `unbound-symbol` where a symbol has no range.
pub(super) fn missing_bytes(program: &Program, memory: MemoryId, options: &Options) -> Result<u64> {
    let peaks = program.memory_use(&options.nominal())?;
    let peak = peaks.into_iter().find(|(_, peak)| peak.memory == memory);
    Ok(peak.map_or(0, |(_, peak)| peak.bytes.saturating_sub(program.memories[memory].bytes)))
}
