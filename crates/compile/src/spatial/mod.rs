//! Spatial machines: the graph is cut into sections, each a pipeline of compute and memory units.
//!
//! First the groups become a plain program over memory behind the chip, each step cut into the pieces that can pass through
//! it one after the other. Then its steps are dealt into sections that fit the chip, by cost, and each section becomes a
//! pipeline: what goes from stage to stage stays on the chip, what leaves or enters a section is streamed, and weights are
//! brought before the section runs. A model that is one section stays on the chip with its weights.

mod emit;
mod order;
mod plain;
mod plan;
mod repeats;
mod sections;

pub use order::read_as_they_lie;

use crate::groups::Group;
use crate::{Compiled, Options};
use orrery_base::{Diagnostic, Result};
use orrery_cost::Target;
use orrery_cost::spatial::Units;
use orrery_ir::Graph;
use orrery_ir::infer::Facts;
use orrery_machine::{Losses, SpatialMachine};
use plan::Plan;

/// Compiles groups for a spatial machine.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &SpatialMachine,
    options: &Options,
) -> Result<Compiled> {
    let Losses::Spatial(losses) = &target.losses else {
        return Diagnostic::error("cost-model", "the machine's losses are of another execution model").err();
    };
    let units = Units { machine, losses, macs: target.precision.macs() };
    let nominal = options.nominal();
    let groups = order::near_their_makers(graph, groups, options);
    let (program, nodes) = plain::emit(graph, facts, &groups, target, &units, options)?;
    let plan = Plan::of(&program, &units, &nominal, options.keep_results)?;
    // A stack that does not take the whole graph at once makes a section of every operator.
    let whole = target.stack.is_none_or(|stack| stack.graph_launch);
    let cut =
        if whole { sections::cut(&plan, &units, !options.keep_results) } else { sections::apart(&plan) };
    let program = emit::emit(&program, &plan, &cut, &units, options)?;
    Ok(Compiled { program, nodes, notes: Vec::new() })
}
