//! Language models at work: a pass over the prompt, then a step for each token more.
//!
//! A row of a measurements file names a prompt and a number of tokens; its figure follows from two programs: one for the
//! prompt, and one for a step whose cache is as long as the tokens before it. The second is compiled once, with the length of
//! the cache left open, and timed at several lengths.

use crate::cut::Cut;
use crate::model::{Bound, Model, Options};
use crate::power::watts;
use crate::setup::Setup;
use crate::validate::no_metric;
use crate::variant::variant;
use crate::way::{build, time};
use crate::workload::micro_batch;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Bindings;
use orrery_machine::ExecutionModel;
use orrery_program::Program;
use orrery_record::{Record, Workload};
use orrery_simulate::device_time;
use orrery_transform::Weights;
use orrery_zoo::ZooModel;
use serde_json::Value;

/// Why a row cannot be modelled.
type Reason = String;

/// Context of a decode step whose row gives none.
pub(crate) const CONTEXT: i64 = 1024;
/// Most lengths of the cache at which steps are timed; between them, time is taken to be linear.
const MOST_LENGTHS: i64 = 17;
/// Most turns in which sequences are taken that do not fit at once.
const MOST_TURNS: u64 = 16;

/// A predicted figure, with what to know about it.
type Predicted = (f64, Vec<String>);

/// The decoder that a row lets generate; none for rows of other kinds.
pub(crate) fn generator(record: &Record) -> Option<&'static ZooModel> {
    let workload = &record.identity.workload;
    let generates = matches!(workload.mode.as_deref(), Some("prefill" | "decode" | "inference"));
    let known = orrery_zoo::find(&workload.model).ok().filter(|_| generates)?;
    known.parameters.iter().any(|parameter| parameter.name == "form").then_some(known)
}

/// What a row asks for.
struct Request<'a> {
    known: &'static ZooModel,
    setup: &'a Setup,
    /// Choices of the model.
    options: Vec<String>,
    /// Sequences at once in one copy.
    batch: u64,
    /// How a copy is cut over devices.
    cut: Cut,
}

/// The figure of a row in the unit of its metric.
///
/// # Errors
/// Why it cannot be modelled.
pub(crate) fn predict(
    known: &'static ZooModel,
    record: &Record,
    metric: &str,
    setup: &Setup,
) -> std::result::Result<Predicted, Reason> {
    let workload = &record.identity.workload;
    let devices = record.identity.devices.ok_or("the number of devices is not published")?;
    let cut = cut(workload, devices, setup)?;
    let batch = micro_batch(record, (devices / cut.devices()).max(1.0))?;
    let (mut options, mut notes) = variant(known, workload);
    options.extend(cut.options());
    notes.extend(cut.note());
    let request = Request { known, setup, options, batch, cut };
    let length = |key: &str| workload.spec.get(key).and_then(Value::as_i64).filter(|n| *n > 0);
    let whole = workload.lengths.sequence.and_then(|n| i64::try_from(n).ok());
    let prompt = length("in_len");
    let new = length("out_len").unwrap_or(1);
    if metric == "power_w" {
        let middle = prompt.ok_or("the length of the prompt is not published")? + new / 2;
        notes.push("power of a step in the middle of the generation".to_owned());
        return Ok((request.watts(middle)?, notes));
    }
    let (seconds, tokens) = match workload.mode.as_deref() {
        Some("prefill") => {
            let prompt = prompt.or(whole).ok_or("the length of the prompt is not published")?;
            (request.prompt(prompt), prompt)
        }
        Some("decode") if new > 1 && metric == "latency_ms" => {
            let prompt = prompt.ok_or("the length of the prompt is not published")?;
            (request.whole(prompt, new, &mut notes), new)
        }
        Some("decode") => {
            let context = prompt.or(whole.map(|n| n - 1)).filter(|n| *n > 0).unwrap_or_else(|| {
                notes.push(format!("context not published, taken as {CONTEXT} tokens"));
                CONTEXT
            });
            (request.steps(context, new), new)
        }
        _ => {
            let prompt = prompt.ok_or("the length of the prompt is not published")?;
            (request.whole(prompt, new, &mut notes), counted(workload, prompt, new)?)
        }
    };
    let seconds = seconds.map_err(|d| reason(&d))?;
    let sequences = (devices / cut.devices()).max(1.0) * batch as f64;
    let value = match metric {
        "latency_ms" => seconds * 1e3,
        "tokens_per_s" => sequences * tokens as f64 / seconds,
        "tokens_per_s_per_device" => sequences * tokens as f64 / seconds / devices,
        "tokens_per_s_per_user" => tokens as f64 / seconds,
        "samples_per_s" => sequences / seconds,
        other => return Err(no_metric(other, "the time of one device")),
    };
    if devices > cut.devices() {
        notes.push(format!("{devices} devices taken as so many times those of one copy"));
    }
    Ok((value, notes))
}

/// How a row's copies are cut. Where it does not say what several devices do, all of them are one copy: so are requests
/// served as fast as can be. A machine whose chips follow one another by its compiler's plan is not cut.
fn cut(workload: &Workload, devices: f64, setup: &Setup) -> std::result::Result<Cut, Reason> {
    let cut = Cut::of(workload)?;
    let said = ["tp", "pp", "dp", "replicas", "instances"].iter().any(|key| workload.spec.contains_key(*key));
    if matches!(setup.system.model, ExecutionModel::Stream(_)) || said || devices <= 1.0 {
        return Ok(cut);
    }
    Ok(cut.sharded(devices as u64))
}

/// Tokens of a sequence that the row's rate counts.
fn counted(workload: &Workload, prompt: i64, new: i64) -> std::result::Result<i64, Reason> {
    match workload.spec.get("counts").and_then(Value::as_str) {
        None | Some("out") => Ok(new),
        Some("in+out") => Ok(prompt + new),
        Some(other) => Err(format!("it is not known which tokens `{other}` counts")),
    }
}

impl Request<'_> {
    fn model(&self, form: &str, seq: i64, recent: Option<i64>) -> Result<Model> {
        let mut parameters = self.options.clone();
        parameters.extend([format!("form={form}"), "logits=last".to_owned()]);
        let dims = recent.map(|length| ("recent".to_owned(), length));
        let dims = dims.into_iter().chain([("seq".to_owned(), seq)]).collect();
        Model::open(self.known.name, &Options { parameters, dims })
    }
    /// Tokens that blocks with a window have in their caches, where the model has such blocks.
    fn recent(&self, context: i64) -> Option<i64> {
        let full = self.known.bindings.iter().find(|(symbol, _)| *symbol == "recent");
        full.map(|(_, length)| context.min(*length))
    }
    /// Seconds from a prompt to its first new token.
    fn prompt(&self, length: i64) -> Result<f64> {
        let timed = || {
            let bound = self.model("prefill", length, None)?.at_batch(Some(self.batch))?;
            let built = build(&bound, self.setup, Weights::ShapeOnly, &Default::default())?;
            self.through(&bound, &built.compiled.program, &Bindings::new())
        };
        timed().at(|| format!("a prompt of {length} tokens"))
    }
    /// Seconds through all stages, sums over shards counted. Chips that run sections add up as the stages of a section do,
    /// while the weights of what comes next stream in: there, sums are hidden by as much as stages wait for memory.
    fn through(&self, bound: &Bound, program: &Program, at: &Bindings) -> Result<f64> {
        let target = self.setup.target()?;
        let sums = self.cut.sums(&bound.graph, target.precision, &target.system.links);
        let stage = device_time(program, at, &target)?.seconds();
        let instant = if sums > 0.0 { self.setup.with_instant_memory() } else { None };
        let both = match instant {
            Some(instant) => stage.max(device_time(program, at, &instant.target()?)?.seconds() + sums),
            None => stage + sums,
        };
        Ok(self.cut.stages as f64 * both)
    }
    /// Watts of a chip in a step of one token, with as many sequences as it can hold.
    fn watts(&self, context: i64) -> std::result::Result<f64, Reason> {
        let of = |batch: u64| -> Result<Option<f64>> {
            let model = self.model("decode", 1, self.recent(context))?;
            let sizes = [("past".to_owned(), context)].into();
            let (built, timeline) = time(&model.at_sizes(Some(batch), &sizes)?, self.setup)?;
            Ok(watts(&built.compiled.program, &timeline, &self.setup.system.power))
        };
        let mut batch = self.batch;
        loop {
            match of(batch) {
                Err(error) if error.code == "does-not-fit" && batch > 1 => batch /= 2,
                Err(error) => return Err(reason(&error)),
                Ok(watts) => {
                    return watts.ok_or_else(|| "the power of the machine is not published".to_owned());
                }
            }
        }
    }
    /// Seconds of so many steps of one token each, the first of which finds `context` tokens in the cache.
    fn steps(&self, context: i64, steps: i64) -> Result<f64> {
        if steps == 0 {
            return Ok(0.0);
        }
        let last = context + steps - 1;
        let of_one_shape = self.setup.target()?.losses.has_whole_cache();
        let timed = || {
            let model = self.model("decode", 1, self.recent(context))?;
            let bound = model.with_open(Some(self.batch), "past")?;
            let options = orrery_compile::Options {
                symbols: [("past".to_owned(), (context, last))].into(),
                ..Default::default()
            };
            let built = build(&bound, self.setup, Weights::ShapeOnly, &options)?;
            let first = if of_one_shape { last } else { context };
            let turns = steps as f64 / (last - first + 1) as f64;
            sum(first, last, |past| {
                self.through(&bound, &built.compiled.program, &[("past".to_owned(), past)].into())
            })
            .map(|seconds| seconds * turns)
        };
        timed().at(|| format!("a step at a cache of {last} tokens"))
    }
    /// Seconds from prompts to their last new tokens. Sequences that the device cannot hold at once go in turns, as few
    /// as it takes: so do engines that page their caches.
    fn whole(&self, prompt: i64, new: i64, notes: &mut Vec<String>) -> Result<f64> {
        let of = |batch: u64| -> Result<f64> {
            let turn = Request { batch, options: self.options.clone(), ..*self };
            Ok(turn.prompt(prompt)? + turn.steps(prompt, new - 1)?)
        };
        let mut turns = 1;
        loop {
            match of(self.batch.div_ceil(turns)) {
                Err(error) if error.code == "does-not-fit" && turns < self.batch.min(MOST_TURNS) => {
                    turns += 1;
                }
                Err(error) => return Err(error),
                Ok(seconds) if turns == 1 => return Ok(seconds),
                Ok(seconds) => {
                    notes.push(format!("{} sequences do not fit at once: {turns} turns", self.batch));
                    return Ok(seconds * self.batch as f64 / self.batch.div_ceil(turns) as f64);
                }
            }
        }
    }
}

/// The sum of `of` over all integers from `first` to `last`, known at a few and linear between them.
fn sum(first: i64, last: i64, of: impl Fn(i64) -> Result<f64>) -> Result<f64> {
    let pieces = (last - first).clamp(1, MOST_LENGTHS - 1);
    let mut before = (first, of(first)?);
    let mut total = before.1;
    for piece in 1..=pieces {
        let at = first + (last - first) * piece / pieces;
        if at == before.0 {
            break;
        }
        let here = of(at)?;
        // From the value behind the last one to this one.
        let count = (at - before.0) as f64;
        total += count * (before.1 + here) / 2.0 + (here - before.1) / 2.0;
        before = (at, here);
    }
    Ok(total)
}

/// A diagnostic in a line.
pub(crate) fn reason(diagnostic: &Diagnostic) -> Reason {
    let place = if diagnostic.place.is_empty() {
        String::new()
    } else {
        format!(" (at {})", diagnostic.place.join(" > "))
    };
    format!("{} [{}]{place}", diagnostic.cause, diagnostic.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_cost::collective::all_reduce;
    use orrery_record::rows::read;

    type Found = std::result::Result<f64, Reason>;

    fn of(workload: &str, mode: &str, metric: &str, spec: &str) -> Found {
        let spec = spec.replace('"', "\"\"");
        let text = format!(
            "system,devices,workload,mode,precision,batch_size,seq_len,metric,value,spec\n\
             a100-40gb,1,{workload},{mode},fp16,4,,{metric},1,\"{spec}\"\n"
        );
        let record = &read(&text).unwrap()[0];
        let setup = Setup::find("a100-40gb").unwrap().precision(Some("fp16"));
        let known = generator(record).ok_or("it does not generate")?;
        predict(known, record, metric, &setup).map(|(value, _)| value)
    }

    #[test]
    fn sums_are_those_of_lines_between_few_points() {
        let line = |n: i64| Ok(3.0 + 2.0 * n as f64);
        for (first, last) in [(5, 5), (5, 6), (1, 17), (1, 18), (100, 2147)] {
            let expected: f64 = (first..=last).map(|n| line(n).unwrap()).sum();
            let found = sum(first, last, line).unwrap();
            assert!((found - expected).abs() < 1e-9 * expected, "{first} to {last}: {found} {expected}");
        }
    }

    #[test]
    fn a_generation_is_its_prompt_and_its_steps() {
        let small = r#""n_layers": 2, "d_model": 256, "n_heads": 4, "ffn": 512, "vocab": 1000"#;
        let spec = |rest: &str| format!("{{{small}, {rest}}}");
        let ms = |mode, rest: &str| of("llama2_7b", mode, "latency_ms", &spec(rest)).unwrap();
        let prompt = ms("prefill", r#""in_len": 64"#);
        let steps: f64 = (64..67).map(|n| ms("decode", &format!(r#""in_len": {n}"#))).sum();
        let whole = ms("inference", r#""in_len": 64, "out_len": 4"#);
        assert!((whole - prompt - steps).abs() < 1e-6 * whole, "{whole} {prompt} {steps}");
        let rate = |rest: &str| of("llama2_7b", "inference", "tokens_per_s", &spec(rest)).unwrap();
        let out = rate(r#""in_len": 64, "out_len": 4, "counts": "out""#);
        assert!((out - 4.0 * 4.0 / (whole * 1e-3)).abs() < 1e-6 * out);
        let both = rate(r#""in_len": 64, "out_len": 4, "counts": "in+out""#);
        assert!((both / out - 17.0).abs() < 1e-9);
    }

    #[test]
    fn shards_share_the_work_and_add_up() {
        let ms = |tp: u64| {
            of("llama2_7b", "decode", "latency_ms", &format!(r#"{{"in_len": 512, "tp": {tp}}}"#)).unwrap()
        };
        let (one, two, eight) = (ms(1), ms(2), ms(8));
        assert!(two > 0.5 * one && two < 0.8 * one, "{one} {two}");
        assert!(eight > 0.125 * one && eight < two, "{one} {two} {eight}");
    }

    #[test]
    fn sums_hide_behind_weights_where_sections_stream_them() {
        let known = orrery_zoo::find("llama2_7b").unwrap();
        // More than the memory units hold.
        let options = ["layers=24", "vocabulary=1000", "shards=8"].map(str::to_owned).to_vec();
        let step = |machine: &str, cut: Cut| {
            let setup = Setup::find(machine).unwrap();
            let request = Request { known, setup: &setup, options: options.clone(), batch: 1, cut };
            request.steps(512, 1).unwrap()
        };
        let shared = Cut::NONE.sharded(8);
        let (alone, together) = (step("sn40l", Cut::NONE), step("sn40l", shared));
        let sum = all_reduce(4096.0 * 2.0, 8.0, &Setup::find("sn40l").unwrap().system.links);
        assert!(together < alone + 0.5 * 48.0 * sum, "{together} {alone} {sum}");
        assert!(step("a100", shared) > step("a100", Cut::NONE));
    }

    #[test]
    fn power_lies_between_idle_and_full() {
        let watts = |batch: &str| {
            of(
                "llama2_7b",
                "inference",
                "power_w",
                &format!(r#"{{"in_len": 64, "out_len": 64, {batch} "tp": 1}}"#),
            )
            .unwrap()
        };
        let (few, many) = (watts(r#""micro_batch": 1,"#), watts(r#""micro_batch": 256,"#));
        assert!(few > 80.0 && many > few && many <= 400.0, "{few} {many}");
    }

    #[test]
    fn windows_hold_no_more_than_there_is() {
        let whole = |context: i64| {
            let setup = Setup::find("a100-40gb").unwrap();
            let options = ["layers=2", "vocabulary=1000"].map(str::to_owned).to_vec();
            let known = orrery_zoo::find("gpt_oss_120b").unwrap();
            let cut = Cut::NONE;
            Request { known, setup: &setup, options, batch: 64, cut }.steps(context, 1).unwrap()
        };
        assert!(whole(16) < whole(127) && whole(127) < whole(4000));
    }

    #[test]
    fn sequences_that_do_not_fit_go_in_turns() {
        // 32 layers of 524,288 B a token, four sequences: 12,000 tokens are 25 GB, and 24,000 are more than there are.
        let rate = |new| {
            of("llama2_7b", "inference", "tokens_per_s", &format!(r#"{{"in_len": 64, "out_len": {new}}}"#))
        };
        let (short, long) = (rate(11_936).unwrap(), rate(23_936).unwrap());
        assert!(long < 0.7 * short, "{long} {short}");
    }

    #[test]
    fn what_is_not_modelled_says_why() {
        assert!(
            of("llama2_7b", "inference", "tokens_per_s", r#"{"in_len": 8, "out_len": 8, "cp": 2}"#)
                .unwrap_err()
                .contains("`cp`")
        );
        assert!(
            of("llama2_70b", "prefill", "latency_ms", r#"{"in_len": 8}"#)
                .unwrap_err()
                .contains("does-not-fit")
        );
        assert!(of("llama2_7b", "inference", "tokens_per_s", "{}").unwrap_err().contains("not published"));
        assert_eq!(of("resnet50", "inference", "latency_ms", "{}").unwrap_err(), "it does not generate");
    }
}
