//! `orrery train`: every option does something or is refused, and a run that goes on keeps what it was told.

use crate::support::{Ran, net_and_table, orrery_in};
use std::path::Path;

fn train(folder: &Path, more: &[&str]) -> Ran {
    orrery_in(folder, &[&["train", "net.graph", "--data", "t.csv", "--held-out", "2"], more].concat())
}

#[test]
fn options_without_an_effect_are_refused() {
    let folder = net_and_table("no-effect");
    for (options, code, words) in [
        (&["--precision", "fp16"][..], "option-without-effect", "--precision"),
        (&["--stack", "pytorch"], "option-without-effect", "--stack"),
        (&["--narrow-weights"], "option-without-effect", "--narrow-weights"),
        (&["--stochastic-rounding", "true"], "option-without-effect", "--stochastic-rounding"),
        (&["--on", "a100", "--shards", "2"], "option-without-effect", "--shards"),
        (&["--momentum", "0.9"], "option-without-effect", "adam has no momentum"),
        (&["--no-decay", "bias"], "option-without-effect", "--weight-decay"),
        (&["--loss", "output", "--label", "kind"], "option-without-effect", "--label"),
        (&["--freeze", "ww"], "parameter-unknown", "did you mean `w`?"),
        (&["--optimizer", "adamw", "--no-decay", "scale"], "parameter-unknown", "parameters: w, b"),
        (&["--column", "xx=x"], "data-column", "did you mean `x`?"),
        (&["--column", "x=x", "--column", "x=y"], "data-column", "cannot come from"),
        (&["--data-option", "sequence=4"], "data-option", "`sequence` has no effect"),
        (&["--label", "kind", "--data-option", "target=a"], "train-option", "--data-option target"),
        (&["--batch", "2", "--dim", "batch=4"], "dimension-conflict", "`--batch 2` and `--dim batch=4`"),
        (&["--dim", "batch=2", "--dim", "batch=4"], "dimension-conflict", "two sizes"),
        (&["--batch", "7"], "data-batch", "use a batch of 1 to 6"),
    ] {
        let ran = train(&folder, options);
        assert_eq!(ran.code, 1, "{options:?}: {}", ran.all());
        assert!(
            ran.err.contains(&format!("error[{code}]")) && ran.err.contains(words),
            "{options:?}: {}",
            ran.all()
        );
    }
    for options in [&["--epochs", "2", "--steps", "3"][..], &["--epochs", "2", "--samples", "3"]] {
        assert_eq!(train(&folder, options).code, 2, "{options:?}");
    }
    let table = "a,b,c,kind\n1,2,3,0\n2,3,4,1\n3,4,5,0\n";
    std::fs::write(folder.join("wide.csv"), table).unwrap();
    let unseen = ["--data-option", "features=a,b", "--normalise", "c"];
    let ran = train(&folder, &unseen);
    assert!(ran.code == 1 && ran.err.contains("data-column"), "{}", ran.all());
}

#[test]
fn a_dimension_that_is_named_is_the_batch() {
    let ran = train(&net_and_table("dim-batch"), &["--dim", "batch=3", "--json", "-q"]);
    assert_eq!((ran.code, &ran.json()["runs"][0]["batch"]), (0, &3.into()), "{}", ran.all());
}

#[test]
fn what_is_not_given_again_comes_from_the_checkpoint() {
    let folder = net_and_table("kept-options");
    let options = ["--batch", "2", "--lr", "0.01", "--optimizer", "sgd", "--momentum", "0.5", "--seed", "3"];
    let run = |more: &[&str]| train(&folder, &[&options, more].concat());
    assert_eq!(run(&["--steps", "9", "--checkpoint", "whole.safetensors"]).code, 0);
    assert_eq!(run(&["--steps", "4", "--checkpoint", "part.safetensors"]).code, 0);
    let resume = |more: &[&str]| {
        let line = ["train", "net.graph", "--resume", "part.safetensors"];
        orrery_in(&folder, &[&line, more].concat())
    };
    let over = resume(&[]);
    assert!(over.code == 0 && over.out.contains("nothing was left to train: the checkpoint is of step 4"));
    let ran = resume(&["--steps", "9", "--checkpoint", "on.safetensors"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    for words in ["--lr=0.01", "--momentum=0.5", "--data=t.csv", "--steps is 9 and was 4"] {
        assert!(ran.err.contains(words), "no {words}: {}", ran.all());
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert!(read("whole.safetensors") == read("on.safetensors"), "the checkpoints differ");
    let faster = resume(&["--steps", "9", "--lr", "0.1", "--json"]);
    assert!(faster.err.contains("--lr is 0.1 and was 0.01"), "{}", faster.all());
    assert_eq!(faster.json()["runs"][0]["learning_rate"], 0.1);
    for other in [["--seed", "4"], ["--held-out", "3"]] {
        let ran = resume(&["--steps", "9", other[0], other[1]]);
        let said = format!("{} is {} and was", other[0], other[1]);
        assert!(
            ran.code == 1 && ran.err.contains("checkpoint-mismatch") && ran.err.contains(&said),
            "{}",
            ran.all()
        );
    }
    let adam = resume(&["--steps", "9", "--optimizer", "adam"]);
    assert!(adam.code == 1 && adam.err.contains("checkpoint-mismatch"), "{}", adam.all());
}

#[test]
fn paths_are_tried_before_the_work() {
    let folder = net_and_table("unwritable");
    std::fs::create_dir(folder.join("here.onnx")).unwrap();
    std::fs::write(folder.join("file"), "").unwrap();
    for (option, path) in
        [("--save", "missing/net.onnx"), ("--save", "here.onnx"), ("--checkpoint", "file/run.safetensors")]
    {
        let ran = train(&folder, &[option, path]);
        assert!(ran.code == 1 && ran.err.contains("error[file-write]"), "{option} {path}: {}", ran.all());
        assert!(!ran.err.contains("epoch 1"), "{option} {path}: trained before it: {}", ran.all());
    }
}

#[test]
fn a_label_that_is_no_class_is_told_as_its_file_has_it() {
    let folder = net_and_table("labels");
    std::fs::write(folder.join("t.csv"), "a,b,kind\n0,1,cat\n1,0,dog\n1,1,fox\n2,1,cat\n").unwrap();
    let line = ["train", "net.graph", "--data", "t.csv", "--held-out", "0", "--batch", "2"];
    let ran = orrery_in(&folder, &line);
    assert_eq!(ran.code, 1, "{}", ran.all());
    for words in
        ["label `fox` is none of the model's 2 classes", "t.csv > line 4 > column `kind`", "0 `cat`, 1 `dog`"]
    {
        assert!(ran.err.contains(words), "no {words}: {}", ran.all());
    }
    // Another column of labels, by the file's own name for it.
    std::fs::write(folder.join("t.csv"), "kind,a,b\ncat,1,0\ndog,0,1\n").unwrap();
    for more in [["--label", "kind"], ["--data-option", "target=kind"]] {
        let ran = orrery_in(&folder, &[&line[..], &more].concat());
        assert_eq!(ran.code, 0, "{}", ran.all());
    }
}
