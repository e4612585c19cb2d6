//! Single calls: what the host takes beside the device.

use super::{Prediction, no_metric};
use crate::setup::Setup;
use orrery_ir::{Graph, Op};
use orrery_machine::{Losses, Software, System};
use orrery_record::{Measurement, Workload};

/// Host time of one call of a graph of one op, where its stack measures such calls one at a time.
pub(super) fn single(graph: &Graph, setup: &Setup) -> Option<f64> {
    let target = setup.target().ok()?;
    let Losses::Kernel(losses) = &target.losses else { return None };
    let mut nodes = graph.nodes.values();
    match (nodes.next()?.op, nodes.next()) {
        (Op::Softmax, None) => losses.softmax_call_seconds,
        (Op::LayerNormalization | Op::Gelu, None) => losses.composite_call_seconds,
        _ => None,
    }
}

/// An all-reduce over the links of one machine. While the host prepares it, the device can do no more than end the one before.
pub(super) fn collective(
    workload: &Workload,
    figure: &Measurement,
    system: &System,
    stack: Option<&Software>,
) -> Result<Prediction, String> {
    let number = |key: &str| -> Result<f64, String> {
        let found = workload.spec.get(key).and_then(serde_json::Value::as_f64).filter(|n| *n > 0.0);
        found.ok_or_else(|| format!("the row's spec has no `{key}`"))
    };
    if workload.model != "allreduce" {
        return Err(format!("the collective `{}` is not known", workload.model));
    }
    let (bytes, ranks) = (number("bytes")?, number("ranks")?);
    if ranks > system.links.chips_per_machine as f64 {
        return Err("an all-reduce over several machines is not modelled yet".to_owned());
    }
    let host = match system.losses_under(stack) {
        Losses::Kernel(losses) if stack.is_some_and(|s| !s.graph_launch) => losses.host_seconds_per_kernel,
        _ => 0.0,
    };
    let all = orrery_cost::collective::all_reduce(bytes, ranks, &system.links);
    let latency = orrery_cost::collective::all_reduce(0.0, ranks, &system.links);
    let seconds = latency + (all - latency).max(host);
    match figure.metric.as_str() {
        "latency_ms" => Ok(Prediction::plain(seconds * 1e3, &[])),
        "bandwidth" => {
            let note = "bytes of a rank over the time".to_owned();
            Ok(Prediction::plain(bytes / seconds * 1e-9, &[note]))
        }
        other => Err(no_metric(other, "the time of an all-reduce")),
    }
}
