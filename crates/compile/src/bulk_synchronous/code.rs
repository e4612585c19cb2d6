//! Bytes that a program itself takes on every tile.
//!
//! Steps that do alike with values that lie alike run the same code, which stands on a tile once: repeated layers share it,
//! as the outlining of PopART and the function caches of the TensorFlow backend make them, and so do the turns of a sum,
//! which are a loop. A repeated layer is called as a whole, so that its steps take no control code of their own. What brings
//! the operands of a step brings them to where its code has its arguments.

use orrery_ir::op::Access;
use orrery_ir::{Attrs, Dim, Op};
use orrery_machine::BspMachine;
use orrery_numerics::DType;
use orrery_program::{Buffer, BufferId, Cutting, MemoryId, Program, Step, StepKind};
use std::collections::{BTreeSet, HashSet};

/// Bytes of a program's code, exchanges, vertices and control on a tile; on those of several chips that share the steps, in
/// all.
pub(super) fn code_bytes(program: &Program, machine: &BspMachine, chips: u64) -> u64 {
    let mut kinds = BTreeSet::new();
    let mut known = HashSet::new();
    let mut total = machine.tile_reserved_bytes.saturating_mul(chips);
    for step in program.steps.values() {
        if !known.insert(Code::of(program, step)) {
            continue;
        }
        total += machine.control_step_bytes;
        match step.kind {
            StepKind::Compute => {
                total += machine.vertex_state_bytes;
                let dtype = step.writes.first().map(|w| program.buffers[w.buffer].dtype);
                kinds.extend(step.body.nodes.values().map(|n| (n.op, dtype)));
            }
            StepKind::Exchange | StepKind::Stream | StepKind::Host => {
                total +=
                    machine.exchange_phase_bytes + machine.exchange_piece_bytes * step.reads.len() as u64;
            }
            StepKind::View | StepKind::Load => {}
        }
    }
    total + (kinds.len() as u64 * machine.vertex_code_bytes).saturating_mul(chips)
}

/// What decides the code of a step: equal for steps that run the same. The elements of constants are arguments, and on which
/// tile the first part of a few lies makes no tile's code longer.
#[derive(PartialEq, Eq, Hash)]
struct Code<'a> {
    kind: StepKind,
    /// Ops with their attributes as text.
    nodes: Vec<(Op, String)>,
    places: Vec<Place<'a>>,
}

/// Where the code finds a value, or leaves it.
#[derive(PartialEq, Eq, Hash)]
struct Place<'a> {
    home: MemoryId,
    dtype: DType,
    access: &'a [Access],
    /// Length, cutting and stride of each axis.
    cuts: Vec<(&'a Dim, Cutting, u64)>,
    shape: &'a [Dim],
}

impl<'a> Code<'a> {
    fn of(program: &'a Program, step: &'a Step) -> Self {
        let text = |attrs: &Attrs| if attrs.is_empty() { String::new() } else { format!("{attrs:?}") };
        let place = |buffer: BufferId| {
            let Buffer { home, dtype, shape, layout, .. } = &program.buffers[buffer];
            let cuts = layout.cuts.iter().map(|cut| (&cut.extent, cut.cutting, cut.stride)).collect();
            Place { home: *home, dtype: *dtype, access: &layout.access, cuts, shape }
        };
        let read = step.reads.iter().map(|read| read.buffer);
        Self {
            kind: step.kind,
            nodes: step.body.nodes.values().map(|node| (node.op, text(&node.attrs))).collect(),
            places: read.chain(step.writes.iter().map(|write| write.buffer)).map(place).collect(),
        }
    }
}
