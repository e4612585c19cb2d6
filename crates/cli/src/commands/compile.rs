//! `orrery compile`.

use crate::args::{Common, Compile, Emit};
use crate::commands::shared::{notes, open, setup};
use crate::output::{Answer, diagnostic_json, table};
use orrery::{Built, Program, Result, Weights, build, compiled_graph, program_text, show_bytes};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn answer(args: &Compile, common: &Common) -> Result<Answer> {
    let model = open(&args.model, args.batch.as_slice())?.at_batch(args.batch)?;
    let setup = setup(&args.on, &args.machine)?;
    let built = build(&model, &setup, Weights::ShapeOnly)?;
    notes(common, &built.notes);
    let text = match args.emit {
        Some(Emit::Program) => program_text(&built.compiled.program),
        Some(Emit::Graph) => compiled_graph(&model, &setup)?.to_string(),
        None => summary(&built)?,
    };
    Ok(Answer::done(text, json(&built)?))
}

fn steps(program: &Program) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for step in program.steps.values() {
        *kinds.entry(format!("{:?}", step.kind).to_lowercase()).or_insert(0) += 1;
    }
    kinds
}

fn summary(built: &Built) -> Result<String> {
    let program = &built.compiled.program;
    let mut text = format!("{} for {} in {}\n\n", program.name, program.machine, program.precision);
    let rows: Vec<Vec<String>> =
        steps(program).into_iter().map(|(kind, n)| vec![kind, n.to_string()]).collect();
    text += &table(&["steps", "number"], 1, &rows);
    text.push('\n');
    let mut rows = Vec::new();
    for (_, peak) in program.memory_use(&Default::default())? {
        let memory = &program.memories[peak.memory];
        rows.push(vec![
            memory.name.clone(),
            memory.cores.to_string(),
            show_bytes(memory.bytes as f64),
            show_bytes(peak.bytes as f64),
            format!("{:.1} %", 100.0 * peak.bytes as f64 / memory.bytes.max(1) as f64),
        ]);
    }
    text += &table(&["memory", "cores", "each holds", "fullest", "of it"], 1, &rows);
    text += "\n--emit program prints the program\n";
    Ok(text)
}

fn json(built: &Built) -> Result<Value> {
    let program = &built.compiled.program;
    let memory: Vec<Value> = program
        .memory_use(&Default::default())?
        .into_iter()
        .map(|(_, peak)| {
            let memory = &program.memories[peak.memory];
            json!({
                "name": memory.name,
                "cores": memory.cores,
                "capacity_bytes": memory.bytes,
                "peak_bytes": peak.bytes,
            })
        })
        .collect();
    Ok(json!({
        "name": program.name,
        "machine": program.machine,
        "precision": program.precision,
        "steps": steps(program),
        "memory": memory,
        "notes": built.notes.iter().map(diagnostic_json).collect::<Vec<Value>>(),
        "program": program_text(program),
    }))
}
