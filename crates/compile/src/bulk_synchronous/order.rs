//! The order in which the groups of a training step run.

use crate::Options;
use crate::groups::Group;
use orrery_ir::{Graph, ValueId};
use orrery_program::Phase;
use std::collections::BTreeMap;

/// The part of a training step that a group is done in: that of its last node.
pub(super) fn phase(group: &Group, options: &Options) -> Phase {
    group.nodes.last().map_or(Phase::Forward, |node| options.phase(*node))
}

/// One parameter is updated after the other: what an update alone reads of gradients is made just before it, so that it does
/// not lie on the tiles for all parameters at once.
pub(super) fn update_by_update(graph: &Graph, groups: &[Group], options: &Options) -> Vec<Group> {
    let operands = |group: &Group| -> Vec<ValueId> {
        group.nodes.iter().flat_map(|node| graph.nodes[*node].inputs.iter().flatten().copied()).collect()
    };
    // How many groups read each value, and how often the graph gives it to the outside.
    let mut readers: BTreeMap<ValueId, usize> = BTreeMap::new();
    for group in groups {
        let mut read = operands(group);
        read.sort_unstable();
        read.dedup();
        read.into_iter().for_each(|value| *readers.entry(value).or_default() += 1);
    }
    graph.outputs.iter().for_each(|value| *readers.entry(*value).or_default() += 1);
    let mut waiting: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut order = Vec::with_capacity(groups.len());
    for (number, group) in groups.iter().enumerate() {
        if let [value] = group.outputs(graph)[..]
            && phase(group, options) == Phase::Update
            && readers.get(&value) == Some(&1)
            && !graph.outputs.contains(&value)
        {
            waiting.insert(value, number);
            continue;
        }
        let mut before = vec![number];
        let mut at = 0;
        while let Some(&reader) = before.get(at) {
            before.extend(operands(&groups[reader]).iter().filter_map(|value| waiting.remove(value)));
            at += 1;
        }
        // Makers have lower numbers than their readers.
        before.sort_unstable();
        order.extend(before);
    }
    order.extend(waiting.into_values());
    order.into_iter().map(|number| groups[number].clone()).collect()
}
