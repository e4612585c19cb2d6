//! What a file can say, and what the graph then holds.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

mod support;

use orrery_import::onnx::proto::attribute_proto::AttributeType;
use orrery_import::onnx::proto::*;
use orrery_import::onnx::{Options, SaveOptions, load_path, save, to_bytes};
use orrery_ir::op::Datum;
use orrery_ir::{Attrs, Builder, Def, Graph, Op, Type, Weight, interpret};
use orrery_numerics::{DType, Tensor};
use support::*;

fn ops(graph: &Graph) -> Vec<Op> {
    graph.nodes.values().map(|n| n.op).collect()
}
fn type_of(graph: &Graph, name: &str) -> String {
    let value = graph.values.values().find(|v| v.name == name);
    value.map_or_else(|| format!("no value {name}"), |v| v.ty.to_string())
}
fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<f32> {
    let inputs: Vec<Datum> = inputs.iter().cloned().map(Datum::from).collect();
    let out = interpret::run(graph, inputs, 0).unwrap_or_else(|d| panic!("{d}"));
    out[0].as_tensor().unwrap().values::<f32>().unwrap().into_owned()
}
fn row(values: &[f32]) -> Tensor {
    Tensor::from_vec(vec![values.len()], values.to_vec())
}

#[test]
fn dimensions_are_numbers_symbols_or_named_after_their_input() {
    let nodes = vec![node("Relu", &["x"], &["y"], vec![])];
    let graph = load_graph(&model(17, graph(&[value("x", &["2", "N", "", "?"])], &[untyped("y")], nodes)));
    assert_eq!(type_of(&graph, "x"), "f32[2, N, x.dim2, x.dim3]");
    assert_eq!(type_of(&graph, "y"), "f32[2, N, x.dim2, x.dim3]");
}

#[test]
fn weights_are_slices_of_the_file() {
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let mut made = model(
        17,
        graph(&[value("x", &["1000"])], &[untyped("y")], vec![node("Add", &["x", "w"], &["y"], vec![])]),
    );
    made.graph.as_mut().unwrap().initializer.push(weight("w", &[1000], &values));
    let file = bytes(&made);
    let graph = orrery_import::onnx::load_bytes(&file, &Options::default()).unwrap().into_graph().unwrap();
    let w = graph.values.values().find(|v| v.name == "w").unwrap();
    let Def::Constant(Weight::Data(tensor)) = &w.def else { panic!("{w:?}") };
    let (from, at) = (file.as_ptr() as usize, tensor.bytes().as_ptr() as usize);
    assert!((from..from + file.len()).contains(&at), "the elements were copied");
}

#[test]
fn nodes_in_any_order_are_sorted() {
    let nodes = vec![node("Neg", &["a"], &["y"], vec![]), node("Relu", &["x"], &["a"], vec![])];
    let graph = load_graph(&model(17, graph(&[value("x", &["2"])], &[untyped("y")], nodes)));
    assert_eq!(ops(&graph), [Op::Relu, Op::Neg]);
}

#[test]
fn old_forms_become_the_newest() {
    let upgraded = |opset, op, attributes| ops(&load_graph(&single(opset, op, attributes)));
    assert_eq!(upgraded(11, "Softmax", vec![int("axis", 1)]), [Op::Softmax]);
    assert_eq!(
        upgraded(11, "Softmax", vec![int("axis", 0)]),
        [Op::Flatten, Op::Softmax, Op::Shape, Op::Reshape]
    );
    let clip = load_graph(&single(6, "Clip", vec![float("min", -1.0), float("max", 1.0)]));
    assert_eq!(clip.nodes.values().next().unwrap().inputs.len(), 3);
    let shape_of = |model: ModelProto| type_of(&load_graph(&model), "y");
    let with_output = |opset, op, attributes, dims: &[&str]| {
        let mut made = single(opset, op, attributes);
        made.graph.as_mut().unwrap().output = vec![value("y", dims)];
        made
    };
    assert_eq!(
        shape_of(with_output(11, "Unsqueeze", vec![ints("axes", &[0])], &["1", "N", "4"])),
        "f32[1, N, 4]"
    );
    assert_eq!(shape_of(with_output(11, "ReduceSum", vec![ints("axes", &[1])], &["N", "1"])), "f32[N, 1]");
    let sliced = with_output(
        9,
        "Slice",
        vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[1])],
        &["N", "2"],
    );
    assert_eq!(shape_of(sliced), "f32[N, 2]");
    assert_eq!(shape_of(with_output(2, "Pad", vec![ints("pads", &[0, 1, 0, 1])], &["N", "6"])), "f32[N, 6]");
}

#[test]
fn old_operators_compute_what_they_did() {
    // Broadcasting along a stated axis: b stands for the rows, not the columns.
    let nodes = vec![node("Add", &["a", "b"], &["y"], vec![int("broadcast", 1), int("axis", 0)])];
    let inputs = [value("a", &["2", "3"]), value("b", &["2"])];
    let graph_6 = load_graph(&model(6, graph(&inputs, &[untyped("y")], nodes)));
    let a = Tensor::from_vec(vec![2, 3], vec![0.0_f32; 6]);
    assert_eq!(run(&graph_6, &[a, row(&[1.0, 2.0])]), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);

    // One scale and bias for each group of two channels.
    let nodes = vec![node("GroupNormalization", &["x", "s", "b"], &["y"], vec![int("num_groups", 2)])];
    let inputs = [value("x", &["1", "4", "1"]), value("s", &["2"]), value("b", &["2"])];
    let grouped = load_graph(&model(18, graph(&inputs, &[untyped("y")], nodes)));
    let x = Tensor::from_vec(vec![1, 4, 1], vec![-1.0_f32, 1.0, -1.0, 1.0]);
    let got = run(&grouped, &[x, row(&[1.0, 10.0]), row(&[0.0, 5.0])]);
    let wanted = [-1.0, 1.0, -5.0, 15.0];
    assert!(got.iter().zip(wanted).all(|(g, w)| (g - w).abs() < 1e-3), "{got:?}");

    let nodes = vec![node(
        "Upsample",
        &["x"],
        &["y"],
        vec![AttributeProto {
            floats: vec![1.0, 2.0],
            r#type: Some(AttributeType::Floats as i32),
            name: Some("scales".into()),
            ..AttributeProto::default()
        }],
    )];
    let wide = load_graph(&model(7, graph(&[value("x", &["1", "2"])], &[untyped("y")], nodes)));
    assert_eq!(run(&wide, &[Tensor::from_vec(vec![1, 2], vec![1.0_f32, 2.0])]), [1.0, 1.0, 2.0, 2.0]);
}

#[test]
fn constants_in_all_forms() {
    let of = |attribute: AttributeProto| {
        let nodes = vec![node("Constant", &[], &["y"], vec![attribute])];
        let graph = load_graph(&model(17, graph(&[], &[untyped("y")], nodes)));
        assert!(graph.nodes.is_empty());
        type_of(&graph, "y")
    };
    assert_eq!(of(tensor("value", weight("", &[1, 2], &[1.0, 2.0]))), "f32[1, 2]");
    assert_eq!(of(float("value_float", 1.5)), "f32[]");
    assert_eq!(of(ints("value_ints", &[1, 2, 3])), "i64[3]");
    assert_eq!(of(string("value_string", b"a")), "str[]");
    let sparse = SparseTensorProto {
        values: Some(weight("s", &[1], &[7.0])),
        indices: Some(TensorProto {
            data_type: Some(7),
            dims: vec![1],
            int64_data: vec![2],
            ..TensorProto::default()
        }),
        dims: vec![4],
    };
    let mut made = model(17, graph(&[], &[untyped("s")], vec![]));
    made.graph.as_mut().unwrap().sparse_initializer.push(sparse);
    assert_eq!(run(&load_graph(&made), &[]), [0.0, 0.0, 7.0, 0.0]);
}

#[test]
fn an_initialized_input_is_a_constant() {
    let nodes = vec![node("Add", &["x", "w"], &["y"], vec![])];
    let mut made = model(17, graph(&[value("x", &["1"]), value("w", &["1"])], &[untyped("y")], nodes));
    made.graph.as_mut().unwrap().initializer.push(weight("w", &[1], &[5.0]));
    let imported = load(&made).unwrap();
    assert_eq!(imported.report.notes.len(), 1);
    assert_eq!(imported.report.notes[0].code, "onnx-input-default");
    assert_eq!(run(&imported.into_graph().unwrap(), &[row(&[1.0])]), [6.0]);
}

/// Function `scaled(a, b?; factor, shift = 1)`: `a * factor + shift`, written with Constant nodes that refer to them.
fn scaled() -> FunctionProto {
    FunctionProto {
        name: Some("scaled".into()),
        domain: Some("own".into()),
        input: vec!["a".into(), "b".into()],
        output: vec!["r".into()],
        attribute: vec!["factor".into()],
        attribute_proto: vec![float("shift", 1.0)],
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        node: vec![
            node("Constant", &[], &["f"], vec![reference("value_float", "factor", AttributeType::Float)]),
            node("Constant", &[], &["s"], vec![reference("value_float", "shift", AttributeType::Float)]),
            node("Mul", &["a", "f"], &["product"], vec![]),
            node("Clip", &["product", "b"], &["clipped"], vec![]),
            node("Add", &["clipped", "s"], &["r"], vec![]),
        ],
        ..FunctionProto::default()
    }
}
fn own(node: NodeProto) -> NodeProto {
    NodeProto { domain: Some("own".into()), ..node }
}

#[test]
fn functions_are_expanded_with_their_attributes() {
    let nodes = vec![
        own(node("scaled", &["x"], &["once"], vec![float("factor", 2.0)])),
        own(node("scaled", &["once", "floor"], &["y"], vec![float("factor", -1.0), float("shift", 0.5)])),
    ];
    let mut made = model(17, graph(&[value("x", &["2"]), value("floor", &[])], &[untyped("y")], nodes));
    made.functions = vec![scaled()];
    let graph = load_graph(&made);
    assert_eq!(ops(&graph), [Op::Mul, Op::Clip, Op::Add, Op::Mul, Op::Clip, Op::Add]);
    // x * 2 + 1 = 3, -5; times -1 = -3, 5; not below -2; plus a half.
    assert_eq!(run(&graph, &[row(&[1.0, -3.0]), Tensor::scalar(-2.0_f32)]), [-1.5, 5.5]);
    assert_eq!(type_of(&graph, "once"), "f32[2]");
    assert_eq!(type_of(&graph, "the_scaled/product"), "f32[2]");
}

#[test]
fn functions_stand_in_functions_and_bodies() {
    let mut outer = scaled();
    outer.name = Some("twice".into());
    outer.node = vec![
        own(node("scaled", &["a"], &["half"], vec![reference("factor", "factor", AttributeType::Float)])),
        own(node("scaled", &["half"], &["r"], vec![reference("factor", "factor", AttributeType::Float)])),
    ];
    let then =
        graph(&[], &[untyped("t")], vec![own(node("twice", &["x"], &["t"], vec![float("factor", 3.0)]))]);
    let other = graph(&[], &[untyped("e")], vec![node("Neg", &["x"], &["e"], vec![])]);
    let branches = vec![body("then_branch", then), body("else_branch", other)];
    let inputs = [value("x", &["1"]), typed("c", 9, &[])];
    let mut made = model(17, graph(&inputs, &[untyped("y")], vec![node("If", &["c"], &["y"], branches)]));
    made.functions = vec![scaled(), outer];
    let graph = load_graph(&made);
    let chosen = |c: bool| run(&graph, &[row(&[2.0]), Tensor::from_bools(vec![], [c])]);
    assert_eq!(chosen(true), [22.0]);
    assert_eq!(chosen(false), [-2.0]);
}

#[test]
fn bodies_take_outer_values_by_inputs() {
    // y = x + k * (0 + 1 + ... ), with k from two levels out: the loop's body holds an If that uses it.
    let then = graph(&[], &[untyped("step")], vec![node("Mul", &["number", "k"], &["step"], vec![])]);
    let other = graph(&[], &[untyped("none")], vec![node("Sub", &["k", "k"], &["none"], vec![])]);
    let turn = graph(
        &[typed("i", 7, &[]), typed("go", 9, &[]), value("sum", &["1"])],
        &[untyped("go_on"), untyped("next")],
        vec![
            node("Identity", &["go"], &["go_on"], vec![]),
            node("Cast", &["i"], &["number"], vec![int("to", 1)]),
            node("If", &["go"], &["more"], vec![body("then_branch", then), body("else_branch", other)]),
            node("Add", &["sum", "more"], &["next"], vec![]),
        ],
    );
    let inputs = [value("x", &["1"]), value("k", &[]), typed("trips", 7, &[])];
    let nodes = vec![node("Loop", &["trips", "", "x"], &["y"], vec![body("body", turn)])];
    let graph = load_graph(&model(17, graph(&inputs, &[untyped("y")], nodes)));
    let outer = graph.nodes.values().next().unwrap();
    assert_eq!(
        (outer.inputs.len(), outer.attrs.int("carried")),
        (4, Some(1)),
        "trips, condition, x, and k behind them"
    );
    assert_eq!(outer.bodies[0].inputs.len(), 4);
    let got = run(&graph, &[row(&[10.0]), Tensor::scalar(2.0_f32), Tensor::scalar(4_i64)]);
    assert_eq!(got, [10.0 + 2.0 * (0.0 + 1.0 + 2.0 + 3.0)]);

    let (again, _) = to_bytes(&graph, 21).unwrap();
    let again = orrery_import::onnx::load_bytes(&again, &Options::default()).unwrap().into_graph().unwrap();
    assert_eq!(run(&again, &[row(&[10.0]), Tensor::scalar(2.0_f32), Tensor::scalar(4_i64)]), got);
}

#[test]
fn fused_operators_of_onnx_runtime() {
    let microsoft = |op, inputs: &[&str], attributes| {
        let nodes =
            vec![NodeProto { domain: Some("com.microsoft".into()), ..node(op, inputs, &["y"], attributes) }];
        let inputs = [value("a", &["2", "3"]), value("b", &["2", "3"]), value("g", &["3"])];
        load_graph(&model(17, graph(&inputs, &[untyped("y")], nodes)))
    };
    let product = microsoft("FusedMatMul", &["a", "b"], vec![int("transB", 1), float("alpha", 0.5)]);
    assert_eq!(ops(&product), [Op::Transpose, Op::MatMul, Op::Mul]);
    let a = Tensor::from_vec(vec![2, 3], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let g = row(&[1.0; 3]);
    assert_eq!(run(&product, &[a.clone(), a, g]), [7.0, 16.0, 16.0, 38.5]);
    assert_eq!(
        ops(&microsoft("SkipLayerNormalization", &["a", "b", "g"], vec![])),
        [Op::Add, Op::LayerNormalization]
    );
    assert_eq!(ops(&microsoft("FastGelu", &["a", "g"], vec![])), [Op::Add, Op::Gelu]);
    assert_eq!(ops(&microsoft("QuickGelu", &["a"], vec![])), [Op::Swish]);
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("orrery-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn large_weights_go_to_a_file_beside_the_model() {
    let mut build = Builder::new("wide", 7);
    let x = build.input("x", DType::F32, [1_usize, 64]);
    let w = build.weight("w", [64_usize, 64], 0.1);
    let b = build.constant("b", row(&[0.5; 64]));
    let product = build.op(Op::MatMul, "product", &[x, w], Attrs::new());
    let sum = build.op(Op::Add, "sum", &[product, b], Attrs::new());
    let graph = build.finish(&[("out", sum)]).unwrap();
    let folder = folder("external");
    let path = folder.join("wide.onnx");
    save(&graph, &path, &SaveOptions { external_above: 4096, ..SaveOptions::default() }).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["wide.onnx", "wide.onnx.data"], "and nothing left half written");
    assert!(std::fs::metadata(&path).unwrap().len() < 2000);
    let again = load_path(&path, &Options::default()).unwrap().into_graph().unwrap();
    assert_eq!(again.output_name(0), "out");
    let input = Tensor::from_vec(vec![1, 64], vec![1.0_f32; 64]);
    assert_eq!(run(&again, std::slice::from_ref(&input)), run(&graph, &[input]));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_onnx_cannot_say_is_refused_or_noted() {
    let graph_of = |op: Op, attrs: Attrs| {
        let mut build = Builder::new("one", 7);
        let x = build.input("x", DType::F32, [4_usize, 4]);
        let inputs = if op == Op::MatMul { vec![x, x] } else { vec![x] };
        let y = build.op(op, "y", &inputs, attrs);
        build.finish(&[("y", y)]).unwrap()
    };
    let code = |graph: &Graph, opset| to_bytes(graph, opset).err().map(|d| (d.code, d.cause));
    let relu = graph_of(Op::Relu, Attrs::new());
    assert_eq!(code(&relu, 21), None);
    assert_eq!(code(&relu, 20).unwrap().0, "onnx-export");
    let swish = graph_of(Op::Swish, Attrs::new());
    assert!(code(&swish, 23).unwrap().1.contains("operator set 24"));
    assert_eq!(code(&swish, 24), None);
    assert!(
        code(&graph_of(Op::RoundTo, Attrs::new().with("to", DType::BF16)), 25)
            .unwrap()
            .1
            .contains("no RoundTo")
    );
    let accumulated = graph_of(Op::MatMul, Attrs::new().with("accumulate", DType::F32));
    let (_, notes) = to_bytes(&accumulated, 25).unwrap();
    assert_eq!(notes.iter().map(|n| n.code).collect::<Vec<_>>(), ["onnx-export-dropped"]);
}

#[test]
fn absent_weights_stay_absent() {
    let mut build = Builder::new("shape only", 7);
    let x = build.input("x", DType::F32, ["N", "8"].map(orrery_ir::Dim::symbol));
    let y = build.op(Op::Relu, "y", &[x], Attrs::new());
    let mut graph = build.finish(&[("y", y)]).unwrap();
    graph.add_constant("w", Type::tensor(DType::F16, [3_usize, 5]), Weight::Absent);
    let (bytes, _) = to_bytes(&graph, 25).unwrap();
    let imported = orrery_import::onnx::load_bytes(&bytes, &Options::default()).unwrap();
    assert_eq!(imported.report.absent_weights, ["w"]);
    assert_eq!(type_of(&imported.into_graph().unwrap(), "w"), "f16[3, 5]");
}
