//! Project tasks, run as `cargo xtask TASK`.
//!
//! - `models`: fetch the pinned packages of `tests/models.toml`, make the Python environment of the oracles, and
//!   let the oracles write the values that the tests compare with. Quick when all of it is there.
//! - `test`: `models`, then formatting, lints and tests: the one command that continuous integration runs.
//!
//! Everything fetched or generated lives under one folder, `.cache` in the workspace or wherever `ORRERY_CACHE`
//! points; removing it is always safe.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool reports on its streams")]

mod cache;
mod fetch;
mod manifest;
mod oracle;
mod python;
mod stages;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask TASK

Tasks:
  models   Fetch the pinned test models and write the oracles' expected values
  test     Fetch what the tests need, then check formatting, lints and tests

The folder for all of it is .cache, or what ORRERY_CACHE names.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let task = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    let outcome = match task.as_slice() {
        ["models"] => oracle::prepare(),
        ["test"] => stages::test(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
