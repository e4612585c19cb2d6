//! The model with its trained weights as inputs, as a training step leaves them.

use super::{Spec, loss, parameters};
use crate::legalise::{PrecisionSpec, legalise};
use crate::{Options, Prepared, Weights, prepare};
use orrery_base::Result;
use orrery_ir::{Extend, Graph};

/// A model to evaluate: inputs are its own, then the states it reads; the output is what the loss is taken of.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The graph.
    pub graph: Graph,
    /// Positions of the model's own inputs.
    pub data: std::ops::Range<usize>,
    /// Names of the states it reads, by the names of a step's, in the order of the inputs after the data.
    pub states: Vec<String>,
}

/// The model as it is used after training: dropouts and batch normalizations as in inference.
///
/// # Errors
/// As [`super::step`].
pub fn evaluation(
    model: &Graph,
    spec: &Spec,
    precision: Option<&PrecisionSpec>,
    weights: Weights,
) -> Result<Evaluation> {
    // A step's statistics are its batch normalizations' running ones: the same values are inputs here.
    let (_, statistics) = parameters::training_mode(model);
    let (graph, slots) = parameters::to_inputs(model.clone(), &statistics, &spec.frozen, spec.parameters_in)?;
    let own = graph.inputs.len() - slots.len();
    let options = Options { weights, fold_batch_norm: false, ..Options::default() };
    let Prepared { graph, .. } = prepare(&graph, &options)?;
    let names: Vec<String> = (0..graph.outputs.len()).map(|i| graph.output_name(i).to_owned()).collect();
    let outputs = graph.outputs.clone();
    let extend = Extend::new(graph)?;
    let scores = loss::scores(&extend, &spec.loss, &outputs, &names)?;
    let mut graph = extend.finish();
    graph.outputs = vec![scores];
    graph.output_names = vec!["scores".to_owned()];
    if let Some(precision) = precision {
        graph = legalise(&graph, precision, weights)?.graph;
    }
    let states = slots.into_iter().map(|slot| slot.name).collect();
    Ok(Evaluation { graph, data: 0..own, states })
}
