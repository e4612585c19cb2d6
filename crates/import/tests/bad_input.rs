//! What is wrong with a file is said with a code, a place and a cause; nothing panics.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

mod support;

use bytes::Bytes;
use orrery_base::Diagnostic;
use orrery_import::onnx::proto::*;
use orrery_import::onnx::{Imported, Options, load_bytes, load_path};
use support::*;

#[track_caller]
fn refused(result: orrery_base::Result<Imported>, code: &str, says: &str) {
    match result {
        Ok(imported) => panic!("should be {code}, but {:?}", imported.report),
        Err(d) => check(&d, code, says),
    }
}
#[track_caller]
fn check(found: &Diagnostic, code: &str, says: &str) {
    let text = found.to_string();
    assert!(found.code == code && text.contains(says), "should be {code} with `{says}`:\n{text}");
}
fn add(inputs: [&str; 2], output: &str) -> NodeProto {
    node("Add", &inputs, &[output], vec![])
}
fn of_nodes(nodes: Vec<NodeProto>) -> ModelProto {
    model(17, graph(&[value("x", &["2"])], &[value("y", &["2"])], nodes))
}
fn with_weight(weight: TensorProto) -> ModelProto {
    let mut model = of_nodes(vec![add(["x", "w"], "y")]);
    model.graph.as_mut().unwrap().initializer.push(weight);
    model
}

#[test]
fn bytes_that_are_no_model() {
    let load = |bytes: &[u8]| load_bytes(&Bytes::copy_from_slice(bytes), &Options::default());
    refused(load(b""), "onnx-empty", "empty");
    refused(load(b"\x89PNG\r\n\x1a\nand so on and so on"), "onnx-not-protobuf", "not an ONNX model");
    refused(load(b"version https://git-lfs.github.com/spec/v1\n"), "onnx-not-protobuf", "not an ONNX model");
    let good = bytes(&of_nodes(vec![add(["x", "x"], "y")]));
    refused(load(&good[..good.len() - 20]), "onnx-truncated", "ends early");
    refused(load(&good[..2]), "onnx-no-graph", "no graph");
    refused(
        load_path(std::path::Path::new("no/such/file.onnx"), &Options::default()),
        "file-read",
        "no/such/file.onnx",
    );
    refused(load_path(std::path::Path::new("."), &Options::default()), "file-read", "no regular file");
    let mut text = single(17, "Relu", vec![]);
    text.graph.as_mut().unwrap().node[0].name = Some("name".into());
    let mut damaged = bytes(&text).to_vec();
    let at = damaged.windows(4).position(|w| w == b"name").unwrap();
    damaged[at] = 0xff;
    refused(load(&damaged), "onnx-text", "UTF-8");
}

#[test]
fn names_that_do_not_fit_together() {
    refused(load(&of_nodes(vec![add(["x", "z"], "y")])), "onnx-undefined", "`z`");
    refused(load(&of_nodes(vec![add(["x", "x"], "z")])), "onnx-undefined", "output `y`");
    refused(
        load(&of_nodes(vec![add(["x", "x"], "y"), add(["x", "x"], "y")])),
        "onnx-duplicate-name",
        "made twice",
    );
    refused(load(&of_nodes(vec![add(["x", "x"], "x")])), "onnx-cycle", "needs its own result");
    refused(
        load(&of_nodes(vec![add(["x", "x"], "y"), node("Relu", &["y"], &["x"], vec![])])),
        "onnx-cycle",
        "the_Relu",
    );
    let cycle = vec![add(["x", "b"], "a"), add(["x", "a"], "b"), add(["a", "b"], "y")];
    refused(load(&of_nodes(cycle)), "onnx-cycle", "needs its own result");
    let mut twice = with_weight(weight("w", &[2], &[1.0, 2.0]));
    twice.graph.as_mut().unwrap().initializer.push(weight("w", &[2], &[1.0, 2.0]));
    refused(load(&twice), "onnx-duplicate-name", "`w`");
}

#[test]
fn attributes_of_another_kind() {
    let softmax = |a| load(&single(17, "Softmax", vec![a]));
    refused(softmax(float("axis", 1.0)), "onnx-attribute", "must be an integer, is float");
    refused(softmax(int("axes", 1)), "onnx-attribute", "no attribute `axes`");
    refused(softmax(int("axis", 9)), "type-rule", "Softmax node `the_Softmax`");
    refused(
        load(&single(17, "Softmax", vec![int("axis", 1), int("axis", 1)])),
        "onnx-attribute",
        "given twice",
    );
    refused(
        load(&single(17, "Gelu", vec![string("approximate", b"\xff")])),
        "onnx-unknown-operator",
        "operator set 20",
    );
    refused(load(&single(20, "Gelu", vec![string("approximate", b"\xff")])), "onnx-text", "UTF-8");
    refused(load(&single(17, "Cast", vec![int("to", 77)])), "onnx-type", "77");
    refused(load(&single(17, "Cast", vec![])), "graph-invalid", "lacks attribute `to`");
    refused(load(&of_nodes(vec![node("Add", &["x"], &["y"], vec![])])), "graph-invalid", "needs 2 to 2");
    refused(load(&of_nodes(vec![node("If", &["x"], &["y"], vec![])])), "onnx-attribute", "then_branch");
}

#[test]
fn shapes_and_sizes_that_cannot_be() {
    let input = |dims: &[&str]| {
        let nodes = vec![node("Relu", &["x"], &["y"], vec![])];
        load(&model(17, graph(&[value("x", dims)], &[untyped("y")], nodes)))
    };
    refused(input(&["1152921504606846976"]), "onnx-shape", "more elements");
    refused(input(&["1073741824", "1073741824"]), "onnx-shape", "more elements");
    refused(input(&["-2", "4"]), "onnx-shape", "extent 0 of `x` is -2");
    let tensor = |dims: &[i64], values: &[f32]| load(&with_weight(weight("w", dims, values)));
    refused(tensor(&[2], &[1.0]), "onnx-tensor-size", "8 bytes, but holds 4");
    refused(tensor(&[-2], &[1.0]), "onnx-shape", "-2");
    refused(tensor(&[1 << 40, 1 << 40, 0], &[]), "onnx-shape", "more elements");
    refused(tensor(&[3], &[1.0, 2.0, 3.0]), "type-rule", "Add node `the_Add`");
    let typeless = TensorProto { data_type: Some(0), ..weight("w", &[2], &[1.0, 2.0]) };
    refused(load(&with_weight(typeless)), "onnx-type", "no element type");
    refused(
        load(&model(17, graph(&[untyped("x")], &[untyped("x")], vec![]))),
        "onnx-type",
        "input `x` has no type",
    );
}

#[test]
fn operators_that_are_not_known() {
    let unknown = single(17, "Frobnicate", vec![]);
    refused(load(&unknown), "onnx-unknown-operator", "no operator `Frobnicate` in ONNX");
    let mut own = unknown.clone();
    own.graph.as_mut().unwrap().node[0].domain = Some("my.company".into());
    refused(load(&own), "onnx-unknown-operator", "my.company");
    let inspected = load_bytes(&bytes(&own), &Options { inspect: true, ..Options::default() }).unwrap();
    assert!(inspected.graph.is_none());
    assert_eq!(inspected.report.counts(), (0, 0, 1));
    assert_eq!(inspected.report.nodes[0].node, "the_Frobnicate");
    refused(
        Ok(inspected).and_then(|i| i.into_graph().map(|_| panic!("no graph"))),
        "onnx-unknown-operator",
        "my.company",
    );
    refused(load(&single(99, "Relu", vec![])), "onnx-opset", "99");
}

#[test]
fn bodies_and_functions_that_run_away() {
    let mut inner = graph(&[], &[untyped("y")], vec![node("Relu", &["x"], &["y"], vec![])]);
    for _ in 0..60 {
        let branches = vec![body("then_branch", inner.clone()), body("else_branch", GraphProto::default())];
        inner = graph(&[], &[untyped("y")], vec![node("If", &["c"], &["y"], branches)]);
    }
    inner.input = vec![value("x", &["2"]), typed("c", 9, &[])];
    refused(load(&model(17, inner)), "onnx-nesting", "nested");

    let function = |name: &str, calls: &[&str]| FunctionProto {
        name: Some(name.into()),
        domain: Some("f".into()),
        input: vec!["a".into()],
        output: vec!["r0".into()],
        node: calls
            .iter()
            .enumerate()
            .map(|(i, callee)| {
                let (from, to) = (format!("r{}", i + 1), format!("r{i}"));
                let from = if i + 1 == calls.len() { "a" } else { &from };
                NodeProto { domain: Some("f".into()), ..node(callee, &[from], &[&to], vec![]) }
            })
            .collect(),
        ..FunctionProto::default()
    };
    let calling = |functions: Vec<FunctionProto>| {
        let mut model = single(17, "f0", vec![]);
        model.graph.as_mut().unwrap().node[0].domain = Some("f".into());
        model.functions = functions;
        load(&model)
    };
    refused(calling(vec![function("f0", &["f0"])]), "onnx-function", "calls itself");
    refused(calling(vec![function("f0", &["f1"]), function("f1", &["f0"])]), "onnx-function", "calls itself");
    let chain = |i: usize| function(&format!("f{i}"), &[&format!("f{}", i + 1)]);
    refused(calling((0..5000).map(chain).collect()), "onnx-nesting", "nested");
    let names: Vec<String> = (0..40).map(|i| format!("f{i}")).collect();
    let mut doubling: Vec<FunctionProto> =
        names.windows(2).map(|w| function(&w[0], &[&w[1], &w[1], &w[1], &w[1]])).collect();
    doubling.push(FunctionProto {
        node: vec![node("Relu", &["a"], &["r0"], vec![])],
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..function("f39", &[])
    });
    refused(calling(doubling), "onnx-too-large", "expand");
    refused(calling(vec![function("f0", &[])]), "onnx-function", "does not make its output");
}

#[test]
fn external_data_stay_in_the_folder() {
    let folder = std::env::temp_dir().join(format!("orrery-external-{}", std::process::id()));
    let inside = folder.join("model");
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(folder.join("secret"), [0_u8; 64]).unwrap();
    std::fs::write(inside.join("data"), [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat()).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.join("secret"), inside.join("link")).unwrap();
    let with = |entries: &[(&str, &str)], allow_absent_weights: bool| {
        let external = TensorProto {
            raw_data: None,
            data_location: Some(1),
            external_data: entries
                .iter()
                .map(|(k, v)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) })
                .collect(),
            ..weight("w", &[2], &[])
        };
        let path = inside.join("model.onnx");
        std::fs::write(&path, bytes(&with_weight(external))).unwrap();
        load_path(&path, &Options { allow_absent_weights, ..Options::default() })
    };
    let good =
        with(&[("location", "data"), ("offset", "4"), ("length", "8")], false).unwrap().into_graph().unwrap();
    let w = good.values.values().find(|v| v.name == "w").unwrap();
    let orrery_ir::Def::Constant(orrery_ir::Weight::Data(tensor)) = &w.def else { panic!("{w:?}") };
    assert_eq!(tensor.values::<f32>().unwrap().as_ref(), [2.0, 3.0]);

    let absolute = folder.join("secret");
    refused(with(&[("location", absolute.to_str().unwrap())], false), "onnx-external-path", "outside");
    refused(with(&[("location", "../secret")], false), "onnx-external-path", "outside");
    refused(with(&[("location", "x/../../secret")], true), "onnx-external-path", "outside");
    #[cfg(unix)]
    refused(with(&[("location", "link"), ("length", "8")], false), "onnx-external-path", "outside");
    refused(with(&[], false), "onnx-external-path", "no file");
    refused(with(&[("location", "gone")], false), "onnx-external-missing", "gone");
    refused(
        with(&[("location", "data"), ("offset", "12"), ("length", "8")], false),
        "onnx-external-range",
        "12..20",
    );
    let most = u64::MAX.to_string();
    refused(
        with(&[("location", "data"), ("offset", &most), ("length", "8")], false),
        "onnx-external-range",
        "overflow",
    );
    refused(with(&[("location", "data"), ("offset", "-1")], false), "onnx-external-range", "-1");
    refused(with(&[("location", "data")], false), "onnx-tensor-size", "8 bytes, but holds 16");

    let absent = with(&[("location", "gone")], true).unwrap();
    assert_eq!(absent.report.absent_weights, ["w"]);
    let graph = absent.into_graph().unwrap();
    let w = graph.values.values().find(|v| v.name == "w").unwrap();
    assert!(
        matches!(w.def, orrery_ir::Def::Constant(orrery_ir::Weight::Absent)) && w.ty.to_string() == "f32[2]"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}
