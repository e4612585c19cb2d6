//! Running a graph on this host, or as a machine's Program.

use crate::run::{Place, in_type};
use crate::setup::Setup;
use crate::way::formats;
use orrery_base::{Diagnostic, Progress, Result};
use orrery_compile::Options as Compile;
use orrery_execute::host::{RunOptions, Session};
use orrery_execute::program;
use orrery_ir::Graph;
use orrery_ir::op::Datum;
use orrery_numerics::{DType, Tensor};
use orrery_program::Program;
use orrery_transform::{PrecisionSpec, store_border};

/// A graph ready to run many times.
pub(super) enum Engine {
    /// In the graph's own types.
    Host(Box<Session>),
    /// In a machine's arithmetic.
    Machine {
        /// What is run.
        program: Box<Program>,
        /// Types of the graph's outputs: what the program gives is cast back.
        outputs: Vec<Option<DType>>,
    },
}

/// The number formats that a graph has to be brought to; none for the host.
///
/// # Errors
/// Those of the setup.
pub(super) fn precision(place: &Place) -> Result<Option<PrecisionSpec>> {
    let Place::Machine(setup) = place else { return Ok(None) };
    Ok(Some(formats(&setup.target()?)))
}

impl Engine {
    pub(super) fn new(graph: &Graph, place: &Place, threads: usize, stochastic: bool) -> Result<Self> {
        match place {
            Place::Host => Ok(Self::Host(Box::new(Session::new(graph, threads)?))),
            Place::Machine(setup) => Self::machine(graph, setup, stochastic),
        }
    }
    fn machine(graph: &Graph, setup: &Setup, stochastic: bool) -> Result<Self> {
        let outputs = graph.outputs.iter().map(|id| graph.values[*id].ty.as_tensor().map(|t| t.dtype));
        let outputs = outputs.collect();
        let options = Compile { stochastic_rounding: stochastic, ..Compile::default() };
        let compiled = orrery_compile::compile(&store_border(graph)?, &setup.target()?, &options)?;
        Ok(Self::Machine { program: Box::new(compiled.program), outputs })
    }
    /// Runs once.
    pub(super) fn run(&self, inputs: Vec<Tensor>, seed: u64) -> Result<Vec<Tensor>> {
        match self {
            Self::Host(session) => {
                let inputs = inputs.into_iter().map(Datum::from).collect();
                let made = session.run_with(inputs, &RunOptions { seed, progress: None })?;
                made.into_iter().map(tensor).collect()
            }
            Self::Machine { program, outputs } => {
                let wanted = program.inputs.iter().map(|buffer| program.buffers[*buffer].dtype);
                let inputs =
                    inputs.iter().zip(wanted).map(|(t, d)| in_type(t, d)).collect::<Result<Vec<_>>>()?;
                let options = program::Options { seed, check: false, progress: Progress::default() };
                let made = program::run(program, &inputs, &options)?.outputs;
                made.iter()
                    .zip(outputs)
                    .map(|((_, tensor), dtype)| in_type(tensor, dtype.unwrap_or(tensor.dtype())))
                    .collect()
            }
        }
    }
}

fn tensor(datum: Datum) -> Result<Tensor> {
    match datum {
        Datum::Tensor(tensor) => Ok(tensor),
        _ => Diagnostic::error("evaluation", "an output is no tensor").err(),
    }
}
