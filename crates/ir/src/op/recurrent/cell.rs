//! What a cell makes of a step, and going through the steps.

use super::super::elements::{Float, by_float, integers};
use super::super::matrix::kernel::{Left, Scalar, View};
use super::super::{Datum, EvalCtx, rules};
use super::activation::{Function, functions};
use super::{INITIAL_C, INITIAL_H, Kind, PEEPHOLES, SEQUENCE_LENS, batch_first, directions};

/// Sizes in numbers.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) input: usize,
    pub(super) directions: usize,
    pub(super) hidden: usize,
    batch_first: bool,
}

impl Sizes {
    /// Where the state of a sequence starts among all states.
    pub(super) fn state(&self, direction: usize, b: usize) -> usize {
        let row = if self.batch_first { b * self.directions + direction } else { direction * self.batch + b };
        row * self.hidden
    }
    /// Where the input of a step of a sequence starts.
    pub(super) fn x(&self, step: usize, b: usize) -> usize {
        (if self.batch_first { b * self.steps + step } else { step * self.batch + b }) * self.input
    }
    /// Where the output of a step of a sequence starts.
    pub(super) fn y(&self, step: usize, direction: usize, b: usize) -> usize {
        let row = if self.batch_first {
            (b * self.steps + step) * self.directions + direction
        } else {
            (step * self.directions + direction) * self.batch + b
        };
        row * self.hidden
    }
}

/// The sequences that an op of this family goes through, and how.
pub(super) struct Sequences {
    pub(super) sizes: Sizes,
    pub(super) lengths: Vec<usize>,
    functions: Vec<Vec<Function>>,
    reverse: bool,
}

impl Sequences {
    pub(super) fn new(ctx: &EvalCtx<'_>, kind: Kind) -> Result<Self, String> {
        let x_shape = ctx.tensor(0)?.shape();
        let first = batch_first(ctx.attrs());
        let sizes = Sizes {
            steps: x_shape[usize::from(first)],
            batch: x_shape[usize::from(!first)],
            input: x_shape[2],
            directions: directions(ctx.attrs())?,
            hidden: ctx.tensor(2)?.shape()[2],
            batch_first: first,
        };
        let lengths = match ctx.optional(SEQUENCE_LENS)? {
            Some(lengths) => {
                let lengths = integers(lengths)?;
                let fits = |&n: &i64| usize::try_from(n).ok().filter(|&n| n <= sizes.steps);
                lengths.iter().map(fits).collect::<Option<Vec<_>>>().ok_or_else(|| {
                    format!("`sequence_lens` has a length that is not between 0 and {} steps", sizes.steps)
                })?
            }
            None => vec![sizes.steps; sizes.batch],
        };
        let functions = functions(ctx.attrs(), kind, sizes.directions)?;
        let reverse = ctx.attrs().str_or("direction", "forward") == "reverse";
        Ok(Self { sizes, lengths, functions, reverse })
    }
    /// The step of sequence `b` that is gone through as number `step`; none where the sequence is shorter.
    pub(super) fn place(&self, direction: usize, step: usize, b: usize) -> Option<usize> {
        let length = self.lengths[b];
        let backwards = direction == 1 || self.reverse;
        (step < length).then(|| if backwards { length - 1 - step } else { step })
    }
    /// Number of steps of the longest sequence.
    pub(super) fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }
    /// Elements of the states of all sequences in all directions.
    pub(super) fn state_size(&self) -> usize {
        self.sizes.directions * self.sizes.batch * self.sizes.hidden
    }
    /// The cell of a direction, with its weights of input and state.
    pub(super) fn cell<T: Float>(
        &self,
        ctx: &EvalCtx<'_>,
        kind: Kind,
        direction: usize,
    ) -> Result<(Cell<'_, T>, [Vec<T>; 2]), String> {
        let (hidden, rows) = (self.sizes.hidden, kind.gates() * self.sizes.hidden);
        let part = |i: usize, size: usize| -> Result<Vec<T>, String> {
            Ok(match ctx.optional(i)? {
                Some(all) => T::read(all)?[direction * size..(direction + 1) * size].to_vec(),
                None => vec![T::ZERO; size],
            })
        };
        let cell = Cell {
            kind,
            sequences: self,
            sizes: self.sizes,
            direction,
            functions: &self.functions[direction],
            clip: ctx.attrs().float("clip").map(T::from_f64),
            coupled: ctx.attrs().flag("input_forget"),
            linear_before_reset: ctx.attrs().flag("linear_before_reset"),
            bias: part(3, 2 * rows)?,
            peepholes: if kind == Kind::Lstm { part(PEEPHOLES, 3 * hidden)? } else { Vec::new() },
        };
        Ok((cell, [part(1, rows * self.sizes.input)?, part(2, rows * hidden)?]))
    }
    /// States before the first step, from input `i`.
    pub(super) fn initial<T: Float>(&self, ctx: &EvalCtx<'_>, i: usize) -> Result<Vec<T>, String> {
        let given = ctx.optional(i)?.map(T::read).transpose()?;
        Ok(given.map_or_else(|| vec![T::ZERO; self.state_size()], std::borrow::Cow::into_owned))
    }
}

pub(super) fn run(ctx: &EvalCtx<'_>, kind: Kind) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let (dtype, y_shape) = types[0].clone();
    let sequences = Sequences::new(ctx, kind)?;
    Ok(by_float!(dtype, T => {
        let x = T::read(ctx.tensor(0)?)?;
        let mut h = sequences.initial::<T>(ctx, INITIAL_H)?;
        let mut c = if kind == Kind::Lstm { sequences.initial(ctx, INITIAL_C)? } else { Vec::new() };
        let mut y = vec![T::ZERO; y_shape.iter().product()];
        for direction in 0..sequences.sizes.directions {
            let (cell, weights) = sequences.cell::<T>(ctx, kind, direction)?;
            cell.go(&x, &weights, &mut h, &mut c, &mut y, None);
        }
        let made = |i: usize, values: Vec<T>| Datum::from(T::tensor(types[i].0, types[i].1.clone(), values));
        let mut outputs = vec![made(0, y), made(1, h)];
        if kind == Kind::Lstm {
            outputs.push(made(2, c));
        }
        outputs
    }))
}

/// What a cell saw in each step, one step behind the other.
#[derive(Default)]
pub(super) struct Trace<T> {
    /// Of each sequence: its input.
    pub(super) inputs: Vec<T>,
    /// Its state before the step.
    pub(super) states: Vec<T>,
    /// The long memory before the step, of an LSTM.
    pub(super) cells: Vec<T>,
    /// The state after the reset gate, of a GRU.
    pub(super) reset: Vec<T>,
    /// Of each row of the weights: its products with all inputs.
    pub(super) from_x: Vec<T>,
    /// And with all states.
    pub(super) from_h: Vec<T>,
}

/// A cell in one direction.
pub(super) struct Cell<'a, T> {
    pub(super) kind: Kind,
    pub(super) sequences: &'a Sequences,
    pub(super) sizes: Sizes,
    pub(super) direction: usize,
    functions: &'a [Function],
    clip: Option<T>,
    pub(super) coupled: bool,
    pub(super) linear_before_reset: bool,
    /// Biases of the products with the input, then of those with the state.
    pub(super) bias: Vec<T>,
    pub(super) peepholes: Vec<T>,
}

impl<T: Float + Scalar> Cell<'_, T> {
    pub(super) fn apply(&self, function: usize, x: T) -> T {
        let x = match self.clip {
            Some(clip) => x.larger(-clip).smaller(clip),
            None => x,
        };
        self.functions[function].of(x)
    }
    /// The derivative of [`Cell::apply`].
    pub(super) fn slope(&self, function: usize, x: T) -> T {
        match self.clip {
            Some(clip) if x.abs() > clip => T::ZERO,
            _ => self.functions[function].slope(x),
        }
    }
    /// Goes through all steps of all sequences and leaves the last states in `h` and `c`.
    pub(super) fn go(
        &self,
        x: &[T],
        [w, r]: &[Vec<T>; 2],
        h: &mut [T],
        c: &mut [T],
        y: &mut [T],
        mut trace: Option<&mut Trace<T>>,
    ) {
        let (sizes, direction) = (self.sizes, self.direction);
        let (hidden, rows) = (sizes.hidden, self.kind.gates() * sizes.hidden);
        let w = Left::new(View::rows(w, sizes.input), rows, sizes.input, None);
        let r_all = Left::new(View::rows(r, hidden), rows, hidden, None);
        // The hidden gate of a GRU may need its product with another state than the other gates.
        let r_last = Left::new(View::rows(&r[(rows - hidden) * hidden..], hidden), hidden, hidden, None);
        let batch = sizes.batch;
        let mut inputs = vec![T::ZERO; batch * sizes.input];
        let mut states = vec![T::ZERO; batch * hidden];
        let (mut from_x, mut from_h) = (vec![T::ZERO; rows * batch], vec![T::ZERO; rows * batch]);
        let mut reset = vec![T::ZERO; hidden * batch];
        for step in 0..self.sequences.longest() {
            let place = |b: usize| self.sequences.place(direction, step, b);
            for b in 0..batch {
                if let Some(t) = place(b) {
                    let at = sizes.x(t, b);
                    inputs[b * sizes.input..(b + 1) * sizes.input].copy_from_slice(&x[at..at + sizes.input]);
                }
                let at = sizes.state(direction, b);
                states[b * hidden..(b + 1) * hidden].copy_from_slice(&h[at..at + hidden]);
            }
            w.multiply(View::rows(&inputs, sizes.input).transposed(), batch, &mut from_x, batch);
            r_all.multiply(View::rows(&states, hidden).transposed(), batch, &mut from_h, batch);
            if self.kind == Kind::Gru && !self.linear_before_reset {
                for b in 0..batch {
                    for j in 0..hidden {
                        let gate = self.gate(1, j, b, &from_x, &from_h);
                        reset[b * hidden + j] = self.apply(0, gate) * states[b * hidden + j];
                    }
                }
                let last = &mut from_h[(rows - hidden) * batch..];
                r_last.multiply(View::rows(&reset, hidden).transposed(), batch, last, batch);
            }
            if let Some(trace) = &mut trace {
                trace.inputs.extend_from_slice(&inputs);
                trace.states.extend_from_slice(&states);
                trace.reset.extend_from_slice(&reset);
                trace.from_x.extend_from_slice(&from_x);
                trace.from_h.extend_from_slice(&from_h);
                for b in (0..batch).filter(|_| self.kind == Kind::Lstm) {
                    trace.cells.extend_from_slice(&c[sizes.state(direction, b)..][..hidden]);
                }
            }
            for b in 0..batch {
                let Some(t) = place(b) else { continue };
                let (state, out) = (sizes.state(direction, b), sizes.y(t, direction, b));
                for j in 0..hidden {
                    let before = states[b * hidden + j];
                    let after = match self.kind {
                        Kind::Rnn => self.apply(0, self.gate(0, j, b, &from_x, &from_h)),
                        Kind::Gru => self.gated(j, b, before, &from_x, &from_h),
                        Kind::Lstm => self.long_short(j, b, &mut c[state + j], &from_x, &from_h),
                    };
                    h[state + j] = after;
                    y[out + j] = after;
                }
            }
        }
    }
    /// The argument of a gate: products with input and state, and both biases.
    pub(super) fn gate(&self, gate: usize, j: usize, b: usize, from_x: &[T], from_h: &[T]) -> T {
        let row = gate * self.sizes.hidden + j;
        let at = row * self.sizes.batch + b;
        from_x[at] + from_h[at] + (self.bias[row] + self.bias[self.bias.len() / 2 + row])
    }
    fn gated(&self, j: usize, b: usize, before: T, from_x: &[T], from_h: &[T]) -> T {
        let update = self.apply(0, self.gate(0, j, b, from_x, from_h));
        let hidden = if self.linear_before_reset {
            let reset = self.apply(0, self.gate(1, j, b, from_x, from_h));
            let row = 2 * self.sizes.hidden + j;
            let at = row * self.sizes.batch + b;
            let from_state = from_h[at] + self.bias[self.bias.len() / 2 + row];
            self.apply(1, from_x[at] + reset * from_state + self.bias[row])
        } else {
            self.apply(1, self.gate(2, j, b, from_x, from_h))
        };
        (T::ONE - update) * hidden + update * before
    }
    fn long_short(&self, j: usize, b: usize, cell: &mut T, from_x: &[T], from_h: &[T]) -> T {
        let peephole = |gate: usize| self.peepholes[gate * self.sizes.hidden + j];
        let gate = |gate: usize| self.gate(gate, j, b, from_x, from_h);
        let input = self.apply(0, gate(0) + peephole(0) * *cell);
        let forget = if self.coupled { T::ONE - input } else { self.apply(0, gate(2) + peephole(2) * *cell) };
        *cell = forget * *cell + input * self.apply(1, gate(3));
        let output = self.apply(0, gate(1) + peephole(1) * *cell);
        output * self.apply(2, *cell)
    }
}
