//! File tests: every file below `files/` is a command, a graph, and what comes of it.
//!
//! The first line is the command, lines after it may give inputs, then come the graph, a line `--- expect` and the
//! expectation. `ORRERY_BLESS=1 cargo test -p orrery-ir --test files` rewrites the expectations.
//!
//! | command | what comes of it |
//! |---|---|
//! | `# parse` | the graph as it prints |
//! | `# verify` | `valid`, or the first invariant that is broken |
//! | `# infer [symbol=number …]` | the type of every value that a node makes, and its elements where they are formulas |
//! | `# count [symbol=number …]` | parameters, and the work of each node and of all |
//! | `# run` | the outputs of the interpreter; inputs stand in lines `# %x: f32[2] = [1.0, 2.0]` |
//!
//! What cannot be done gives the diagnostic.

use libtest_mimic::{Arguments, Failed, Trial};
use orrery_base::Result;
use orrery_ir::op::{Datum, Work};
use orrery_ir::{Bindings, Def, Graph, count, infer, interpret, text, verify};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let mut files = Vec::new();
    find(&folder, &mut files);
    files.sort();
    assert!(files.len() > 40, "the file tests are gone");
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

const SEPARATOR: &str = "--- expect\n";

fn check(path: &Path) -> std::result::Result<(), Failed> {
    let file = std::fs::read_to_string(path)?;
    let (given, expected) = file.split_once(SEPARATOR).unwrap_or((&file, ""));
    let found = outcome(given).unwrap_or_else(|refused| format!("{refused}\n"));
    if std::env::var_os("ORRERY_BLESS").is_some() {
        std::fs::write(path, format!("{given}{SEPARATOR}{found}"))?;
        return Ok(());
    }
    if found == expected {
        return Ok(());
    }
    Err(format!("expected\n{expected}\nfound\n{found}\nORRERY_BLESS=1 rewrites the expectation").into())
}

/// What the command in the first line makes of the rest.
fn outcome(given: &str) -> Result<String> {
    let command = given.lines().next().unwrap_or_default().trim_start_matches("# ");
    let (command, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let graph = text::parse(given)?;
    match command {
        "parse" => Ok(text::print(&graph)),
        "verify" => verify::verify(&graph).map(|()| "valid\n".to_owned()),
        "infer" => types(graph, &bindings(arguments)),
        "count" => counts(&graph, &bindings(arguments)),
        "run" => run(&graph, given),
        other => panic!("there is no command `{other}`"),
    }
}

fn bindings(arguments: &str) -> Bindings {
    let pairs = arguments.split_whitespace().map(|pair| pair.split_once('=').expect("symbol=number"));
    pairs.map(|(name, number)| (name.to_owned(), number.parse().expect("a number"))).collect()
}

fn types(mut graph: Graph, bindings: &Bindings) -> Result<String> {
    verify::structure(&graph)?;
    let facts = infer::bind(&mut graph, bindings)?;
    let mut lines = String::new();
    for (id, value) in graph.values.iter().filter(|(_, value)| matches!(value.def, Def::Node(..))) {
        write!(lines, "{}: {}", value.name, facts[id].ty).expect("a string takes all");
        match &facts[id].content {
            Some(content) => writeln!(lines, " = {content:?}"),
            None => writeln!(lines),
        }
        .expect("a string takes all");
    }
    Ok(lines)
}

fn counts(graph: &Graph, bindings: &Bindings) -> Result<String> {
    let show = |work: &Work| -> Result<String> {
        let Work { macs, vector, special } = work;
        if bindings.is_empty() {
            return Ok(format!("macs {macs}, vector {vector}, special {special}"));
        }
        let [macs, vector, special] = [macs, vector, special].map(|count| count::evaluate(count, bindings));
        Ok(format!("macs {}, vector {}, special {}", macs?, vector?, special?))
    };
    verify::verify(graph)?;
    let work = count::work(graph, &infer::facts(graph)?);
    let mut lines = format!("{} parameters\n", count::parameters(graph));
    for (id, work) in work.iter() {
        writeln!(lines, "{}: {}", infer::node_place(graph, id), show(work)?).expect("a string takes all");
    }
    writeln!(lines, "all: {}", show(&count::total(&work))?).expect("a string takes all");
    Ok(lines)
}

fn run(graph: &Graph, given: &str) -> Result<String> {
    verify::verify(graph)?;
    let lines = given.lines().filter_map(|line| line.strip_prefix("# %"));
    let lines: String = lines.map(|line| format!("constant %{line}\n")).collect();
    let inputs = text::parse(&format!("graph \"inputs\" {{\n{lines}}}"))?;
    let inputs =
        inputs.values.ids().filter_map(|id| inputs.tensor_of(id).cloned()).map(Datum::from).collect();
    let outputs = interpret::run(graph, inputs, 1)?;
    let mut printed = Graph::new("outputs");
    for (i, output) in outputs.iter().enumerate() {
        collect(&mut printed, graph.output_name(i), output);
    }
    let printed = text::print(&printed);
    Ok(printed
        .lines()
        .filter_map(|line| line.strip_prefix("  constant %"))
        .map(|line| format!("{line}\n"))
        .collect())
}

/// Adds the tensors in `datum` as constants: to print them.
fn collect(printed: &mut Graph, name: &str, datum: &Datum) {
    match datum {
        Datum::Tensor(tensor) => {
            printed.add_tensor(name, tensor.clone());
        }
        Datum::Sequence(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(printed, &format!("{name}.{i}"), item);
            }
        }
        Datum::Optional(item) => {
            if let Some(item) = item {
                collect(printed, name, item);
            }
        }
    }
}
