//! `orrery models`.

use crate::args::Models;
use crate::output::{Answer, table, wrapped};
use orrery::{Model, ModelOptions, Result, ZooModel, count, show_si, zoo};
use serde_json::{Value, json};

pub(crate) fn answer(args: &Models) -> Result<Answer> {
    match &args.name {
        Some(name) => one(name),
        None => {
            let all = || zoo().iter();
            let rows: Vec<Vec<String>> =
                all().map(|m| vec![m.name.to_owned(), sizes(m), m.summary.to_owned()]).collect();
            let text = table(&["name", "sizes", "what it is"], 3, &rows)
                + "\n`orrery models NAME` shows a model's options; `orrery inspect NAME` what is in it\n";
            Ok(Answer::done(text, all().map(json_of).collect()))
        }
    }
}

fn sizes(model: &ZooModel) -> String {
    let all: Vec<String> = model.bindings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    all.join(" ")
}

fn one(name: &str) -> Result<Answer> {
    let found = zoo().iter().find(|m| m.name == name || m.aliases.contains(&name));
    // Opening says what is wrong where there is no such model.
    let opened = Model::open(name, &ModelOptions::default())?;
    let Some(model) = found else {
        let text = format!("`{name}` is a file; `orrery inspect {name}` shows what is in it\n");
        return Ok(Answer::done(text, Value::Null));
    };
    let parameters = count::parameters(opened.graph()?);
    let mut text = format!("{}: {}\n", model.name, model.summary);
    text += &wrapped(&format!("  from: {}", model.source), "        ");
    if !model.aliases.is_empty() {
        text += &format!("  also called: {}\n", model.aliases.join(", "));
    }
    text += &format!("  parameters: {}\n", show_si(parameters as f64, "").trim_end());
    text += &format!("  sizes where none are given: {}\n", sizes(model));
    if !model.parameters.is_empty() {
        text += "  options, given as --param key=value:\n";
    }
    for parameter in model.parameters {
        let default = match parameter.default {
            "" => String::new(),
            default => format!(" (default {default})"),
        };
        text += &wrapped(&format!("    {}: {}{default}", parameter.name, parameter.doc), "      ");
    }
    let mut json = json_of(model);
    json["elements_of_weights"] = parameters.into();
    Ok(Answer::done(text, json))
}

fn json_of(model: &ZooModel) -> Value {
    let sizes: serde_json::Map<String, Value> =
        model.bindings.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let parameters: Vec<Value> = model
        .parameters
        .iter()
        .map(|p| json!({ "name": p.name, "default": p.default, "doc": p.doc }))
        .collect();
    json!({
        "name": model.name,
        "aliases": model.aliases,
        "summary": model.summary,
        "source": model.source,
        "dimensions": sizes,
        "parameters": parameters,
    })
}
