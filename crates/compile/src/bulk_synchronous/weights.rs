//! Which weights lie on the tiles, and which in streaming memory.

use crate::groups::is_inline;
use crate::{Options, Streamed};
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::infer::Facts;
use orrery_ir::{Bindings, Def, Graph, ValueId};
use orrery_program::{MemoryId, Program};
use std::collections::BTreeSet;

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
