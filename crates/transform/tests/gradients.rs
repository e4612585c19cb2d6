//! Gradients against central differences.
//!
//! Every file below `gradients/` holds graphs in binary64, one after the other. The loss is the sum of all float outputs,
//! each element times a random number; the gradient of every float input and constant weight is held against what the
//! loss does when one element moves. A comment `# positive` before a graph draws its inputs from 0.5 to 2; `# apart`
//! draws numbers no two of which are close, for ops that choose.

use libtest_mimic::{Arguments, Failed, Trial};
use orrery_ir::op::{Datum, Gradient};
use orrery_ir::weights::{hash64, normal};
use orrery_ir::{Extend, Graph, Op, ValueId, interpret, text, verify};
use orrery_numerics::{DType, Tensor};
use orrery_transform::{differentiate, unroll};
use std::collections::BTreeSet;
use std::path::Path;

/// Step of a difference, and how far a gradient may be from it: the error of a central difference in binary64 is of the
/// order of the step's square, and of the rounding over the step.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

/// Rules whose gradients are not those of what the ops compute.
const STRAIGHT: &[Op] = &[Op::QuantizeLinear, Op::DequantizeLinear];

/// Ops whose gradients nobody can ask for yet, with the reason.
const WITHOUT: &[(&str, &[Op])] = &[
    (
        "parts of a backward pass: there are no second derivatives",
        &[
            Op::ConvWeightGrad,
            Op::MaxPoolGrad,
            Op::AveragePoolGrad,
            Op::MaxRoiPoolGrad,
            Op::RoiAlignGrad,
            Op::DeformConvGrad,
            Op::ResizeGrad,
            Op::GridSampleGrad,
            Op::RNNGrad,
            Op::GRUGrad,
            Op::LSTMGrad,
            Op::SoftmaxGrad,
            Op::LayerNormalizationGrad,
            Op::LayerNormalizationScaleGrad,
            Op::RMSNormalizationGrad,
            Op::RMSNormalizationScaleGrad,
            Op::GatherMatMulGrad,
            Op::AttentionGrad,
            Op::GatherGrad,
            Op::SoftmaxCrossEntropyGrad,
        ],
    ),
    ("a scale that follows from the elements", &[Op::DynamicQuantizeLinear]),
    (
        "run a body: a constant condition and a known number of turns are taken out first",
        &[Op::If, Op::Loop, Op::Scan, Op::SequenceMap],
    ),
    (
        "sequences have no gradients",
        &[
            Op::SequenceConstruct,
            Op::SequenceAt,
            Op::SequenceInsert,
            Op::SequenceErase,
            Op::SplitToSequence,
            Op::ConcatFromSequence,
            Op::Optional,
            Op::OptionalGetElement,
        ],
    ),
    (
        "updates of what is trained",
        &[
            Op::Adam,
            Op::Adagrad,
            Op::Momentum,
            Op::SgdStep,
            Op::AdamStep,
            Op::AdamaxStep,
            Op::RmsPropStep,
            Op::LambDirection,
        ],
    ),
    ("shapes that follow from elements", &[Op::Range, Op::Unique, Op::Compress]),
    (
        "strings, and tables of classical models",
        &[
            Op::StringNormalizer,
            Op::StringConcat,
            Op::StringSplit,
            Op::RegexFullMatch,
            Op::TfIdfVectorizer,
            Op::LabelEncoder,
            Op::ArrayFeatureExtractor,
            Op::Binarizer,
        ],
    ),
];

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gradients");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|e| e.expect("it can be read").path())
        .collect();
    files.sort();
    let mut trials = Vec::new();
    let mut covered = BTreeSet::new();
    for file in files {
        let name = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&file).expect("it can be read");
        for case in cases(&source) {
            let graph = text::parse(&case).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            covered.extend(graph.nodes.values().map(|n| n.op));
            let title = format!("{name}: {}", graph.name);
            trials.push(Trial::test(title, move || check(&case, &graph)));
        }
    }
    trials.push(Trial::test("quantized numbers pass gradients straight through", straight_through));
    trials.push(Trial::test("every rule has a case", move || {
        let ruled = Op::ALL.iter().filter(|op| matches!(op.def().gradient, Gradient::Rule(_)));
        let missing: Vec<&Op> = ruled.filter(|op| !covered.contains(op) && !STRAIGHT.contains(op)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no case has {missing:?}").into()) }
    }));
    trials.push(Trial::test("ops without a rule are known", || {
        let without = Op::ALL.iter().filter(|op| matches!(op.def().gradient, Gradient::Unknown));
        let without: BTreeSet<Op> = without.copied().collect();
        let listed: BTreeSet<Op> = WITHOUT.iter().flat_map(|(_, ops)| *ops).copied().collect();
        let (new, gone) = (without.difference(&listed), listed.difference(&without));
        let (new, gone): (Vec<&Op>, Vec<&Op>) = (new.collect(), gone.collect());
        if new.is_empty() && gone.is_empty() {
            Ok(())
        } else {
            Err(format!("{new:?} have no rule and are not listed, {gone:?} are listed and have one").into())
        }
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The graphs of a file, each with the comment before it.
fn cases(source: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut comment = String::new();
    for line in source.lines() {
        if line.starts_with('#') {
            comment = format!("{line}\n");
        } else if line.starts_with("graph ") {
            found.push(format!("{}{line}\n", std::mem::take(&mut comment)));
        } else if let Some(case) = found.last_mut() {
            case.push_str(line);
            case.push('\n');
        }
    }
    found
}

fn draw(graph: &Graph, how: &str) -> Vec<Tensor> {
    let make = |(i, id): (usize, &ValueId)| {
        let ty = graph.values[*id].ty.as_tensor().expect("inputs are tensors");
        let shape = ty.extents().expect("shapes are numbers");
        let count: usize = shape.iter().product();
        let seed = hash64(7, i as u64);
        if !ty.dtype.is_float() {
            let most = if ty.dtype == DType::Bool { 2 } else { 3 };
            let numbers: Vec<i64> = (0..count as u64).map(|k| (hash64(seed, k) % most) as i64).collect();
            let wide = Tensor::from_vec(shape, numbers);
            return orrery_numerics::cast(&wide, ty.dtype, orrery_numerics::Rounding::NearestEven, false)
                .expect("integers");
        }
        let mut numbers: Vec<f64> = normal(seed, count, 0.0, 1.0).into_iter().map(f64::from).collect();
        if how.contains("positive") {
            numbers.iter_mut().for_each(|v| *v = 0.5 + 1.5 / (1.0 + (-*v).exp()));
        }
        if how.contains("apart") {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|a, b| numbers[*a].total_cmp(&numbers[*b]));
            for (rank, at) in order.into_iter().enumerate() {
                numbers[at] = (rank as f64 - count as f64 / 2.0 + 0.3) * 0.1;
            }
        }
        Tensor::from_vec(shape, numbers)
    };
    graph.inputs.iter().enumerate().map(make).collect()
}

/// The sum of all float outputs, each element times a number of its own.
fn loss(graph: &Graph, outputs: usize, inputs: &[Tensor]) -> Result<f64, String> {
    let inputs: Vec<Datum> = inputs.iter().cloned().map(Datum::from).collect();
    let made = interpret::run(graph, inputs, 3).map_err(|e| e.to_string())?;
    let mut sum = 0.0;
    for (i, output) in made.iter().take(outputs).enumerate() {
        let tensor = output.as_tensor().ok_or("an output is no tensor")?;
        if tensor.dtype().is_float() {
            let values = tensor.to_f64().map_err(|e| e.to_string())?;
            sum += values.iter().zip(factors(i, tensor.len())).map(|(v, f)| v * f).sum::<f64>();
        }
    }
    Ok(sum)
}

fn factors(output: usize, count: usize) -> Vec<f64> {
    normal(hash64(99, output as u64), count, 0.0, 1.0).into_iter().map(f64::from).collect()
}

fn check(source: &str, parsed: &Graph) -> Result<(), Failed> {
    let how = source.lines().next().filter(|l| l.starts_with('#')).unwrap_or_default();
    let mut extend = Extend::new(unroll(parsed)?)?;
    let outputs = parsed.outputs.len();
    let mut total: Option<ValueId> = None;
    for (i, output) in extend.graph().outputs.clone().iter().enumerate() {
        if !extend.dtype(*output).is_float() {
            continue;
        }
        let shape = extend.shape(*output)?;
        let extents: Vec<usize> = shape.iter().map(|n| *n as usize).collect();
        let count = extents.iter().product();
        let factors = extend.tensor("factors", Tensor::from_vec(extents, factors(i, count)));
        let part = extend.mul(*output, factors)?;
        let axes: Vec<i64> = (0..shape.len() as i64).collect();
        let part = extend.sum(part, &axes, false)?;
        total = Some(match total {
            Some(total) => extend.add(total, part)?,
            None => part,
        });
    }
    let total = total.ok_or("no output is a float")?;
    let given = extend.graph().inputs.clone();
    let wrt: Vec<usize> = (0..given.len()).filter(|i| extend.dtype(given[*i]).is_float()).collect();
    let values: Vec<ValueId> = wrt.iter().map(|i| given[*i]).collect();
    let one = extend.scalar(DType::F64, 1.0);
    let gradients = differentiate(&mut extend, total, one, &values)?;
    let mut at = Vec::new();
    for (i, gradient) in wrt.iter().zip(&gradients) {
        if let Some(gradient) = gradient {
            at.push((*i, extend.output("gradient", *gradient)));
        }
    }
    let whole = extend.finish();
    verify::verify(&whole)?;
    let inputs = draw(parsed, how);
    let made = interpret::run(&whole, inputs.iter().cloned().map(Datum::from).collect(), 3)?;
    for i in wrt {
        let (shape, values) = (inputs[i].shape().to_vec(), inputs[i].to_f64()?.into_owned());
        let found = at.iter().find(|(input, _)| *input == i).map(|(_, output)| &made[*output]);
        let found = match found.and_then(Datum::as_tensor) {
            Some(tensor) if tensor.shape() == shape => tensor.to_f64()?.into_owned(),
            Some(tensor) => return Err(format!("input {i} of {shape:?} has a gradient {tensor:?}").into()),
            None => vec![0.0; values.len()],
        };
        for k in 0..values.len() {
            let moved = |by: f64| {
                let mut moved = values.clone();
                moved[k] += by;
                let mut all = inputs.clone();
                all[i] = Tensor::from_vec(shape.clone(), moved);
                loss(parsed, outputs, &all)
            };
            let difference = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
            let allowed = TOLERANCE * (1.0 + difference.abs());
            let error = (difference - found[k]).abs();
            if error.is_nan() || error > allowed {
                let what = &parsed.values[parsed.inputs[i]].name;
                return Err(format!("`{what}`[{k}]: gradient {}, difference {difference}", found[k]).into());
            }
        }
    }
    Ok(())
}

/// What lies within the range, rounded or not, gets back what came; what is held at an end of it gets nothing.
fn straight_through() -> Result<(), Failed> {
    let source = r#"graph "rounded" {
  input %x: f32[7]
  input %w: f32[7]
  constant %scale: f32[] = 0.5
  constant %zero: i8[] = 1
  %q: i8[7] = QuantizeLinear(%x, %scale, %zero)
  %y: f32[7] = DequantizeLinear(%q, %scale, %zero)
  %p: f32[7] = Mul(%y, %w)
  %loss: f32[] = ReduceSum(%p) {keepdims = 0}
  output %loss
}"#;
    let mut extend = Extend::new(text::parse(source)?)?;
    let (x, loss) = (extend.graph().inputs[0], extend.graph().outputs[0]);
    let one = extend.scalar(DType::F32, 1.0);
    let gradient = differentiate(&mut extend, loss, one, &[x])?[0].ok_or("there is a gradient")?;
    let at = extend.output("gradient", gradient);
    let whole = extend.finish();
    verify::verify(&whole)?;
    // From -129 to 126 steps of a half are within the range, and half a step more is rounded into it.
    let numbers = vec![-64.9_f32, -64.7, -64.5, 0.1, 63.0, 63.2, 63.3];
    let inputs =
        [numbers, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]].map(|v| Tensor::from_vec(vec![7], v).into());
    let made = interpret::run(&whole, inputs.to_vec(), 0)?;
    let found = made[at].as_tensor().ok_or("it is a tensor")?.to_f64()?.into_owned();
    let expected = [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0];
    if found == expected { Ok(()) } else { Err(format!("{found:?} is not {expected:?}").into()) }
}
