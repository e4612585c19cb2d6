//! What layouts describe, held against a list of every element on every core, on machines of 6 to 64 tiles.

use crate::common::{compile_for, shrunk};
use crate::graphs::examples;
use orrery_ir::Bindings;
use orrery_numerics::DType;
use orrery_program::{
    BoundGrid, BufferId, Cut, Layout, Program, Range, Step, StepKind, WriteMode, access_range,
};
use std::collections::BTreeMap;

/// For each core the boxes of a buffer of these extents that it holds; padding left out.
pub(crate) fn held(layout: &Layout, extents: &[i64]) -> BTreeMap<u64, Vec<Vec<Range>>> {
    listed(layout.base, &layout.cuts, &layout.access, extents)
}

/// Goes through the parts one by one, by nothing but the definition of cuts.
fn listed(
    base: u64,
    cuts: &[Cut],
    access: &[orrery_ir::op::Access],
    extents: &[i64],
) -> BTreeMap<u64, Vec<Vec<Range>>> {
    let grid = BoundGrid::new(base, cuts, &Bindings::new()).unwrap();
    let mut cores: BTreeMap<u64, Vec<Vec<Range>>> = BTreeMap::new();
    let mut position = vec![0; grid.cuts.len()];
    loop {
        let bounds = grid.box_at(&position);
        if bounds.iter().all(|r| !r.is_empty()) {
            let block = access.iter().zip(extents).map(|(a, &extent)| {
                let range = access_range(a, &bounds, extent, &Bindings::new()).unwrap();
                Range { lo: range.lo.max(0), hi: range.hi.min(extent) }
            });
            cores.entry(grid.core(&position)).or_default().push(block.collect());
        }
        let Some(axis) = (0..position.len()).rev().find(|&i| position[i] + 1 < grid.cuts[i].parts) else {
            return cores;
        };
        position[axis] += 1;
        position[axis + 1..].fill(0);
    }
}

pub(crate) fn extents(program: &Program, id: BufferId) -> Vec<i64> {
    program.buffers[id].shape.iter().map(|d| d.known().unwrap()).collect()
}

/// How many cores hold each element.
pub(crate) fn holders<'a>(blocks: impl Iterator<Item = &'a Vec<Range>>, extents: &[i64]) -> Vec<u32> {
    let mut count = vec![0; extents.iter().product::<i64>() as usize];
    for block in blocks {
        let mut at: Vec<i64> = block.iter().map(|r| r.lo).collect();
        if block.iter().any(|r| r.is_empty()) {
            continue;
        }
        loop {
            let index = at.iter().zip(extents).fold(0, |index, (&i, &extent)| index * extent + i);
            count[index as usize] += 1;
            let Some(d) = (0..at.len()).rev().find(|&d| at[d] + 1 < block[d].hi) else { break };
            at[d] += 1;
            for (at, range) in at.iter_mut().zip(block).skip(d + 1) {
                *at = range.lo;
            }
        }
    }
    count
}

pub(crate) fn check_step(program: &Program, step: &Step, tiles: u64, place: &str) {
    if step.approximate {
        return;
    }
    for write in &step.writes {
        let extents = extents(program, write.buffer);
        let made = listed(step.base, &step.grid, &write.access, &extents);
        let combined = matches!(write.mode, WriteMode::Combined(_));
        if step.kind == StepKind::Compute {
            let count = holders(made.values().flatten(), &extents);
            // Partial results of a sum that is combined on its way: the same number of each.
            let times = if combined { summed_parts(step, &write.access) } else { 1 };
            assert!(count.iter().all(|&n| n == times), "{place}: elements are made {count:?} times");
        }
        if step.kind != StepKind::View {
            let held = held(&program.buffers[write.buffer].layout, &extents);
            let count = holders(held.values().flatten(), &extents);
            assert!(count.iter().all(|&n| n > 0), "{place}: some elements arrive nowhere");
        }
    }
    let reads = step.reads.iter().map(|r| (r.buffer, &r.access));
    let laid = step.writes.iter().filter(|w| !matches!(w.mode, WriteMode::Combined(_)));
    for (id, access) in reads.chain(laid.map(|w| (w.buffer, &w.access))) {
        let buffer = &program.buffers[id];
        if step.kind != StepKind::Compute || program.memories[buffer.home].cores == 1 {
            continue;
        }
        let extents = extents(program, id);
        let (needed, held) =
            (listed(step.base, &step.grid, access, &extents), held(&buffer.layout, &extents));
        for (core, blocks) in &needed {
            assert!(*core < tiles, "{place}: core {core}");
            assert_eq!(blocks.len(), 1, "{place}: core {core} has several parts");
            assert_eq!(held.get(core), Some(blocks), "{place}: core {core}, `{}`", buffer.name);
        }
    }
}

/// Parts along axes that a write does not follow, none of them empty.
fn summed_parts(step: &Step, access: &[orrery_ir::op::Access]) -> u32 {
    let grid = BoundGrid::new(step.base, &step.grid, &Bindings::new()).unwrap();
    let cuts =
        grid.cuts.iter().enumerate().filter(|(axis, _)| !access.iter().any(|a| a.axis() == Some(*axis)));
    cuts.map(|(_, cut)| (0..cut.parts).filter(|&i| !cut.range(i).is_empty()).count() as u32).product()
}

/// Bytes on each core of the tile memory at each step, by listing what each core holds.
pub(crate) fn bytes_by_list(program: &Program) -> Vec<Vec<u64>> {
    let (tile, memory) = program.memories.iter().find(|(_, m)| m.cores > 1).unwrap();
    let lives = program.lifetimes();
    let mut bytes = vec![vec![memory.reserved; memory.cores as usize]; program.steps.len()];
    for (id, buffer) in program.buffers.iter() {
        let (true, None, Some((first, last))) = (buffer.home == tile, buffer.view_of, lives[id]) else {
            continue;
        };
        for (core, blocks) in held_with_padding(&buffer.layout, &extents(program, id)) {
            for at in &mut bytes[first.0 as usize..=last.0 as usize] {
                at[core as usize] += buffer.dtype.machine_bytes(blocks);
            }
        }
    }
    bytes
}

/// Elements on each core, padding included.
fn held_with_padding(layout: &Layout, extents: &[i64]) -> BTreeMap<u64, u64> {
    let grid = BoundGrid::new(layout.base, &layout.cuts, &Bindings::new()).unwrap();
    let mut cores = BTreeMap::new();
    for part in 0..grid.parts() {
        let position = grid.position(part);
        let bounds = grid.box_at(&position);
        let ranges = layout.access.iter().zip(extents);
        let elements: i64 =
            ranges.map(|(a, &e)| access_range(a, &bounds, e, &Bindings::new()).unwrap().len()).product();
        let empty = bounds.iter().any(|r| r.is_empty());
        *cores.entry(grid.core(&position)).or_insert(0) += if empty { 0 } else { elements as u64 };
    }
    cores
}

#[test]
fn layouts_hold_every_element_where_they_say() {
    let (mut steps, mut even) = (0, 0);
    for tiles in [6, 17, 64] {
        let system = shrunk("gc200", &[("tiles", tiles)]);
        // What has no elements lies nowhere.
        for (name, graph) in examples(DType::F32).filter(|(name, _)| *name != "scalars and nothing") {
            let program =
                compile_for(&graph, &system, "fp32").unwrap_or_else(|e| panic!("{name}: {e}")).program;
            for (id, step) in program.steps.iter() {
                check_step(&program, step, tiles, &format!("{name}, {tiles} tiles, {id} `{}`", step.name));
                steps += 1;
            }
            for (id, buffer) in program.buffers.iter() {
                let extents = extents(&program, id);
                let count = holders(held(&buffer.layout, &extents).values().flatten(), &extents);
                assert!(count.iter().all(|&n| n >= 1), "{name} {id}: {count:?}");
            }
            // The count by formulas puts the largest block on every core: it never says less than the list, and the
            // same where all blocks are equal.
            let (by_formula, peak) = program
                .memory_use(&Bindings::new())
                .unwrap()
                .into_iter()
                .find(|(_, peak)| program.memories[peak.memory].cores > 1)
                .unwrap();
            let by_list = bytes_by_list(&program);
            let mut equal = true;
            for (step, cores) in by_list.iter().enumerate() {
                let fullest = cores.iter().copied().max().unwrap();
                assert!(by_formula[step] >= fullest, "{name} {step}: {} and {fullest}", by_formula[step]);
                equal &= by_formula[step] == fullest;
            }
            assert_eq!(by_formula.iter().max(), Some(&peak.bytes).filter(|b| **b > 0), "{name}");
            even += u32::from(equal);
        }
    }
    assert!(steps > 300, "{steps} steps");
    assert!(even > 5, "{even} programs of equal blocks");
}

/// Of elements that lie on no more cores than they must, the count by formulas is exact.
#[test]
fn memory_of_even_layouts_is_exact() {
    use orrery_ir::{Attrs, Builder, Op};
    let system = shrunk("gc200", &[("tiles", 16)]);
    let mut b = Builder::new("even", 1);
    let (x, w) = (b.input("x", DType::F32, [32_i64, 64]), b.weight("w", [64_i64, 64], 0.1));
    let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
    let y = b.op(Op::Relu, "relu", &[y], Attrs::new());
    let y = b.op(Op::Transpose, "turned", &[y], Attrs::new());
    let y = b.op(Op::MatMul, "z", &[w, y], Attrs::new());
    let graph = b.finish(&[("y", y)]).unwrap();
    let program = compile_for(&graph, &system, "fp32").unwrap().program;
    let by_list: Vec<u64> =
        bytes_by_list(&program).iter().map(|cores| cores.iter().copied().max().unwrap()).collect();
    let uses = program.memory_use(&Bindings::new()).unwrap();
    let (by_formula, _) = uses.iter().find(|(_, peak)| program.memories[peak.memory].cores > 1).unwrap();
    assert_eq!(*by_formula, by_list);
}
