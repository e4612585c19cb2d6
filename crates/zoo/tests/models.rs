//! Every model has the parameters and the work that its source publishes, verifies, and prints and parses.

use orrery_ir::{Bindings, Graph, count, infer, text, verify};
use orrery_zoo::{Options, ZooModel, find, registry};

fn build(name: &str, options: &str) -> (&'static ZooModel, Graph) {
    let model = find(name).unwrap_or_else(|error| panic!("{error}"));
    let options = Options::parse(options.split_whitespace());
    let graph = options.and_then(|options| model.build(&options));
    (model, graph.unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// MACs with the model's default values of its symbols, but for those given.
fn macs(model: &ZooModel, graph: &Graph, given: &[(&str, i64)]) -> u64 {
    let mut bindings = model.default_bindings(graph);
    bindings.extend(given.iter().map(|(name, value)| ((*name).to_owned(), *value)));
    count::macs(graph, &bindings).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn parameters_are_as_published() {
    for (name, options, parameters) in [
        ("braggnn", "", 33_172),
        ("resnet50", "", 25_557_032),
        ("unet2d", "", 7_763_041),
        ("unet2d_medical", "", 31_030_658),
        ("uno", "", 16_224_001),
        ("uno_all", "", 21_275_001),
        ("vit_b16", "", 86_567_656),
        ("roberta_large", "head=none", 354_310_144),
        ("roberta_large", "", 355_359_744),
        // Blocks, embeddings and their normalisation; the pooler adds width² + width.
        ("bert_large", "head=none", 334_092_288),
        ("bert_large", "", 334_092_288 + 1024 * 1024 + 1024),
        ("bert_base", "head=none", 108_891_648),
        ("bert_base", "", 109_482_240),
        ("bert_tiny", "", 4_385_920),
        ("minilm", "", 22_713_216),
        ("gpt2_small", "", 124_439_808),
        ("gpt2_small", "form=decode", 124_439_808),
        ("gpt2_xl", "", 1_557_611_200),
        ("gemm", "", 0),
        ("conv2d", "case=2", 256 * 128 * 9 + 256),
        ("relu", "", 0),
        ("lstm", "case=2", 4 * 512 * (512 + 512 + 2)),
    ] {
        assert_eq!(count::parameters(&build(name, options).1), parameters, "{name} {options}");
    }
}

#[test]
fn macs_of_image_models_are_as_published() {
    let of = |name| {
        let (model, graph) = build(name, "");
        let one = macs(model, &graph, &[]);
        assert_eq!(macs(model, &graph, &[("batch", 32)]), 32 * one, "{name}");
        one
    };
    assert_eq!(of("braggnn"), 46_656 + 497_664 + 2 * 209_952 + 165_888 + 903_168 + 57_600 + 3_372);
    assert_eq!(of("resnet50"), 4_089_184_256);
    assert!((12.065e9..12.075e9).contains(&(of("unet2d") as f64)));
    assert!((150.35e9..150.45e9).contains(&(of("unet2d_medical") as f64)));
    // Products alone: no bias is one.
    assert_eq!(of("uno"), 942_000 + 5_270_000 + 4 * 1_000_000 + 2_000_000 + 4 * 1_000_000 + 1000);
    assert_eq!(
        of("uno_all"),
        942_000 + 2 * (5_270_000 + 2_048_000) + 10 * 1_000_000 + 5_002_000 + 2_000_000 + 1000
    );
    let block = 197 * 12 * 768 * 768 + 2 * 197 * 197 * 768;
    assert_eq!(of("vit_b16"), 196 * 768 * 768 + 12 * block + 768 * 1000);
    // The 0.95e12 that is published approximately counts a product and a sum apart.
    let volume = of("unet3d");
    assert!((0.94e12..0.97e12).contains(&(2.0 * volume as f64)), "{volume}");
    let parameters = count::parameters(&build("unet3d", "").1);
    assert!((30.5e6..31.5e6).contains(&(parameters as f64)), "{parameters}");
}

/// For each token `12·d²·L + 2·s·d·L`; the pooler adds `d²` for each sequence.
#[test]
fn macs_of_encoders_are_as_published() {
    for (name, layers, width) in
        [("bert_large", 24, 1024), ("bert_base", 12, 768), ("bert_tiny", 2, 128), ("minilm", 6, 384)]
    {
        let (model, graph) = build(name, "");
        for (batch, seq) in [(1, 128), (3, 384), (8, 512)] {
            let token = layers * (12 * width * width + 2 * seq * width);
            let expected = batch * (seq * token + width * width);
            let found = macs(model, &graph, &[("batch", batch as i64), ("seq", seq as i64)]);
            assert_eq!(found, expected, "{name} {batch}x{seq}");
        }
    }
    let (model, graph) = build("bert_base", "head=pretraining");
    let (_, encoder) = build("bert_base", "");
    let head = 20 * (768 * 768 + 768 * 30522) + 2 * 768;
    assert_eq!(macs(model, &graph, &[]), macs(model, &encoder, &[]) + head);
}

/// For each token `12·d²·L + d·V` and attention over all positions, masked ones counted.
#[test]
fn macs_of_decoders_are_as_published() {
    for (name, layers, width) in [("gpt2_small", 12, 768), ("gpt2_xl", 48, 1600)] {
        let token = 12 * width * width * layers + width * 50257;
        let (model, graph) = build(name, "");
        for (batch, seq) in [(1, 1024), (16, 128)] {
            let expected = batch * seq * (token + 2 * seq * width * layers);
            let found = macs(model, &graph, &[("batch", batch as i64), ("seq", seq as i64)]);
            assert_eq!(found, expected, "{name} {batch}x{seq}");
        }
        let (model, graph) = build(name, "form=decode");
        let found = macs(model, &graph, &[("seq", 1), ("past", 1000)]);
        assert_eq!(found, token + 2 * 1001 * width * layers, "{name} decode");
    }
}

#[test]
fn macs_of_primitives_are_as_published() {
    let of = |name: &str, options: &str, batch: i64| {
        let (model, graph) = build(name, options);
        macs(model, &graph, &[("batch", batch)])
    };
    assert_eq!(of("gemm", "", 64), 64 * 64 * 1760 * 1760);
    assert_eq!(of("gemm", "m=512 k=512 n=512 right=weight", 1), 512 * 512 * 512);
    for (case, mflop) in [(1, 0.4608), (2, 115.6), (3, 55037.7), (4, 12595.5)] {
        let found = 2e-6 * of("conv2d", &format!("case={case}"), 1) as f64;
        assert!((found / mflop - 1.0).abs() < 5e-4, "case {case}: {found}");
    }
    assert_eq!(of("relu", "", 128), 0);
    for (case, steps, batch, inputs, hidden) in [(1, 50, 64, 256, 256), (4, 50, 32, 512, 512)] {
        let expected = 4 * steps * batch * hidden * (inputs + hidden);
        assert_eq!(of("lstm", &format!("case={case}"), batch as i64), expected, "case {case}");
    }
}

/// Variants that differ in their graphs.
const VARIANTS: &[(&str, &str)] = &[
    ("bert_tiny", "head=none"),
    ("bert_tiny", "head=pretraining"),
    ("bert_tiny", "head=questions"),
    ("bert_tiny", "head=classes layers=1"),
    ("gpt2_small", "form=prefill logits=last"),
    ("gpt2_small", "form=decode"),
    ("gemm", "right=weight dtype=bf16"),
    ("conv2d", "case=2 stride=2 dtype=f16"),
    ("lstm", "dtype=f16 hidden=32"),
    ("resnet50", "image=64"),
    ("unet2d", "image=64 features=8"),
    ("unet2d_medical", "image=188 features=8"),
    ("unet3d", "image=32"),
    ("llama3_8b", "form=prefill logits=last"),
    ("llama3_8b", "form=decode"),
    ("gpt_oss_120b", "form=decode"),
    ("mpt_7b", "form=decode"),
];

#[test]
fn every_model_verifies_prints_and_parses() {
    let plain = registry().iter().map(|model| (model.name, ""));
    for (name, options) in plain.chain(VARIANTS.iter().copied()) {
        let (model, graph) = build(name, options);
        verify::verify(&graph).unwrap_or_else(|error| panic!("{name} {options}: {error}"));
        let printed = text::print(&graph);
        assert_eq!(text::parse(&printed).unwrap(), graph, "{name} {options}");

        let mut bound = graph.clone();
        infer::bind(&mut bound, &model.default_bindings(&graph)).unwrap();
        for value in bound.values.values() {
            let known = value.ty.as_tensor().and_then(orrery_ir::TensorType::extents);
            assert!(known.is_some(), "{name} {options}: {} is {}", value.name, value.ty);
        }
    }
}

#[test]
fn names_are_found_and_unique() {
    let mut names = std::collections::BTreeSet::new();
    for model in registry() {
        for name in std::iter::once(&model.name).chain(model.aliases) {
            assert!(names.insert(*name), "{name} stands for two models");
            assert_eq!(find(name).unwrap().name, model.name);
        }
        let graph = model.build(&Options::default()).unwrap();
        assert_eq!(graph.name, model.name);
        assert!(
            model.default_bindings(&graph).keys().all(|name| model.bindings.iter().any(|(n, _)| n == name))
        );
    }
    let unknown = find("resnet51").map(|model| model.name).unwrap_err();
    assert_eq!(unknown.code, "zoo-unknown-model");
}

#[test]
fn options_that_cannot_be_used_are_refused() {
    let refusal = |name: &str, options: &[&str]| {
        let options = Options::parse(options.iter().copied());
        options.and_then(|options| find(name)?.build(&options)).unwrap_err().to_string()
    };
    assert_eq!(
        refusal("gemm", &["m=0"]),
        "error[zoo-option]: the option `m` of `gemm` cannot be `0`\n  help: it takes an integer from 1 to 1000000"
    );
    assert_eq!(
        refusal("relu", &["kernel=3"]),
        "error[zoo-option]: `relu` has no option `kernel`\n  help: its options: case, size, channels, dtype"
    );
    assert!(
        refusal("bert_tiny", &["head=tail"])
            .contains("it takes none, pooler, pretraining, questions, classes")
    );
    assert!(refusal("gemm", &["dtype=i32"]).contains("it takes f64, f32"));
    assert!(refusal("gemm", &["case=5"]).contains("from 1 to 4"));
    assert!(refusal("conv2d", &["size=2", "kernel=3", "padding=0"]).contains("from 3 to"));
    assert!(refusal("gemm", &["m"]).contains("key=value"));
    assert!(refusal("gemm", &["m=1", "m=2"]).contains("given twice"));
}

#[test]
fn weights_follow_from_the_seed() {
    let (_, one) = build("braggnn", "");
    assert_eq!(build("braggnn", "seed=1").1, one);
    assert_ne!(build("braggnn", "seed=2").1, one);
}

#[test]
fn symbols_have_the_values_of_the_entry() {
    let (model, graph) = build("bert_tiny", "");
    let expected: Bindings = [("batch".to_owned(), 1), ("seq".to_owned(), 128)].into();
    assert_eq!(model.default_bindings(&graph), expected);
}
