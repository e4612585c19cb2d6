//! Stream machines: every group is one stream through a chip, over buffers in its memory slices.
//!
//! A model that one chip cannot hold is dealt over chips in sequence: each stage holds the weights of its steps, and what
//! later stages need of earlier ones crosses the links once. A stage is one chip, or several side by side where one step's
//! weights are more than a chip holds: they then lie cut by output over its chips.

mod stages;

use crate::groups::Group;
use crate::sequence::{Places, emit};
use crate::{Compiled, Options};
use orrery_base::{Diagnostic, Result};
use orrery_cost::Target;
use orrery_ir::Graph;
use orrery_ir::infer::Facts;
use orrery_machine::StreamMachine;
use orrery_program::{Memory, verify};
use stages::{Stage, Stages};

/// Compiles groups for a machine of streams.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &StreamMachine,
    options: &Options,
) -> Result<Compiled> {
    if !graph.states.is_empty() {
        return Diagnostic::error(
            "unsupported-training",
            format!("{} is an inference machine: nothing on it stays from run to run", target.system.title),
        )
        .help("train on another machine, and bring the trained model here")
        .err();
    }
    let groups = &stages::just_in_time(graph, groups)[..];
    let one = Stages::one(groups.len());
    let mut compiled = emit(graph, facts, groups, target, options, &one.places(machine))?;
    let Err(first) = verify::capacity(&compiled.program) else { return Ok(compiled) };
    if first.code != "does-not-fit" {
        return Err(first);
    }
    let too_large =
        "its values alone are more than a chip holds beside any weights: chips in sequence do not help";
    let Some(mut room) = stages::room(&compiled.program, machine, &options.nominal())? else {
        return Err(Box::new(first.help(too_large)));
    };
    // What lives on a chip beside its own values is known only once the stages are: a little less each time.
    for _ in 0..stages::ATTEMPTS {
        let stages = stages::deal(graph, facts, groups, machine, room, &options.nominal())?;
        compiled = emit(graph, facts, groups, target, options, &stages.places(machine))?;
        match verify::capacity(&compiled.program) {
            Ok(()) => {
                let note = format!("{} chips in sequence hold the model: {}", stages.chips(), first.cause);
                compiled.notes.push(
                    Diagnostic::note("split-over-chips", note).help(
                        "the time of one run is that of all chips in turn; runs behind it follow sooner",
                    ),
                );
                return Ok(compiled);
            }
            Err(error) if error.code != "does-not-fit" => return Err(error),
            Err(_) => room *= stages::LESS,
        }
    }
    Err(Box::new(first.help(too_large)))
}

impl Stages {
    fn places(&self, machine: &StreamMachine) -> Places {
        let memory = |stage: &Stage| Memory {
            name: stage.memory_name(self.chips()),
            cores: 1,
            bytes: machine.sram_bytes.saturating_mul(stage.chips),
            reserved: machine.program_bytes.saturating_mul(stage.chips),
        };
        Places {
            memories: self.list.iter().map(memory).collect(),
            of_group: self.of_group.clone(),
            columns: machine.plane_outputs,
        }
    }
}

impl Stage {
    fn memory_name(&self, chips: u64) -> String {
        match (chips, self.chips) {
            (1, _) => "sram".to_owned(),
            (_, 1) => format!("sram of chip {}", self.first),
            _ => format!("sram of chips {}-{}", self.first, self.first + self.chips - 1),
        }
    }
}
