//! What can be typed after `orrery train`, and typed again by a checkpoint.

use super::{MachineArgs, ModelArgs, batch, pair, part, positive};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of `orrery train`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Data to train on: a path, or a set by name
    #[arg(long, value_name = "DATA", required_unless_present = "resume")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Columns to bring to mean 0 and deviation 1, by the part that is trained on
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub(crate) normalise: Vec<String>,
    /// Move images a little, another way in each epoch
    #[arg(long, value_name = "COLUMN:shift=PIXELS,rotate=DEGREES,scale=SHARE", value_parser = augmentation)]
    pub(crate) augment: Option<Augmentation>,
    /// Part that is held out and judged after each epoch: a share below 1, or a number of samples; 0 for none
    #[arg(long, value_name = "PART", default_value_t = 0.1, value_parser = part)]
    pub(crate) held_out: f64,
    /// Data that the trained model is judged on at the end, read as --data is
    #[arg(long, value_name = "DATA")]
    pub(crate) test: Option<String>,
    /// Where: `host` (fp32, fast), or a machine, whose arithmetic is then used on the host
    #[arg(long, value_name = "NAME", default_value = "host")]
    pub(crate) on: String,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Samples in a step; where not given 64, or all where there are fewer. Those that do not fill the last batch of an epoch are left out of it
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = batch)]
    pub(crate) batch: Vec<u64>,
    /// Learning rate
    #[arg(long, value_name = "X,…", value_delimiter = ',', default_value = "0.001", value_parser = positive)]
    pub(crate) lr: Vec<f64>,
    /// Passes over the data; those before a resumed checkpoint count, as with --steps and --samples
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = batch)]
    pub(crate) epochs: Vec<u64>,
    /// Steps, instead of epochs
    #[arg(long, value_name = "N", conflicts_with_all = ["samples", "epochs"], value_parser = batch)]
    pub(crate) steps: Option<u64>,
    /// Samples to learn from, instead of epochs: held fixed over batches
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = batch)]
    pub(crate) samples: Option<u64>,
    /// Seed of split, order, dropout and rounding
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) seed: Vec<u64>,
    /// cross-entropy, mse, mae, bce, dice or output; by the type of the labels where not given
    #[arg(long, value_name = "NAME")]
    pub(crate) loss: Option<String>,
    /// The model's output that the loss is taken of; the first where not given
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) loss_of: Option<String>,
    /// sgd, adam, adamw, adamax, rmsprop or lamb, with the defaults of torch.optim
    #[arg(long, value_name = "NAME", default_value = "adam")]
    pub(crate) optimizer: String,
    /// Momentum of sgd and rmsprop
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) momentum: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) weight_decay: Option<f64>,
    /// Parameters that are not decayed: parts of names; `bias` stands for all of one dimension
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    pub(crate) no_decay: Vec<String>,
    /// Parameters that stay as they are: how their names begin
    #[arg(long, value_name = "PREFIX,…", value_delimiter = ',')]
    pub(crate) freeze: Vec<String>,
    /// Factor of the learning rate: constant, linear, cosine, or pieces as in linear:0:1:500,cosine:1:0.1
    #[arg(long, value_name = "PIECE,…", default_value = "constant")]
    pub(crate) schedule: String,
    /// Steps in which the learning rate rises from zero
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warmup: u64,
    /// Cut each batch in so many micro-batches, whose gradients are added before the update
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = batch)]
    pub(crate) accumulate: u64,
    /// Largest norm of all gradients together
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) clip_norm: Option<f64>,
    /// none, dynamic or a factor; by the machine's habit where not given
    #[arg(long, value_name = "HOW")]
    pub(crate) loss_scale: Option<String>,
    /// Round results at random in proportion; by the machine's habit where not given
    #[arg(long, value_name = "BOOL")]
    pub(crate) stochastic_rounding: Option<bool>,
    /// Keep parameters in the machine's storage type instead of fp32
    #[arg(long)]
    pub(crate) narrow_weights: bool,
    /// Write checkpoints to this file, at the end and as --checkpoint-every says
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Steps from checkpoint to checkpoint
    #[arg(long, value_name = "N", requires = "checkpoint", value_parser = batch)]
    pub(crate) checkpoint_every: Option<u64>,
    /// Go on from a checkpoint, to the same bits as if there had been no break; options that are not given are its run's
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) resume: Option<PathBuf>,
    /// Write the trained model
    #[arg(long, value_name = "FILE.onnx")]
    pub(crate) save: Option<PathBuf>,
    /// What was typed of all this and makes the run what it is, by long names.
    #[arg(skip)]
    pub(crate) options: Options,
}

/// How data are read, and what goes where.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReadArgs {
    /// How files are read: features, target, labels, shape, text, tokenizer, sequence, image-size, grey
    #[arg(long = "data-option", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) data_options: Vec<(String, String)>,
    /// Which column goes into an input, where the names differ
    #[arg(long = "column", value_name = "INPUT=COLUMN", value_parser = pair)]
    pub(crate) columns: Vec<(String, String)>,
    /// The column of labels, as the file names it: of a table the last one where not given. The same as --data-option target
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,
}

/// Options of `orrery evaluate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Data to judge the model on: a path, or a set by name
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Where: `host` (fp32, fast), or a machine, whose arithmetic is then used on the host
    #[arg(long, value_name = "NAME", default_value = "host")]
    pub(crate) on: String,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Samples at a time; where not given 64, or all where there are fewer
    #[arg(long, value_name = "N", value_parser = batch)]
    pub(crate) batch: Option<u64>,
    /// cross-entropy, mse, mae, bce, dice or output; by the type of the labels where not given
    #[arg(long, value_name = "NAME")]
    pub(crate) loss: Option<String>,
    /// The model's output that the loss is taken of; the first where not given
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) loss_of: Option<String>,
}

/// Options by their long names, with the values in the user's own words.
pub(crate) type Options = BTreeMap<String, Vec<String>>;

/// Options that say where files go, and not what is trained.
const OF_ONE_CALL: [&str; 4] = ["checkpoint", "checkpoint-every", "resume", "save"];
/// One of these replaces the others.
const LENGTHS: [&str; 3] = ["epochs", "steps", "samples"];
/// Where the first is another than it was, the others are not kept: they were said of what is no more.
const OF_ANOTHER: [(&str, &[&str]); 2] = [
    ("on", &["precision", "stack", "tiles", "system", "loss-scale", "stochastic-rounding", "narrow-weights"]),
    ("optimizer", &["momentum", "weight-decay", "no-decay"]),
];

/// The options of a run that were typed.
pub(super) fn options(matches: &ArgMatches) -> Options {
    let typed = |arg: &Arg| {
        let name = arg.get_long().filter(|name| !OF_ONE_CALL.contains(name))?;
        let id = arg.get_id().as_str();
        (matches.value_source(id) == Some(ValueSource::CommandLine)).then(|| {
            let values = matches.get_raw(id).into_iter().flatten();
            (name.to_owned(), values.map(|value| value.to_string_lossy().into_owned()).collect())
        })
    };
    command().get_arguments().filter_map(typed).collect()
}

fn command() -> clap::Command {
    Train::augment_args(clap::Command::new("train"))
}

/// What goes on, and what of it is another than before.
pub(crate) struct Resumed {
    pub(crate) args: Train,
    /// Options that come from the checkpoint, as they are typed.
    pub(crate) kept: Vec<String>,
    /// Options that differ: the name, what it was, what it is.
    pub(crate) changed: Vec<(String, String, String)>,
}

/// The options of a run that goes on from one with the options `before`: what is not typed again stays.
///
/// # Errors
/// What cannot be parsed, which only another version can have written.
pub(crate) fn resumed(args: &Train, before: &Options) -> Result<Resumed, clap::Error> {
    let command = command();
    let argument = |name: &str| command.get_arguments().find(|arg| arg.get_long() == Some(name));
    let default = |name: &str| -> Vec<String> {
        let values = argument(name).into_iter().flat_map(Arg::get_default_values);
        values.map(|value| value.to_string_lossy().into_owned()).collect()
    };
    let mut changed = Vec::new();
    for (name, now) in &args.options {
        let was = before.get(name).cloned().unwrap_or_else(|| default(name));
        if was != *now {
            changed.push((name.clone(), was.join(","), now.join(",")));
        }
    }
    let is_changed = |name: &str| changed.iter().any(|(other, ..)| other == name);
    let typed = |name: &str| args.options.contains_key(name);
    let gone: Vec<&str> = OF_ANOTHER
        .iter()
        .filter(|(of, _)| is_changed(of))
        .flat_map(|(_, names)| *names)
        .copied()
        .chain(LENGTHS.into_iter().filter(|_| LENGTHS.into_iter().any(typed)))
        .collect();
    let kept = before.iter().filter(|(name, _)| !typed(name) && !gone.contains(&name.as_str()));
    let kept: Options = kept.map(|(name, values)| (name.clone(), values.clone())).collect();
    let words = |(name, values): (&String, &Vec<String>)| -> Vec<String> {
        match argument(name).is_none_or(|arg| arg.get_action().takes_values()) {
            true => values.iter().map(|value| format!("--{name}={value}")).collect(),
            false => vec![format!("--{name}")],
        }
    };
    let kept_words: Vec<String> = kept.iter().flat_map(words).collect();
    let mut line = vec!["train".to_owned()];
    line.extend(args.options.iter().flat_map(words));
    line.extend(kept_words.iter().cloned());
    line.extend(["--".to_owned(), args.model.model.clone()]);
    let mut parsed = Train::from_arg_matches(&command.clone().try_get_matches_from(line)?)?;
    parsed.checkpoint.clone_from(&args.checkpoint);
    parsed.checkpoint_every = args.checkpoint_every;
    parsed.resume.clone_from(&args.resume);
    parsed.save.clone_from(&args.save);
    parsed.options = args.options.clone().into_iter().chain(kept).collect();
    Ok(Resumed { args: parsed, kept: kept_words, changed })
}

/// How the images of a column are moved.
#[derive(Clone, Debug)]
pub(crate) struct Augmentation {
    pub(crate) column: String,
    pub(crate) how: orrery::data::Augment,
}

fn augmentation(text: &str) -> Result<Augmentation, String> {
    let (column, list) = text.split_once(':').ok_or("write it as column:shift=2,rotate=10,scale=0.1")?;
    let mut how = orrery::data::Augment::default();
    for item in list.split(',') {
        let (key, value) = pair(item)?;
        let number = positive(&value)?;
        match key.as_str() {
            "shift" if number.fract() == 0.0 => how.shift = number as usize,
            "rotate" => how.rotate = number,
            "scale" => how.scale = number,
            _ => return Err(format!("`{item}` is none of shift=PIXELS, rotate=DEGREES, scale=SHARE")),
        }
    }
    Ok(Augmentation { column: column.to_owned(), how })
}
