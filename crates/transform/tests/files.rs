//! File tests: every file below `files/` is a command, a graph, and what comes of it.
//!
//! The first line is the command, lines after it may say more, then come the graph, a line `--- expect` and the
//! expectation. `ORRERY_BLESS=1 cargo test -p orrery-transform --test files` rewrites the expectations.
//!
//! | command | what comes of it |
//! |---|---|
//! | `# clean` | the graph after cleaning |
//! | `# prepare [shape-only] [no-fuse] [no-fold]` | the report, and the graph after all passes |
//! | `# unroll` | the graph with its loops unrolled |
//! | `# legalise STORAGE [multiply=FORMAT] [accumulate=FORMAT] [stochastic] [shape-only] [states]` | the notes, and the legal graph |
//!
//! A line `# where symbol=number ...` binds symbols and has both graphs run on the same random inputs; outputs must agree
//! within a few roundings of binary32, or, after legalising, of the storage type. What cannot be done gives the diagnostic.

#[path = "support/random.rs"]
mod random;
mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use orrery_base::Result;
use orrery_ir::{Bindings, Graph, infer, text};
use orrery_numerics::{DType, Format};
use orrery_transform::{Options, PrecisionSpec, Weights, clean, legalise, prepare, store_border, unroll};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let mut files = Vec::new();
    find(&folder, &mut files);
    files.sort();
    assert!(files.len() > 10, "the file tests are gone");
    let trials = files.into_iter().map(|path| {
        let name = path.strip_prefix(&folder).expect("found below it").display().to_string();
        Trial::test(name, move || check(&path))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            find(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Roundings by which two orders of the same small computation may differ, relative to the largest magnitude.
const ROUNDINGS: f64 = 16.0;
const SEPARATOR: &str = "--- expect\n";

fn check(path: &Path) -> std::result::Result<(), Failed> {
    let file = std::fs::read_to_string(path)?;
    let (given, expected) = file.split_once(SEPARATOR).unwrap_or((&file, ""));
    let found = match outcome(given) {
        Ok(found) => found?,
        Err(refused) => format!("{refused}\n"),
    };
    if std::env::var_os("ORRERY_BLESS").is_some() {
        std::fs::write(path, format!("{given}{SEPARATOR}{found}"))?;
        return Ok(());
    }
    if found == expected {
        return Ok(());
    }
    Err(format!("expected\n{expected}\nfound\n{found}\nORRERY_BLESS=1 rewrites the expectation").into())
}

/// What the command in the first line makes of the rest; the inner error is a wrong number.
fn outcome(given: &str) -> Result<std::result::Result<String, Failed>> {
    let command = given.lines().next().unwrap_or_default().trim_start_matches("# ");
    let mut words = command.split_whitespace();
    let (command, words) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
    let mut graph = text::parse(given)?;
    infer::infer(&mut graph)?;
    let weights = if words.contains(&"shape-only") { Weights::ShapeOnly } else { Weights::Compute };
    let mut printed = String::new();
    let mut tolerance = ROUNDINGS * Format::FP32.unit_roundoff();
    let changed = match command {
        "clean" => clean(&graph)?,
        "prepare" => {
            let (fuse, fold_batch_norm) = (!words.contains(&"no-fuse"), !words.contains(&"no-fold"));
            let prepared = prepare(&graph, &Options { weights, fuse, fold_batch_norm })?;
            for r in &prepared.report.replacements {
                writeln!(
                    printed,
                    "{}: {} -> {} nodes, {:?}, at {}",
                    r.kind, r.nodes.0, r.nodes.1, r.exactness, r.place
                )
                .expect("a string takes all");
            }
            prepared.graph
        }
        "legalise" => {
            let storage = DType::parse(words.first().copied().unwrap_or_default()).expect("a storage type");
            let word = |key: &str| words.iter().find_map(|w| Some(w.strip_prefix(key)?.to_owned()));
            let mut spec = PrecisionSpec::plain(storage);
            spec.multiply = word("multiply=").unwrap_or(spec.multiply);
            spec.accumulate = word("accumulate=").unwrap_or(spec.accumulate);
            spec.stochastic = words.contains(&"stochastic");
            let legal = legalise(&graph, &spec, weights)?;
            for note in &legal.notes {
                writeln!(printed, "{note}").expect("a string takes all");
            }
            let format = Format::parse(&spec.multiply).expect("legalise has read it");
            tolerance = ROUNDINGS * format.unit_roundoff();
            if words.contains(&"border") { store_border(&legal.graph)? } else { legal.graph }
        }
        "unroll" => unroll(&graph)?,
        other => panic!("there is no command `{other}`"),
    };
    printed += &text::print(&changed);
    if let Some(bindings) = given.lines().find_map(|line| line.strip_prefix("# where")) {
        let pairs = bindings.split_whitespace().map(|pair| pair.split_once('=').expect("symbol=number"));
        let bindings: Bindings =
            pairs.map(|(name, number)| (name.to_owned(), number.parse().expect("a number"))).collect();
        if let Err(wrong) = compare(&graph, &changed, &bindings, tolerance) {
            return Ok(Err(wrong));
        }
    }
    Ok(Ok(printed))
}

fn compare(
    before: &Graph,
    after: &Graph,
    bindings: &Bindings,
    tolerance: f64,
) -> std::result::Result<(), Failed> {
    for seed in 0..3 {
        let inputs = random::inputs(before, bindings, seed);
        let (expected, got) = (support::run(before, &inputs)?, support::run(after, &inputs)?);
        support::compare(before, &expected, &got, tolerance)?;
    }
    Ok(())
}
