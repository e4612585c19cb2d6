//! What became of each node.

use orrery_base::{Diagnostic, Result};
use orrery_ir::Graph;

/// How well a node is represented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// As the operator's definition says.
    Exact,
    /// In the main, with the difference stated.
    Approximated(String),
    /// Not at all, with the reason.
    Unknown(String),
}

/// One node of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Its name, or the first value it makes; inside of functions and bodies, the way there in front.
    pub node: String,
    /// Its operator with domain and version of the operator set: `Softmax (opset 11)`.
    pub operator: String,
    /// What became of it.
    pub fidelity: Fidelity,
}

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every node, in the order of the file, those of bodies and functions in their place.
    pub nodes: Vec<NodeReport>,
    /// Names of weights whose elements are not in the file.
    pub absent_weights: Vec<String>,
    /// What the user should know: initializers that shadow inputs, declared shapes that do not hold.
    pub notes: Vec<Diagnostic>,
}

impl Report {
    /// The nodes that are not represented.
    pub fn unknown(&self) -> impl Iterator<Item = &NodeReport> {
        self.nodes.iter().filter(|n| matches!(n.fidelity, Fidelity::Unknown(_)))
    }
    /// Numbers of exact, approximated and unknown nodes.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Fidelity) -> bool| self.nodes.iter().filter(|n| is(&n.fidelity)).count();
        (
            count(|f| matches!(f, Fidelity::Exact)),
            count(|f| matches!(f, Fidelity::Approximated(_))),
            count(|f| matches!(f, Fidelity::Unknown(_))),
        )
    }
    /// The error that a file with unknown nodes is.
    pub(super) fn unknown_error(&self) -> Option<Diagnostic> {
        let all: Vec<&NodeReport> = self.unknown().collect();
        let first = all.first()?;
        let Fidelity::Unknown(reason) = &first.fidelity else { return None };
        let mut operators: Vec<&str> = all.iter().map(|n| n.operator.as_str()).collect();
        operators.sort_unstable();
        operators.dedup();
        Some(
            Diagnostic::error("onnx-unknown-operator", reason.clone())
                .at(format!("{} node `{}`", first.operator, first.node))
                .help(format!(
                    "{} of {} nodes are not known: {}",
                    all.len(),
                    self.nodes.len(),
                    operators.join(", ")
                )),
        )
    }
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph; none where some node is unknown.
    pub graph: Option<Graph>,
    /// What became of each node.
    pub report: Report,
}

impl Imported {
    /// The graph.
    ///
    /// # Errors
    /// `onnx-unknown-operator` with the first node that is not known and a list of all such operators.
    pub fn into_graph(self) -> Result<Graph> {
        match (self.graph, self.report.unknown_error()) {
            (Some(graph), _) => Ok(graph),
            (None, Some(unknown)) => unknown.err(),
            (None, None) => Diagnostic::error("onnx-unknown-operator", "the graph was not built").err(),
        }
    }
}
