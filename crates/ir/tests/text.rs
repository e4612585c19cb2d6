//! Print, parse, print gives the same graph and the same text; no text makes the parser panic.

use orrery_base::index::Id;
use orrery_ir::{Attr, Attrs, Dim, Graph, Op, State, TensorType, Type, ValueId, Weight, text};
use orrery_numerics::{DType, Tensor};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::{collection, num, option};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z_/.][a-z0-9_./]{0,6}", 1 => any::<String>()]
}

fn dim() -> impl Strategy<Value = Dim> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Dim::Known),
        (-4_i64..5).prop_map(Dim::Known),
        select(&["batch", "seq", "max", "floordiv", "a b", ".."][..]).prop_map(Dim::symbol),
        name().prop_map(|name| Dim::symbol(&name)),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        (0..6, inner.clone(), inner).prop_map(|(how, a, b)| match how {
            0 => a + b,
            1 => a - b,
            2 => a * b,
            3 => a.floor_div(&b),
            4 => a.larger(&b),
            _ => a.smaller(&b),
        })
    })
}

fn ty() -> impl Strategy<Value = Type> {
    let tensor = (select(&DType::ALL[..]), option::of(collection::vec(dim(), 0..4)))
        .prop_map(|(dtype, shape)| Type::Tensor(TensorType { dtype, shape }));
    prop_oneof![8 => tensor, 1 => Just(Type::Unknown)].prop_recursive(3, 4, 1, |inner| {
        prop_oneof![
            inner.clone().prop_map(|of| Type::Sequence(Box::new(of))),
            inner.prop_map(|of| Type::Optional(Box::new(of))),
        ]
    })
}

/// Numbers that are equal to themselves.
fn number() -> impl Strategy<Value = f64> {
    use num::f64::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE
}

fn attr() -> impl Strategy<Value = Attr> {
    prop_oneof![
        any::<i64>().prop_map(Attr::Int),
        number().prop_map(Attr::Float),
        any::<String>().prop_map(Attr::Str),
        select(&DType::ALL[..]).prop_map(Attr::DType),
        ty().prop_map(Attr::Type),
        collection::vec(any::<i64>(), 0..4).prop_map(Attr::Ints),
        collection::vec(number(), 0..4).prop_map(Attr::Floats),
        collection::vec(any::<String>(), 0..4).prop_map(Attr::Strs),
    ]
}

/// A tensor small enough to print element by element, of any bits.
fn tensor() -> impl Strategy<Value = Tensor> {
    (select(&DType::ALL[..]), collection::vec(0_usize..4, 0..4)).prop_flat_map(|(dtype, shape)| {
        let count: usize = shape.iter().product();
        if dtype == DType::Str {
            let strings = collection::vec(any::<String>(), count);
            strings.prop_map(move |strings| Tensor::from_strings(shape.clone(), strings)).boxed()
        } else {
            let bytes = collection::vec(any::<u8>(), count * dtype.host_bytes());
            bytes
                .prop_map(move |bytes| {
                    Tensor::from_bytes(dtype, shape.clone(), bytes.into()).expect("as many bytes")
                })
                .boxed()
        }
    })
}

#[derive(Clone, Debug)]
enum Statement {
    Input(String, Type),
    Tensor(String, Tensor),
    Constant(String, Type, Weight),
    Node {
        op: Op,
        name: String,
        inputs: Vec<Option<Index>>,
        outputs: Vec<Option<(String, Type)>>,
        attrs: Vec<(String, Attr)>,
        bodies: Vec<Graph>,
    },
    Output(Index, String, Option<(Index, Weight)>),
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        Just(Weight::Absent),
        any::<u64>().prop_map(Weight::Digest),
        (any::<u64>(), number(), number()).prop_map(|(seed, mean, deviation)| Weight::Seeded {
            seed,
            mean,
            deviation
        }),
    ]
}

fn statement(bodies: impl Strategy<Value = Vec<Graph>>) -> impl Strategy<Value = Statement> {
    let node = (
        select(Op::ALL),
        prop_oneof![Just(String::new()), any::<String>()],
        collection::vec(option::of(any::<Index>()), 0..4),
        collection::vec(option::of((name(), ty())), 0..3),
        collection::vec((name(), attr()), 0..3),
        bodies,
    );
    prop_oneof![
        1 => (name(), ty()).prop_map(|(name, ty)| Statement::Input(name, ty)),
        1 => (name(), tensor()).prop_map(|(name, tensor)| Statement::Tensor(name, tensor)),
        1 => (name(), ty(), weight()).prop_map(|(name, ty, weight)| Statement::Constant(name, ty, weight)),
        3 => node.prop_map(|(op, name, inputs, outputs, attrs, bodies)| Statement::Node {
            op, name, inputs, outputs, attrs, bodies
        }),
        1 => (any::<Index>(), any::<String>(), option::weighted(0.3, (any::<Index>(), weight())))
            .prop_map(|(id, name, state)| Statement::Output(id, name, state)),
    ]
}

fn build(
    name: String,
    metadata: Vec<(String, String)>,
    statements: Vec<Statement>,
    names_outputs: bool,
) -> Graph {
    let mut graph = Graph::new(name);
    graph.metadata = metadata.into_iter().collect();
    let mut taken = std::collections::BTreeSet::new();
    let mut unique = |mut name: String| {
        while !taken.insert(name.clone()) {
            name.push('\'');
        }
        name
    };
    for statement in statements {
        let count = graph.values.len();
        let pick = |index: Index| ValueId::new(index.index(count));
        match statement {
            Statement::Input(name, ty) => {
                graph.add_input(unique(name), ty);
            }
            Statement::Tensor(name, tensor) => {
                graph.add_tensor(unique(name), tensor);
            }
            Statement::Constant(name, ty, weight) => {
                graph.add_constant(unique(name), ty, weight);
            }
            Statement::Node { op, name, inputs, outputs, attrs, bodies } => {
                let inputs = inputs.into_iter().map(|i| i.filter(|_| count > 0).map(pick)).collect();
                let (names, types): (Vec<_>, Vec<_>) = outputs.into_iter().map(Option::unzip).unzip();
                let names = names.into_iter().map(|name| name.map(&mut unique)).collect();
                let mut all = Attrs::new();
                for (name, attr) in attrs {
                    all.set(&name, attr);
                }
                let node = graph.add_node(op, name, inputs, names, all, bodies);
                for (id, ty) in graph.nodes[node].outputs.clone().into_iter().zip(types) {
                    if let (Some(id), Some(ty)) = (id, ty) {
                        graph.values[id].ty = ty;
                    }
                }
            }
            Statement::Output(id, name, state) if count > 0 => {
                if let Some((input, initial)) = state.filter(|_| !graph.inputs.is_empty()) {
                    let input = input.index(graph.inputs.len());
                    graph.states.push(State { input, output: graph.outputs.len(), initial });
                }
                graph.outputs.push(pick(id));
                if names_outputs {
                    graph.output_names.push(name);
                }
            }
            Statement::Output(..) => {}
        }
    }
    graph
}

fn graph() -> impl Strategy<Value = Graph> {
    fn of(statements: impl Strategy<Value = Statement>, most: usize) -> impl Strategy<Value = Graph> {
        let metadata = collection::vec((any::<String>(), any::<String>()), 0..2);
        (any::<String>(), metadata, collection::vec(statements, 0..most), any::<bool>())
            .prop_map(|(name, metadata, statements, names)| build(name, metadata, statements, names))
    }
    let body = of(statement(Just(Vec::new())), 6);
    of(statement(collection::vec(body, 0..2)), 12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_graph_parses_back(graph in graph()) {
        let printed = text::print(&graph);
        let parsed = text::parse(&printed).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
        prop_assert_eq!(&parsed, &graph, "{}", printed);
        prop_assert_eq!(text::print(&parsed), printed);
    }

    #[test]
    fn a_printed_formula_parses_back(dim in dim()) {
        prop_assert_eq!(text::parts::all(&dim.to_string(), text::parts::dim).unwrap(), dim);
    }

    /// Whatever bytes are changed: a diagnostic with a place, or a graph that prints and parses.
    #[test]
    fn broken_text_is_refused_or_read(
        graph in graph(),
        changes in collection::vec((any::<Index>(), select(&b"%\"[](){}<>,:=@*+-_.#0123456789abefgilmnorstuxz \n\\\xff"[..])), 1..4),
        cut in option::weighted(0.1, any::<Index>()),
    ) {
        let mut bytes = text::print(&graph).into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let broken = String::from_utf8_lossy(&bytes);
        match text::parse(&broken) {
            Ok(read) => {
                let printed = text::print(&read);
                let again = text::parse(&printed).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
                prop_assert_eq!(text::print(&again), printed);
            }
            Err(refused) => {
                prop_assert!(refused.code.starts_with("text-"), "{}", refused);
                prop_assert!(refused.place[0].starts_with("line "), "{}", refused);
            }
        }
    }
}

#[test]
fn large_constants_print_as_a_digest() {
    let mut graph = Graph::new("large");
    let data: Vec<f32> = (0..65).map(|i| i as f32).collect();
    let id = graph.add_tensor("w", Tensor::from_vec(vec![5, 13], data));
    let printed = text::print(&graph);
    let digest = text::digest(graph.tensor_of(id).unwrap());
    assert!(printed.contains(&format!("constant %w: f32[5, 13] = digest({digest:#018x})")), "{printed}");
    let parsed = text::parse(&printed).unwrap();
    assert_eq!(parsed.values[id].def, orrery_ir::Def::Constant(Weight::Digest(digest)));
    assert_eq!(text::print(&parsed), printed);
}

#[test]
fn values_out_of_order_keep_their_meaning() {
    let mut graph = Graph::new("disordered");
    let f32s = || Type::tensor(DType::F32, [2_usize]);
    let late = graph.add_input("late", f32s());
    let early = graph.add_input("early", f32s());
    graph.inputs = vec![early, late];
    let sum = graph.add_node(
        Op::Add,
        "",
        vec![Some(early), Some(late)],
        vec![Some("sum".into())],
        Attrs::new(),
        vec![],
    );
    let two = graph.add_tensor("two", Tensor::scalar(2.0_f32));
    graph.nodes[sum].inputs[1] = Some(two);
    let printed = text::print(&graph);
    let parsed = text::parse(&printed).unwrap();
    let names: Vec<&str> = parsed.inputs.iter().map(|id| parsed.values[*id].name.as_str()).collect();
    assert_eq!(names, ["early", "late"]);
    assert_eq!(text::print(&parsed), printed);
}

#[test]
fn refusals_say_where_and_what() {
    for (text, message) in [
        ("", "error[text-syntax]: expected `graph`, found the end of the text\n  at line 1, column 1"),
        (
            "graph \"g\" {\n  input %x: f32[2\n}",
            "error[text-syntax]: expected `,` or `]`, found `}`\n  at line 3, column 1",
        ),
        (
            "graph \"g\" {\n  %y: f32[] = relu(%x)\n}",
            "error[text-unknown-op]: there is no op named `relu`\n  at line 2, column 15\n  \
             help: its name is written `Relu`",
        ),
        (
            "graph \"g\" {\n  %y: f32[] = Relu(%x)\n}",
            "error[text-unknown-value]: there is no value named `x`\n  at line 2, column 20",
        ),
        (
            "graph \"g\" {\n  input %x: f32[]\n  input %x: f32[]\n}",
            "error[text-repeated-name]: a value named `x` is there already\n  at line 3, column 9",
        ),
        (
            "graph \"g\" {\n  constant %c: f32[3] = [1.0, 2.0]\n}",
            "error[text-elements]: f32[3] does not hold 2 elements\n  at line 2, column 25",
        ),
        (
            "graph \"g\" {\n  constant %c: f32[n] = [1.0]\n}",
            "error[text-elements]: a constant of type f32[n] cannot hold elements\n  at line 2, column 25",
        ),
        (
            "graph \"g\" {} {",
            "error[text-syntax]: expected the end of the text, found `{`\n  at line 1, column 14",
        ),
    ] {
        assert_eq!(text::parse(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let bodies = "() = If() graph \"\" { ".repeat(10_000);
    assert_eq!(text::parse(&format!("graph \"\" {{ {bodies}")).unwrap_err().code, "text-limit");
    let types = "optional<".repeat(10_000);
    assert_eq!(text::parse(&format!("graph \"\" {{ input %x: {types}")).unwrap_err().code, "text-limit");
}
