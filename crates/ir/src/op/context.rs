//! What type rules, work counts and meanings are given.

use crate::{Attrs, Dim, Graph, Node, TensorType, Type};
use orrery_numerics::{Accumulation, DType, Tensor};

use super::Work;

/// What is known of a value before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its type.
    pub ty: Type,
    /// The elements of a small integer tensor of rank 0 or 1, as formulas: shapes that are computed in the graph.
    pub content: Option<Vec<Dim>>,
    /// The elements, where it is a constant at hand.
    pub tensor: Option<Tensor>,
}

impl Fact {
    /// Only a type.
    pub fn of(ty: Type) -> Self {
        Self { ty, content: None, tensor: None }
    }
    /// A tensor of a shape.
    pub fn tensor(dtype: DType, shape: Vec<Dim>) -> Self {
        Self::of(Type::Tensor(TensorType { dtype, shape: Some(shape) }))
    }
    /// A tensor of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        Self::of(Type::Tensor(TensorType::unranked(dtype)))
    }
    /// With content.
    #[must_use]
    pub fn with_content(mut self, content: Option<Vec<Dim>>) -> Self {
        self.content = content;
        self
    }
    /// A constant: type, and content where it is a small integer tensor.
    pub fn constant(tensor: &Tensor) -> Self {
        let content = (tensor.rank() <= 1 && tensor.len() <= 64)
            .then(|| match tensor.dtype() {
                DType::I64 => Some(tensor.raw::<i64>().iter().map(|&v| Dim::Known(v)).collect()),
                DType::I32 => Some(tensor.raw::<i32>().iter().map(|&v| Dim::Known(v.into())).collect()),
                _ => None,
            })
            .flatten();
        Self {
            ty: Type::tensor(tensor.dtype(), tensor.shape().iter().copied()),
            content,
            tensor: Some(tensor.clone()),
        }
    }
}

/// A node with what is known of its operands.
pub struct Ctx<'a> {
    /// The node.
    pub node: &'a Node,
    /// Facts of inputs by position; none where left out.
    pub inputs: &'a [Option<Fact>],
    /// Types of outputs by position, for work and space; empty while they are being inferred.
    pub outputs: &'a [Option<Type>],
    /// Names of outputs by position: what an extent that only running can tell is named after.
    pub output_names: &'a [String],
    /// Infers a body for given input facts and returns its output facts; a failure is worded as in the user's terms.
    pub infer_body: &'a dyn Fn(&Graph, &[Fact]) -> Result<Vec<Fact>, String>,
}

impl Ctx<'_> {
    /// Attributes.
    pub fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }
    /// Number of inputs by position, left-out ones counted.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }
    /// Number of outputs by position, unwanted ones counted.
    pub fn output_count(&self) -> usize {
        self.node.outputs.len()
    }
    /// True where input `i` is given.
    pub fn has(&self, i: usize) -> bool {
        self.fact(i).is_some()
    }
    /// What is known of input `i`.
    pub fn fact(&self, i: usize) -> Option<&Fact> {
        self.inputs.get(i).and_then(Option::as_ref)
    }
    /// Tensor type of input `i`.
    ///
    /// # Errors
    /// Where it is left out or no tensor.
    pub fn tensor_type(&self, i: usize) -> Result<&TensorType, String> {
        match self.fact(i).map(|f| &f.ty) {
            Some(Type::Tensor(t)) => Ok(t),
            Some(other) => Err(format!("input {i} must be a tensor, is {other}")),
            None => Err(format!("input {i} is missing")),
        }
    }
    /// Element type of input `i`.
    ///
    /// # Errors
    /// As [`Ctx::tensor_type`].
    pub fn dtype(&self, i: usize) -> Result<DType, String> {
        self.tensor_type(i).map(|t| t.dtype)
    }
    /// Shape of input `i`, where given and of known rank.
    pub fn shape(&self, i: usize) -> Option<Vec<Dim>> {
        self.fact(i)?.ty.as_tensor()?.shape.clone()
    }
    /// Rank of input `i`, where known.
    pub fn rank(&self, i: usize) -> Option<usize> {
        self.shape(i).map(|s| s.len())
    }
    /// Elements of small integer input `i` as formulas.
    pub fn content(&self, i: usize) -> Option<&[Dim]> {
        self.fact(i)?.content.as_deref()
    }
    /// Elements of small integer input `i` as numbers.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.content(i)?.iter().map(Dim::known).collect()
    }
    /// The constant at input `i`.
    pub fn constant(&self, i: usize) -> Option<&Tensor> {
        self.fact(i)?.tensor.as_ref()
    }
    /// Shape of output `i`, for work and space.
    pub fn output_shape(&self, i: usize) -> Option<Vec<Dim>> {
        self.outputs.get(i)?.as_ref()?.as_tensor()?.shape.clone()
    }
    /// Elements of output `i`; zero where unknown.
    pub fn output_elements(&self, i: usize) -> Dim {
        self.output_shape(i).map_or(Dim::Known(0), |s| s.into_iter().product())
    }
    /// Elements of input `i`; zero where unknown.
    pub fn input_elements(&self, i: usize) -> Dim {
        self.shape(i).map_or(Dim::Known(0), |s| s.into_iter().product())
    }
    /// A new symbol for an extent of output `output` that only running can tell.
    pub fn unknown_dim(&self, output: usize, dim: usize) -> Dim {
        let name = self.output_names.get(output).map_or("?", String::as_str);
        Dim::symbol(&format!("{name}.dim{dim}"))
    }
    /// All the inputs' first shape rule: `axis` counted from the end where negative.
    ///
    /// # Errors
    /// Where it is out of range.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, String> {
        normalize_axis(axis, rank)
    }
}

/// `axis` counted from the end where negative.
///
/// # Errors
/// Where it is out of range.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize, String> {
    let r = rank as i64;
    let at = if axis < 0 { axis.saturating_add(r) } else { axis };
    if (0..r.max(1)).contains(&at) {
        Ok(at as usize)
    } else {
        Err(format!("axis {axis} is out of range for rank {rank}"))
    }
}

/// Shape after broadcasting; extents that may or may not be equal are taken as equal.
///
/// # Errors
/// Where two known extents differ and neither is one.
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, String> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::Known(1); rank];
    for shape in shapes {
        let lead = rank - shape.len();
        for (d, extent) in shape.iter().enumerate() {
            let have = &mut out[lead + d];
            match (have.known(), extent.known()) {
                (_, Some(1)) => {}
                (Some(1), _) => *have = extent.clone(),
                (Some(a), Some(b)) if a != b => return Err(format!("cannot broadcast extent {a} with {b}")),
                // A known extent is the better knowledge: the symbol can only equal it, or be one.
                (None, Some(_)) => *have = extent.clone(),
                _ => {}
            }
        }
    }
    Ok(out)
}

/// Type rule: all outputs are as the first input.
///
/// # Errors
/// Where there is no first input.
pub fn same_as_first(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let ty = ctx.fact(0).ok_or("input 0 is missing")?.ty.clone();
    Ok(vec![Fact::of(ty); ctx.output_count()])
}
/// No work.
pub fn no_work(_: &Ctx<'_>) -> Work {
    Work::NONE
}
/// An op whose meaning is not defined here.
///
/// # Errors
/// Always.
pub fn not_defined(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    Err(format!("{} cannot be evaluated", ctx.node.op))
}

/// A value while running.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// A tensor.
    Tensor(Tensor),
    /// A list.
    Sequence(Vec<Datum>),
    /// A value or nothing.
    Optional(Option<Box<Datum>>),
}

impl From<Tensor> for Datum {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}
impl Datum {
    /// The tensor, where it is one; an optional that holds one counts.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            Self::Optional(Some(inner)) => inner.as_tensor(),
            _ => None,
        }
    }
}

/// A node with the values of its inputs.
pub struct EvalCtx<'a> {
    /// The node.
    pub node: &'a Node,
    /// Values of inputs by position; none where left out.
    pub inputs: &'a [Option<Datum>],
    /// Seed of this run, for random ops.
    pub seed: u64,
    /// How products are added up, where not as the node says: a machine's way.
    pub accumulation: Option<Accumulation>,
    /// Runs a body.
    pub run_body: &'a dyn Fn(&Graph, Vec<Datum>) -> Result<Vec<Datum>, String>,
}

impl EvalCtx<'_> {
    /// Attributes.
    pub fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }
    /// How products of elements of a type are added up; none where as floats of that type are anyway.
    ///
    /// # Errors
    /// Where the node names no number format.
    pub fn accumulation(&self, dtype: DType) -> Result<Option<Accumulation>, String> {
        match self.accumulation {
            Some(how) => Ok(Some(how)),
            None => super::matrix::kernel::accumulation(self.attrs(), dtype),
        }
    }
    /// True where input `i` is given.
    pub fn has(&self, i: usize) -> bool {
        matches!(self.inputs.get(i), Some(Some(_)))
    }
    /// Input `i` as a tensor.
    ///
    /// # Errors
    /// Where it is left out or no tensor.
    pub fn tensor(&self, i: usize) -> Result<&Tensor, String> {
        self.optional(i)?.ok_or_else(|| format!("input {i} is missing"))
    }
    /// Input `i` as a tensor, where given.
    ///
    /// # Errors
    /// Where it is given and no tensor.
    pub fn optional(&self, i: usize) -> Result<Option<&Tensor>, String> {
        match self.inputs.get(i) {
            Some(Some(datum)) => {
                datum.as_tensor().map(Some).ok_or_else(|| format!("input {i} must be a tensor"))
            }
            _ => Ok(None),
        }
    }
    /// Elements of integer input `i`.
    ///
    /// # Errors
    /// Where it is missing or of another type.
    pub fn ints(&self, i: usize) -> Result<Vec<i64>, String> {
        let tensor = self.tensor(i)?;
        match tensor.dtype() {
            DType::I64 => Ok(tensor.raw::<i64>().into_owned()),
            DType::I32 => Ok(tensor.raw::<i32>().iter().map(|&v| v.into()).collect()),
            other => Err(format!("input {i} must hold integers, is {other}")),
        }
    }
    /// Number of outputs by position, unwanted ones counted.
    pub fn output_count(&self) -> usize {
        self.node.outputs.len()
    }
    /// True where output `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        matches!(self.node.outputs.get(i), Some(Some(_)))
    }
}
