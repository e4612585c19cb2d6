//! The machine's Python, and the environment of the oracles made with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::fetch;
use crate::manifest::Manifest;

/// A Python found on the machine.
pub(crate) struct Interpreter {
    /// Name to start it by.
    pub(crate) program: &'static str,
    /// `MAJOR.MINOR`.
    version: String,
}

/// The Python to use: 3.11 where there is one, because the pinned wheels are made for it.
pub(crate) fn interpreter() -> Result<Interpreter> {
    let mut found = None;
    for program in ["python3.11", "python3", "python"] {
        let code = "import sys; print('%d.%d' % sys.version_info[:2])";
        let Ok(output) = Command::new(program).args(["-c", code]).output() else { continue };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if !output.status.success() || !version.starts_with("3.") {
            continue;
        }
        if version == "3.11" {
            return Ok(Interpreter { program, version });
        }
        found.get_or_insert(Interpreter { program, version });
    }
    found.context(
        "no Python 3 found; the test data needs one (Debian and Ubuntu: apt-get install python3-venv)",
    )
}

/// Makes sure that the oracles' environment is there; gives its Python.
///
/// With the Python the wheels are pinned for, nothing but checked wheels is installed. With another one the same
/// versions are asked of the registry, and that is said.
pub(crate) fn environment(cache: &Cache, manifest: &Manifest) -> Result<PathBuf> {
    let python = cache.path("venv/bin/python");
    let interpreter = interpreter()?;
    let packages: Vec<_> = manifest.packages.iter().filter(|package| package.oracle).collect();
    let mut hasher = Sha256::new();
    hasher.update(&interpreter.version);
    for package in &packages {
        hasher.update(&package.sha256);
    }
    let stamp = fetch::hex(&hasher.finalize());
    if cache.is_current("venv", &stamp) && python.exists() {
        return Ok(python);
    }

    let pinned = interpreter.version == manifest.tags.python_version
        && cfg!(all(target_os = "linux", target_arch = "x86_64"));
    if pinned {
        for package in &packages {
            fetch::file(cache, &manifest.tags, package)?;
        }
    } else {
        println!(
            "note: the wheels are pinned for Python {} on Linux x86-64; with Python {} the same versions are \
             installed from the registry unchecked",
            manifest.tags.python_version, interpreter.version
        );
    }
    println!("making the oracles' Python environment");
    cache.publish("venv", &stamp, |folder| {
        let mut venv = Command::new(interpreter.program);
        venv.args(["-m", "venv"]).arg(folder);
        run(&mut venv, "cannot make a Python environment (Debian and Ubuntu: apt-get install python3-venv)")?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet"]);
        if pinned {
            pip.arg("--no-index");
        }
        pip.arg("--find-links").arg(cache.path("wheels"));
        pip.args(packages.iter().map(|package| package.requirement()));
        run(&mut pip, "cannot install the oracles' packages")
    })?;
    Ok(python)
}

/// Runs a Python script of the workspace with the oracles' Python.
pub(crate) fn script(python: &Path, script: &Path, arguments: &[&Path]) -> Result<()> {
    let mut command = Command::new(python);
    command.arg(script).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    run(&mut command, &format!("{} failed", script.display()))
}

/// Unpacks a `.tgz` with the machine's own Python.
pub(crate) fn untar(file: &Path, folder: &Path) -> Result<()> {
    let mut command = Command::new(interpreter()?.program);
    command.args(["-m", "tarfile", "-e"]).arg(file).arg(folder);
    run(&mut command, &format!("cannot unpack {}", file.display()))
}

fn run(command: &mut Command, problem: &str) -> Result<()> {
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{problem}: {status}");
    }
    Ok(())
}
