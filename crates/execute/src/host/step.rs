//! A step of a session and what its kernel is given.

use super::value::{Floats, Layout, Machine, Value};
use crate::kernels::buffer::Buffer;
use crate::kernels::gemm::Finish;
use crate::kernels::pointwise::{Bound, Operand, Program};
use orrery_base::IndexVec;
use orrery_ir::op::elements::element_count;
use orrery_ir::{Graph, NodeId, ValueId};
use orrery_numerics::{DType, Tensor};

/// What a kernel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All outputs are made.
    Made,
    /// These operands are not for this kernel: the nodes are to be evaluated as the op table defines.
    Declined,
}

/// Computes a step.
pub(crate) trait HostKernel: Send + Sync {
    /// Name, as the profile shows it.
    fn name(&self) -> &'static str;
    /// Whether it computes the program of its step's tail too.
    fn takes_tail(&self) -> bool {
        false
    }
    /// Whether it adds the bias of its step's tail too.
    fn takes_bias(&self) -> bool {
        false
    }
    /// Computes the step's outputs.
    ///
    /// # Errors
    /// What is wrong with the operands, in the user's terms.
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String>;
}

/// Nodes that are computed together.
pub(crate) struct Step {
    /// The nodes in order: one that `kernel` computes first, then those of the tail.
    pub(crate) nodes: Vec<NodeId>,
    /// Inputs of the first node.
    pub(crate) inputs: Vec<Option<ValueId>>,
    /// Outputs of the step: those of the first node, or the last value of the tail.
    pub(crate) outputs: Vec<Option<ValueId>>,
    /// How it is computed; none where only the op table says so.
    pub(crate) kernel: Option<Box<dyn HostKernel>>,
    /// What is done to the first output.
    pub(crate) tail: Tail,
    /// Values that nobody needs after this step.
    pub(crate) last_uses: Vec<ValueId>,
}

/// Elementwise ops joined to the op before: input 0 of the program is what that op made.
#[derive(Default)]
pub(crate) struct Tail {
    /// A constant that is added to each channel first.
    pub(crate) bias: Option<ValueId>,
    /// The ops as a program.
    pub(crate) program: Program,
    /// Values behind inputs 1 and on.
    pub(crate) operands: Vec<ValueId>,
}

/// Values of a run.
pub(crate) type Values = IndexVec<ValueId, Option<Value>>;

/// A step at run time.
pub(crate) struct Call<'a> {
    /// The step.
    pub(crate) step: &'a Step,
    /// All values of the run.
    pub(crate) values: &'a mut Values,
    /// Threads and memory.
    pub(crate) machine: &'a Machine,
    /// The session's graph.
    pub(crate) graph: &'a Graph,
    /// Seed of the run.
    pub(crate) seed: u64,
}

impl Call<'_> {
    fn input_id(&self, i: usize) -> Option<ValueId> {
        self.step.inputs.get(i).copied().flatten()
    }
    /// Input `i`, where given.
    pub(crate) fn input(&mut self, i: usize) -> Option<&mut Value> {
        let id = self.input_id(i)?;
        self.values[id].as_mut()
    }
    /// True where input `i` is given.
    pub(crate) fn has(&self, i: usize) -> bool {
        self.input_id(i).is_some()
    }
    /// Shape of input `i`; empty where left out.
    pub(crate) fn shape(&mut self, i: usize) -> Vec<usize> {
        self.input(i).map_or(Vec::new(), |v| v.shape().to_vec())
    }
    /// Numbers of input `i` in a layout; none where left out or no f32 tensor.
    pub(crate) fn floats(&mut self, i: usize, layout: Layout) -> Option<Floats> {
        let machine = self.machine;
        self.input(i)?.get(layout, machine)
    }
    /// Integers of input `i`.
    pub(crate) fn integers(&mut self, i: usize) -> Option<Vec<i64>> {
        self.input(i)?.integers()
    }
    /// Input `i` as a tensor that is not f32.
    pub(crate) fn other(&mut self, i: usize) -> Option<Tensor> {
        self.input(i)?.other_tensor().cloned()
    }
    /// The memory of input `i`, where nobody else needs it: the result can go where the operand was.
    pub(crate) fn take_over(&mut self, i: usize, layout: Layout) -> Option<Buffer> {
        let id = self.input_id(i)?;
        self.take_over_value(id, layout)
    }
    /// As [`Call::take_over`], by value.
    pub(crate) fn take_over_value(&mut self, id: ValueId, layout: Layout) -> Option<Buffer> {
        let reads =
            self.step.inputs.iter().flatten().chain(&self.step.tail.operands).filter(|v| **v == id).count();
        if reads != 1 || !self.step.last_uses.contains(&id) || !self.values[id].as_ref()?.has(layout) {
            return None;
        }
        match self.values[id].take()?.into_buffer(layout) {
            Ok(buffer) => Some(buffer),
            Err(value) => {
                self.values[id] = Some(value);
                None
            }
        }
    }
    /// Memory for `len` numbers, which are left open.
    pub(crate) fn room(&self, len: usize) -> Buffer {
        self.machine.take(len)
    }
    /// Memory for a tensor of that shape, whose numbers are left open.
    ///
    /// # Errors
    /// Where it would be too large, as the op table words it.
    pub(crate) fn room_for(&self, shape: &[usize]) -> Result<Buffer, String> {
        Ok(self.room(element_count(DType::F32, shape)?))
    }
    /// Sets output `i`.
    pub(crate) fn set(&mut self, i: usize, value: Value) {
        if let Some(id) = self.step.outputs.get(i).copied().flatten() {
            self.values[id] = Some(value);
        }
    }
    /// Sets output 0 to numbers in a layout.
    pub(crate) fn make(
        &mut self,
        shape: Vec<usize>,
        buffer: Buffer,
        layout: Layout,
    ) -> Result<Outcome, String> {
        self.set(0, Value::floats(shape, buffer, layout));
        Ok(Outcome::Made)
    }
    /// The tail's operands against a result of that shape and layout; none where one does not fit.
    pub(crate) fn tail_operands(&mut self, shape: &[usize], layout: Layout) -> Option<Vec<Fitted>> {
        let step = self.step;
        step.tail.operands.iter().map(|&id| self.fit(id, shape, layout)).collect()
    }
    /// A value as operand against a result of that shape and layout; none where it does not fit.
    pub(crate) fn fit(&mut self, id: ValueId, shape: &[usize], layout: Layout) -> Option<Fitted> {
        let machine = self.machine;
        let value = self.values[id].as_mut()?;
        if value.shape() == shape {
            return Some(Fitted { floats: value.get(layout, machine)?, dims: None });
        }
        let own = value.shape().to_vec();
        let floats = value.get(Layout::Plain, machine)?;
        let lead = shape.len().checked_sub(own.len())?;
        let mut step = 1;
        let mut steps = vec![0; shape.len()];
        for d in (0..own.len()).rev() {
            if own[d] != 1 {
                if own[d] != shape[lead + d] {
                    return None;
                }
                steps[lead + d] = step;
            }
            step *= own[d];
        }
        let dims = layout.order(shape.len()).into_iter().map(|d| (shape[d], steps[d])).collect();
        Some(Fitted { floats, dims: Some(dims) })
    }
    /// Computes with `compute` into new memory, the tail joined on, and sets output 0. `adds` tells whether `compute`
    /// can add numbers to its sums.
    pub(crate) fn make_with_tail(
        &mut self,
        shape: Vec<usize>,
        layout: Layout,
        bias: Option<&[f32]>,
        adds: bool,
        compute: impl FnOnce(&Call<'_>, Finish<'_>, &mut [f32]),
    ) -> Result<Outcome, String> {
        let step = self.step;
        let own_bias = match step.tail.bias {
            None => None,
            Some(id) => match self.values[id].as_mut().and_then(|v| v.get(Layout::Plain, self.machine)) {
                Some(floats) => Some(floats),
                None => return Ok(Outcome::Declined),
            },
        };
        let Some(fitted) = self.tail_operands(&shape, layout) else { return Ok(Outcome::Declined) };
        let mut out = self.room_for(&shape)?;
        let columns = match layout {
            Layout::ChannelsLast if shape.len() > 2 => shape[1],
            _ => shape.last().copied().unwrap_or(1),
        };
        let program = &step.tail.program;
        let mut finish = Finish { bias: own_bias.as_deref().or(bias), ..Finish::default() };
        let simple = program.as_sum_and_clamp().and_then(|(sum, clamp)| match sum {
            None => Some((None, clamp)),
            Some(i) => fitted[i - 1].full().filter(|_| adds).map(|added| (Some(added), clamp)),
        });
        if let Some((added, clamp)) = simple {
            (finish.added, finish.clamp) = (added, clamp);
            compute(self, finish, &mut out);
        } else {
            let operands = [Operand::InPlace].into_iter().chain(fitted.iter().map(Fitted::operand)).collect();
            let bound = Bound::new(program, operands);
            let then = |row: usize, column: usize, block: &mut crate::kernels::threads::Block<'_>| {
                bound.apply_block(columns, row, column, block);
            };
            finish.then = Some(&then);
            compute(self, finish, &mut out);
        }
        self.make(shape, out, layout)
    }
}

impl Call<'_> {
    /// Computes with `compute` into new memory, applies the tail to all of it, and sets output 0.
    pub(crate) fn make_then_tail(
        &mut self,
        shape: Vec<usize>,
        layout: Layout,
        compute: impl FnOnce(&Call<'_>, &mut [f32]),
    ) -> Result<Outcome, String> {
        let Some(fitted) = self.tail_operands(&shape, layout) else { return Ok(Outcome::Declined) };
        let mut out = self.room_for(&shape)?;
        compute(self, &mut out);
        let program = &self.step.tail.program;
        if !program.is_empty() {
            let operands = [Operand::InPlace].into_iter().chain(fitted.iter().map(Fitted::operand)).collect();
            Bound::new(program, operands).run(&self.machine.threads, &mut out);
        }
        self.make(shape, out, layout)
    }
}

/// Numbers of an operand and how they lie against the result.
pub(crate) struct Fitted {
    floats: Floats,
    /// Extents and steps in order of the result's memory; none where number for number.
    dims: Option<Vec<(usize, usize)>>,
}
impl Fitted {
    /// The numbers, where they go number for number with the result.
    fn full(&self) -> Option<&[f32]> {
        self.dims.is_none().then_some(&*self.floats)
    }
    /// As an operand of a program.
    pub(crate) fn operand(&self) -> Operand<'_> {
        match &self.dims {
            None => Operand::Full(&self.floats),
            Some(dims) => Operand::strided(&self.floats, dims),
        }
    }
}
