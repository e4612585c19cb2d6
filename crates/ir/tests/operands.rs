//! Ops given operands and attributes at random, as a broken model file would: no op panics, and what comes out is of
//! the type that the op's type rule says.

use orrery_ir::op::{Datum, Fact, Port};
use orrery_ir::weights::hash64;
use orrery_ir::{Attr, AttrKind, Attrs, Graph, Op, Type, infer, interpret};
use orrery_numerics::{DType, Rounding, Tensor, cast};
use std::sync::Mutex;

/// Ops with bodies, which need one that fits.
const WITH_BODIES: [Op; 4] = [Op::If, Op::Loop, Op::Scan, Op::SequenceMap];

/// A stream of random choices.
struct Choices {
    seed: u64,
    count: u64,
}
impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.count += 1;
        (hash64(self.seed, self.count) % n as u64) as usize
    }
    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    fn dtype(&mut self) -> DType {
        const COMMON: [DType; 4] = [DType::F32, DType::F32, DType::I64, DType::Bool];
        if self.chance(80) { self.one_of(&COMMON) } else { self.one_of(&DType::ALL) }
    }
    fn shape(&mut self) -> Vec<usize> {
        let rank = self.one_of(&[0, 1, 1, 2, 2, 3, 4, 5]);
        (0..rank).map(|_| self.one_of(&[0, 1, 1, 2, 2, 2, 3, 3, 4])).collect()
    }
    fn int(&mut self) -> i64 {
        if self.chance(90) {
            self.below(7) as i64 - 2
        } else {
            self.one_of(&[i64::MIN, i64::MAX, 1 << 40, -100])
        }
    }
    fn tensor(&mut self, dtype: DType, shape: Vec<usize>) -> Tensor {
        let count: usize = shape.iter().product();
        match dtype {
            DType::Str => Tensor::from_strings(
                shape,
                (0..count).map(|_| self.one_of(&["", "a b", "1"]).to_owned()).collect(),
            ),
            DType::C64 => Tensor::from_raw(dtype, shape, vec![1_u64; count]),
            DType::C128 => Tensor::from_raw(dtype, shape, vec![1_u128; count]),
            DType::I64 => Tensor::from_vec(shape, (0..count).map(|_| self.int()).collect()),
            _ => {
                let numbers: Vec<f32> = (0..count)
                    .map(|_| if self.chance(95) { self.below(9) as f32 / 2.0 - 1.5 } else { f32::NAN })
                    .collect();
                let numbers = Tensor::from_vec(shape, numbers);
                cast(&numbers, dtype, Rounding::NearestEven, false).expect("numbers become numbers")
            }
        }
    }
    /// Inputs of one op; of one type and related shapes more often than not, so that many fit.
    fn inputs(&mut self, op: Op) -> Vec<Option<Datum>> {
        let ports = op.def().inputs;
        let (dtype, shape) = (self.dtype(), self.shape());
        let mut inputs = Vec::new();
        for port in ports {
            let times = if matches!(port, Port::Variadic(_)) { self.below(3) } else { 1 };
            for _ in 0..times {
                inputs.push((matches!(port, Port::One(_)) || self.chance(60)).then(|| {
                    let small = self.chance(40);
                    let dtype = match self.below(10) {
                        0..5 => dtype,
                        5..8 => DType::I64,
                        _ => self.dtype(),
                    };
                    let shape = match (small, self.below(10)) {
                        (true, _) => vec![self.below(4)],
                        (_, 0..6) => shape.clone(),
                        _ => self.shape(),
                    };
                    let tensor = self.tensor(dtype, shape);
                    if self.chance(8) { Datum::Sequence(vec![tensor.into()]) } else { tensor.into() }
                }));
            }
        }
        inputs
    }
    fn attrs(&mut self, op: Op) -> Attrs {
        const WORDS: [&str; 24] = [
            "none", "add", "mul", "max", "min", "constant", "reflect", "edge", "wrap", "LEFT", "RIGHT",
            "DCR", "CRD", "linear", "circular", "tanh", "TF", "TFIDF", "tf32", "LOWER", "(a", "nearest",
            "forward", "x",
        ];
        let mut attrs = Attrs::new();
        for def in op.def().attrs {
            if !def.required && self.chance(50) {
                continue;
            }
            let many = self.below(5);
            let value = match def.kind {
                AttrKind::Int => Attr::Int(self.int()),
                AttrKind::Float => Attr::Float(self.one_of(&[0.0, 0.5, 1.0, -1.0, f64::NAN])),
                AttrKind::Str => Attr::Str(self.one_of(&WORDS).to_owned()),
                AttrKind::DType => Attr::DType(self.dtype()),
                AttrKind::Type => Attr::Type(Type::tensor(DType::F32, [1_usize])),
                AttrKind::Ints => Attr::Ints((0..many).map(|_| self.int()).collect()),
                AttrKind::Floats => Attr::Floats((0..many).map(|_| self.int() as f64).collect()),
                AttrKind::Strs => Attr::Strs((0..many).map(|_| self.one_of(&WORDS).to_owned()).collect()),
            };
            attrs.set(def.name, value);
        }
        attrs
    }
}

fn type_of(datum: &Datum) -> Type {
    match datum {
        Datum::Tensor(t) => Type::tensor(t.dtype(), t.shape().iter().copied()),
        Datum::Sequence(items) => Type::Sequence(Box::new(items.first().map_or(Type::Unknown, type_of))),
        Datum::Optional(value) => Type::Optional(Box::new(value.as_deref().map_or(Type::Unknown, type_of))),
    }
}

/// Where the last panic was: panics are caught and told of at the end, not printed.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// The first thing in which a value contradicts what is known of it.
fn contradiction(fact: &Fact, datum: &Datum) -> Option<String> {
    let (Type::Tensor(said), Datum::Tensor(got)) = (&fact.ty, datum) else { return None };
    let extents: Vec<i64> = got.shape().iter().map(|&n| n as i64).collect();
    let shape_fits = said.shape.as_ref().is_none_or(|shape| {
        shape.len() == extents.len()
            && shape.iter().zip(&extents).all(|(dim, n)| dim.known().is_none_or(|known| known == *n))
    });
    if said.dtype != got.dtype() || !shape_fits {
        return Some(format!("the rule says {said}, it is {got:?}"));
    }
    let content = fact.content.as_ref()?;
    let elements = got.to_f64().ok()?;
    let known = content.iter().map(|dim| dim.known().map(|n| n as f64));
    let same = content.len() == elements.len()
        && known.zip(elements.iter()).all(|(known, got)| known.is_none_or(|known| known == *got));
    (!same).then(|| format!("the rule says {content:?}, it is {elements:?}"))
}

/// Runs one op on random operands; how often it gave a result.
fn try_op(op: Op, seed: u64) -> Result<bool, String> {
    let mut choices = Choices { seed, count: 0 };
    let inputs = choices.inputs(op);
    let mut graph = Graph::new("random");
    let ids = inputs
        .iter()
        .enumerate()
        .map(|(i, datum)| {
            datum.as_ref().map(|datum| match datum {
                // Half of the time the rule is to know the elements.
                Datum::Tensor(tensor) if choices.chance(50) => {
                    graph.add_tensor(format!("c{i}"), tensor.clone())
                }
                datum => graph.add_input(format!("i{i}"), type_of(datum)),
            })
        })
        .collect();
    let outputs =
        op.def().outputs.len() + if op.def().output_range().1.is_none() { choices.below(3) } else { 0 };
    let names = (0..outputs).map(|i| Some(format!("o{i}"))).collect();
    let attrs = choices.attrs(op);
    let id = graph.add_node(op, "", ids, names, attrs, Vec::new());
    graph.outputs = graph.nodes[id].outputs.iter().flatten().copied().collect();
    let told = format!("{inputs:?} {:?}", graph.nodes[id].attrs);

    let quietly = |what: &str, run: &mut dyn FnMut()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|_| {
            format!("{what} panics ({}) on {told}", LAST_PANIC.lock().expect("no panic while it is held"))
        })
    };
    let (mut facts, mut results) = (None, Err(String::new()));
    quietly("the rule", &mut || facts = infer::facts(&graph).ok())?;
    quietly("the meaning", &mut || results = interpret::eval_node(&graph.nodes[id], &inputs, seed))?;
    let Ok(results) = results else { return Ok(false) };
    let Some(facts) = facts else { return Err(format!("has a meaning, but breaks its rule, on {told}")) };
    for (value, datum) in graph.outputs.iter().zip(&results) {
        if let Some(why) = contradiction(&facts[*value], datum) {
            return Err(format!("{why}, on {told}"));
        }
    }
    quietly("its work or space", &mut || {
        infer::with_ctx(&graph, &facts, id, |ctx| {
            (op.def().work)(ctx);
            (op.def().space)(ctx);
        });
    })?;
    Ok(true)
}

#[test]
fn random_operands_neither_panic_nor_contradict_the_type_rules() {
    std::panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().expect("no panic while it is held") = info.to_string();
    }));
    let rounds: u64 = std::env::var("ORRERY_RANDOM_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut broken = Vec::new();
    for &op in Op::ALL.iter().filter(|op| !WITH_BODIES.contains(op)) {
        let failure = (0..rounds).find_map(|round| try_op(op, hash64(op as u64, round)).err());
        broken.extend(failure.map(|why| format!("{op} {why}")));
    }
    drop(std::panic::take_hook());
    assert!(broken.is_empty(), "{} ops:\n{}", broken.len(), broken.join("\n"));
}
