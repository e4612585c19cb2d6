//! Recurrent layers: one product for the inputs of all times, then one for each time, which waits for the one before.

use super::product::{Rate, best_time};
use crate::Product;
use orrery_ir::{Node, Op};
use orrery_machine::{KernelLosses, KernelMachine};
use orrery_numerics::DType;

/// The extents of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecurrenceShape {
    times: f64,
    batch: f64,
    input: f64,
    hidden: f64,
    gates: f64,
    directions: f64,
}

impl RecurrenceShape {
    /// From the extents of the operands of a recurrent op.
    pub fn new(node: &Node, operands: &[Vec<f64>]) -> Option<Self> {
        let gates = match node.op {
            Op::LSTM => 4.0,
            Op::GRU => 3.0,
            Op::RNN => 1.0,
            _ => return None,
        };
        let ([times, batch, input], [directions, _, hidden]) =
            (&operands.first()?[..], &operands.get(2)?[..])
        else {
            return None;
        };
        let (times, batch) =
            if node.attrs.int_or("layout", 0) == 1 { (*batch, *times) } else { (*times, *batch) };
        Some(Self { times, batch, input: *input, hidden: *hidden, gates, directions: *directions })
    }
}

/// Seconds: the input's product, and for each time a product with what makes the gates' values of it. A kernel follows on
/// the one before in the time that a captured launch takes.
pub(super) fn seconds(
    shape: &RecurrenceShape,
    dtype: DType,
    machine: &KernelMachine,
    losses: &KernelLosses,
    (rate, start): (Rate, f64),
) -> f64 {
    let product = |rows: f64, depth: f64| Product {
        batch: 1.0,
        rows,
        columns: shape.gates * shape.hidden,
        depth,
        positions: 1.0,
    };
    let whole = product(shape.times * shape.batch, shape.input);
    let inputs = start + best_time(&whole, dtype, machine, losses, rate).0;
    let one = product(shape.batch, shape.hidden);
    let time = best_time(&one, dtype, machine, losses, rate).0 + machine.graph_launch_seconds;
    shape.directions * (inputs + shape.times * time)
}
