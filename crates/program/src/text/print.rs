//! The printer of programs.

use super::{CLASSES, KINDS, MODES, PHASES, UNITS, word};
use crate::{
    Arithmetic, Buffer, BufferId, Cut, Cutting, Layout, Phase, Program, Region, RoundingMode, Step, StepId,
};
use orrery_ir::op::Access;
use orrery_ir::text::lex::name_text;
use orrery_ir::text::parts::attribute_text;
use orrery_ir::text::{attributes_text, weight_text};
use orrery_ir::{Attr, Type};
use std::fmt::{self, Write};

/// The text of a program. Broken programs print too.
pub fn print(program: &Program) -> String {
    program.to_string()
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {:?} {{", self.name)?;
        writeln!(f, "  machine {:?}", self.machine)?;
        writeln!(f, "  precision {:?}", self.precision)?;
        for (name, (lo, hi)) in &self.symbols {
            writeln!(f, "  symbol {} {lo} .. {hi}", name_text(name))?;
        }
        for (id, memory) in self.memories.iter() {
            write!(f, "  memory {id} {:?} cores {} bytes {}", memory.name, memory.cores, memory.bytes)?;
            if memory.reserved > 0 {
                write!(f, " reserved {}", memory.reserved)?;
            }
            writeln!(f)?;
        }
        for (id, pipeline) in self.pipelines.iter() {
            writeln!(f, "  pipeline {id} {:?} cores {}", pipeline.name, pipeline.cores)?;
        }
        if self.items != 1 {
            writeln!(f, "  items {}", self.items)?;
        }
        for (number, region) in self.regions.iter().enumerate() {
            let Region { base, x, y, columns, rows } = region;
            writeln!(f, "  region {number} at {base} from {x}, {y} size {columns}, {rows}")?;
        }
        for (id, buffer) in self.buffers.iter() {
            self::buffer(f, id, buffer)?;
        }
        let mut arithmetic = None;
        for (id, step) in self.steps.iter() {
            self::step(f, id, step, arithmetic.replace(&step.arithmetic))?;
        }
        for id in &self.inputs {
            writeln!(f, "  input {id}")?;
        }
        for (name, id) in &self.outputs {
            writeln!(f, "  output {id} as {name:?}")?;
        }
        for grows in &self.grows {
            writeln!(f, "  state {} becomes {}", grows.from, grows.to)?;
        }
        writeln!(f, "}}")
    }
}

fn buffer(f: &mut fmt::Formatter<'_>, id: BufferId, buffer: &Buffer) -> fmt::Result {
    let ty = Type::tensor(buffer.dtype, buffer.shape.iter().cloned());
    let class = word(CLASSES, &buffer.class);
    write!(f, "  buffer {id} {:?}: {ty} {class} in {}", buffer.name, buffer.home)?;
    if let Some(pieces) = buffer.pieces {
        write!(f, " keeps {} of {}", pieces.kept, pieces.of)?;
    }
    if let Some(dim) = buffer.by_item {
        write!(f, " by_item {dim}")?;
    }
    let layout = &buffer.layout;
    if *layout != Layout::whole(buffer.shape.len(), 0) {
        write!(f, " at {}", layout.base)?;
        if !layout.cuts.is_empty() {
            write!(f, " over {}", cuts_text(&layout.cuts))?;
        }
        write!(f, " {}", accesses_text(&layout.access))?;
    }
    if let Some(weight) = &buffer.weight {
        write!(f, " = {}", weight_text(weight, &ty))?;
    }
    if let Some(of) = buffer.view_of {
        write!(f, " view of {of}")?;
    }
    writeln!(f)
}

fn step(f: &mut fmt::Formatter<'_>, id: StepId, step: &Step, before: Option<&Arithmetic>) -> fmt::Result {
    let (kind, unit) = (word(KINDS, &step.kind), word(UNITS, &step.unit));
    writeln!(f, "  step {id} {:?} {kind} on {unit} {{", step.name)?;
    if step.base != 0 || !step.grid.is_empty() {
        let base = if step.base == 0 { String::new() } else { format!("at {} ", step.base) };
        writeln!(f, "    grid {base}{}", cuts_text(&step.grid))?;
    }
    if step.padding.to_bits() != 0 || !step.part_attrs.is_empty() {
        write!(f, "    part{}", attributes_text(&step.part_attrs))?;
        if step.padding.to_bits() != 0 {
            write!(f, " padding {}", attribute_text(&Attr::Float(step.padding)))?;
        }
        writeln!(f)?;
    }
    for read in &step.reads {
        writeln!(f, "    read {} {}", read.buffer, accesses_text(&read.access))?;
    }
    for write in &step.writes {
        let mode = word(MODES, &write.mode);
        writeln!(f, "    write {} {} {mode}", write.buffer, accesses_text(&write.access))?;
    }
    if before != Some(&step.arithmetic) {
        let Arithmetic { accumulate, group, inputs, rounding } = &step.arithmetic;
        write!(f, "    arithmetic {accumulate:?} group {group}")?;
        if let Some(inputs) = inputs {
            write!(f, " inputs {inputs:?}")?;
        }
        writeln!(f, " {}", if *rounding == RoundingMode::Nearest { "nearest" } else { "stochastic" })?;
    }
    let work = &step.work;
    if !(work.macs.is(0) && work.vector.is(0) && work.special.is(0)) {
        writeln!(f, "    work {}, {}, {}", work.macs, work.vector, work.special)?;
    }
    if let Some(tile) = step.tile {
        writeln!(f, "    tile {}, {}, {}", tile.m, tile.n, tile.k)?;
    }
    if step.approximate {
        writeln!(f, "    approximate")?;
    }
    if let Some(stage) = step.stage {
        writeln!(f, "    stage {} cores {}", stage.pipeline, stage.cores)?;
    }
    if !step.after.is_empty() {
        let all: Vec<String> = step.after.iter().map(ToString::to_string).collect();
        writeln!(f, "    after {}", all.join(", "))?;
    }
    if let Some(stage) = step.region {
        writeln!(f, "    region {stage}")?;
    }
    if step.once {
        writeln!(f, "    once")?;
    }
    if step.phase != Phase::Forward {
        writeln!(f, "    phase {}", word(PHASES, &step.phase))?;
    }
    // Strings have no line ends of their own, so that every line can be moved in.
    for line in step.body.to_string().lines() {
        writeln!(f, "    {line}")?;
    }
    writeln!(f, "  }}")
}

fn cuts_text(cuts: &[Cut]) -> String {
    let cut = |cut: &Cut| {
        let cutting = match cut.cutting {
            Cutting::Parts(parts) => format!("parts {parts}"),
            Cutting::Blocks(block) => format!("blocks {block}"),
        };
        format!("{}: {} {cutting} stride {}", name_text(&cut.name), cut.extent, cut.stride)
    };
    format!("({})", cuts.iter().map(cut).collect::<Vec<_>>().join(", "))
}

fn accesses_text(accesses: &[Access]) -> String {
    let mut text = String::from("[");
    for (number, access) in accesses.iter().enumerate() {
        text += if number > 0 { ", " } else { "" };
        let written = match access {
            Access::Whole => write!(text, "whole"),
            Access::Along { axis, scale } if scale.is(1) => write!(text, "{axis}"),
            Access::Along { axis, scale } => write!(text, "{axis} times {scale}"),
            Access::Window { axis, stride, before, reach } => {
                write!(text, "{axis} window ({stride}, {before}, {reach})")
            }
        };
        written.expect("a string takes all text");
    }
    text + "]"
}
