//! Machines of two engines side by side: every group is a node of the graph, over buffers in device memory.

use crate::groups::Group;
use crate::sequence::{Places, emit};
use crate::{Compiled, Options};
use orrery_base::Result;
use orrery_cost::Target;
use orrery_ir::Graph;
use orrery_ir::infer::Facts;
use orrery_machine::EnginesMachine;
use orrery_program::Memory;

/// Compiles groups for a machine with a matrix and a vector engine.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &EnginesMachine,
    options: &Options,
) -> Result<Compiled> {
    let device = Memory {
        name: "device".to_owned(),
        cores: 1,
        bytes: machine.hbm_bytes,
        reserved: machine.hbm_reserved_bytes,
    };
    let columns = machine.matrix_arrays.iter().map(|a| a.n).max().unwrap_or(1);
    let places = Places { memories: vec![device], of_group: vec![0; groups.len()], columns };
    emit(graph, facts, groups, target, options, &places)
}
