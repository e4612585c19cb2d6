//! Which devices of an installation run what: several may share a copy of the model, and copies run side by side.

use crate::cut::Cut;
use crate::model::Bound;
use crate::setup::Setup;
use crate::work::Timed;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_cost::Resource;

/// Devices that work at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Devices that share every block of one copy.
    pub(crate) shards: u64,
    /// Copies side by side, each on samples of its own.
    pub(crate) copies: u64,
}

impl Placement {
    /// A copy on one device.
    pub(crate) const ONE: Self = Self { shards: 1, copies: 1 };

    /// What to know about the figures, where there is more than one device.
    pub(crate) fn remark(self, work: &str) -> Option<String> {
        let shared = format!("a copy of the model is shared by {} devices, block by block", self.shards);
        let exchange =
            if work == "train" { "; the exchange of gradients between copies is not counted" } else { "" };
        let copies = format!("{} copies side by side, each with its own batch{exchange}", self.copies);
        match (self.shards > 1, self.copies > 1) {
            (false, false) => None,
            (true, false) => Some(shared),
            (false, true) => Some(copies),
            (true, true) => Some(format!("{shared}; {copies}")),
        }
    }
}

/// Times work on the devices of an installation, or on one. `on_one` times the part of one device. Where the setup
/// does not say how many devices share a copy, so many do that all copies together are fastest: as few as hold it, unless
/// more of them have it in a faster memory. Sums over devices that share take `times_sums` times as long as those
/// of a forward pass.
///
/// # Errors
/// Those of `on_one`; `no-shards` where the model cannot be shared, or not by so many.
pub(crate) fn place(
    model: &Bound,
    setup: &Setup,
    times_sums: f64,
    on_one: &dyn Fn(&Bound) -> Result<Timed>,
) -> Result<Timed> {
    let (chips, most) = (setup.system.links.installation_chips, setup.most_devices());
    if let Some(shards) = setup.shards.filter(|shards| *shards > 1) {
        if shards > most {
            let cause = format!("{} has {most} devices, which {shards} are more than", setup.system.title);
            return Diagnostic::error("no-shards", cause).help("name fewer, or a larger installation").err();
        }
        let part = model.sharded(shards).ok_or_else(|| {
            Diagnostic::error(
                "no-shards",
                format!("`{}` is no built-in decoder: only those are shared", model.name),
            )
            .help("leave --shards out: copies of the model run side by side")
        })??;
        return shared(&part, setup, shards, times_sums, on_one(&part)?);
    }
    let mut best = on_one(model).map(|mut timed| {
        timed.placement.copies = copies(setup, &timed, 1);
        timed
    });
    if setup.shards.is_some() {
        return best;
    }
    let powers = std::iter::successors(Some(2), |shards| Some(shards * 2));
    for shards in powers.take_while(|shards| chips.is_some() && *shards <= most) {
        let Some(Ok(part)) = model.sharded(shards) else { break };
        match on_one(&part) {
            Err(error) if error.code == "does-not-fit" => {}
            timed => {
                let timed = match shared(&part, setup, shards, times_sums, timed?) {
                    Err(error) if error.code == "does-not-fit" => continue,
                    timed => timed?,
                };
                if best.as_ref().is_ok_and(|best| rate(best) >= rate(&timed)) {
                    break;
                }
                best = Ok(timed);
            }
        }
    }
    best
}

/// What copies together do, over what one does in a second on one device.
fn rate(timed: &Timed) -> f64 {
    timed.placement.copies as f64 / timed.timeline.device.seconds()
}

/// Copies that an installation has room for.
fn copies(setup: &Setup, timed: &Timed, shards: u64) -> u64 {
    let chips = setup.system.links.installation_chips.unwrap_or(1);
    (chips / (shards * timed.built.devices)).max(1)
}

fn shared(part: &Bound, setup: &Setup, shards: u64, times_sums: f64, mut timed: Timed) -> Result<Timed> {
    let (needed, chips) = (shards * timed.built.devices, setup.system.links.installation_chips);
    if let Some(chips) = chips.filter(|chips| needed > *chips) {
        let each = timed.built.devices;
        return Diagnostic::error(
            "does-not-fit",
            format!(
                "{shards} devices share a copy, each with {each} chips in sequence: {needed}, of {chips}"
            ),
        )
        .help("a narrower precision, or a larger installation")
        .err();
    }
    let cut = Cut::NONE.sharded(shards);
    let sums = cut.sums(&part.graph, setup.target()?.precision, &setup.system.links) * times_sums;
    let sums = Picoseconds::from_seconds(sums);
    timed.timeline.device += sums;
    timed.timeline.end_to_end += sums;
    *timed.timeline.by_resource.entry(Resource::ChipLink).or_insert(Picoseconds::ZERO) += sums;
    timed.placement = Placement { shards, copies: copies(setup, &timed, shards) };
    Ok(timed)
}
