//! Writes `src/onnx/proto.rs` from the schema in the `onnx` Python package. See `../README.md`.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let package = std::env::args().nth(1).map(PathBuf::from).ok_or("give the folder that holds onnx/onnx-ml.proto")?;
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = std::env::temp_dir().join("generate-onnx-proto");
    std::fs::create_dir_all(&out)?;
    let schema = protox::compile(["onnx/onnx-data.proto"], [package])?;
    prost_build::Config::new().bytes(["."]).out_dir(&out).compile_fds(schema)?;
    let code = std::fs::read_to_string(out.join("onnx.rs"))?;
    std::fs::write(crate_root.join("src/onnx/proto.rs"), code)?;
    Ok(())
}
