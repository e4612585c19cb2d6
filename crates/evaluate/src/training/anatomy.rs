//! Where the time of a training step goes.

use orrery_base::Picoseconds;
use orrery_cost::words::movement;
use orrery_machine::ExecutionModel;
use orrery_program::{Phase, Program, StepKind, Unit};
use orrery_simulate::Timeline;
use std::collections::BTreeMap;

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Computing from the inputs to the loss.
    Forward,
    /// Computing from the loss to the gradients.
    Backward,
    /// Computing from the gradients to new weights.
    Optimizer,
    /// Moving data between cores, or from place to place.
    Exchange,
    /// Weights, gradients and activations between the cores and the memory behind them, where nothing hides it.
    Streaming,
    /// Programs and arguments of sections.
    Load,
    /// The device waits for the host to issue work.
    Waiting,
    /// Inputs from the host and outputs to it, where a step is alone.
    Host,
}

impl Part {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Exchange => "exchange",
            Self::Streaming => "streaming",
            Self::Load => "program load",
            Self::Waiting => "waiting for the host",
            Self::Host => "host input and output",
        }
    }
}

/// Time by part, of one step alone: together they are its time from end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// Parts that take time.
    pub parts: BTreeMap<Part, Picoseconds>,
    /// Time of the device in the update, whatever it does there or waits for from the memory behind it.
    pub update: Picoseconds,
    /// Time on the links of what the cores do not wait for, or not all the time.
    pub on_links: Picoseconds,
}

impl Anatomy {
    /// The time of a part.
    pub fn time(&self, part: Part) -> Picoseconds {
        self.parts.get(&part).copied().unwrap_or(Picoseconds::ZERO)
    }
}

/// Divides the time of a step. What the cores do is counted as it is; what of the rest of the device's time nothing hides is
/// streaming; what is left from end to end is the host's. Streams of a section run beside its stages and are of its part,
/// and where a step that moves data is a step like any other it is of its part too.
pub(crate) fn anatomy(program: &Program, timeline: &Timeline, on: &ExecutionModel) -> Anatomy {
    let mut anatomy = Anatomy::default();
    let mut busy = Picoseconds::ZERO;
    let mut updating = Picoseconds::ZERO;
    for (id, step) in program.steps.iter() {
        let event = &timeline.events[id];
        if step.unit != Unit::Device {
            if step.unit != Unit::HostLink {
                anatomy.on_links += event.cost.time;
            }
            if step.unit == Unit::Streaming && step.phase == Phase::Update {
                updating += event.cost.time;
            }
            continue;
        }
        let alone = step.stage.is_none();
        let part = match (step.kind, step.phase) {
            (StepKind::Load, _) => Part::Load,
            (StepKind::Host, _) => Part::Host,
            (StepKind::Stream, _) if alone => Part::Streaming,
            (StepKind::Exchange, _) if alone && movement(on).is_some() => Part::Exchange,
            (_, Phase::Forward) => Part::Forward,
            (_, Phase::Backward) => Part::Backward,
            (_, Phase::Update) => Part::Optimizer,
        };
        if step.phase == Phase::Update {
            anatomy.update += event.cost.time;
        }
        let mut count = |part, time| *anatomy.parts.entry(part).or_insert(Picoseconds::ZERO) += time;
        count(part, event.cost.time);
        count(Part::Waiting, event.waited);
        busy += event.cost.time + event.waited;
    }
    let mut rest = |part, time| *anatomy.parts.entry(part).or_insert(Picoseconds::ZERO) += time;
    let device = timeline.device.max(busy);
    rest(Part::Streaming, device - busy);
    // Of what nothing hides, the update has its share of the links.
    let share = updating.seconds() / anatomy.on_links.seconds().max(f64::MIN_POSITIVE);
    anatomy.update += Picoseconds::from_seconds(share * (device - busy).seconds());
    rest(Part::Host, timeline.end_to_end - device);
    anatomy.parts.retain(|_, time| *time > Picoseconds::ZERO);
    anatomy
}
