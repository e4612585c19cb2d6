//! Random graphs on random small machines: executed part by part they are what they mean.

use crate::common::{compile_for, faults_of, shrunk};
use orrery_ir::weights::hash64;
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op, ValueId};
use orrery_numerics::DType;
use orrery_program::text;

/// Numbers that follow from a seed.
pub(crate) struct Random(pub(crate) u64, pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        (hash64(self.0, self.1) % n.max(1) as u64) as usize
    }
    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
    fn extent(&mut self) -> i64 {
        self.one_of(&[1, 1, 2, 3, 4, 5, 7, 8, 12, 17])
    }
}

/// A graph of a handful of ops over tensors of rank 1 to 4.
pub(crate) struct Maker {
    random: Random,
    b: Builder,
    dtype: DType,
    values: Vec<(ValueId, Vec<i64>)>,
}

impl Maker {
    pub(crate) fn graph(seed: u64, dtype: DType) -> Graph {
        let (random, b) = (Random(seed, 0), Builder::new(&format!("random {seed}"), seed));
        let mut maker = Self { random, b, dtype, values: Vec::new() };
        for number in 0..2 {
            let rank = 2 + maker.random.below(3);
            let shape: Vec<i64> = (0..rank).map(|_| maker.random.extent()).collect();
            let id = maker.b.input(&format!("in{number}"), dtype, shape.clone());
            maker.values.push((id, shape));
        }
        for _ in 0..3 + maker.random.below(6) {
            maker.grow();
        }
        let last = maker.values.len() - 1;
        let other = maker.random.below(last);
        let outputs = [("last", maker.values[last].0), ("other", maker.values[other].0)];
        maker.b.finish(&outputs).unwrap_or_else(|error| panic!("{seed}: {error}"))
    }
    fn op(&mut self, op: Op, inputs: &[ValueId], attrs: Attrs, shape: Vec<i64>) {
        let id = self.b.op(op, "op", inputs, attrs);
        self.values.push((id, shape));
    }
    fn weight(&mut self, shape: &[i64], deviation: f64) -> ValueId {
        self.b.weight_of("weight", self.dtype, shape.to_vec(), 0.0, deviation)
    }
    /// Applies a random op to a value made lately.
    fn grow(&mut self) {
        let count = self.values.len();
        let back = self.random.below(3.min(count));
        let (x, shape) = self.values[count - 1 - back].clone();
        let rank = shape.len();
        match self.random.below(14) {
            0 | 1 => {
                let n = self.random.extent();
                let k = shape[rank - 1];
                let w = self.weight(&[k, n], 1.0 / (k as f64).sqrt());
                let mut out = shape.clone();
                out[rank - 1] = n;
                self.op(Op::MatMul, &[x, w], Attrs::new(), out);
            }
            2 if rank > 1 => {
                // A product with its own transpose.
                let mut perm: Vec<i64> = (0..rank as i64).collect();
                perm.swap(rank - 1, rank - 2);
                let turned = self.b.op(Op::Transpose, "turned", &[x], Attrs::new().with("perm", perm));
                let mut out = shape.clone();
                out[rank - 1] = shape[rank - 2];
                self.op(Op::MatMul, &[x, turned], Attrs::new(), out);
            }
            3 => {
                let op = self.random.one_of(&[Op::Relu, Op::Neg, Op::Tanh, Op::Sigmoid, Op::Abs]);
                self.op(op, &[x], Attrs::new(), shape);
            }
            4 => {
                let cut: Vec<i64> =
                    shape.iter().map(|&e| if self.random.below(2) == 0 { 1 } else { e }).collect();
                let start = self.random.below(rank);
                let w = self.weight(&cut[start..], 1.0);
                let op = self.random.one_of(&[Op::Add, Op::Mul, Op::Sub, Op::Max]);
                let operands = if self.random.below(2) == 0 { [x, w] } else { [w, x] };
                self.op(op, &operands, Attrs::new(), shape);
            }
            5 => {
                let same = self.values.iter().rev().filter(|(_, s)| *s == shape);
                let all: Vec<ValueId> = same.map(|(id, _)| *id).collect();
                let y = self.random.one_of(&all);
                self.op(Op::Add, &[x, y], Attrs::new(), shape);
            }
            6 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                for i in (1..rank).rev() {
                    let j = self.random.below(i + 1);
                    perm.swap(i, j);
                }
                let out = perm.iter().map(|&p| shape[p]).collect();
                let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
                self.op(Op::Transpose, &[x], Attrs::new().with("perm", perm), out);
            }
            7 => {
                // Two neighbouring dimensions become one, or one becomes two.
                let at = self.random.below(rank);
                let mut out = shape.clone();
                if at + 1 < rank && self.random.below(2) == 0 {
                    out[at] *= out.remove(at + 1);
                } else if rank < 4 {
                    let divisors: Vec<i64> = (1..=shape[at]).filter(|d| shape[at] % d == 0).collect();
                    let outer = self.random.one_of(&divisors);
                    out[at] = outer;
                    out.insert(at + 1, shape[at] / outer);
                }
                let to = self.b.ints("shape", &out);
                self.op(Op::Reshape, &[x, to], Attrs::new(), out);
            }
            8 => {
                let axis = self.random.below(rank);
                self.op(Op::Softmax, &[x], Attrs::new().with("axis", axis as i64), shape);
            }
            9 => {
                let axis = self.random.below(rank);
                let keep = rank == 1 || self.random.below(2) == 0;
                let op = self.random.one_of(&[Op::ReduceSum, Op::ReduceMean, Op::ReduceMax]);
                let axes = self.b.ints("axes", &[axis as i64]);
                let mut out = shape;
                if keep {
                    out[axis] = 1;
                } else {
                    out.remove(axis);
                }
                self.op(op, &[x, axes], Attrs::new().with("keepdims", i64::from(keep)), out);
            }
            10 => {
                let axis = self.random.below(rank);
                let mut out = shape.clone();
                out[axis] *= 2;
                self.op(Op::Concat, &[x, x], Attrs::new().with("axis", axis as i64), out);
            }
            11 => {
                let axis = self.random.below(rank);
                let from = self.random.below(shape[axis] as usize) as i64;
                let step = 1 + self.random.below(2) as i64;
                let mut out = shape.clone();
                out[axis] = (shape[axis] - from + step - 1) / step;
                let bounds = [from, shape[axis], axis as i64, step].map(|n| self.b.ints("bound", &[n]));
                self.op(Op::Slice, &[&[x][..], &bounds].concat(), Attrs::new(), out);
            }
            12 if rank >= 3 => {
                let spatial = rank - 2;
                let filters = self.random.extent();
                let group =
                    if shape[1] % 2 == 0 && filters % 2 == 0 { 1 + self.random.below(2) as i64 } else { 1 };
                let (mut out, mut window) = (vec![shape[0], filters], vec![filters, shape[1] / group]);
                let mut pads = vec![0; 2 * spatial];
                let (mut strides, mut dilations) = (Vec::new(), Vec::new());
                for d in 0..spatial {
                    let kernel = 1 + self.random.below(3) as i64;
                    strides.push(1 + self.random.below(2) as i64);
                    dilations.push(1 + self.random.below(2) as i64);
                    let reach = dilations[d] * (kernel - 1) + 1;
                    pads[d] = self.random.below(reach as usize) as i64;
                    // No output sees padding alone.
                    pads[d + spatial] = self.random.below(reach as usize) as i64;
                    let span = shape[d + 2] + pads[d] + pads[d + spatial] - reach;
                    if span < 0 {
                        return;
                    }
                    out.push(span / strides[d] + 1);
                    window.push(kernel);
                }
                let depth: i64 = window[1..].iter().product();
                let mut operands = vec![x, self.weight(&window, 1.0 / (depth as f64).sqrt())];
                if self.random.below(2) == 0 {
                    operands.push(self.weight(&[filters], 1.0));
                }
                let attrs = Attrs::new()
                    .with("group", group)
                    .with("pads", pads)
                    .with("strides", strides)
                    .with("dilations", dilations);
                self.op(Op::Conv, &operands, attrs, out);
            }
            13 => {
                let rows: Vec<i64> = (0..3).map(|_| self.random.below(shape[0] as usize) as i64).collect();
                let rows = self.b.ints("rows", &rows);
                let mut out = shape;
                out[0] = 3;
                self.op(Op::Gather, &[x, rows], Attrs::new(), out);
            }
            _ => {}
        }
    }
}

#[test]
fn random_graphs() {
    let (mut found, mut ran) = (String::new(), 0);
    for seed in 0..240 {
        let mut random = Random(hash64(seed, 99), 0);
        let (machine, precision, dtype, tolerance) = random.one_of(&[
            ("gc200", "fp32", DType::F32, 1e-4),
            ("gc200", "fp32", DType::F32, 1e-4),
            ("gc200", "fp16.32", DType::F16, 0.1),
            ("a100-40gb", "fp32", DType::F32, 1e-4),
            ("a100-40gb", "bf16", DType::BF16, 0.3),
        ]);
        let system = match machine {
            "gc200" => {
                let (tiles, bytes) = (1 + random.below(64), random.one_of(&[24_000, 40_000, 400_000]));
                shrunk(machine, &[("tiles", tiles as u64), ("tile_bytes", bytes)])
            }
            _ => orrery_machine::registry::find(machine).unwrap().clone(),
        };
        let graph = Maker::graph(seed, dtype);
        let compiled = match compile_for(&graph, &system, precision) {
            Ok(compiled) => compiled,
            Err(error) if error.code == "does-not-fit" => continue,
            Err(error) => {
                found += &format!("{seed} on {machine} {precision}: {error}\n");
                continue;
            }
        };
        ran += 1;
        let printed = text::print(&compiled.program);
        let parsed = text::parse(&printed).unwrap_or_else(|error| panic!("{seed}: {error}\n{printed}"));
        assert_eq!(parsed, compiled.program, "{seed}");
        assert_eq!(text::print(&parsed), printed, "{seed}");
        for fault in faults_of(&graph, &compiled.program, &Bindings::new(), tolerance) {
            found += &format!("{seed} on {machine} {precision}: {fault}\n");
        }
    }
    assert!(found.is_empty(), "{found}");
    assert!(ran > 200, "{ran} ran");
}
