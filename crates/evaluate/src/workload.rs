//! From a row of a measurements file to the work it names: a graph, and how the figure follows from its time.

use crate::cut::Cut;
use crate::generation::CONTEXT;
use crate::model::{Bound, Model, Options};
use crate::variant::variant;
use orrery_ir::{Attrs, Builder, Graph, Op};
use orrery_machine::ExecutionModel;
use orrery_numerics::DType;
use orrery_record::{Provenance, Record, Workload};
use serde_json::Value;

/// The work behind a figure.
pub(crate) struct Case {
    /// What runs on one device.
    pub(crate) model: Bound,
    /// Times of the forward pass that the measured work takes, where it is more than that.
    pub(crate) passes: f64,
    /// What is trained, where the work is a training step.
    pub(crate) training: Option<Training>,
    /// Tiles of a device that one copy of the model has, where it does not have all.
    pub(crate) tiles: Option<u64>,
    /// Devices, or parts of them, that each do this work at the same time.
    pub(crate) devices: f64,
    /// How one copy of the model is cut over devices; the work is that of one of them.
    pub(crate) cut: Cut,
    /// The stages of the cut are left to the machine's compiler: the model is whole, and its work is that of all of them.
    pub(crate) dealt: bool,
    /// Micro-batches of one update of the weights.
    pub(crate) micro_batches: f64,
    /// Samples that one device processes in this work.
    pub(crate) samples: f64,
    /// Floating-point operations by which the source counts this work.
    pub(crate) flops: f64,
    /// Elements that the source counts.
    pub(crate) elements: f64,
    /// What else to know.
    pub(crate) note: Option<String>,
}

/// How a row trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Training {
    /// Micro-batches whose gradients are added before an update.
    pub(crate) accumulations: f64,
    /// The backward pass makes activations again.
    pub(crate) recompute: bool,
    /// It is known after how many micro-batches gradients are added up over devices, and what they pass on the way.
    pub(crate) sums_counted: bool,
}

/// Where a training step cannot be made: the backward pass takes about twice the work of the forward pass; both together are three.
const TRAINING_PASSES: f64 = 3.0;

/// Why a row cannot be modelled.
type Reason = String;

/// What a row leaves open and has to be assumed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Assumed {
    /// Samples at once in one copy of the model.
    pub(crate) batch: Option<u64>,
    /// Devices over which every block is cut.
    pub(crate) shards: Option<u64>,
    /// Devices over which the machine's compiler deals the model out as stages.
    pub(crate) stages: Option<u64>,
    /// A training step is timed as a multiple of its forward pass.
    pub(crate) from_forward: bool,
}

/// Why a row without a batch cannot be modelled as it stands.
pub(crate) const NO_BATCH: &str = "the batch is not published";

/// The work of a row, or why it cannot be built. `storage` is the type of the operands of primitives.
pub(crate) fn case(record: &Record, storage: DType, assumed: Assumed) -> Result<Case, Reason> {
    let workload = &record.identity.workload;
    match workload.mode.as_deref() {
        Some("primitive") => primitive(workload, storage),
        Some("prefill" | "decode") if workload.model.starts_with("attention_") => {
            attention(workload, storage)
        }
        Some("inference") => whole_model(record, 1.0, assumed),
        Some("train") => whole_model(record, TRAINING_PASSES, assumed),
        Some("prefill" | "decode") => {
            Err(format!("`{}` is not among the built-in models that generate", workload.model))
        }
        Some("collective") => Err("collectives over several devices are not modelled yet".to_owned()),
        Some("power") => Err("power is not modelled yet".to_owned()),
        Some(other) => Err(format!("the mode `{other}` is not known")),
        None => Err("the row has no mode".to_owned()),
    }
}

/// A number of the row's `spec`.
fn number(workload: &Workload, key: &str) -> Result<i64, Reason> {
    let found = workload.spec.get(key).and_then(Value::as_i64).filter(|n| *n > 0);
    found.ok_or_else(|| format!("the row's spec has no `{key}`"))
}

fn word<'a>(workload: &'a Workload, key: &str) -> Option<&'a str> {
    workload.spec.get(key).and_then(Value::as_str)
}

fn primitive(workload: &Workload, storage: DType) -> Result<Case, Reason> {
    let get = |key| number(workload, key);
    let backward = match word(workload, "pass") {
        None | Some("forward") => false,
        Some("backward") => true,
        Some(other) => return Err(format!("the pass `{other}` is not known")),
    };
    match workload.model.as_str() {
        "gemm" => product(workload, storage, None),
        name if name.ends_with("_op") => product(
            workload,
            storage,
            Some("a product of the layer, by the dimensions that one device has".to_owned()),
        ),
        "conv2d" if backward => weight_gradient(workload, storage),
        "conv2d" => {
            let (batch, c_in, h, w) = (get("batch")?, get("c_in")?, get("h")?, get("w")?);
            let (c_out, kernel, stride) = (get("c_out")?, get("kernel")?, get("stride")?);
            let pad = workload.spec.get("pad").and_then(Value::as_i64).unwrap_or(0);
            let mut b = Builder::new("conv2d", 1);
            let x = b.input("x", storage, [batch, c_in, h, w]);
            let weight = b.weight_of("weight", storage, [c_out, c_in, kernel, kernel], 0.0, 0.02);
            let bias = b.weight_of("bias", storage, [c_out], 0.0, 0.02);
            let y = b.op(Op::Conv, "y", &[x, weight, bias], window(kernel, stride, pad));
            let outputs = convolved(h, kernel, stride, pad) * convolved(w, kernel, stride, pad);
            let flops = 2.0 * (batch * c_out * outputs) as f64 * (c_in * kernel * kernel) as f64;
            finish(b, "y", y, Counts { samples: batch, flops, ..Counts::default() })
        }
        "relu" => {
            let shape = [get("batch")?, get("c")?, get("h")?, get("w")?];
            element_wise(
                "relu",
                &shape,
                (Op::Relu, storage),
                Counts { samples: shape[0], ..Counts::default() },
            )
        }
        "gelu" => element_wise("gelu", &[get("elements")?], (Op::Gelu, storage), Counts::default()),
        "softmax" => {
            element_wise("softmax", &[get("rows")?, get("cols")?], (Op::Softmax, storage), Counts::default())
        }
        "layernorm" => {
            let (rows, columns) = (get("rows")?, get("cols")?);
            let mut b = Builder::new("layernorm", 1);
            let x = b.input("x", storage, [rows, columns]);
            let (scale, shift) = (
                b.weight_of("scale", storage, [columns], 0.0, 1.0),
                b.weight_of("shift", storage, [columns], 0.0, 1.0),
            );
            let y = b.op(Op::LayerNormalization, "y", &[x, scale, shift], Attrs::new());
            finish(b, "y", y, Counts { elements: (rows * columns) as f64, ..Counts::default() })
        }
        "rnn" => recurrence(workload, storage, backward),
        name if name.starts_with("attention_") => attention(workload, storage),
        name => Err(format!("the primitive `{name}` is a property of the machine or not known")),
    }
}

/// What a source counts of the work.
#[derive(Clone, Copy, Default)]
struct Counts {
    samples: i64,
    flops: f64,
    elements: f64,
}

fn finish(b: Builder, name: &str, output: orrery_ir::ValueId, counts: Counts) -> Result<Case, Reason> {
    let graph = b.finish(&[(name, output)]).map_err(|d| d.to_string())?;
    Ok(Case {
        model: Bound {
            parameters: Vec::new(),
            name: graph.name.clone(),
            graph,
            batch: u64::try_from(counts.samples).ok().filter(|n| *n > 0),
            dims: Default::default(),
        },
        passes: 1.0,
        training: None,
        tiles: None,
        devices: 1.0,
        cut: Cut::NONE,
        dealt: false,
        micro_batches: 1.0,
        samples: counts.samples as f64,
        flops: counts.flops,
        elements: counts.elements,
        note: None,
    })
}

fn window(kernel: i64, stride: i64, pad: i64) -> Attrs {
    Attrs::new()
        .with("kernel_shape", vec![kernel, kernel])
        .with("strides", vec![stride, stride])
        .with("pads", vec![pad; 4])
}

fn convolved(extent: i64, kernel: i64, stride: i64, pad: i64) -> i64 {
    (extent + 2 * pad - kernel) / stride + 1
}

fn element_wise(
    name: &str,
    shape: &[i64],
    (op, storage): (Op, DType),
    counts: Counts,
) -> Result<Case, Reason> {
    let mut b = Builder::new(name, 1);
    let x = b.input("x", storage, shape.iter().copied());
    let y = b.op(op, "y", &[x], Attrs::new());
    let elements = shape.iter().map(|d| *d as f64).product();
    finish(b, "y", y, Counts { elements, ..counts })
}

fn product(workload: &Workload, storage: DType, note: Option<String>) -> Result<Case, Reason> {
    let get = |key| number(workload, key);
    let (m, k, n) = (get("m")?, get("k")?, get("n")?);
    let batch = workload.spec.get("batch").and_then(Value::as_i64).unwrap_or(1);
    let mut b = Builder::new("gemm", 1);
    let left = b.input("a", storage, [batch, m, k]);
    // Whole numbers are summed in wider ones.
    let (op, right) = match storage {
        DType::I8 => (Op::MatMulInteger, b.input("b", storage, [batch, k, n])),
        // What is multiplied by is a weight: it comes from memory, as in a model.
        _ => (Op::MatMul, b.weight_of("b", storage, [batch, k, n], 0.0, 0.02)),
    };
    let y = b.op(op, "y", &[left, right], Attrs::new());
    let flops = 2.0 * batch as f64 * m as f64 * k as f64 * n as f64;
    let case = finish(b, "y", y, Counts { samples: batch, flops, ..Counts::default() })?;
    Ok(Case { note, ..case })
}

/// The gradient of a convolution's weights is a convolution too: of the input by the gradient of the output, with samples
/// in the place of channels.
fn weight_gradient(workload: &Workload, storage: DType) -> Result<Case, Reason> {
    let get = |key| number(workload, key);
    let (batch, c_in, h, w) = (get("batch")?, get("c_in")?, get("h")?, get("w")?);
    let (c_out, kernel, stride) = (get("c_out")?, get("kernel")?, get("stride")?);
    let pad = workload.spec.get("pad").and_then(Value::as_i64).unwrap_or(0);
    let (rows, columns) = (convolved(h, kernel, stride, pad), convolved(w, kernel, stride, pad));
    let mut b = Builder::new("conv2d", 1);
    let x = b.input("x", storage, [c_in, batch, h, w]);
    let dy = b.input("dy", storage, [c_out, batch, rows, columns]);
    let attrs = Attrs::new()
        .with("kernel_shape", vec![rows, columns])
        .with("dilations", vec![stride, stride])
        .with("pads", vec![pad; 4]);
    let y = b.op(Op::Conv, "dw", &[x, dy], attrs);
    let flops = 2.0 * (batch * c_out * rows * columns) as f64 * (c_in * kernel * kernel) as f64;
    let case = finish(b, "dw", y, Counts { samples: batch, flops, ..Counts::default() })?;
    Ok(Case { note: Some("the gradient of the weights, as a convolution over samples".to_owned()), ..case })
}

fn recurrence(workload: &Workload, storage: DType, backward: bool) -> Result<Case, Reason> {
    let get = |key| number(workload, key);
    let (op, gates) = match word(workload, "cell").unwrap_or("lstm").to_lowercase().as_str() {
        "lstm" => (Op::LSTM, 4),
        "gru" => (Op::GRU, 3),
        "rnn" | "vanilla" | "rnn_tanh" | "rnn_relu" => (Op::RNN, 1),
        other => return Err(format!("the cell `{other}` is not known")),
    };
    let (steps, batch) = (get("t")?, get("batch")?);
    let (inputs, hidden) = (get("input")?, get("hidden")?);
    let mut b = Builder::new("rnn", 1);
    let x = b.input("x", storage, [steps, batch, inputs]);
    let weight = b.weight_of("weight", storage, [1, gates * hidden, inputs], 0.0, 0.05);
    let recurrence = b.weight_of("recurrence", storage, [1, gates * hidden, hidden], 0.0, 0.05);
    let bias = b.weight_of("bias", storage, [1, 2 * gates * hidden], 0.0, 0.05);
    let operands = [x, weight, recurrence, bias].map(Some);
    let made = b.ops(op, "rnn", &operands, Attrs::new().with("hidden_size", hidden), 1);
    let flops = 2.0 * (gates * steps * batch) as f64 * (hidden * (inputs + hidden)) as f64;
    let case = finish(b, "y", made[0], Counts { samples: batch, flops, ..Counts::default() })?;
    if backward {
        let note = "the backward pass taken as twice the forward pass".to_owned();
        return Ok(Case { passes: 2.0, note: Some(note), ..case });
    }
    Ok(case)
}

fn attention(workload: &Workload, storage: DType) -> Result<Case, Reason> {
    let get = |key| number(workload, key);
    let (batch, queries, keys) = (get("batch")?, get("q_len")?, get("kv_len")?);
    let (heads, kv_heads, width) = (get("heads")?, get("kv_heads")?, get("head_dim")?);
    let causal = match workload.spec.get("causal") {
        Some(Value::Bool(causal)) => *causal,
        Some(Value::Number(n)) => n.as_i64() == Some(1),
        _ => false,
    };
    let mut b = Builder::new(&workload.model, 1);
    let query = b.input("query", storage, [batch, heads, queries, width]);
    // Keys of the tokens before these lie in the cache.
    let (new, past) = if keys > queries { (queries, keys - queries) } else { (keys, 0) };
    let mut operands = vec![Some(query)];
    operands.extend(["key", "value"].map(|name| Some(b.input(name, storage, [batch, kv_heads, new, width]))));
    if past > 0 {
        operands.push(None);
        let shape = [batch, kv_heads, past, width];
        operands.extend(["past_key", "past_value"].map(|name| Some(b.input(name, storage, shape))));
    }
    // A single query sees all keys, whether causal or not.
    let attrs = Attrs::new().with("is_causal", i64::from(causal && queries > 1));
    let y = b.ops(Op::Attention, "y", &operands, attrs, 1)[0];
    let flops = 4.0 * (batch * heads) as f64 * (queries * keys) as f64 * width as f64;
    finish(b, "y", y, Counts { samples: batch, flops, ..Counts::default() })
}

fn whole_model(record: &Record, passes: f64, assumed: Assumed) -> Result<Case, Reason> {
    let identity = &record.identity;
    let workload = &identity.workload;
    let known = orrery_zoo::registry()
        .iter()
        .find(|m| m.name == workload.model || m.aliases.contains(&workload.model.as_str()))
        .ok_or_else(|| format!("`{}` is not among the built-in models", workload.model))?;
    let cut = Cut::of(workload)?;
    let cut = assumed.shards.map_or(cut, |shards| cut.sharded(shards));
    let cut = assumed.stages.map_or(cut, Cut::staged);
    let dealt = assumed.stages.is_some();
    let decoder = known.parameters.iter().any(|parameter| parameter.name == "shards");
    if cut != Cut::NONE && !decoder && !dealt {
        return Err("one copy of the model is cut over several chips, and it is no decoder".to_owned());
    }
    let devices = identity.devices.ok_or("the number of devices is not published")?;
    let (tiles, copies) = parts(workload, &identity.machine, devices)?;
    let copies = copies / cut.devices();
    let mut notes = Vec::new();
    let micro = match assumed.batch {
        Some(batch) => {
            notes.push(format!("samples at once not published, taken as {batch}"));
            batch
        }
        None => micro_batch(record, copies)?,
    };
    let (mut parameters, more) = variant(known, workload);
    if !dealt {
        parameters.extend(cut.options());
    }
    notes.extend(more);
    notes.extend(cut.note());
    let mut options = Options { parameters, ..Options::default() };
    if known.name.starts_with("bert") && passes > 1.0 {
        options.parameters.push("head=pretraining".to_owned());
    }
    if let Some(sequence) = workload.lengths.sequence {
        let length = i64::try_from(sequence).map_err(|_| "the sequence length is out of range".to_owned())?;
        options.dims.insert("seq".to_owned(), length);
    }
    if decoder && passes > 1.0 && workload.lengths.sequence.is_none() {
        options.dims.insert("seq".to_owned(), CONTEXT);
        notes.push(format!("sequence not published, taken as {CONTEXT} tokens"));
    }
    let model = Model::open(known.name, &options).map_err(|d| d.cause.clone())?;
    let bound = model.at_batch(Some(micro)).map_err(|d| d.cause.clone())?;
    let dealt_over = if dealt { cut.devices() } else { 1.0 };
    let flops = 2.0 * bound.macs().map_err(|d| d.cause.clone())? as f64 * passes / dealt_over;
    let recompute = recomputes(workload);
    let again = if passes > 1.0 && recompute { 1.0 } else { 0.0 };
    let mut micro_batches =
        workload.batch.global.map_or(1.0, |global| global as f64 / (copies * micro as f64));
    let mut accumulations = said(record, "grad_accum").unwrap_or(1) as f64;
    if dealt && !workload.spec.contains_key("grad_accum") {
        // A pipeline of an unknown batch is filled and drained, and its weights updated, seldom enough not to count.
        if workload.batch.global.is_none() && cut != Cut::NONE {
            micro_batches = f64::INFINITY;
        }
        accumulations = micro_batches.max(1.0);
    }
    let said_when = said(record, "grad_accum").is_some() || workload.batch.global.is_some();
    let sums_counted = dealt && said_when;
    let training = (passes > 1.0).then_some(Training { accumulations, recompute, sums_counted });
    if passes > 1.0 && devices > 1.0 && !sums_counted {
        notes.push("all-reduce not counted".to_owned());
    }
    if let Some(tiles) = tiles {
        notes.push(format!("{copies} copies of the model on {tiles} tiles each, taken as so many times one"));
    } else if copies != 1.0 {
        notes.push(format!("{devices} devices taken as {copies} times one copy"));
    }
    // MLPerf counts original sequences of Wikipedia, about 250 tokens long, and packs rows of 512 with them.
    let mlperf =
        matches!(&record.provenance, Provenance::Published { source, .. } if source.starts_with("MLPerf"));
    let mut packed = 1.0;
    if mlperf && known.name.starts_with("bert") && workload.lengths.sequence == Some(512) {
        packed = 512.0 / 250.0;
        notes.push("a row of 512 tokens counted as two sequences of 250 on average".to_owned());
    }
    Ok(Case {
        model: bound,
        passes: passes + again,
        training,
        tiles,
        devices: copies,
        cut,
        dealt,
        micro_batches,
        samples: micro as f64 * packed,
        flops,
        elements: 0.0,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    })
}

/// Tiles that one copy of the model has, where not a whole device, and the number of copies.
fn parts(workload: &Workload, machine: &str, devices: f64) -> Result<(Option<u64>, f64), Reason> {
    let Ok(copies) = number(workload, "instances") else { return Ok((None, devices)) };
    let copies = copies as f64;
    let system = orrery_machine::find(machine).map_err(|d| d.cause.clone())?;
    let ExecutionModel::Spatial(chip) = &system.model else { return Ok((None, devices)) };
    if copies <= devices {
        return Ok((None, copies));
    }
    Ok((Some((chip.tiles as f64 * devices / copies) as u64), copies))
}

/// Lets batch normalisation take means and variances of the batch, as training does, which cannot be folded into weights.
pub(crate) fn with_statistics(graph: &mut Graph) {
    let found: Vec<_> =
        graph.nodes.iter().filter(|(_, n)| n.op == Op::BatchNormalization).map(|(id, _)| id).collect();
    for id in &found {
        graph.nodes[*id].attrs.set("training_mode", 1);
    }
}

/// True where the row says that the backward pass makes all activations again rather than keep them.
fn recomputes(workload: &Workload) -> bool {
    match workload.spec.get("act_ckpt").or_else(|| workload.spec.get("recompute")) {
        Some(Value::Bool(all)) => *all,
        Some(Value::String(text)) => matches!(text.to_lowercase().as_str(), "true" | "full"),
        _ => false,
    }
}

/// A count that the row gives.
fn said(record: &Record, key: &str) -> Option<u64> {
    let found = record.identity.workload.spec.get(key).or_else(|| record.extra.get(key));
    found.and_then(Value::as_u64).filter(|n| *n > 0)
}

/// The global batch divided by devices, where the row does not say more of what is on one at once.
pub(crate) fn shared_batch(record: &Record) -> Option<u64> {
    let workload = &record.identity.workload;
    let says_more = ["micro_batch", "bs_per_gpu", "bs_per_device", "grad_accum"];
    if says_more.iter().any(|key| workload.spec.contains_key(*key)) {
        return None;
    }
    Some((workload.batch.global? as f64 / record.identity.devices?).floor() as u64)
}

/// Samples on one device at once: what the row says, else the global batch divided by devices and accumulations.
pub(crate) fn micro_batch(record: &Record, devices: f64) -> Result<u64, Reason> {
    let workload = &record.identity.workload;
    let said = |key: &str| said(record, key);
    // What fills the memory in 16 bits does so twice in 32.
    let narrow = matches!(record.identity.precision.as_deref(), Some("fp16" | "amp"));
    let of_narrow = || said("bs_per_gpu_fp16").map(|batch| if narrow { batch } else { (batch / 2).max(1) });
    let keys = ["micro_batch", "bs_per_gpu", "bs_per_device"];
    if let Some(micro) = keys.into_iter().find_map(said).or_else(of_narrow) {
        return Ok(micro);
    }
    let global = workload.batch.global.ok_or(NO_BATCH)?;
    let shared = devices * said("grad_accum").unwrap_or(1) as f64;
    // Where it does not divide, some devices have a sample more than others.
    let micro = (global as f64 / shared).floor();
    if micro < 1.0 {
        return Err(format!("a batch of {global} does not divide by {shared} devices and accumulations"));
    }
    Ok(micro as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_record::rows::read;

    fn of(workload: &str, mode: &str, batch: &str, spec: &str) -> Result<Case, Reason> {
        let spec = spec.replace('"', "\"\"");
        let text = format!(
            "system,devices,workload,mode,precision,batch_size,seq_len,metric,value,spec\n\
             a100,1,{workload},{mode},fp16,{batch},,tflops,1,\"{spec}\"\n"
        );
        case(&read(&text).unwrap()[0], DType::F32, Assumed::default())
    }

    fn all_known(bound: &Bound) -> bool {
        let types = bound.graph.values.values().filter_map(|v| v.ty.as_tensor());
        types.filter_map(|t| t.shape.as_ref()).flatten().all(|d| d.known().is_some())
    }

    #[test]
    fn sources_and_graphs_count_the_same_work() {
        let cases = [
            ("gemm", r#"{"batch": 3, "m": 64, "k": 1760, "n": 1760}"#),
            (
                "conv2d",
                r#"{"batch": 8, "c_in": 32, "c_out": 16, "h": 7, "w": 9, "kernel": 3, "stride": 2, "pad": 1, "pass": "forward"}"#,
            ),
            (
                "conv2d",
                r#"{"batch": 8, "c_in": 32, "c_out": 16, "h": 7, "w": 9, "kernel": 3, "stride": 1, "pad": 1, "pass": "backward"}"#,
            ),
            ("rnn", r#"{"cell": "lstm", "t": 5, "batch": 4, "input": 16, "hidden": 32, "pass": "forward"}"#),
            (
                "attention_prefill",
                r#"{"batch": 2, "q_len": 16, "kv_len": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "causal": false}"#,
            ),
        ];
        for (name, spec) in cases {
            let case = of(name, "primitive", "", spec).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(all_known(&case.model), "{name}");
            assert_eq!(case.model.macs().unwrap() as f64 * 2.0, case.flops, "{name}");
        }
    }

    #[test]
    fn training_is_three_forward_passes_of_the_micro_batch() {
        let case = of("resnet50", "train", "3200", r#"{"grad_accum": 10, "micro_batch": 20}"#).unwrap();
        assert_eq!((case.samples, case.passes), (20.0, 3.0));
        let shared = of("resnet50", "train", "40", r#"{"grad_accum": 10}"#).unwrap();
        assert_eq!(shared.samples, 4.0);
        assert!(of("resnet50", "train", "", "{}").is_err());
        assert!(of("resnet50", "train", "9", r#"{"grad_accum": 10}"#).is_err());
        assert!(of("llama9_70b", "inference", "1", "{}").is_err());
        assert!(of("bert_large", "train", "16", r#"{"tp": 2}"#).is_err());
        let cut = of("gpt2_small", "train", "16", r#"{"tp": 2, "pp": 3, "micro_batch": 2}"#).unwrap();
        let whole = of("gpt2_small", "train", "16", r#"{"micro_batch": 2}"#).unwrap();
        // Blocks divide by six, the vocabulary by two.
        assert!(cut.flops < whole.flops / 3.0 && cut.flops > whole.flops / 6.0);
    }
}
