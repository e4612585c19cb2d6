//! Small programs applied number by number: chains of elementwise ops run in one pass over memory.
//!
//! A [`Program`] is a list of instructions over whole tiles that stay in the first cache; [`Bound`] gives it operands, some of
//! them repeated by broadcasting. The same program runs over a tensor ([`Bound::run`]) or over the part of a matrix product
//! that was just computed ([`Bound::apply`]).

use super::buffer::Buffer;
use super::simd::{Kernel, Simd, dispatch};
use super::threads::{Block, Threads};
use super::tiles::{Tile, execute};
use std::cell::RefCell;

/// Numbers in a tile.
const TILE: usize = 1024;
/// Numbers in a piece of work.
const PIECE: usize = 16 * TILE;

/// What an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// Result of an earlier instruction.
    Step(usize),
    /// Input of the program.
    Input(usize),
    /// A number.
    Number(f32),
}

/// A function of one number.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// `x` itself.
    Copy,
    /// Magnitude.
    Abs,
    /// Square root.
    Sqrt,
    /// Nearest whole number, ties to even.
    Round,
    /// [`math::exp`].
    Exp,
    /// [`math::sigmoid`].
    Sigmoid,
    /// [`math::tanh`].
    Tanh,
    /// [`math::erf`].
    Erf,
    /// [`math::gelu`].
    Gelu,
    /// [`math::gelu_tanh`].
    GeluTanh,
    /// `x * sigmoid(alpha x)`.
    Swish(f32),
    /// `x * clamp(x / 6 + 1 / 2, 0, 1)`.
    HardSwish,
    /// Any other, one number at a time.
    Scalar(fn(f32) -> f32),
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The smaller; NaN where either is.
    Min,
    /// The larger; NaN where either is.
    Max,
    /// `a` to the power of `b`.
    Pow,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub enum Instruction {
    /// `clamp(x * scale + shift, least, largest)`
    Line {
        /// Operand.
        x: Source,
        /// Factor.
        scale: f32,
        /// Added.
        shift: f32,
        /// Lower bound; minus infinity for none.
        least: f32,
        /// Upper bound; infinity for none.
        largest: f32,
    },
    /// A function of one operand.
    Unary(Function, Source),
    /// A function of two operands.
    Binary(Binary, Source, Source),
    /// `a * b + c`
    MulAdd(Source, Source, Source),
    /// The third where the first is less than the second, else the fourth.
    SelectLess([Source; 4]),
}

/// Instructions in order; the last one's result is the program's.
#[derive(Clone, Debug, Default)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// Appends an instruction and returns where its result is; joins it to the one before where both are lines.
    pub fn push(&mut self, instruction: Instruction) -> Source {
        self.instructions.push(instruction);
        Source::Step(self.instructions.len() - 1)
    }
    /// Appends `clamp(x * scale + shift, least, largest)`.
    pub fn line(&mut self, x: Source, scale: f32, shift: f32, least: f32, largest: f32) -> Source {
        self.push(Instruction::Line { x, scale, shift, least, largest })
    }
    /// True where there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }
    /// The instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
    /// Where the program does no more than add inputs to input 0 and clamp: which input, if any, and the bounds, if any.
    pub fn as_sum_and_clamp(&self) -> Option<(Option<usize>, Option<(f32, f32)>)> {
        let sum = |instruction: &Instruction| match *instruction {
            Instruction::Binary(Binary::Add, Source::Input(0), Source::Input(i))
            | Instruction::Binary(Binary::Add, Source::Input(i), Source::Input(0)) => (i != 0).then_some(i),
            _ => None,
        };
        let clamp = |instruction: &Instruction, of: Source| match *instruction {
            Instruction::Line { x, scale: 1.0, shift: 0.0, least, largest } => {
                (x == of).then_some((least, largest))
            }
            _ => None,
        };
        match self.instructions.as_slice() {
            [] => Some((None, None)),
            [one] => match clamp(one, Source::Input(0)) {
                Some(bounds) => Some((None, Some(bounds))),
                None => sum(one).map(|i| (Some(i), None)),
            },
            [first, second] => Some((Some(sum(first)?), Some(clamp(second, Source::Step(0))?))),
            _ => None,
        }
    }
    /// Where the program first adds another input to input 0, which nothing else reads: that input, and the rest, whose
    /// input 0 is the sum.
    pub fn split_first_sum(&self) -> Option<(usize, Self)> {
        let (first, rest) = self.instructions.split_first()?;
        let (Instruction::Binary(Binary::Add, Source::Input(0), Source::Input(i))
        | Instruction::Binary(Binary::Add, Source::Input(i), Source::Input(0))) = *first
        else {
            return None;
        };
        let mut read_again = i == 0;
        let rest = rest.iter().map(|instruction| {
            instruction.map_sources(|source| match source {
                Source::Step(0) => Source::Input(0),
                Source::Step(i) => Source::Step(i - 1),
                other => {
                    read_again |= other == Source::Input(0);
                    other
                }
            })
        });
        let instructions = rest.collect();
        (!read_again).then_some((i, Self { instructions }))
    }
    /// Joins neighbouring instructions: a line over a line that nothing else reads becomes one where no bound is between.
    #[must_use]
    pub fn simplified(&self) -> Self {
        let mut uses = vec![0_u32; self.instructions.len()];
        for instruction in &self.instructions {
            instruction.for_each_source(|source| {
                if let Source::Step(i) = source {
                    uses[i] += 1;
                }
            });
        }
        let mut out = Self::default();
        let mut moved: Vec<Source> = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            let mapped = instruction.map_sources(|source| match source {
                Source::Step(i) => moved[i],
                other => other,
            });
            if let (
                Instruction::Line { x: Source::Step(before), .. },
                Instruction::Line { x: Source::Step(at), .. },
            ) = (instruction, &mapped)
                && uses[*before] == 1
                && let Some(joined) = join(&out.instructions[*at], &mapped)
            {
                out.instructions[*at] = joined;
                moved.push(Source::Step(*at));
                continue;
            }
            moved.push(out.push(mapped));
        }
        out
    }
}

/// `second` after `first` as one line, where that is one.
fn join(first: &Instruction, second: &Instruction) -> Option<Instruction> {
    let (
        Instruction::Line { x, scale, shift, least, largest },
        Instruction::Line { scale: scale2, shift: shift2, least: least2, largest: largest2, .. },
    ) = (*first, *second)
    else {
        return None;
    };
    if least == f32::NEG_INFINITY && largest == f32::INFINITY {
        // Only where one of both does nothing but shift or scale: then each number is rounded as often as before or less.
        let exact = shift == 0.0 || scale2 == 1.0;
        exact.then_some(Instruction::Line {
            x,
            scale: scale * scale2,
            shift: if shift == 0.0 { shift2 } else { shift + shift2 },
            least: least2,
            largest: largest2,
        })
    } else if scale2 == 1.0 && shift2 == 0.0 {
        (least2 <= largest2 && least <= largest).then_some(Instruction::Line {
            x,
            scale,
            shift,
            least: least.max(least2).min(largest2),
            largest: largest.min(largest2).max(least2),
        })
    } else {
        None
    }
}

impl Instruction {
    /// Shows each operand.
    pub fn for_each_source(&self, mut f: impl FnMut(Source)) {
        let _same = self.map_sources(|source| {
            f(source);
            source
        });
    }
    /// The same with other operands.
    #[must_use]
    pub fn map_sources(&self, mut f: impl FnMut(Source) -> Source) -> Self {
        match *self {
            Self::Line { x, scale, shift, least, largest } => {
                Self::Line { x: f(x), scale, shift, least, largest }
            }
            Self::Unary(function, x) => Self::Unary(function, f(x)),
            Self::Binary(function, a, b) => Self::Binary(function, f(a), f(b)),
            Self::MulAdd(a, b, c) => Self::MulAdd(f(a), f(b), f(c)),
            Self::SelectLess(sources) => Self::SelectLess(sources.map(f)),
        }
    }
}

/// An operand as it is laid out against the result.
#[derive(Clone, Debug)]
pub enum Operand<'a> {
    /// As the result, number for number.
    Full(&'a [f32]),
    /// One number for all.
    Number(f32),
    /// What the memory holds already where the result goes: `apply` only.
    InPlace,
    /// Broadcast: extent and step of each dimension of the result, outermost first; step 0 repeats.
    Strided(&'a [f32], Vec<(usize, usize)>),
}

impl<'a> Operand<'a> {
    /// An operand with extent and step of each dimension of the result, outermost first; step 0 repeats.
    pub fn strided(data: &'a [f32], dims: &[(usize, usize)]) -> Self {
        if data.len() == 1 {
            return Self::Number(data[0]);
        }
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(dims.len());
        for &(extent, step) in dims.iter().filter(|d| d.0 != 1) {
            match joined.last_mut() {
                // Two neighbours that step as one, or both repeat, are one dimension.
                Some((outer, outer_step)) if *outer_step == step * extent => {
                    *outer *= extent;
                    *outer_step = step;
                }
                _ => joined.push((extent, step)),
            }
        }
        match joined.as_slice() {
            [(_, 1)] | [] => Self::Full(data),
            _ => Self::Strided(data, joined),
        }
    }
    /// Length of what repeats all over, where that is short.
    fn period(&self) -> Option<usize> {
        match self {
            Self::Strided(_, dims) => match dims.as_slice() {
                [(_, 0), (extent, 1)] if *extent <= TILE => Some(*extent),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Writes numbers `from..from + to.len()` of a strided operand.
fn expand(data: &[f32], dims: &[(usize, usize)], from: usize, to: &mut [f32]) {
    let Some((&(extent, step), outer)) = dims.split_last() else { return to.fill(data[0]) };
    let mut row = from / extent;
    let mut column = from % extent;
    let mut done = 0;
    while done < to.len() {
        let mut base = 0;
        let mut rest = row;
        for &(extent, step) in outer.iter().rev() {
            base += rest % extent * step;
            rest /= extent;
        }
        let count = (extent - column).min(to.len() - done);
        let part = &mut to[done..done + count];
        match step {
            0 => part.fill(data[base]),
            1 => part.copy_from_slice(&data[base + column..][..count]),
            _ => {
                for (i, x) in part.iter_mut().enumerate() {
                    *x = data[base + (column + i) * step];
                }
            }
        }
        done += count;
        column = 0;
        row += 1;
    }
}

/// A program with its operands.
pub struct Bound<'a> {
    program: &'a Program,
    operands: Vec<Operand<'a>>,
    /// For each operand with a short period: enough repetitions to start anywhere in it and go on for a tile.
    repeated: Vec<Option<(usize, Vec<f32>)>>,
}

impl<'a> Bound<'a> {
    /// Binds the program's inputs in order.
    pub fn new(program: &'a Program, operands: Vec<Operand<'a>>) -> Self {
        let repeated = operands
            .iter()
            .map(|operand| {
                let period = operand.period()?;
                let Operand::Strided(data, _) = operand else { return None };
                Some((period, data.iter().copied().cycle().take(period + TILE).collect()))
            })
            .collect();
        Self { program, operands, repeated }
    }
    /// Computes all of `out`, on all threads.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        threads.chunks(out, PIECE, |i, piece| self.apply(i * PIECE, piece));
    }
    /// Computes numbers `from..from + out.len()` of the result into `out`.
    pub fn apply(&self, from: usize, out: &mut [f32]) {
        let columns = out.len().max(1);
        if !out.is_empty() {
            self.apply_rows(from, columns, &mut Block::of(out, columns));
        }
    }
    /// Computes a block of the result, whose rows are `columns` long.
    pub fn apply_block(&self, columns: usize, row: usize, column: usize, block: &mut Block<'_>) {
        match block.contiguous() {
            Some(all) => self.apply(row * columns + column, all),
            None => self.apply_rows(row * columns + column, columns, block),
        }
    }
    fn apply_rows(&self, from: usize, columns: usize, block: &mut Block<'_>) {
        thread_local!(static SCRATCH: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) });
        SCRATCH.with_borrow_mut(|scratch| dispatch(Apply { bound: self, from, columns, block, scratch }));
    }
}

struct Apply<'a, 'b, 'c> {
    bound: &'b Bound<'a>,
    /// Number of the result at the block's start, and from a row of the block to the next.
    from: usize,
    columns: usize,
    block: &'b mut Block<'c>,
    scratch: &'b mut Vec<Buffer>,
}

impl Kernel for Apply<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { bound, from, columns, block, scratch } = self;
        // One tile for each operand that has to be expanded, one for each step but the last.
        let count = bound.operands.len() + bound.program.instructions.len();
        if scratch.len() < count {
            scratch.resize_with(count, || Buffer::zeros(TILE));
        }
        for i in 0..block.rows() {
            apply_row(s, bound, from + i * columns, block.row(i), scratch);
        }
    }
}

#[inline(always)]
fn apply_row<S: Simd>(s: S, bound: &Bound<'_>, from: usize, out: &mut [f32], tiles: &mut [Buffer]) {
    let operands = bound.operands.len();
    let Some((last, first)) = bound.program.instructions.split_last() else { return };
    for (t, out) in out.chunks_mut(TILE).enumerate() {
        let (at, len) = (from + t * TILE, out.len());
        for (i, operand) in bound.operands.iter().enumerate() {
            if let (Operand::Strided(data, dims), None) = (operand, &bound.repeated[i]) {
                expand(data, dims, at, &mut tiles[i][..len]);
            }
        }
        for (step, instruction) in first.iter().enumerate() {
            let mut own = std::mem::take(&mut tiles[operands + step]);
            let view = View { bound, tiles, in_place: Some(out), at, len };
            execute(
                s,
                instruction,
                #[inline(always)]
                |source| view.source(source),
                &mut own[..len],
            );
            tiles[operands + step] = own;
        }
        let view = View { bound, tiles, in_place: None, at, len };
        execute(
            s,
            last,
            #[inline(always)]
            |source| view.source(source),
            out,
        );
    }
}

/// What instructions read while they work on one tile.
#[derive(Clone, Copy)]
struct View<'a> {
    bound: &'a Bound<'a>,
    /// Expanded operands, then results of steps.
    tiles: &'a [Buffer],
    /// What is where the result goes; none for the last instruction, which writes there.
    in_place: Option<&'a [f32]>,
    at: usize,
    len: usize,
}
impl<'a> View<'a> {
    #[inline(always)]
    fn source(&self, source: Source) -> Tile<'a> {
        let Self { bound, tiles, in_place, at, len } = *self;
        match source {
            Source::Number(x) => Tile::Number(x),
            Source::Step(i) => Tile::Slice(&tiles[bound.operands.len() + i][..len]),
            Source::Input(i) => match (&bound.operands[i], &bound.repeated[i]) {
                (Operand::Number(x), _) => Tile::Number(*x),
                (Operand::Full(data), _) => Tile::Slice(&data[at..at + len]),
                (Operand::InPlace, _) => in_place.map_or(Tile::Same, Tile::Slice),
                (_, Some((period, data))) => Tile::Slice(&data[at % period..][..len]),
                _ => Tile::Slice(&tiles[i][..len]),
            },
        }
    }
}
