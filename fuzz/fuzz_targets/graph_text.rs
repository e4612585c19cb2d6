//! Any text: a diagnostic, or a graph that prints, parses back, and is judged by the verifier.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orrery_ir::{text, verify};

fuzz_target!(|text: &str| {
    match text::parse(text) {
        Ok(graph) => {
            let printed = text::print(&graph);
            let again = text::parse(&printed).expect("a printed graph parses");
            assert_eq!(text::print(&again), printed);
            // Sound or refused, but judged.
            let _ = verify::verify(&graph);
        }
        Err(refusal) => assert!(refusal.code.starts_with("text-") && !refusal.place.is_empty(), "{refusal}"),
    }
});
