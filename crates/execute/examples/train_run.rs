//! Trains a model of the zoo on the host for a script that measures: commands on standard input, answers on standard
//! output.
//!
//! `train_run MODEL BATCH THREADS LOSS [OPTION=VALUE...]` makes the step of Adam on random data of that batch and prepares
//! it; `seq=N` among the options is the length of sequences. Then lines of: `run COUNT` (answers the seconds of each step;
//! the states go from step to step), `loss` (answers that of the last step), `profile` (answers a line for each kernel
//! step, and an empty one).
#![allow(clippy::print_stdout, reason = "a program for scripts")]

use orrery_base::Diagnostic;
use orrery_execute::host::Session;
use orrery_ir::op::Datum;
use orrery_ir::weights::{hash64, normal};
use orrery_ir::{Bindings, ValueId, Weight, infer};
use orrery_numerics::{DType, Tensor};
use orrery_transform::Weights;
use orrery_transform::training::{Loss, Optimizer, Spec, step};
use orrery_zoo::{Options, find};
use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let text = |d: Box<Diagnostic>| d.to_string();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, batch, threads, loss, rest @ ..] = arguments.as_slice() else {
        return Err("usage: train_run MODEL BATCH THREADS LOSS [OPTION=VALUE...]".into());
    };
    let (sequence, options): (Vec<&str>, Vec<&str>) =
        rest.iter().map(String::as_str).partition(|o| o.starts_with("seq="));
    let model = find(model).map_err(text)?;
    let mut graph = model.build(&Options::parse(options).map_err(text)?).map_err(text)?;
    let mut bindings: Bindings = model.default_bindings(&graph);
    bindings.insert("batch".into(), batch.parse()?);
    if let Some(length) = sequence.first().and_then(|o| o.strip_prefix("seq=")) {
        bindings.insert("seq".into(), length.parse()?);
    }
    infer::bind(&mut graph, &bindings).map_err(text)?;
    let adam = Optimizer::parse("adam").ok_or("an optimizer")?;
    let spec = Spec::new(Loss::parse(loss).ok_or("unknown loss")?, adam);
    let step = step(&graph, &spec, None, Weights::Compute).map_err(text)?;
    let session = Session::new(&step.graph, threads.parse()?).map_err(text)?;
    let extents = |id: ValueId| -> Result<(DType, Vec<usize>), Box<dyn Error>> {
        let ty = step.graph.values[id].ty.as_tensor().ok_or("a tensor")?;
        Ok((ty.dtype, ty.extents().ok_or("known extents")?))
    };
    let mut inputs: Vec<Datum> = Vec::new();
    for (at, id) in step.graph.inputs.iter().enumerate() {
        let (dtype, shape) = extents(*id)?;
        let count: usize = shape.iter().product();
        let slot = step.states.iter().find(|slot| slot.input == at);
        inputs.push(match slot.map(|slot| &slot.initial) {
            Some(Weight::Data(tensor)) => tensor.clone().into(),
            Some(Weight::Seeded { seed, mean, deviation }) => {
                Tensor::from_vec(shape, normal(*seed, count, *mean, *deviation)).into()
            }
            Some(_) => return Err("the model has no weights".into()),
            None if at == step.learning_rate => Tensor::scalar(1e-3_f32).into(),
            None if at == step.step => Tensor::scalar(1_i64).into(),
            None if dtype == DType::I64 => {
                Tensor::from_vec(shape, (0..count as u64).map(|i| (hash64(1, i) % 10) as i64).collect())
                    .into()
            }
            None => Tensor::from_vec(shape, normal(at as u64, count, 0.0, 1.0)).into(),
        });
    }
    let mut loss = f32::NAN;
    let mut number = 0_i64;
    println!("ready {}", session.instructions());
    for line in std::io::stdin().lock().lines() {
        match line?.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["run", count] => {
                let mut times = Vec::new();
                for _ in 0..count.parse::<usize>()? {
                    number += 1;
                    inputs[step.step] = Tensor::scalar(number).into();
                    let start = Instant::now();
                    let mut made = session.run(inputs.clone()).map_err(text)?;
                    for slot in &step.states {
                        std::mem::swap(&mut inputs[slot.input], &mut made[slot.output]);
                    }
                    times.push(start.elapsed().as_secs_f64().to_string());
                    loss =
                        made[0].as_tensor().and_then(|t| t.values::<f32>()?.first().copied()).unwrap_or(loss);
                }
                println!("{}", times.join(" "));
            }
            ["loss"] => println!("{loss}"),
            ["profile"] => {
                for step in session.profile() {
                    let each = step.time.as_secs_f64() / step.calls.max(1) as f64;
                    let ops: Vec<&str> = step.ops.iter().map(|op| op.name()).collect();
                    println!(
                        "{each:.6} {} {} {}",
                        step.kernel.replace(' ', "-"),
                        ops.join("+"),
                        step.nodes[0]
                    );
                }
                println!();
            }
            other => return Err(format!("unknown command {other:?}").into()),
        }
    }
    Ok(())
}
