//! Which nodes a machine runs exactly, approximately or not at all, and why.

use crate::model::Model;
use crate::outcome::refusal;
use crate::setup::Setup;
use crate::way::{Ready, make_ready};
use orrery_base::{Diagnostic, Result};
use orrery_compile::{Fidelity, Options, compile};
use orrery_import::onnx;
use orrery_ir::infer::node_place;
use orrery_ir::op::Engine;
use orrery_ir::{Graph, Type};
use orrery_record::Refusal;
use orrery_transform::{Exactness, Weights};
use serde::Serialize;

/// How well a node is represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As its definition says, mapped as the machine would.
    Exact,
    /// In the main, with the difference stated.
    Approximated,
    /// Not at all.
    Unknown,
}

impl Verdict {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximated => "approximated",
            Self::Unknown => "unknown",
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeCheck {
    /// The node in the user's terms.
    pub node: String,
    /// How well.
    pub verdict: Verdict,
    /// Where on the way that was decided: import, transform, compile.
    pub stage: &'static str,
    /// Why it is not exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A model on a machine.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The machine.
    pub machine: String,
    /// The precision.
    pub precision: String,
    /// Every node of the file or of the built-in model, then what was recognised among them, then how each was mapped.
    pub nodes: Vec<NodeCheck>,
    /// Why it cannot run; none where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What the user should know.
    #[serde(skip)]
    pub notes: Vec<Diagnostic>,
}

impl CheckReport {
    /// Numbers of exact, approximated and unknown nodes, as decided by the last stage that saw them.
    pub fn counts(&self) -> [usize; 3] {
        let stage = ["compile", "import"].into_iter().find(|s| self.nodes.iter().any(|n| n.stage == *s));
        let last = self.nodes.iter().filter(|n| n.verdict == Verdict::Unknown || Some(n.stage) == stage);
        let mut counts = [0; 3];
        for node in last {
            counts[node.verdict as usize] += 1;
        }
        counts
    }
}

/// Checks a model on a machine.
///
/// # Errors
/// Where the dimensions contradict each other or the machine does not know precision or stack.
pub fn check(model: &Model, batch: Option<u64>, setup: &Setup) -> Result<CheckReport> {
    let target = setup.target()?;
    let mut report = CheckReport {
        machine: setup.system.name.clone(),
        precision: target.precision.name.clone(),
        nodes: model.report.iter().flat_map(|r| r.nodes.iter().map(imported)).collect(),
        refusal: None,
        notes: model.report.iter().flat_map(|r| r.notes.clone()).collect(),
    };
    if let Err(unknown) = model.graph() {
        report.refusal = Some(refusal(&unknown));
        return Ok(report);
    }
    let bound = model.at_batch(batch)?;
    let ready = match make_ready(&bound.graph, &target, Weights::ShapeOnly) {
        Ok(ready) => ready,
        Err(diagnostic) => {
            report.refusal = Some(refusal(&diagnostic));
            return Ok(report);
        }
    };
    report.nodes.extend(replaced(&ready));
    report.notes.extend(ready.notes.clone());
    let impossible = impossible(&ready.graph);
    match compile(&ready.graph, &target, &Options::default()) {
        Ok(compiled) => {
            report.nodes.extend(compiled.nodes.iter().map(|(node, fidelity)| mapped(node, *fidelity)));
            report.notes.extend(compiled.notes);
        }
        Err(diagnostic) => {
            report.nodes.extend(impossible);
            report.refusal = Some(refusal(&diagnostic));
        }
    }
    Ok(report)
}

fn imported(node: &onnx::NodeReport) -> NodeCheck {
    let (verdict, reason) = match &node.fidelity {
        onnx::Fidelity::Exact => (Verdict::Exact, None),
        onnx::Fidelity::Approximated(difference) => (Verdict::Approximated, Some(difference.clone())),
        onnx::Fidelity::Unknown(reason) => (Verdict::Unknown, Some(reason.clone())),
    };
    NodeCheck { node: format!("{} `{}`", node.operator, node.node), verdict, stage: "import", reason }
}

fn replaced(ready: &Ready) -> impl Iterator<Item = NodeCheck> {
    ready.report.replacements.iter().map(|replacement| {
        let (before, after) = replacement.nodes;
        let became = format!("recognised as {}: {before} nodes became {after}", replacement.kind);
        let (verdict, reason) = match replacement.exactness {
            Exactness::Exact => (Verdict::Exact, became),
            Exactness::Approximated(why) => (Verdict::Approximated, format!("{became}; {why}")),
        };
        NodeCheck { node: replacement.place.clone(), verdict, stage: "transform", reason: Some(reason) }
    })
}

fn mapped(node: &str, fidelity: Fidelity) -> NodeCheck {
    let (verdict, reason) = match fidelity {
        Fidelity::Exact => (Verdict::Exact, None),
        Fidelity::Approximated => (
            Verdict::Approximated,
            Some("its work is counted, but how the machine would cut it is a guess".to_owned()),
        ),
    };
    NodeCheck { node: node.to_owned(), verdict, stage: "compile", reason }
}

/// Every node that no accelerator takes, not only the first.
fn impossible(graph: &Graph) -> Vec<NodeCheck> {
    let mut found = Vec::new();
    for (id, node) in graph.nodes.iter() {
        let open = node.outputs.iter().flatten().find_map(|v| match &graph.values[*v].ty {
            Type::Tensor(ty) if ty.extents().is_some() => None,
            other => {
                Some(format!("`{}` is {other}: its size is known only by running", graph.values[*v].name))
            }
        });
        let reason = match node.op.def().engine {
            Engine::Host => {
                Some(format!("{} works on strings or lists, which no accelerator holds", node.op))
            }
            _ => open,
        };
        found.extend(reason.map(|reason| NodeCheck {
            node: node_place(graph, id),
            verdict: Verdict::Unknown,
            stage: "compile",
            reason: Some(reason),
        }));
    }
    found
}
