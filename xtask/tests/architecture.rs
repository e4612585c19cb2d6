//! The rules of the house that the compiler does not hold: which crate may know which, and what no file may say.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may depend on, itself. A crate or an edge that is not here needs a decision, and then a line here
/// and in docs/ARCHITECTURE.md. Edges only point to crates further up in this table, so there is no cycle.
const ALLOWED: [(&str, &[&str]); 19] = [
    ("base", &[]),
    ("numerics", &["base"]),
    ("data", &["base", "numerics"]),
    ("ir", &["base", "numerics"]),
    ("import", &["base", "numerics", "ir"]),
    ("conformance", &["base", "numerics", "ir", "import"]),
    ("zoo", &["base", "numerics", "ir"]),
    ("transform", &["base", "numerics", "ir"]),
    ("machine", &["base", "numerics"]),
    ("program", &["base", "numerics", "ir"]),
    ("cost", &["base", "numerics", "ir", "machine", "program"]),
    ("compile", &["base", "numerics", "ir", "machine", "program", "cost"]),
    ("simulate", &["base", "numerics", "ir", "machine", "program", "cost"]),
    ("execute", &["base", "numerics", "ir", "program"]),
    ("record", &["base"]),
    (
        "evaluate",
        &[
            "base",
            "numerics",
            "data",
            "ir",
            "import",
            "zoo",
            "transform",
            "machine",
            "program",
            "cost",
            "compile",
            "simulate",
            "execute",
            "record",
        ],
    ),
    (
        "orrery",
        &[
            "base",
            "numerics",
            "data",
            "ir",
            "import",
            "zoo",
            "transform",
            "machine",
            "program",
            "cost",
            "compile",
            "simulate",
            "execute",
            "record",
            "evaluate",
        ],
    ),
    ("cli", &["orrery"]),
    ("xtask", &[]),
];

/// Crates that any test or bench may use besides those above: they only make graphs.
const ALLOWED_IN_TESTS: [&str; 4] = ["zoo", "import", "conformance", "transform"];

/// Further crates that the tests of one may use: whether a mapping is right is seen by running it.
const ALLOWED_IN_TESTS_OF: [(&str, &str); 1] = [("compile", "execute")];

/// Crates that must not know each other, not even through others.
const STRANGERS: [(&str, &str); 6] = [
    ("simulate", "execute"),
    ("execute", "simulate"),
    ("simulate", "compile"),
    ("execute", "compile"),
    ("cost", "compile"),
    ("ir", "machine"),
];

/// Outside crates for the terminal, which only the command line may use.
const TERMINAL: [&str; 5] = ["clap", "clap_complete", "anstream", "indicatif", "comfy-table"];

struct Package {
    folder: PathBuf,
    /// Crates of the workspace.
    knows: BTreeSet<String>,
    knows_in_tests: BTreeSet<String>,
    /// Crates from elsewhere, tests included.
    outside: BTreeSet<String>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// `orrery-ir` is `ir`; `orrery` itself, the façade, stays.
fn short(name: &str) -> String {
    name.strip_prefix("orrery-").unwrap_or(name).to_string()
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut packages = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let mut found = Package {
            folder: manifest.parent().unwrap().to_path_buf(),
            knows: BTreeSet::new(),
            knows_in_tests: BTreeSet::new(),
            outside: BTreeSet::new(),
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            if dependency["path"].is_null() {
                found.outside.insert(name.to_string());
            } else if dependency["kind"] == "dev" {
                found.knows_in_tests.insert(short(name));
            } else {
                found.knows.insert(short(name));
            }
        }
        packages.insert(short(package["name"].as_str().unwrap()), found);
    }
    packages
}

/// Everything that `start` reaches over normal dependencies.
fn reach(packages: &BTreeMap<String, Package>, start: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut pending = vec![start.to_string()];
    while let Some(name) = pending.pop() {
        for next in &packages[&name].knows {
            if reached.insert(next.clone()) {
                pending.push(next.clone());
            }
        }
    }
    reached
}

/// Files that git tracks, with their contents; deleted ones that are still in the index are left out.
fn tracked_files() -> Vec<(String, Vec<u8>)> {
    let root = workspace();
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> = list
        .split_terminator('\0')
        .filter_map(|name| fs::read(root.join(name)).ok().map(|bytes| (name.to_string(), bytes)))
        .collect();
    assert!(files.iter().any(|(name, _)| name == "Cargo.toml"), "git lists no Cargo.toml");
    files
}

/// Offsets at which `needle` occurs.
fn occurrences<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    bytes.windows(needle.len()).enumerate().filter(move |(_, window)| *window == needle).map(|(at, _)| at)
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset].iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn crates_know_only_what_they_may() {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let mut faults = Vec::new();
    for (name, package) in packages() {
        let Some(may) = allowed.get(name.as_str()) else {
            faults.push(format!("the crate `{name}` is not in the table"));
            continue;
        };
        let tests_may = |other: &str| {
            may.contains(&other)
                || ALLOWED_IN_TESTS.contains(&other)
                || ALLOWED_IN_TESTS_OF.contains(&(name.as_str(), other))
        };
        for other in package.knows.iter().filter(|other| !may.contains(&other.as_str())) {
            faults.push(format!("`{name}` must not depend on `{other}`"));
        }
        for other in package.knows_in_tests.iter().filter(|other| !tests_may(other)) {
            faults.push(format!("the tests of `{name}` must not depend on `{other}`"));
        }
    }
    assert!(faults.is_empty(), "see the table in xtask/tests/architecture.rs:\n{}", faults.join("\n"));
}

#[test]
fn the_table_itself_points_only_upwards() {
    let mut above = BTreeSet::new();
    for (name, may) in ALLOWED {
        for other in may {
            assert!(above.contains(other), "`{name}` may depend on `{other}`, which is not above it");
        }
        above.insert(name);
    }
}

#[test]
fn strangers_stay_strangers() {
    let packages = packages();
    for (name, other) in STRANGERS {
        assert!(!reach(&packages, name).contains(other), "`{name}` reaches `{other}`");
    }
}

#[test]
fn only_the_command_line_knows_the_terminal() {
    for (name, package) in packages() {
        let used: Vec<_> = TERMINAL.iter().filter(|outside| package.outside.contains(**outside)).collect();
        assert!(name == "cli" || used.is_empty(), "`{name}` depends on {used:?}");
    }
}

#[test]
fn every_crate_is_described() {
    let text = fs::read_to_string(workspace().join("docs/ARCHITECTURE.md")).unwrap();
    for (name, package) in packages() {
        let folder = package.folder.strip_prefix(workspace()).unwrap().display().to_string();
        assert!(
            text.contains(&format!("`{folder}`")),
            "docs/ARCHITECTURE.md does not describe `{folder}` ({name})"
        );
    }
}

#[test]
fn no_file_names_a_registry_host_or_a_path_of_one_machine() {
    // Put together here, so that this file does not name them either.
    let hosts = [
        ["crates", ".io"].concat(),
        ["pypi", ".org"].concat(),
        ["pythonhosted", ".org"].concat(),
        ["npmjs", ".org"].concat(),
        ["deb.debian", ".org"].concat(),
    ];
    let paths = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    let mut faults = Vec::new();
    for (name, bytes) in tracked_files() {
        if name == "Cargo.lock" {
            continue;
        }
        for host in &hosts {
            faults.extend(
                occurrences(&bytes, host.as_bytes()).map(|at| (name.clone(), line_of(&bytes, at), host)),
            );
        }
        for path in &paths {
            // In the middle of a relative path it is just a folder's name.
            let absolute = |at: &usize| {
                *at == 0
                    || !matches!(bytes[at - 1], b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.')
            };
            let found = occurrences(&bytes, path.as_bytes()).filter(absolute);
            faults.extend(found.map(|at| (name.clone(), line_of(&bytes, at), path)));
        }
    }
    assert!(faults.is_empty(), "file, line and word:\n{faults:#?}");
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_for_later() {
    let words = [
        ["#[ign", "ore"].concat(),
        ["allow(dead", "_code)"].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
    ];
    let mut faults = Vec::new();
    for (name, bytes) in tracked_files() {
        if !name.ends_with(".rs") && !name.ends_with(".py") {
            continue;
        }
        for word in &words {
            faults.extend(
                occurrences(&bytes, word.as_bytes()).map(|at| (name.clone(), line_of(&bytes, at), word)),
            );
        }
    }
    assert!(faults.is_empty(), "file, line and word:\n{faults:#?}");
}
