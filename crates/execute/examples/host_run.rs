//! Runs a model on the host for a script that measures: commands on standard input, answers on standard output.
//!
//! `host_run MODEL.onnx THREADS` reads a model, cleans, folds and fuses it, and prepares it. Then lines of:
//! `input TYPE EXTENT,EXTENT,... FILE` (raw little-endian elements, for each input in order), `run COUNT` (answers the
//! seconds of each run), `output NUMBER FILE` (writes the raw elements of the last run's output and answers its shape),
//! `profile` (answers a line for each step and an empty one).
#![allow(clippy::print_stdout, reason = "a program for scripts")]

use bytes::Bytes;
use orrery_base::Diagnostic;
use orrery_execute::host::Session;
use orrery_import::onnx;
use orrery_ir::op::Datum;
use orrery_numerics::{DType, Tensor};
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: host_run MODEL.onnx THREADS";
    let (model, threads) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let graph = onnx::load_path(Path::new(&model), &onnx::Options::default())
        .and_then(onnx::Imported::into_graph)
        .map_err(|d: Box<Diagnostic>| d.to_string())?;
    let prepared = orrery_transform::prepare(&graph, &orrery_transform::Options::default());
    let graph = prepared.map_err(|d| d.to_string())?.graph;
    let started = Instant::now();
    let session = Session::new(&graph, threads.parse()?).map_err(|d| d.to_string())?;
    println!("ready {} {:.3}", session.instructions(), started.elapsed().as_secs_f64());
    let mut inputs: Vec<Datum> = Vec::new();
    let mut outputs: Vec<Datum> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["input", dtype, shape, file] => {
                let dtype = DType::ALL.iter().find(|d| d.name() == *dtype).ok_or("unknown element type")?;
                let shape =
                    shape.split(',').filter(|s| !s.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
                inputs.push(Tensor::from_bytes(*dtype, shape, Bytes::from(std::fs::read(file)?))?.into());
            }
            ["run", count] => {
                let mut times = Vec::new();
                for _ in 0..count.parse::<usize>()? {
                    let start = Instant::now();
                    outputs = session.run(inputs.clone()).map_err(|d| d.to_string())?;
                    times.push(start.elapsed().as_secs_f64().to_string());
                }
                println!("{}", times.join(" "));
            }
            ["output", number, file] => {
                let output = outputs.get(number.parse::<usize>()?).and_then(Datum::as_tensor);
                let tensor = output.ok_or("no such tensor")?;
                std::fs::write(file, tensor.bytes())?;
                println!("{} {:?}", tensor.dtype(), tensor.shape());
            }
            ["profile"] => {
                for step in session.profile() {
                    let each = step.time.as_secs_f64() / step.calls.max(1) as f64;
                    let ops: Vec<&str> = step.ops.iter().map(|op| op.name()).collect();
                    println!(
                        "{:.6} {} {} {}",
                        each,
                        step.kernel.replace(' ', "-"),
                        ops.join("+"),
                        step.nodes[0]
                    );
                }
                println!();
            }
            [] => {}
            other => return Err(format!("unknown command {other:?}; {usage}").into()),
        }
    }
    Ok(())
}
