//! Bad input: what is said, and how the command ends.

use crate::support::{orrery, orrery_in, scratch};

#[test]
fn a_misspelt_model_is_guessed() {
    insta::assert_snapshot!(orrery(&["compare", "bragnn"]).all());
}

#[test]
fn a_missing_file_is_named() {
    insta::assert_snapshot!(orrery(&["inspect", "missing.onnx"]).all());
}

#[test]
fn an_unknown_machine_is_guessed() {
    insta::assert_snapshot!(orrery(&["compare", "braggnn", "--on", "gc20"]).all());
}

#[test]
fn a_wrong_dimension_is_named() {
    insta::assert_snapshot!(orrery(&["compare", "bert_tiny", "--dim", "seqence=4"]).all());
}

#[test]
fn another_kind_of_file_is_refused() {
    let folder = scratch("format");
    std::fs::write(folder.join("model.pt"), b"pickled").expect("a file can be written");
    insta::assert_snapshot!(orrery_in(&folder, &["inspect", "model.pt"]).all());
    std::fs::write(folder.join("broken.onnx"), b"\x08\x08\x12").expect("a file can be written");
    let broken = orrery_in(&folder, &["inspect", "broken.onnx", "--json"]);
    assert_eq!(broken.code, 1);
    assert!(broken.json()["error"]["code"].as_str().is_some_and(|code| code.starts_with("onnx-")));
}

#[test]
fn wrong_usage_ends_with_two() {
    for arguments in [
        &["compare"][..],
        &["compare", "braggnn", "--batch", "0"],
        &["compare", "braggnn", "--dim", "seq"],
        &["fly", "braggnn"],
        &["explain", "braggnn"],
        &[],
    ] {
        assert_eq!(orrery(arguments).code, 2, "{arguments:?}");
    }
    assert_eq!(orrery(&["--version"]).code, 0);
}

#[test]
fn an_option_of_the_zoo_is_checked() {
    insta::assert_snapshot!(orrery(&["inspect", "gemm", "--param", "m=many"]).all());
}

#[test]
fn errors_are_json_where_asked() {
    let ran = orrery(&["compare", "nothing", "--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["error"]["code"], "model-unknown");
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_orrery"))
        .args(["compile", "resnet50", "--on", "a100", "--emit", "program"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("the command ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(!said.contains("error"), "{said}");
}
