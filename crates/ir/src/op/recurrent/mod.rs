//! Ops of the family `recurrent`: cells that go through sequences step by step.

mod activation;
mod cell;
mod gradient;

use super::space::parallel;
use super::{Access, AttrDef, Class, Ctx, Engine, Fact, IterSpace, Op, OpDef, Port, Work, opt, rules};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::DType;

const ACTIVATIONS: AttrDef = opt(
    "activations",
    AttrKind::Strs,
    "Functions of the gates, for each direction; Sigmoid for gates and Tanh for values, Tanh for RNN.",
);
const ALPHA: AttrDef =
    opt("activation_alpha", AttrKind::Floats, "Alphas of those functions that have one, in order.");
const BETA: AttrDef =
    opt("activation_beta", AttrKind::Floats, "Betas of those functions that have one, in order.");
const CLIP: AttrDef =
    opt("clip", AttrKind::Float, "Arguments of functions are held between -clip and clip; they are not.");
const DIRECTION: AttrDef = opt(
    "direction",
    AttrKind::Str,
    "`forward`, `reverse`, or `bidirectional`: both side by side; `forward`.",
);
const HIDDEN_SIZE: AttrDef =
    opt("hidden_size", AttrKind::Int, "Elements of the state; as the weights have it.");
const LAYOUT: AttrDef = opt("layout", AttrKind::Int, "0: steps come first; 1: the batch does; 0.");

const RNN_ATTRS: &[AttrDef] = &[ALPHA, BETA, ACTIVATIONS, CLIP, DIRECTION, HIDDEN_SIZE, LAYOUT];
const GRU_ATTRS: &[AttrDef] = &[
    ALPHA,
    BETA,
    ACTIVATIONS,
    CLIP,
    DIRECTION,
    HIDDEN_SIZE,
    LAYOUT,
    opt(
        "linear_before_reset",
        AttrKind::Int,
        "1: the reset gate acts on R state instead of the state; 0.",
    ),
];
const LSTM_ATTRS: &[AttrDef] = &[
    ALPHA,
    BETA,
    ACTIVATIONS,
    CLIP,
    DIRECTION,
    HIDDEN_SIZE,
    opt("input_forget", AttrKind::Int, "1: the forget gate is 1 less the input gate; 0."),
    LAYOUT,
];

const SEQUENCE_LENS: usize = 4;
const INITIAL_H: usize = 5;
const INITIAL_C: usize = 6;
const PEEPHOLES: usize = 7;

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: PORTS,
        attrs: RNN_ATTRS,
        infer: |ctx| infer(ctx, Kind::Rnn),
        work: |ctx| work(ctx, Kind::Rnn),
        eval: |ctx| cell::run(ctx, Kind::Rnn),
        ..recurrent(
            Op::RNN,
            "State f(W x + R state + biases) of each step, from the state of the step before.",
        )
    }
    .gradient(|b| gradient::rule(b, Kind::Rnn)),
    OpDef {
        inputs: PORTS,
        attrs: GRU_ATTRS,
        infer: |ctx| infer(ctx, Kind::Gru),
        work: |ctx| work(ctx, Kind::Gru),
        eval: |ctx| cell::run(ctx, Kind::Gru),
        ..recurrent(Op::GRU, "Gated recurrent unit: gates update, reset, hidden in this order.")
    }
    .gradient(|b| gradient::rule(b, Kind::Gru)),
    OpDef {
        inputs: &[
            Port::One("X"),
            Port::One("W"),
            Port::One("R"),
            Port::Optional("B"),
            Port::Optional("sequence_lens"),
            Port::Optional("initial_h"),
            Port::Optional("initial_c"),
            Port::Optional("P"),
        ],
        outputs: &[Port::Optional("Y"), Port::Optional("Y_h"), Port::Optional("Y_c")],
        attrs: LSTM_ATTRS,
        infer: |ctx| infer(ctx, Kind::Lstm),
        work: |ctx| work(ctx, Kind::Lstm),
        eval: |ctx| cell::run(ctx, Kind::Lstm),
        ..recurrent(
            Op::LSTM,
            "Long short-term memory: gates input, output, forget, cell in this order, and peepholes.",
        )
    }
    .gradient(|b| gradient::rule(b, Kind::Lstm)),
    gradient::RNN_GRAD,
    gradient::GRU_GRAD,
    gradient::LSTM_GRAD,
];

const PORTS: &[Port] = &[
    Port::One("X"),
    Port::One("W"),
    Port::One("R"),
    Port::Optional("B"),
    Port::Optional("sequence_lens"),
    Port::Optional("initial_h"),
];

const fn recurrent(op: Op, doc: &'static str) -> OpDef {
    OpDef {
        outputs: &[Port::Optional("Y"), Port::Optional("Y_h")],
        class: Class::Rounding,
        engine: Engine::Matrix,
        space,
        ..OpDef::new(op, doc)
    }
}

/// Which cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }
}

/// The extents, as far as known.
struct Extents {
    steps: Dim,
    batch: Dim,
    input: Dim,
    directions: usize,
    hidden: Dim,
}

/// Number of directions.
fn directions(attrs: &Attrs) -> Result<usize, String> {
    match attrs.str_or("direction", "forward") {
        "forward" | "reverse" => Ok(1),
        "bidirectional" => Ok(2),
        other => Err(format!("attribute `direction` is `{other}`, which is none of its values")),
    }
}

fn batch_first(attrs: &Attrs) -> bool {
    attrs.flag("layout")
}

/// None where the rank of X is not known.
fn extents(ctx: &Ctx<'_>, kind: Kind) -> Result<Option<Extents>, String> {
    let attrs = ctx.attrs();
    let directions = directions(attrs)?;
    let (x, w, r) = (rules::ranked(ctx, 0, 3)?, rules::ranked(ctx, 1, 3)?, rules::ranked(ctx, 2, 3)?);
    let gates = Dim::from(kind.gates());
    let mut hidden = match attrs.int("hidden_size") {
        None | Some(0) => None,
        Some(given) if given > 0 => Some(Dim::Known(given)),
        Some(given) => return Err(format!("attribute `hidden_size` is {given}, must be at least 1")),
    };
    if let Some(r) = &r {
        let own = r[2].clone();
        hidden = Some(match hidden {
            Some(given) => {
                rules::equal(&given, &own, || "attribute `hidden_size` and the last extent of R".into())?
            }
            None => own,
        });
    } else if let (Some(w), None) = (&w, &hidden) {
        hidden = Some(w[1].floor_div(&gates));
    }
    let hidden = hidden.unwrap_or_else(|| ctx.unknown_dim(0, 3));
    let Some(x) = x else { return Ok(None) };
    let [first, second, input] = [0, 1, 2].map(|d| x[d].clone());
    let (steps, batch) = if batch_first(attrs) { (second, first) } else { (first, second) };
    let count = Dim::from(directions);
    let rows = hidden.clone() * gates.clone();
    rules::has_shape(ctx, 1, &[count.clone(), rows.clone(), input.clone()])?;
    rules::has_shape(ctx, 2, &[count.clone(), rows.clone(), hidden.clone()])?;
    rules::has_shape(ctx, 3, &[count.clone(), rows * Dim::Known(2)])?;
    rules::has_shape(ctx, SEQUENCE_LENS, std::slice::from_ref(&batch))?;
    let e = Extents { steps, batch, input, directions, hidden };
    rules::has_shape(ctx, INITIAL_H, &e.state(attrs))?;
    if kind == Kind::Lstm {
        rules::has_shape(ctx, INITIAL_C, &e.state(attrs))?;
        rules::has_shape(ctx, PEEPHOLES, &[count, e.hidden.clone() * Dim::Known(3)])?;
    }
    Ok(Some(e))
}

impl Extents {
    /// Shape of a state.
    fn state(&self, attrs: &Attrs) -> Vec<Dim> {
        let (directions, batch) = (Dim::from(self.directions), self.batch.clone());
        if batch_first(attrs) {
            vec![batch, directions, self.hidden.clone()]
        } else {
            vec![directions, batch, self.hidden.clone()]
        }
    }
    /// Shape of the states of all steps.
    fn states(&self, attrs: &Attrs) -> Vec<Dim> {
        let [steps, directions, batch, hidden] =
            [self.steps.clone(), Dim::from(self.directions), self.batch.clone(), self.hidden.clone()];
        if batch_first(attrs) {
            vec![batch, steps, directions, hidden]
        } else {
            vec![steps, directions, batch, hidden]
        }
    }
}

fn infer(ctx: &Ctx<'_>, kind: Kind) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, (1..8).filter(|&i| i != SEQUENCE_LENS), dtype)?;
    rules::of_type(ctx, [SEQUENCE_LENS], DType::I32)?;
    activation::functions(ctx.attrs(), kind, directions(ctx.attrs())?)?;
    let Some(e) = extents(ctx, kind)? else { return Ok(vec![Fact::unranked(dtype); 3]) };
    let state = Fact::tensor(dtype, e.state(ctx.attrs()));
    Ok(vec![Fact::tensor(dtype, e.states(ctx.attrs())), state.clone(), state])
}

/// Products of every gate with input and state. For each element of each state: sums of these and the biases of every
/// gate, and what the cell makes of the gates; a function for each gate and for the value of an LSTM.
fn work(ctx: &Ctx<'_>, kind: Kind) -> Work {
    let Ok(Some(e)) = extents(ctx, kind) else { return Work::NONE };
    let gates = kind.gates() as i64;
    let elements = e.steps * e.batch * Dim::from(e.directions) * e.hidden.clone();
    let biases = if ctx.has(3) { gates } else { 0 };
    let peepholes = if ctx.has(PEEPHOLES) { 6 } else { 0 };
    let (own, functions) = match kind {
        Kind::Rnn => (0, 1),
        Kind::Gru => (5, 3),
        Kind::Lstm => (4, 5),
    };
    Work {
        macs: elements.clone() * Dim::Known(gates) * (e.input + e.hidden),
        vector: elements.clone() * Dim::Known(gates + biases + peepholes + own),
        special: elements * Dim::Known(functions),
    }
}

/// Sequences are independent of each other; steps and elements of a state are not.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let first = batch_first(ctx.attrs());
    let batch = ctx.shape(0)?[usize::from(!first)].clone();
    let along = |rank: usize, at: usize| {
        let mut access = vec![Access::Whole; rank];
        access[at] = Access::along(0);
        access
    };
    let state = along(3, usize::from(!first));
    let inputs = (0..ctx.input_count()).map(|i| match i {
        _ if !ctx.has(i) => Vec::new(),
        0 => along(3, usize::from(!first)),
        SEQUENCE_LENS => along(1, 0),
        INITIAL_H | INITIAL_C => state.clone(),
        _ => vec![Access::Whole; ctx.rank(i).unwrap_or(0)],
    });
    let outputs = [along(4, if first { 0 } else { 2 }), state.clone(), state.clone()];
    Some(IterSpace {
        axes: vec![parallel("batch", batch)],
        inputs: inputs.collect(),
        outputs: outputs[..ctx.output_count()].to_vec(),
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}
