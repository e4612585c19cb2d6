//! What a cell makes of a step, and going through the steps.

use super::super::elements::{Float, by_float, integers};
use super::super::matrix::kernel::{Left, Scalar, View};
use super::super::{Datum, EvalCtx, rules};
use super::activation::{Function, functions};
use super::{INITIAL_C, INITIAL_H, Kind, PEEPHOLES, SEQUENCE_LENS, batch_first, directions};

/// Sizes in numbers.
#[derive(Clone, Copy)]
struct Sizes {
    steps: usize,
    batch: usize,
    input: usize,
    directions: usize,
    hidden: usize,
    batch_first: bool,
}

impl Sizes {
    /// Where the state of a sequence starts among all states.
    fn state(&self, direction: usize, b: usize) -> usize {
        let row = if self.batch_first { b * self.directions + direction } else { direction * self.batch + b };
        row * self.hidden
    }
    /// Where the input of a step of a sequence starts.
    fn x(&self, step: usize, b: usize) -> usize {
        (if self.batch_first { b * self.steps + step } else { step * self.batch + b }) * self.input
    }
    /// Where the output of a step of a sequence starts.
    fn y(&self, step: usize, direction: usize, b: usize) -> usize {
        let row = if self.batch_first {
            (b * self.steps + step) * self.directions + direction
        } else {
            (step * self.directions + direction) * self.batch + b
        };
        row * self.hidden
    }
}

pub(super) fn run(ctx: &EvalCtx<'_>, kind: Kind) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let (dtype, y_shape) = types[0].clone();
    let x_shape = ctx.tensor(0)?.shape();
    let first = batch_first(ctx.attrs());
    let sizes = Sizes {
        steps: x_shape[usize::from(first)],
        batch: x_shape[usize::from(!first)],
        input: x_shape[2],
        directions: directions(ctx.attrs())?,
        hidden: y_shape[3],
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
    let reverse =
        |direction: usize| direction == 1 || ctx.attrs().str_or("direction", "forward") == "reverse";
    Ok(by_float!(dtype, T => {
        let read = |i: usize| ctx.optional(i)?.map(T::read).transpose();
        let (x, w, r) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?, T::read(ctx.tensor(2)?)?);
        let (bias, peepholes) = (read(3)?, if kind == Kind::Lstm { read(PEEPHOLES)? } else { None });
        let state_size = sizes.directions * sizes.batch * sizes.hidden;
        let initial = |i: usize| Ok::<_, String>(read(i)?.map_or(vec![T::ZERO; state_size], std::borrow::Cow::into_owned));
        let mut h = initial(INITIAL_H)?;
        let mut c = if kind == Kind::Lstm { initial(INITIAL_C)? } else { Vec::new() };
        let mut y = vec![T::ZERO; y_shape.iter().product()];
        let rows = kind.gates() * sizes.hidden;
        for direction in 0..sizes.directions {
            let part = |all: &[T], size: usize| all[direction * size..(direction + 1) * size].to_vec();
            let cell = Cell::<T> {
                kind,
                sizes,
                functions: &functions[direction],
                clip: ctx.attrs().float("clip").map(T::from_f64),
                coupled: ctx.attrs().flag("input_forget"),
                linear_before_reset: ctx.attrs().flag("linear_before_reset"),
                bias: bias.as_ref().map_or(vec![T::ZERO; 2 * rows], |b| part(b, 2 * rows)),
                peepholes: peepholes.as_ref().map_or(vec![T::ZERO; 3 * sizes.hidden], |p| part(p, 3 * sizes.hidden)),
            };
            let weights = [part(&w, rows * sizes.input), part(&r, rows * sizes.hidden)];
            cell.go(direction, reverse(direction), &lengths, &x, &weights, &mut h, &mut c, &mut y);
        }
        let made = |i: usize, values: Vec<T>| Datum::from(T::tensor(types[i].0, types[i].1.clone(), values));
        let mut outputs = vec![made(0, y), made(1, h)];
        if kind == Kind::Lstm {
            outputs.push(made(2, c));
        }
        outputs
    }))
}

/// A cell in one direction.
struct Cell<'a, T> {
    kind: Kind,
    sizes: Sizes,
    functions: &'a [Function],
    clip: Option<T>,
    coupled: bool,
    linear_before_reset: bool,
    /// Biases of the products with the input, then of those with the state.
    bias: Vec<T>,
    peepholes: Vec<T>,
}

impl<T: Float + Scalar> Cell<'_, T> {
    fn apply(&self, function: usize, x: T) -> T {
        let x = match self.clip {
            Some(clip) => x.larger(-clip).smaller(clip),
            None => x,
        };
        self.functions[function].of(x)
    }
    /// Goes through all steps of all sequences and leaves the last states in `h` and `c`.
    fn go(
        &self,
        direction: usize,
        reverse: bool,
        lengths: &[usize],
        x: &[T],
        [w, r]: &[Vec<T>; 2],
        h: &mut [T],
        c: &mut [T],
        y: &mut [T],
    ) {
        let sizes = self.sizes;
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
        for step in 0..lengths.iter().copied().max().unwrap_or(0) {
            let place =
                |b: usize| (step < lengths[b]).then(|| if reverse { lengths[b] - 1 - step } else { step });
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
    fn gate(&self, gate: usize, j: usize, b: usize, from_x: &[T], from_h: &[T]) -> T {
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
