//! Models that repeat themselves: sections that are alike need their program once.

use super::plan::Plan;
use super::sections::{Cut, Load, Section, best, run_seconds};
use orrery_cost::spatial::Units;
use std::ops::Range;

/// A cut of some stages in which a stretch of them that repeats itself is cut into equal sections, where that takes less
/// than `limit`.
pub(super) fn cut(plan: &Plan, units: &Units<'_>, range: &Range<usize>, limit: f64) -> Option<Cut> {
    let forms: Vec<usize> = plan.stages[range.clone()].iter().map(|stage| stage.form).collect();
    let (first, period, length) = repeated(&forms)?;
    let first = range.start + first;
    let mut found: Option<Cut> = None;
    for periods in 1..=length / period / 2 {
        let size = periods * period;
        // Sections may begin anywhere in the period: where least passes their ends.
        let starts = (first..first + period).filter(|start| first + length >= start + 2 * size);
        let one = starts.filter_map(|start| Some((time(plan, units, start, size, Load::NoProgram)?, start)));
        let Some((each, start)) = one.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
        let times = (first + length - start) / size;
        let end = start + times * size;
        let program = time(plan, units, start, size, Load::All)? - each;
        let (before, after) = (best(plan, units, range.start..start), best(plan, units, end..range.end));
        let others = before.sections.iter().chain(&after.sections);
        let others: f64 = others.map(|section| run_seconds(plan, units, section, Load::All)).sum();
        let seconds = others + program + each * times as f64;
        if seconds < found.as_ref().map_or(limit, |cut| cut.seconds) {
            let equal = (0..times).map(|i| start + i * size..start + (i + 1) * size);
            let sections = before.sections.into_iter().chain(equal).chain(after.sections).collect();
            found = Some(Cut { seconds, sections });
        }
    }
    found
}

/// Time of a section; none where it does not fit.
fn time(plan: &Plan, units: &Units<'_>, start: usize, size: usize, load: Load) -> Option<f64> {
    let mut section = Section::new(plan, units, start);
    (start..start + size).for_each(|stage| section.add(stage));
    (section.fits() || size == 1).then(|| run_seconds(plan, units, &(start..start + size), load))
}

/// The longest stretch that repeats itself: its start, the period and its length. The shortest period where several do.
fn repeated(forms: &[usize]) -> Option<(usize, usize, usize)> {
    let mut longest = None;
    for period in 1..=forms.len() / 2 {
        let mut start = 0;
        for i in period..=forms.len() {
            if i < forms.len() && forms[i] == forms[i - period] {
                continue;
            }
            let length = i - start;
            if length >= 2 * period && longest.is_none_or(|(_, _, l)| length > l) {
                longest = Some((start, period, length));
            }
            start = i + 1 - period;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn stretches_that_repeat_themselves() {
        assert_eq!(repeated(&[1, 2, 3, 4]), None);
        assert_eq!(repeated(&[9, 1, 2, 1, 2, 1, 2, 8]), Some((1, 2, 6)));
        assert_eq!(repeated(&[1, 1, 1, 5, 2, 3, 4, 2, 3, 4, 2]), Some((4, 3, 7)));
        assert_eq!(repeated(&[7, 7]), Some((0, 1, 2)));
        assert_eq!(repeated(&[]), None);
    }
}
