//! Recurrent ops with constant weights and the usual functions.

use super::prepare::Choice;
use super::step::{Call, HostKernel, Outcome};
use super::value::{Layout, Value};
use crate::kernels::buffer::Buffer;
use crate::kernels::recurrent::{Cell, Recurrent, Sequence};
use orrery_ir::Op;

const SEQUENCE_LENS: usize = 4;
const INITIAL_H: usize = 5;
const INITIAL_C: usize = 6;
const PEEPHOLES: usize = 7;

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let (node, attrs) = (choice.node, &choice.node.attrs);
    let cell = match node.op {
        Op::RNN => Cell::Plain,
        Op::GRU => Cell::Gated { linear_before_reset: attrs.flag("linear_before_reset") },
        Op::LSTM => Cell::LongShort,
        _ => return None,
    };
    let given = |i: usize| node.inputs.get(i).copied().flatten().is_some();
    let usual = attrs.strs("activations").is_none()
        && attrs.float("clip").is_none()
        && !attrs.flag("layout")
        && !attrs.flag("input_forget");
    if !usual || !choice.is_f32(0) || given(SEQUENCE_LENS) || given(PEEPHOLES) {
        return None;
    }
    let reverse: &[bool] = match attrs.str_or("direction", "forward") {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        _ => return None,
    };
    let (w, r) = (choice.constant(1)?, choice.constant(2)?);
    let ([directions, rows, input], [_, _, hidden]) = (w.shape(), r.shape()) else { return None };
    let b = if given(3) { Some(choice.constant(3)?.values::<f32>()?) } else { None };
    if *directions != reverse.len() || *rows != cell.gates() * hidden || *hidden == 0 {
        return None;
    }
    let (w, r) = (w.values::<f32>()?, r.values::<f32>()?);
    let made = reverse.iter().enumerate().map(|(d, &reverse)| {
        let (w, r) = (&w[d * rows * input..][..rows * input], &r[d * rows * hidden..][..rows * hidden]);
        let b = b.as_ref().map(|b| &b[d * 2 * rows..][..2 * rows]);
        Recurrent::new(cell, *hidden, *input, reverse, w, r, b)
    });
    Some(Box::new(RecurrentKernel { hidden: *hidden, input: *input, cell, directions: made.collect() }))
}

struct RecurrentKernel {
    hidden: usize,
    input: usize,
    cell: Cell,
    directions: Vec<Recurrent>,
}
impl HostKernel for RecurrentKernel {
    fn name(&self) -> &'static str {
        "recurrent"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let [steps, batch, input] = *call.shape(0).as_slice() else { return Ok(Outcome::Declined) };
        let (hidden, count) = (self.hidden, self.directions.len());
        let Some(x) = call.floats(0, Layout::Plain) else { return Ok(Outcome::Declined) };
        if input != self.input || x.is_empty() {
            return Ok(Outcome::Declined);
        }
        let state_shape = vec![count, batch, hidden];
        let state = |call: &mut Call<'_>, i: usize| -> Option<Buffer> {
            let mut state = call.room(count * batch * hidden);
            if !call.has(i) {
                state.fill(0.0);
            } else if call.shape(i) == state_shape {
                state.copy_from_slice(&call.floats(i, Layout::Plain)?);
            } else {
                return None;
            }
            Some(state)
        };
        let mut h = match state(call, INITIAL_H) {
            Some(h) => h,
            None => return Ok(Outcome::Declined),
        };
        let long_short = self.cell == Cell::LongShort;
        let mut c = match if long_short { state(call, INITIAL_C) } else { Some(Buffer::default()) } {
            Some(c) => c,
            None => return Ok(Outcome::Declined),
        };
        let mut y = call.room_for(&[steps, count, batch, hidden])?;
        let own = batch * hidden;
        for (d, direction) in self.directions.iter().enumerate() {
            let mut sequence = Sequence {
                x: &x,
                h: &mut h[d * own..(d + 1) * own],
                c: if long_short { &mut c[d * own..(d + 1) * own] } else { &mut [] },
                y: &mut y[d * own..],
                step: count * own,
            };
            direction.run(&call.machine.threads, steps, &mut sequence);
        }
        call.set(0, Value::floats(vec![steps, count, batch, hidden], y, Layout::Plain));
        call.set(1, Value::floats(state_shape.clone(), h, Layout::Plain));
        if long_short {
            call.set(2, Value::floats(state_shape, c, Layout::Plain));
        }
        Ok(Outcome::Made)
    }
}
