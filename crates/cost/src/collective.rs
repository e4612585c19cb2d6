//! Collectives over the links of one machine.

use orrery_machine::Links;

/// Seconds of an all-reduce of `bytes` on each of `ranks` chips that reach one another alike.
///
/// A ring: every rank sends its share `ranks - 1` times to reduce and as often to gather, and a step takes its latency
/// beside its bytes. Pieces follow one another in a pipeline, as large as makes latency and bytes of a step alike: that is
/// the root of the product of what all latencies and all bytes take. Where nobody measured what a step takes, a ring is
/// not supposed either: halves are exchanged with ever farther partners, which takes as many steps as ranks can be halved,
/// or, where there are few bytes, every rank sends all it has to all others in one step.
pub fn all_reduce(bytes: f64, ranks: f64, links: &Links) -> f64 {
    if ranks <= 1.0 {
        return 0.0;
    }
    let around = |step: f64| 2.0 * (ranks - 1.0) * step;
    let halving = || 2.0 * ranks.log2().ceil() * links.link_latency_seconds;
    let bandwidth = links.link_count as f64 * links.link_bandwidth * links.link_fraction;
    let latency = links.link_step_seconds.map_or_else(halving, around);
    let transfer = 2.0 * (ranks - 1.0) / ranks * bytes / bandwidth;
    let in_steps = links.link_latency_seconds + latency + transfer + (latency * transfer).sqrt();
    if links.link_step_seconds.is_some() {
        return in_steps;
    }
    in_steps.min(2.0 * links.link_latency_seconds + (ranks - 1.0) * bytes / bandwidth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_go_in_one_step() {
        let links = &orrery_machine::find("sn40l").unwrap().links;
        assert!(all_reduce(8192.0, 16.0, links) < 4.0 * links.link_latency_seconds);
        let many = 1.875e9 / (links.link_count as f64 * links.link_bandwidth * links.link_fraction);
        assert!(all_reduce(1e9, 16.0, links) < 1.1 * many);
    }

    #[test]
    fn bytes_and_ranks_never_take_less() {
        let links = &orrery_machine::find("a100").unwrap().links;
        let time = |bytes: f64, ranks: f64| all_reduce(bytes, ranks, links);
        assert_eq!(time(1e6, 1.0), 0.0);
        for power in 3..10 {
            let bytes = 10_f64.powi(power);
            assert!(time(bytes, 4.0) < time(2.0 * bytes, 4.0) && time(bytes, 4.0) < time(bytes, 8.0));
        }
        // A gigabyte over eight moves seven quarters of itself.
        let bound = 1.75e9 / 3e11;
        assert!((1.0..2.0).contains(&(time(1e9, 8.0) / bound)));
    }
}
