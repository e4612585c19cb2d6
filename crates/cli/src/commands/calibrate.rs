//! `orrery calibrate`.

use crate::args::{Calibrate, Common};
use crate::commands::shared::{load, threads};
use crate::output::{self, Answer, Exit, table};
use crate::progress::progress;
use orrery::{
    Calibrated, Result, System, calibrate, calibrated_file, check_writable, find_system, read_measurements,
    systems, write_file,
};
use serde_json::json;
use std::io::Write;

pub(crate) fn answer(args: &Calibrate, common: &Common) -> Result<Answer> {
    let records = read_measurements(&args.file)?;
    let own = load(&args.files)?;
    let machines: Vec<System> = match args.on.is_empty() {
        false => args.on.iter().map(|name| find_system(name, &own)).collect::<Result<_>>()?,
        true => own.iter().chain(systems()).cloned().collect(),
    };
    let path = |system: &str| args.write.as_ref().map(|folder| folder.join(format!("{system}.toml")));
    for system in &machines {
        path(&system.name).iter().try_for_each(|path| check_writable(path))?;
    }
    let mut all = Vec::new();
    let mut text = String::new();
    let mut written = true;
    for system in &machines {
        let Some(found) = calibrate(system, &records, threads(common), &progress(common.quiet))? else {
            text += &format!(
                "{}: left as it is: fewer than two sets (a source and a workload) of clean figures of it can be predicted\n\n",
                system.name
            );
            continue;
        };
        text += &shown(&found);
        if let Some(path) = path(&found.system) {
            let own = args.files.systems.iter().zip(&own).find(|(_, s)| s.name == system.name);
            let file = calibrated_file(&found, &args.file, own.map(|(file, _)| file.as_path()));
            // What was found is shown whether it can be written or not.
            if let Err(error) = file.and_then(|file| write_file(&path, |out| out.write_all(file.as_bytes())))
            {
                output::report(&error);
                written = false;
            }
        }
        all.push(json!({
            "system": found.system,
            "rows": found.rows,
            "losses": found.losses.iter().map(|l| json!({
                "stack": l.stack, "key": l.key, "unit": l.unit, "before": l.prior, "fitted": l.value,
            })).collect::<Vec<_>>(),
            "kinds": found.kinds,
            "bands": found.bands.iter().map(|b| json!({
                "kind": b.kind, "low": b.low, "high": b.high, "median_error": b.median_error,
                "rows": b.rows, "groups": b.groups,
            })).collect::<Vec<_>>(),
        }));
    }
    let exit = if all.is_empty() || !written { Exit::Input } else { Exit::Done };
    Ok(Answer { text, json: json!({ "calibrations": all }), exit })
}

fn shown(found: &Calibrated) -> String {
    let percent = |part: f64| format!("{:.0} %", 100.0 * part);
    let mut text = format!("{}: {} figures\n", found.system, found.rows.len());
    let kinds: Vec<Vec<String>> = found
        .kinds
        .iter()
        .map(|kind| {
            let cross = kind.cross_validated.map_or_else(|| "-".to_owned(), percent);
            let (rows, groups) = (kind.rows.to_string(), kind.groups.to_string());
            vec![kind.kind.clone(), rows, groups, percent(kind.before), percent(kind.fitted), cross]
        })
        .collect();
    text += &table(&["median error", "rows", "sets", "assumed", "fitted", "left out"], 1, &kinds);
    let losses: Vec<Vec<String>> = found
        .losses
        .iter()
        .map(|l| {
            let stack = l.stack.clone().unwrap_or_else(|| "(all)".to_owned());
            vec![l.key.clone(), stack, format!("{:.3e}", l.prior), format!("{:.3e}", l.value), l.unit.clone()]
        })
        .collect();
    if !losses.is_empty() {
        text += &table(&["loss", "stack", "assumed", "fitted", "unit"], 2, &losses);
    }
    text + "\n"
}
