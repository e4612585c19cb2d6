#![allow(clippy::all, clippy::print_stdout)]
use orrery_import::onnx;
use orrery_transform::*;
use std::path::Path;
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let g = onnx::load_path(Path::new(&args[2]), &onnx::Options::default()).unwrap().graph.unwrap();
    match args[1].as_str() {
        "print" => println!("{}", orrery_ir::text::print(&g)),
        "clean" => println!("{}", orrery_ir::text::print(&clean(&g).unwrap())),
        "prepare" => {
            let p = prepare(&g, &Options::default()).unwrap();
            for r in &p.report.replacements {
                println!("{r:?}");
            }
            println!("{}", orrery_ir::text::print(&p.graph));
        }
        _ => {
            for w in [Weights::ShapeOnly, Weights::Compute] {
                for _ in 0..3 {
                    let t = Instant::now();
                    let p = prepare(&g, &Options { weights: w, ..Options::default() }).unwrap();
                    println!("{w:?} {} -> {} nodes: {:?}", g.nodes.len(), p.graph.nodes.len(), t.elapsed());
                    let spec = PrecisionSpec::plain(orrery_numerics::DType::F16);
                    let t = Instant::now();
                    let l = legalise(&p.graph, &spec, w).unwrap();
                    println!("   legalise {} nodes: {:?}", l.graph.nodes.len(), t.elapsed());
                }
            }
        }
    }
}
