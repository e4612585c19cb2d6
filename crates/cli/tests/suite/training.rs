//! `orrery train` and `orrery data`, on sets that need no file.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use crate::support::{NET, orrery, orrery_in, scratch};
use serde_json::Value;

const PEAKS: [&str; 8] =
    ["train", "braggnn", "--data", "bragg-peaks:n=64", "--held-out", "16", "--batch", "16"];

fn train(more: &[&str]) -> Value {
    let ran = orrery(&[&PEAKS[..], more, &["--json", "-q"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.all());
    serde_json::from_str(&ran.out).unwrap()
}

fn loss(answer: &Value) -> f64 {
    let history = answer["runs"][0]["outcome"]["history"].as_array().unwrap();
    history.last().unwrap()["held_out"]["loss"].as_f64().unwrap()
}

#[test]
fn a_model_learns_on_the_host_and_in_the_arithmetic_of_machines() {
    let before = loss(&train(&["--lr", "0", "--steps", "1"]));
    for place in ["host", "a100", "cs2"] {
        let after = loss(&train(&["--lr", "0.003", "--steps", "12", "--on", place]));
        assert!(after < 0.7 * before, "{place}: {after} after {before}");
    }
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bits() {
    let folder = scratch("resumed");
    let path = |name: &str| folder.join(name).display().to_string();
    let (whole, part) = (path("whole.safetensors"), path("part.safetensors"));
    train(&["--steps", "7", "--checkpoint", &whole]);
    train(&["--steps", "4", "--checkpoint", &part]);
    train(&["--steps", "7", "--checkpoint", &part, "--resume", &part]);
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&part).unwrap(), "the checkpoints differ");
    // A step that was cut off leaves the checkpoint before it.
    std::fs::write(folder.join("part.safetensors.partial"), b"half").unwrap();
    train(&["--steps", "8", "--checkpoint", &part, "--resume", &part]);
    let cut = std::fs::read(&whole).unwrap();
    std::fs::write(&whole, &cut[..cut.len() / 2]).unwrap();
    let ran = orrery(&[&PEAKS[..], &["--resume", &whole]].concat());
    assert!(ran.code == 1 && ran.err.contains("checkpoint-format"), "{}", ran.all());
    let ran = orrery(&[&PEAKS[..], &["--seed", "2", "--resume", &part]].concat());
    assert!(ran.code == 1 && ran.err.contains("checkpoint-mismatch"), "{}", ran.all());
}

#[test]
fn too_high_a_learning_rate_names_the_step_the_op_and_the_remedy() {
    let ran = orrery(&[&PEAKS[..], &["--lr", "1e9", "--optimizer", "sgd", "--epochs", "20"]].concat());
    assert_eq!(ran.code, 1, "{}", ran.all());
    for word in ["step ", "node `", "learning rate is 1.000e9", "--clip-norm"] {
        assert!(ran.err.contains(word), "no {word}: {}", ran.all());
    }
}

#[test]
fn micro_batches_learn_what_their_batch_does() {
    let whole = loss(&train(&["--lr", "0.003", "--steps", "6"]));
    let parts = loss(&train(&["--lr", "0.003", "--steps", "6", "--accumulate", "4"]));
    assert!((whole - parts).abs() < 1e-4 * whole, "{whole} and {parts}");
}

#[test]
fn a_grid_is_one_table() {
    let ran = orrery(&[&PEAKS[..6], &["--batch", "8,16", "--lr", "0.001,0.01", "--samples", "64"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.all());
    assert_eq!(ran.out.lines().count(), 1 + 4 + 2, "{}", ran.out);
    assert!(ran.out.contains("samples are held fixed"), "{}", ran.out);
}

#[test]
fn what_is_measured_here_stands_beside_what_is_predicted_of_the_machine() {
    for place in ["a100", "cs2"] {
        let run = &train(&["--steps", "3", "--on", place, "--accumulate", "2"])["runs"][0]["outcome"];
        let (here, there) = (&run["host_seconds"], &run["predicted"]);
        assert!(here.as_f64().unwrap() > 0.0 && run["host_steps_timed"] == 3, "{run}");
        assert_eq!(there["record"]["provenance"]["kind"], "simulated", "{there}");
        assert_eq!(there["record"]["identity"]["batch"]["global"], 8);
        let step = there["record"]["measurements"][0]["value"].as_f64().unwrap();
        let (seconds, most) = (there["seconds"]["value"].as_f64().unwrap(), 6.0 * step * 1e-3);
        assert!((seconds - most).abs() < 1e-9, "{seconds} for 6 micro-batches of {step} ms");
        let interval =
            there["seconds"]["interval"].as_array().map(|i| [0, 1].map(|k| i[k].as_f64().unwrap()));
        assert!(interval.is_none_or(|[low, high]| low < high), "{there}");
    }
    let run = &train(&["--steps", "1"])["runs"][0]["outcome"];
    assert!(run["predicted"].is_null(), "{run}");
    let ran = orrery(&[&PEAKS[..], &["--steps", "2", "--on", "a100"]].concat());
    let said = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in
        ["measured on this host: 2 steps in", "predicted for a100-40gb, not measured: the same steps in"]
    {
        assert!(said.contains(words), "no {words}: {}", ran.all());
    }
}

#[test]
fn a_trained_model_is_written_and_runs() {
    let folder = scratch("trained");
    let path = |name: &str| folder.join(name).display().to_string();
    train(&["--steps", "3", "--save", &path("net.onnx")]);
    let peaks =
        orrery_in(&folder, &["data", "bragg-peaks:n=64", "--held-out", "16", "--output", "peaks.npz"]);
    assert!(peaks.code == 0 && peaks.out.contains("16 samples"), "{}", peaks.all());
    let ran = orrery_in(&folder, &["run", "net.onnx", "--input", "peaks.npz"]);
    // The file has the labels too, which the model does not take.
    assert!(ran.code == 0 && ran.err.contains("note[input-unused]"), "{}", ran.all());
    let ran = orrery_in(&folder, &["run", "net.onnx", "--batch", "2", "--check"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
}

#[test]
fn a_weight_that_the_loss_does_not_see_stays() {
    let folder = scratch("idle");
    let net = NET.replace(
        "  output %y\n",
        "  constant %idle: f32[2, 2] = [1, 0, 0, 1]\n  %z: f32[batch, 2] = MatMul(%x, %idle)\n  output %y\n  output %z\n",
    );
    std::fs::write(folder.join("net.graph"), net).unwrap();
    std::fs::write(folder.join("t.csv"), "a,b,y\n0,1,0\n1,0,1\n1,1,1\n0,0,0\n").unwrap();
    for place in ["host", "a100", "gc200"] {
        let ran = orrery_in(
            &folder,
            &["train", "net.graph", "--data", "t.csv", "--held-out", "2", "--batch", "2", "--on", place],
        );
        assert!(ran.code == 0 && ran.err.contains("does not depend on `idle`"), "{place}: {}", ran.all());
    }
}
