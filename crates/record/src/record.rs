//! What a Record holds. These types are what is serialised: to change them is to change the format.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What was run on what. Two Records with equal [`Workload`] did the same work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The work.
    #[serde(flatten)]
    pub workload: Workload,
    /// Digest of the model's graph and weights, where there is a file or a graph at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<String>,
    /// Elements of its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// The machine, by the name its source uses.
    pub machine: String,
    /// How many accelerators; half a chip is 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<f64>,
    /// Software stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_version: Option<String>,
    /// Precision, by the machine's or the source's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
}

/// The work itself, apart from machine, software and precision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// The model or primitive, by name.
    pub model: String,
    /// What is done with it: `inference`, `train`, `prefill`, `decode`, `primitive`, `collective`, `power`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Samples at a time.
    pub batch: Batch,
    /// Lengths in tokens.
    pub lengths: Lengths,
    /// Values of the model's other symbolic dimensions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, i64>,
    /// What else is needed to build the work again, by the names of measurement files.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub spec: Map<String, Value>,
}

/// Samples at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Batch {
    /// Over all devices, for one update of the weights or one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<u64>,
    /// On one device at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro: Option<u64>,
}

/// Lengths in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lengths {
    /// Of a training sequence; input and output together for inference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

/// Where a Record comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Provenance {
    /// Predicted from a machine's description.
    Simulated {
        /// Program and version.
        by: String,
        /// What validation says of such figures: `uncalibrated`, or a band.
        confidence: String,
    },
    /// Computed and timed on this host. Times are the host's, whatever machine's numbers were used.
    Executed {
        /// Program and version.
        by: String,
    },
    /// Measured by a user.
    Measured {
        /// The log or whoever measured.
        source: String,
    },
    /// Published.
    Published {
        /// Title of the source.
        source: String,
        /// Place within it.
        location: String,
        /// False where it was read off a figure.
        exact: bool,
        /// How it was read, in the word of measurement files.
        read: String,
    },
}

impl Provenance {
    /// The word for it in every table.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Simulated { .. } => "predicted",
            Self::Executed { .. } => "executed",
            Self::Measured { .. } => "measured",
            Self::Published { .. } => "published",
        }
    }
    /// The word with what is known of its trustworthiness: `predicted, uncalibrated`.
    pub fn label(&self) -> String {
        match self {
            Self::Simulated { confidence, .. } => format!("{}, {confidence}", self.name()),
            _ => self.name().to_owned(),
        }
    }
}

/// Part of a run that a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for the machine.
    Queue,
    /// Compilation from nothing.
    Compile,
    /// Compilation that found its result in a cache.
    CompileCached,
    /// Bringing program and weights to the device.
    Load,
    /// First runs, until times settle.
    WarmUp,
    /// Steady state.
    Steady,
    /// Writing or reading checkpoints.
    Checkpoint,
    /// All of them together, as in a time to solution.
    Whole,
}

impl Phase {
    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Compile => "compile",
            Self::CompileCached => "compile_cached",
            Self::Load => "load",
            Self::WarmUp => "warm_up",
            Self::Steady => "steady",
            Self::Checkpoint => "checkpoint",
            Self::Whole => "whole",
        }
    }
}

/// What lies within the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The device alone.
    Device,
    /// Host, transfers and start-up too.
    EndToEnd,
    /// Seen by the client of a service.
    Service,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Device, Self::EndToEnd, Self::Service];
    /// Its name, as in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::EndToEnd => "end_to_end",
            Self::Service => "service",
        }
    }
}

/// What the value is of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// One value, or the source does not say.
    #[default]
    Single,
    /// Arithmetic mean.
    Mean,
    /// Median.
    Median,
    /// 90th percentile.
    P90,
    /// 99th percentile.
    P99,
    /// Smallest.
    Minimum,
    /// Largest.
    Maximum,
    /// Sum.
    Total,
}

/// How a figure may be used for scoring predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scored {
    /// A clean device figure.
    Yes,
    /// Host, launch or service overhead is in it.
    Loose,
    /// Suspicious, relative, or about convergence.
    No,
}

impl Scored {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Yes, Self::Loose, Self::No];
    /// The word in measurement files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Loose => "loose",
            Self::No => "no",
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured: `samples_per_s`, `latency_ms`, `tflops`.
    pub metric: String,
    /// Unit, in the words of its source.
    pub unit: String,
    /// Part of the run.
    pub phase: Phase,
    /// What lies within the clock.
    pub scope: Scope,
    /// What it is of many.
    #[serde(default)]
    pub statistic: Statistic,
    /// The value.
    pub value: f64,
    /// Lowest and highest value it may have, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// How it may be used for scoring; none where nobody judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<Scored>,
}

/// How much was processed. Steps alone say nothing: a larger batch does more in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// Samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Runs or updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
}

/// Why a model cannot run somewhere: a legal answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Code of the diagnostic.
    pub code: String,
    /// Why, in a sentence.
    pub reason: String,
    /// Where in the user's model, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub place: Vec<String>,
    /// What would make it run.
    pub remedies: Vec<String>,
}

/// What came of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Figures.
    Measurements(Vec<Measurement>),
    /// It cannot run.
    Refused(Refusal),
}

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Unique name within its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was run on what.
    pub identity: Identity,
    /// Where the figures come from.
    pub provenance: Provenance,
    /// How much was processed.
    #[serde(default)]
    pub counted: Counted,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the reader should know, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Everything else its source said.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl Record {
    /// The figures; none where it was refused.
    pub fn measurements(&self) -> &[Measurement] {
        match &self.outcome {
            Outcome::Measurements(all) => all,
            Outcome::Refused(_) => &[],
        }
    }
    /// Who measured or published it; else the word for where it comes from.
    pub fn source(&self) -> String {
        match &self.provenance {
            Provenance::Measured { source } | Provenance::Published { source, .. } => source.clone(),
            other => other.label(),
        }
    }
    /// The reason why there are no figures.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.outcome {
            Outcome::Measurements(_) => None,
            Outcome::Refused(refusal) => Some(refusal),
        }
    }
    /// The figure of a metric in steady state, within a scope.
    pub fn figure(&self, metric: &str, scope: Scope) -> Option<&Measurement> {
        self.measurements()
            .iter()
            .find(|m| m.metric == metric && m.scope == scope && m.phase == Phase::Steady)
    }
}
