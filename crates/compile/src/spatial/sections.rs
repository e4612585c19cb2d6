//! Cutting the stages into sections, and giving each stage its PCUs.

use super::plan::{Plan, Stage};
use super::repeats;
use orrery_cost::spatial::{Units, stage_cycles};
use orrery_program::BufferId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Every stage is a section of its own.
pub(super) fn apart(plan: &Plan) -> Vec<Range<usize>> {
    (0..plan.stages.len()).map(|i| i..i + 1).collect()
}

/// The cut of least time: each section fits the chip, and pays for its load, its weights and what passes its ends. The parts
/// of a training step are run one by one, so that none of its sections has stages of two. `stays` where a section that is
/// all there is stays loaded.
pub(super) fn cut(plan: &Plan, units: &Units<'_>, stays: bool) -> Vec<Range<usize>> {
    let mut sections = Vec::new();
    let mut seconds = 0.0;
    for part in plan.stages.chunk_by(|a, b| a.phase == b.phase) {
        let start = sections.last().map_or(0, |last: &Range<usize>| last.end);
        let range = start..start + part.len();
        let mut best = best(plan, units, range.clone());
        best.seconds = best.sections.iter().map(|section| run_seconds(plan, units, section, Load::All)).sum();
        let chosen = repeats::cut(plan, units, &range, best.seconds).unwrap_or(best);
        seconds += chosen.seconds;
        sections.extend(chosen.sections);
    }
    let all = 0..plan.stages.len();
    let one_part =
        plan.stages.first().is_some_and(|first| plan.stages.iter().all(|s| s.phase == first.phase));
    if stays && one_part {
        let mut whole = Section::new(plan, units, 0);
        all.clone().for_each(|stage| whole.add(stage));
        if whole.fits() && run_seconds(plan, units, &all, Load::Stays) < seconds {
            return vec![all];
        }
    }
    sections
}

/// A cut and its time.
pub(super) struct Cut {
    pub seconds: f64,
    pub sections: Vec<Range<usize>>,
}

/// The cut of least time of some stages, where every section loads its program.
pub(super) fn best(plan: &Plan, units: &Units<'_>, range: Range<usize>) -> Cut {
    let count = range.len();
    // The least time in which the first stages can be done, and where the last section of that starts.
    let mut best = vec![(f64::INFINITY, 0); count + 1];
    best[0].0 = 0.0;
    for start in 0..count {
        let mut section = Section::new(plan, units, range.start + start);
        for end in start + 1..=count {
            section.add(range.start + end - 1);
            if !section.fits() && end > start + 1 {
                break;
            }
            let time = best[start].0 + section.seconds(Load::All);
            if time < best[end].0 {
                best[end] = (time, start);
            }
        }
    }
    let mut sections = Vec::new();
    let mut end = count;
    while end > 0 {
        sections.push(range.start + best[end].1..range.start + end);
        end = best[end].1;
    }
    sections.reverse();
    Cut { seconds: best[count].0, sections }
}

/// Seconds of one run of a section that has its PCUs: what [`Section::seconds`] estimates before they are dealt out. Stages
/// start with the first piece of what they read and with their weights, which come in order.
pub(super) fn run_seconds(plan: &Plan, units: &Units<'_>, range: &Range<usize>, load: Load) -> f64 {
    let mut section = Section::new(plan, units, range.start);
    range.clone().for_each(|stage| section.add(stage));
    let stages = &plan.stages[range.clone()];
    let shares = cores(stages, units);
    let latency = units.machine.unit_latency_cycles / units.machine.clock_hz;
    let mut ends: BTreeMap<BufferId, (f64, f64)> = BTreeMap::new();
    let mut brought = BTreeSet::new();
    let (mut weights, mut run) = (0.0, 0.0_f64);
    for (stage, share) in stages.iter().zip(&shares) {
        let time = stage_cycles(&stage.work, *share, units).total() / units.machine.clock_hz + latency;
        let pieces =
            |buffer| plan.kept(buffer, range).and_then(|kept| kept.pieces).map_or(1.0, |p| p.of as f64);
        let (mut start, mut end) = (0.0_f64, 0.0_f64);
        for &buffer in &stage.reads {
            if plan.is_given(buffer) && plan.kept(buffer, range).is_some() && load != Load::Stays {
                if brought.insert(buffer) {
                    weights += plan.bytes(buffer) as f64 / units.bandwidth(true);
                }
                start = start.max(weights);
            }
            let source = plan.source(buffer);
            if let Some((first, last)) = ends.get(&source) {
                start = start.max(*first);
                end = end.max(last + time / pieces(source));
            }
        }
        end = end.max(start + time);
        run = run.max(end);
        for &buffer in &stage.writes {
            ends.insert(buffer, (start + time / pieces(buffer), end));
        }
    }
    let program = match load {
        Load::All => units.load_seconds(2.0 * shares.iter().sum::<u64>() as f64),
        Load::NoProgram | Load::Stays => 0.0,
    };
    program + units.machine.argument_load_seconds + run.max(section.streams(load))
}

/// What a section has to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Program, arguments and weights.
    All,
    /// Arguments and weights: the section before had the same program.
    NoProgram,
    /// Arguments: it is all there is, and stays.
    Stays,
}

/// A section that grows stage by stage.
pub(super) struct Section<'a> {
    plan: &'a Plan,
    units: &'a Units<'a>,
    range: Range<usize>,
    /// PMUs for each buffer that is kept.
    kept: BTreeMap<BufferId, u64>,
    pmus: u64,
    weights: u64,
    incoming: u64,
    /// Values made here that are used later, by the last stage that does; their bytes leave the section until then.
    leaving: BTreeMap<usize, u64>,
    outgoing: u64,
    work: f64,
    longest: f64,
    /// For each value made here, when its stage starts and what it takes.
    made: BTreeMap<BufferId, (Wait, f64)>,
    longest_wait: Wait,
    streamed: BTreeSet<BufferId>,
}

/// A way through the stages: so many times the time of the slowest stage, and seconds of stages that take less.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    intervals: f64,
    seconds: f64,
}

impl Wait {
    fn at(self, interval: f64) -> f64 {
        self.intervals * interval + self.seconds
    }
}

impl<'a> Section<'a> {
    pub(super) fn new(plan: &'a Plan, units: &'a Units<'a>, start: usize) -> Self {
        Self {
            plan,
            units,
            range: start..start,
            kept: BTreeMap::new(),
            pmus: 0,
            weights: 0,
            incoming: 0,
            leaving: BTreeMap::new(),
            outgoing: 0,
            work: 0.0,
            longest: 0.0,
            made: BTreeMap::new(),
            longest_wait: Wait::default(),
            streamed: BTreeSet::new(),
        }
    }
    pub(super) fn add(&mut self, number: usize) {
        self.range.end = number + 1;
        let stage = &self.plan.stages[number];
        self.work += stage.alone;
        self.longest = self.longest.max(stage.least);
        let interval = self.interval();
        let mut wait = Wait::default();
        for &buffer in &stage.reads {
            let source = self.plan.source(buffer);
            if self.plan.maker(buffer).is_some_and(|maker| maker >= self.range.start) {
                let pieces = self.keep(source).unwrap_or(1) as f64;
                let (mut first, alone) = self.made.get(&source).copied().unwrap_or_default();
                if alone < interval {
                    first.seconds += alone / pieces;
                } else {
                    first.intervals += 1.0 / pieces;
                }
                if first.at(interval) > wait.at(interval) {
                    wait = first;
                }
                continue;
            }
            let kept = self.keep(buffer);
            if self.streamed.insert(buffer) {
                // Weights that do not stay are brought again and again while the section runs.
                let stays = self.plan.is_given(buffer) && kept.is_some();
                let direct = kept.is_none();
                let bytes = if direct { self.plan.taken(buffer, number) } else { self.plan.bytes(buffer) };
                *(if stays { &mut self.weights } else { &mut self.incoming }) += bytes;
            }
        }
        if wait.at(interval) > self.longest_wait.at(interval) {
            self.longest_wait = wait;
        }
        for &buffer in &stage.writes {
            self.keep(buffer);
            self.made.insert(buffer, (wait, stage.alone));
            let last = self.plan.last_use(buffer).unwrap_or(number);
            let last = if self.plan.leaves(buffer) { usize::MAX } else { last };
            if last > number {
                *self.leaving.entry(last).or_default() += self.plan.bytes(buffer);
                self.outgoing += self.plan.bytes(buffer);
            }
        }
        // What was last used by this stage need not leave.
        self.outgoing -= self.leaving.remove(&number).unwrap_or(0);
    }
    /// Counts the PMUs of a buffer anew; its pieces where it is kept.
    fn keep(&mut self, buffer: BufferId) -> Option<u64> {
        let kept = self.plan.kept(buffer, &self.range);
        let now = kept.map_or(0, |kept| self.plan.pmus(kept.bytes));
        let before = self.kept.insert(buffer, now).unwrap_or(0);
        self.pmus = self.pmus + now - before;
        kept.map(|kept| kept.pieces.map_or(1, |pieces| pieces.of))
    }
    pub(super) fn fits(&self) -> bool {
        let stages = self.range.len() as u64;
        stages <= self.units.cores() && self.pmus * self.units.machine.pmu_bytes <= self.units.pmu_bytes()
    }
    /// Seconds of the slowest stage, where PCUs are dealt out evenly by work.
    fn interval(&self) -> f64 {
        let cores = self.units.cores() as f64 - 0.5 * self.range.len() as f64;
        (self.work / cores.max(1.0)).max(self.longest)
    }
    /// Seconds in which what comes and goes passes the memory.
    fn streams(&self, load: Load) -> f64 {
        let weights = if load == Load::Stays { 0 } else { self.weights };
        (self.incoming + self.outgoing + weights) as f64 / self.units.bandwidth(true)
    }
    /// Seconds of one run, where PCUs are dealt out evenly by work.
    pub(super) fn seconds(&self, load: Load) -> f64 {
        let interval = self.interval();
        let run = (interval + self.longest_wait.at(interval)).max(self.streams(load));
        let program = match load {
            Load::All => self.units.load_seconds(2.0 * self.units.cores() as f64),
            Load::NoProgram | Load::Stays => 0.0,
        };
        program + self.units.machine.argument_load_seconds + run
    }
}

/// PCUs for each stage so that the slowest is as fast as it can be.
pub(super) fn cores(stages: &[Stage], units: &Units<'_>) -> Vec<u64> {
    let all = units.cores();
    let seconds =
        |stage: &Stage, cores: u64| stage_cycles(&stage.work, cores, units).total() / units.machine.clock_hz;
    // The fewest PCUs with which a stage takes no longer, of so many.
    let fewest = |stage: &Stage, time: f64, (mut low, mut high): (u64, u64)| {
        while low < high {
            let middle = u64::midpoint(low, high);
            if seconds(stage, middle) <= time {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    };
    let shares = |time: f64, least: &[u64], most: &[u64]| -> Vec<u64> {
        let among = least.iter().copied().zip(most.iter().copied());
        stages.iter().zip(among).map(|(stage, among)| fewest(stage, time, among)).collect()
    };
    let (one, every) = (vec![1; stages.len()], vec![all; stages.len()]);
    let work: f64 = stages.iter().map(|stage| stage.alone).sum();
    let longest = stages.iter().map(|stage| stage.least).fold(0.0, f64::max);
    let mut low = longest.max(work / all as f64);
    let mut high = stages.iter().map(|stage| stage.alone).fold(low, f64::max);
    let fits = |shares: &[u64]| shares.iter().sum::<u64>() <= all;
    // What a stage takes lies between what it takes for more and for less time.
    let mut most = shares(low, &one, &every);
    if fits(&most) {
        return most;
    }
    let mut least = shares(high, &one, &most);
    for _ in 0..SEARCH_STEPS {
        let middle = (low * high).sqrt();
        let found = shares(middle, &least, &most);
        if fits(&found) {
            (high, least) = (middle, found);
        } else {
            (low, most) = (middle, found);
        }
    }
    least
}

/// Halvings of the interval in which the time of the slowest stage lies.
const SEARCH_STEPS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, groups};
    use orrery_cost::Target;
    use orrery_ir::infer;
    use orrery_machine::{ExecutionModel, Losses, SpatialMachine, System, find};

    /// The plan of a model of the zoo on a machine like an SN10, but smaller.
    fn with_plan(model: &str, change: impl Fn(&mut SpatialMachine), check: impl Fn(&Plan, &Units<'_>)) {
        let mut system: System = find("sn10").expect("built in").clone();
        let ExecutionModel::Spatial(machine) = &mut system.model else { panic!("an SN10 is spatial") };
        change(machine);
        let machine = machine.clone();
        let known = orrery_zoo::find(model).unwrap_or_else(|error| panic!("{error}"));
        let mut graph =
            known.build(&orrery_zoo::Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let bindings = known.default_bindings(&graph);
        infer::bind(&mut graph, &bindings).unwrap_or_else(|error| panic!("{error}"));
        let target = Target::new(&system, Some("fp32"), None).unwrap_or_else(|error| panic!("{error}"));
        let Losses::Spatial(losses) = &target.losses else { panic!("losses of a spatial machine") };
        let units = Units { machine: &machine, losses, macs: target.precision.macs() };
        let facts = infer::facts(&graph).unwrap_or_else(|error| panic!("{error}"));
        let groups = groups::form(&graph, &facts, &target, &Options::default())
            .unwrap_or_else(|error| panic!("{error}"));
        let options = Options::default();
        let (program, _) = super::super::plain::emit(&graph, &facts, &groups, &target, &units, &options)
            .unwrap_or_else(|error| panic!("{error}"));
        let plan =
            Plan::of(&program, &units, &options.nominal(), false).unwrap_or_else(|error| panic!("{error}"));
        check(&plan, &units);
    }

    /// Time of each section by itself; none where several stages do not fit.
    fn seconds(plan: &Plan, units: &Units<'_>, range: &Range<usize>) -> Option<f64> {
        let mut section = Section::new(plan, units, range.start);
        range.clone().for_each(|stage| section.add(stage));
        let fits = section.fits() || range.len() == 1;
        fits.then(|| section.seconds(Load::All))
    }

    #[test]
    fn no_other_cut_is_faster() {
        let counts = std::cell::Cell::new(0);
        for (pmus, bytes) in [(12, 8192), (40, 4096), (30, 65_536)] {
            with_plan(
                "braggnn",
                |machine| (machine.pmus, machine.pmu_bytes) = (pmus, bytes),
                |plan, units| {
                    let found = best(plan, units, 0..plan.stages.len()).sections;
                    let count = plan.stages.len();
                    let of = |start: usize, end: usize| seconds(plan, units, &(start..end));
                    let table: Vec<Vec<Option<f64>>> = (0..count)
                        .map(|start| (0..=count).map(|end| of(start, end.max(start))).collect())
                        .collect();
                    let time = |start: usize, end: usize| table[start][end];
                    let chosen: f64 =
                        found.iter().map(|r| time(r.start, r.end).expect("what is chosen fits")).sum();
                    for ends in 0_u32..1 << (count - 1) {
                        let (mut all, mut start) = (Some(0.0), 0);
                        for end in 1..=count {
                            if end == count || ends >> (end - 1) & 1 == 1 {
                                all = all.zip(time(start, end)).map(|(all, one)| all + one);
                                start = end;
                            }
                        }
                        assert!(
                            all.is_none_or(|other| chosen <= other * (1.0 + 1e-9)),
                            "{ends:b}: {all:?}, {chosen}"
                        );
                    }
                    counts.set(counts.get() + found.len());
                },
            );
        }
        assert!(counts.get() > 6, "{} sections in all: the machines are too large", counts.get());
    }

    #[test]
    fn stages_match_in_rate() {
        with_plan(
            "braggnn",
            |_| {},
            |plan, units| {
                let shares = cores(&plan.stages, units);
                assert!(shares.iter().sum::<u64>() <= units.cores());
                let seconds = |stage: &Stage, cores: u64| stage_cycles(&stage.work, cores, units).total();
                let times: Vec<f64> = plan.stages.iter().zip(&shares).map(|(s, c)| seconds(s, *c)).collect();
                let slowest = times.iter().copied().fold(0.0, f64::max);
                // One PCU less would make any stage slower than the slowest is.
                for (stage, cores) in plan.stages.iter().zip(&shares).filter(|(_, cores)| **cores > 1) {
                    assert!(seconds(stage, cores - 1) > slowest, "{cores} PCUs are more than it needs");
                }
            },
        );
    }
}
