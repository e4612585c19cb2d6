//! A step in numbers: what the cost formulas start from.

use orrery_base::Result;
use orrery_ir::op::{AxisKind, Engine};
use orrery_ir::{Bindings, Dim};
use orrery_numerics::DType;
use orrery_program::memory::unbound;
use orrery_program::{BoundCut, BoundGrid, BufferClass, Program, Step, access_range};

/// A product of matrices: `batch` times `rows x depth` by `depth x columns`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Independent products.
    pub batch: f64,
    /// Rows.
    pub rows: f64,
    /// Columns: output channels.
    pub columns: f64,
    /// Length of the sums, kernel positions not counted.
    pub depth: f64,
    /// Kernel positions of a convolution; each is a sum over `depth` of its own.
    pub positions: f64,
}

impl Product {
    /// Multiply-accumulates.
    pub fn macs(&self) -> f64 {
        self.batch * self.rows * self.columns * self.depth * self.positions
    }
}

/// A step in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// The whole step as a product, where its first op is one and it is known how it is cut.
    pub product: Option<Product>,
    /// The largest part as a product.
    pub part: Option<Product>,
    /// Parts in all, empty ones counted.
    pub parts: f64,
    /// Parts along axes that are summed over.
    pub depth_parts: f64,
    /// Multiply-accumulates of the whole step.
    pub macs: f64,
    /// Simple vector operations of the whole step.
    pub vector: f64,
    /// Special functions of the whole step.
    pub special: f64,
    /// Bytes read, by class of buffer.
    pub read_bytes: Vec<(BufferClass, f64)>,
    /// Bytes written.
    pub written_bytes: f64,
    /// Bytes that the largest part reads.
    pub part_read_bytes: f64,
    /// Bytes that the largest part writes.
    pub part_written_bytes: f64,
    /// Largest block of a source and of a destination, for exchanges: what one core sends and receives at most.
    pub block_out_bytes: f64,
    /// See `block_out_bytes`.
    pub block_in_bytes: f64,
    /// Widest type that takes part.
    pub dtype: DType,
}

/// The role of an axis in a product of matrices, by the name its op gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Independent products.
    Batch,
    /// Rows.
    Row,
    /// Columns.
    Column,
    /// Summed over.
    Depth,
}

/// The role of an axis.
pub fn role(name: &str, kind: Option<AxisKind>) -> Role {
    match name {
        _ if matches!(kind, Some(AxisKind::Reduce(_))) => Role::Depth,
        "k" | "in_channel" | "split" => Role::Depth,
        "n" | "out_channel" => Role::Column,
        "batch" | "group" | "head" | "kv_head" => Role::Batch,
        _ => Role::Row,
    }
}

impl Measure {
    /// Measures a step.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn of(program: &Program, step: &Step, bindings: &Bindings) -> Result<Self> {
        let number = |dim: &Dim| dim.eval(bindings).map(|n| n as f64).map_err(|s| Box::new(unbound(&s)));
        let grid = BoundGrid::new(step.base, &step.grid, bindings).map_err(|s| unbound(&s))?;
        let first = vec![0; grid.cuts.len()];
        let largest = grid.box_at(&first);
        let macs = number(&step.work.macs)?;
        let matrix = step.body.nodes.values().next().is_some_and(|n| n.op.def().engine == Engine::Matrix);
        let names: Vec<&str> = step.grid.iter().map(|c| c.name.as_str()).collect();
        // A convolution over images: the batch is rows too, since one kernel serves all images.
        let convolution = names.contains(&"out_channel") || names.contains(&"group");
        let role_of = |name: &str| match role(name, None) {
            Role::Batch if convolution && name == "batch" => Role::Row,
            other => other,
        };
        let product_of = |size: &dyn Fn(&BoundCut) -> f64| {
            let along = |wanted: Role| -> f64 {
                names
                    .iter()
                    .zip(&grid.cuts)
                    .filter(|(n, _)| role_of(n) == wanted)
                    .map(|(_, c)| size(c))
                    .product()
            };
            Product {
                batch: along(Role::Batch),
                rows: along(Role::Row),
                columns: along(Role::Column),
                depth: along(Role::Depth),
                positions: 1.0,
            }
        };
        let (mut product, mut part) = (None, None);
        if matrix && macs > 0.0 && !step.approximate {
            let mut whole = product_of(&|c| c.extent as f64);
            let mut piece = product_of(&|c| c.range(0).len() as f64);
            // What the axes do not account for is summed over within a part: kernel positions, a depth that is not cut.
            let rest = if whole.macs() > 0.0 { macs / whole.macs() } else { 0.0 };
            let has_depth = names.iter().any(|n| role_of(n) == Role::Depth);
            for p in [&mut whole, &mut piece] {
                if has_depth { p.positions = rest } else { p.depth = rest }
            }
            (product, part) = (Some(whole), Some(piece));
        }
        let mut read_bytes: Vec<(BufferClass, f64)> = Vec::new();
        let moves = step.body.nodes.values().next().is_some_and(|n| n.op.def().engine == Engine::Movement);
        let mut measure = Self {
            product,
            part,
            parts: grid.parts() as f64,
            depth_parts: names
                .iter()
                .zip(&grid.cuts)
                .filter(|(n, _)| role_of(n) == Role::Depth)
                .map(|(_, c)| c.parts as f64)
                .product(),
            macs,
            vector: number(&step.work.vector)?,
            special: number(&step.work.special)?,
            read_bytes: Vec::new(),
            written_bytes: 0.0,
            part_read_bytes: 0.0,
            part_written_bytes: 0.0,
            block_out_bytes: 0.0,
            block_in_bytes: 0.0,
            dtype: DType::Bool,
        };
        for read in &step.reads {
            let buffer = &program.buffers[read.buffer];
            let bytes = number(&buffer.elements())? * buffer.dtype.bits() as f64 / 8.0;
            let class = program.buffers[program.storage(read.buffer)].class;
            read_bytes.push((class, bytes));
            measure.part_read_bytes += part_bytes(buffer, &read.access, &largest, bindings)?;
            measure.block_out_bytes += program.block_bytes(read.buffer, bindings)? as f64;
            widen(&mut measure.dtype, buffer.dtype);
        }
        for write in &step.writes {
            let buffer = &program.buffers[write.buffer];
            measure.written_bytes += number(&buffer.elements())? * buffer.dtype.bits() as f64 / 8.0;
            measure.part_written_bytes += part_bytes(buffer, &write.access, &largest, bindings)?;
            measure.block_in_bytes += program.block_bytes(write.buffer, bindings)? as f64;
            widen(&mut measure.dtype, buffer.dtype);
        }
        // What a slice or a gather leaves out is not read.
        let total: f64 = read_bytes.iter().map(|(_, bytes)| bytes).sum();
        if moves && total > measure.written_bytes {
            read_bytes.iter_mut().for_each(|(_, bytes)| *bytes *= measure.written_bytes / total);
        }
        measure.read_bytes = read_bytes;
        Ok(measure)
    }
    /// Bytes read in all.
    pub fn total_read(&self) -> f64 {
        self.read_bytes.iter().map(|(_, b)| b).sum()
    }
}

fn widen(have: &mut DType, other: DType) {
    if other.bits() > have.bits() && other.is_float() || !have.is_float() && other.bits() >= have.bits() {
        *have = other;
    }
}

fn part_bytes(
    buffer: &orrery_program::Buffer,
    access: &[orrery_ir::op::Access],
    largest: &[orrery_program::Range],
    bindings: &Bindings,
) -> Result<f64> {
    let mut elements = 1.0;
    for (dim, access) in buffer.shape.iter().zip(access) {
        let extent = dim.eval(bindings).map_err(|s| unbound(&s))?;
        elements *= access_range(access, largest, extent, bindings).map_err(|s| unbound(&s))?.len() as f64;
    }
    Ok(elements * buffer.dtype.bits() as f64 / 8.0)
}
