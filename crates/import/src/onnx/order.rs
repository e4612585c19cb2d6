//! The order in which the nodes of a file can run.

use super::call::place_of;
use super::proto::{GraphProto, NodeProto};
use orrery_base::{Diagnostic, Result};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeSet;

/// Indices of nodes such that every value is made before it is used: the file's own order where that holds, as it should.
///
/// # Errors
/// `onnx-duplicate-name` where two nodes make one value; `onnx-cycle`.
pub(super) fn order(nodes: &[NodeProto]) -> Result<Vec<usize>> {
    let mut makers: FxHashMap<&str, usize> = FxHashMap::default();
    for (number, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if let Some(first) = makers.insert(output, number) {
                return Diagnostic::error(
                    "onnx-duplicate-name",
                    format!(
                        "`{output}` is made twice: by {} and by {}",
                        place_of(&nodes[first]),
                        place_of(node)
                    ),
                )
                .err();
            }
        }
    }
    let mut waits_for: Vec<BTreeSet<usize>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut makes = BTreeSet::new();
        uses(node, &mut |name| {
            if let Some(maker) = makers.get(name) {
                makes.insert(*maker);
            }
        });
        waits_for.push(makes);
    }
    if waits_for.iter().enumerate().all(|(number, makers)| makers.iter().all(|maker| *maker < number)) {
        return Ok((0..nodes.len()).collect());
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut open: Vec<usize> = waits_for.iter().map(BTreeSet::len).collect();
    for (number, makers) in waits_for.iter().enumerate() {
        for maker in makers {
            users[*maker].push(number);
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|n| open[*n] == 0).collect();
    let mut sorted = Vec::with_capacity(nodes.len());
    while let Some(next) = ready.pop_first() {
        sorted.push(next);
        for user in &users[next] {
            open[*user] -= 1;
            if open[*user] == 0 {
                ready.insert(*user);
            }
        }
    }
    match open.iter().position(|n| *n > 0) {
        None => Ok(sorted),
        Some(_) => {
            let (from, to) = on_cycle(&waits_for, &open);
            Diagnostic::error(
                "onnx-cycle",
                format!(
                    "{} needs its own result, by way of {}",
                    place_of(&nodes[from]),
                    place_of(&nodes[to])
                ),
            )
            .err()
        }
    }
}

/// All names that nodes use, with those that their bodies take from outside.
pub(super) fn used_names(nodes: &[NodeProto]) -> FxHashSet<&str> {
    let mut names = FxHashSet::default();
    for node in nodes {
        uses(node, &mut |name| {
            names.insert(name);
        });
    }
    names
}

/// A node on a cycle and one that it waits for. Some node is left open.
fn on_cycle(waits_for: &[BTreeSet<usize>], open: &[usize]) -> (usize, usize) {
    let mut at = open.iter().position(|n| *n > 0).unwrap_or(0);
    let mut seen = BTreeSet::new();
    loop {
        let next = waits_for[at].iter().copied().find(|n| open[*n] > 0).unwrap_or(at);
        if !seen.insert(at) {
            return (at, next);
        }
        at = next;
    }
}

/// Names that a node uses, with those that its bodies take from outside.
fn uses<'m>(node: &'m NodeProto, found: &mut dyn FnMut(&'m str)) {
    for input in node.input.iter().filter(|i| !i.is_empty()) {
        found(input);
    }
    for body in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        body_uses(body, found);
    }
}

fn body_uses<'m>(body: &'m GraphProto, found: &mut dyn FnMut(&'m str)) {
    let mut own: FxHashSet<&str> = FxHashSet::default();
    own.extend(body.input.iter().map(super::proto::ValueInfoProto::name));
    own.extend(body.initializer.iter().map(super::proto::TensorProto::name));
    own.extend(body.sparse_initializer.iter().filter_map(|s| s.values.as_ref()?.name.as_deref()));
    own.extend(body.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
    for node in &body.node {
        uses(node, &mut |name| {
            if !own.contains(name) {
                found(name);
            }
        });
    }
    for output in &body.output {
        if !own.contains(output.name()) {
            found(output.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(input: &[&str], output: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some("Relu".into()),
            input: input.iter().map(|&s| s.into()).collect(),
            output: output.iter().map(|&s| s.into()).collect(),
            ..NodeProto::default()
        }
    }

    #[test]
    fn keeps_a_good_order_and_mends_a_bad_one() {
        let nodes = [node(&["x"], &["a"]), node(&["x"], &["b"]), node(&["a", "b"], &["c"])];
        assert_eq!(order(&nodes).unwrap(), [0, 1, 2]);
        let nodes = [node(&["a", "b"], &["c"]), node(&["x"], &["a"]), node(&["a"], &["b"])];
        assert_eq!(order(&nodes).unwrap(), [1, 2, 0]);
    }

    #[test]
    fn names_a_cycle() {
        let nodes = [node(&["x"], &["a"]), node(&["a", "c"], &["b"]), node(&["b"], &["c"])];
        let found = order(&nodes).unwrap_err();
        assert_eq!(found.code, "onnx-cycle");
        assert!(found.cause.contains("`b`") && found.cause.contains("`c`"), "{}", found.cause);
        assert_eq!(order(&[node(&["a"], &["a"])]).unwrap_err().code, "onnx-cycle");
        assert_eq!(order(&[node(&[], &["a"]), node(&[], &["a"])]).unwrap_err().code, "onnx-duplicate-name");
    }
}
