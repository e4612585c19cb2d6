//! Any bytes: a diagnostic, or a graph that the verifier accepts.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use orrery_import::onnx::{Options, load_bytes};
use orrery_ir::{text, verify};

fuzz_target!(|model: &[u8]| {
    for inspect in [false, true] {
        let options = Options { allow_absent_weights: true, inspect, ..Options::default() };
        let Ok(imported) = load_bytes(&Bytes::copy_from_slice(model), &options) else { continue };
        if let Some(graph) = &imported.graph {
            verify::verify(graph).expect("an imported graph is sound");
            let printed = text::print(graph);
            let again = text::parse(&printed).expect("a printed graph parses");
            assert_eq!(text::print(&again), printed);
        }
    }
});
