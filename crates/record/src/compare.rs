//! What may be compared with what.
//!
//! Records of one workload form a group. Within it the best is named only where nothing makes the comparison unfair.

use crate::{Measurement, Phase, Record, Scope, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Something that differs between Records and must not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Unfairness {
    /// Number formats that do not give the same accuracy.
    Precision {
        /// The classes, sorted.
        classes: Vec<String>,
    },
    /// Some are predicted, some executed, measured or published.
    Provenance {
        /// The words, sorted.
        kinds: Vec<String>,
    },
    /// Not the same number of samples was processed.
    Samples {
        /// The numbers, sorted.
        counts: Vec<u64>,
    },
    /// Not the same number of devices.
    Devices {
        /// The numbers, sorted.
        counts: Vec<String>,
    },
    /// Device time against time with the host or a service in it.
    Scope {
        /// The scopes, sorted.
        scopes: Vec<Scope>,
    },
    /// A compilation from nothing against one out of a cache.
    Cached,
    /// The same metric in different units: other things are counted.
    Unit {
        /// The metric.
        metric: String,
        /// The units, sorted.
        units: Vec<String>,
    },
}

impl Unfairness {
    /// In a sentence, for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::Precision { classes } => {
                format!("number formats differ: {}; speed is bought with accuracy", classes.join(" against "))
            }
            Self::Provenance { kinds } => format!("figures differ in kind: {}", kinds.join(" against ")),
            Self::Samples { counts } => {
                let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
                format!("samples processed differ: {}; compare rates, not times", counts.join(" against "))
            }
            Self::Devices { counts } => format!("numbers of devices differ: {}", counts.join(" against ")),
            Self::Scope { scopes } => {
                let scopes: Vec<&str> = scopes.iter().map(|s| s.name()).collect();
                format!("clocks differ in scope: {}", scopes.join(" against "))
            }
            Self::Cached => "one compile time is from nothing, the other out of a cache".to_owned(),
            Self::Unit { metric, units } => {
                format!("{metric} counts different things: {}", units.join(" against "))
            }
        }
    }
}

/// Records of one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What they all did.
    pub workload: Workload,
    /// Their places in the list that was compared, in its order.
    pub records: Vec<usize>,
    /// Why they cannot fairly be ranked; empty where they can.
    pub unfair: Vec<Unfairness>,
    /// The place of the highest rate, or of the lowest time where there are no rates; none where the ranking would be
    /// unfair, fewer than two can be ranked, or several share the first place.
    pub best: Option<usize>,
}

/// Records side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// One group for each workload, in the order in which they first occur.
    pub groups: Vec<Group>,
}

/// Groups Records by their workload and says what may be ranked. Refusals stand in their group without a figure.
pub fn compare(records: &[Record]) -> Comparison {
    let mut groups: Vec<Group> = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let workload = &record.identity.workload;
        match groups.iter_mut().find(|group| same_work(&group.workload, workload)) {
            Some(group) => group.records.push(place),
            None => groups.push(Group {
                workload: workload.clone(),
                records: vec![place],
                unfair: Vec::new(),
                best: None,
            }),
        }
    }
    for group in &mut groups {
        let ran: Vec<usize> = group
            .records
            .iter()
            .copied()
            .filter(|place| !records[*place].measurements().is_empty())
            .collect();
        let all: Vec<&Record> = ran.iter().map(|place| &records[*place]).collect();
        group.unfair = unfairness(&all);
        if group.unfair.is_empty() && ran.len() > 1 {
            group.best = best(records, &ran);
        }
    }
    Comparison { groups }
}

/// The micro batch is how the work was cut, not what it was.
fn same_work(a: &Workload, b: &Workload) -> bool {
    a.batch.global == b.batch.global && Workload { batch: b.batch, ..a.clone() } == *b
}

fn differing<T: Ord>(values: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let distinct: BTreeSet<T> = values.collect();
    (distinct.len() > 1).then(|| distinct.into_iter().collect())
}

fn unfairness(records: &[&Record]) -> Vec<Unfairness> {
    let mut found = Vec::new();
    let identities = || records.iter().map(|r| &r.identity);
    let classes = identities().filter_map(|i| i.precision.as_deref()).map(precision_class);
    if let Some(classes) = differing(classes) {
        found.push(Unfairness::Precision { classes });
    }
    if let Some(kinds) = differing(records.iter().map(|r| r.provenance.name().to_owned())) {
        found.push(Unfairness::Provenance { kinds });
    }
    if let Some(counts) = differing(records.iter().filter_map(|r| r.counted.samples)) {
        found.push(Unfairness::Samples { counts });
    }
    if let Some(counts) = differing(identities().filter_map(|i| i.devices).map(|n| n.to_string())) {
        found.push(Unfairness::Devices { counts });
    }
    let scopes = |record: &Record| -> Vec<Scope> {
        let steady = record.measurements().iter().filter(|m| m.phase == Phase::Steady);
        steady.map(|m| m.scope).collect::<BTreeSet<Scope>>().into_iter().collect()
    };
    let common = |scope: &Scope| records.iter().all(|r| scopes(r).contains(scope));
    if !Scope::ALL.iter().any(common)
        && let Some(scopes) = differing(records.iter().flat_map(|r| scopes(r)))
    {
        found.push(Unfairness::Scope { scopes });
    }
    let has = |phase: Phase| records.iter().any(|r| r.measurements().iter().any(|m| m.phase == phase));
    if has(Phase::Compile) && has(Phase::CompileCached) {
        found.push(Unfairness::Cached);
    }
    let figures = || records.iter().flat_map(|r| r.measurements());
    let metrics: BTreeSet<&str> = figures().map(|m| m.metric.as_str()).collect();
    for metric in metrics {
        let units = figures().filter(|m| m.metric == metric).map(|m| m.unit.clone());
        if let Some(units) = differing(units) {
            found.push(Unfairness::Unit { metric: metric.to_owned(), units });
        }
    }
    found
}

/// Rates in the order in which they are taken for a ranking.
const RATES: [&str; 4] = ["samples_per_s", "tokens_per_s", "tflops", "gelements_per_s"];
/// Times likewise.
const TIMES: [&str; 1] = ["latency_ms"];

fn best(records: &[Record], ran: &[usize]) -> Option<usize> {
    let scope = Scope::ALL.into_iter().find(|scope| {
        ran.iter().all(|place| records[*place].measurements().iter().any(|m| m.scope == *scope))
    })?;
    let figures = |metric: &str| -> Option<Vec<(usize, f64)>> {
        let figure = |place: &usize| -> Option<&Measurement> { records[*place].figure(metric, scope) };
        ran.iter().map(|place| figure(place).map(|m| (*place, m.value))).collect()
    };
    if let Some(rates) = RATES.into_iter().find_map(figures) {
        return alone_at_the_top(&rates);
    }
    let times: Vec<(usize, f64)> = TIMES.into_iter().find_map(figures)?;
    alone_at_the_top(&times.into_iter().map(|(place, time)| (place, -time)).collect::<Vec<_>>())
}

/// The place of the largest value, or none where several share it.
fn alone_at_the_top(values: &[(usize, f64)]) -> Option<usize> {
    let largest = values.iter().map(|v| v.1).fold(f64::NEG_INFINITY, f64::max);
    let mut at_the_top = values.iter().filter(|v| v.1 == largest);
    at_the_top.next().filter(|_| at_the_top.next().is_none()).map(|v| v.0)
}

/// What accuracy a precision gives, for names as machines and measurement files use them. A name it does not know is a
/// class of its own.
pub fn precision_class(precision: &str) -> String {
    match precision {
        "fp64" => "fp64",
        "fp32" => "fp32",
        "tf32" => "tf32 products, fp32 sums",
        "fp16" | "amp" | "fp16.32" => "fp16 products, fp32 sums",
        "bf16" => "bf16 products, fp32 sums",
        "fp16.16" => "fp16 products, fp16 sums",
        "cb16" => "cb16",
        "fp8" => "fp8 products",
        "int8" => "int8 products",
        "mxfp4" => "mxfp4 weights",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::read;

    fn records(lines: &[&str]) -> Vec<Record> {
        let header = "system,devices,workload,mode,precision,batch_size,scope,metric,value,unit,read";
        read(&[&[header], lines].concat().join("\n")).unwrap()
    }

    #[test]
    fn the_best_of_equals_is_named() {
        let found = compare(&records(&[
            "a100,1,resnet50,inference,fp16,32,device,samples_per_s,1000,img/s,READ",
            "h100,1,resnet50,inference,fp16,32,device,samples_per_s,2000,img/s,READ",
            "h100,1,resnet50,inference,fp16,64,device,samples_per_s,3000,img/s,READ",
        ]));
        assert_eq!(found.groups.len(), 2);
        assert_eq!((found.groups[0].best, found.groups[1].best), (Some(1), None));
        assert!(found.groups[0].unfair.is_empty());
        let times = compare(&records(&[
            "a100,1,bert,inference,fp16,1,device,latency_ms,3,ms,READ",
            "h100,1,bert,inference,fp16,1,device,latency_ms,2,ms,READ",
        ]));
        assert_eq!(times.groups[0].best, Some(1));
        let tie = compare(&records(&[
            "a100,1,bert,inference,fp16,1,device,latency_ms,2,ms,READ",
            "h100,1,bert,inference,fp16,1,device,latency_ms,2,ms,READ",
        ]));
        assert_eq!(tie.groups[0].best, None);
    }

    #[test]
    fn unfairness_is_named_and_nobody_wins() {
        let found = compare(&records(&[
            "a100,1,resnet50,inference,fp16,32,device,samples_per_s,1000,img/s,READ",
            "gc200,4,resnet50,inference,fp16.16,32,end_to_end,samples_per_s,2000,tok/s,",
        ]));
        let kinds: Vec<String> = found.groups[0]
            .unfair
            .iter()
            .map(|u| serde_json::to_value(u).unwrap()["kind"].to_string())
            .collect();
        assert_eq!(kinds, ["\"precision\"", "\"provenance\"", "\"devices\"", "\"scope\"", "\"unit\""]);
        assert_eq!(found.groups[0].best, None);
    }

    #[test]
    fn sample_counts_and_caches_are_seen() {
        let mut pair = records(&[
            "cs-2,1,bert,train,fp16,256,device,samples_per_s,1000,seq/s,READ",
            "cs-2,1,bert,train,fp16,256,device,samples_per_s,2000,seq/s,READ",
        ]);
        pair[0].counted.samples = Some(100);
        pair[1].counted.samples = Some(400);
        for (record, phase) in pair.iter_mut().zip([Phase::Compile, Phase::CompileCached]) {
            if let crate::Outcome::Measurements(all) = &mut record.outcome {
                all.push(Measurement { metric: "time_s".into(), unit: "s".into(), phase, ..all[0].clone() });
            }
        }
        let found = compare(&pair);
        assert_eq!(
            found.groups[0].unfair,
            [Unfairness::Samples { counts: vec![100, 400] }, Unfairness::Cached]
        );
    }
}
