//! What several commands do alike.

use crate::args::{Common, MachineArgs, ModelArgs, SystemFiles, TrainingArgs};
use crate::output;
use orrery::training::{LossSpec, Recompute, Wanted};
use orrery::{Diagnostic, Model, ModelOptions, Result, Setup, System, Work, find_system, load_system};

/// Opens the model.
pub(crate) fn open(args: &ModelArgs) -> Result<Model> {
    let options = ModelOptions { parameters: args.params.clone(), dims: args.dims.iter().cloned().collect() };
    Model::open(&args.model, &options)
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

/// A machine by name: the user's own first.
pub(crate) fn find(name: &str, own: &[System]) -> Result<System> {
    let configured = own.iter().flat_map(System::configured);
    let mut all = own.iter().cloned().chain(configured);
    match all.find(|s| s.name == name || s.aliases.iter().any(|a| a == name)) {
        Some(system) => Ok(system),
        None => find_system(name),
    }
}

/// The machines asked for, as they are to be used.
pub(crate) fn setups(names: &[String], args: &MachineArgs) -> Result<Vec<Setup>> {
    let own = load(&args.files)?;
    names.iter().map(|name| with(find(name, &own)?, args)).collect()
}

/// A machine as it is to be used.
fn with(system: System, args: &MachineArgs) -> Result<Setup> {
    let setup = Setup::of(system).precision(args.precision.as_deref()).stack(args.stack.as_deref());
    setup.tiles(args.tiles)
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

/// The one machine asked for, as it is to be used.
pub(crate) fn setup(name: &str, args: &MachineArgs) -> Result<Setup> {
    let own = load(&args.files)?;
    let system = find(name, &own)?;
    with(system, args)
}
