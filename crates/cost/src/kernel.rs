//! Kernel-by-kernel machines: what one kernel costs.
//!
//! A kernel starts, brings its bytes through device memory, L2 and shared memory, and computes; what overlaps is bounded by
//! the slowest, and a little by the others as well. Results are stored after that. Products of matrices, attention and
//! recurrent layers have their own ways to use the SMs. No kernel is shorter than a launch.

mod attention;
mod product;
mod recurrence;

pub use attention::AttentionShape;
pub use product::{Rate, best_tile};
pub use recurrence::RecurrenceShape;

use crate::{Measure, Resource, StepCost, Target, slowest};
use orrery_base::Picoseconds;
use orrery_ir::{Dim, Node, Op};
use orrery_machine::{Engine, KernelLosses, KernelMachine};
use orrery_numerics::DType;
use orrery_program::{BufferClass, Phase, Step, StepKind, Tile};
use product::Tiling;

/// Part of L2 that data of the kernel before are still found in.
const L2_KEPT: f64 = 0.5;
/// How times that overlap add up: by this power. A large one is the largest alone.
const OVERLAP: f64 = 4.0;

/// How often a row is read that does not stay on the SM: for its largest element or its mean, for its sum or its variance, and for its results.
const READS_OF_LONG_ROWS: f64 = 3.0;
/// Elements of the longest row that the softmax of an eager framework keeps: its kernels are made for a warp or for a block
/// that reads again. Half remembered of PyTorch's; its measured softmax of longer rows takes as long as four trips.
const EAGER_SOFTMAX_ROW: f64 = 1024.0;
/// Part of an SM's registers that the elements of a row can have, in binary32.
const ROW_REGISTERS: f64 = 0.25;

/// Most channels whose numbers the kernel that reads or makes them makes as well.
const MOST_CHANNELS: i64 = 16_384;

/// The time of things done at the same time.
fn overlapped(seconds: impl Iterator<Item = f64>) -> f64 {
    seconds.map(|s| s.powf(OVERLAP)).sum::<f64>().powf(1.0 / OVERLAP)
}

/// Bandwidth of device memory that a part of long streams attains.
fn saturated(machine: &KernelMachine, fraction: f64) -> f64 {
    machine.hbm_bandwidth * machine.hbm_fraction * fraction
}

/// The cost of a step.
pub fn cost(
    step: &Step,
    measure: &Measure,
    machine: &KernelMachine,
    losses: &KernelLosses,
    target: &Target<'_>,
) -> StepCost {
    let graph = target.stack.is_some_and(|s| s.graph_launch);
    match step.kind {
        StepKind::View | StepKind::Load => StepCost::default(),
        StepKind::Host => {
            let bytes = measure.total_read().max(measure.written_bytes);
            let time =
                Picoseconds::from_seconds(machine.host_latency_seconds + bytes / machine.host_bandwidth);
            StepCost {
                time,
                resources: vec![(Resource::HostLink, time)],
                bound: Resource::HostLink,
                ..StepCost::default()
            }
        }
        StepKind::Compute | StepKind::Exchange | StepKind::Stream => {
            kernel(step, measure, machine, losses, (target, graph))
        }
    }
}

/// The cost of a step that kernels do.
fn kernel(
    step: &Step,
    measure: &Measure,
    machine: &KernelMachine,
    losses: &KernelLosses,
    (target, graph): (&Target<'_>, bool),
) -> StepCost {
    // The matrix unit rounds what it reads, and numbers of channels are made by the kernels that read or make the channels.
    if step.body.nodes.values().all(|node| node.op == Op::RoundTo) || is_of_channels(step) {
        return StepCost::default();
    }
    let launch = if graph { machine.graph_launch_seconds } else { machine.launch_seconds };
    let start = launch.max(machine.kernel_start_cycles.unwrap_or(0.0) / machine.clock_hz);
    let rate = Rate::of(target.precision);
    let macs = rate.macs;
    let mut traffic = Traffic::of(measure, machine);
    let first = step.body.nodes.values().next();
    if first.is_some_and(|n| n.op == Op::BatchNormalization && n.attrs.flag("training_mode")) {
        // The statistics of a channel are known only when all of it was read.
        traffic.device_read *= 2.0;
        traffic.cached_read *= 2.0;
    }
    if first
        .is_some_and(|node| row_of(step, node).is_some_and(|row| row > longest_row(node.op, machine, target)))
    {
        traffic.device_read *= READS_OF_LONG_ROWS;
        traffic.cached_read *= READS_OF_LONG_ROWS;
    }
    let kernels = match (first.map(|node| node.op), losses.gelu_kernels) {
        (Some(Op::Gelu), Some(kernels)) => kernels,
        _ => 1.0,
    };
    let bandwidth = saturated(machine, losses.memory_fraction);
    let l2 = machine.l2_bandwidth * machine.l2_fraction.unwrap_or(1.0);
    let lanes = machine.sms as f64 * machine.clock_hz * losses.vector_fraction;
    // A vector operation is one lane of a fused multiply-add unit.
    let per_cycle = match measure.dtype {
        DType::F16 => machine.vector_fp16,
        DType::BF16 => machine.vector_bf16,
        _ => machine.vector_fp32,
    };
    let vector = measure.vector / (per_cycle * lanes);
    let special = measure.special / (machine.special_functions * lanes);
    let eager = target.stack.is_some_and(|stack| !stack.fuses);
    let mut idle_slots = 0.0;
    let mut resources = vec![(Resource::Vector, vector), (Resource::Special, special)];
    let on_matrix = target.precision.engine == Engine::Matrix;
    // In sixteen bits, models are trained with channels last; gradients are relaid in 32 alone.
    let relaid = |node: &Node| match node.op {
        Op::Conv => true,
        Op::ConvTranspose | Op::ConvWeightGrad => {
            step.phase == Phase::Backward && target.precision.storage == DType::F32
        }
        _ => false,
    };
    let convolution = first.filter(|node| on_matrix && relaid(node));
    // Fused attention multiplies in no less than sixteen bits.
    let attention_macs = if is_narrow(target) { macs / 2.0 } else { macs };
    let seconds = if let Some(shape) = &measure.attention {
        let time = attention::time(shape, measure.dtype, machine, losses, (attention_macs, start));
        resources = vec![(Resource::Matrix, time.compute), (Resource::DeviceMemory, time.memory)];
        resources.push((Resource::Launch, start));
        start + time.total
    } else if let Some(shape) = &measure.recurrence {
        let time = recurrence::seconds(shape, target.precision.storage, machine, losses, (rate, start));
        resources.push((Resource::Matrix, time));
        time
    } else if let Some(product) = &measure.product {
        let tile = step.tile.unwrap_or(Tile { m: 128, n: 128, k: 32 });
        let tiling = Tiling::new(product, tile, measure.depth_parts, machine, measure.dtype);
        let time = tiling.time((measure.total_read(), traffic.device_read), machine, losses, rate);
        let store = traffic.device_written / bandwidth + traffic.cached_written / l2;
        idle_slots = 1.0 - product.macs() / (tiling.sm_macs * machine.sms as f64).max(1.0);
        resources.extend([
            (Resource::Matrix, time.matrix),
            (Resource::Local, time.shared),
            (Resource::L2, time.l2),
            (Resource::DeviceMemory, time.load + traffic.device_written / bandwidth),
            (Resource::Launch, start + time.fill.max(time.latency)),
        ]);
        let mut beside = 0.0;
        if let Some(node) = convolution {
            beside += relayout(measure, losses, (bandwidth, launch));
            if eager && node.op == Op::Conv && node.inputs.get(2).is_some_and(Option::is_some) {
                // The bias is added by a kernel of its own.
                beside += 2.0 * measure.written_bytes / bandwidth + launch;
            }
        }
        if is_narrow(target) && eager {
            beside += narrowing(measure, (bandwidth, start));
        }
        start + time.together(&[vector, special]) + store + beside
    } else {
        // How the step is cut is not known: its products are spread evenly.
        let spread = macs * losses.matrix_fraction * machine.clock_hz * machine.sms as f64;
        let device = (traffic.device_read + traffic.device_written) / bandwidth;
        resources.extend([
            (Resource::Matrix, measure.macs / spread),
            (Resource::DeviceMemory, device),
            (Resource::L2, traffic.all() / l2),
        ]);
        let work = overlapped(resources.iter().map(|(_, seconds)| *seconds));
        resources.push((Resource::Launch, kernels * launch));
        kernels * (launch + work)
    };
    let resources: Vec<_> =
        resources.into_iter().map(|(r, seconds)| (r, Picoseconds::from_seconds(seconds))).collect();
    // Optimizers of software that fuses update many tensors by one kernel.
    let issued = !graph && (eager || step.phase != Phase::Update);
    let issue =
        if issued { Picoseconds::from_seconds(losses.host_seconds_per_kernel) } else { Picoseconds::ZERO };
    let (bound, _) = slowest(&resources);
    StepCost {
        time: Picoseconds::from_seconds(seconds),
        issue,
        resources,
        bound,
        idle_slots,
        ..StepCost::default()
    }
}

/// Elements of a row over which a step's first op, a softmax or a normalisation, takes sums; none for other ops, and where
/// it is open.
fn row_of(step: &Step, node: &Node) -> Option<f64> {
    let axis = match node.op {
        Op::Softmax | Op::LogSoftmax | Op::LayerNormalization | Op::RMSNormalization => {
            node.attrs.int_or("axis", -1)
        }
        _ => return None,
    };
    let shape = step.body.values[(*node.inputs.first()?)?].ty.as_tensor()?.shape.as_ref()?;
    let axis = if axis < 0 { shape.len().checked_add_signed(axis as isize)? } else { axis as usize };
    let last = if node.op == Op::Softmax || node.op == Op::LogSoftmax { axis + 1 } else { shape.len() };
    let extents = shape.get(axis..last)?.iter().map(|dim| dim.known().map(|n| n as f64));
    extents.product()
}

/// Elements of the longest row that a kernel keeps on its SM.
fn longest_row(op: Op, machine: &KernelMachine, target: &Target<'_>) -> f64 {
    let registers = machine.register_bytes as f64 * ROW_REGISTERS / 4.0;
    let eager = target.stack.is_some_and(|stack| !stack.fuses);
    if eager && matches!(op, Op::Softmax | Op::LogSoftmax) {
        EAGER_SOFTMAX_ROW.min(registers)
    } else {
        registers
    }
}

/// True for steps over numbers of channels: sums, means and what follows from them, of one dimension, or two such side by
/// side. What changes weights is not among them.
fn is_of_channels(step: &Step) -> bool {
    let (values, nodes) = (&step.body.values, &step.body.nodes);
    let pairs = nodes.values().all(|node| matches!(node.op, Op::Gather | Op::GatherGrad));
    let few = |dim: &Dim| dim.known().is_some_and(|extent| extent <= MOST_CHANNELS);
    let is_small = |shape: &[Dim]| match shape {
        [] => true,
        [channels] => few(channels),
        [two, channels] => pairs && two.known() == Some(2) && few(channels),
        _ => false,
    };
    let operands = step.body.inputs.iter().chain(&step.body.outputs);
    step.phase != Phase::Update
        && operands.filter_map(|id| values[*id].ty.as_tensor()?.shape.as_deref()).all(is_small)
}

/// True where products are made in eight bits of floats: what stacks keep in sixteen bits between them.
fn is_narrow(target: &Target<'_>) -> bool {
    DType::parse(&target.precision.multiply).is_some_and(|dtype| dtype.is_float() && dtype.bits() == 8)
}

/// Seconds of bringing operands that are no weights from sixteen bits to eight, in a kernel of its own: where nothing is
/// fused into the kernel that makes them.
fn narrowing(measure: &Measure, (bandwidth, start): (f64, f64)) -> f64 {
    let width = measure.dtype.bits() as f64 / 8.0;
    let made = measure.read_bytes.iter().filter(|(class, _)| *class != BufferClass::Parameter);
    start + 3.0 * made.map(|(_, bytes)| bytes / width).sum::<f64>() / bandwidth
}

/// Seconds of bringing a convolution's input and result from the layout of the software, channels first, to the one of
/// the matrix unit and back, where the software does.
fn relayout(measure: &Measure, losses: &KernelLosses, (bandwidth, launch): (f64, f64)) -> f64 {
    let Some(times) = losses.convolution_relayouts else { return 0.0 };
    let read = measure.read_bytes.iter().filter(|(class, _)| *class != BufferClass::Parameter);
    let bytes = read.map(|(_, bytes)| bytes).sum::<f64>() + measure.written_bytes;
    times * (2.0 * bytes / bandwidth + 2.0 * launch)
}

/// Bytes of a step: those through device memory, and those that L2 still holds of the kernel before.
struct Traffic {
    device_read: f64,
    device_written: f64,
    cached_read: f64,
    cached_written: f64,
}

impl Traffic {
    fn of(measure: &Measure, machine: &KernelMachine) -> Self {
        let total = measure.total_read() + measure.written_bytes;
        let kept = machine.l2_bytes as f64 * L2_KEPT;
        let made_here = |class| matches!(class, BufferClass::Scratch | BufferClass::Accumulator);
        let mut traffic =
            Self { device_read: 0.0, device_written: 0.0, cached_read: 0.0, cached_written: 0.0 };
        for (class, bytes) in &measure.read_bytes {
            if made_here(*class) && total <= kept {
                traffic.cached_read += bytes;
            } else {
                traffic.device_read += bytes;
            }
        }
        if measure.written_bytes <= kept && total <= kept {
            traffic.cached_written += measure.written_bytes;
        } else {
            traffic.device_written += measure.written_bytes;
        }
        traffic
    }
    fn all(&self) -> f64 {
        self.device_read + self.device_written + self.cached_read + self.cached_written
    }
}
