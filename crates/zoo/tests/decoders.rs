//! Decoders have the parameters, the work and the cache that their sources publish.

use orrery_ir::{Bindings, Graph, count, infer};
use orrery_zoo::{Options, find};

fn build(name: &str, options: &str) -> Graph {
    let options = Options::parse(options.split_whitespace());
    let graph = options.and_then(|options| find(name)?.build(&options));
    graph.unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn bindings(given: &[(&str, i64)]) -> Bindings {
    given.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

fn macs(graph: &Graph, given: &[(&str, i64)]) -> u64 {
    count::macs(graph, &bindings(given)).unwrap_or_else(|error| panic!("{error}"))
}

/// Parameters within half of the last digit published.
fn agrees(name: &str, published: f64, digit: f64) {
    let found = count::parameters(&build(name, "")) as f64;
    assert!((found - published).abs() <= 0.5 * digit, "{name}: {found} of {published}");
}

#[test]
fn parameters_are_as_published() {
    for (name, billions, digit) in [
        ("llama2_7b", 6.738, 0.001),
        ("llama_7b", 6.738, 0.001),
        ("llama2_13b", 13.015, 0.002),
        ("llama2_70b", 68.98, 0.01),
        ("llama3_8b", 8.030, 0.001),
        ("llama3_70b", 70.55, 0.01),
        ("llama3_405b", 405.85, 0.01),
        ("llama3.2_1b", 1.24, 0.01),
        ("mistral_7b", 7.24, 0.01),
        ("mixtral_8x7b", 46.7, 0.1),
        ("gpt_oss_120b", 116.8, 0.1),
        ("bloomz_7b1", 7.07, 0.01),
        ("bloomz_176b", 176.0, 1.0),
        ("gpt2_small", 0.124, 0.001),
        ("gpt2_xl", 1.5576, 0.0001),
        ("gptj_6b", 6.05, 0.01),
        ("megatron_22b", 22.0, 1.0),
        ("mtnlg_530b", 530.0, 1.0),
        ("gpt3_175b", 175.0, 1.0),
        ("mpt_125m", 0.125, 0.01),
        ("mpt_7b", 6.65, 0.01),
        ("mpt_30b", 29.95, 0.02),
    ] {
        agrees(name, billions * 1e9, digit * 1e9);
    }
}

/// Products of a block for each token, times the blocks: the table's block parameters.
#[test]
fn blocks_hold_what_is_published() {
    for (name, millions, digit) in [
        ("gpt2_small", 84.9, 0.1),
        ("gpt2_xl", 1474.6, 0.1),
        ("gpt3_13b", 12583.0, 1.0),
        ("gpt3_175b", 173_900.0, 100.0),
        ("gpt_800m", 805.0, 1.0),
        ("gptj_6b", 5637.0, 2.0),
        ("genslm_25m", 25.2, 0.1),
        ("genslm_250m", 253.0, 1.0),
        ("genslm_2.5b", 2532.0, 1.0),
        ("genslm_123m", 85.0, 0.2),
        ("bert_base", 85.0, 0.2),
        ("bert_large", 302.0, 0.5),
    ] {
        let options = if name.starts_with("bert") { "head=none" } else { "" };
        let graph = build(name, options);
        let in_layers = |name: &str| name.starts_with("h/") || name.starts_with("encoder/");
        let weights = graph.values.values().filter(|v| in_layers(&v.name)).filter_map(|v| {
            let shape = v.ty.as_tensor().filter(|_| matches!(v.def, orrery_ir::Def::Constant(_)))?;
            shape.extents().filter(|extents| extents.len() == 2)
        });
        let found: usize = weights.map(|extents| extents[0] * extents[1]).sum();
        assert!((found as f64 / 1e6 - millions).abs() <= 0.5 * digit, "{name}: {found} of {millions}");
    }
}

/// For each token `L·(2·d·q + 2·d·kv + 3·d·ff) + 2·s·q·L + d·V`, masked scores counted.
#[test]
fn llamas_work_as_published() {
    for (name, [layers, width, queries, keys, hidden, vocabulary]) in [
        ("llama2_7b", [32, 4096, 4096, 4096, 11008, 32000]),
        ("llama2_70b", [80, 8192, 8192, 1024, 28672, 32000]),
        ("llama3_8b", [32, 4096, 4096, 1024, 14336, 128_256]),
        ("llama3_405b", [126, 16384, 16384, 1024, 53248, 128_256]),
        ("llama3.2_1b", [16, 2048, 2048, 512, 8192, 128_256]),
    ] {
        let block = layers * (2 * width * queries + 2 * width * keys + 3 * width * hidden);
        let head = width * vocabulary;
        let graph = build(name, "");
        for (batch, seq) in [(1, 2048), (16, 128)] {
            let expected = batch * seq * (block + head + 2 * seq * queries * layers);
            assert_eq!(macs(&graph, &[("batch", batch as i64), ("seq", seq as i64)]), expected, "{name}");
        }
        let last = build(name, "form=prefill logits=last");
        let expected = 100 * (block + 2 * 100 * queries * layers) + head;
        assert_eq!(macs(&last, &[("batch", 1), ("seq", 100)]), expected, "{name} prefill");
        let decode = build(name, "form=decode");
        let found = macs(&decode, &[("batch", 8), ("seq", 1), ("past", 1000)]);
        assert_eq!(found, 8 * (block + head + 2 * 1001 * queries * layers), "{name} decode");
    }
}

/// For each token `L·(4·d² + 2·d·ff) + 2·s·d·L + d·V`.
#[test]
fn relatives_of_gpt_work_as_published() {
    for (name, [layers, width, hidden, vocabulary]) in [
        ("gpt3_256m", [14, 1088, 4352, 50257]),
        ("gpt3_175b", [96, 12288, 49152, 50257]),
        ("megatron_1t", [128, 25600, 102_400, 51200]),
        ("gptj_6b", [28, 4096, 16384, 50400]),
        ("mpt_7b", [32, 4096, 16384, 50368]),
        ("bloomz_7b1", [30, 4096, 16384, 250_880]),
        ("genslm_250m", [12, 1840, 2048, 69]),
        ("gpt_800m", [16, 2048, 8192, 50257]),
    ] {
        let token = layers * (4 * width * width + 2 * width * hidden) + width * vocabulary;
        let expected = 2 * 512 * (token + 2 * 512 * width * layers);
        assert_eq!(macs(&build(name, ""), &[("batch", 2), ("seq", 512)]), expected, "{name}");
    }
}

/// Only the experts that a token takes work for it. With the embeddings, of which one row is read, their weights and all
/// others are the active parameters.
#[test]
fn mixtures_work_as_published() {
    for (name, [layers, width, queries, keys, hidden, vocabulary], [all, active], billions, digit) in [
        ("mixtral_8x7b", [32, 4096, 4096, 1024, 14336, 32000], [8, 2], 12.9, 0.1),
        ("gpt_oss_120b", [36, 2880, 4096, 512, 2880, 201_088], [128, 4], 5.1, 0.1),
    ] {
        let block = 2 * width * queries + 2 * width * keys + width * all + active * 3 * width * hidden;
        let token = layers * block + width * vocabulary;
        let found = macs(&build(name, ""), &[("batch", 3), ("seq", 100)]);
        assert_eq!(found, 300 * (token + 2 * 100 * queries * layers), "{name}");
        // The source counts the embeddings of mixtral, and not those of gpt-oss.
        let embeddings = if name == "mixtral_8x7b" { width * vocabulary } else { 0 };
        let active = (token + embeddings) as f64 / 1e9;
        assert!((active - billions).abs() <= 0.5 * digit, "{name}: {active} of {billions}");
    }
    // Half of the blocks see no further than their window.
    let decode = build("gpt_oss_120b", "form=decode");
    let at = |past: i64| macs(&decode, &[("batch", 1), ("seq", 1), ("past", past), ("recent", 127)]);
    assert_eq!(at(2000) - at(1000), 18 * 1000 * 2 * 4096);
}

/// Bytes of keys and values that one token adds, in 16 bits.
#[test]
fn caches_grow_as_published() {
    for (name, bytes) in [
        ("llama2_7b", 524_288),
        ("llama2_13b", 819_200),
        ("llama2_70b", 327_680),
        ("llama3_8b", 131_072),
        ("llama3_70b", 327_680),
        ("llama3_405b", 516_096),
        ("llama3.2_1b", 32_768),
        ("mistral_7b", 131_072),
        ("mixtral_8x7b", 131_072),
        ("gpt_oss_120b", 73_728),
        ("bloomz_7b1", 491_520),
        ("bloomz_176b", 4_014_080),
    ] {
        let mut graph = build(name, "form=decode");
        let mut at = bindings(&[("batch", 1), ("seq", 1), ("past", 9)]);
        if name == "gpt_oss_120b" {
            at.insert("recent".to_owned(), 9);
        }
        infer::bind(&mut graph, &at).unwrap_or_else(|error| panic!("{name}: {error}"));
        let elements = |ids: &[orrery_ir::ValueId]| -> i64 {
            let cached = ids.iter().filter(|id| graph.values[**id].name != "input_ids");
            cached.filter_map(|id| graph.values[*id].ty.as_tensor()?.elements()?.known()).sum()
        };
        let outputs: Vec<_> = graph.outputs.iter().copied().skip(1).collect();
        assert_eq!(2 * (elements(&outputs) - elements(&graph.inputs)), bytes, "{name}");
    }
}

#[test]
fn dimensions_can_be_chosen() {
    let graph = build("llama3_8b", "layers=2 width=256 heads=4 kv_heads=2 hidden=512 vocabulary=1000");
    let block = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512 + 2 * 256;
    assert_eq!(count::parameters(&graph), 2 * 1000 * 256 + 2 * block + 256);
    let refused = |options: &str| {
        let options = Options::parse(options.split_whitespace()).unwrap_or_else(|e| panic!("{e}"));
        find("llama3_8b").and_then(|m| m.build(&options)).unwrap_err().to_string()
    };
    assert!(refused("heads=3").contains("`kv_heads` of `llama3_8b` cannot be"));
    assert!(refused("width=100 heads=8").contains("divides the width of 100"));
}

/// A model of 405 billion parameters is a description: it takes neither time nor memory to build.
#[test]
fn size_costs_nothing() {
    let before = std::time::Instant::now();
    let graph = build("llama3_405b", "form=decode");
    assert!(before.elapsed().as_secs_f64() < 1.0, "{:?}", before.elapsed());
    let largest = graph.values.values().filter_map(|v| match &v.def {
        orrery_ir::Def::Constant(orrery_ir::Weight::Data(tensor)) => Some(tensor.len()),
        _ => None,
    });
    assert!(largest.max() < Some(10));
}
