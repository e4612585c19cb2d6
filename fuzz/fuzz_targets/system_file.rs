//! Any text: a diagnostic, or a machine that prints and reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orrery_machine::System;

fuzz_target!(|text: &str| {
    match System::parse("fuzzed.toml", text) {
        Ok(system) => {
            let printed = system.to_string();
            let again = System::parse("printed.toml", &printed).expect("a printed machine reads back");
            assert_eq!(again.to_string(), printed);
        }
        Err(refusal) => assert!(refusal.code.starts_with("system-"), "{refusal}"),
    }
});
