//! The interpreter over the ONNX operator cases. One family: `cargo test -p orrery-conformance -- test_conv`.

use orrery_conformance::{main_with, workspace};
use orrery_ir::interpret;

fn main() -> std::process::ExitCode {
    let lists = workspace().join("tests/conformance");
    main_with(
        |graph, inputs| interpret::run(graph, inputs, 0),
        &lists.join("exceptions.txt"),
        &lists.join("onnxruntime-1.31.1-pass.txt"),
        1_565,
    )
}
