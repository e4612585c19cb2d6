//! `orrery train` and `orrery evaluate`: what is made of data, and what is said where they do not fit.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use crate::support::{NET, Ran, orrery_in, scratch};
use std::path::Path;

/// A model whose three scores are its three inputs.
const THREE: &str = r#"graph "three" {
  input %x: f32[batch, 3]
  constant %w: f32[3, 3] = [1, 0, 0, 0, 1, 0, 0, 0, 1]
  %y: f32[batch, 3] = MatMul(%x, %w)
  output %y
}
"#;

/// Writes an array file: NumPy's word for the type, the shape, the elements.
fn npy(path: &Path, word: &str, shape: &str, elements: &[u8]) {
    let text = format!("{{'descr': '{word}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = u16::try_from(text.len()).unwrap().to_le_bytes();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), elements].concat()).unwrap();
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn integers(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn train(folder: &Path, net: &str, data: &str, more: &[&str]) -> Ran {
    let line = ["train", net, "--data", data, "--held-out", "0", "--batch", "2", "--steps", "2"];
    orrery_in(folder, &[&line, more].concat())
}

#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, 1, "{}", ran.all());
    words.iter().for_each(|word| assert!(ran.err.contains(word), "no {word}: {}", ran.all()));
}

#[test]
fn what_is_no_number_is_found_in_the_data_before_a_step() {
    let folder = scratch("not-a-number");
    std::fs::write(folder.join("net.graph"), NET).unwrap();
    let mut x = vec![0.5; 8];
    x[5] = f32::NAN;
    npy(&folder.join("d/x.npy"), "<f4", "(4, 2)", &floats(&x));
    npy(&folder.join("d/y.npy"), "<i8", "(4,)", &integers(&[0, 1, 0, 1]));
    let ran = train(&folder, "net.graph", "d", &[]);
    refused(&ran, &["error[data-value]: index 1 is NaN", "sample 2, counted from 0", "column `x`"]);
    assert!(!ran.err.contains("learning rate"), "{}", ran.all());
    x[5] = f32::INFINITY;
    npy(&folder.join("d/x.npy"), "<f4", "(4, 2)", &floats(&x));
    refused(
        &train(&folder, "net.graph", "d", &["--normalise", "x"]),
        &["error[data-value]: index 1 is infinite"],
    );
    // What the model does not see does not matter.
    npy(&folder.join("d/z.npy"), "<f4", "(4, 2)", &floats(&x));
    npy(&folder.join("d/x.npy"), "<f4", "(4, 2)", &floats(&[0.5; 8]));
    let ran = train(&folder, "net.graph", "d", &["--column", "x=x", "--checkpoint", "c.safetensors"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    let mut checkpoint = std::fs::read(folder.join("c.safetensors")).unwrap();
    let end = checkpoint.len();
    checkpoint[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(folder.join("c.safetensors"), checkpoint).unwrap();
    let ran = train(&folder, "net.graph", "d", &["--column", "x=x", "--resume", "c.safetensors"]);
    refused(&ran, &["error[checkpoint-value]", "holds NaN", "c.safetensors"]);
}

#[test]
fn whole_numbers_that_are_classes_stay_as_they_are() {
    let folder = scratch("labels-stay");
    std::fs::write(folder.join("three.graph"), THREE).unwrap();
    std::fs::write(folder.join("t.csv"), "a,b,c,kind\n9,0,0,0\n0,0,9,2\n9,0,0,0\n0,0,9,2\n").unwrap();
    let accuracy = |data: &str| {
        let ran = orrery_in(&folder, &["evaluate", "three.graph", "--data", data, "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.all());
        ran.json()["metrics"]["accuracy"].as_f64().unwrap()
    };
    assert_eq!(accuracy("t.csv"), 1.0);
    let ran = train(&folder, "three.graph", "t.csv", &[]);
    assert!(ran.code == 0 && ran.err.contains("column `kind` as they are: 0, 2"), "{}", ran.all());
    // As many numbers as classes, or fewer, that are not all classes are numbered, and this is said.
    std::fs::write(folder.join("t.csv"), "a,b,c,kind\n9,0,0,5\n0,9,0,7\n9,0,0,5\n0,9,0,7\n").unwrap();
    assert_eq!(accuracy("t.csv"), 1.0);
    let ran = train(&folder, "three.graph", "t.csv", &[]);
    assert!(ran.code == 0 && ran.err.contains("5 is class 0, 7 is class 1"), "{}", ran.all());
    std::fs::write(folder.join("t.csv"), "a,b,c,kind\n9,0,0,5\n0,9,0,7\n9,0,0,8\n0,9,0,9\n").unwrap();
    refused(
        &train(&folder, "three.graph", "t.csv", &[]),
        &["label 5 is none of the model's 3 classes", "line 2"],
    );
}

#[test]
fn numbers_become_the_models_floats_and_floats_no_integers() {
    let folder = scratch("types");
    std::fs::write(folder.join("net.graph"), NET).unwrap();
    npy(&folder.join("d/y.npy"), "<i8", "(4,)", &integers(&[0, 1, 0, 1]));
    let values = [0.5, 1.0, 2.0, 0.25, 1.5, 1.0, 3.0, 0.0];
    npy(&folder.join("d/x.npy"), "<f4", "(4, 2)", &floats(&values.map(|v| v as f32)));
    let loss = |words: &str| {
        let ran = train(&folder, "net.graph", "d", &["--json"]);
        assert!(ran.code == 0 && ran.err.contains(words), "no {words}: {}", ran.all());
        ran.json()["runs"][0]["outcome"]["history"][0]["loss"].as_f64().unwrap()
    };
    let single = loss("input `x` from column `x`");
    npy(&folder.join("d/x.npy"), "<f8", "(4, 2)", &doubles(&values));
    assert_eq!(loss("column `x` is f64, and becomes f32 for `x`"), single);
    npy(&folder.join("d/x.npy"), "<i8", "(4, 2)", &integers(&[1, 2, 3, 4, 5, 6, 7, 8]));
    loss("column `x` is i64, and becomes f32 for `x`");
    npy(&folder.join("d/y.npy"), "<f4", "(4,)", &floats(&[0.0, 1.0, 0.0, 1.0]));
    let ran = train(&folder, "net.graph", "d", &["--loss", "cross-entropy"]);
    refused(&ran, &["error[data-type]: column `y` is f32, `labels` takes i64", "--loss mse"]);
}

#[test]
fn a_trained_model_is_judged_on_a_file_of_its_own() {
    let folder = scratch("judged");
    std::fs::write(folder.join("net.graph"), NET).unwrap();
    std::fs::write(folder.join("t.csv"), "a,b,kind\n9,0,cat\n0,9,dog\n9,0,cat\n0,9,dog\n").unwrap();
    // By itself, the file has one class, which would be number 0.
    std::fs::write(folder.join("test.csv"), "a,b,kind\n0,9,dog\n0,8,dog\n0,7,dog\n").unwrap();
    let ran = train(&folder, "net.graph", "t.csv", &["--test", "test.csv", "--save", "on.onnx", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    let test = &ran.json()["runs"][0]["outcome"]["test"];
    assert_eq!(test["accuracy"], 1.0, "{test}");
    let shown = train(&folder, "net.graph", "t.csv", &["--test", "test.csv"]);
    assert!(shown.out.contains("test accuracy"), "{}", shown.all());
    std::fs::write(folder.join("test.csv"), "a,b,kind\n0,9,fox\n0,8,fox\n").unwrap();
    let ran = train(&folder, "net.graph", "t.csv", &["--test", "test.csv"]);
    refused(&ran, &["`fox` is no class of the data that is trained on", "cat, dog"]);
    // Beyond the range of fp16.
    std::fs::write(folder.join("test.csv"), "a,b,kind\n0,1e6,dog\n1e6,0,cat\n").unwrap();
    let ran = train(&folder, "net.graph", "t.csv", &["--test", "test.csv", "--on", "a100"]);
    assert!(ran.code == 0 && ran.err.contains("warning[held-out-value]: after step 2"), "{}", ran.all());
    for place in ["host", "a100"] {
        let ran = orrery_in(&folder, &["evaluate", "on.onnx", "--data", "t.csv", "--on", place, "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.all());
        assert_eq!((&ran.json()["samples"], &ran.json()["metrics"]["accuracy"]), (&4.into(), &1.0.into()));
    }
}

#[test]
fn values_of_a_model_with_one_output_are_no_classes() {
    let folder = scratch("one-output");
    let net = NET.replace("[0.5, -0.5, 0.25, 1]", "[0.5, 1]").replace("f32[2, 2]", "f32[2, 1]");
    let net = net.replace("%b: f32[2] = [0, 0.125]", "%b: f32[1] = [0]");
    let net = net
        .replace("%h: f32[batch, 2]", "%h: f32[batch, 1]")
        .replace("%y: f32[batch, 2]", "%y: f32[batch, 1]");
    std::fs::write(folder.join("net.graph"), net).unwrap();
    std::fs::write(folder.join("t.csv"), "a,b,y\n1,0,12\n0,1,7\n1,1,30\n0,0,3\n").unwrap();
    refused(
        &train(&folder, "net.graph", "t.csv", &[]),
        &["model with one output", "--loss mse", "--loss bce"],
    );
    let ran = train(&folder, "net.graph", "t.csv", &["--loss", "mse"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    std::fs::write(folder.join("t.csv"), "a,b,y\n1,0,1\n0,1,0\n1,1,1\n0,0,0\n").unwrap();
    refused(&train(&folder, "net.graph", "t.csv", &[]), &["--loss bce"]);
    assert_eq!(train(&folder, "net.graph", "t.csv", &["--loss", "bce"]).code, 0);
}
