//! Benchmark models, legalised to the machine's precision and executed part by part.

use crate::common::{faults, shrunk};
use orrery_ir::{Bindings, Graph, infer};
use orrery_machine::{System, registry};
use orrery_transform::{PrecisionSpec, Weights, legalise};
use orrery_zoo::{Options, find};

/// A model with its symbols bound, in the number formats of a machine's precision.
pub(crate) fn legal(
    name: &str,
    options: &str,
    bound: &[(&str, i64)],
    system: &System,
    precision: &str,
) -> Graph {
    let model = find(name).unwrap();
    let mut graph = model.build(&Options::parse(options.split_whitespace()).unwrap()).unwrap();
    let mut bindings: Bindings = model.default_bindings(&graph);
    bindings.extend(bound.iter().map(|(symbol, value)| ((*symbol).to_owned(), *value)));
    infer::bind(&mut graph, &bindings).unwrap_or_else(|error| panic!("{name}: {error}"));
    let precision = system.precision(Some(precision)).unwrap();
    let spec = PrecisionSpec {
        storage: precision.storage,
        multiply: precision.multiply.clone(),
        accumulate: precision.accumulate.name().to_owned(),
        stochastic: false,
    };
    legalise(&graph, &spec, Weights::Compute).unwrap_or_else(|error| panic!("{name}: {error}")).graph
}

fn check(name: &str, options: &str, bound: &[(&str, i64)]) {
    let a100 = registry::find("a100-40gb").unwrap();
    let gc200 = registry::find("gc200").unwrap();
    let few = shrunk("gc200", &[("tiles", 48), ("tile_bytes", 20_000_000)]);
    let groq = registry::find("groqchip").unwrap();
    let sn30 = registry::find("sn30").unwrap();
    let small = shrunk("sn10", &[("pcus", 20), ("pmus", 20), ("pmu_bytes", 65_536)]);
    let mut found = String::new();
    for (system, precision, tolerance) in [
        (a100, "fp32", 1e-4),
        (a100, "tf32", 1e-2),
        (a100, "fp16", 5e-2),
        (gc200, "fp32", 1e-4),
        (gc200, "fp16.16", 1e-1),
        (&few, "fp16.32", 5e-2),
        (groq, "fp16", 5e-2),
        (registry::find("gaudi2").unwrap(), "bf16", 2e-1),
        (sn30, "bf16", 1e-1),
        (&small, "fp32", 1e-4),
    ] {
        let graph = legal(name, options, bound, system, precision);
        for fault in faults(&graph, system, precision, tolerance) {
            found += &format!("{name} on {} {precision}: {fault}\n", system.name);
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn braggnn() {
    check("braggnn", "", &[("batch", 3)]);
}

#[test]
fn bert() {
    check("bert_tiny", "", &[("batch", 2), ("seq", 13)]);
}

#[test]
fn recurrent() {
    check("lstm", "steps=4 inputs=24 hidden=20", &[("batch", 3)]);
}

#[test]
fn image_primitives() {
    check("conv2d", "size=9 channels=12 filters=10", &[("batch", 2)]);
}
