//! What several commands do alike.

use crate::args::{ALL_MACHINES, Common, MachineArgs, ModelArgs, SystemFiles, TrainingArgs};
use crate::output;
use orrery::record::Record;
use orrery::training::{LossSpec, Recompute, Wanted};
use orrery::{
    BatchAxis, Diagnostic, Model, ModelOptions, Place, Result, Setup, System, Work, find_system, load_system,
    systems as built_in,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Opens the model, to be used at these batches.
pub(crate) fn open(args: &ModelArgs, batches: &[u64]) -> Result<Model> {
    let mut dims = BTreeMap::new();
    for (name, value) in &args.dims {
        if let Some(before) = dims.insert(name.clone(), *value).filter(|before| before != value) {
            return conflict(&format!("--dim {name}={before}"), &format!("--dim {name}={value}"));
        }
    }
    let model = Model::open(&args.model, &ModelOptions { parameters: args.params.clone(), dims })?;
    if let Some(given) = model.given_batch()
        && let Some(batch) = batches.iter().find(|batch| **batch != given)
        && let BatchAxis::Symbol(symbol) = &model.batch_axis
    {
        return conflict(&format!("--batch {batch}"), &format!("--dim {symbol}={given}"));
    }
    Ok(model)
}

fn conflict<T>(first: &str, second: &str) -> Result<T> {
    let cause = format!("`{first}` and `{second}` are two sizes of one dimension");
    Diagnostic::error("dimension-conflict", cause).help("leave one of them out").err()
}

/// What is simulated: a run, or a training step.
pub(crate) fn work(args: &TrainingArgs) -> Work {
    if !args.train {
        return Work::Inference;
    }
    Work::Training(Wanted {
        loss: args.loss.map(|kind| LossSpec { kind, output: None }),
        optimizer: args.optimizer,
        recompute: if args.recompute { Recompute::Stretches } else { Recompute::Nothing },
        ..Wanted::default()
    })
}

/// The machines of the user's own files.
pub(crate) fn load(files: &SystemFiles) -> Result<Vec<System>> {
    files.systems.iter().map(|path| load_system(path)).collect()
}

/// The machines asked for, as they are to be used.
pub(crate) fn setups(names: &[String], args: &MachineArgs) -> Result<Vec<Setup>> {
    let own = load(&args.files)?;
    let mut systems = Vec::new();
    for name in names {
        if name == ALL_MACHINES {
            systems.extend(built_in().iter().chain(&own).cloned());
        } else {
            systems.push(find_system(name, &own)?);
        }
    }
    systems.into_iter().map(|system| with(system, args)).collect()
}

/// A machine as it is to be used.
fn with(system: System, args: &MachineArgs) -> Result<Setup> {
    let setup = Setup::of(system).precision(args.precision.as_deref()).stack(args.stack.as_deref());
    setup.shards(args.shards).tiles(args.tiles)
}

/// Loss and optimizer of a training step, and which of them are assumed.
pub(crate) fn step_text(record: &Record) -> Option<String> {
    let step = record.extra.get("step")?;
    let word = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default();
    let assumed = step.get("assumed").and_then(Value::as_array);
    let assumed: Vec<&str> = assumed.into_iter().flatten().filter_map(Value::as_str).collect();
    let text = format!("a step: loss {}, optimizer {}", word("loss"), word("optimizer"));
    if assumed.is_empty() {
        return Some(text);
    }
    let options: Vec<String> = assumed.iter().map(|what| format!("--{what}")).collect();
    let options = options.join(" and ");
    Some(format!("{text} (assumed by the kind of model: {}; {options} name others)", assumed.join(" and ")))
}

/// Threads to use.
pub(crate) fn threads(common: &Common) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    common.threads.map_or_else(all, usize::from)
}

/// Says something unless the user wants quiet.
pub(crate) fn note(common: &Common, text: &str) {
    if !common.quiet {
        output::note(text);
    }
}

/// Shows what the user should know, unless the user wants quiet. What is repeated is said once.
pub(crate) fn notes(common: &Common, all: &[Diagnostic]) {
    if common.quiet {
        return;
    }
    for (i, diagnostic) in all.iter().enumerate() {
        if !all[..i].contains(diagnostic) {
            output::report(diagnostic);
        }
    }
}

/// Why options of machines have no effect.
pub(crate) const ON_HOST: &str = "it is for machines, which --on names, and this is computed on the host";

/// Where a command computes: on this host, or in the arithmetic of the machine asked for.
pub(crate) fn place(name: &str, args: &MachineArgs) -> Result<Place> {
    if name != "host" {
        return match args.shards {
            None => setup(name, args).map(Place::Machine),
            Some(_) => no_effect("--shards", "one device is computed, not several that share a model"),
        };
    }
    match args.given().first() {
        None => Ok(Place::Host),
        Some(option) => no_effect(option, ON_HOST),
    }
}

/// Refuses an option that would do nothing.
pub(crate) fn no_effect<T>(option: &str, why: &str) -> Result<T> {
    Diagnostic::error("option-without-effect", format!("{option} has no effect here: {why}"))
        .help(format!("leave {option} out"))
        .err()
}

/// The one machine asked for, as it is to be used.
pub(crate) fn setup(name: &str, args: &MachineArgs) -> Result<Setup> {
    if name == ALL_MACHINES || name.contains(',') {
        return Diagnostic::error("one-machine", format!("`{name}` names several machines; this takes one"))
            .help("`orrery compare` looks at several side by side")
            .err();
    }
    let own = load(&args.files)?;
    let system = find_system(name, &own)?;
    with(system, args)
}
