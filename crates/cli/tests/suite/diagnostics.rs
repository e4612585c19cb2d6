//! `docs/diagnostics.md` lists the codes that there are.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Literals that look like codes and are none.
const OTHER_WORDS: [&str; 17] = [
    "bragg-peaks",
    "bulk-synchronous",
    "checkpoint-every",
    "cross-entropy",
    "deterministic-stream",
    "floating-point",
    "held-out",
    "image-size",
    "kernel-engines",
    "loss-scale",
    "mnist-10k",
    "narrow-weights",
    "no-decay",
    "spatial-dataflow",
    "stochastic-rounding",
    "train-images",
    "weight-decay",
];
/// Codes of one word, which cannot be told from other literals.
const OF_ONE_WORD: [&str; 6] = ["cancelled", "evaluation", "gradient", "internal", "mapping", "range"];

fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            into.push(text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned());
        }
    }
}

#[test]
fn every_code_is_documented_and_every_documented_code_is_there() {
    let crates = workspace().join("crates");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&crates).unwrap() {
        let folder = entry.unwrap().path();
        // Names of models and of test cases look like codes.
        if !folder.ends_with("zoo") && !folder.ends_with("conformance") && folder.join("src").is_dir() {
            sources(&folder.join("src"), &mut texts);
        }
    }
    sources(&crates.join("zoo/src"), &mut texts);
    let literal = regex::Regex::new(r#""([a-z]+(?:-[a-z0-9]+)+)""#).unwrap();
    let comment = regex::Regex::new(r"(?m)^\s*//.*$").unwrap();
    let zoo_names: BTreeSet<String> = texts
        .iter()
        .filter(|t| t.contains("ZooModel {"))
        .flat_map(|t| literal.captures_iter(t).map(|c| c[1].to_owned()).collect::<Vec<_>>())
        .filter(|word| !word.starts_with("zoo-"))
        .collect();
    let mut used: BTreeSet<String> = BTreeSet::new();
    for text in &texts {
        used.extend(literal.captures_iter(&comment.replace_all(text, "")).map(|c| c[1].to_owned()));
    }
    used.retain(|word| !OTHER_WORDS.contains(&word.as_str()) && !zoo_names.contains(word));
    used.extend(OF_ONE_WORD.map(str::to_owned));
    let page = std::fs::read_to_string(workspace().join("docs/diagnostics.md")).unwrap();
    let row = regex::Regex::new(r"(?m)^\| `([a-z0-9-]+)` \|").unwrap();
    let documented: BTreeSet<String> = row.captures_iter(&page).map(|c| c[1].to_owned()).collect();
    let missing: Vec<&String> = used.difference(&documented).collect();
    let gone: Vec<&String> = documented.difference(&used).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not documented: {missing:?}; no longer there: {gone:?}");
}
