//! `cargo xtask test`: everything that must hold before a change lands, in stages that are timed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{cache, oracle};

/// Cargo's arguments for each stage after the test data are there.
const STAGES: [(&str, &[&str]); 3] = [
    ("format", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ("tests", &["test", "--workspace"]),
];

/// Prepares the test data and runs every stage; stops at the first that fails. Prints the time of each.
pub(crate) fn test() -> Result<()> {
    let mut times = Vec::new();
    let outcome = run_stages(&mut times);
    println!("\nstage         seconds");
    for (name, time) in &times {
        println!("{name:<12} {:>8.1}", time.as_secs_f64());
    }
    outcome
}

fn run_stages(times: &mut Vec<(&'static str, Duration)>) -> Result<()> {
    let start = Instant::now();
    let prepared = oracle::prepare();
    times.push(("test data", start.elapsed()));
    prepared?;

    let workspace = cache::workspace();
    let folder = match std::env::var_os("ORRERY_CACHE") {
        Some(path) => std::path::absolute(path)?,
        None => workspace.join(".cache"),
    };
    for (name, arguments) in STAGES {
        println!("\n== {name}: cargo {}", arguments.join(" "));
        let start = Instant::now();
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(arguments)
            .current_dir(&workspace)
            .env("ORRERY_CACHE", &folder)
            .env("ORRERY_CACHE_REQUIRED", "1")
            .status()
            .context("cannot start cargo")?;
        times.push((name, start.elapsed()));
        ensure!(
            status.success(),
            "the stage `{name}` failed; run it alone with: cargo {}",
            arguments.join(" ")
        );
    }
    Ok(())
}
