//! Spatial machines: sections, pipelines and what they keep, on whole and on shrunk machines.

use crate::common::{compile_for, faults, faults_of, shrunk, target};
use crate::graphs::{example, examples};
use orrery_base::index::Id;
use orrery_compile::{Options, compile};
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op};
use orrery_numerics::DType;
use orrery_program::{Program, StepKind, verify};

#[test]
fn debug() {
    let system = shrunk("sn10", &[]);
    let model = orrery_zoo::find("braggnn").unwrap();
    let mut graph = model.build(&orrery_zoo::Options::default()).unwrap();
    orrery_ir::infer::bind(&mut graph, &[("batch".to_owned(), 512)].into_iter().collect()).unwrap();
    let options = Options { keep_results: true, ..Options::default() };
    let p = compile(&graph, &target(&system, "fp32"), &options).unwrap().program;
    for (id, s) in p.steps.iter() {
        let c = orrery_cost::step_cost(&p, s, &Bindings::new(), &target(&system, "fp32")).unwrap();
        println!("{id} {} {:?} {:?} {:?} {:?}", s.name, s.kind, s.stage.map(|s| (s.pipeline, s.cores)), c.time, c.resources);
    }
    panic!();
}
