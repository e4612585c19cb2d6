//! Exchanges: what a step needs is brought to where its parts are, all in one phase.

use super::Lowering;
use crate::lower::{fill, join, reads};
use orrery_base::Result;
use orrery_ir::{Attrs, Graph, Op, Type, ValueId};
use orrery_numerics::Tensor;
use orrery_program::{BufferClass, BufferId, Layout, StepKind};

/// A stretch of some dimensions of a value.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    /// The dimensions.
    pub(super) dims: Vec<usize>,
    /// First.
    pub(super) from: i64,
    /// One after the last.
    pub(super) to: i64,
}

/// A value on its way into a layout.
pub(super) struct Arrival {
    name: String,
    from: BufferId,
    to: BufferId,
    /// How it is moved.
    body: Graph,
}

impl Lowering<'_> {
    /// The buffer in which a value, or a stretch of it, lies in a layout: one that there is, or one into which it is brought
    /// with whatever movements were put off, once [`Lowering::arrive`] takes the arrivals.
    pub(super) fn bring(
        &mut self,
        value: ValueId,
        stretch: Option<&Stretch>,
        layout: &Layout,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<BufferId> {
        let (source, chain) = self.origin(value);
        let as_it_is = chain.is_empty() && stretch.is_none();
        let from = self.operand(source, as_it_is.then_some(layout))?;
        let there = &self.emitter.program.buffers[from];
        if as_it_is && there.home == self.tile && there.layout.same_place(layout) {
            return Ok(from);
        }
        let mut body = match chain.is_empty() {
            true => self.emitter.identity(value),
            false => self.emitter.body(&chain, None).graph,
        };
        let suffix = format!("@{}", self.emitter.program.buffers.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.tile, layout.clone());
        if let Some(stretch) = stretch {
            cut_out(&mut body, stretch);
            for &dim in &stretch.dims {
                self.emitter.program.buffers[to].shape[dim] = (stretch.to - stretch.from).into();
            }
        }
        arrivals.push(Arrival { name: self.emitter.name_of(value), from, to, body });
        Ok(to)
    }
    /// One exchange for all arrivals. What lies outside of a value is `padding`.
    pub(super) fn arrive(&mut self, arrivals: Vec<Arrival>, padding: f64, for_step: &str) {
        if arrivals.is_empty() {
            return;
        }
        let names: Vec<&str> = arrivals.iter().map(|arrival| &arrival.name[..]).collect();
        let name = format!("{} for {for_step}", names.join(", "));
        let (from, to): (Vec<BufferId>, Vec<BufferId>) = arrivals.iter().map(|a| (a.from, a.to)).unzip();
        let body = join(arrivals.into_iter().map(|arrival| arrival.body));
        let mut step = self.emitter.step(name, StepKind::Exchange, body);
        step.reads = reads(&from, from.iter().map(|b| self.whole_buffer(*b)).collect());
        step.writes = to.iter().map(|b| fill(*b, self.whole_buffer(*b))).collect();
        step.padding = padding;
        self.emitter.push(step);
    }
}

/// Leaves of the output of a body only a stretch.
fn cut_out(body: &mut Graph, stretch: &Stretch) {
    let Some(&moved) = body.outputs.first() else { return };
    let count = stretch.dims.len();
    let vector = |value: i64| Tensor::from_vec(vec![count], vec![value; count]);
    let axes = stretch.dims.iter().map(|&d| d as i64).collect();
    let bounds = [
        body.add_tensor("stretch.from", vector(stretch.from)),
        body.add_tensor("stretch.to", vector(stretch.to)),
        body.add_tensor("stretch.axes", Tensor::from_vec(vec![count], axes)),
    ];
    let inputs = std::iter::once(moved).chain(bounds).map(Some).collect();
    let node = body.add_node(Op::Slice, "", inputs, vec![Some("stretch".into())], Attrs::new(), Vec::new());
    let Some(cut) = body.nodes[node].outputs[0] else { return };
    let mut ty = body.values[moved].ty.clone();
    if let Type::Tensor(ty) = &mut ty
        && let Some(shape) = &mut ty.shape
    {
        stretch.dims.iter().for_each(|&d| shape[d] = (stretch.to - stretch.from).into());
    }
    body.values[cut].ty = ty;
    body.outputs = vec![cut];
}
