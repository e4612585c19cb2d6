//! Any text: a diagnostic, or a program that prints, parses back, and is judged by the verifier.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orrery_program::{text, verify};

fuzz_target!(|text: &str| {
    match text::parse(text) {
        Ok(program) => {
            let printed = text::print(&program);
            let again = text::parse(&printed).expect("a printed program parses");
            assert_eq!(text::print(&again), printed);
            // Sound or refused, but judged.
            let _ = verify::verify(&program);
        }
        Err(refusal) => assert!(!refusal.place.is_empty(), "{refusal}"),
    }
});
