//! Attention in one kernel: scores never leave the SM.
//!
//! With many queries, a block takes some queries of a head past all keys that they see; its softmax runs between the
//! products, beside them only as far as the machine's matrix unit works by itself. Or a block takes a run of
//! keys of one key head for all queries that share it, which is better for few queries; where heads are too few to fill the SMs, keys are cut in parts
//! and a second kernel adds what the parts found.

use super::saturated;
use orrery_ir::{Node, Op};
use orrery_machine::{KernelLosses, KernelMachine};
use orrery_numerics::DType;

/// Queries that a block takes where there are many.
const QUERIES: f64 = 128.0;
/// Keys that a block takes at a time.
const KEYS: f64 = 64.0;
/// Queries that share a key head and that a block takes together at no cost: rows of the smallest tile.
const FEW_QUERIES: f64 = 64.0;
/// Simple operations of the softmax on a score: maximum, difference, sum, scale.
const SOFTMAX_OPERATIONS: f64 = 4.0;
/// What the softmax's dependent instructions take, over what their units could.
const SOFTMAX_STALLS: f64 = 1.5;
/// Work of the gradients over that of the attention: five products over two (scores anew, and for each of the operands and
/// the weights one), at 63 over 73 parts of the peak, the best of either on an A100 by FlashAttention-2's authors.
const GRADIENT_PRODUCTS: f64 = 2.9;
/// Bytes of queries, keys, values, results and their gradients over those without gradients.
const GRADIENT_TRAFFIC: f64 = 2.0;
/// Trips to memory that a block of few queries makes before, between and after its keys.
const TRIPS: f64 = 3.3;

/// The extents of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    batch: f64,
    heads: f64,
    kv_heads: f64,
    queries: f64,
    /// Keys, past ones counted.
    keys: f64,
    /// Keys that this run adds.
    new_keys: f64,
    /// Size of a head.
    size: f64,
    causal: bool,
    /// The gradients of queries, keys and values are made.
    gradient: bool,
}

impl AttentionShape {
    /// From the extents of the operands of an `Attention`, empty where it has none there.
    pub fn new(node: &Node, operands: &[Vec<f64>]) -> Option<Self> {
        let heads_of = |operand: &[f64], key: &str| -> Option<(f64, f64, f64, f64)> {
            match operand {
                [batch, heads, length, size] => Some((*batch, *heads, *length, *size)),
                [batch, length, width] => {
                    let heads = node.attrs.int(key)?.max(1) as f64;
                    Some((*batch, heads, *length, width / heads))
                }
                _ => None,
            }
        };
        let (batch, heads, queries, size) = heads_of(operands.first()?, "q_num_heads")?;
        let (_, kv_heads, new_keys, _) = heads_of(operands.get(1)?, "kv_num_heads")?;
        let gradient = node.op == Op::AttentionGrad;
        let past = operands.get(4).filter(|_| !gradient).and_then(|p| p.get(2)).copied().unwrap_or(0.0);
        let causal = node.attrs.flag("is_causal");
        Some(Self {
            batch,
            heads,
            kv_heads,
            queries,
            keys: past + new_keys,
            new_keys,
            size,
            causal,
            gradient,
        })
    }
    /// Elements of keys and values that were there before.
    pub fn past_elements(&self) -> f64 {
        2.0 * self.batch * self.kv_heads * (self.keys - self.new_keys) * self.size
    }
}

/// Seconds of an attention.
pub(super) struct AttentionTime {
    /// Matrix unit and softmax.
    pub(super) compute: f64,
    /// Device memory.
    pub(super) memory: f64,
    /// All kernels, the first one's start not counted.
    pub(super) total: f64,
}

/// The time of an attention, by the better of the two ways. `start` is the time a kernel takes to start.
pub(super) fn time(
    shape: &AttentionShape,
    dtype: DType,
    machine: &KernelMachine,
    losses: &KernelLosses,
    (macs, start): (f64, f64),
) -> AttentionTime {
    let bytes = dtype.bits() as f64 / 8.0;
    let kernels = losses.attention_kernels.unwrap_or(1.0);
    let of_keys = 2.0 * shape.batch * shape.kv_heads * shape.size * bytes;
    let mut memory = 2.0 * shape.batch * shape.heads * shape.queries * shape.size * bytes;
    memory += of_keys * shape.keys;
    if kernels > 1.0 {
        // New keys and values are put into the pages of the cache.
        memory += 2.0 * of_keys * shape.new_keys;
    }
    if shape.gradient {
        let time = time(&AttentionShape { gradient: false, ..*shape }, dtype, machine, losses, (macs, start));
        let (compute, memory) = (time.compute * GRADIENT_PRODUCTS, time.memory * GRADIENT_TRAFFIC);
        let beside = time.total - time.compute - time.memory;
        return AttentionTime { compute, memory, total: compute + memory + beside.max(0.0) };
    }
    let memory = memory / saturated(machine, machine.operand_fraction.unwrap_or(losses.memory_fraction));
    if let Some(trips) = losses.score_trips {
        return unfused(shape, bytes, memory, (machine, losses), (macs, start, trips));
    }
    let blockwise = blockwise(shape, machine, losses, macs) / losses.attention_fraction.unwrap_or(1.0);
    let mut time = AttentionTime { compute: blockwise, memory, total: blockwise + memory };
    let (compute, total) = by_keys(shape, bytes, memory, machine, start);
    if total < time.total {
        time = AttentionTime { compute, memory, total };
    }
    time.total += (kernels - 1.0) * start;
    time
}

/// Two products, and between them kernels that go over the scores in device memory; causal or not, all scores are made.
fn unfused(
    shape: &AttentionShape,
    bytes: f64,
    memory: f64,
    (machine, losses): (&KernelMachine, &KernelLosses),
    (macs, start, trips): (f64, f64, f64),
) -> AttentionTime {
    let scores = shape.batch * shape.heads * shape.queries * shape.keys;
    let rate = macs * losses.matrix_fraction * machine.clock_hz * machine.sms as f64;
    let compute = 2.0 * scores * shape.size / rate;
    let memory = memory + trips * scores * bytes / saturated(machine, losses.memory_fraction);
    // A kernel reads and writes the scores; the products do one of both.
    AttentionTime { compute, memory, total: compute + memory + trips / 2.0 * start }
}

/// Blocks of queries past all keys.
fn blockwise(shape: &AttentionShape, machine: &KernelMachine, losses: &KernelLosses, macs: f64) -> f64 {
    let matrix = 2.0 * shape.size / (macs * losses.matrix_fraction);
    let softmax =
        SOFTMAX_STALLS * (1.0 / machine.special_functions + SOFTMAX_OPERATIONS / machine.vector_fp32);
    let hidden = machine.softmax_overlap.unwrap_or(0.0);
    let score = matrix.max(softmax) + (1.0 - hidden) * matrix.min(softmax);
    let tiles = (shape.queries / QUERIES).ceil();
    let keys = (shape.keys / KEYS).ceil() * KEYS;
    let block = QUERIES * keys;
    let blocks = shape.batch * shape.heads * tiles;
    let scores = if shape.causal {
        // A block sees the keys up to its last query; long and short ones even out over the SMs.
        let before = (shape.keys - shape.queries).max(0.0);
        let seen = tiles * before + tiles * (tiles + 1.0) / 2.0 * QUERIES.min(keys);
        let all = shape.batch * shape.heads * QUERIES * seen;
        (all / machine.sms as f64).max(block)
    } else {
        (blocks / machine.sms as f64).ceil() * block
    };
    scores * score / machine.clock_hz
}

/// Runs of keys, cut in as many parts as take least time. Time beside memory, and with it.
fn by_keys(
    shape: &AttentionShape,
    bytes: f64,
    memory: f64,
    machine: &KernelMachine,
    start: f64,
) -> (f64, f64) {
    let trips = TRIPS * machine.hbm_latency_cycles;
    let l2 = machine.l2_bandwidth * machine.l2_fraction.unwrap_or(1.0);
    let in_flight = machine.load_bytes_in_flight.unwrap_or(machine.shared_bytes as f64 / 4.0);
    let group = (shape.heads / shape.kv_heads.max(1.0) * shape.queries / FEW_QUERIES).ceil();
    let mut best = (0.0, f64::INFINITY);
    for splits in (0..9).map(|power| f64::from(1 << power)) {
        let run = (shape.keys / splits / KEYS).ceil() * KEYS * 2.0 * shape.size * bytes;
        let rounds = (shape.batch * shape.kv_heads * group * splits / machine.sms as f64).ceil();
        let cycles = rounds * (trips + run * machine.hbm_latency_cycles / in_flight);
        let compute = cycles / machine.clock_hz;
        // Loads and what follows on them do not overlap as in a long pipeline: squares add up.
        let mut total = compute.hypot(memory);
        if splits > 1.0 {
            let parts = shape.batch * shape.heads * shape.queries * splits * shape.size * 4.0;
            total += start + 2.0 * parts / l2;
        }
        if total < best.1 {
            best = (compute, total);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_machine::{ExecutionModel, Losses, find};

    fn seconds(shape: AttentionShape) -> f64 {
        let system = find("a100-80gb").unwrap();
        let (ExecutionModel::Kernel(machine), Losses::Kernel(losses)) =
            (&system.model, system.losses_under(None))
        else {
            panic!("an A100 runs kernels")
        };
        time(&shape, DType::BF16, machine, &losses, (1024.0, 3.5e-6)).total
    }

    const DECODE: AttentionShape = AttentionShape {
        batch: 4.0,
        heads: 32.0,
        kv_heads: 8.0,
        queries: 1.0,
        keys: 1.0,
        new_keys: 1.0,
        size: 128.0,
        causal: false,
        gradient: false,
    };

    #[test]
    fn more_keys_never_take_less() {
        let times: Vec<f64> =
            (1..5000).map(|keys| seconds(AttentionShape { keys: f64::from(keys), ..DECODE })).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(times[4998] > 1.5 * times[0]);
    }

    #[test]
    fn causal_queries_take_about_half() {
        let all = AttentionShape { queries: 8192.0, keys: 8192.0, new_keys: 8192.0, ..DECODE };
        let ratio = seconds(AttentionShape { causal: true, ..all }) / seconds(all);
        assert!((0.45..0.6).contains(&ratio), "{ratio}");
    }
}
