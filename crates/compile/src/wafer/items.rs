//! What of a graph counts the samples of a batch.
//!
//! Where the items of a batch follow one another in time, each has its share of the values of which a dimension counts
//! samples. All else is the same for every item, or made whole for each and added up, as gradients of weights are.

use orrery_ir::infer::{Facts, with_ctx};
use orrery_ir::op::{Access, Engine};
use orrery_ir::{Bindings, Graph, NodeId, ValueId};
use std::collections::BTreeMap;

/// A graph of which the dimensions that count samples are sought.
struct Search<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    nominal: &'a Bindings,
    samples: u64,
    found: BTreeMap<ValueId, usize>,
}

/// The dimension of each value that counts `samples`, alone or as the outer of several: the first of inputs that are no
/// states, those that follow from it one by one, and those of what is taken along with them.
pub(super) fn by_sample(
    graph: &Graph,
    facts: &Facts,
    nominal: &Bindings,
    samples: u64,
) -> BTreeMap<ValueId, usize> {
    let mut search = Search { graph, facts, nominal, samples, found: BTreeMap::new() };
    for value in graph.inputs.iter().filter(|value| graph.state_of_input(**value).is_none()) {
        if search.extents(*value).first().is_some_and(|extent| search.counts(*extent)) {
            search.found.insert(*value, 0);
        }
    }
    for (id, node) in graph.nodes.iter() {
        for (number, output) in node.outputs.iter().enumerate() {
            let Some(output) = *output else { continue };
            let extents = search.extents(output);
            let dim = search.dimension(id, number, &extents);
            if let Some(dim) = dim.filter(|dim| search.counts(extents[*dim])) {
                search.found.insert(output, dim);
            }
        }
    }
    for id in graph.nodes.ids().collect::<Vec<_>>().into_iter().rev() {
        search.along_with_others(id);
    }
    search.found
}

impl Search<'_> {
    /// Extents of a value; none where its rank is not known.
    fn extents(&self, value: ValueId) -> Vec<u64> {
        let shape = self.facts[value].ty.as_tensor().and_then(|ty| ty.shape.as_ref());
        let extent = |dim: &orrery_ir::Dim| dim.eval(self.nominal).map_or(0, i64::unsigned_abs);
        shape.map(|shape| shape.iter().map(extent).collect()).unwrap_or_default()
    }
    fn counts(&self, extent: u64) -> bool {
        extent > 0 && extent.is_multiple_of(self.samples)
    }
    /// What a node takes sample by sample beside what counts them, such as a table with a row for each, counts them too.
    fn along_with_others(&mut self, id: NodeId) {
        let node = &self.graph.nodes[id];
        let Some(space) = with_ctx(self.graph, self.facts, id, |ctx| (node.op.def().space)(ctx)) else {
            return;
        };
        let inputs = node.inputs.iter().zip(&space.inputs);
        let mut touched = node.outputs.iter().zip(&space.outputs).chain(inputs.clone());
        let axis = touched.find_map(|(value, access)| access.get(*self.found.get(&(*value)?)?)?.axis());
        for (value, access) in inputs.filter(|_| axis.is_some()) {
            let dim = access.iter().position(|access| access.axis() == axis);
            if let (Some(value), Some(dim)) = (value, dim)
                && self.graph.state_of_input(*value).is_none()
                && self.extents(*value).get(dim).is_some_and(|extent| self.counts(*extent))
            {
                self.found.entry(*value).or_insert(dim);
            }
        }
    }
    /// The dimension of an output that follows one of an input that counts samples.
    fn dimension(&self, id: NodeId, output: usize, made: &[u64]) -> Option<usize> {
        let node = &self.graph.nodes[id];
        let inputs = || node.inputs.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?)));
        let mut counted =
            inputs().filter_map(|(i, value)| Some((i, value, *self.found.get(&value)?))).peekable();
        let engine = node.op.def().engine;
        if counted.peek().is_none() {
            // The same for every sample, laid out for each.
            let first = inputs().next().and_then(|(_, value)| self.extents(value).first().copied());
            let spread = engine == Engine::Movement && first.is_none_or(|extent| extent == 1);
            return (spread && made.first() == Some(&self.samples)).then_some(0);
        }
        if engine == Engine::View {
            // A view keeps the order of elements: what comes before the dimension is as much as before.
            let (_, value, dim) = counted.next()?;
            let before: u64 = self.extents(value)[..dim].iter().product();
            return (0..made.len())
                .find(|d| made[..*d].iter().product::<u64>() == before && self.counts(made[*d]));
        }
        match with_ctx(self.graph, self.facts, id, |ctx| (node.op.def().space)(ctx)) {
            Some(space) => counted.find_map(|(input, _, dim)| {
                let axis = space.inputs.get(input)?.get(dim).and_then(Access::axis)?;
                space.outputs.get(output)?.iter().position(|access| access.axis() == Some(axis))
            }),
            None => counted
                .find(|(_, value, dim)| self.extents(*value).get(*dim) == made.get(*dim))
                .map(|(.., dim)| dim),
        }
    }
}
