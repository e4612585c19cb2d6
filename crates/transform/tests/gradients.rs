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
use orrery_transform::differentiate;
use std::collections::BTreeSet;
use std::path::Path;

/// Step of a difference, and how far a gradient may be from it: the error of a central difference in binary64 is of the
/// order of the step's square, and of the rounding over the step.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

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
    trials.push(Trial::test("every rule has a case", move || {
        let ruled = Op::ALL.iter().filter(|op| matches!(op.def().gradient, Gradient::Rule(_)));
        let missing: Vec<&Op> = ruled.filter(|op| !covered.contains(*op)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no case has {missing:?}").into()) }
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
    let mut extend = Extend::new(parsed.clone())?;
    let outputs = parsed.outputs.len();
    let mut total: Option<ValueId> = None;
    for (i, output) in parsed.outputs.iter().enumerate() {
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
    let wrt: Vec<usize> =
        (0..parsed.inputs.len()).filter(|i| extend.dtype(parsed.inputs[*i]).is_float()).collect();
    let values: Vec<ValueId> = wrt.iter().map(|i| parsed.inputs[*i]).collect();
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
