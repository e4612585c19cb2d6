//! Real models on machines that are not there, in fp16: every step of the Program agrees with the interpreter within the
//! bounds that follow from its sums and formats, and the error against the model's own fp32 is reported and small.
//!
//! The larger models take minutes without optimisation and are left to whoever releases; those here have convolutions,
//! recurrences, branches, attention and a cache between them.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use crate::support::{orrery, workspace};
use std::path::{Path, PathBuf};

/// Error against fp32 that no sound run of these networks in fp16 comes near.
const FAR_OFF: f64 = 0.1;

fn check(model: &Path, input: &Path) {
    let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
    for machine in ["a100", "gc200", "bow"] {
        let ran = orrery(&[
            "run",
            &text(model),
            "--input",
            &text(input),
            "--on",
            machine,
            "--precision",
            "fp16",
            "--check",
            "--json",
        ]);
        assert_eq!(ran.code, 0, "{} on {machine}: {}", model.display(), ran.all());
        let check = &ran.json()["check"];
        assert!(
            check["steps"].as_u64().unwrap() > 0,
            "{}: no step was held against the interpreter",
            ran.out
        );
        assert_eq!(check["disagreements"].as_array().unwrap().len(), 0);
        let outputs = check["outputs"].as_array().unwrap();
        assert!(!outputs.is_empty());
        for output in outputs {
            let error = output["relative_error"].as_f64().unwrap();
            assert!(error < FAR_OFF, "{} on {machine}: {output}", model.display());
        }
        let rounded = outputs.iter().any(|output| output["relative_error"].as_f64() != Some(0.0));
        assert!(rounded, "{} on {machine}: fp16 changes no number", model.display());
    }
}

/// A model of the cache with the inputs that ONNX Runtime was given.
fn published(case: &str) {
    let cache = std::env::var_os("ORRERY_CACHE").map_or_else(|| workspace().join(".cache"), PathBuf::from);
    let folder = cache.join("expected").join(case);
    let Ok(model) = std::fs::read_to_string(folder.join("model.txt")) else {
        assert!(std::env::var_os("ORRERY_CACHE_REQUIRED").is_none(), "{case} is not in the cache");
        return;
    };
    check(&cache.join(model.trim()), &folder.join("input.npz"));
}

#[test]
fn speech_in_all_its_exports() {
    for case in [
        "silero-vad",
        "silero-vad-8k",
        "silero-vad-batch",
        "silero-vad-16k-op15",
        "silero-vad-16k-sequence",
        "silero-vad-half",
        "silero-vad-op18-ifless",
        "silero-vad-openvino-16k",
    ] {
        published(case);
    }
}

#[test]
fn direction_of_text() {
    published("rapidocr-cls");
}

#[test]
fn file_types() {
    published("magika");
}

#[test]
fn exports_of_pytorch() {
    let exports = workspace().join("tests/exports");
    for (network, export) in [
        ("bert_manual", "torchscript-17"),
        ("bert_sdpa", "dynamo-25"),
        ("gpt_cache", "dynamo-25"),
        ("gpt_manual", "dynamo-18"),
        ("gpt_sdpa", "torchscript-17"),
        ("resnet", "torchscript-17-batchnorm"),
    ] {
        let folder = exports.join(network);
        check(&folder.join(format!("{export}.onnx")), &folder.join("0.input.npz"));
    }
}
