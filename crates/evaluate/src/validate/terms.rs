//! The words of a measurements file: metrics, what `spec` may hold, stacks.

use crate::workload::Case;
use orrery_base::nearest;
use orrery_machine::System;
use orrery_record::{Measurement, Record};

/// Metrics that can be predicted, and what each is.
pub const METRICS: [(&str, &str); 9] = [
    ("samples_per_s", "samples a second over all devices"),
    ("tokens_per_s", "tokens a second over all devices"),
    ("tokens_per_s_per_device", "tokens a second of one device"),
    ("tokens_per_s_per_user", "tokens a second of one generated sequence"),
    ("latency_ms", "milliseconds of the work"),
    ("tflops", "10^12 floating-point operations a second of one device"),
    ("gelements_per_s", "10^9 elements a second, of primitives"),
    ("bandwidth", "10^9 bytes of a rank a second, of collectives"),
    ("power_w", "watts of a device that generates"),
];

/// Keys of `spec`, as `measurements/README.md` lists them by workload.
const SPEC: [&str; 67] = [
    "act_ckpt",
    "base_filters",
    "batch",
    "bs_per_device",
    "bs_per_gpu",
    "bs_per_gpu_fp16",
    "bytes",
    "c",
    "c_in",
    "c_out",
    "causal",
    "cell",
    "cols",
    "counts",
    "cp",
    "crop",
    "d_model",
    "device_iterations",
    "dp",
    "elements",
    "exec",
    "ffn",
    "fsdp",
    "grad_accum",
    "h",
    "head_dim",
    "heads",
    "hidden",
    "image",
    "in_len",
    "input",
    "instances",
    "interleave",
    "ipus_per_replica",
    "k",
    "kernel",
    "kv_heads",
    "kv_len",
    "m",
    "micro_batch",
    "mode",
    "n",
    "n_heads",
    "n_layers",
    "op",
    "out_len",
    "packing",
    "pad",
    "pass",
    "pipeline",
    "pp",
    "q_len",
    "ranks",
    "recompute",
    "replicas",
    "rows",
    "scenario",
    "sharding",
    "stride",
    "t",
    "tiles",
    "tiles_per_instance",
    "tp",
    "tp_shard",
    "unpacked",
    "vocab",
    "w",
];

/// What a row says that is not known here and has no effect on its prediction.
pub(super) fn unknown(record: &Record, system: Option<&System>) -> Vec<String> {
    let keys = record.identity.workload.spec.keys();
    let mut found: Vec<String> = keys
        .filter(|key| !SPEC.contains(&key.as_str()))
        .map(|key| match nearest(key, SPEC) {
            Some(close) if close.len() > 2 => format!("`{key}` of spec; `{close}` is close"),
            _ => format!("`{key}` of spec"),
        })
        .collect();
    if let (Some(system), Some(name)) = (system, &record.identity.stack)
        && system.stack(name).is_err()
    {
        found.push(format!("stack `{name}` of {}: the machine's default losses", system.title));
    }
    found
}

/// What was measured: a rate of tokens whose unit is one device's is that of one.
pub(super) fn metric(figure: &Measurement) -> &str {
    let of_one =
        ["/GPU", "/HPU", "/device", "per GPU", "per device"].iter().any(|part| figure.unit.contains(part));
    if figure.metric == "tokens_per_s" && of_one { "tokens_per_s_per_device" } else { &figure.metric }
}

/// True for metrics that grow as the time of the work shrinks.
pub(crate) fn is_rate(metric: &str) -> bool {
    !metric.starts_with("latency")
}

/// How a metric follows from the seconds of the work.
pub(super) fn conversion(metric: &str) -> Result<fn(&Case, f64) -> f64, String> {
    match metric {
        "tflops" => Ok(|case, seconds| case.flops / seconds * 1e-12),
        "samples_per_s" => Ok(|case, seconds| case.devices * case.samples / seconds),
        "latency_ms" => Ok(|_, seconds| seconds * 1e3),
        "gelements_per_s" => Ok(|case, seconds| case.elements / seconds * 1e-9),
        "tokens_per_s" => Ok(|case, seconds| {
            let tokens = case.model.sequence().map_or(f64::NAN, |length| length as f64);
            case.devices * case.samples * tokens / seconds
        }),
        "tokens_per_s_per_device" => Ok(|case, seconds| {
            let tokens = case.model.sequence().map_or(f64::NAN, |length| length as f64);
            case.samples * tokens / seconds / case.cut.devices()
        }),
        "time_to_train_min" | "time_to_train_h" => Err("convergence is not predicted".to_owned()),
        "scaling_efficiency" => Err("scaling over devices is not modelled yet".to_owned()),
        "bandwidth" => Err("a property of the machine, not a model's".to_owned()),
        other => Err(no_metric(other, "the time of one device")),
    }
}

/// Why a metric is not predicted of such work.
pub(crate) fn no_metric(metric: &str, of: &str) -> String {
    let known = METRICS.map(|(name, _)| name);
    match nearest(metric, known).filter(|_| !known.contains(&metric)) {
        Some(close) => format!("there is no metric `{metric}`; `{close}` is close"),
        None => format!("the metric `{metric}` does not follow from {of}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stack: &str, spec: &str) -> Record {
        let text =
            format!("system,workload,stack,metric,value,spec\na100,gemm,{stack},tflops,1,\"{spec}\"\n");
        orrery_record::rows::read(&text).unwrap().remove(0)
    }

    #[test]
    fn what_is_not_known_of_a_row_is_told() {
        let a100 = orrery_machine::find("a100").unwrap();
        let row = record("cudda", r#"{""m"": 8, ""in_lenn"": 4, ""colour"": 1}"#);
        let told = unknown(&row, Some(a100));
        assert_eq!(told[..2], ["`in_lenn` of spec; `in_len` is close", "`colour` of spec"]);
        assert!(told[2].starts_with("stack `cudda` of "), "{told:?}");
        assert!(unknown(&record("", r#"{""m"": 8}"#), Some(a100)).is_empty());
    }

    #[test]
    fn what_the_projects_own_file_says_is_known() {
        let text = include_str!("../../../../measurements/calibration.csv");
        for record in orrery_record::rows::read(text).unwrap() {
            assert_eq!(unknown(&record, None), [""; 0], "{:?}", record.id);
        }
        assert!(SPEC.is_sorted());
    }

    #[test]
    fn a_slip_in_a_metric_is_guessed() {
        assert!(no_metric("sample_per_s", "it").contains("`samples_per_s` is close"));
        assert!(no_metric("power_w", "it").contains("does not follow from it"));
    }
}
