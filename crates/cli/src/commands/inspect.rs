//! `orrery inspect`.

use crate::args::Inspect;
use crate::commands::shared::open;
use crate::output::{Answer, Exit, diagnostic_json, table};
use orrery::{Graph, Model, Result, count, show_si};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn answer(args: &Inspect) -> Result<Answer> {
    let model = open(&args.model, args.batch.as_slice())?;
    if let Err(unknown) = model.graph() {
        return Ok(unknown_nodes(&model, &unknown));
    }
    let bound;
    let graph = if args.batch.is_some() || !args.model.dims.is_empty() {
        bound = model.at_batch(args.batch)?;
        &bound.graph
    } else {
        model.graph()?
    };
    let json = json(&model, graph)?;
    let text = if args.text { graph.to_string() } else { text(&model, graph)? };
    Ok(Answer::done(text, json))
}

/// What the file has that is not known: an answer, and a no.
fn unknown_nodes(model: &Model, unknown: &orrery::Diagnostic) -> Answer {
    let report = model.report.clone().unwrap_or_default();
    let rows: Vec<Vec<String>> =
        report.unknown().map(|node| vec![node.node.clone(), node.operator.clone()]).collect();
    let mut text = format!("{}: {}\n\n", model.name, unknown.cause);
    text += &table(&["unknown node", "operator"], 2, &rows);
    for line in &unknown.help {
        text += &format!("{line}\n");
    }
    let nodes: Vec<Value> =
        report.unknown().map(|n| json!({ "node": n.node, "operator": n.operator })).collect();
    let json = json!({ "name": model.name, "unknown": nodes, "error": diagnostic_json(unknown) });
    Answer { text, json, exit: Exit::Input }
}

fn operations(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in graph.nodes.values() {
        *counts.entry(node.op.name()).or_insert(0) += 1;
    }
    counts
}

fn text(model: &Model, graph: &Graph) -> Result<String> {
    let mut text = format!("{}\n", model.name);
    for (key, value) in &graph.metadata {
        text += &format!("  {key}: {value}\n");
    }
    text += "\ninputs\n";
    for id in &graph.inputs {
        text += &format!("  {}: {}\n", graph.values[*id].name, graph.values[*id].ty);
    }
    text += "outputs\n";
    for (i, id) in graph.outputs.iter().enumerate() {
        text += &format!("  {}: {}\n", graph.output_name(i), graph.values[*id].ty);
    }
    let work = work(graph)?;
    text += &format!("\nparameters  {}\n", show_si(count::parameters(graph) as f64, "").trim_end());
    text += &format!("MACs        {}\n", readable(&work));
    text += &format!("nodes       {}\n\n", graph.nodes.len());
    let rows: Vec<Vec<String>> =
        operations(graph).into_iter().map(|(op, n)| vec![op.to_owned(), n.to_string()]).collect();
    text += &table(&["op", "nodes"], 1, &rows);
    if let Some(report) = &model.report {
        let (exact, approximated, unknown) = report.counts();
        text += &format!(
            "\nread from the file: {exact} nodes exact, {approximated} approximated, {unknown} unknown\n"
        );
        if !report.absent_weights.is_empty() {
            text += &format!(
                "{} weights have no elements: it can be compiled and timed, not run\n",
                report.absent_weights.len()
            );
        }
    }
    Ok(text)
}

/// Multiply-accumulates of one run, as a formula where dimensions are open.
fn work(graph: &Graph) -> Result<String> {
    Ok(count::total(&count::work(graph, &orrery::facts(graph)?)).macs.to_string())
}

fn readable(work: &str) -> String {
    work.parse::<f64>().map_or_else(|_| work.to_owned(), |n| show_si(n, "").trim_end().to_owned())
}

fn json(model: &Model, graph: &Graph) -> Result<Value> {
    let ports = |ids: Vec<(String, String)>| -> Vec<Value> {
        ids.into_iter().map(|(name, ty)| json!({ "name": name, "type": ty })).collect()
    };
    let inputs = graph.inputs.iter().map(|id| &graph.values[*id]);
    let outputs = graph.outputs.iter().enumerate();
    let report = model.report.as_ref().map(|report| {
        let (exact, approximated, unknown) = report.counts();
        json!({
            "exact": exact,
            "approximated": approximated,
            "unknown": unknown,
            "absent_weights": report.absent_weights,
            "notes": report.notes.iter().map(diagnostic_json).collect::<Vec<Value>>(),
        })
    });
    Ok(json!({
        "name": model.name,
        "metadata": graph.metadata,
        "inputs": ports(inputs.map(|v| (v.name.clone(), v.ty.to_string())).collect()),
        "outputs": ports(outputs.map(|(i, id)| (graph.output_name(i).to_owned(), graph.values[*id].ty.to_string())).collect()),
        "parameters": count::parameters(graph),
        "macs": work(graph)?,
        "nodes": graph.nodes.len(),
        "ops": operations(graph),
        "import": report,
    }))
}
