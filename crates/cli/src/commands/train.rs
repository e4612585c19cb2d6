//! `orrery train`.

use crate::args::{Common, ReadArgs, Train, resumed};
use crate::commands::data::part;
use crate::commands::outputs::{self, Kind};
use crate::commands::shared::{ON_HOST, no_effect, note, open, place, threads};
use crate::interrupt::stoppable;
use crate::output::{self, Answer, Exit, expected, progress_is_visible, table, wrapped};
use crate::progress::Line;
use orrery::data::{Dataset, Options as DataOptions, open as open_data};
use orrery::training::{
    Epoch, Event, Forecast, Length, Loss, LossScaling, Optimizer, Predicted, Request, Schedule, Spec,
    Trained, check_save, default_loss, options_of, save, train,
};
use orrery::{DType, Diagnostic, Model, Place, Progress, Result, Setup, show_seconds, show_si};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two lines about steps where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// What differs from run to run of a grid.
#[derive(Clone, Copy, Debug)]
struct Point {
    batch: u64,
    rate: f64,
    length: Length,
    seed: u64,
}

/// What was executed here, and what is predicted of the machine.
struct Ran {
    trained: Trained,
    forecast: Option<Forecast>,
}

pub(crate) fn answer(args: &Train, common: &Common) -> Result<Answer> {
    let merged = args.resume.as_ref().map(|path| going_on(args, path, common)).transpose()?;
    let args = merged.as_ref().unwrap_or(args);
    let model = open(&args.model, &args.batch)?;
    let place = place(&args.on, &args.machine)?;
    check_effects(args, &place)?;
    check_paths(args)?;
    let data = args.data.as_deref().unwrap_or_default();
    let read = data_options(&args.read)?;
    let all = open_data(data, &read)?;
    let test = args.test.as_ref().map(|test| open_data(test, &read)).transpose()?;
    let learned = match args.held_out {
        0.0 => all.len(),
        share => all.split(part(share), 1)?.1.len(),
    };
    let points = points(args, &model, learned as u64);
    let alone = points.len() == 1;
    if !alone && (args.checkpoint.is_some() || args.save.is_some() || args.resume.is_some()) {
        return Diagnostic::error("train-grid", "several runs cannot share one file")
            .help("leave out --checkpoint, --resume and --save, or give one value for each option")
            .err();
    }
    if let Some(path) = &args.save {
        check_save(&model, path)?;
    }
    let progress = stoppable()?;
    let mut runs = Vec::new();
    for point in points {
        if !alone {
            note(common, &format!("run with {}", described(&point)));
        }
        let trained = one(&model, (&all, test.as_ref()), &place, args, common, point, &progress);
        let stopped = trained.as_ref().is_err_and(|error| error.code == "cancelled");
        match trained {
            Ok(ran) => runs.push((point, Ok(ran))),
            Err(error) if !alone => {
                output::report(&error);
                runs.push((point, Err(error)));
            }
            Err(error) if stopped => return Err(Box::new(error.help(how_to_go_on(args)))),
            Err(error) => return Err(error),
        }
        if stopped {
            break;
        }
    }
    let mut exit = Exit::Done;
    if let (Some(path), [(_, Ok(ran))]) = (&args.save, &runs[..]) {
        match keep(&model, &ran.trained, path) {
            Ok(()) => note(common, &format!("the trained model is written to {}", path.display())),
            Err(error) => {
                output::report(&error);
                exit = Exit::Input;
            }
        }
    }
    Ok(Answer { text: text(&runs, &place, args), json: json(&runs, &model, args), exit })
}

/// Refuses to write over what is read, or over what something else has made.
fn check_paths(args: &Train) -> Result<()> {
    let outputs = [
        ("--checkpoint", args.checkpoint.as_deref(), Kind::Checkpoint),
        ("--save", args.save.as_deref(), Kind::Model),
    ];
    let outputs: Vec<outputs::Output<'_>> =
        outputs.into_iter().filter_map(|(option, path, kind)| Some((option, path?, kind))).collect();
    let mut inputs = vec![("the model", Path::new(&args.model.model))];
    inputs.extend(args.data.iter().map(|data| ("the data", Path::new(data))));
    inputs.extend(args.test.iter().map(|test| ("the test data", Path::new(test))));
    inputs.extend(args.machine.files.systems.iter().map(|file| ("a system file", file.as_path())));
    // A run that goes on may replace the checkpoint that it goes on from.
    outputs::check(&outputs, &inputs)
}

/// The command that goes on from where a run was stopped.
fn how_to_go_on(args: &Train) -> String {
    match &args.checkpoint {
        Some(path) => {
            let (model, path) = (&args.model.model, path.display());
            format!("to go on: orrery train {model} --resume {path} --checkpoint {path}")
        }
        None => "with --checkpoint FILE a run keeps what it has learned, and --resume FILE goes on from it"
            .to_owned(),
    }
}

/// Writes the trained model, or where the path does not take it any more, beside the system's temporary files.
fn keep(model: &Model, trained: &Trained, path: &Path) -> Result<()> {
    let Err(error) = save(model, &trained.states, path) else { return Ok(()) };
    let elsewhere = std::env::temp_dir().join(format!("orrery-{}.onnx", std::process::id()));
    let kept = save(model, &trained.states, &elsewhere);
    Err(Box::new(match kept {
        Ok(()) => error.help(format!("the trained model is kept in {}", elsewhere.display())),
        Err(again) => error.help(format!("it could not be kept elsewhere either: {}", again.cause)),
    }))
}

/// The options of a run that goes on from a checkpoint.
fn going_on(args: &Train, path: &Path, common: &Common) -> Result<Train> {
    let place = path.display().to_string();
    let found = resumed(args, &options_of(path)?).map_err(|error| {
        let cause = format!("its options are not those of this version: {}", error.kind());
        Box::new(Diagnostic::error("checkpoint-format", cause).at(place.clone()))
    })?;
    let differs = |(name, was, is): &(String, String, String)| {
        let was = if was.is_empty() { "not given" } else { was.as_str() };
        format!("--{name} is {is} and was {was} in its run")
    };
    // What says which samples were held out, and in which order the others come, cannot change on the way.
    if let Some(fixed) = found.changed.iter().find(|(name, ..)| name == "held-out" || name == "seed") {
        return Diagnostic::error("checkpoint-mismatch", differs(fixed))
            .at(place)
            .help(format!("leave --{} out to go on with it", fixed.0))
            .err();
    }
    if !found.kept.is_empty() {
        note(common, &format!("from the checkpoint: {}", found.kept.join(" ")));
    }
    found
        .changed
        .iter()
        .for_each(|change| note(common, &format!("other than the checkpoint: {}", differs(change))));
    Ok(found.args)
}

/// Refuses options that would do nothing to this run.
fn check_effects(args: &Train, place: &Place) -> Result<()> {
    let on_host = matches!(place, Place::Host);
    if on_host && args.narrow_weights {
        return no_effect("--narrow-weights", ON_HOST);
    }
    if on_host && args.stochastic_rounding == Some(true) {
        return no_effect("--stochastic-rounding", ON_HOST);
    }
    let optimizer = optimizer(args)?;
    if !args.no_decay.is_empty() && optimizer.weight_decay() == 0.0 {
        return no_effect("--no-decay", "nothing is decayed; --weight-decay says how much");
    }
    no_labels(&args.read, args.loss.as_deref())
}

/// Refuses to name labels of which nothing is made.
pub(crate) fn no_labels(read: &ReadArgs, loss: Option<&str>) -> Result<()> {
    if read.label.is_some() && loss == Some(Loss::Output.name()) {
        return no_effect("--label", "with --loss output the model makes its loss without labels");
    }
    Ok(())
}

fn optimizer(args: &Train) -> Result<Optimizer> {
    let mut optimizer = Optimizer::parse(&args.optimizer)
        .ok_or_else(|| unknown("optimizer", &args.optimizer, &Optimizer::NAMES))?;
    if let Some(momentum) = args.momentum {
        let why = format!("{} has no momentum of its own; sgd and rmsprop have one", args.optimizer);
        optimizer = match optimizer.with_momentum(momentum) {
            Some(optimizer) => optimizer,
            None => return no_effect("--momentum", &why),
        };
    }
    Ok(args.weight_decay.map_or(optimizer, |decay| optimizer.with_weight_decay(decay)))
}

/// How the data are to be read; `--label` is another word for their option `target`.
pub(crate) fn data_options(args: &ReadArgs) -> Result<DataOptions> {
    let mut options = DataOptions::default();
    for (key, value) in &args.data_options {
        options.set(key, value)?;
    }
    let Some(label) = &args.label else { return Ok(options) };
    if let Some(target) = options.target.replace(label.clone()).filter(|target| target != label) {
        let cause = format!("--label is {label}, and --data-option target, which says the same, is {target}");
        return Diagnostic::error("train-option", cause).help("leave one of them out").err();
    }
    Ok(options)
}

fn points(args: &Train, model: &Model, samples: u64) -> Vec<Point> {
    let lengths: Vec<Length> = match (args.steps, args.samples) {
        (Some(steps), _) => vec![Length::Steps(steps)],
        (None, Some(samples)) => vec![Length::Samples(samples)],
        (None, None) => args.epochs.iter().map(|n| Length::Epochs(*n)).collect(),
    };
    let seeds = if args.seed.is_empty() { vec![1] } else { args.seed.clone() };
    let batches = match args.batch.is_empty() {
        true => vec![model.given_batch().unwrap_or(samples.clamp(1, 64))],
        false => args.batch.clone(),
    };
    let mut points = Vec::new();
    for &batch in &batches {
        for &rate in &args.lr {
            for &length in &lengths {
                points.extend(seeds.iter().map(|&seed| Point { batch, rate, length, seed }));
            }
        }
    }
    points
}

fn one(
    model: &Model,
    (all, test): (&Dataset, Option<&Dataset>),
    place: &Place,
    args: &Train,
    common: &Common,
    point: Point,
    progress: &Progress,
) -> Result<Ran> {
    let (data, held_out) = match args.held_out {
        0.0 => (all.clone(), None),
        share => {
            let (held, rest) = all.split(part(share), point.seed)?;
            (rest, Some(held))
        }
    };
    let request = request(&data, place, args, common, point)?;
    let line = Line::new(common.quiet);
    let mut last = Instant::now();
    let mut tell = |event: &Event<'_>| match event {
        Event::About(lines) => lines.iter().for_each(|line| note(common, line)),
        Event::Step { step, of, mean, loss, rate, left } => {
            let shown = format!(
                "step {step}/{of}  loss {loss:.4}, mean of the epoch so far {mean:.4}  {rate:.0} samples/s on this host  {} left",
                show_seconds(*left)
            );
            if progress_is_visible(common.quiet) {
                line.show(&shown);
            } else if last.elapsed() >= BETWEEN_LINES {
                last = Instant::now();
                note(common, &shown);
            }
        }
        Event::Epoch(epoch) => {
            line.clear();
            note(common, &epoch_line(epoch));
        }
        Event::Note(diagnostic) if !common.quiet => {
            line.clear();
            output::report(diagnostic);
        }
        Event::Note(_) => {}
        Event::Checkpoint(path, step) => {
            line.clear();
            note(common, &format!("checkpoint of step {step} in {}", path.display()));
        }
    };
    let trained = train(model, data, held_out, test.cloned(), &request, progress, &mut tell)?;
    Ok(Ran { trained, forecast: Forecast::of(model, &request)? })
}

fn request(data: &Dataset, place: &Place, args: &Train, common: &Common, point: Point) -> Result<Request> {
    let kind = loss_of(args.loss.as_deref(), data, common)?;
    let habits = orrery::training::habits(place)?;
    let mut spec = Spec::new(kind, optimizer(args)?);
    spec.loss.output.clone_from(&args.loss_of);
    spec.accumulations = args.accumulate;
    spec.clip_norm = args.clip_norm;
    spec.frozen.clone_from(&args.freeze);
    spec.undecayed.clone_from(&args.no_decay);
    if args.narrow_weights {
        spec.parameters_in = match place {
            Place::Machine(setup) => setup.target()?.precision.storage,
            Place::Host => DType::F32,
        };
    }
    let scaling = match &args.loss_scale {
        Some(text) => LossScaling::parse(text)?,
        None => habits.scaling,
    };
    let schedule = Schedule::parse(&args.schedule)?.with_warmup(args.warmup);
    let augment = args.augment.as_ref().map(|a| (a.column.clone(), a.how));
    Ok(Request {
        spec,
        place: place.clone(),
        threads: threads(common),
        stochastic: args.stochastic_rounding.unwrap_or(habits.stochastic),
        scaling,
        batch: usize::try_from(point.batch).unwrap_or(usize::MAX),
        length: point.length,
        rate: point.rate,
        schedule,
        seed: point.seed,
        augment,
        columns: args.read.columns.clone(),
        normalise: args.normalise.clone(),
        checkpoint: args.checkpoint.clone().map(|path| (path, args.checkpoint_every)),
        resume: args.resume.clone(),
        options: args.options.clone(),
    })
}

/// The loss of that name, or where none is named the usual one of such labels.
pub(crate) fn loss_of(name: Option<&str>, data: &Dataset, common: &Common) -> Result<Loss> {
    if let Some(name) = name {
        return Loss::parse(name).ok_or_else(|| unknown("loss", name, &Loss::NAMES));
    }
    let kind = default_loss(data)?;
    note(common, &format!("the loss is {}, by the type of the labels", kind.name()));
    Ok(kind)
}

fn unknown(what: &str, name: &str, known: &[&str]) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error("train-option", format!("`{name}` is no {what}"))
            .help(format!("known: {}", known.join(", "))),
    )
}

fn epoch_line(epoch: &Epoch) -> String {
    let held: Vec<String> = epoch.held_out.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    let held = if held.is_empty() { String::new() } else { format!("  held out: {}", held.join(", ")) };
    let Epoch { epoch: number, step, loss, .. } = epoch;
    match epoch.whole {
        true => format!("epoch {number} ends after step {step}: mean loss {loss:.4}{held}"),
        false => {
            format!("the run ends after step {step}, within epoch {number}: mean loss so far {loss:.4}{held}")
        }
    }
}

fn described(point: &Point) -> String {
    let length = match point.length {
        Length::Epochs(n) => format!("{n} epochs"),
        Length::Steps(n) => format!("{n} steps"),
        Length::Samples(n) => format!("{n} samples"),
    };
    format!("batch {}, learning rate {}, {length}, seed {}", point.batch, point.rate, point.seed)
}

type Runs = [(Point, Result<Ran>)];

fn text(runs: &Runs, place: &Place, args: &Train) -> String {
    let names: Vec<String> = runs
        .iter()
        .filter_map(|(_, run)| run.as_ref().ok()?.trained.history.last())
        .map(|epoch| epoch.held_out.keys().cloned().collect())
        .next()
        .unwrap_or_default();
    let mut headings = vec!["batch", "lr", "seed", "epochs", "steps", "samples", "mean loss", "last loss"];
    let held: Vec<String> = names.iter().map(|name| format!("held-out {name}")).collect();
    headings.extend(held.iter().map(String::as_str));
    let tested: Vec<String> = if args.test.is_some() { names_of_test(runs) } else { Vec::new() };
    let test: Vec<String> = tested.iter().map(|name| format!("test {name}")).collect();
    headings.extend(test.iter().map(String::as_str));
    headings.push("host samples/s");
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|(point, run)| {
            let start = vec![point.batch.to_string(), point.rate.to_string(), point.seed.to_string()];
            let rest = match run {
                Ok(ran) => figures(&ran.trained, &names, &tested),
                Err(_) => vec!["-".to_owned(); headings.len() - start.len()],
            };
            start.into_iter().chain(rest).collect()
        })
        .collect();
    let mut text = table(&headings, 0, &rows);
    for (point, run) in runs {
        if let Err(error) = run {
            let line = format!("{} was not trained: {} [{}]", described(point), error.cause, error.code);
            text += &wrapped(&line, "  ");
        }
    }
    if let [(_, Ok(Ran { trained, .. }))] = runs
        && trained.steps_timed == 0
    {
        let steps = trained.steps;
        return text
            + &format!(
                "nothing was left to train: the checkpoint is of step {steps}, and the run ends there or before;\n\
                 --steps, --epochs and --samples count from the beginning of the run\n"
            );
    }
    let fixed = match (args.steps, args.samples) {
        (Some(_), _) => "steps are held fixed: a larger batch sees more samples",
        (None, Some(_)) => "samples are held fixed",
        (None, None) => "epochs are held fixed: every run of as many sees the same samples",
    };
    if runs.len() > 1 {
        text += &format!("{fixed}\n");
    }
    text += &executed(place);
    for (point, run) in runs {
        if let Ok(Ran { trained, forecast: Some(forecast) }) = run {
            let of = if runs.len() > 1 { format!("{}: ", described(point)) } else { String::new() };
            text += &wrapped(&format!("{of}{}", times(trained, forecast)), "  ");
        }
    }
    text
}

/// Where and in what numbers something was computed.
pub(crate) fn executed(place: &Place) -> String {
    match place {
        Place::Host => "executed on this host in fp32; times are this host's\n".to_owned(),
        Place::Machine(setup) => {
            let precision = precision_of(setup);
            format!("executed on this host in the arithmetic of {} ({precision})\n", setup.system.name)
        }
    }
}

/// Figures over the test data, by name.
fn names_of_test(runs: &Runs) -> Vec<String> {
    let tested = runs.iter().filter_map(|(_, run)| run.as_ref().ok()?.trained.test.as_ref()).next();
    tested.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// The time of a run twice: that of this host, and what the machine would take.
fn times(trained: &Trained, forecast: &Forecast) -> String {
    let machine = &forecast.record.identity.machine;
    let steps = trained.steps_timed;
    let here = format!(
        "measured on this host: {steps} steps in {}, {:.0} samples/s",
        show_seconds(trained.seconds),
        trained.samples_timed as f64 / trained.seconds.max(1e-9)
    );
    if let Some(refusal) = forecast.record.refusal() {
        return format!("{here}; nothing is predicted of {machine}: {} [{}]", refusal.reason, refusal.code);
    }
    let shown = |predicted: Option<Predicted>, show: &dyn Fn(f64) -> String| match predicted {
        Some(Predicted { value, interval }) => {
            let measured = if interval.is_some() { "expected measured: " } else { "" };
            format!("{} ({measured}{})", show(value), expected(interval, show))
        }
        None => "-".to_owned(),
    };
    let seconds = shown(forecast.seconds(steps), &|x| show_seconds(x));
    let rate = shown(forecast.rate(), &|x| show_si(x, "samples/s"));
    format!("{here}; predicted for {machine}, not measured: the same steps in {seconds}, {rate}")
}

/// What is predicted of the machine for the steps of a run.
fn predicted(trained: &Trained, forecast: &Forecast) -> Value {
    let figure = |p: Option<Predicted>| p.map(|p| json!({ "value": p.value, "interval": p.interval }));
    json!({
        "steps": trained.steps_timed,
        "seconds": figure(forecast.seconds(trained.steps_timed)),
        "samples_per_s": figure(forecast.rate()),
        "accumulations": forecast.accumulations,
        "record": forecast.record.to_value(),
    })
}

fn precision_of(setup: &Setup) -> String {
    setup.target().map_or_else(|_| String::new(), |target| target.precision.name.clone())
}

fn figures(trained: &Trained, names: &[String], tested: &[String]) -> Vec<String> {
    let last = trained.history.last();
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
    let mut cells = vec![
        if trained.epochs.fract() == 0.0 {
            trained.epochs.to_string()
        } else {
            format!("{:.2}", trained.epochs)
        },
        trained.steps.to_string(),
        trained.samples.to_string(),
        number(last.map(|epoch| epoch.loss)),
        number(trained.last_loss),
    ];
    cells.extend(names.iter().map(|name| number(last.and_then(|epoch| epoch.held_out.get(name).copied()))));
    cells.extend(
        tested.iter().map(|name| number(trained.test.as_ref().and_then(|test| test.get(name).copied()))),
    );
    cells.push(format!("{:.0}", trained.samples_timed as f64 / trained.seconds.max(1e-9)));
    cells
}

fn json(runs: &Runs, model: &Model, args: &Train) -> Value {
    let runs: Vec<Value> = runs
        .iter()
        .map(|(point, run)| {
            let outcome = match run {
                Ok(Ran { trained, forecast }) => json!({
                    "history": trained.history,
                    "epochs": trained.epochs,
                    "last_loss": trained.last_loss,
                    "test": trained.test,
                    "steps": trained.steps,
                    "samples": trained.samples,
                    "host_seconds": trained.seconds,
                    "host_steps_timed": trained.steps_timed,
                    "host_samples_timed": trained.samples_timed,
                    "host_evaluation_seconds": trained.evaluation_seconds,
                    "predicted": forecast.as_ref().map(|forecast| predicted(trained, forecast)),
                }),
                Err(error) => json!({ "error": output::diagnostic_json(error) }),
            };
            json!({ "batch": point.batch, "learning_rate": point.rate, "seed": point.seed, "outcome": outcome })
        })
        .collect();
    json!({ "model": model.name, "on": args.on, "data": args.data, "provenance": "executed", "runs": runs })
}
