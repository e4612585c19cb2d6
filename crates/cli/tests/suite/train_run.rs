//! `orrery train`: what it writes and where, what it says of how far it came, and what does not train.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use crate::support::{Ran, net_and_table, orrery, orrery_in};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const LINE: [&str; 8] = ["train", "net.graph", "--data", "t.csv", "--held-out", "0", "--batch", "2"];

fn train(folder: &Path, more: &[&str]) -> Ran {
    orrery_in(folder, &[&LINE, more].concat())
}

/// A run without end that keeps a checkpoint, and what it says from the line on that has these words.
fn endless(folder: &Path, more: &[&str], words: &str) -> (Child, BufReader<ChildStderr>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_orrery"))
        .args(LINE)
        .args(["--epochs", "100000000", "--checkpoint", "run.safetensors"])
        .args(more)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before it said `{words}`");
    }
    (child, said)
}

#[test]
fn nothing_that_is_read_or_made_by_others_is_overwritten() {
    let folder = net_and_table("overwritten");
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    let exported = orrery_in(&folder, &["export", "braggnn", "net.onnx"]);
    assert_eq!(exported.code, 0, "{}", exported.all());
    let before = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let held: Vec<Vec<u8>> = ["net.graph", "t.csv", "notes.txt", "net.onnx"].map(before).to_vec();
    for (options, code) in [
        (&["--checkpoint", "t.csv"][..], "output-is-input"),
        (&["--checkpoint", "./net.graph"], "output-is-input"),
        (&["--save", "../overwritten/t.csv"], "output-is-input"),
        (&["--test", "notes.txt", "--save", "notes.txt"], "output-is-input"),
        (&["--save", "one", "--checkpoint", "./one"], "output-twice"),
        (&["--checkpoint", "notes.txt"], "output-exists"),
        (&["--checkpoint", "net.onnx"], "output-exists"),
        (&["--save", "notes.txt"], "output-exists"),
    ] {
        let ran = train(&folder, options);
        assert!(ran.code == 1 && ran.err.contains(&format!("error[{code}]")), "{options:?}: {}", ran.all());
    }
    for (path, code) in [("t.csv", "output-is-input"), ("notes.txt", "output-exists")] {
        let ran = orrery_in(&folder, &["data", "t.csv", "--output", path]);
        assert!(ran.code == 1 && ran.err.contains(&format!("error[{code}]")), "{path}: {}", ran.all());
    }
    assert_eq!(["net.graph", "t.csv", "notes.txt", "net.onnx"].map(before).to_vec(), held);
    // What the same command has made may be made again.
    for _ in 0..2 {
        let ran = train(&folder, &["--save", "trained.onnx", "--checkpoint", "run.safetensors"]);
        assert_eq!(ran.code, 0, "{}", ran.all());
        let ran = orrery_in(&folder, &["data", "t.csv", "--output", "t.npz"]);
        assert_eq!(ran.code, 0, "{}", ran.all());
    }
    let ran =
        train(&folder, &["--steps", "9", "--resume", "run.safetensors", "--checkpoint", "run.safetensors"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
}

#[test]
fn a_run_that_is_interrupted_ends_after_its_step_with_a_checkpoint() {
    let folder = net_and_table("interrupted");
    let (mut child, mut said) = endless(&folder, &[], "labels from column");
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    for words in [
        "error[cancelled]",
        "to go on: orrery train net.graph --resume run.safetensors --checkpoint run.safetensors",
    ] {
        assert!(rest.contains(words), "no {words}: {rest}");
    }
    let ran = orrery_in(&folder, &["train", "net.graph", "--resume", "run.safetensors", "--steps", "1"]);
    assert!(ran.code == 0 && ran.out.contains("nothing was left to train"), "{}", ran.all());
}

#[test]
fn how_far_a_run_came_is_said_as_it_is() {
    let folder = net_and_table("how-far");
    let ran = train(&folder, &["--steps", "3", "--json"]);
    let outcome = &ran.json()["runs"][0]["outcome"];
    assert_eq!(
        (&outcome["epochs"], &outcome["history"][0]["whole"]),
        (&0.75.into(), &false.into()),
        "{}",
        ran.all()
    );
    assert!(ran.err.contains("the run ends after step 3, within epoch 1: mean loss so far"), "{}", ran.all());
    let ran = train(&folder, &["--steps", "6", "--json"]);
    let outcome = &ran.json()["runs"][0]["outcome"];
    assert_eq!(outcome["epochs"], 1.5);
    assert!(outcome["last_loss"].is_f64(), "{}", ran.all());
    let ran = train(&folder, &["--epochs", "2"]);
    assert!(ran.out.contains("mean loss") && ran.out.contains("last loss"), "{}", ran.all());
    assert!(ran.err.contains("epoch 2 ends after step 8"), "{}", ran.all());
    let ran = train(&folder, &["--steps", "3", "--warmup", "10"]);
    assert!(ran.err.contains("warning[train-schedule]") && ran.err.contains("10 steps"), "{}", ran.all());
}

#[test]
fn a_row_that_failed_says_why() {
    let folder = net_and_table("failed-row");
    let ran = orrery_in(&folder, &[&LINE[..6], &["--batch", "2,40"]].concat());
    let failed = ran.out.lines().find(|line| line.contains("was not trained")).unwrap_or_default();
    assert!(failed.contains("batch 40, ") && failed.contains("8 samples do not fill"), "{}", ran.all());
    assert!(!ran.out.contains("see above"), "{}", ran.all());
}

#[test]
fn precisions_of_inference_do_not_train_and_are_not_suggested() {
    let folder = net_and_table("int8");
    let train_step = ["--batch", "64", "--train", "--on", "a100"];
    for (command, more) in [("compare", &train_step[..]), ("explain", &train_step)] {
        let ran = orrery(&[&[command, "mnist_cnn"], more, &["--precision", "int8"]].concat());
        let all = ran.all();
        let said = all.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(ran.code == 1 && said.contains("[unsupported-training]"), "{command}: {all}");
        assert!(
            said.contains("int8 of") && said.contains("precisions to train in: fp16"),
            "{command}: {all}"
        );
    }
    let ran = train(&folder, &["--on", "a100", "--precision", "int8"]);
    assert!(ran.code == 1 && ran.err.contains("error[unsupported-training]"), "{}", ran.all());
    let explained = orrery(&[&["explain", "mnist_cnn"], &train_step[..], &["--json"]].concat()).json();
    let suggestions = explained["suggestions"].to_string();
    assert!(!suggestions.contains("int8"), "{suggestions}");
}

#[test]
fn a_step_that_is_timed_names_its_loss_and_optimizer() {
    let line = ["mnist_cnn", "--batch", "64", "--train", "--on", "a100"];
    let assumed = "a step: loss cross-entropy, optimizer sgd with a momentum of 0.9 (assumed";
    for command in ["compare", "explain"] {
        let ran = orrery(&[&[command], &line[..]].concat());
        assert!(ran.out.contains(assumed), "{command}: {}", ran.all());
        let named =
            orrery(&[&[command], &line[..], &["--loss", "cross-entropy", "--optimizer", "adamw"]].concat());
        assert!(named.out.contains("optimizer adamw\n"), "{command}: {}", named.all());
    }
    let json = orrery(&[&["compare"], &line[..], &["--json"]].concat()).json();
    assert_eq!(
        json["records"][0]["extra"]["step"]["optimizer"], "sgd with a momentum of 0.9",
        "{}",
        json["records"][0]
    );
    // One set of words for what memory holds, which add up to the peak.
    let memory = &orrery(&[&["explain"], &line[..], &["--json"]].concat()).json()["memory"][0];
    let parts = memory["peak_by_class"].as_object().unwrap();
    let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(memory["peak"], sum, "{memory}");
    assert!(parts.contains_key("optimizer state") && !parts.contains_key("state"), "{memory}");
}

#[test]
fn what_is_mistyped_is_answered() {
    let ran = orrery(&["data", "minst-10k"]);
    assert!(ran.code == 1 && ran.err.contains("did you mean `mnist-10k`?"), "{}", ran.all());
    let ran = orrery(&["train", "mnist_cnn", "--jsno", "--json"]);
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (2, &"usage".into()), "{}", ran.all());
    let ran = orrery(&["check", "mnist_cnn", "--on", "a100", "--train"]);
    assert!(ran.code == 1 && ran.err.contains("`orrery explain --train`"), "{}", ran.all());
}

#[test]
fn where_a_later_checkpoint_cannot_be_written_the_earlier_one_stays() {
    let folder = net_and_table("full-disk");
    let (mut child, mut said) = endless(&folder, &["--checkpoint-every", "3"], "checkpoint of step");
    // A folder where the next one is to be written first.
    let partial = folder.join(format!(".run.safetensors.{}.partial", child.id()));
    while std::fs::create_dir(&partial).is_err() {}
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("error[file-write]") && rest.contains("is there still, and whole"), "{rest}");
    let resumed = orrery_in(&folder, &["train", "net.graph", "--resume", "run.safetensors", "--steps", "1"]);
    assert_eq!(resumed.code, 0, "{}", resumed.all());
}
