//! The operator cases through sessions of the host.

use orrery_base::Result;
use orrery_execute::host::Session;
use orrery_ir::Graph;
use orrery_ir::op::Datum;
use std::process::ExitCode;

fn run(graph: &Graph, inputs: Vec<Datum>) -> Result<Vec<Datum>> {
    Session::new(graph, 2)?.run(inputs)
}

fn main() -> ExitCode {
    let folder = orrery_conformance::workspace().join("tests/conformance");
    orrery_conformance::main_with(
        run,
        &folder.join("exceptions.txt"),
        &folder.join("onnxruntime-1.31.1-pass.txt"),
        0,
    )
}
