//! Bad input: what is said, and how the command ends.

use crate::support::{orrery, orrery_in, scratch, workspace};

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
    let folder = scratch("own-machine");
    let text = std::fs::read_to_string(workspace().join("systems/gc200.toml")).expect("it is there");
    let text = text.replacen("name = \"gc200\"", "name = \"lattice\"", 1);
    std::fs::write(folder.join("lattice.toml"), text).expect("a file can be written");
    for (typed, meant) in [("a10", "a100"), ("latice", "lattice"), ("BowPod64", "bow-pod64")] {
        let ran = orrery_in(&folder, &["compare", "braggnn", "--on", typed, "--system", "lattice.toml"]);
        assert!(ran.code == 1 && ran.err.contains(&format!("did you mean `{meant}`?")), "{}", ran.all());
    }
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
fn paths_of_results_are_tried_before_the_work() {
    for arguments in [
        &["calibrate", "measurements/calibration.csv", "--on", "sn30", "--write", "missing"][..],
        &["run", "braggnn", "--output", "missing/out.npz"],
        &["data", "bragg-peaks:n=4", "--output", "missing/out.npz"],
    ] {
        let ran = orrery(arguments);
        assert!(ran.code == 1 && ran.err.contains("there is no folder missing"), "{}", ran.all());
        assert!(ran.out.is_empty(), "{}", ran.all());
    }
}

#[test]
fn what_this_host_cannot_hold_is_refused_before_it_is_made() {
    let wide = ["run", "mnist_cnn", "--batch", "1000000000"];
    let train = [
        "train",
        "gpt3_175b",
        "--data",
        "codons:n=4,seq=8",
        "--dim",
        "seq=8",
        "--held-out",
        "0",
        "--batch",
        "1",
    ];
    for (arguments, words) in [
        (&["run", "gpt3_175b"][..], "weights 650 GiB"),
        (&wide, "inputs and outputs"),
        (&train, "parameters 650 GiB"),
    ] {
        let ran = orrery(arguments);
        assert!(ran.code == 1 && ran.err.contains("error[host-memory]"), "{}", ran.all());
        assert!(ran.err.contains(words) && ran.err.contains(" are free"), "{}", ran.all());
    }
}

#[test]
fn a_size_known_only_by_running_is_told_once_and_is_no_option() {
    let folder = scratch("by-running");
    let text = "graph \"nz\" {\n  input %x: f32[4, 8]\n  %nz: i64[2, n] = NonZero(%x)\n  output %nz\n}\n";
    std::fs::write(folder.join("nz.graph"), text).expect("a file can be written");
    for command in ["compare", "check"] {
        let ran = orrery_in(&folder, &[command, "nz.graph"]);
        assert_eq!(ran.code, 1, "{}", ran.all());
        let said = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(said.matches("[unknown-type]").count(), 1, "{}", ran.all());
        assert!(!said.contains("--dim") && said.contains("--on host"), "{}", ran.all());
        assert!(said.contains("a100-40gb") && said.contains("cs3"), "{}", ran.all());
    }
    assert_eq!(orrery_in(&folder, &["run", "nz.graph"]).code, 0);
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    for arguments in [
        &["inspect", "braggnn", "--batch", "4", "--dim", "batch=8"][..],
        &["check", "braggnn", "--batch", "4", "--dim", "batch=8", "--on", "a100"],
        &["compile", "braggnn", "--batch", "4", "--dim", "batch=8", "--on", "a100"],
        &["run", "braggnn", "--batch", "4", "--dim", "batch=8"],
        &["compare", "braggnn", "--batch", "8,4", "--dim", "batch=8"],
        &["explain", "braggnn", "--batch", "4", "--dim", "batch=8", "--on", "a100"],
        &["sweep", "bert_tiny", "--dim", "seq=4", "--over", "seq=1..8", "--on", "a100"],
    ] {
        let ran = orrery(arguments);
        assert!(ran.code == 1 && ran.err.contains("dimension-conflict"), "{arguments:?}: {}", ran.all());
    }
    let same = orrery(&["inspect", "braggnn", "--batch", "4", "--dim", "batch=4"]);
    assert_eq!(same.code, 0, "{}", same.all());
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
