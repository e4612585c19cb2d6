//! Recurrent cells with the usual functions: sigmoid for gates, tanh for values.
//!
//! The products with all inputs are one; each step adds the product with the state of the step before.

use super::gemm::{Finish, Packed, Product, Rows};
use super::math;
use super::simd::{Kernel, Simd, dispatch};
use super::threads::Threads;

/// Which cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `h' = tanh(W x + R h)`.
    Plain,
    /// Gates update, reset, hidden.
    Gated {
        /// Whether the reset gate acts on `R h` rather than on `h`.
        linear_before_reset: bool,
    },
    /// Gates input, output, forget, cell.
    LongShort,
}

impl Cell {
    /// Number of gates.
    pub fn gates(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Gated { .. } => 3,
            Self::LongShort => 4,
        }
    }
}

/// One direction of a recurrent op, with packed weights.
#[derive(Debug)]
pub struct Recurrent {
    cell: Cell,
    hidden: usize,
    input: usize,
    reverse: bool,
    /// From inputs to all gates.
    from_input: [Packed; 1],
    /// From the state to all gates; of a gated cell only to update and reset.
    from_state: [Packed; 1],
    /// From the state to the hidden gate of a gated cell.
    to_hidden: [Packed; 1],
    /// Added to the products with inputs.
    bias: Vec<f32>,
    /// Added to the products of a gated cell's state to its hidden gate.
    hidden_bias: Vec<f32>,
}

/// What a direction works on. Rows of all are batches.
pub struct Sequence<'a> {
    /// Inputs, `[steps, batch, input]`.
    pub x: &'a [f32],
    /// State before, and after.
    pub h: &'a mut [f32],
    /// Cell state before, and after, of a long short-term memory.
    pub c: &'a mut [f32],
    /// States of all steps: step `t` starts at `t * step` of what is left.
    pub y: &'a mut [f32],
    /// From a step of `y` to the next.
    pub step: usize,
}

impl Recurrent {
    /// Packs `w` of `[gates * hidden, input]` and `r` of `[gates * hidden, hidden]`; `b` holds the biases of both.
    pub fn new(
        cell: Cell,
        hidden: usize,
        input: usize,
        reverse: bool,
        w: &[f32],
        r: &[f32],
        b: Option<&[f32]>,
    ) -> Self {
        let rows = cell.gates() * hidden;
        let transposed = |matrix: &[f32], first: usize, count: usize, depth: usize| {
            let mut packed = Packed::room(depth, count);
            packed.repack_transposed(&matrix[first * depth..(first + count) * depth], depth);
            [packed]
        };
        let gated = matches!(cell, Cell::Gated { .. });
        let early = if gated { 2 * hidden } else { rows };
        let late = rows - early;
        let mut bias = vec![0.0; rows];
        let mut hidden_bias = vec![0.0; late];
        if let Some(b) = b {
            for (i, bias) in bias.iter_mut().enumerate() {
                *bias = b[i] + if i < early { b[rows + i] } else { 0.0 };
            }
            hidden_bias.copy_from_slice(&b[rows + early..2 * rows]);
        }
        Self {
            cell,
            hidden,
            input,
            reverse,
            from_input: transposed(w, 0, rows, input),
            from_state: transposed(r, 0, early, hidden),
            to_hidden: transposed(r, early, late, hidden),
            bias,
            hidden_bias,
        }
    }
    /// Goes through the steps.
    pub fn run(&self, threads: &Threads, steps: usize, sequence: &mut Sequence<'_>) {
        let (hidden, rows) = (self.hidden, self.cell.gates() * self.hidden);
        let batch = sequence.h.len() / hidden;
        let mut inputs = vec![0.0; steps * batch * rows];
        let finish = Finish { bias: Some(&self.bias), ..Finish::default() };
        product(sequence.x, self.input, &self.from_input, finish).run(threads, &mut inputs);
        let early = self.from_state[0].columns();
        let mut gates = vec![0.0; batch * early];
        let (mut from_inputs, mut late) = (vec![0.0; batch * early], vec![0.0; batch * (rows - early)]);
        for t in 0..steps {
            let t = if self.reverse { steps - 1 - t } else { t };
            let inputs = &inputs[t * batch * rows..][..batch * rows];
            let added = if early == rows {
                inputs
            } else {
                for (to, from) in from_inputs.chunks_exact_mut(early).zip(inputs.chunks_exact(rows)) {
                    to.copy_from_slice(&from[..early]);
                }
                &from_inputs
            };
            let finish = Finish { added: Some(added), ..Finish::default() };
            product(sequence.h, hidden, &self.from_state, finish).run(threads, &mut gates);
            if let Cell::Gated { linear_before_reset } = self.cell {
                let finish = Finish { bias: Some(&self.hidden_bias), ..Finish::default() };
                dispatch(Sigmoids(&mut gates));
                if linear_before_reset {
                    product(sequence.h, hidden, &self.to_hidden, finish).run(threads, &mut late);
                    for (late, gates) in late.chunks_exact_mut(hidden).zip(gates.chunks_exact(early)) {
                        late.iter_mut().zip(&gates[hidden..]).for_each(|(x, r)| *x *= r);
                    }
                } else {
                    let states = sequence.h.chunks_exact(hidden).zip(gates.chunks_exact(early));
                    let reset: Vec<f32> =
                        states.flat_map(|(h, g)| h.iter().zip(&g[hidden..]).map(|(h, r)| h * r)).collect();
                    product(&reset, hidden, &self.to_hidden, finish).run(threads, &mut late);
                }
                for (late, inputs) in late.chunks_exact_mut(hidden).zip(inputs.chunks_exact(rows)) {
                    late.iter_mut().zip(&inputs[early..]).for_each(|(x, from)| *x += from);
                }
            }
            for b in 0..batch {
                dispatch(Update {
                    cell: self.cell,
                    gates: &gates[b * early..][..early],
                    late: &late[b * (rows - early)..][..rows - early],
                    h: &mut sequence.h[b * hidden..][..hidden],
                    c: sequence.c.get_mut(b * hidden..(b + 1) * hidden),
                });
            }
            sequence.y[t * sequence.step..][..batch * hidden].copy_from_slice(sequence.h);
        }
    }
}

/// Dense rows by a packed matrix.
fn product<'a>(data: &'a [f32], stride: usize, packed: &'a [Packed], finish: Finish<'a>) -> Product<'a> {
    Product { rows: Rows::Dense { data, stride }, segments: 1, packed, finish }
}

struct Sigmoids<'a>(&'a mut [f32]);
impl Kernel for Sigmoids<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for to in self.0.chunks_mut(S::LANES) {
            s.store_partial(to, math::sigmoid(s, s.load_partial(to)));
        }
    }
}

/// The new state of one batch.
struct Update<'a> {
    cell: Cell,
    gates: &'a [f32],
    late: &'a [f32],
    h: &'a mut [f32],
    c: Option<&'a mut [f32]>,
}
impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { cell, gates, late, h, mut c } = self;
        let hidden = h.len();
        for (i, h) in h.chunks_mut(S::LANES).enumerate() {
            let (at, len) = (i * S::LANES, h.len());
            let state = match cell {
                Cell::Plain => math::tanh(s, s.load_partial(&gates[at..at + len])),
                Cell::Gated { .. } => {
                    let update = s.load_partial(&gates[at..at + len]);
                    let new = math::tanh(s, s.load_partial(&late[at..at + len]));
                    s.fma(update, s.sub(s.load_partial(h), new), new)
                }
                Cell::LongShort => {
                    let c = c.as_mut().expect("a long short-term memory has a cell state");
                    let c = &mut c[at..at + len];
                    let input = math::sigmoid(s, s.load_partial(&gates[at..at + len]));
                    let output = math::sigmoid(s, s.load_partial(&gates[hidden + at..][..len]));
                    let forget = math::sigmoid(s, s.load_partial(&gates[2 * hidden + at..][..len]));
                    let value = math::tanh(s, s.load_partial(&gates[3 * hidden + at..][..len]));
                    let new = s.fma(forget, s.load_partial(c), s.mul(input, value));
                    s.store_partial(c, new);
                    s.mul(output, math::tanh(s, new))
                }
            };
            s.store_partial(h, state);
        }
    }
}
