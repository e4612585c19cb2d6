//! The fast path in f32 on this machine.
//!
//! A [`Session`] prepares a graph once (weights packed, elementwise ops joined to the product or convolution before them) and
//! runs it any number of times; shapes may differ from run to run. What no kernel here takes is evaluated as the op table
//! defines, so every graph runs. It expects a graph that the general rewrites have been over; it does only what is about
//! this machine. The result is the same whatever the number of threads.

mod attention;
mod backward;
mod fuse;
mod lower;
mod matrix;
mod movement;
mod nested;
mod prepare;
mod recurrent;
mod rewrite;
mod rows;
mod spatial;
mod step;
mod value;

use crate::kernels::simd::Level;
use orrery_base::{Diagnostic, Progress, Result};
use orrery_ir::infer::at_node;
use orrery_ir::interpret::{bind_inputs, eval_node};
use orrery_ir::op::{Datum, Fact};
use orrery_ir::weights::hash64;
use orrery_ir::{Graph, Op, ValueId};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use step::{Call, Outcome, Step, Values};
use value::{Machine, Value};

/// A graph made ready to run.
pub struct Session {
    graph: Graph,
    steps: Vec<Step>,
    constants: Vec<(ValueId, Value)>,
    machine: Arc<Machine>,
    times: Mutex<Vec<(u64, Duration)>>,
}

/// What a run is given beside the inputs.
#[derive(Default)]
pub struct RunOptions<'a> {
    /// Seed of random ops.
    pub seed: u64,
    /// Told of each step, and asked whether to go on.
    pub progress: Option<&'a Progress>,
}

/// Time of one step over all runs so far.
#[derive(Clone, Debug)]
pub struct StepProfile {
    /// Names of its nodes, as in the model file, in order.
    pub nodes: Vec<String>,
    /// Their ops.
    pub ops: Vec<Op>,
    /// The kernel that computes it; `op table` where none does.
    pub kernel: &'static str,
    /// Number of runs.
    pub calls: u64,
    /// Time of all of them.
    pub time: Duration,
}

impl Session {
    /// Prepares `graph` to run on so many threads, the caller's own counted.
    ///
    /// # Errors
    /// Where the graph's types are wrong or its weights are absent.
    pub fn new(graph: &Graph, threads: usize) -> Result<Self> {
        Self::on(graph, None, &Arc::new(Machine::new(threads)))
    }
    /// Prepares a graph, or a body of which so much is known of the inputs.
    fn on(graph: &Graph, inputs: Option<&[Fact]>, machine: &Arc<Machine>) -> Result<Self> {
        let prepared = prepare::prepare(graph, inputs, machine)?;
        let times = Mutex::new(vec![(0, Duration::ZERO); prepared.steps.len()]);
        Ok(Self {
            graph: prepared.graph,
            steps: prepared.steps,
            constants: prepared.constants,
            machine: Arc::clone(machine),
            times,
        })
    }
    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.machine.threads.count()
    }
    /// The instruction set in use.
    pub fn instructions(&self) -> &'static str {
        Level::best().name()
    }
    /// Runs on inputs in order and returns the outputs in order.
    ///
    /// # Errors
    /// `input-mismatch` where inputs do not fit; `evaluation` with the node where an op fails.
    pub fn run(&self, inputs: Vec<Datum>) -> Result<Vec<Datum>> {
        self.run_with(inputs, &RunOptions::default())
    }
    /// As [`Session::run`], with options.
    ///
    /// # Errors
    /// As [`Session::run`]; `cancelled` where the progress handle says so.
    pub fn run_with(&self, inputs: Vec<Datum>, options: &RunOptions<'_>) -> Result<Vec<Datum>> {
        bind_inputs(&self.graph, &inputs)?;
        self.run_bound(inputs, options)
    }
    /// Time of each step over all runs so far, in order.
    pub fn profile(&self) -> Vec<StepProfile> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        self.steps
            .iter()
            .zip(times.iter())
            .map(|(step, &(calls, time))| StepProfile {
                nodes: step.nodes.iter().map(|n| self.graph.nodes[*n].name.clone()).collect(),
                ops: step.nodes.iter().map(|n| self.graph.nodes[*n].op).collect(),
                kernel: step.kernel.as_ref().map_or("op table", |k| k.name()),
                calls,
                time,
            })
            .collect()
    }
    fn run_bound(&self, inputs: Vec<Datum>, options: &RunOptions<'_>) -> Result<Vec<Datum>> {
        let mut values: Values = self.graph.values.ids().map(|_| None).collect();
        for (id, value) in &self.constants {
            values[*id] = Some(value.clone());
        }
        for (id, datum) in self.graph.inputs.iter().zip(inputs) {
            values[*id] = Some(datum.into());
        }
        let mut spent = Vec::with_capacity(self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            if let Some(progress) = options.progress
                && !progress.step("running", i as u64, self.steps.len() as u64)
            {
                return Diagnostic::error("cancelled", "the run was cancelled").err();
            }
            let start = Instant::now();
            self.run_step(step, &mut values, options.seed)?;
            for id in &step.last_uses {
                if let Some(value) = values[*id].take() {
                    value.recycle(&self.machine);
                }
            }
            spent.push(start.elapsed());
        }
        {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            for ((calls, time), spent) in times.iter_mut().zip(spent) {
                *calls += 1;
                *time += spent;
            }
        }
        self.graph
            .outputs
            .iter()
            .map(|id| match values[*id].as_mut() {
                Some(value) => Ok(value.datum(&self.machine)),
                None => {
                    let name = &self.graph.values[*id].name;
                    Diagnostic::error("evaluation", format!("output `{name}` was not made")).err()
                }
            })
            .collect()
    }
    fn run_step(&self, step: &Step, values: &mut Values, seed: u64) -> Result<()> {
        if let Some(kernel) = &step.kernel {
            let mut call = Call { step, values, machine: &self.machine, graph: &self.graph, seed };
            match kernel.run(&mut call) {
                Ok(Outcome::Made) => return Ok(()),
                Ok(Outcome::Declined) => {}
                Err(cause) => return Err(Box::new(at_node(&self.graph, step.nodes[0], "evaluation", cause))),
            }
        }
        for id in &step.nodes {
            let node = &self.graph.nodes[*id];
            let most = node.op.def().input_range().1.unwrap_or(usize::MAX);
            let arguments: Vec<Option<Datum>> = node
                .inputs
                .iter()
                .take(most)
                .map(|v| v.and_then(|v| values[v].as_mut()).map(|v| v.datum(&self.machine)))
                .collect();
            let outputs = eval_node(node, &arguments, hash64(seed, u64::from(id.0)))
                .map_err(|cause| Box::new(at_node(&self.graph, *id, "evaluation", cause)))?;
            for (value, datum) in node.outputs.iter().zip(outputs) {
                if let Some(value) = *value {
                    values[value] = Some(datum.into());
                }
            }
        }
        Ok(())
    }
}
