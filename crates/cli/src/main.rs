//! The `orrery` command: parses what was typed, asks the façade, prints the answer.

mod args;
mod commands;
mod interrupt;
mod output;
mod progress;

use args::{Cli, Command};
use output::{Answer, Exit};
use std::panic;
use std::process::ExitCode;

/// Compiling makes and drops many small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = args::parse();
    panic::set_hook(Box::new(|_| {}));
    let json = cli.common.json;
    match panic::catch_unwind(|| answer(&cli)) {
        Ok(Ok(answer)) => {
            let text = if json { format!("{:#}\n", answer.json) } else { answer.text };
            match output::print(&text) {
                Exit::Done => answer.exit.into(),
                failed => failed.into(),
            }
        }
        Ok(Err(diagnostic)) => {
            if json {
                let error = serde_json::json!({ "error": output::diagnostic_json(&diagnostic) });
                output::print(&format!("{error:#}\n"));
            }
            output::report(&diagnostic);
            Exit::Input.into()
        }
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            anstream::eprintln!(
                "\u{1b}[1;31merror[internal]\u{1b}[0m: {words}\n  \
                 help: this is a fault of orrery, not of the input; please report it with the command line"
            );
            Exit::Fault.into()
        }
    }
}

fn answer(cli: &Cli) -> orrery::Result<Answer> {
    let common = &cli.common;
    match &cli.command {
        Command::Systems(args) => commands::systems::answer(args),
        Command::Models(args) => commands::models::answer(args),
        Command::Inspect(args) => commands::inspect::answer(args),
        Command::Check(args) => commands::check::answer(args, common),
        Command::Compile(args) => commands::compile::answer(args, common),
        Command::Run(args) => commands::run::answer(args, common),
        Command::Compare(args) => commands::compare::answer(args, common),
        Command::Explain(args) => commands::explain::answer(args, common),
        Command::Calibrate(args) => commands::calibrate::answer(args, common),
        Command::Sweep(args) => commands::sweep::answer(args, common),
        Command::Export(args) => commands::export::answer(args, common),
        Command::Data(args) => commands::data::answer(args, common),
        Command::Evaluate(args) => commands::evaluate::answer(args, common),
        Command::Train(args) => commands::train::answer(args, common),
        Command::Validate(args) => commands::validate::answer(args, common),
    }
}
