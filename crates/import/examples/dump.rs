use orrery_import::onnx::*;
fn main() {
    for path in std::env::args().skip(1) {
        let g = load_path(path.as_ref(), &Options::default()).and_then(Imported::into_graph).unwrap();
        for v in g.values.values() {
            println!("{path}\t{}\t{}", v.name, v.ty);
        }
    }
}
