//! What the tiles hold at least, however ops are cut.

use super::weights::bytes_of;
use crate::Options;
use crate::groups::{Group, GroupKind, is_inline};
use orrery_ir::infer::Facts;
use orrery_ir::op::Engine;
use orrery_ir::{Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes on all tiles together of what groups make for later ones, where most of it lies there. What becomes of states is
/// left out, as it may be written where they lie.
pub(super) fn passed_on(graph: &Graph, facts: &Facts, groups: &[Group], options: &Options) -> u64 {
    let operands = |group: &Group| -> Vec<ValueId> {
        group.nodes.iter().flat_map(|node| graph.nodes[*node].inputs.iter().flatten().copied()).collect()
    };
    let mut sources: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let source = |sources: &BTreeMap<ValueId, ValueId>, value| sources.get(&value).copied().unwrap_or(value);
    for group in groups.iter().filter(|g| matches!(g.kind, GroupKind::View | GroupKind::Movement)) {
        let read: Vec<ValueId> = operands(group).into_iter().filter(|v| !is_inline(graph, *v)).collect();
        if let ([input], [output]) = (&read[..], &group.outputs(graph)[..]) {
            sources.insert(*output, source(&sources, *input));
        }
    }
    // The last group that reads each value, of those that an output needs.
    let mut wanted: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate().rev() {
        let made: Vec<ValueId> = group.nodes.iter().flat_map(|node| made_by(graph, *node)).collect();
        if !made.iter().any(|value| wanted.contains(value)) {
            continue;
        }
        let read = operands(group);
        wanted.extend(&read);
        let moved = made.iter().any(|value| sources.contains_key(value));
        if !moved && group.kind != GroupKind::Extents {
            read.into_iter().for_each(|value| {
                last.entry(source(&sources, value)).or_insert(number);
            });
        }
    }
    let becomes: BTreeSet<ValueId> =
        graph.states.iter().map(|state| source(&sources, graph.outputs[state.output])).collect();
    let nominal = options.nominal();
    let (mut now, mut most) = (0_u64, 0);
    let mut go: BTreeMap<usize, u64> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate().filter(|(_, group)| group.kind == GroupKind::Compute) {
        let moves =
            |node: NodeId| matches!(graph.nodes[node].op.def().engine, Engine::Movement | Engine::View);
        let made = group.nodes.iter().filter(|node| !moves(**node)).flat_map(|node| made_by(graph, *node));
        for value in made.filter(|value| !becomes.contains(value)) {
            let later = last.get(&value).copied().filter(|last| *last > number);
            if let (Some(later), Some(bytes)) = (later, bytes_of(facts, &nominal, value)) {
                now = now.saturating_add(bytes);
                *go.entry(later).or_default() += bytes;
            }
        }
        most = most.max(now);
        // What goes after groups in between that compute nothing is gone as well.
        while let Some(entry) = go.first_entry().filter(|entry| *entry.key() <= number) {
            now = now.saturating_sub(entry.remove());
        }
    }
    most
}

fn made_by(graph: &Graph, node: NodeId) -> impl Iterator<Item = ValueId> {
    graph.nodes[node].outputs.iter().flatten().copied()
}
