//! Where layers lie when all of them are on the wafer: a rectangle of the mesh for each.
//!
//! The mesh is cut into strips, a strip into rectangles one above the other; stages that follow one another are
//! neighbours, as every second strip is filled backwards. Areas are in proportion to work as far as whole rows and columns
//! allow.

use orrery_program::Region;

/// A rectangle for each stage, by its work; none where there are more stages than the mesh has room for.
pub fn floor_plan(work: &[f64], columns: u64, rows: u64) -> Option<Vec<Region>> {
    if work.is_empty() {
        return Some(Vec::new());
    }
    let least = work.iter().sum::<f64>().max(f64::MIN_POSITIVE) * 1e-9;
    let work: Vec<f64> = work.iter().map(|w| w.max(least)).collect();
    let total: f64 = work.iter().sum();
    let most = (work.len() as u64).min(columns);
    // Rectangles come out about square.
    let wanted = (work.len() as f64 * columns as f64 / rows as f64).sqrt().round() as u64;
    let first = wanted.clamp(1, most);
    let strips = (first..=most)
        .map(|count| deal(&work, total, count as usize, rows as usize))
        .find(|strips| strips.iter().all(|strip| strip.len() as u64 <= rows))?;
    let shares: Vec<f64> = strips.iter().map(|strip| strip.iter().map(|&i| work[i]).sum()).collect();
    let widths = whole_shares(&shares, columns);
    let mut regions = vec![Region { base: 0, x: 0, y: 0, columns: 0, rows: 0 }; work.len()];
    let mut x = 0;
    for (number, (strip, width)) in strips.iter().zip(widths).enumerate() {
        let heights = whole_shares(&strip.iter().map(|&i| work[i]).collect::<Vec<_>>(), rows);
        let mut y = 0;
        for (&stage, height) in strip.iter().zip(heights) {
            let place = if number % 2 == 0 { y } else { rows - y - height };
            regions[stage] = Region { base: 0, x, y: place, columns: width, rows: height };
            y += height;
        }
        x += width;
    }
    let mut base = 0;
    for region in &mut regions {
        region.base = base;
        base += region.cores();
    }
    Some(regions)
}

/// Stages in their order dealt to strips of about equal work, at least one to each and no more than `rows` where that can be.
fn deal(work: &[f64], total: f64, count: usize, rows: usize) -> Vec<Vec<usize>> {
    let mut strips: Vec<Vec<usize>> = vec![Vec::new()];
    let mut done = 0.0;
    for (stage, share) in work.iter().enumerate() {
        let (open, left) = (count - strips.len(), work.len() - stage);
        let full = done + share / 2.0 >= total * strips.len() as f64 / count as f64;
        let last = strips.len() - 1;
        let begun = strips[last].len();
        // The rest must find room in the strips that are left.
        let next = full && left <= open * rows || left == open || begun >= rows;
        if open > 0 && begun > 0 && next {
            strips.push(Vec::new());
        }
        let last = strips.len() - 1;
        strips[last].push(stage);
        done += share;
    }
    strips
}

/// Whole numbers in proportion to `shares` whose sum is `whole`, each at least one. There must be no more shares than that.
fn whole_shares(shares: &[f64], whole: u64) -> Vec<u64> {
    let total: f64 = shares.iter().sum();
    let exact: Vec<f64> = shares.iter().map(|share| share / total * whole as f64).collect();
    let mut numbers: Vec<u64> = exact.iter().map(|e| (e.floor() as u64).max(1)).collect();
    let mut sum: u64 = numbers.iter().sum();
    while sum != whole {
        // The one that is furthest from its exact share gives or takes; the first of equals.
        let missing = |i: usize| exact[i] - numbers[i] as f64;
        let candidates = (0..numbers.len()).filter(|&i| sum < whole || numbers[i] > 1);
        let chosen = if sum < whole {
            candidates.fold(None, |best: Option<usize>, i| match best {
                Some(b) if missing(b) >= missing(i) => Some(b),
                _ => Some(i),
            })
        } else {
            candidates.fold(None, |best: Option<usize>, i| match best {
                Some(b) if missing(b) <= missing(i) => Some(b),
                _ => Some(i),
            })
        };
        let Some(chosen) = chosen else { break };
        if sum < whole {
            numbers[chosen] += 1;
            sum += 1;
        } else {
            numbers[chosen] -= 1;
            sum -= 1;
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place of a small mesh listed: how many rectangles have it.
    fn coverage(regions: &[Region], columns: u64, rows: u64) -> Vec<u32> {
        let mut covered = vec![0; (columns * rows) as usize];
        for region in regions {
            for y in region.y..region.y + region.rows {
                for x in region.x..region.x + region.columns {
                    assert!(x < columns && y < rows, "{region:?} leaves the mesh");
                    covered[(y * columns + x) as usize] += 1;
                }
            }
        }
        covered
    }

    #[test]
    fn rectangles_fill_the_mesh_without_overlap() {
        for (count, columns, rows) in [(1, 5, 7), (2, 4, 4), (7, 10, 8), (23, 16, 12), (40, 8, 8), (64, 8, 8)]
        {
            let work: Vec<f64> = (0..count).map(|i| 1.0 + (i * i % 7) as f64).collect();
            let regions = floor_plan(&work, columns, rows).expect("there is room");
            assert!(
                coverage(&regions, columns, rows).iter().all(|&n| n == 1),
                "{count} on {columns} x {rows}"
            );
            let bases: Vec<u64> = regions.iter().map(|r| r.base).collect();
            let ends = regions.iter().map(Region::end);
            assert!(bases[1..].iter().copied().eq(ends.take(bases.len() - 1)), "{bases:?}");
        }
        assert_eq!(floor_plan(&[1.0; 65], 8, 8), None);
    }

    #[test]
    fn areas_follow_work() {
        let work = [1.0, 5.0, 3.0, 40.0, 2.0, 17.0, 8.0, 8.0, 1.0, 15.0];
        let regions = floor_plan(&work, 750, 994).expect("there is room");
        let total: f64 = work.iter().sum();
        for (region, work) in regions.iter().zip(work) {
            let wanted = work / total * 745_500.0;
            let found = region.cores() as f64;
            assert!((found / wanted - 1.0).abs() < 0.05, "{region:?}: {found} for {wanted}");
        }
        assert_eq!(regions, floor_plan(&work, 750, 994).expect("again"), "the same plan every time");
    }

    #[test]
    fn stages_that_follow_one_another_touch() {
        let regions = floor_plan(&[1.0; 12], 12, 12).expect("there is room");
        for pair in regions.windows(2) {
            let grown = Region {
                x: pair[0].x.saturating_sub(1),
                y: pair[0].y.saturating_sub(1),
                columns: pair[0].columns + 2,
                rows: pair[0].rows + 2,
                base: 0,
            };
            assert!(grown.overlaps(&pair[1]), "{pair:?}");
        }
    }
}
