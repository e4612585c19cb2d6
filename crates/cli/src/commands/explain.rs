//! `orrery explain`.

use crate::args::{Common, Explain};
use crate::commands::shared::{notes, open, setup, step_text, work};
use crate::output::{Answer, Exit, diagnostic_json, expected, table, wrapped};
use orrery::record::{Record, Scope};
use orrery::{
    Explanation, MOST_SAMPLES, MemoryPart, Result, StepPart, Suggestion, TrainingParts, explain, show_bytes,
    show_joules, show_seconds, show_si,
};
use serde_json::Value;

/// Steps shown where not all are asked for.
const LONGEST: usize = 15;
/// Heights of a bar of the memory track.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Bars of a memory track.
const TRACK: usize = 60;

/// The part of the memory above which nothing worth telling is saved.
const SAVED: f64 = 0.98;
/// The time of all steps over that of the run from which on it is said that they overlap.
const OVERLAP: f64 = 1.02;
/// Memories that are shown where there are many.
const MEMORIES: usize = 3;

pub(crate) fn answer(args: &Explain, common: &Common) -> Result<Answer> {
    let model = open(&args.model, args.batch.as_slice())?;
    let setup = setup(&args.on, &args.machine)?;
    let explanation = explain(&model, &work(&args.training), args.batch, &setup)?;
    notes(common, &explanation.notes);
    let mut json = serde_json::to_value(&explanation).expect("text keys and finite numbers only");
    json["notes"] = explanation.notes.iter().map(diagnostic_json).collect::<Vec<Value>>().into();
    let exit = if explanation.record.refusal().is_none() { Exit::Done } else { Exit::Input };
    Ok(Answer { text: text(&explanation, args.all), json, exit })
}

fn text(explanation: &Explanation, all: bool) -> String {
    let mut text = head(&explanation.record);
    if let Some(training) = &explanation.training {
        let several = explanation.record.identity.devices.is_some_and(|n| n > 1.0);
        text += &training_text(training, several);
    }
    if explanation.record.refusal().is_none() {
        text += "\nwhere the time goes, by op\n";
        text += &table(&["op", "steps", "time", "share"], 1, &shares(&explanation.by_op, true));
        text += &overlap(explanation);
        text += "\nwhat bounds it\n";
        text += &table(&["resource", "time", "share"], 1, &shares(&explanation.by_resource, false));
        text += &steps(&explanation.steps, all);
        let mut fullest: Vec<&MemoryPart> = explanation.memory.iter().collect();
        fullest.sort_by(|a, b| share(b).total_cmp(&share(a)));
        let shown = if all { fullest.len() } else { MEMORIES.min(fullest.len()) };
        for memory in &fullest[..shown] {
            text += &memory_text(memory);
        }
        if let Some(next) = fullest.get(shown) {
            let more = fullest.len() - shown;
            text +=
                &format!("\n{more} more memories, at most {} full; --all shows them\n", percent(share(next)));
        }
    }
    text += "\nwhat would help\n";
    if explanation.suggestions.is_empty() {
        text += "  nothing that was tried gains more than 5 %\n";
    }
    for suggestion in &explanation.suggestions {
        text += &wrapped(&suggestion_text(suggestion), "    ");
    }
    for remark in &explanation.record.remarks {
        text += &wrapped(&format!("\n{remark}"), "");
    }
    text
}

/// What to know where the times of the steps are more than that of the run.
fn overlap(explanation: &Explanation) -> String {
    let one_by_one: f64 = explanation.by_op.iter().map(|share| share.time_s).sum();
    let latency = explanation.record.figure("latency_ms", Scope::Device).map_or(0.0, |m| m.value / 1e3);
    if one_by_one <= OVERLAP * latency {
        return String::new();
    }
    let text = format!(
        "steps run side by side: one after the other they would take {}, {:.1} times as long",
        show_seconds(one_by_one),
        one_by_one / latency
    );
    wrapped(&text, "  ")
}

/// The parts of a training step, what memories hold, and what else would fit.
fn training_text(training: &TrainingParts, several: bool) -> String {
    let mut text = String::new();
    if !training.parts.is_empty() {
        text += "\nthe step, part by part, alone from end to end\n";
        text += &table(&["part", "time", "share"], 1, &shares(&training.parts, false));
        if training.on_links_s > 0.0 {
            let on_links = show_seconds(training.on_links_s);
            text += &format!("beside the cores {on_links} of transfers, of which the rest is hidden\n");
        }
    }
    if let Some(batch) = training.largest_batch {
        let about = if batch < MOST_SAMPLES { "about" } else { "at least" };
        let fits = if several { "one chip holds" } else { "fits" };
        text += &format!("\nthe largest batch that {fits} is {about} {batch}\n");
    }
    if let Some(recomputed) = &training.recomputation {
        if recomputed.kept.is_some_and(|kept| recomputed.peak as f64 > SAVED * kept as f64) {
            text += "activations made again (--recompute) would save next to no memory\n";
            return text;
        }
        let slower = recomputed.slower.map(|s| format!(", {s:.2} times as long")).unwrap_or_default();
        let kept =
            recomputed.kept.map(|b| format!(" instead of {}", show_bytes(b as f64))).unwrap_or_default();
        let batch =
            recomputed.largest_batch.map(|b| format!("; a batch of about {b} fits then")).unwrap_or_default();
        let line = format!(
            "with activations made again (--recompute): {} in the fullest memory{kept}{slower}{batch}",
            show_bytes(recomputed.peak as f64)
        );
        text += &wrapped(&line, "  ");
    }
    text
}

fn head(record: &Record) -> String {
    let identity = &record.identity;
    let batch = identity.workload.batch;
    let each = batch.micro.filter(|micro| batch.global != Some(*micro)).map(|n| format!(" ({n} a copy)"));
    let batch =
        batch.global.map_or_else(String::new, |n| format!(" at batch {n}{}", each.unwrap_or_default()));
    let chips = identity.devices.filter(|n| *n > 1.0).map(|n| format!(", {n} chips,")).unwrap_or_default();
    let train = if identity.workload.mode.as_deref() == Some("train") { " training" } else { "" };
    let title = format!(
        "{}{train}{batch} on {}{chips} in {} ({})",
        identity.workload.model,
        identity.machine,
        identity.precision.clone().unwrap_or_default(),
        record.provenance.label()
    );
    let mut text = wrapped(&title, "  ");
    text += &step_text(record).map(|step| wrapped(&step, "  ")).unwrap_or_default();
    if let Some(refusal) = record.refusal() {
        text += &wrapped(&format!("cannot run: {} [{}]", refusal.reason, refusal.code), "  ");
        for remedy in &refusal.remedies {
            text += &wrapped(&format!("help: {remedy}"), "  ");
        }
        return text;
    }
    let figure = |metric, scope| record.figure(metric, scope).map(|m| m.value);
    let shown = |ms: f64| show_seconds(ms / 1e3);
    let seconds = |scope| figure("latency_ms", scope).map_or_else(String::new, shown);
    let band = record.figure("latency_ms", Scope::Device).and_then(|m| m.interval);
    let measured =
        band.map_or_else(String::new, |_| format!(" (expected measured: {})", expected(band, &shown)));
    text += &format!(
        "{} on the device{measured}, {} end to end from the host\n",
        seconds(Scope::Device),
        seconds(Scope::EndToEnd)
    );
    let mut rates = Vec::new();
    let samples = |rate| format!("{} samples/s", show_si(rate, "").trim_end());
    rates.extend(figure("samples_per_s", Scope::Device).map(samples));
    rates.extend(figure("tflops", Scope::Device).map(|tflops| show_si(tflops * 1e12, "FLOP/s")));
    if let (Some(watts), Some(joules)) = (figure("power_w", Scope::Device), figure("energy_j", Scope::Device))
    {
        let of = if identity.devices.is_some_and(|n| n > 1.0) { " in all" } else { "" };
        rates.push(format!("{} W{of} and {} a run, uncalibrated", watts.round(), show_joules(joules)));
    }
    text + &rates.join(", ") + "\n"
}

fn shares(shares: &[orrery::Share], counted: bool) -> Vec<Vec<String>> {
    let row = |share: &orrery::Share| {
        let mut row = vec![share.name.clone()];
        if counted {
            row.push(share.steps.unwrap_or_default().to_string());
        }
        row.extend([show_seconds(share.time_s), percent(share.share)]);
        row
    };
    shares.iter().map(row).collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn steps(parts: &[StepPart], all: bool) -> String {
    let timed = || parts.iter().filter(|s| s.time_s > 0.0);
    let mut shown: Vec<&StepPart> = timed().collect();
    let heading = if all || shown.len() <= LONGEST {
        format!("\nall {} steps that take time, in order\n", shown.len())
    } else {
        shown.retain(|step| step.share.is_some());
        let count = shown.len();
        shown.sort_by(|a, b| b.time_s.total_cmp(&a.time_s).then_with(|| a.start_s.total_cmp(&b.start_s)));
        shown.truncate(LONGEST);
        let longest = shown.len();
        format!("\nthe {longest} longest of {count} steps on the device; --all lists all in order\n")
    };
    let told_apart = shown.iter().any(|step| step.cores.is_some());
    let row = |step: &&StepPart| {
        let mut row = vec![step.name.clone(), step.op.clone(), step.bound_by.to_owned()];
        if told_apart {
            row.push(step.cores.map_or_else(|| "-".to_owned(), |cores| cores.to_string()));
        }
        row.extend([
            show_seconds(step.time_s),
            step.share.map_or_else(|| "host".to_owned(), percent),
            show_bytes(step.memory_bytes as f64),
        ]);
        row
    };
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    let headings = ["step", "op", "bound by", "cores", "time", "share", "memory"];
    let headings: Vec<&str> =
        headings.into_iter().filter(|heading| told_apart || *heading != "cores").collect();
    heading + &table(&headings, 3, &rows)
}

/// Part of a memory that is in use at its peak.
fn share(memory: &MemoryPart) -> f64 {
    memory.peak as f64 / memory.capacity.max(1) as f64
}

fn memory_text(memory: &MemoryPart) -> String {
    let share = share(memory);
    let where_ = if memory.cores > 1 {
        format!(" (of each of {} cores, the fullest)", memory.cores)
    } else {
        String::new()
    };
    let mut text = format!(
        "\nmemory `{}`{where_}: {} of {} at the peak, {}, in step `{}`\n",
        memory.name,
        show_bytes(memory.peak as f64),
        show_bytes(memory.capacity as f64),
        percent(share),
        memory.peak_step
    );
    let classes: Vec<String> = memory
        .peak_by_class
        .iter()
        .map(|(class, bytes)| format!("{class} {}", show_bytes(*bytes as f64)))
        .collect();
    text += &wrapped(&format!("  {}", classes.join(", ")), "  ");
    text + &format!("  over time: {}\n", track(&memory.over_time, memory.peak))
}

/// Bytes in use over the steps, as bars up to the peak.
fn track(bytes: &[u64], peak: u64) -> String {
    let columns = TRACK.min(bytes.len());
    let column = |i: usize| {
        let (from, to) =
            (i * bytes.len() / columns, ((i + 1) * bytes.len() / columns).max(i * bytes.len() / columns + 1));
        let most = bytes[from..to].iter().copied().max().unwrap_or(0);
        BARS[((most as f64 / peak.max(1) as f64) * (BARS.len() - 1) as f64).round() as usize]
    };
    (0..columns).map(column).collect()
}

fn suggestion_text(suggestion: &Suggestion) -> String {
    let option = suggestion.option.as_ref().map(|o| format!(" ({o})")).unwrap_or_default();
    let gain = match (suggestion.metric, suggestion.gain) {
        (_, None) => "it would run".to_owned(),
        ("samples_per_s", Some(gain)) => format!("{gain:.2}x the samples/s"),
        ("latency_ms end to end", Some(gain)) => format!("{gain:.2}x faster end to end"),
        (_, Some(gain)) => format!("{gain:.2}x faster"),
    };
    let but = suggestion.but.as_ref().map(|b| format!("; {b}")).unwrap_or_default();
    format!("  {}{option}: {gain}, predicted{but}", suggestion.change)
}
