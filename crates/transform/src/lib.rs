//! Graph to Graph: folding, fusion, legalisation to a machine's precision.
//!
//! Every pass is a function of a graph alone and leaves a graph that the verifier accepts. Values keep the user's names;
//! outputs stay known to the user by the names in the file. [`prepare`] runs the passes that suit any machine, in the
//! order that it states; [`legalise`] brings the result to the number formats of one. Bodies of control flow are cleaned
//! and legalised, not fused.

pub mod affine;
pub mod attention;
pub mod backward;
pub mod batch;
pub mod bias;
pub mod clean;
pub mod fuse;
pub mod legalise;
pub mod normalize;
mod pattern;
pub mod report;
mod rewrite;
pub mod training;
pub mod unroll;

pub use affine::fold_batch_norm;
pub use attention::spread_attention;
pub use backward::differentiate;
pub use batch::spread_batch_norm;
pub use bias::spread_bias;
pub use clean::clean;
pub use fuse::fuse;
pub use legalise::{Legalised, NarrowedWeight, Narrowing, PrecisionSpec, legalise, store_border};
pub use normalize::spread_normalization;
pub use report::{Exactness, Kind, Replacement, Report};
pub use unroll::unroll;

use orrery_base::Result;
use orrery_ir::{Graph, infer, verify};

/// Whether new weights are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Weights {
    /// Weights that a pass changes are computed: the graph can be run.
    #[default]
    Compute,
    /// Weights that a pass changes keep their type alone: the graph can be compiled and timed, at once.
    ShapeOnly,
}

/// Which passes [`prepare`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether new weights are computed.
    pub weights: Weights,
    /// Whether ops that frameworks spell out are recognised.
    pub fuse: bool,
    /// Whether batch normalizations are folded into the weights before them.
    pub fold_batch_norm: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { weights: Weights::Compute, fuse: true, fold_batch_norm: true }
    }
}

/// A graph that is ready to be legalised and compiled.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The graph, with all types inferred.
    pub graph: Graph,
    /// What was done.
    pub report: Report,
}

/// Cleans, folds and fuses a graph, in this order: cleaning; fusing; folding into weights; cleaning of what that left;
/// equal computations become one.
///
/// # Errors
/// `type-rule` where the graph breaks one.
pub fn prepare(graph: &Graph, options: &Options) -> Result<Prepared> {
    let mut report = Report { nodes_before: graph.nodes.len(), ..Report::default() };
    let mut graph = checked(clean::clean_graph(graph.clone(), options.weights)?)?;
    if options.fuse {
        graph = checked(fuse::fuse_graph(graph, &mut report)?)?;
    }
    if options.fold_batch_norm {
        graph = checked(affine::fold(graph, options.weights, &mut report))?;
    }
    graph = checked(clean::clean_graph(graph, options.weights)?)?;
    graph = clean::share_nodes(graph);
    infer::infer(&mut graph)?;
    check(&graph)?;
    report.nodes_after = graph.nodes.len();
    report.note_approximations();
    Ok(Prepared { graph, report })
}

fn checked(graph: Graph) -> Result<Graph> {
    check(&graph)?;
    Ok(graph)
}

/// Holds a pass's result to the verifier in tests and debug builds.
fn check(graph: &Graph) -> Result<()> {
    if cfg!(debug_assertions) { verify::verify(graph) } else { Ok(()) }
}
