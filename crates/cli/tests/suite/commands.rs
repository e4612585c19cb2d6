//! What each command prints, whole. Predicted figures are masked: other tests hold them.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use crate::support::{orrery, orrery_in, scratch, workspace};
use orrery::METRICS;

/// Masks figures and runs of spaces around them.
fn masked(text: &str) -> String {
    let mut settings = insta::Settings::new();
    settings.set_filters(Vec::<(&str, &str)>::new());
    let figure =
        regex::Regex::new(r"\d[\d.,]*( ?(ps|ns|µs|ms|s|%|[kMGT]?(i?B|FLOP/s))\b|%| [kMGT]\b|\b)").unwrap();
    let spaces = regex::Regex::new(r" {2,}").unwrap();
    let masked = figure.replace_all(text, "#");
    spaces.replace_all(&masked, "  ").into_owned()
}

#[test]
fn models_are_listed() {
    insta::assert_snapshot!(orrery(&["models"]).all());
}

#[test]
fn a_model_is_shown_with_its_options() {
    insta::assert_snapshot!(orrery(&["models", "gemm"]).all());
}

#[test]
fn a_model_is_inspected() {
    insta::assert_snapshot!(orrery(&["inspect", "braggnn"]).all());
}

#[test]
fn machines_are_listed() {
    let ran = orrery(&["systems"]);
    insta::assert_snapshot!(ran.out.lines().take(6).collect::<Vec<_>>().join("\n"));
    assert_eq!(ran.code, 0);
}

#[test]
fn a_machine_is_shown_with_status_and_source() {
    let ran = orrery(&["systems", "show", "gc200"]);
    let line = ran.out.lines().find(|line| line.starts_with("tiles ")).unwrap();
    assert!(line.contains("1472") && line.contains("published"), "{line}");
}

#[test]
fn machines_are_compared() {
    insta::assert_snapshot!(masked(&orrery(&["compare", "braggnn"]).all()));
}

#[test]
fn what_cannot_run_is_said_with_the_reason() {
    let ran = orrery(&["compare", "braggnn", "--on", "a100,gc200", "--precision", "bf16"]);
    insta::assert_snapshot!(masked(&ran.all()));
    let nowhere = orrery(&["compare", "braggnn", "--on", "gc200", "--precision", "bf16"]);
    assert_eq!(nowhere.code, 1, "{}", nowhere.all());
}

#[test]
fn a_comparison_is_records() {
    let json = orrery(&["compare", "braggnn", "--batch", "1,32", "--json"]).json();
    let records = json["records"].as_array().unwrap();
    assert_eq!(records.len(), 26, "13 machines at two batches");
    for record in records {
        assert_eq!(record["orrery_record"], 1);
        assert_eq!(record["provenance"]["kind"], "simulated");
        let confidence = record["provenance"]["confidence"].as_str().unwrap();
        assert!(confidence == "uncalibrated" || confidence.starts_with("measured "), "{confidence}");
        let latency = record["measurements"].as_array().unwrap().iter().find(|m| m["metric"] == "latency_ms");
        assert!(latency.unwrap()["value"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(json["comparison"]["groups"].as_array().unwrap().len(), 2);
}

#[test]
fn threads_change_nothing() {
    let run = |threads| orrery(&["compare", "braggnn", "--batch", "1,8", "--json", "--threads", threads]).out;
    assert_eq!(run("1"), run("4"));
}

#[test]
fn time_and_memory_are_explained() {
    insta::assert_snapshot!(masked(&orrery(&["explain", "relu", "--on", "a100"]).all()));
}

#[test]
fn nodes_are_checked() {
    insta::assert_snapshot!(orrery(&["check", "braggnn", "--on", "a100,gc200"]).all());
}

#[test]
fn a_program_is_printed() {
    let ran = orrery(&["compile", "relu", "--on", "a100", "--emit", "program"]);
    assert!(ran.out.starts_with("program \"relu\" {\n  machine \"a100-40gb\""), "{}", ran.all());
}

#[test]
fn outputs_go_through_files_and_agree_with_the_interpreter() {
    let folder = scratch("files");
    let first =
        orrery_in(&folder, &["run", "braggnn", "--batch", "2", "--check", "--output", "y.npz", "--json"]);
    assert_eq!(first.code, 0, "{}", first.all());
    let error = first.json()["check"]["outputs"][0]["relative_error"].as_f64().unwrap();
    assert!(error < 1e-5, "{error}");
    // The output of one model is the input of another: ReLU of positive and negative numbers.
    let input = orrery_in(
        &folder,
        &["run", "relu", "--param", "size=2", "--param", "channels=3", "--output", "x.npz", "--json"],
    );
    assert_eq!(input.code, 0, "{}", input.all());
    let wrong = orrery_in(&folder, &["run", "braggnn", "--input", "y.npz"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("error[input-unknown]"), "{}", wrong.err);
}

#[test]
fn a_machine_computes_in_its_own_arithmetic() {
    for machine in ["a100", "gc200"] {
        let ran = orrery(&["run", "braggnn", "--on", machine, "--check", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.all());
        let check = &ran.json()["check"];
        assert!(check["steps"].as_u64().unwrap() > 5);
        assert_eq!(check["disagreements"].as_array().unwrap().len(), 0);
        let error = check["outputs"][0]["relative_error"].as_f64().unwrap();
        assert!(error > 0.0 && error < 0.05, "fp16 rounds, and not much: {error}");
    }
}

#[test]
fn an_exported_model_is_the_same_model() {
    let folder = scratch("export");
    let exported = orrery_in(&folder, &["export", "braggnn", "b.onnx"]);
    assert_eq!(exported.code, 0, "{}", exported.all());
    let run = |model: &str, output: &str| {
        let ran = orrery_in(&folder, &["run", model, "--output", output, "--quiet"]);
        assert_eq!(ran.code, 0, "{}", ran.all());
        std::fs::read(folder.join(output)).unwrap()
    };
    assert_eq!(run("braggnn", "a.npz"), run("b.onnx", "b.npz"));
}

#[test]
fn figures_are_validated() {
    let folder = scratch("validate");
    let header =
        "id,system,devices,workload,mode,precision,batch_size,scope,spec,metric,value,unit,scored,source";
    let rows = [
        r#"one,NVIDIA A100-40GB,1,gemm,primitive,fp16,1,device,"{""batch"": 1, ""m"": 4096, ""k"": 4096, ""n"": 4096}",tflops,213,TFLOPS,yes,a paper"#,
        r#"two,Tenstorrent n300,1,braggnn,train,fp16,512,device,{},samples_per_s,1000,samples/s,yes,a talk"#,
    ];
    std::fs::write(folder.join("rows.csv"), format!("{header}\n{}\n", rows.join("\n"))).unwrap();
    let ran = orrery_in(&folder, &["validate", "rows.csv", "--json"]);
    let json = ran.json();
    let keys = [
        "id",
        "system",
        "workload",
        "mode",
        "metric",
        "batch_size",
        "stack",
        "source",
        "measured",
        "predicted",
        "ratio",
        "scored",
        "status",
    ];
    for key in keys {
        assert!(json["rows"][0].get(key).is_some(), "{key}");
    }
    assert_eq!(json["rows"][0]["status"], "ok");
    assert!(json["rows"][0]["confidence"].is_string());
    assert!(
        json["rows"][1]["status"].as_str().is_some_and(|why| why.starts_with("there is no description of"))
    );
    assert!(json["rows"][1]["predicted"].is_null());
    assert_eq!(json["clean"][0]["n"], 1);
}

#[test]
fn help_has_examples() {
    insta::assert_snapshot!(orrery(&["--help"]).out);
    for command in [
        "systems", "models", "inspect", "check", "compile", "run", "compare", "explain", "export", "validate",
    ] {
        let ran = orrery(&[command, "--help"]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("Example"), "{command}");
        assert!(ran.out.lines().all(|line| line.chars().count() <= 130), "{command}");
    }
}

#[test]
fn lengths_of_a_sequence_are_compared_side_by_side() {
    let ran = orrery(&["compare", "bert_tiny", "--seq", "16,32", "--on", "a100,cs2"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let at = rows.iter().find(|row| row.first() == Some(&"machine")).expect("a heading");
    let column = at.iter().position(|word| *word == "seq").expect("a column of lengths");
    let lengths = |machine: &str| -> Vec<&str> {
        rows.iter().filter(|row| row.first() == Some(&machine)).map(|row| row[column]).collect()
    };
    assert_eq!((lengths("a100-40gb"), lengths("cs2")), (vec!["16", "32"], vec!["16", "32"]));
    let ran = orrery(&["compare", "bert_tiny", "--seq", "16", "--dim", "seq=32", "--on", "a100"]);
    assert!(ran.err.contains("dimension-conflict"), "{}", ran.all());
}

#[test]
fn what_validation_does_not_know_of_a_file_is_told() {
    let folder = scratch("validation");
    let rows = "id,system,workload,mode,precision,batch_size,stack,spec,metric,value\n\
                huge,a100-40gb,braggnn,inference,fp16,8,cudda,\"{\"\"colour\"\": 1}\",latency_ms,1e300\n\
                slip,a100-40gb,braggnn,inference,fp16,8,,{},sample_per_s,5\n";
    std::fs::write(folder.join("own.csv"), rows).expect("a file can be written");
    let ran = orrery_in(&folder, &["validate", "own.csv"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    for words in ["1.000e300", "`colour` of spec", "stack `cudda` of", "`samples_per_s` is close"] {
        assert!(ran.out.contains(words), "no {words}: {}", ran.all());
    }
    assert!(ran.out.lines().all(|line| line.chars().count() <= 100), "{}", ran.all());
    let help = orrery(&["validate", "--help"]).out;
    let readme = std::fs::read_to_string(workspace().join("measurements/README.md")).expect("it is there");
    for (metric, _) in METRICS {
        assert!(help.contains(metric) && readme.contains(&format!("`{metric}`")), "{metric}");
    }
}
