//! The ONNX operator cases, prepared and then interpreted: no pass may change what an op means.

use orrery_conformance::{main_with, workspace};
use orrery_ir::interpret;
use orrery_transform::{Options, prepare};

fn main() -> std::process::ExitCode {
    let lists = workspace().join("tests/conformance");
    main_with(
        |graph, inputs| {
            let prepared = prepare(graph, &Options::default())?;
            interpret::run(&prepared.graph, inputs, 0)
        },
        &lists.join("exceptions.txt"),
        &lists.join("onnxruntime-1.31.1-pass.txt"),
        0,
    )
}
