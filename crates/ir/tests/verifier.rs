//! Broken graphs that no text can express. The others are file tests.

use orrery_base::index::Id;
use orrery_ir::{Attrs, Def, Graph, NodeId, Op, State, Type, ValueId, Weight, verify};
use orrery_numerics::DType;

/// `y = Relu(x)` with a constant beside it.
fn graph() -> (Graph, [ValueId; 3]) {
    let mut graph = Graph::new("g");
    let ty = Type::tensor(DType::F32, [2_usize]);
    let x = graph.add_input("x", ty.clone());
    let c = graph.add_constant("c", ty, Weight::Absent);
    let node = graph.add_node(Op::Relu, "", vec![Some(x)], vec![Some("y".into())], Attrs::new(), vec![]);
    let y = graph.nodes[node].outputs[0].expect("an output");
    graph.outputs.push(y);
    (graph, [x, c, y])
}

fn state(input: usize, output: usize) -> State {
    State { input, output, initial: Weight::Absent }
}

#[test]
fn a_broken_structure_is_named() {
    type Damage = fn(&mut Graph, [ValueId; 3]);
    let damages: [(u32, &str, Damage); 14] = [
        (1, "an output that does not exist", |g, _| g.outputs.push(ValueId::new(99))),
        (1, "an input of a node that does not exist", |g, _| {
            g.nodes[NodeId::new(0)].inputs[0] = Some(ValueId::new(99));
        }),
        (1, "an output of a node that does not exist", |g, _| {
            g.nodes[NodeId::new(0)].outputs[0] = Some(ValueId::new(99));
        }),
        (3, "an input that is not listed", |g, _| g.inputs.clear()),
        (3, "an input that is listed twice", |g, [x, ..]| g.inputs.push(x)),
        (3, "a constant listed as input", |g, [_, c, _]| g.inputs.push(c)),
        (3, "a value of a node that does not exist", |g, [.., y]| {
            g.values[y].def = Def::Node(NodeId::new(7), 0);
        }),
        (3, "a value of another output", |g, [.., y]| g.values[y].def = Def::Node(NodeId::new(0), 1)),
        (3, "a node that makes an input", |g, [x, ..]| g.nodes[NodeId::new(0)].outputs.push(Some(x))),
        (3, "a node that no longer makes its value", |g, _| g.nodes[NodeId::new(0)].outputs[0] = None),
        (10, "a state of an input that does not exist", |g, _| g.states = vec![state(1, 0)]),
        (10, "a state of an output that does not exist", |g, _| g.states = vec![state(0, 1)]),
        (10, "two states of an input", |g, [.., y]| {
            g.outputs.push(y);
            g.states = vec![state(0, 0), state(0, 1)];
        }),
        (4, "a name twice", |g, [.., y]| g.values[y].name = "x".into()),
    ];
    let (sound, _) = graph();
    verify::verify(&sound).unwrap();
    for (invariant, what, damage) in damages {
        let (mut broken, ids) = graph();
        damage(&mut broken, ids);
        let refusal = verify::verify(&broken).expect_err(what);
        assert_eq!(refusal.code, "graph-invalid", "{what}");
        assert!(refusal.cause.ends_with(&format!("(invariant {invariant})")), "{what}: {refusal}");
    }
}

#[test]
fn broken_graphs_print() {
    let (mut graph, _) = graph();
    graph.nodes[NodeId::new(0)].inputs[0] = Some(ValueId::new(99));
    graph.outputs.push(ValueId::new(98));
    graph.states.push(state(7, 0));
    let printed = graph.to_string();
    assert!(printed.contains("Relu(%\"v99, which does not exist\")"), "{printed}");
}
