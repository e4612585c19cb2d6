//! The parser of programs.

use super::{CLASSES, KINDS, MODES, PHASES, UNITS};
use crate::{
    Arithmetic, Buffer, BufferId, Cut, Cutting, Growth, Layout, Memory, MemoryId, Phase, Pieces, Pipeline,
    PipelineId, Program, Read, Region, RoundingMode, Stage, Step, StepId, Tile, Write,
};
use orrery_base::index::Id;
use orrery_base::{IndexVec, Result};
use orrery_ir::op::{Access, Work};
use orrery_ir::text::lex::{Cursor, Token};
use orrery_ir::text::{self, parts};
use orrery_ir::{Attr, Attrs, Graph};

/// Parses a text that holds one program.
///
/// # Errors
/// With line and column: `text-syntax`, `text-repeated-name`, and what [`orrery_ir::text::parse`] says of bodies.
pub fn parse(text: &str) -> Result<Program> {
    parts::all(text, program)
}

fn program(cursor: &mut Cursor<'_>) -> Result<Program> {
    cursor.expect_name("program")?;
    let mut program = Program {
        name: cursor.string_value("the name of the program in quotes")?,
        machine: String::new(),
        precision: String::new(),
        symbols: Default::default(),
        memories: IndexVec::new(),
        pipelines: IndexVec::new(),
        buffers: IndexVec::new(),
        steps: IndexVec::new(),
        regions: Vec::new(),
        items: 1,
        inputs: Vec::new(),
        outputs: Vec::new(),
        grows: Vec::new(),
    };
    cursor.expect("{")?;
    while !cursor.take("}")? {
        statement(cursor, &mut program)?;
    }
    Ok(program)
}

/// What statements start with.
const STATEMENTS: [&str; 12] = [
    "machine",
    "precision",
    "symbol",
    "memory",
    "pipeline",
    "items",
    "region",
    "buffer",
    "step",
    "input",
    "output",
    "state",
];

fn statement(cursor: &mut Cursor<'_>, program: &mut Program) -> Result<()> {
    let Token::Name(word) = *cursor.peek() else { return cursor.expected("a statement or `}`").err() };
    if !STATEMENTS.contains(&word) {
        return cursor
            .expected("a statement or `}`")
            .help(format!("statements start with one of: {}", STATEMENTS.join(", ")))
            .err();
    }
    cursor.advance()?;
    match word {
        "machine" => program.machine = cursor.string_value("the name of the machine in quotes")?,
        "precision" => program.precision = cursor.string_value("the name of the precision in quotes")?,
        "symbol" => {
            let start = cursor.offset();
            let name = cursor.name("the name of a symbol")?;
            let lo = cursor.i64("the least value of the symbol")?;
            cursor.expect("..")?;
            let range = (lo, cursor.i64("the greatest value of the symbol")?);
            if program.symbols.insert(name.clone(), range).is_some() {
                let cause = format!("a symbol named `{name}` is there already");
                return cursor.diagnostic_at(start, "text-repeated-name", cause).err();
            }
        }
        "memory" => {
            next_id(cursor, program.memories.len(), "m")?;
            let name = cursor.string_value("the name of the memory in quotes")?;
            cursor.expect_name("cores")?;
            let cores = cursor.u64("a number of cores")?;
            cursor.expect_name("bytes")?;
            let bytes = cursor.u64("bytes of each core")?;
            let reserved = if cursor.take_name("reserved")? { cursor.u64("reserved bytes")? } else { 0 };
            program.memories.push(Memory { name, cores, bytes, reserved });
        }
        "pipeline" => {
            next_id(cursor, program.pipelines.len(), "p")?;
            let name = cursor.string_value("the name of the pipeline in quotes")?;
            cursor.expect_name("cores")?;
            let cores = cursor.u64("a number of cores")?;
            program.pipelines.push(Pipeline { name, cores });
        }
        "items" => program.items = cursor.u64("a number of items")?,
        "region" => {
            let (start, next) = (cursor.offset(), program.regions.len() as u64);
            if cursor.u64("the number of the region")? != next {
                return cursor.error_at(start, format!("this is region {next} in order")).err();
            }
            program.regions.push(region(cursor)?);
        }
        "buffer" => {
            next_id(cursor, program.buffers.len(), "b")?;
            program.buffers.push(buffer(cursor)?);
        }
        "step" => {
            next_id(cursor, program.steps.len(), "s")?;
            let before = program.steps.values().next_back().map(|step| step.arithmetic.clone());
            program.steps.push(step(cursor, before)?);
        }
        "input" => program.inputs.push(buffer_id(cursor)?),
        "state" => {
            let from = buffer_id(cursor)?;
            cursor.expect_name("becomes")?;
            program.grows.push(Growth { from, to: buffer_id(cursor)? });
        }
        _ => {
            let id = buffer_id(cursor)?;
            cursor.expect_name("as")?;
            program.outputs.push((cursor.string_value("the name of the output in quotes")?, id));
        }
    }
    Ok(())
}

fn region(cursor: &mut Cursor<'_>) -> Result<Region> {
    cursor.expect_name("at")?;
    let base = cursor.u64("the number of the first core")?;
    let mut pair = |word: &str, what: &str| -> Result<(u64, u64)> {
        cursor.expect_name(word)?;
        let first = cursor.u64(what)?;
        cursor.expect(",")?;
        Ok((first, cursor.u64(what)?))
    };
    let (x, y) = pair("from", "a place in the mesh")?;
    let (columns, rows) = pair("size", "a number of cores")?;
    Ok(Region { base, x, y, columns, rows })
}

/// The number of an id with that letter in front.
fn number(cursor: &mut Cursor<'_>, letter: &str, what: &str) -> Result<u32> {
    let number = match cursor.peek() {
        // A leading zero or sign would print differently.
        Token::Name(name) => name.strip_prefix(letter).and_then(|digits| {
            let number: u32 = digits.parse().ok()?;
            (number.to_string() == digits).then_some(number)
        }),
        _ => None,
    };
    match number {
        Some(number) => cursor.advance().map(|_| number),
        None => cursor.expected(&format!("{what} such as `{letter}0`")).err(),
    }
}

/// The id of what is defined next.
fn next_id(cursor: &mut Cursor<'_>, next: usize, letter: &str) -> Result<()> {
    let start = cursor.offset();
    let found = number(cursor, letter, "an id")?;
    if found as usize == next {
        return Ok(());
    }
    cursor
        .error_at(start, format!("this is number {next} in order, so its id must be `{letter}{next}`"))
        .err()
}

fn buffer_id(cursor: &mut Cursor<'_>) -> Result<BufferId> {
    number(cursor, "b", "a buffer").map(|n| BufferId::new(n as usize))
}

/// The value of one of several words.
fn choice<T: Copy>(cursor: &mut Cursor<'_>, words: &[(&str, T)]) -> Result<T> {
    let found = words.iter().find(|(word, _)| cursor.at_name(word)).map(|(_, value)| *value);
    match found {
        Some(value) => cursor.advance().map(|_| value),
        None => {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            cursor.expected(&all.join(" or ")).err()
        }
    }
}

fn buffer(cursor: &mut Cursor<'_>) -> Result<Buffer> {
    let name = cursor.string_value("the name of the buffer in quotes")?;
    cursor.expect(":")?;
    let start = cursor.offset();
    let ty = parts::ty(cursor)?;
    let tensor = ty.as_tensor().and_then(|tensor| Some((tensor.dtype, tensor.shape.clone()?)));
    let Some((dtype, shape)) = tensor else {
        return cursor.error_at(start, format!("a buffer holds a tensor of known rank, not {ty}")).err();
    };
    let class = choice(cursor, CLASSES)?;
    cursor.expect_name("in")?;
    let home = MemoryId::new(number(cursor, "m", "a memory")? as usize);
    let pieces = if cursor.take_name("keeps")? {
        let kept = cursor.u64("a number of pieces")?;
        cursor.expect_name("of")?;
        Some(Pieces { kept, of: cursor.u64("a number of pieces")? })
    } else {
        None
    };
    let by_item = if cursor.take_name("by_item")? { Some(cursor.u64("a dimension")? as usize) } else { None };
    let mut layout = Layout::whole(shape.len(), 0);
    if cursor.take_name("at")? {
        layout.base = cursor.u64("a core")?;
        if cursor.take_name("over")? {
            layout.cuts = cuts(cursor)?;
        }
        layout.access = accesses(cursor)?;
    }
    let weight = if cursor.take("=")? { Some(text::weight(cursor, &ty)?) } else { None };
    let view_of = if cursor.take_name("view")? {
        cursor.expect_name("of")?;
        Some(buffer_id(cursor)?)
    } else {
        None
    };
    Ok(Buffer { name, class, dtype, shape, home, layout, weight, view_of, pieces, by_item })
}

fn step(cursor: &mut Cursor<'_>, before: Option<Arithmetic>) -> Result<Step> {
    let name = cursor.string_value("the name of the step in quotes")?;
    let kind = choice(cursor, KINDS)?;
    cursor.expect_name("on")?;
    let unit = choice(cursor, UNITS)?;
    cursor.expect("{")?;
    let (mut base, mut grid) = (0, Vec::new());
    if cursor.take_name("grid")? {
        base = if cursor.take_name("at")? { cursor.u64("a core")? } else { 0 };
        grid = cuts(cursor)?;
    }
    let (mut part_attrs, mut padding) = (Attrs::new(), 0.0);
    if cursor.take_name("part")? {
        part_attrs = text::attributes(cursor)?;
        if cursor.take_name("padding")? {
            let start = cursor.offset();
            padding = match parts::attribute(cursor)? {
                Attr::Float(x) => x,
                _ => return cursor.error_at(start, "padding is a number with a point").err(),
            };
        }
    }
    let mut reads = Vec::new();
    while cursor.take_name("read")? {
        reads.push(Read { buffer: buffer_id(cursor)?, access: accesses(cursor)? });
    }
    let mut writes = Vec::new();
    while cursor.take_name("write")? {
        let (buffer, access) = (buffer_id(cursor)?, accesses(cursor)?);
        writes.push(Write { buffer, access, mode: choice(cursor, MODES)? });
    }
    let arithmetic = match before {
        Some(before) if !cursor.at_name("arithmetic") => before,
        _ => arithmetic(cursor)?,
    };
    let mut work = Work::NONE;
    if cursor.take_name("work")? {
        work.macs = parts::dim(cursor)?;
        cursor.expect(",")?;
        work.vector = parts::dim(cursor)?;
        cursor.expect(",")?;
        work.special = parts::dim(cursor)?;
    }
    let tile = if cursor.take_name("tile")? {
        let [m, n, k] = three(cursor, |cursor| cursor.u64("an extent of the tile"))?;
        Some(Tile { m, n, k })
    } else {
        None
    };
    let approximate = cursor.take_name("approximate")?;
    let stage = if cursor.take_name("stage")? {
        let pipeline = PipelineId::new(number(cursor, "p", "a pipeline")? as usize);
        cursor.expect_name("cores")?;
        Some(Stage { pipeline, cores: cursor.u64("a number of cores")? })
    } else {
        None
    };
    let mut after = Vec::new();
    if cursor.take_name("after")? {
        loop {
            after.push(StepId::new(number(cursor, "s", "a step")? as usize));
            if !cursor.take(",")? {
                break;
            }
        }
    }
    let region = if cursor.take_name("region")? {
        let number = cursor.integer("the number of a region", 0, u32::MAX.into())?;
        Some(u32::try_from(number).expect("in the range asked for"))
    } else {
        None
    };
    let once = cursor.take_name("once")?;
    let phase = if cursor.take_name("phase")? { choice(cursor, PHASES)? } else { Phase::Forward };
    if !cursor.at_name("graph") {
        return cursor
            .expected("the step's graph")
            .help("the clauses of a step stand in the order grid, part, read, write, arithmetic, work, tile, approximate, stage, after, region, once, phase")
            .err();
    }
    let body: Graph = cursor.nested(text::graph)?;
    cursor.expect("}")?;
    Ok(Step {
        name,
        kind,
        unit,
        body,
        base,
        grid,
        part_attrs,
        padding,
        reads,
        writes,
        arithmetic,
        work,
        tile,
        approximate,
        stage,
        after,
        region,
        once,
        phase,
    })
}

fn arithmetic(cursor: &mut Cursor<'_>) -> Result<Arithmetic> {
    cursor.expect_name("arithmetic")?;
    let accumulate = cursor.string_value("the format of sums in quotes")?;
    cursor.expect_name("group")?;
    let group = cursor.integer("a number of products", 0, u32::MAX.into())?;
    let group = u32::try_from(group).expect("in the range asked for");
    let inputs = if cursor.take_name("inputs")? {
        Some(cursor.string_value("the format of inputs in quotes")?)
    } else {
        None
    };
    let roundings = &[("nearest", RoundingMode::Nearest), ("stochastic", RoundingMode::Stochastic)];
    Ok(Arithmetic { accumulate, group, inputs, rounding: choice(cursor, roundings)? })
}

/// Three items with commas between them.
fn three<T>(cursor: &mut Cursor<'_>, mut item: impl FnMut(&mut Cursor<'_>) -> Result<T>) -> Result<[T; 3]> {
    let first = item(cursor)?;
    cursor.expect(",")?;
    let second = item(cursor)?;
    cursor.expect(",")?;
    Ok([first, second, item(cursor)?])
}

fn cuts(cursor: &mut Cursor<'_>) -> Result<Vec<Cut>> {
    cursor.expect("(")?;
    let mut cuts = Vec::new();
    cursor.list(")", |cursor| {
        let name = cursor.name("the name of an axis")?;
        cursor.expect(":")?;
        let extent = parts::dim(cursor)?;
        let in_parts = choice(cursor, &[("parts", true), ("blocks", false)])?;
        let size = cursor.u64("a number of parts, or the length of a block")?;
        cursor.expect_name("stride")?;
        let stride = cursor.u64("a number of cores")?;
        let cutting = if in_parts { Cutting::Parts(size) } else { Cutting::Blocks(size) };
        cuts.push(Cut { name, extent, cutting, stride });
        Ok(())
    })?;
    Ok(cuts)
}

fn accesses(cursor: &mut Cursor<'_>) -> Result<Vec<Access>> {
    cursor.expect("[")?;
    let mut accesses = Vec::new();
    cursor.list("]", |cursor| {
        accesses.push(access(cursor)?);
        Ok(())
    })?;
    Ok(accesses)
}

fn access(cursor: &mut Cursor<'_>) -> Result<Access> {
    if cursor.take_name("whole")? {
        return Ok(Access::Whole);
    }
    let axis = cursor.integer("`whole` or the number of an axis", 0, u32::MAX.into())?;
    let axis = usize::try_from(axis).expect("in the range asked for");
    if cursor.take_name("times")? {
        return Ok(Access::Along { axis, scale: parts::dim(cursor)? });
    }
    if cursor.take_name("window")? {
        cursor.expect("(")?;
        let [stride, before, reach] = three(cursor, |cursor| cursor.i64("an integer"))?;
        cursor.expect(")")?;
        return Ok(Access::Window { axis, stride, before, reach });
    }
    Ok(Access::along(axis))
}
