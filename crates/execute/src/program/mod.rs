//! Runs a Program on the host, part by part, in the machine's arithmetic.
//!
//! A buffer on a memory with a space for each core is held as the blocks its layout describes, and a part of a step reads
//! the block of the core it runs on, whatever that holds: so a wrong mapping shows as a wrong number. Equal blocks on
//! several cores are held once. The result depends on inputs, weights and seed only, not on the number of threads.

mod array;
mod check;
mod convolution;
mod evaluate;
mod parts;
mod store;
mod stray;

pub use array::Array;
pub use check::Disagreement;

use evaluate::{Body, Evaluator, Run};
use orrery_base::{Diagnostic, Progress, Result};
use orrery_ir::{Bindings, Weight};
use orrery_numerics::Tensor;
use orrery_program::memory::unbound;
use orrery_program::{
    BoundGrid, BufferClass, BufferId, Program, RoundingMode, Step, StepId, StepKind, Write, WriteMode,
};
use parts::{Made, Parts};
use std::collections::BTreeMap;
use store::{Holder, Stored};

/// Most cores whose blocks are held one by one; above, a layout says where elements are, and they are held as one array.
const MOST_LISTED: u64 = 16_384;
/// The name of the axis into which a cut sum is dealt.
const SPLIT: &str = "split";

/// How to run.
#[derive(Default)]
pub struct Options {
    /// Seed of stochastic rounding and random ops.
    pub seed: u64,
    /// Hold every compute step against the interpreter.
    pub check: bool,
    /// Reports steps as they end.
    pub progress: Progress,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Outputs under the user's names.
    pub outputs: Vec<(String, Tensor)>,
    /// Steps that were held against the interpreter.
    pub checked: usize,
    /// Where they disagreed, and by how much; empty where all is well.
    pub disagreements: Vec<Disagreement>,
}

/// Runs a program on inputs in order.
///
/// # Errors
/// `input-mismatch` where inputs do not fit; `weights-absent`; `mapping` where a step finds something else on its core
/// than it needs; `evaluation` with the step; `cancelled`.
pub fn run(program: &Program, inputs: &[Tensor], options: &Options) -> Result<Outcome> {
    let bindings = bind(program, inputs)?;
    let mut machine = Machine {
        program,
        bindings,
        options,
        stored: BTreeMap::new(),
        disagreements: Vec::new(),
        checked: 0,
    };
    for (buffer, tensor) in program.inputs.iter().zip(inputs) {
        machine.put(*buffer, Array::from_tensor(tensor)?)?;
    }
    let lives = program.lifetimes();
    let steps = program.steps.len();
    for (id, step) in program.steps.iter() {
        if !options.progress.step("run", u64::from(id.0), steps as u64) {
            return Diagnostic::error("cancelled", format!("stopped before step {id} `{}`", step.name)).err();
        }
        machine.step(id, step).map_err(|d| Box::new(d.at(format!("step {id} `{}`", step.name))))?;
        for (buffer, life) in lives.iter() {
            if life.is_some_and(|(_, last)| last == id) && !is_output(program, buffer) {
                machine.stored.remove(&buffer);
            }
        }
    }
    let mut outputs = Vec::new();
    for (name, buffer) in &program.outputs {
        outputs.push((name.clone(), machine.whole(*buffer)?.to_tensor()));
    }
    Ok(Outcome { outputs, checked: machine.checked, disagreements: machine.disagreements })
}

fn is_output(program: &Program, buffer: BufferId) -> bool {
    program.outputs.iter().any(|(_, b)| program.storage(*b) == buffer)
}

/// Symbols from the inputs' shapes.
fn bind(program: &Program, inputs: &[Tensor]) -> Result<Bindings> {
    let mismatch = |cause: String| Diagnostic::error("input-mismatch", cause).err();
    if inputs.len() != program.inputs.len() {
        return mismatch(format!("the model takes {} inputs, got {}", program.inputs.len(), inputs.len()));
    }
    let mut bindings = Bindings::new();
    for (id, tensor) in program.inputs.iter().zip(inputs) {
        let buffer = &program.buffers[*id];
        let fits = buffer.dtype == tensor.dtype()
            && buffer.shape.len() == tensor.rank()
            && buffer.shape.iter().zip(tensor.shape()).all(|(dim, &extent)| match dim.as_symbol() {
                Some(symbol) => *bindings.entry(symbol.to_owned()).or_insert(extent as i64) == extent as i64,
                None => dim.bind(&bindings).known().is_none_or(|n| n == extent as i64),
            });
        if !fits {
            let shape: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
            let wanted = format!("{}[{}]", buffer.dtype, shape.join(", "));
            return mismatch(format!(
                "input `{}` must be {wanted}, got {tensor:?}",
                buffer.name.trim_end_matches("@host")
            ));
        }
    }
    for (symbol, (lo, hi)) in &program.symbols {
        match bindings.get(symbol) {
            None => return Err(Box::new(unbound(symbol))),
            Some(value) if !(lo..=hi).contains(&value) => {
                return mismatch(format!("`{symbol}` is {value}; the program is compiled for {lo} to {hi}"));
            }
            Some(_) => {}
        }
    }
    Ok(bindings)
}

struct Machine<'a> {
    program: &'a Program,
    bindings: Bindings,
    options: &'a Options,
    stored: BTreeMap<BufferId, Stored>,
    disagreements: Vec<Disagreement>,
    checked: usize,
}

impl Machine<'_> {
    fn extents(&self, buffer: BufferId) -> Result<Vec<usize>> {
        let shape = &self.program.buffers[buffer].shape;
        shape
            .iter()
            .map(|dim| {
                dim.eval(&self.bindings)
                    .map(|n| usize::try_from(n).unwrap_or(0))
                    .map_err(|s| Box::new(unbound(&s)))
            })
            .collect()
    }
    /// True for a buffer that is held as one array: in a shared memory, or over more cores than are listed.
    fn is_shared(&self, buffer: BufferId) -> bool {
        let cores = self.program.memories[self.program.buffers[buffer].home].cores;
        cores == 1 || cores > MOST_LISTED
    }
    /// Puts a whole array into a buffer, in its layout.
    fn put(&mut self, buffer: BufferId, array: Array) -> Result<()> {
        self.put_padded(buffer, array, 0.0)
    }
    fn put_padded(&mut self, buffer: BufferId, array: Array, padding: f64) -> Result<()> {
        let stored = if self.is_shared(buffer) {
            Stored::Whole(array)
        } else {
            Stored::scatter(&self.program.buffers[buffer], &array, &self.bindings, padding)?
        };
        self.stored.insert(self.program.storage(buffer), stored);
        Ok(())
    }
    /// Makes sure that a buffer has its elements: parameters are made when first needed.
    fn ensure(&mut self, buffer: BufferId) -> Result<()> {
        let storage = self.program.storage(buffer);
        if self.stored.contains_key(&storage) {
            return Ok(());
        }
        let description = &self.program.buffers[storage];
        if description.class != BufferClass::Parameter {
            return Diagnostic::error("mapping", format!("`{}` was never written", description.name)).err();
        }
        let tensor = match &description.weight {
            Some(Weight::Data(tensor)) => tensor.clone(),
            Some(Weight::Seeded { seed, mean, deviation }) => {
                let shape = self.extents(storage)?;
                let values = orrery_ir::weights::normal(*seed, shape.iter().product(), *mean, *deviation);
                Array::rounded(description.dtype, shape, values).to_tensor()
            }
            _ => {
                return Diagnostic::error(
                    "weights-absent",
                    format!("the elements of `{}` are not in the model", description.name),
                )
                .help("the model can be compiled and timed as it is; to run it, give a file with its weights")
                .err();
            }
        };
        self.put(storage, Array::from_tensor(&tensor)?)
    }
    /// A buffer's elements as one array.
    fn whole(&mut self, buffer: BufferId) -> Result<Array> {
        self.ensure(buffer)?;
        let extents = self.extents(buffer)?;
        let storage = self.program.storage(buffer);
        let array = match &self.stored[&storage] {
            Stored::Whole(array) => array.clone(),
            blocks => {
                blocks.gather(&self.program.buffers[storage], &self.extents(storage)?, &self.bindings)?
            }
        };
        array.reshaped(extents).ok_or_else(|| {
            let name = &self.program.buffers[buffer].name;
            Box::new(Diagnostic::error("mapping", format!("`{name}` renames a buffer of another size")))
        })
    }
    fn step(&mut self, id: StepId, step: &Step) -> Result<()> {
        let evaluator = Evaluator {
            arithmetic: &step.arithmetic,
            stochastic: step.arithmetic.rounding == RoundingMode::Stochastic
                && step.kind == StepKind::Compute,
            seed: orrery_ir::weights::hash64(self.options.seed, u64::from(id.0)),
        };
        let check = self.options.check && step.kind == StepKind::Compute;
        // A step that writes a state in place leaves nothing of what it read.
        let mut given = Vec::new();
        if check {
            for read in &step.reads {
                given.push(self.whole(read.buffer)?);
            }
        }
        let mut before = vec![None; step.writes.len()];
        for (before, write) in before.iter_mut().zip(&step.writes) {
            if check && matches!(write.mode, WriteMode::Reduce(_)) {
                *before = Some(self.whole(write.buffer)?);
            }
        }
        if step.kind == StepKind::Compute && !step.approximate && !step.grid.is_empty() {
            self.parts(step, &evaluator)?;
        } else {
            let mut operands = Vec::new();
            for read in &step.reads {
                operands.push(self.whole(read.buffer)?);
            }
            let results = evaluator.body(&Body::new(&step.body)?, operands, None, Run::One(0))?;
            for (write, result) in step.writes.iter().zip(results) {
                self.accept(write.buffer, result, step.padding)?;
            }
        }
        if check {
            self.check(id, step, &evaluator, &given, &before)?;
        }
        Ok(())
    }
    /// Takes a whole result, rounds it to the buffer's type and lays it out.
    fn accept(&mut self, buffer: BufferId, result: Array, padding: f64) -> Result<()> {
        let extents = self.extents(buffer)?;
        let dtype = self.program.buffers[buffer].dtype;
        let shape = result.shape().to_vec();
        let result = result.stored_as(dtype).reshaped(extents).ok_or_else(|| {
            let name = &self.program.buffers[buffer].name;
            Diagnostic::error("mapping", format!("the step makes {shape:?} for `{name}`"))
        })?;
        self.put_padded(buffer, result, padding)
    }
    /// Runs a compute step part by part.
    fn parts(&mut self, step: &Step, evaluator: &Evaluator<'_>) -> Result<()> {
        for read in &step.reads {
            self.ensure(read.buffer)?;
        }
        let mut grid = BoundGrid::new(step.base, &step.grid, &self.bindings).map_err(|s| unbound(&s))?;
        self.merge_equal_pieces(step, &mut grid);
        // Views and split sums of a shared memory are read through their own shape.
        let mut shared = Vec::new();
        for read in &step.reads {
            shared.push(if self.is_shared(read.buffer) { Some(self.whole(read.buffer)?) } else { None });
        }
        let parts = Parts::new(self, step, evaluator, grid, shared)?;
        if step.writes.iter().any(|write| matches!(write.mode, WriteMode::Combined(_))) {
            let wholes = parts.combined()?;
            for (write, whole) in step.writes.iter().zip(wholes) {
                self.put(write.buffer, whole)?;
            }
            return Ok(());
        }
        for (write, made) in step.writes.iter().zip(parts.all()?) {
            self.write(write, made)?;
        }
        Ok(())
    }
    /// Puts what parts made into a buffer.
    fn write(&mut self, write: &Write, mut parts: Vec<Made>) -> Result<()> {
        let buffer = &self.program.buffers[write.buffer];
        let extents = self.extents(write.buffer)?;
        let storage = self.program.storage(write.buffer);
        if let WriteMode::Reduce(how) = write.mode {
            let stored = self.stored.get(&storage);
            let there = stored.map(|stored| Holder::new(stored, buffer, &self.bindings)).transpose()?;
            for Made { core, ranges, array } in &mut parts {
                let there = match stored {
                    Some(Stored::Whole(whole)) => Some(whole.slice(ranges, 0.0)),
                    _ => there.as_ref().and_then(|there| there.on_core(*core)).cloned(),
                };
                *array = there.and_then(|there| there.combined(array, how)).ok_or_else(|| {
                    let cause = format!("core {core} has nothing of `{}` to combine with", buffer.name);
                    Diagnostic::error("mapping", cause)
                })?;
            }
        }
        let stored = if self.is_shared(write.buffer) {
            let mut whole = match (write.mode, self.stored.remove(&storage)) {
                (WriteMode::Reduce(_) | WriteMode::InPlace, Some(Stored::Whole(array))) => array,
                _ => Array::zeros(buffer.dtype, extents),
            };
            for made in &parts {
                whole.put(&made.ranges, &made.array);
            }
            Stored::Whole(whole)
        } else {
            let blocks = parts.into_iter().map(|made| (made.core, made.array));
            Stored::from_cores(buffer, blocks, &self.bindings)?
        };
        self.stored.insert(storage, stored);
        Ok(())
    }
    /// On a mesh of more cores than are listed, pieces that make different elements are computed as one: each element
    /// comes out of the same operations all the same. Pieces of a sum stay apart.
    fn merge_equal_pieces(&self, step: &Step, grid: &mut BoundGrid) {
        let listed =
            |buffer: BufferId| self.program.memories[self.program.buffers[buffer].home].cores <= MOST_LISTED;
        if step.writes.iter().any(|write| listed(write.buffer)) {
            return;
        }
        for (axis, cut) in grid.cuts.iter_mut().enumerate() {
            let follows = |write: &Write| write.access.iter().any(|a| a.axis() == Some(axis));
            if step.writes.iter().all(follows) && step.grid[axis].name != SPLIT {
                (cut.parts, cut.block) = (1, cut.extent.max(1));
            }
        }
    }
}
