//! Gradient ops and whole training steps on the host against the interpreter.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_execute::host::Session;
use orrery_ir::op::Datum;
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op, infer};
use orrery_numerics::{DType, Tensor};
use orrery_transform::Weights;
use orrery_transform::training::{Loss, Optimizer, Spec, step};
use orrery_zoo::{Options, find};

mod shared;
use shared::{compare, inputs};

/// A graph of one op on inputs of these shapes.
fn alone(op: Op, shapes: &[&[usize]], attrs: Attrs, outputs: usize) -> Graph {
    let mut b = Builder::new("net", 5);
    let operands: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| Some(b.input(&format!("x{i}"), DType::F32, shape.iter().copied())))
        .collect();
    let made = b.ops(op, "op", &operands, attrs, outputs);
    let names: Vec<String> = (0..outputs).map(|i| format!("y{i}")).collect();
    let outputs: Vec<_> = names.iter().map(String::as_str).zip(made).collect();
    b.finish(&outputs).unwrap()
}

/// Sees that the op has a kernel, and compares it with the op table.
fn compare_op(op: Op, shapes: &[&[usize]], attrs: Attrs, outputs: usize) {
    let graph = alone(op, shapes, attrs, outputs);
    compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
    assert_ne!(Session::new(&graph, 1).unwrap().profile()[0].kernel, "op table", "{op}");
}

fn window(taps: [i64; 2], stride: i64, pads: i64) -> Attrs {
    let attrs = Attrs::new().with("kernel_shape", taps.to_vec()).with("strides", vec![stride; 2]);
    attrs.with("pads", vec![pads; 4])
}

#[test]
fn convolutions_backward() {
    for (x, dy, taps, stride, pads) in [
        ([3, 5, 9, 8], [3, 7, 7, 6], [3, 3], 1, 0),
        ([2, 1, 28, 28], [2, 32, 26, 26], [3, 3], 1, 0),
        ([2, 20, 9, 9], [2, 33, 9, 9], [3, 3], 1, 1),
        ([2, 64, 9, 9], [2, 8, 5, 5], [1, 1], 2, 0),
        ([5, 3, 11, 9], [5, 18, 6, 5], [3, 3], 2, 1),
        ([1, 96, 14, 14], [1, 20, 12, 12], [3, 3], 1, 0),
    ] {
        compare_op(Op::ConvWeightGrad, &[&x, &dy], window(taps, stride, pads), 1);
        let weights = [dy[1], x[1], taps[0] as usize, taps[1] as usize];
        compare_op(Op::Conv, &[&x, &weights], window(taps, stride, pads), 1);
        compare_op(Op::ConvTranspose, &[&dy, &weights], window(taps, stride, pads), 1);
    }
}

#[test]
fn convolutions_of_groups_backward() {
    for (x, dy, own, stride, pads) in [
        ([2, 18, 9, 8], [2, 18, 9, 8], 1, 1, 1),
        ([1, 5, 9, 9], [1, 10, 4, 4], 1, 2, 0),
        ([2, 12, 7, 7], [2, 8, 7, 7], 3, 1, 1),
    ] {
        let attrs = window([3, 3], stride, pads).with("group_channels", own);
        compare_op(Op::ConvWeightGrad, &[&x, &dy], attrs, 1);
    }
}

#[test]
fn pooling_backward() {
    for (x, dy, taps, stride, pads) in [
        ([2, 32, 13, 13], [2, 32, 6, 6], [2, 2], 2, 0),
        ([1, 5, 7, 6], [1, 5, 7, 6], [3, 3], 1, 1),
        ([3, 17, 8, 9], [3, 17, 4, 5], [3, 3], 2, 1),
    ] {
        compare_op(Op::MaxPoolGrad, &[&x, &dy], window(taps, stride, pads), 1);
    }
    // Among equals and where there is no number, it goes to one place.
    let graph = alone(Op::MaxPoolGrad, &[&[1, 1, 2, 4], &[1, 1, 1, 2]], window([2, 2], 2, 0), 1);
    let x = vec![1.0, 1.0, f32::NAN, 3.0, 0.5, 1.0, f32::NAN, 4.0];
    let given: [Datum; 2] = [
        Tensor::from_vec(vec![1, 1, 2, 4], x).into(),
        Tensor::from_vec(vec![1, 1, 1, 2], vec![2.0_f32, 3.0]).into(),
    ];
    let got = compare(&graph, &given, 0.0);
    let got = got[0].as_tensor().unwrap().raw::<f32>().into_owned();
    assert_eq!(got, [2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn rows_backward() {
    let axis = Attrs::new().with("axis", -1_i64);
    compare_op(Op::SoftmaxGrad, &[&[3, 5, 37], &[3, 5, 37]], axis.clone(), 1);
    for shape in [[150, 32], [3, 256]] {
        let [_, len] = shape;
        for op in [Op::LayerNormalizationGrad, Op::RMSNormalizationGrad] {
            compare_op(op, &[&shape, &[len], &shape], axis.clone(), 1);
        }
        for op in [Op::LayerNormalizationScaleGrad, Op::RMSNormalizationScaleGrad] {
            compare_op(op, &[&shape, &shape], axis.clone(), 1);
        }
    }
}

#[test]
fn sums_that_leave_the_channels() {
    for turned in [false, true] {
        let mut b = Builder::new("net", 5);
        let x = b.input("x", DType::F32, [5_usize, 7, 6, 8]);
        // What a pooling gives lies channels last.
        let x = if turned { b.op(Op::MaxPool, "pool", &[x], window([2, 2], 1, 0)) } else { x };
        let axes = b.ints("axes", &[0, 2, 3]);
        let sum = b.op(Op::ReduceSum, "sum", &[x, axes], Attrs::new().with("keepdims", 0_i64));
        let graph = b.finish(&[("sum", sum)]).unwrap();
        compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
    }
}

#[test]
fn attention_backward() {
    let joined = Attrs::new().with("q_num_heads", 4_i64).with("kv_num_heads", 4_i64).with("is_causal", 1_i64);
    compare_op(Op::AttentionGrad, &[&[2, 19, 32], &[2, 19, 32], &[2, 19, 32], &[2, 19, 32]], joined, 3);
    let apart = Attrs::new().with("scale", 0.3);
    compare_op(
        Op::AttentionGrad,
        &[&[2, 3, 9, 8], &[2, 3, 14, 8], &[2, 3, 14, 20], &[2, 3, 9, 20]],
        apart,
        3,
    );
    // Heads that share keys and values.
    let shared = Attrs::new().with("q_num_heads", 6_i64).with("kv_num_heads", 2_i64).with("is_causal", 1_i64);
    compare_op(Op::AttentionGrad, &[&[2, 9, 48], &[2, 9, 16], &[2, 9, 24], &[2, 9, 72]], shared, 3);
    compare_op(
        Op::AttentionGrad,
        &[&[2, 4, 9, 8], &[2, 2, 14, 8], &[2, 2, 14, 20], &[2, 4, 9, 20]],
        Attrs::new(),
        3,
    );
}

#[test]
fn attention_backward_sees_what_the_mask_leaves() {
    let mut b = Builder::new("net", 5);
    let of = |b: &mut Builder, name: &str, length: usize| b.input(name, DType::F32, [2, length, 32]);
    let [q, dy] = ["q", "dy"].map(|name| of(&mut b, name, 9));
    let [k, v] = ["k", "v"].map(|name| of(&mut b, name, 14));
    let mask = b.input("mask", DType::F32, [2_usize, 1, 9, 14]);
    let seen: Vec<bool> = (0..9 * 14).map(|i| i % 5 != 3).collect();
    let told = b.constant("told", Tensor::from_bools(vec![9, 14], seen));
    let counted = b.constant("counted", Tensor::from_vec(vec![2], vec![14_i64, 6]));
    let heads = || Attrs::new().with("q_num_heads", 4_i64).with("kv_num_heads", 4_i64);
    let mut outputs = Vec::new();
    for (i, (mask, counted)) in
        [(Some(mask), None), (Some(told), None), (None, Some(counted)), (Some(mask), Some(counted))]
            .into_iter()
            .enumerate()
    {
        let operands = [Some(q), Some(k), Some(v), Some(dy), mask, counted];
        let made = b.ops(Op::AttentionGrad, &format!("back{i}"), &operands, heads(), 3);
        outputs.extend(made.into_iter().enumerate().map(|(k, v)| (format!("y{i}{k}"), v)));
    }
    let named: Vec<_> = outputs.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let graph = b.finish(&named).unwrap();
    compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
    let profile = Session::new(&graph, 1).unwrap().profile();
    assert!(profile.iter().all(|s| s.kernel == "attention, backward"), "{profile:?}");
}

#[test]
fn products_read_what_was_turned_as_it_lies() {
    let mut b = Builder::new("net", 5);
    let x = b.input("x", DType::F32, [300_usize, 50]);
    let dy = b.input("dy", DType::F32, [300_usize, 70]);
    let turned = b.op(Op::Transpose, "turned", &[x], Attrs::new().with("perm", vec![1_i64, 0]));
    let dw = b.op(Op::MatMul, "dw", &[turned, dy], Attrs::new());
    let graph = b.finish(&[("dw", dw)]).unwrap();
    compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
    assert_eq!(Session::new(&graph, 1).unwrap().profile().len(), 1);
    for (turned, a, b) in
        [([0, 1], [30, 40], [50, 40]), ([0, 0], [30, 40], [40, 50]), ([1, 0], [30, 40], [30, 50])]
    {
        let attrs = Attrs::new().with("transA", turned[0]).with("transB", turned[1]);
        compare_op(Op::Gemm, &[&a, &b], attrs, 1);
    }
}

#[test]
fn products_of_turned_matrices() {
    // Shapes of which once the left, once the right gives the rows of the result.
    for (m, k, n) in [(81, 20, 32), (32, 20, 81)] {
        for turned in [[false, false], [false, true], [true, false], [true, true]] {
            let mut b = Builder::new("net", 5);
            let mut operand = |name: &str, shape: [usize; 2], turned: bool| {
                let [rows, columns] = if turned { [shape[1], shape[0]] } else { shape };
                let x = b.input(name, DType::F32, [3, rows, columns]);
                let order = Attrs::new().with("perm", vec![0_i64, 2, 1]);
                if turned { b.op(Op::Transpose, &format!("{name}/turned"), &[x], order) } else { x }
            };
            let (x, y) = (operand("x", [m, k], turned[0]), operand("y", [k, n], turned[1]));
            let product = b.op(Op::MatMul, "product", &[x, y], Attrs::new());
            let images = b.ints("images", &[0, m as i64, n as i64, 1]);
            let images = b.op(Op::Reshape, "images", &[product, images], Attrs::new());
            let back = b.op(Op::Relu, "relu", &[images], Attrs::new());
            let graph = b.finish(&[("product", product), ("images", back)]).unwrap();
            compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
        }
    }
}

#[test]
fn choices_by_a_comparison_are_elementwise() {
    let mut b = Builder::new("net", 5);
    let [x, dy] = ["x", "dy"].map(|name| b.input(name, DType::F32, [3_usize, 1100]));
    let [zero, slope] = [0.0, 0.01].map(|x: f32| b.constant("number", Tensor::scalar(x)));
    let above = b.op(Op::Greater, "above", &[x, zero], Attrs::new());
    let relu = b.op(Op::Where, "relu", &[above, dy, zero], Attrs::new());
    let below = b.op(Op::Less, "below", &[x, zero], Attrs::new());
    let low = b.op(Op::Mul, "low", &[dy, slope], Attrs::new());
    let leaky = b.op(Op::Where, "leaky", &[below, low, dy], Attrs::new());
    let sum = b.op(Op::Add, "sum", &[relu, leaky], Attrs::new());
    let graph = b.finish(&[("sum", sum)]).unwrap();
    compare(&graph, &inputs(&graph, &Bindings::new()), 0.0);
    let profile = Session::new(&graph, 1).unwrap().profile();
    assert!(profile.iter().all(|s| s.kernel == "elementwise"), "{profile:?}");
}

#[test]
fn whole_steps() {
    for (name, options, loss) in [
        ("mnist_cnn", "filters=8 hidden=32", Loss::CrossEntropy),
        ("braggnn", "", Loss::Mse),
        ("gpt_tiny", "layers=1 width=32 heads=4 hidden=64 vocabulary=16", Loss::CrossEntropy),
    ] {
        let model = find(name).unwrap();
        let mut graph = model.build(&Options::parse(options.split_whitespace()).unwrap()).unwrap();
        let mut bindings = model.default_bindings(&graph);
        bindings.insert("batch".into(), 3);
        bindings.entry("seq".into()).and_modify(|n| *n = 12);
        infer::bind(&mut graph, &bindings).unwrap();
        let spec = Spec::new(loss, Optimizer::parse("adam").unwrap());
        let step = step(&graph, &spec, None, Weights::Compute).unwrap();
        let mut given = inputs(&step.graph, &Bindings::new());
        given[step.learning_rate] = Tensor::scalar(1e-3_f32).into();
        for slot in &step.states {
            let square = slot.name.contains("square");
            let tensor = given[slot.input].as_tensor().unwrap();
            // No mean square is negative, and weights are so small that nothing grows beyond bounds.
            let number = |x: &f32| if square { x * x + 0.1 } else { x * 0.1 };
            let numbers: Vec<f32> = tensor.raw::<f32>().iter().map(number).collect();
            given[slot.input] = Tensor::from_vec(tensor.shape().to_vec(), numbers).into();
        }
        compare(&step.graph, &given, 1e-4);
    }
}
