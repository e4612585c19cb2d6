//! What can be typed. Nothing is done here.

mod train;

pub(crate) use train::{Evaluate, ReadArgs, Train, resumed};

use crate::output;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What was typed; ends the process where that is no command.
pub(crate) fn parse() -> Cli {
    let parsed = Cli::command().try_get_matches();
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (mut cli, matches) = parsed.unwrap_or_else(|error| {
        if error.use_stderr() && std::env::args_os().any(|word| word == "--json") {
            output::print_usage_error(&error);
        }
        error.exit()
    });
    if let (Command::Train(args), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
        args.options = train::options(matches);
    }
    cli
}

/// See how a model runs on machines you do not have.
#[derive(Debug, Parser)]
#[command(
    name = "orrery",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  orrery models                                    what is built in
  orrery compare braggnn                           time it on an A100, a GC200 and a Bow IPU
  orrery compare ./model.onnx --batch 1,32         your own model at two batches
  orrery explain resnet50 --on gc200 --batch 8     where time and memory go, and what would help
  orrery run minilm --on bow --check               compute it in the machine's arithmetic

MODEL is a name from `orrery models` or the path of an ONNX file. Figures of machines are predictions and marked so.
Exit status: 0 done, 1 the input cannot be used or cannot run, 2 wrong usage, 3 a fault of orrery."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress and no notes
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Threads to use; all cores where not given
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the machines, or show every number of one with its source
    #[command(
        after_help = "Examples:\n  orrery systems\n  orrery systems show gc200\n  orrery systems show my-chip --system my-chip.toml"
    )]
    Systems(Systems),
    /// List the built-in models and their options
    #[command(after_help = "Examples:\n  orrery models\n  orrery models gemm")]
    Models(Models),
    /// Show what is in a model: inputs, outputs, ops, parameters, work
    #[command(
        after_help = "Examples:\n  orrery inspect resnet50\n  orrery inspect ./model.onnx --text > model.graph"
    )]
    Inspect(Inspect),
    /// Say for each node whether a machine runs it exactly, approximately or not at all
    #[command(after_help = "Example:\n  orrery check ./model.onnx --on a100,gc200")]
    Check(Check),
    /// Compile a model for a machine
    #[command(
        after_help = "Examples:\n  orrery compile braggnn --on gc200\n  orrery compile braggnn --on gc200 --emit program > braggnn.program"
    )]
    Compile(Compile),
    /// Compute a model's outputs, on this host or in a machine's arithmetic
    #[command(after_help = "\
Examples:
  orrery run minilm --on host --input tokens.npz --output vectors.npz
  orrery run braggnn --on gc200 --check            with random inputs, held against the interpreter

Inputs and outputs are .npz files, one array for each name. Types that .npz does not have travel as raw bits under a
name that ends in the type, as in `x:bf16` (u16) or `x:f8e4m3fn`, `x:i4` (u8); docs/guide.md lists them. Inputs that are
not given are random, from --seed, and said to be so.")]
    Run(Run),
    /// Train a model, on this host or in a machine's arithmetic
    #[command(after_help = "\
Examples:
  orrery train mnist_cnn --data mnist-10k --batch 64 --lr 0.001 --epochs 5
  orrery train mnist_cnn --data mnist-10k --on bow --batch 64,128 --lr 0.001,0.003 --epochs 2
  orrery train braggnn --data bragg-peaks:n=20000 --batch 512 --lr 0.001 --epochs 20 --save braggnn.onnx
  orrery train ./net.onnx --data table.csv --loss mse --checkpoint run.safetensors --checkpoint-every 100

Several values of --batch, --lr, --epochs and --seed make a grid: every combination is trained. --data is a path (npy, npz,
csv, json, jsonl, parquet, idx, text, a folder of images) or a set by name: mnist-10k, digits, bragg-peaks, codons.
docs/guide.md tells more.")]
    Train(Box<Train>),
    /// Compute the loss and the metrics of a model over data, without training it
    #[command(after_help = "\
Examples:
  orrery evaluate braggnn.onnx --data peaks.npz
  orrery evaluate net.onnx --data test.csv --label kind --on bow

With --test FILE, `orrery train` does the same at the end of a run, with the classes and the --normalise of the data that
it trained on.")]
    Evaluate(Evaluate),
    /// Show what is in data that models are trained on, and write it as arrays
    #[command(
        after_help = "Examples:\n  orrery data mnist-10k\n  orrery data bragg-peaks:n=2000,overlap=0.5 --output peaks.npz"
    )]
    Data(Data),
    /// Time a model on several machines, side by side
    #[command(
        after_help = "Examples:\n  orrery compare braggnn\n  orrery compare resnet50 --batch 1,32 --on a100,h100,bow\n  orrery compare braggnn --train --batch 512,1024,2048\n  orrery compare bert_large --dim seq=384 --precision fp16 --json"
    )]
    Compare(Compare),
    /// Show where time and memory go, op by op, and what would help
    #[command(
        after_help = "Examples:\n  orrery explain resnet50 --on a100 --batch 32\n  orrery explain bert_base --on gc200 --all\n  orrery explain resnet50 --on a100 --train --batch 256"
    )]
    Explain(Explain),
    /// Time a model at many values of one dimension, compiled once
    #[command(
        after_help = "Example:\n  orrery sweep gpt2 --param form=decode --param logits=last --dim seq=1 --on a100 --over past=1..1000"
    )]
    Sweep(Sweep),
    /// Write a model as an ONNX file
    #[command(after_help = "Example:\n  orrery export gpt2_small gpt2.onnx --param form=decode")]
    Export(Export),
    /// Hold predictions against measured figures, row by row
    #[command(after_help = validate_help())]
    Validate(Validate),
    /// Fit the losses of machines to measured figures, and say how far that carries
    #[command(
        after_help = "Examples:\n  orrery calibrate measurements/calibration.csv --on gc200\n  orrery calibrate measurements/calibration.csv --write systems    what the project's own files come from"
    )]
    Calibrate(Calibrate),
}

fn validate_help() -> String {
    let metrics: String =
        orrery::METRICS.iter().map(|(name, what)| format!("\n  {name:<24} {what}")).collect();
    format!(
        "Example:\n  orrery validate measurements/calibration.csv\n\n\
         Metrics that are predicted:{metrics}\n\nmeasurements/README.md describes the file."
    )
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Systems {
    #[command(subcommand)]
    pub(crate) show: Option<SystemsShow>,
    #[command(flatten)]
    pub(crate) files: SystemFiles,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemsShow {
    /// Show one machine
    Show {
        /// Name, alias or path of a system file
        name: String,
        #[command(flatten)]
        files: SystemFiles,
    },
}

/// System files of the user's own.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SystemFiles {
    /// Add a machine from a system file; --on can then name it
    #[arg(long = "system", value_name = "FILE.toml")]
    pub(crate) systems: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Models {
    /// Show one model with its options
    pub(crate) name: Option<String>,
}

/// The model and its dimensions, batch apart.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// A built-in model's name or the path of an ONNX file
    pub(crate) model: String,
    /// Bind a symbolic dimension
    #[arg(long = "dim", value_name = "NAME=VALUE", value_parser = dimension)]
    pub(crate) dims: Vec<(String, i64)>,
    /// Choose an option of a built-in model, as `orrery models NAME` lists them
    #[arg(long = "param", value_name = "KEY=VALUE")]
    pub(crate) params: Vec<String>,
}

/// How a machine is used.
#[derive(Args, Clone, Debug)]
pub(crate) struct MachineArgs {
    /// Precision, by the machine's name for it; its default where not given
    #[arg(long, value_name = "NAME")]
    pub(crate) precision: Option<String>,
    /// Software stack of the machine's file; its default losses where not given
    #[arg(long, value_name = "NAME")]
    pub(crate) stack: Option<String>,
    /// Tiles of a chip for one copy of the model, on machines used in tiles; all where not given
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) tiles: Option<u64>,
    /// Devices that share every block of a built-in decoder; as many as are fastest where not given
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) shards: Option<u64>,
    #[command(flatten)]
    pub(crate) files: SystemFiles,
}

impl MachineArgs {
    /// The options that are given and say how a machine is used.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let options = [
            ("--precision", self.precision.is_some()),
            ("--stack", self.stack.is_some()),
            ("--tiles", self.tiles.is_some()),
            ("--shards", self.shards.is_some()),
            ("--system", !self.files.systems.is_empty()),
        ];
        options.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

fn batch(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(n) if (1..=1 << 40).contains(&n) => Ok(n),
        _ => Err("a whole number from 1 is wanted".to_owned()),
    }
}

fn dimension(text: &str) -> Result<(String, i64), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value, such as seq=128")?;
    let value = value.trim().parse::<i64>().map_err(|_| format!("`{value}` is not a whole number"))?;
    Ok((name.trim().to_owned(), value))
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Samples at a time; left open where not given
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    /// Print the graph in its text form
    #[arg(long)]
    pub(crate) text: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Machines, or `all`
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = ALL_MACHINES)]
    pub(crate) on: Vec<String>,
    /// Samples at a time
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// List every node, exact ones too
    #[arg(long)]
    pub(crate) all: bool,
    /// Refused with where to look instead
    #[arg(long, hide = true)]
    pub(crate) train: bool,
}

/// The word for every built-in machine, and every machine of the user's files.
pub(crate) const ALL_MACHINES: &str = "all";

#[derive(Args, Debug)]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Machine
    #[arg(long, value_name = "NAME")]
    pub(crate) on: String,
    /// Samples at a time
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Print what was made instead of a summary
    #[arg(long, value_name = "WHAT")]
    pub(crate) emit: Option<Emit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Emit {
    /// The program in its text form
    Program,
    /// The graph as it was compiled: folded, fused, in the machine's precision
    Graph,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Where: `host` (fp32, fast), or a machine, whose arithmetic is then used on the host
    #[arg(long, value_name = "NAME", default_value = "host")]
    pub(crate) on: String,
    /// Samples at a time; the input's own where a file is given
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Inputs; random where not given
    #[arg(long, value_name = "FILE.npz")]
    pub(crate) input: Option<PathBuf>,
    /// Where to write the outputs
    #[arg(long, value_name = "FILE.npz")]
    pub(crate) output: Option<PathBuf>,
    /// Compare with the interpreter in fp32, and hold every step of a program against it
    #[arg(long)]
    pub(crate) check: bool,
    /// Seed of random inputs and of random ops
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Data {
    /// A path, or a set by name with its options
    pub(crate) data: String,
    /// How files are read: features, target, labels, shape, text, tokenizer, sequence, image-size, grey
    #[arg(long = "data-option", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) data_options: Vec<(String, String)>,
    /// Only the part that `orrery train` with this --held-out and --seed holds out
    #[arg(long, value_name = "PART", value_parser = part)]
    pub(crate) held_out: Option<f64>,
    /// Seed of the split
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where to write the columns, one array each
    #[arg(long, value_name = "FILE.npz")]
    pub(crate) output: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("a number from zero is wanted".to_owned()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..1.0).contains(&x) || (x.fract() == 0.0 && (1.0..1e15).contains(&x)) => Ok(x),
        _ => Err("a share from 0 to below 1, or a whole number of samples is wanted".to_owned()),
    }
}

fn loss(text: &str) -> Result<orrery::training::Loss, String> {
    use orrery::training::Loss;
    Loss::parse(text).ok_or_else(|| format!("known losses: {}", Loss::NAMES.join(", ")))
}

fn optimizer(text: &str) -> Result<orrery::training::Optimizer, String> {
    use orrery::training::Optimizer;
    Optimizer::parse(text).ok_or_else(|| format!("known optimizers: {}", Optimizer::NAMES.join(", ")))
}

/// A training step instead of a run.
#[derive(Args, Debug)]
pub(crate) struct TrainingArgs {
    /// A training step: forward, backward and optimizer
    #[arg(long)]
    pub(crate) train: bool,
    /// Loss: cross-entropy, mse, mae, bce, dice or output; by the model's output where not given
    #[arg(long, value_name = "LOSS", requires = "train", value_parser = loss)]
    pub(crate) loss: Option<orrery::training::Loss>,
    /// sgd, adam, adamw, adamax, rmsprop or lamb; by the model's ops where not given
    #[arg(long, value_name = "NAME", requires = "train", value_parser = optimizer)]
    pub(crate) optimizer: Option<orrery::training::Optimizer>,
    /// Make activations again in the backward pass instead of keeping all
    #[arg(long, requires = "train")]
    pub(crate) recompute: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    /// Machines, or `all`
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = ALL_MACHINES)]
    pub(crate) on: Vec<String>,
    /// Batches; the model's own where not given
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = batch)]
    pub(crate) batch: Vec<u64>,
    /// Lengths of the sequence, each as `--dim seq=N`; the model's own where not given
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = batch)]
    pub(crate) seq: Vec<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    /// Machine
    #[arg(long, value_name = "NAME")]
    pub(crate) on: String,
    /// Samples at a time
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// List every step, not only the longest
    #[arg(long)]
    pub(crate) all: bool,
}

fn range(text: &str) -> Result<(String, i64, i64), String> {
    let wanted = "write it as name=first..last, such as past=1..1000";
    let (name, values) = text.split_once('=').ok_or(wanted)?;
    let (first, last) = values.split_once("..").ok_or(wanted)?;
    let number = |text: &str| {
        text.trim().parse::<i64>().map_err(|_| format!("`{}` is not a whole number", text.trim()))
    };
    Ok((name.trim().to_owned(), number(first)?, number(last)?))
}

#[derive(Args, Debug)]
pub(crate) struct Sweep {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Machine
    #[arg(long, value_name = "NAME")]
    pub(crate) on: String,
    /// The dimension that stays open, with its first and last value
    #[arg(long, value_name = "NAME=FIRST..LAST", value_parser = range)]
    pub(crate) over: (String, i64, i64),
    /// From value to value
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) step: u64,
    /// Samples at a time
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Where to write it
    #[arg(value_name = "FILE.onnx")]
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Calibrate {
    /// Measured figures, in the form that measurements/README.md describes
    #[arg(value_name = "FILE.csv")]
    pub(crate) file: PathBuf,
    /// Machines; all where not given
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) on: Vec<String>,
    /// Write each machine's file with what was found into this folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) write: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) files: SystemFiles,
}

#[derive(Args, Debug)]
pub(crate) struct Validate {
    /// Measured figures, in the form that measurements/README.md describes
    #[arg(value_name = "FILE.csv")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) files: SystemFiles,
}
