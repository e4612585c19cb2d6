//! What commands take as whole processes: least and median time, and the most memory at once.
//!
//! `cargo bench -p orrery-cli`. Each run is started by a process of its own, whose only child it is, so that the system's
//! account of the largest child is the command's. `benches/compare_vs_onnx_tool.py` sets one of them beside another tool.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and fails by panicking")]

use nix::sys::resource::{UsageWho, getrusage};
use orrery::{Model, ModelOptions, Progress, Setup, Work, compare, systems, zoo};
use orrery_import::onnx::proto::tensor_proto::DataLocation;
use orrery_import::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use prost::Message;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The argument by which this program starts a command, and prints the memory that it took.
const ONCE: &str = "--once";
const RUNS: usize = 11;
/// Width of the square weights of the large models; sixteen of them are 8 GiB in f32.
const WIDTH: i64 = 11_585;
const WEIGHTS: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|a| a == ONCE) {
        return once(&arguments[at + 1..]);
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("commands");
    std::fs::create_dir_all(&folder).unwrap();
    let resnet = folder.join("resnet50.onnx");
    run(&["export", "resnet50", text(&resnet)]);
    let (absent, external) = (folder.join("absent.onnx"), folder.join("external.onnx"));
    chain(&absent, None);
    // A file with a hole in it: 8 GiB that take no room on the disk.
    File::create(folder.join("weights.bin")).unwrap().set_len(WEIGHTS as u64 * weight_bytes()).unwrap();
    chain(&external, Some("weights.bin"));
    println!("command                                                   least   median   memory");
    for arguments in [
        vec!["--version"],
        vec!["compare", "braggnn"],
        vec!["compare", text(&resnet), "--batch", "1,32"],
        vec!["inspect", text(&absent)],
        vec!["inspect", text(&external)],
        vec!["compare", text(&external), "--on", "a100"],
        vec!["compare", "llama3_405b"],
    ] {
        let mut times: Vec<Duration> = Vec::new();
        let mut memory = 0;
        for _ in 0..RUNS {
            let (time, most) = run(&arguments);
            times.push(time);
            memory = memory.max(most);
        }
        times.sort();
        let shown = arguments.join(" ").replace(text(&folder), "").replace(" /", " ");
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{shown:<54} {:>5.1} ms {:>5.1} ms {:>4} MiB",
            ms(times[0]),
            ms(times[RUNS / 2]),
            memory / 1024
        );
    }
    in_process(&resnet);
    whole_zoo();
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A comparison once the file is read: three machines, two batches.
fn in_process(file: &Path) {
    let model = Model::open(text(file), &ModelOptions::default()).unwrap();
    let setups = ["a100", "gc200", "bow"].map(|name| Setup::find(name).unwrap());
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let records =
                compare(&model, &Work::Inference, &setups, &[1, 32], 2, &Progress::default()).unwrap();
            assert_eq!(records.len(), 6);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{:<54} {:>5.1} ms {:>5.1} ms",
        "compare resnet50.onnx --batch 1,32, in process",
        times[0].as_secs_f64() * 1e3,
        times[RUNS / 2].as_secs_f64() * 1e3
    );
}

/// Every model of the zoo on every machine at the model's own batch, on two threads: compiled and timed, or refused.
fn whole_zoo() {
    let setups: Vec<Setup> = systems().iter().cloned().map(Setup::of).collect();
    let (start, before) = (Instant::now(), cpu_seconds());
    let mut slowest = (Duration::ZERO, "");
    let mut cells = 0;
    for known in zoo() {
        let begun = Instant::now();
        let model = Model::open(known.name, &ModelOptions::default()).unwrap();
        cells += compare(&model, &Work::Inference, &setups, &[], 2, &Progress::default()).unwrap().len();
        slowest = slowest.max((begun.elapsed(), known.name));
    }
    println!(
        "{cells} cells, every model of the zoo on every machine: {:.1} s, {:.1} s of CPU; the longest {} with {:.1} s",
        start.elapsed().as_secs_f64(),
        cpu_seconds() - before,
        slowest.1,
        slowest.0.as_secs_f64()
    );
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Starts a command and prints its time in microseconds and the most KiB it had.
fn once(arguments: &[String]) {
    let start = Instant::now();
    let ended = Command::new(env!("CARGO_BIN_EXE_orrery"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let time = start.elapsed();
    assert!(ended.success(), "{arguments:?}");
    println!("{} {}", time.as_micros(), getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss());
}

fn run(arguments: &[&str]) -> (Duration, i64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg(ONCE)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let (time, memory) = said.trim().split_once(' ').unwrap();
    (Duration::from_micros(time.parse().unwrap()), memory.parse().unwrap())
}

fn weight_bytes() -> u64 {
    (WIDTH * WIDTH * 4).unsigned_abs()
}

/// A model of large products one after the other; its weights lie in a file beside it, or nowhere.
fn chain(path: &Path, data: Option<&str>) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    let mut graph = GraphProto { name: Some("chain".into()), ..GraphProto::default() };
    for i in 0..WEIGHTS {
        graph.node.push(NodeProto {
            op_type: Some("MatMul".into()),
            name: Some(format!("product{i}")),
            input: vec![format!("x{i}"), format!("w{i}")],
            output: vec![format!("x{}", i + 1)],
            ..NodeProto::default()
        });
        let offset = i as u64 * weight_bytes();
        graph.initializer.push(TensorProto {
            name: Some(format!("w{i}")),
            dims: vec![WIDTH, WIDTH],
            data_type: Some(1),
            data_location: data.map(|_| DataLocation::External as i32),
            external_data: data.map_or_else(Vec::new, |file| {
                vec![
                    entry("location", file.to_owned()),
                    entry("offset", offset.to_string()),
                    entry("length", weight_bytes().to_string()),
                ]
            }),
            ..TensorProto::default()
        });
    }
    graph.input.push(row("x0"));
    graph.output.push(row(&format!("x{WEIGHTS}")));
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

fn row(name: &str) -> ValueInfoProto {
    let dim = |n: i64| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(n)),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: vec![dim(1), dim(WIDTH)] };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..ValueInfoProto::default()
    }
}
