//! Bulk-synchronous machines: every group is cut over the tiles; what its parts need is exchanged first.
//!
//! A value lives on the tiles in the layout in which it was made. Ops that only move data are put off until a compute step
//! needs the value, and then done by the exchange that brings it. Weights lie where the step that uses them wants them, or
//! spread evenly and are sent round. What the tiles cannot hold of them stays in streaming memory, the largest first.
//!
//! Several chips take the steps in turn as stages. They are compiled as one whose tiles have the memory of all of them: that
//! each stage gets an even share of what lies there, and of the time, is what those who deal out the stages aim at. A step
//! stands on one chip and has the room of one.

mod arrive;
mod code;
mod least;
mod order;
pub(crate) mod problem;
mod sums;
mod weights;

use crate::groups::{Group, GroupKind, is_inline};
use crate::lower::{Body, Emitter, fill, grid, reads};
use crate::needed::needed;
use crate::partition::{Choice, Inner, Problem, Tiles};
use crate::states::{Kept, Way, in_place};
use crate::{Compiled, Fidelity, Options, Streamed};
use arrive::Arrival;
use code::code_bytes;
use least::passed_on;
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_cost::Target;
use orrery_ir::infer::Facts;
use orrery_ir::op::{Access, AxisKind, Combine};
use orrery_ir::{Bindings, Dim, Graph, NodeId, State, ValueId};
use orrery_machine::{BspLosses, BspMachine, Losses};
use orrery_program::memory::unbound;
use orrery_program::{
    BufferClass, BufferId, Cut, Cutting, Layout, MemoryId, Step, StepKind, Unit, Write, WriteMode, verify,
};
use problem::Chosen;
use std::collections::{BTreeMap, BTreeSet};
use weights::{Weights, leaving, missing_bytes, wait_for_places};

/// Compiles groups for a machine of tiles.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &BspMachine,
    options: &Options,
) -> Result<Compiled> {
    options.cuts.with(target, |chosen| compile_with(chosen, graph, facts, groups, target, machine, options))
}

fn compile_with(
    chosen: &mut Chosen,
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &BspMachine,
    options: &Options,
) -> Result<Compiled> {
    let Losses::BulkSynchronous(losses) = &target.losses else {
        return Diagnostic::error("cost-model", "the machine's losses are of another execution model").err();
    };
    let groups = &order::update_by_update(graph, groups, options);
    let mut weights = Weights::of(graph, facts, options);
    if options.streamed != Streamed::Weights && !options.beyond_memory {
        let tiles = machine.tiles.saturating_mul(options.more_chips.saturating_add(1));
        let room = machine.tile_bytes.saturating_sub(machine.tile_reserved_bytes).saturating_mul(tiles);
        let least = weights.staying.saturating_add(passed_on(graph, facts, groups, options));
        if least > room {
            let cause = format!(
                "what is to lie on the tiles at once takes at least {}, and they have {}",
                show_bytes(least as f64),
                show_bytes(room as f64)
            );
            return Diagnostic::error("does-not-fit", cause).err();
        }
    }
    let budget = machine.tile_bytes as f64 * machine.matrix_temporary_fraction;
    let mut at = |room: f64, streamed: &BTreeSet<ValueId>| {
        emit(graph, facts, groups, target, machine, losses, options, streamed, budget * room, chosen)
    };
    let fits = |compiled: &Compiled| verify::capacity(&compiled.program);
    let (mut compiled, tile) = at(1.0, &weights.streamed)?;
    let Err(mut refused) = fits(&compiled) else { return Ok(compiled) };
    let mut room = 1.0;
    // Where weights cannot leave, products get less room before anything else goes.
    if options.streamed != Streamed::Weights {
        room = TIGHTEST;
        (compiled, _) = at(room, &weights.streamed)?;
        match fits(&compiled) {
            Ok(()) => {
                let (wider, _) = at(TIGHTER, &weights.streamed)?;
                return Ok(if fits(&wider).is_ok() { wider } else { compiled });
            }
            Err(error) => refused = error,
        }
    }
    let (mut wanted, first) = (0_u64, refused.clone());
    loop {
        // What streams takes room again while it is used: so each time at least twice as much as before.
        let missing = missing_bytes(&compiled.program, tile, options)?;
        wanted = wanted.saturating_mul(2).max(missing.saturating_mul(machine.tiles));
        if !weights.stream(wanted) {
            if options.beyond_memory {
                return Ok(compiled);
            }
            return Err(match options.streamed {
                Streamed::Weights => Box::new(refused.help(
                    "all weights are in streaming memory already; the rest is what one step needs at once",
                )),
                _ => refused,
            });
        }
        (compiled, _) = at(room, &weights.streamed)?;
        match fits(&compiled) {
            Ok(()) => {
                compiled.notes.push(weights.note(&first));
                return Ok(compiled);
            }
            Err(error) => refused = error,
        }
    }
}

/// The part of its room that a product may take for what it needs and makes where tiles are full, as users set
/// `availableMemoryProportion`.
const TIGHTER: f64 = 0.35;
/// The least of it: where not even this makes all fit, nothing in between does.
const TIGHTEST: f64 = 0.125;

fn emit(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &BspMachine,
    losses: &BspLosses,
    options: &Options,
    streamed: &BTreeSet<ValueId>,
    budget: f64,
    chosen: &mut Chosen,
) -> Result<(Compiled, MemoryId)> {
    let mut emitter = Emitter::new(graph, facts, target, options);
    let host = emitter.memory("host", 1, u64::MAX, 0);
    let chips = options.more_chips.saturating_add(1);
    let tile = emitter.memory("tile", machine.tiles, machine.tile_bytes.saturating_mul(chips), 0);
    let streaming = emitter.memory("streaming", 1, machine.streaming_bytes, 0);
    let tiles = Tiles { machine, losses, macs: target.precision.macs(), budget };
    let mut lowering = Lowering {
        emitter,
        host,
        tile,
        streaming,
        streamed,
        tiles,
        nominal: options.nominal(),
        moved: BTreeMap::new(),
        next_core: 0,
        laid: [0.0; 2],
        chosen,
    };
    for &value in &graph.inputs {
        lowering.host_input(value)?;
    }
    let way: Way<'_> = &|from, to| match from == to {
        true => (StepKind::Exchange, Unit::Device),
        false => (StepKind::Stream, Unit::Streaming),
    };
    let leaving = leaving(graph, groups, streamed);
    for (number, group) in groups.iter().enumerate() {
        lowering.emitter.phase = order::phase(group, options);
        match group.kind {
            GroupKind::Extents => lowering.extents(group)?,
            GroupKind::View | GroupKind::Movement => lowering.movement(group)?,
            GroupKind::Compute => lowering.compute(group)?,
        }
        if let Some(states) = leaving.get(&number) {
            let leave = states.iter().map(|state| lowering.kept(state)).collect::<Result<_>>()?;
            lowering.emitter.keep(leave, way);
        }
    }
    let gone: BTreeSet<usize> = leaving.values().flatten().map(|state| state.input).collect();
    let mut kept = Vec::new();
    for state in graph.states.iter().filter(|state| !gone.contains(&state.input)) {
        kept.push(lowering.kept(state)?);
    }
    lowering.emitter.set_aside(&mut kept, way);
    for (i, &value) in graph.outputs.iter().enumerate() {
        if !lowering.emitter.stays(i) {
            lowering.host_output(value, graph.output_name(i))?;
        }
    }
    lowering.emitter.keep(kept, way);
    lowering.emitter.list_inputs();
    let Emitter { mut program, nodes, .. } = lowering.emitter;
    wait_for_places(&mut program);
    in_place(&mut program);
    let mut program = needed(program);
    program.memories[tile].reserved = code_bytes(&program, machine, chips);
    Ok((Compiled { program, nodes, notes: Vec::new() }, tile))
}

struct Lowering<'a> {
    emitter: Emitter<'a>,
    host: MemoryId,
    tile: MemoryId,
    streaming: MemoryId,
    /// Weights that stay in streaming memory until they are used.
    streamed: &'a BTreeSet<ValueId>,
    tiles: Tiles<'a>,
    nominal: Bindings,
    /// Values that are another value moved: the source, and the nodes that move it.
    moved: BTreeMap<ValueId, (ValueId, Vec<NodeId>)>,
    /// The core at which the next even spread starts, so that small buffers do not pile up on the first tile.
    next_core: u64,
    /// Bytes that the steps of training that do not need all tiles have left on each of the first tiles, and of the last.
    laid: [f64; 2],
    chosen: &'a mut Chosen,
}

impl Lowering<'_> {
    fn whole(&self, value: ValueId) -> Vec<Access> {
        vec![Access::Whole; self.emitter.type_of(value).1.len()]
    }
    fn extent(&self, dim: &Dim) -> Result<i64> {
        dim.eval(&self.nominal).map_err(|s| Box::new(unbound(&s)))
    }
    /// A layout that spreads a value evenly over the tiles.
    fn spread(&mut self, value: ValueId) -> Result<Layout> {
        let (_, shape) = self.emitter.type_of(value);
        let mut order: Vec<(i64, usize)> = Vec::new();
        for (d, dim) in shape.iter().enumerate() {
            order.push((self.extent(dim)?, d));
        }
        // The longest dimensions first: they are cut with least waste.
        order.sort_by_key(|&(extent, d)| (std::cmp::Reverse(extent), d));
        let parts = even_parts(&order, self.tiles.machine.tiles);
        let mut cuts: Vec<Cut> = shape
            .iter()
            .zip(&parts)
            .map(|(extent, &p)| Cut {
                name: "spread".into(),
                extent: extent.clone(),
                cutting: Cutting::Parts(p),
                stride: 0,
            })
            .collect();
        let cores = set_strides(&mut cuts, None);
        let base = if self.next_core + cores <= self.tiles.machine.tiles { self.next_core } else { 0 };
        self.next_core = (base + cores) % self.tiles.machine.tiles;
        Ok(Layout { base, cuts, access: (0..shape.len()).map(Access::along).collect() })
    }
    fn host_input(&mut self, value: ValueId) -> Result<()> {
        if self.emitter.is_state(value) {
            // It lies where its first user would have it.
            return Ok(());
        }
        let whole = Layout::whole(self.whole(value).len(), 0);
        let from = self.emitter.buffer(value, "@host", BufferClass::Input, self.host, whole);
        self.emitter.given.insert(value, from);
        let layout = self.spread(value)?;
        let to = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
        self.transfer(format!("{} to tiles", self.emitter.name_of(value)), StepKind::Host, value, from, to);
        self.emitter.buffer_of.insert(value, to);
        Ok(())
    }
    fn transfer(&mut self, name: String, kind: StepKind, value: ValueId, from: BufferId, to: BufferId) {
        let mut step = self.emitter.step(name, kind, self.emitter.identity(value));
        step.reads = reads(&[from], vec![self.whole(value)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.emitter.push(step);
    }
    /// What a value is a movement of: a value with a buffer, or a constant, and the nodes in between.
    fn origin(&self, value: ValueId) -> (ValueId, Vec<NodeId>) {
        self.moved.get(&value).cloned().unwrap_or((value, Vec::new()))
    }
    /// A layout in which a value can be kept: the wanted one, where it makes no copies, or an even spread.
    fn lasting(&mut self, value: ValueId, wanted: Option<&Layout>) -> Result<Layout> {
        match wanted.filter(|layout| layout.copies().is_empty()) {
            Some(layout) => Ok(layout.clone()),
            None => self.spread(value),
        }
    }
    /// The buffer of a state: on the tiles or in streaming memory.
    fn state(&mut self, value: ValueId, wanted: Option<&Layout>) -> Result<BufferId> {
        if let Some(&there) = self.emitter.given.get(&value) {
            return Ok(there);
        }
        if self.streamed.contains(&value) {
            let whole = Layout::whole(self.whole(value).len(), 0);
            return Ok(self.emitter.state(value, self.streaming, whole));
        }
        let layout = self.lasting(value, wanted)?;
        Ok(self.emitter.state(value, self.tile, layout))
    }
    /// A state's new value, which stays.
    fn kept(&mut self, state: &State) -> Result<Kept> {
        let (input, value) = self.emitter.ends(state);
        let (source, chain) = self.origin(value);
        let from = self.operand(source, None)?;
        let moved = (!chain.is_empty()).then(|| self.emitter.body(&chain, None).graph);
        let layout = self.emitter.program.buffers[from].layout.clone();
        let wanted = moved.is_none().then_some(&layout);
        let to = self.state(input, wanted)?;
        Ok(Kept { name: self.emitter.name_of(input), from, moved, to })
    }
    /// The buffer of a value that is not a movement of another. `wanted` is where its user would have it.
    fn operand(&mut self, value: ValueId, wanted: Option<&Layout>) -> Result<BufferId> {
        if let Some(&buffer) = self.emitter.buffer_of.get(&value) {
            return Ok(buffer);
        }
        let state = self.emitter.is_state(value);
        if state && !self.streamed.contains(&value) {
            return self.state(value, wanted);
        }
        let layout = self.lasting(value, wanted)?;
        if self.streamed.contains(&value) {
            let whole = Layout::whole(self.whole(value).len(), 0);
            let from = match state {
                true => self.state(value, None)?,
                false => {
                    self.emitter.buffer(value, "@streaming", BufferClass::Parameter, self.streaming, whole)
                }
            };
            let suffix =
                if state { format!("@{}", self.emitter.program.buffers.len()) } else { String::new() };
            let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.tile, layout);
            self.transfer(
                format!("stream {}", self.emitter.name_of(value)),
                StepKind::Stream,
                value,
                from,
                to,
            );
            // A state comes each time that it is used: from the forward pass to its update is a long way.
            if !state {
                self.emitter.buffer_of.insert(value, to);
            }
            return Ok(to);
        }
        let buffer = self.emitter.buffer(value, "", BufferClass::Parameter, self.tile, layout);
        self.emitter.buffer_of.insert(value, buffer);
        Ok(buffer)
    }
    fn host_output(&mut self, value: ValueId, name: &str) -> Result<()> {
        let (source, chain) = self.origin(value);
        let from = self.operand(source, None)?;
        let whole = Layout::whole(self.whole(value).len(), 0);
        let suffix = format!("@host.{}", self.emitter.program.outputs.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.host, whole);
        let body = if chain.is_empty() {
            self.emitter.identity(value)
        } else {
            self.emitter.body(&chain, None).graph
        };
        let mut step = self.emitter.step(format!("{name} to host"), StepKind::Host, body);
        step.reads = reads(&[from], vec![self.whole(source)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.emitter.push(step);
        self.emitter.program.outputs.push((name.to_owned(), to));
        Ok(())
    }
    /// Integers that follow from extents stay on the host.
    fn extents(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let mut sources = Vec::new();
        let mut arrivals = Vec::new();
        for &value in &body.operands {
            sources.push(self.spread_out(value, &mut arrivals)?);
        }
        self.arrive(arrivals, 0.0, "its extents");
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::View, body.graph);
        step.reads = reads(&sources, body.operands.iter().map(|v| self.whole(*v)).collect());
        for &value in &body.results {
            let layout = Layout::whole(self.whole(value).len(), 0);
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.host, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    fn movement(&mut self, group: &Group) -> Result<()> {
        self.emitter.mapped(group, Fidelity::Exact);
        let node = &self.emitter.graph.nodes[group.nodes[0]];
        let mut operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        operands.retain(|v| !is_inline(self.emitter.graph, *v));
        if let ([input], [Some(output)]) = (&operands[..], &node.outputs[..]) {
            let (source, mut chain) = self.origin(*input);
            chain.push(group.nodes[0]);
            self.moved.insert(*output, (source, chain));
            return Ok(());
        }
        let body = self.emitter.body(&group.nodes, None);
        let mut sources = Vec::new();
        let mut arrivals = Vec::new();
        for &value in &body.operands {
            sources.push(self.spread_out(value, &mut arrivals)?);
        }
        self.arrive(arrivals, 0.0, node.op.name());
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::Exchange, body.graph);
        step.reads = reads(&sources, body.operands.iter().map(|v| self.whole(*v)).collect());
        for &value in &body.results {
            let layout = self.spread(value)?;
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.emitter.push(step);
        Ok(())
    }
    fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let name = group.name(self.emitter.graph);
        let Some(space) = &group.space else { return self.whole_group(group, body, name) };
        let problem = self.problem(group, &body)?;
        let mut choice = self.choose(&problem);
        let mut cuts = grid(space, |i| Cutting::Parts(choice.parts[i]));
        let cores = set_strides(&mut cuts, choice.price.inner);
        let made: f64 = problem.results.iter().map(|r| r.bytes(&choice.blocks(&problem))).sum();
        let mut base = self.end(cores, &cuts, &body, made);
        let stays = self.staying_operand(&body);
        if let Some((kept, at)) = self.kept_grid(group, &body, stays)
            && let Some(parts) = kept.iter().map(parts_of).collect::<Option<Vec<_>>>()
        {
            // What lies where it was made need not be exchanged.
            let mut staying = Problem { turned: None, ..problem.clone() };
            staying.operands.remove(stays);
            let inner = (0..kept.len()).find(|&i| kept[i].is_cut() && kept[i].stride == 1);
            let price = self.tiles.price(&staying, &parts, Inner::Fixed(inner));
            let fits = price.bytes <= self.tiles.budget || choice.price.bytes > self.tiles.budget;
            if fits && price.cycles <= choice.price.cycles {
                (choice, cuts, base) = (Choice { parts, price }, kept, at);
            }
        }
        let sums = |a: &orrery_ir::op::Axis| a.kind == AxisKind::Reduce(Combine::Sum);
        let splits: u64 =
            space.axes.iter().zip(&choice.parts).filter(|(a, _)| sums(a)).map(|(_, &p)| p).product();
        let mut step = self.emitter.step(name, StepKind::Compute, body.graph.clone());
        step.work = self.emitter.work(&group.nodes);
        step.part_attrs = space.part_attrs.clone();
        step.padding = space.padding;
        (step.base, step.grid) = (base, cuts);
        let combined = splits > 1 && problem.matrix.is_none();
        if !combined && (splits > 1 || choice.price.turns > 1) {
            return self.cut_sum(group, &step, &problem, &choice);
        }
        let mut arrivals = Vec::new();
        for (&value, access) in body.operands.iter().zip(body.reads) {
            let layout = self.layout_of(&step, &access);
            let buffer = self.bring(value, None, &layout, &mut arrivals)?;
            step.reads.push(orrery_program::Read { buffer, access });
        }
        self.arrive(arrivals, step.padding, &step.name);
        for (&value, access) in body.results.iter().zip(body.writes) {
            // What parts make of the same elements is sent to where the tiles each add up their share.
            let layout = if combined { self.spread(value)? } else { self.layout_of(&step, &access) };
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            let mode = if combined { WriteMode::Combined(Combine::Sum) } else { WriteMode::Fill };
            step.writes.push(Write { buffer, access, mode });
        }
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    /// The first core of a step that has so many, under this grid: where one of its operands lies as it is to be, or else, in
    /// training, the first tiles or the last, so that what is kept for the backward pass does not pile up on the first. Each
    /// of them gets so many bytes.
    fn end(&mut self, cores: u64, cuts: &[Cut], body: &Body, bytes: f64) -> u64 {
        let last = self.tiles.machine.tiles.saturating_sub(cores) & !1;
        if self.emitter.options.training.is_none() || last == 0 {
            return 0;
        }
        let lies_at = |base: u64| {
            body.operands.iter().zip(&body.reads).any(|(value, access)| {
                let there =
                    self.emitter.buffer_of.get(value).map(|buffer| &self.emitter.program.buffers[*buffer]);
                let wanted = Layout { base, cuts: cuts.to_vec(), access: access.clone() };
                there.is_some_and(|there| there.home == self.tile && there.layout.same_place(&wanted))
            })
        };
        match (lies_at(0), lies_at(last)) {
            (true, _) => 0,
            (_, true) => last,
            _ => {
                let high = self.laid[1] < self.laid[0];
                self.laid[usize::from(high)] += bytes;
                if high { last } else { 0 }
            }
        }
    }
    /// The layout in which the parts of a step find an operand, or leave a result.
    fn layout_of(&self, step: &Step, access: &[Access]) -> Layout {
        Layout { base: step.base, cuts: step.grid.clone(), access: access.to_vec() }
    }
    fn whole_buffer(&self, buffer: BufferId) -> Vec<Access> {
        vec![Access::Whole; self.emitter.program.buffers[buffer].shape.len()]
    }
    /// An operand of a movement or of a step that is not cut: as it is, or brought into an even spread where a movement
    /// was put off.
    fn spread_out(&mut self, value: ValueId, arrivals: &mut Vec<Arrival>) -> Result<BufferId> {
        let (source, chain) = self.origin(value);
        if chain.is_empty() {
            return self.operand(source, None);
        }
        let layout = self.spread(value)?;
        self.bring(value, None, &layout, arrivals)
    }
    /// A group that cannot be cut by rule: counted as if its work were spread over all tiles.
    fn whole_group(&mut self, group: &Group, body: Body, name: String) -> Result<()> {
        let mut step = self.emitter.step(name, StepKind::Compute, body.graph);
        step.work = self.emitter.work(&group.nodes);
        step.approximate = true;
        let mut arrivals = Vec::new();
        for &value in &body.operands {
            let buffer = self.spread_out(value, &mut arrivals)?;
            step.reads.push(orrery_program::Read { buffer, access: self.whole(value) });
        }
        self.arrive(arrivals, 0.0, &step.name);
        for &value in &body.results {
            let layout = self.spread(value)?;
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Approximated);
        Ok(())
    }
}

/// Parts of dimensions, given with their extents in the order in which they are cut, that leave least on a tile: the first is
/// cut as finely as tiles allow, or into a few times longer parts, where the others then use more of them.
fn even_parts(order: &[(i64, usize)], tiles: u64) -> Vec<u64> {
    let extent = |extent: i64| u64::try_from(extent).unwrap_or(0).max(1);
    let cut = |first: u64| {
        let (mut parts, mut left, mut held) = (vec![1_u64; order.len()], tiles, 1_u64);
        for (number, &(length, d)) in order.iter().enumerate() {
            let length = extent(length);
            let finest = length.div_ceil(length.min(left));
            let block = if number == 0 { finest.saturating_mul(first).min(length) } else { finest };
            parts[d] = length.div_ceil(block);
            left /= parts[d];
            held = held.saturating_mul(block);
        }
        (held, parts)
    };
    let tried = (1..=LONGER).map(cut);
    tried.min_by_key(|(held, _)| *held).map(|(_, parts)| parts).unwrap_or_default()
}

/// How many times longer parts of the first dimension are tried for an even spread.
const LONGER: u64 = 4;

/// Number of parts of a cut that says it.
fn parts_of(cut: &Cut) -> Option<u64> {
    match cut.cutting {
        Cutting::Parts(parts) => Some(parts),
        Cutting::Blocks(_) => None,
    }
}

/// Strides over the cores, row-major but for `inner`, whose parts are neighbours; returns the number of cores.
fn set_strides(cuts: &mut [Cut], inner: Option<usize>) -> u64 {
    let mut stride = 1;
    let order = inner.into_iter().chain((0..cuts.len()).rev().filter(|i| Some(*i) != inner));
    for i in order {
        let parts = parts_of(&cuts[i]).unwrap_or(1);
        cuts[i].stride = if parts > 1 { stride } else { 0 };
        stride *= parts;
    }
    stride
}
