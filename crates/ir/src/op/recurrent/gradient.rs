//! Gradients of recurrent cells: back through the steps, which are recomputed.

use super::super::elements::{Float, by_float};
use super::super::matrix::kernel::{Left, Scalar, View};
use super::super::{AttrDef, Class, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Work, rules};
use super::cell::{Cell, Sequences, Trace};
use super::{GRU_ATTRS, INITIAL_C, INITIAL_H, Kind, LSTM_ATTRS, PEEPHOLES, RNN_ATTRS, extents};
use crate::Dim;
use crate::extend::Extend;
use crate::gradient::Backward;
use orrery_base::Result as Outcome;

pub(super) const RNN_GRAD: OpDef = OpDef {
    infer: |ctx| infer(ctx, Kind::Rnn),
    work: |ctx| work(ctx, Kind::Rnn),
    eval: |ctx| run(ctx, Kind::Rnn),
    ..gradient(Op::RNNGrad, "Gradient of RNN, whose steps it goes through anew.", RNN_ATTRS)
};
pub(super) const GRU_GRAD: OpDef = OpDef {
    infer: |ctx| infer(ctx, Kind::Gru),
    work: |ctx| work(ctx, Kind::Gru),
    eval: |ctx| run(ctx, Kind::Gru),
    ..gradient(Op::GRUGrad, "Gradient of GRU, whose steps it goes through anew.", GRU_ATTRS)
};
pub(super) const LSTM_GRAD: OpDef = OpDef {
    inputs: &[
        Port::One("X"),
        Port::One("W"),
        Port::One("R"),
        Port::Optional("B"),
        Port::Optional("sequence_lens"),
        Port::Optional("initial_h"),
        Port::Optional("initial_c"),
        Port::Optional("P"),
        Port::Optional("dY"),
        Port::Optional("dY_h"),
        Port::Optional("dY_c"),
    ],
    outputs: &[
        Port::Optional("dX"),
        Port::Optional("dW"),
        Port::Optional("dR"),
        Port::Optional("dB"),
        Port::Optional("dinitial_h"),
        Port::Optional("dinitial_c"),
        Port::Optional("dP"),
    ],
    infer: |ctx| infer(ctx, Kind::Lstm),
    work: |ctx| work(ctx, Kind::Lstm),
    eval: |ctx| run(ctx, Kind::Lstm),
    ..gradient(Op::LSTMGrad, "Gradient of LSTM, whose steps it goes through anew.", LSTM_ATTRS)
};

const fn gradient(op: Op, doc: &'static str, attrs: &'static [AttrDef]) -> OpDef {
    OpDef {
        inputs: &[
            Port::One("X"),
            Port::One("W"),
            Port::One("R"),
            Port::Optional("B"),
            Port::Optional("sequence_lens"),
            Port::Optional("initial_h"),
            Port::Optional("dY"),
            Port::Optional("dY_h"),
        ],
        outputs: &[
            Port::Optional("dX"),
            Port::Optional("dW"),
            Port::Optional("dR"),
            Port::Optional("dB"),
            Port::Optional("dinitial_h"),
        ],
        attrs,
        class: Class::Rounding,
        engine: Engine::Matrix,
        ..OpDef::new(op, doc)
    }
}

/// Inputs of the op whose gradients are the outputs, in this order.
const OF: [usize; 7] = [0, 1, 2, 3, INITIAL_H, INITIAL_C, PEEPHOLES];

/// Number of inputs and outputs that the forward op has.
fn ports(kind: Kind) -> (usize, usize) {
    if kind == Kind::Lstm { (8, 3) } else { (6, 2) }
}

pub(super) fn rule(b: &mut Backward<'_>, kind: Kind) -> Outcome<()> {
    let (own, made) = ports(kind);
    let mut inputs = b.node().inputs.clone();
    inputs.resize(own, None);
    inputs.extend((0..made).map(|i| b.dy(i)));
    let op = match kind {
        Kind::Rnn => Op::RNNGrad,
        Kind::Gru => Op::GRUGrad,
        Kind::Lstm => Op::LSTMGrad,
    };
    let outputs = op.def().outputs.len();
    let wanted: Vec<bool> = OF[..outputs].iter().map(|&i| b.wants(i)).collect();
    let attrs = b.attrs().clone();
    let graph: &mut Extend = b;
    let node = graph.node(op, op.name(), &inputs, attrs, Vec::new(), &wanted)?;
    let found = graph.graph().nodes[node].outputs.clone();
    for (&i, gradient) in OF.iter().zip(found) {
        if let Some(gradient) = gradient {
            b.give(i, gradient);
        }
    }
    Ok(())
}

fn infer(ctx: &Ctx<'_>, kind: Kind) -> Result<Vec<Fact>, String> {
    let (own, made) = ports(kind);
    let outputs = if kind == Kind::Lstm { 7 } else { 5 };
    // Of the forward op's types only those of its outputs are needed: those of the gradients that came back.
    let forward = super::infer(ctx, kind)?;
    let dtype = ctx.dtype(0)?;
    rules::of_type(ctx, own..own + made, dtype)?;
    let Some(e) = extents(ctx, kind)? else { return Ok(vec![Fact::unranked(dtype); outputs]) };
    for (i, fact) in forward.iter().take(made).enumerate() {
        if let Some(shape) = fact.ty.as_tensor().and_then(|ty| ty.shape.as_ref()) {
            rules::has_shape(ctx, own + i, shape)?;
        }
    }
    let (count, rows) = (Dim::from(e.directions), e.hidden.clone() * Dim::from(kind.gates()));
    let state = e.state(ctx.attrs());
    let shapes = [
        ctx.shape(0).unwrap_or_default(),
        vec![count.clone(), rows.clone(), e.input.clone()],
        vec![count.clone(), rows.clone(), e.hidden.clone()],
        vec![count.clone(), rows * Dim::Known(2)],
        state.clone(),
        state,
        vec![count, e.hidden * Dim::Known(3)],
    ];
    Ok(shapes.into_iter().take(outputs).map(|shape| Fact::tensor(dtype, shape)).collect())
}

/// The forward op once more, and for each of its products one with the weights and one with what it was of.
fn work(ctx: &Ctx<'_>, kind: Kind) -> Work {
    let forward = super::work(ctx, kind);
    let three = Dim::Known(3);
    Work { macs: forward.macs * three.clone(), vector: forward.vector * three, special: forward.special }
}

/// Gradients of what an op takes, by position, as long as needed.
struct Found<T> {
    x: Vec<T>,
    w: Vec<T>,
    r: Vec<T>,
    bias: Vec<T>,
    h: Vec<T>,
    c: Vec<T>,
    peepholes: Vec<T>,
}

fn run(ctx: &EvalCtx<'_>, kind: Kind) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let dtype = ctx.tensor(0)?.dtype();
    let sequences = Sequences::new(ctx, kind)?;
    let sizes = sequences.sizes;
    let states = sizes.steps * sequences.state_size();
    Ok(by_float!(dtype, T => {
        let (own, _) = ports(kind);
        let back = |i: usize, size: usize| -> Result<Vec<T>, String> {
            Ok(match ctx.optional(own + i)? {
                Some(gradient) => T::read(gradient)?.into_owned(),
                None => vec![T::ZERO; size],
            })
        };
        let x = T::read(ctx.tensor(0)?)?;
        let dy = back(0, states)?;
        let mut found = Found::<T> {
            x: vec![T::ZERO; x.len()],
            w: Vec::new(),
            r: Vec::new(),
            bias: Vec::new(),
            h: back(1, sequences.state_size())?,
            c: if kind == Kind::Lstm { back(2, sequences.state_size())? } else { Vec::new() },
            peepholes: Vec::new(),
        };
        let mut h = sequences.initial::<T>(ctx, INITIAL_H)?;
        let mut c = if kind == Kind::Lstm { sequences.initial(ctx, INITIAL_C)? } else { Vec::new() };
        let mut y = vec![T::ZERO; states];
        for direction in 0..sizes.directions {
            let (cell, weights) = sequences.cell::<T>(ctx, kind, direction)?;
            let mut trace = Trace::default();
            cell.go(&x, &weights, &mut h, &mut c, &mut y, Some(&mut trace));
            back_through(&cell, &trace, &weights, &dy, &mut found);
        }
        let Found { x, w, r, bias, h, c, peepholes } = found;
        let all = [x, w, r, bias, h, c, peepholes];
        all.into_iter().zip(&types).map(|(values, (_, shape))| T::tensor(dtype, shape.clone(), values).into()).collect()
    }))
}

/// Gradients of the arguments of the gates of one element of a state in one step: as sums with the input, and as sums
/// with the state.
#[derive(Clone, Copy)]
struct Arguments<T> {
    x: [T; 4],
    h: [T; 4],
}

/// Goes through the steps of a direction from the last to the first. `found.h` and `found.c` hold the gradients of the last
/// states and are left with those of the first.
fn back_through<T: Float + Scalar>(
    cell: &Cell<'_, T>,
    trace: &Trace<T>,
    [w, r]: &[Vec<T>; 2],
    dy: &[T],
    found: &mut Found<T>,
) {
    let (sizes, gates) = (cell.sizes, cell.kind.gates());
    let (batch, hidden, rows) = (sizes.batch, sizes.hidden, gates * sizes.hidden);
    let steps = cell.sequences.longest();
    let wide = steps * batch;
    // A row for each row of the weights, a column for each sequence of each step.
    let (mut by_x, mut by_h) = (vec![T::ZERO; rows * wide], vec![T::ZERO; rows * wide]);
    let mut peepholes = vec![T::ZERO; 3 * hidden];
    let reset_last = cell.kind == Kind::Gru && !cell.linear_before_reset;
    let direct = if reset_last { rows - hidden } else { rows };
    let r_direct = Left::new(View::rows(r, hidden).transposed(), hidden, direct, None);
    let r_last =
        Left::new(View::rows(&r[(rows - hidden) * hidden..], hidden).transposed(), hidden, hidden, None);
    let mut sent = vec![T::ZERO; hidden * batch];
    for step in (0..steps).rev() {
        let at = |row: usize, b: usize| row * wide + step * batch + b;
        for b in 0..batch {
            let Some(t) = cell.sequences.place(cell.direction, step, b) else { continue };
            let (state, out) = (sizes.state(cell.direction, b), sizes.y(t, cell.direction, b));
            for j in 0..hidden {
                let dh = found.h[state + j] + dy[out + j];
                let seen = Seen { cell, trace, step, b, j };
                let arguments = match cell.kind {
                    Kind::Rnn => {
                        found.h[state + j] = T::ZERO;
                        seen.same([dh * cell.slope(0, seen.gate(0)), T::ZERO, T::ZERO, T::ZERO])
                    }
                    Kind::Gru => seen.gated(dh, &mut found.h[state + j]),
                    Kind::Lstm => {
                        found.h[state + j] = T::ZERO;
                        seen.long_short(dh, &mut found.c[state + j], &mut peepholes)
                    }
                };
                for gate in 0..gates {
                    by_x[at(gate * hidden + j, b)] = arguments.x[gate];
                    by_h[at(gate * hidden + j, b)] = arguments.h[gate];
                }
            }
        }
        let columns = |from: usize| View { data: &by_h[from..], row_step: wide, column_step: 1 };
        if reset_last {
            // What comes back through the reset state goes to the state and to the reset gate.
            r_last.multiply(columns((rows - hidden) * wide + step * batch), batch, &mut sent, batch);
            for b in 0..batch {
                if cell.sequences.place(cell.direction, step, b).is_none() {
                    continue;
                }
                let state = sizes.state(cell.direction, b);
                for j in 0..hidden {
                    let seen = Seen { cell, trace, step, b, j };
                    let (back, gate) = (sent[j * batch + b], seen.gate(1));
                    found.h[state + j] += back * cell.apply(0, gate);
                    let reset = back * seen.state() * cell.slope(0, gate);
                    by_x[at(hidden + j, b)] = reset;
                    by_h[at(hidden + j, b)] = reset;
                }
            }
        }
        let columns = View { data: &by_h[step * batch..], row_step: wide, column_step: 1 };
        r_direct.multiply(columns, batch, &mut sent, batch);
        for b in 0..batch {
            let state = sizes.state(cell.direction, b);
            (0..hidden).for_each(|j| found.h[state + j] += sent[j * batch + b]);
        }
    }
    // One sum over all steps and sequences for each weight.
    let product = |left: &[T], rows: usize, right: &[T], columns: usize, out: &mut Vec<T>| {
        let start = out.len();
        out.resize(start + rows * columns, T::ZERO);
        let left = Left::new(View::rows(left, wide), rows, wide, None);
        left.multiply(View::rows(right, columns), columns, &mut out[start..], columns);
    };
    product(&by_x, rows, &trace.inputs, sizes.input, &mut found.w);
    product(&by_h[..direct * wide], direct, &trace.states, hidden, &mut found.r);
    if reset_last {
        product(&by_h[direct * wide..], hidden, &trace.reset, hidden, &mut found.r);
    }
    for all in [&by_x, &by_h] {
        found.bias.extend((0..rows).map(|row| all[row * wide..(row + 1) * wide].iter().copied().sum::<T>()));
    }
    found.peepholes.append(&mut peepholes);
    let w = Left::new(View::rows(w, sizes.input).transposed(), sizes.input, rows, None);
    let mut inputs = vec![T::ZERO; sizes.input * wide];
    w.multiply(View::rows(&by_x, wide), wide, &mut inputs, wide);
    for step in 0..steps {
        for b in 0..batch {
            let Some(t) = cell.sequences.place(cell.direction, step, b) else { continue };
            let x = &mut found.x[sizes.x(t, b)..][..sizes.input];
            x.iter_mut().enumerate().for_each(|(i, x)| *x += inputs[i * wide + step * batch + b]);
        }
    }
}

/// One element of the state of a sequence in a step.
struct Seen<'a, T> {
    cell: &'a Cell<'a, T>,
    trace: &'a Trace<T>,
    step: usize,
    b: usize,
    j: usize,
}

impl<T: Float + Scalar> Seen<'_, T> {
    fn products<'a>(&self, all: &'a [T]) -> &'a [T] {
        let size = self.cell.kind.gates() * self.cell.sizes.hidden * self.cell.sizes.batch;
        &all[self.step * size..(self.step + 1) * size]
    }
    /// The argument of a gate, without peepholes.
    fn gate(&self, gate: usize) -> T {
        let (from_x, from_h) = (self.products(&self.trace.from_x), self.products(&self.trace.from_h));
        self.cell.gate(gate, self.j, self.b, from_x, from_h)
    }
    fn at(&self) -> usize {
        (self.step * self.cell.sizes.batch + self.b) * self.cell.sizes.hidden + self.j
    }
    /// The state before the step.
    fn state(&self) -> T {
        self.trace.states[self.at()]
    }
    fn same(&self, arguments: [T; 4]) -> Arguments<T> {
        Arguments { x: arguments, h: arguments }
    }
    /// Of a GRU. Leaves in `before` what goes to the state directly. Where the reset gate acts on the state, its own
    /// argument is left to be filled in.
    fn gated(&self, dh: T, before: &mut T) -> Arguments<T> {
        let (cell, state) = (self.cell, self.state());
        let (update, reset) = (self.gate(0), self.gate(1));
        let z = cell.apply(0, update);
        *before = dh * z;
        let linear = cell.linear_before_reset.then(|| {
            let row = 2 * cell.sizes.hidden + self.j;
            let at = row * cell.sizes.batch + self.b;
            let from_x = self.products(&self.trace.from_x)[at] + cell.bias[row];
            let from_h = self.products(&self.trace.from_h)[at] + cell.bias[cell.bias.len() / 2 + row];
            (from_x, from_h)
        });
        let r = cell.apply(0, reset);
        let argument = linear.map_or_else(|| self.gate(2), |(from_x, from_h)| from_x + r * from_h);
        let value = dh * (T::ONE - z) * cell.slope(1, argument);
        let update = dh * (state - cell.apply(1, argument)) * cell.slope(0, update);
        match linear {
            None => self.same([update, T::ZERO, value, T::ZERO]),
            Some((_, from_h)) => {
                let reset = value * from_h * cell.slope(0, reset);
                Arguments { x: [update, reset, value, T::ZERO], h: [update, reset, value * r, T::ZERO] }
            }
        }
    }
    /// Of an LSTM. `memory` holds the gradient of the long memory after the step and is left with that before it.
    fn long_short(&self, dh: T, memory: &mut T, peepholes: &mut [T]) -> Arguments<T> {
        let (cell, hidden) = (self.cell, self.cell.sizes.hidden);
        let weight = |gate: usize| cell.peepholes[gate * hidden + self.j];
        let before = self.trace.cells[self.at()];
        let (input, value) = (self.gate(0) + weight(0) * before, self.gate(3));
        let forget = self.gate(2) + weight(2) * before;
        let (i, g) = (cell.apply(0, input), cell.apply(1, value));
        let f = if cell.coupled { T::ONE - i } else { cell.apply(0, forget) };
        let after = f * before + i * g;
        let output = self.gate(1) + weight(1) * after;
        let o = cell.apply(0, output);
        let d_output = dh * cell.apply(2, after) * cell.slope(0, output);
        let d_after = *memory + dh * o * cell.slope(2, after) + d_output * weight(1);
        let mut d_i = d_after * g;
        let d_f = d_after * before;
        let d_forget = if cell.coupled {
            d_i = d_i - d_f;
            T::ZERO
        } else {
            d_f * cell.slope(0, forget)
        };
        let d_input = d_i * cell.slope(0, input);
        *memory = d_after * f + d_input * weight(0) + d_forget * weight(2);
        peepholes[self.j] += d_input * before;
        peepholes[hidden + self.j] += d_output * after;
        peepholes[2 * hidden + self.j] += d_forget * before;
        self.same([d_input, d_output, d_forget, d_after * i * cell.slope(1, value)])
    }
}
