//! What lives from run to run: states that a run changes, and states that it lengthens.
//!
//! A state has one buffer, which the run before has left. Its new value is made like any other, and copied there after the
//! last step that reads the old one; [`in_place`] then lets the step that makes it write there at once, where that is safe.

use crate::lower::{Emitter, fill, reads};
use orrery_ir::op::Access;
use orrery_ir::{Def, Graph, NodeId, Op, State, ValueId};
use orrery_program::{
    Buffer, BufferClass, BufferId, Layout, MemoryId, Program, Step, StepId, StepKind, Unit, Write, WriteMode,
};
use std::collections::{BTreeMap, BTreeSet};

/// A state's new value, and where it goes.
pub(crate) struct Kept {
    /// The user's name for it.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) from: BufferId,
    /// How it is moved, where it is not copied as it is.
    pub(crate) moved: Option<Graph>,
    /// The state.
    pub(crate) to: BufferId,
}

/// How and by which unit a value goes from a memory to another, or within one.
pub(crate) type Way<'a> = &'a dyn Fn(MemoryId, MemoryId) -> (StepKind, Unit);

impl Emitter<'_> {
    /// True for the input of a state.
    pub(crate) fn is_state(&self, value: ValueId) -> bool {
        self.states.contains(&value)
    }
    /// The buffer of a state; made in this place where it has none yet.
    pub(crate) fn state(&mut self, value: ValueId, home: MemoryId, layout: Layout) -> BufferId {
        if let Some(&there) = self.given.get(&value) {
            return there;
        }
        let made = self.buffer(value, "", BufferClass::State, home, layout);
        self.given.insert(value, made);
        made
    }
    /// The buffer of a state, where it has one already.
    pub(crate) fn given_state(&self, value: ValueId) -> Option<BufferId> {
        self.given.get(&value).copied().filter(|_| self.is_state(value))
    }
    /// The input of a state, and the output that becomes it.
    pub(crate) fn ends(&self, state: &State) -> (ValueId, ValueId) {
        (self.graph.inputs[state.input], self.graph.outputs[state.output])
    }
    /// True for an output, by its position, that a state keeps; it is listed as an output of the program then.
    pub(crate) fn stays(&mut self, output: usize) -> bool {
        let Some(state) = self.graph.state_of_output(output) else { return false };
        let buffer = self.given[&self.graph.inputs[state.input]];
        self.program.outputs.push((self.graph.output_name(output).to_owned(), buffer));
        true
    }
    /// Copies what becomes of one state another, or the same moved, before any state changes. `way` says how and by which
    /// unit from a memory to another, or within one.
    pub(crate) fn set_aside(&mut self, kept: &mut [Kept], way: Way<'_>) {
        for (number, kept) in kept.iter_mut().enumerate() {
            let source = self.program.storage(kept.from);
            let unchanged = source == kept.to && kept.moved.is_none();
            if self.program.buffers[source].class == BufferClass::State && !unchanged {
                let buffer = &self.program.buffers[kept.from];
                let copy = Buffer {
                    name: format!("{}@before.{number}", buffer.name),
                    class: BufferClass::Scratch,
                    view_of: None,
                    ..buffer.clone()
                };
                let to = self.program.buffers.push(copy);
                let home = self.program.buffers[to].home;
                let name = format!("{} before the run", kept.name);
                let step = self.copy(name, way(home, home), kept.from, to, None);
                self.push(step);
                kept.from = to;
            }
        }
    }
    /// Copies new values to their states, once nothing reads the old ones any more.
    pub(crate) fn keep(&mut self, kept: Vec<Kept>, way: Way<'_>) {
        let mut readers: BTreeMap<BufferId, BTreeSet<StepId>> =
            kept.iter().map(|kept| (kept.to, BTreeSet::new())).collect();
        for (id, step) in self.program.steps.iter().filter(|_| !kept.is_empty()) {
            for read in &step.reads {
                if let Some(there) = readers.get_mut(&self.program.storage(read.buffer)) {
                    there.insert(id);
                }
            }
        }
        for Kept { name, from, moved, to } in kept {
            if self.program.storage(from) == to {
                continue;
            }
            let home = |buffer: BufferId| self.program.buffers[buffer].home;
            let mut step = self.copy(format!("{name} kept"), way(home(from), home(to)), from, to, moved);
            step.writes[0].mode = WriteMode::InPlace;
            let readers = readers.get(&to).into_iter().flatten().copied();
            step.after.extend(readers.filter(|id| self.program.steps[*id].unit != step.unit));
            self.push(step);
        }
    }
    fn copy(
        &self,
        name: String,
        (kind, unit): (StepKind, Unit),
        from: BufferId,
        to: BufferId,
        moved: Option<Graph>,
    ) -> Step {
        let whole = |b: BufferId| vec![Access::Whole; self.program.buffers[b].shape.len()];
        let body = moved.unwrap_or_else(|| pass_through(&self.program.buffers[from]));
        let mut step = self.step(name, kind, body);
        step.unit = unit;
        step.reads = reads(&[from], vec![whole(from)]);
        step.writes = vec![fill(to, whole(to))];
        step
    }
    /// Sets the program's inputs, once all have their buffers.
    pub(crate) fn list_inputs(&mut self) {
        self.program.inputs = self.graph.inputs.iter().map(|value| self.given[value]).collect();
    }
}

/// A body that passes a buffer on as it is.
pub(crate) fn pass_through(buffer: &Buffer) -> Graph {
    let mut graph = Graph::new("");
    let ty = orrery_ir::Type::tensor(buffer.dtype, buffer.shape.iter().cloned());
    let input = graph.add_input(buffer.name.clone(), ty.clone());
    let made = vec![Some("moved".to_owned())];
    let node = graph.add_node(Op::Identity, "", vec![Some(input)], made, Default::default(), Vec::new());
    if let [Some(output)] = graph.nodes[node].outputs[..] {
        graph.values[output].ty = ty;
        graph.outputs.push(output);
    }
    graph
}

/// Lets the steps that make new values of states write them where the states lie, where the copy that follows shows that
/// this is the place, and no step reads the old value any more. The copies then write nothing; false where there are none.
pub(crate) fn in_place(program: &mut Program) -> bool {
    if program.buffers.values().all(|buffer| buffer.class != BufferClass::State) {
        return false;
    }
    let mut index = Index::of(program);
    let mut any = false;
    for id in program.steps.ids().collect::<Vec<_>>() {
        if let Some((maker, state)) = replaceable(program, &index, id) {
            replace(program, &mut index, id, maker, state);
            any = true;
        }
    }
    any
}

/// Which steps touch what.
struct Index {
    /// Steps that read a buffer or a view of it, by the buffer, in order.
    readers: BTreeMap<BufferId, Vec<StepId>>,
    /// Steps that write a buffer itself.
    writers: BTreeMap<BufferId, Vec<StepId>>,
    /// Steps that wait for another.
    waiting: BTreeMap<StepId, Vec<StepId>>,
    /// Buffers that are seen by another name or leave the program.
    seen: BTreeSet<BufferId>,
}

impl Index {
    fn of(program: &Program) -> Self {
        let viewed = program.buffers.values().filter_map(|b| b.view_of);
        let mut index = Self {
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            seen: viewed.chain(program.outputs.iter().map(|(_, b)| *b)).collect(),
        };
        for (id, step) in program.steps.iter() {
            let read: BTreeSet<BufferId> = step.reads.iter().map(|r| program.storage(r.buffer)).collect();
            read.into_iter().for_each(|buffer| index.readers.entry(buffer).or_default().push(id));
            step.writes.iter().for_each(|w| index.writers.entry(w.buffer).or_default().push(id));
            step.after.iter().for_each(|before| index.waiting.entry(*before).or_default().push(id));
        }
        index
    }
    fn readers(&self, buffer: BufferId) -> &[StepId] {
        self.readers.get(&buffer).map_or(&[], Vec::as_slice)
    }
}

/// The step that makes what a copy brings to a state, and the state, where that step can write there itself.
fn replaceable(program: &Program, index: &Index, copy: StepId) -> Option<(StepId, BufferId)> {
    let step = &program.steps[copy];
    let ([read], [write]) = (&step.reads[..], &step.writes[..]) else { return None };
    let passes = step.body.nodes.values().all(|node| node.op == Op::Identity);
    if write.mode != WriteMode::InPlace || step.kind == StepKind::Compute || !passes {
        return None;
    }
    let (made, state) = (&program.buffers[read.buffer], &program.buffers[write.buffer]);
    let alike = (made.home, made.dtype, &made.shape) == (state.home, state.dtype, &state.shape)
        && made.layout.same_place(&state.layout);
    let own = made.class == BufferClass::Scratch && made.view_of.is_none() && made.pieces.is_none();
    if !alike || !own || index.seen.contains(&read.buffer) {
        return None;
    }
    let [maker] = index.writers.get(&read.buffer)?[..] else { return None };
    let making = &program.steps[maker];
    let wrote = making.writes.iter().find(|w| w.buffer == read.buffer)?;
    // What a part reads of the state it must be the only one to write.
    let apart =
        making.reads.iter().filter(|r| program.storage(r.buffer) == write.buffer).all(|r| {
            making.kind == StepKind::Compute && r.buffer == write.buffer && r.access == wrote.access
        });
    let later = index.readers(write.buffer).iter().any(|id| *id > maker && *id != copy);
    (wrote.mode == WriteMode::Fill && apart && !later).then_some((maker, write.buffer))
}

fn replace(program: &mut Program, index: &mut Index, copy: StepId, maker: StepId, state: BufferId) {
    let made = program.steps[copy].reads[0].buffer;
    program.steps[copy].writes.clear();
    let unit = program.steps[maker].unit;
    let read = index.readers.remove(&made).unwrap_or_default();
    let there = index.readers.entry(state).or_default();
    let before = there.iter().filter(|id| **id < maker && program.steps[**id].unit != unit).copied();
    let before: Vec<StepId> = before.collect();
    there.extend(&read);
    there.sort_unstable();
    for id in before {
        index.waiting.entry(id).or_default().push(maker);
        program.steps[maker].after.push(id);
    }
    let after = &mut program.steps[maker].after;
    after.sort_unstable();
    after.dedup();
    for id in read {
        let reads = program.steps[id].reads.iter_mut();
        reads.filter(|r| r.buffer == made).for_each(|r| r.buffer = state);
    }
    for Write { buffer, mode, .. } in program.steps[maker].writes.iter_mut().filter(|w| w.buffer == made) {
        (*buffer, *mode) = (state, WriteMode::InPlace);
    }
    index.writers.remove(&made);
    index.writers.entry(state).or_default().push(maker);
    for id in index.waiting.remove(&copy).unwrap_or_default() {
        let after = program.steps[id].after.iter_mut();
        after.filter(|before| **before == copy).for_each(|before| *before = maker);
        index.waiting.entry(maker).or_default().push(id);
    }
}

/// For each output of the graph that is an input with more elements behind its own, that input: keys and values that
/// attention, or a concatenation, appends to. What a run leaves so, the next one finds.
pub(crate) fn growing(graph: &Graph) -> BTreeMap<ValueId, ValueId> {
    let mut found = BTreeMap::new();
    for &output in &graph.outputs {
        let Def::Node(maker, place) = graph.values[output].def else { continue };
        let node = &graph.nodes[maker];
        let past = match (node.op, place) {
            (Op::Attention, 1 | 2) => node.inputs.get(place as usize + 3),
            (Op::Concat, _) => node.inputs.first(),
            _ => None,
        };
        if let Some(&Some(past)) = past
            && graph.inputs.contains(&past)
            && !graph.outputs.contains(&past)
            && only_lengthened(graph, past, maker)
            && graph.nodes.values().any(|n| node.op == Op::Attention || n.inputs.contains(&Some(output)))
            && !found.values().any(|other| *other == past)
        {
            found.insert(output, past);
        }
    }
    found
}

/// Whether a value is read by one node, and elsewhere only for its shape.
fn only_lengthened(graph: &Graph, value: ValueId, by: NodeId) -> bool {
    let mut readers = graph.nodes.iter().filter(|(_, node)| node.inputs.contains(&Some(value)));
    readers.all(|(id, node)| id == by || node.op == Op::Shape)
}
