//! Models run in the interpreter: to finite numbers of a size that 16-bit floats hold, and to the same numbers with a
//! KV cache as without.

use orrery_ir::op::Datum;
use orrery_ir::weights::{hash64, normal};
use orrery_ir::{Graph, infer, interpret};
use orrery_numerics::{DType, Tensor};
use orrery_zoo::{Options, find};

fn build(name: &str, options: &str) -> Graph {
    let options = Options::parse(options.split_whitespace());
    let graph = options.and_then(|options| find(name)?.build(&options));
    graph.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An input of that name with numbers of the kind it takes.
fn input(name: &str, dtype: DType, shape: Vec<usize>) -> Tensor {
    let count: usize = shape.iter().product();
    let below =
        |limit: u64| -> Vec<i64> { (0..count as u64).map(|i| (hash64(7, i) % limit) as i64).collect() };
    match name {
        "input_ids" => Tensor::from_vec(shape, below(30_000)),
        "token_type_ids" => Tensor::from_vec(shape, below(2)),
        "masked_positions" => Tensor::from_vec(shape, below(4)),
        // The last token of each sequence is padding.
        "attention_mask" => {
            let length = shape[1];
            Tensor::from_vec(shape, (0..count).map(|i| i64::from(i % length != length - 1)).collect())
        }
        _ => Tensor::from_f32(
            dtype,
            shape,
            normal(7, count, 0.0, 1.0),
            orrery_numerics::Rounding::NearestEven,
            false,
        ),
    }
}

/// Numbers of a float tensor.
fn numbers(datum: &Datum) -> Vec<f32> {
    datum.as_tensor().expect("a tensor").to_f32().expect("of numbers").into_owned()
}

#[test]
fn activations_stay_in_the_range_of_half_precision() {
    for (name, options, bindings, outputs) in [
        ("braggnn", "", vec![("batch", 2)], vec![vec![2, 2]]),
        ("bert_tiny", "", vec![("batch", 2), ("seq", 6)], vec![vec![2, 6, 128], vec![2, 128]]),
        (
            "bert_tiny",
            "head=pretraining",
            vec![("batch", 1), ("seq", 6), ("predictions", 2)],
            vec![vec![1, 2, 30522], vec![1, 2]],
        ),
        ("bert_tiny", "head=questions", vec![("batch", 1), ("seq", 6)], vec![vec![1, 6], vec![1, 6]]),
        ("bert_tiny", "head=classes", vec![("batch", 1), ("seq", 6)], vec![vec![1, 2]]),
        ("minilm", "head=none layers=2", vec![("batch", 1), ("seq", 5)], vec![vec![1, 5, 384]]),
        ("gpt2_small", "layers=2 logits=last", vec![("batch", 1), ("seq", 4)], vec![vec![1, 1, 50257]]),
        (
            "llama2_7b",
            "layers=4 width=64 heads=4 hidden=160 vocabulary=30000",
            vec![("batch", 2), ("seq", 9)],
            vec![vec![2, 9, 30000]],
        ),
        (
            "gptj_6b",
            "layers=4 width=64 heads=4 hidden=160 vocabulary=30000 logits=last",
            vec![("batch", 2), ("seq", 9)],
            vec![vec![2, 1, 30000]],
        ),
        (
            "bloomz_7b1",
            "layers=4 width=64 heads=4 hidden=160 vocabulary=30000 logits=last",
            vec![("batch", 2), ("seq", 9)],
            vec![vec![2, 1, 30000]],
        ),
        ("uno_all", "", vec![("batch", 2)], vec![vec![2, 1]]),
        ("vit_b16", "image=32 layers=2", vec![("batch", 2)], vec![vec![2, 1000]]),
        ("unet3d", "image=32", vec![("batch", 1)], vec![vec![1, 3, 32, 32, 32]]),
        ("gemm", "m=3 k=5 n=4", vec![("batch", 2)], vec![vec![2, 3, 4]]),
        ("gemm", "m=3 k=5 n=4 right=weight dtype=bf16", vec![("batch", 2)], vec![vec![2, 3, 4]]),
        ("conv2d", "dtype=f16 channels=4", vec![("batch", 2)], vec![vec![2, 32, 5, 5]]),
        ("relu", "", vec![("batch", 1)], vec![vec![1, 32, 7, 7]]),
        (
            "lstm",
            "steps=3 inputs=8 hidden=6",
            vec![("batch", 2)],
            vec![vec![3, 1, 2, 6], vec![1, 2, 6], vec![1, 2, 6]],
        ),
    ] {
        let mut graph = build(name, options);
        let bindings = bindings.into_iter().map(|(symbol, value)| (symbol.to_owned(), value)).collect();
        infer::bind(&mut graph, &bindings).unwrap();
        let inputs = graph.inputs.iter().map(|id| {
            let value = &graph.values[*id];
            let ty = value.ty.as_tensor().unwrap();
            input(&value.name, ty.dtype, ty.extents().unwrap()).into()
        });
        let mut largest = 0.0_f32;
        let mut observe = |id, datum: &Datum| {
            if datum.as_tensor().is_some_and(|tensor| tensor.dtype().is_float()) {
                for number in numbers(datum) {
                    assert!(number.is_finite(), "{name} {options}: {}", graph.values[id].name);
                    largest = largest.max(number.abs());
                }
            }
        };
        let made = interpret::run_observed(&graph, inputs.collect(), 1, &mut observe).unwrap();
        let shapes: Vec<_> = made.iter().map(|datum| datum.as_tensor().unwrap().shape().to_vec()).collect();
        assert_eq!(shapes, outputs, "{name} {options}");
        assert!((0.01..1000.0).contains(&largest), "{name} {options}: largest is {largest}");
        // The outputs tell inputs and places apart.
        let first = numbers(&made[0]);
        assert!(first.iter().any(|number| *number != first[0]), "{name} {options}");
    }
}

/// One decoder of each kind, small.
const DECODERS: &[(&str, &str)] = &[
    ("gpt2_small", "layers=2"),
    ("gpt_800m", "layers=2 width=64 heads=4 hidden=96 vocabulary=5000"),
    ("gptj_6b", "layers=2 width=64 heads=4 hidden=96 vocabulary=5000"),
    ("mpt_7b", "layers=2 width=64 heads=4 hidden=96 vocabulary=5000"),
    ("bloomz_7b1", "layers=2 width=64 heads=4 hidden=96 vocabulary=5000"),
    ("genslm_250m", "layers=2 width=64 heads=4 hidden=96 vocabulary=5000"),
    ("llama3_8b", "layers=2 width=64 heads=4 kv_heads=2 hidden=96 vocabulary=5000"),
    ("llama3.2_1b", "layers=2 width=64 heads=4 kv_heads=1 hidden=96 vocabulary=5000"),
    ("mixtral_8x7b", "layers=2 width=64 heads=4 kv_heads=2 hidden=96 vocabulary=5000"),
    ("gpt_oss_120b", "layers=2 width=64 heads=4 kv_heads=2 hidden=96 vocabulary=5000"),
];

#[test]
fn a_cache_changes_no_number() {
    let ids: Vec<i64> = vec![464, 3290, 318, 845, 3772];
    let tokens = |ids: &[i64]| Datum::from(Tensor::from_vec(vec![1, ids.len()], ids.to_vec()));
    for (name, options) in DECODERS {
        let of = |form: &str, inputs: Vec<Datum>| {
            interpret::run(&build(name, &format!("{options} form={form}")), inputs, 1)
                .unwrap_or_else(|error| panic!("{name} {form}: {error}"))
        };
        let whole = numbers(&of("forward", vec![tokens(&ids)])[0]);
        let vocabulary = whole.len() / ids.len();
        // Each place has an answer of its own, and one that depends on what came before in its order.
        assert_ne!(whole[..vocabulary], whole[vocabulary..2 * vocabulary], "{name}");
        let swapped = numbers(&of("forward", vec![tokens(&[3290, 464, 318, 845, 3772])])[0]);
        assert_ne!(whole[2 * vocabulary..], swapped[2 * vocabulary..], "{name}: tokens have no order");
        let prefilled = of("prefill", vec![tokens(&ids[..2])]);
        let close = |found: &[f32], expected: &[f32]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{name}: {found} {expected}");
            }
        };
        close(&numbers(&prefilled[0]), &whole[..2 * vocabulary]);

        // Two tokens at once, then one.
        let mut past = prefilled[1..].to_vec();
        for new in [2..4, 4..5] {
            let mut inputs = vec![tokens(&ids[new.clone()])];
            inputs.extend(past);
            let decoded = of("decode", inputs);
            close(&numbers(&decoded[0]), &whole[new.start * vocabulary..new.end * vocabulary]);
            past = decoded[1..].to_vec();
            assert_eq!(past[0].as_tensor().unwrap().shape()[2], new.end, "{name}");
        }
    }
}

/// Of the blocks with a window only the last keys and values are kept, and that changes no number.
#[test]
fn a_window_forgets_what_nothing_sees() {
    const LENGTH: usize = 135;
    let ids: Vec<i64> = (0..LENGTH as u64).map(|i| (hash64(3, i) % 500) as i64).collect();
    let tokens = |ids: &[i64]| Datum::from(Tensor::from_vec(vec![1, ids.len()], ids.to_vec()));
    let of = |form: &str, inputs: Vec<Datum>| {
        let options =
            format!("layers=2 width=32 heads=2 kv_heads=1 hidden=16 vocabulary=500 logits=last form={form}");
        interpret::run(&build("gpt_oss_120b", &options), inputs, 1).unwrap()
    };
    let whole = numbers(&of("forward", vec![tokens(&ids)])[0]);
    let made = of("prefill", vec![tokens(&ids[..LENGTH - 1])]);
    let mut inputs = vec![tokens(&ids[LENGTH - 1..])];
    for (i, cache) in made[1..].iter().enumerate() {
        let skipped = if i < 2 { LENGTH - 1 - 127 } else { 0 };
        let kept = numbers(cache)[64 * skipped..].to_vec();
        inputs.push(Tensor::from_vec(vec![1, 1, LENGTH - 1 - skipped, 64], kept).into());
    }
    let decoded = numbers(&of("decode", inputs.clone())[0]);
    let apart = |found: &[f32]| found.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&decoded) < 1e-4, "{}", apart(&decoded));
    // What lies within the window is seen.
    let zeroed = Tensor::from_vec(vec![1, 1, 127, 64], vec![0.0_f32; 127 * 64]);
    inputs[2] = zeroed.into();
    assert!(apart(&numbers(&of("decode", inputs)[0])) > 1e-3);
}
