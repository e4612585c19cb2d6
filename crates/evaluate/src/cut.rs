//! One copy of a decoder cut over several devices: every block over some (tensor parallel), blocks in turn over others
//! (pipeline). One device is compiled with its part; what devices say to each other is added.

use orrery_cost::collective::all_reduce;
use orrery_ir::{Bindings, Graph, Op};
use orrery_machine::{Links, Precision};
use orrery_record::Workload;
use serde_json::Value;

/// How one copy of a model is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Devices that share every block.
    pub(crate) shards: u64,
    /// Devices, or groups of them, that have the blocks in turn.
    pub(crate) stages: u64,
    /// Runs of blocks that each stage has, where it has more than one.
    interleave: u64,
}

/// Blocks add up twice: after attention and after the feed-forward part.
const SUMS_OF_BLOCK: f64 = 2.0;

impl Cut {
    /// A copy on each device.
    pub(crate) const NONE: Self = Self { shards: 1, stages: 1, interleave: 1 };

    /// As a row says; whole where it says nothing.
    ///
    /// # Errors
    /// Cuts that are not modelled.
    pub(crate) fn of(workload: &Workload) -> Result<Self, String> {
        let said = |key: &str| workload.spec.get(key).and_then(Value::as_u64).filter(|n| *n > 0).unwrap_or(1);
        if said("cp") > 1 {
            return Err("one copy of the model is cut over several chips (`cp`)".to_owned());
        }
        // IPUs of one copy follow one another.
        let stages = said("pp").max(said("ipus_per_replica"));
        Ok(Self { shards: said("tp"), stages, interleave: said("interleave") })
    }
    /// Every block over so many devices.
    pub(crate) const fn sharded(self, shards: u64) -> Self {
        Self { shards, ..self }
    }
    /// Blocks in turn over so many devices.
    pub(crate) const fn staged(stages: u64) -> Self {
        Self { stages, ..Self::NONE }
    }
    /// Devices of one copy.
    pub(crate) fn devices(self) -> f64 {
        (self.shards * self.stages) as f64
    }
    /// Options by which a decoder of the zoo becomes the part of one device.
    pub(crate) fn options(self) -> impl Iterator<Item = String> {
        let parts = [("shards", self.shards), ("stages", self.stages)];
        parts.into_iter().filter(|(_, n)| *n > 1).map(|(key, n)| format!("{key}={n}"))
    }
    /// Seconds of the sums over shards in one pass of a stage.
    pub(crate) fn sums(self, graph: &Graph, precision: &Precision, links: &Links) -> f64 {
        let blocks = graph.nodes.values().filter(|node| node.op == Op::Attention).count() as f64;
        // Tokens times their width: the embeddings, which are looked up first.
        let embedded = graph.nodes.values().filter(|node| node.op == Op::Gather).find_map(|node| {
            let tensor = graph.values[(*node.outputs.first()?)?].ty.as_tensor()?;
            tensor.shape.as_ref().filter(|_| tensor.dtype.is_float())
        });
        let extents = embedded.into_iter().flatten().map(|dim| dim.eval(&Bindings::new()).ok());
        let elements: Option<i64> = extents.product();
        // What is added up has 16 bits at least.
        let bytes = elements.unwrap_or(0) as f64 * (precision.storage.bits() as f64 / 8.0).max(2.0);
        SUMS_OF_BLOCK * blocks * all_reduce(bytes, self.shards as f64, links)
    }
    /// What stages wait for each other in training, over what they work: so many micro-batches follow one another.
    pub(crate) fn bubble(self, micro_batches: f64) -> f64 {
        (self.stages - 1) as f64 / (self.interleave as f64 * micro_batches.max(1.0))
    }
    /// What to know about it.
    pub(crate) fn note(self) -> Option<String> {
        let over = match (self.shards, self.stages) {
            (1, 1) => return None,
            (shards, 1) => format!("every block over {shards} devices"),
            (1, stages) => format!("blocks in turn over {stages} devices"),
            (shards, stages) => {
                format!("every block over {shards} devices, blocks in turn over {stages} such groups")
            }
        };
        Some(format!("one copy of the model is cut: {over}"))
    }
}
