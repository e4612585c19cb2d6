//! How a step is cut: of the ways that its own work favours, the one for which its operands are brought most cheaply.

use super::cut::{Choice, Frame, Source};
use super::grid::{parts_of, result_axis, set_strides, spread_along_sum};
use super::lowering::{Lowering, Way};
use crate::bulk_synchronous::problem::signature;
use crate::groups::Group;
use crate::lower::{Body, grid};
use crate::partition::Problem;
use orrery_base::Result;
use orrery_cost::wafer::{Traffic, exchange_cycles, sides};
use orrery_ir::op::{Access, AxisKind, Engine, IterSpace};
use orrery_ir::{Dim, ValueId};
use orrery_program::memory::unbound;
use orrery_program::{BoundGrid, Cut, Cutting, Layout};

/// What is known of a problem: the best ways to cut it for each number of parts of its sum, and what was taken for operands
/// in certain places, none where nothing fits.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    choices: Vec<Choice>,
    grids: Vec<(Vec<Option<Place>>, Option<Vec<Cut>>)>,
}

/// Where an operand lies: its layout and those of its copies in the same rectangle, as if it began at core 0.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    moved: bool,
    inside: bool,
    layout: Layout,
    copies: Vec<Layout>,
}

impl Lowering<'_> {
    /// The grid of a group with the strides of its axes: the cheapest with what it costs to bring the operands. None where
    /// no part would fit into what a step is given of the memory of a PE.
    pub(super) fn choose(
        &mut self,
        group: &Group,
        body: &Body,
        space: &IterSpace,
        problem: &Problem,
    ) -> Result<Option<Vec<Cut>>> {
        let source = |value: &ValueId| match (self.is_weight(*value), self.way) {
            (true, Way::Streamed) => Source::Stream,
            (true, Way::Resident) if !self.after_all => Source::Weight,
            _ => Source::Activation,
        };
        let sources: Vec<Source> = body.operands.iter().map(source).collect();
        let items = self.item_axis(body).map(|axis| (axis, self.items));
        let spread = result_axis(space);
        let frame = Frame {
            core: self.core,
            cores: self.region().cores(),
            thrift: self.thrift,
            sources,
            items,
            spread,
            at_once: if self.way == Way::Resident && self.items > 1 { 2.0 } else { 1.0 },
        };
        let mut key = signature(problem);
        key.extend(frame.sources.iter().map(|source| *source as u64));
        key.extend([
            frame.thrift.pressure.to_bits(),
            frame.thrift.limit.to_bits(),
            frame.cores,
            items.map_or(0, |(axis, items)| items << 8 | axis as u64),
        ]);
        let places: Vec<Option<Place>> = body.operands.iter().map(|value| self.place_of(*value)).collect();
        let base = self.region().base;
        let known = self
            .chosen
            .entry(key.clone())
            .or_insert_with(|| Known { choices: frame.choices(problem), grids: Vec::new() });
        // Where operands lie relative to the rectangle decides, not where the rectangle is.
        if let Some((_, cuts)) = known.grids.iter().find(|(of, _)| *of == places) {
            return Ok(cuts.clone());
        }
        let mut grids: Vec<(Choice, Vec<Cut>)> = Vec::new();
        let choices = known.choices.clone();
        for choice in choices {
            let mut cuts = grid(space, |i| Cutting::Parts(choice.parts[i]));
            set_strides(&mut cuts, &self.inner_axes(space, group));
            grids.push((choice, cuts));
        }
        if let Some(kept) = self.kept_grid(body, space, problem) {
            let parts: Vec<u64> = kept.iter().map(parts_of).collect();
            let price = frame.price(problem, &parts);
            if self.after_all && frame.fits(&price) {
                // A state is changed where it lies.
                grids.clear();
            }
            grids.push((price, kept));
        }
        let mut best: Option<(Choice, Vec<Cut>)> = None;
        for (mut choice, cuts) in grids {
            choice.cycles += self.bringing(body, (space, problem), &frame, &cuts, base)?;
            if best.as_ref().is_none_or(|(best, _)| frame.is_better(&choice, best)) {
                best = Some((choice, cuts));
            }
        }
        let cuts = best.filter(|(choice, _)| frame.fits(choice)).map(|(_, cuts)| cuts);
        if let Some(known) = self.chosen.get_mut(&key) {
            known.grids.push((places, cuts.clone()));
        }
        Ok(cuts)
    }
    /// Where a value lies, as far as cutting depends on it.
    fn place_of(&self, value: ValueId) -> Option<Place> {
        let (source, chain) = self.origin(value);
        let buffer = &self.emitter.program.buffers[self.lies_in(source)?];
        let inside = buffer.layout.base == self.region().base;
        let copies = self.brought.get(&value).into_iter().flatten();
        let layouts = copies.map(|b| self.emitter.program.buffers[*b].layout.clone());
        let here = |layout: &Layout| layout.base == self.region().base;
        let moved_here = |layout: Layout| Layout { base: 0, ..layout };
        Some(Place {
            moved: !chain.is_empty(),
            inside,
            layout: moved_here(buffer.layout.clone()),
            copies: layouts.filter(here).map(moved_here).collect(),
        })
    }
    /// The axis along which the items of the batch lie, where a step has a share for each.
    fn item_axis(&self, body: &Body) -> Option<usize> {
        let results = body.results.iter().zip(&body.writes);
        let mut touched = results.chain(body.operands.iter().zip(&body.reads));
        touched.find_map(|(value, access)| access.get(*self.emitter.by_item.get(value)?)?.axis())
    }
    /// Cycles of the exchange that a grid asks for.
    fn bringing(
        &self,
        body: &Body,
        (space, problem): (&IterSpace, &Problem),
        frame: &Frame<'_>,
        cuts: &[Cut],
        base: u64,
    ) -> Result<f64> {
        let items = self.items as f64;
        let mut traffic = Traffic { span: 1.0, ..Traffic::default() };
        let mut bases = vec![base];
        for (number, (value, access)) in body.operands.iter().zip(&body.reads).enumerate() {
            if frame.sources[number] != Source::Activation {
                continue;
            }
            let wanted = if problem.matrix.is_some() && !problem.is_summed(&problem.operands[number]) {
                spread_along_sum(base, cuts, space, access)
            } else {
                Layout { base, cuts: cuts.to_vec(), access: access.clone() }
            };
            let (source, chain) = self.origin(*value);
            let have = self.lies_in(source).map(|buffer| &self.emitter.program.buffers[buffer]);
            let (dtype, shape) = self.emitter.type_of(*value);
            let bytes = |layout: &Layout, shape: &[Dim]| -> Result<f64> {
                let extents = layout.block_extents(shape, &self.nominal).map_err(|s| unbound(&s))?;
                let elements: f64 = extents.iter().map(|e| *e as f64).product();
                Ok(elements * dtype.bits() as f64 / 8.0)
            };
            let Some(have) = have else { continue };
            let near = chain.is_empty() && have.home == self.pe && have.layout.same_place(&wanted);
            if near || self.brought_to(*value, &wanted).is_some() {
                continue;
            }
            bases.push(have.layout.base);
            let share = |by_item: bool| if by_item { 1.0 / items } else { 1.0 };
            let (left, made) =
                (share(have.by_item.is_some()), share(self.emitter.by_item.contains_key(value)));
            traffic.inward += bytes(&wanted, &shape)? * made;
            traffic.outward += bytes(&have.layout, &have.shape)? * left;
            traffic.total += bytes(&Layout::whole(have.shape.len(), 0), &have.shape)? * left;
            for layout in [&have.layout, &wanted] {
                let grid =
                    BoundGrid::new(layout.base, &layout.cuts, &self.nominal).map_err(|s| unbound(&s))?;
                traffic.span = traffic.span.max((grid.core_end() - layout.base) as f64);
            }
            let near = if chain.is_empty() {
                have.layout.moved_among(&wanted, &self.nominal).map_err(|s| unbound(&s))?
            } else {
                None
            };
            traffic.reach = traffic.reach.max(near.map_or(traffic.span, |near| near as f64));
        }
        if traffic.reach == 0.0 {
            return Ok(0.0);
        }
        // Where weights stream in there is one region, which is the mesh.
        traffic.sides = sides(&self.regions, &bases, traffic.reach, self.core.machine);
        let phase = exchange_cycles(&traffic, &self.core);
        Ok(items * phase.busy() + phase.way)
    }
    /// Axes whose parts are neighbours, innermost first: sums that are cut, then the axis over which their results are
    /// spread.
    fn inner_axes(&self, space: &IterSpace, group: &Group) -> Vec<usize> {
        let sums = (0..space.axes.len()).filter(|&i| space.axes[i].kind != AxisKind::Parallel);
        let mut inner: Vec<usize> = sums.collect();
        let node = &self.emitter.graph.nodes[group.nodes[0]];
        if !inner.is_empty() && node.op.def().engine == Engine::Matrix {
            inner.extend(result_axis(space));
        }
        inner
    }
    /// The grid under which the group's first operand, or the state that it changes, stays where it is, where there is one.
    fn kept_grid(&self, body: &Body, space: &IterSpace, problem: &Problem) -> Option<Vec<Cut>> {
        let changed = body.operands.iter().position(|v| self.after_all && self.emitter.is_state(*v));
        let number = changed.unwrap_or(0);
        let first = *body.operands.get(number)?;
        if self.moved.contains_key(&first) {
            return None;
        }
        let buffer = &self.emitter.program.buffers[self.lies_in(first)?];
        let layout = &buffer.layout;
        if buffer.home != self.pe || layout.base != self.region().base || !layout.copies().is_empty() {
            return None;
        }
        let mut cuts = grid(space, |_| Cutting::Parts(1));
        for (have, want) in layout.access.iter().zip(&body.reads[number]) {
            match (have, want) {
                (Access::Along { axis, scale }, Access::Along { axis: to, scale: wanted })
                    if scale == wanted && scale.is(1) =>
                {
                    let (cut, axis) = (&layout.cuts[*axis], &space.axes[*to]);
                    let summed = axis.kind != AxisKind::Parallel && cut.is_cut();
                    if cut.extent != axis.extent || summed && !problem.sums {
                        return None;
                    }
                    cuts[*to] = Cut { name: axis.name.to_owned(), ..cut.clone() };
                }
                (Access::Along { axis, .. }, _) if layout.cuts[*axis].is_cut() => return None,
                (Access::Window { .. }, _) | (_, Access::Window { .. }) => return None,
                _ => {}
            }
        }
        Some(cuts)
    }
}
