//! What a computation needs of this host's memory at least, held against what is there before it begins.

use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Def, Graph, Op, Type, ValueId, Weight};

/// Refuses what cannot be computed here: `parts` are what lies in memory at once, by name, in bytes. Passes where the
/// system does not say how much there is.
///
/// # Errors
/// `host-memory`, with what is needed and what is there.
pub(crate) fn check(parts: &[(&str, u64)]) -> Result<()> {
    let needed = parts.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    match available() {
        Some(there) if needed > there => refuse(parts, needed, there),
        _ => Ok(()),
    }
}

fn refuse(parts: &[(&str, u64)], needed: u64, there: u64) -> Result<()> {
    let shown = |bytes: u64| show_bytes(bytes as f64);
    let listed: Vec<String> = parts.iter().map(|(what, bytes)| format!("{what} {}", shown(*bytes))).collect();
    let cause = format!(
        "it takes {} or more of this host's memory ({}), and {} are free",
        shown(needed),
        listed.join(", "),
        shown(there)
    );
    Diagnostic::error("host-memory", cause)
        .help("a smaller batch, shorter sequences or a smaller variant of the model take less")
        .help("`orrery compare` and `orrery explain` say how it runs on machines without computing it")
        .err()
}

/// Bytes that programs can still take: of the system, and of the group of processes that has a limit.
fn available() -> Option<u64> {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| free(&text))?;
    let read = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let left = read("max").map(|most| most.saturating_sub(read("current").unwrap_or(0)));
    Some(left.map_or(free, |left| left.min(free)))
}

/// What Linux says in `/proc/meminfo`: memory that can be had, swap included.
fn free(text: &str) -> Option<u64> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((of("MemAvailable:")? + of("SwapFree:").unwrap_or(0)) * 1024)
}

/// Bytes of the weights that a session on this host holds: those it makes, and those it packs.
pub(crate) fn weights(graph: &Graph) -> u64 {
    let mut packed = vec![false; graph.values.len()];
    for node in graph.nodes.values() {
        if matches!(node.op, Op::MatMul | Op::Gemm | Op::Conv | Op::ConvTranspose) {
            node.inputs.iter().flatten().for_each(|id| packed[id.0 as usize] = true);
        }
    }
    let uses = graph.uses();
    let held = graph.values.iter().filter(|(id, value)| match &value.def {
        Def::Constant(Weight::Seeded { .. }) => uses[*id] > 0,
        Def::Constant(Weight::Data(_)) => packed[id.0 as usize],
        _ => false,
    });
    held.fold(0, |sum, (_, value)| sum.saturating_add(bytes(&value.ty)))
}

/// Bytes of some values.
pub(crate) fn values(graph: &Graph, ids: &[ValueId]) -> u64 {
    ids.iter().fold(0, |sum, id| sum.saturating_add(bytes(&graph.values[*id].ty)))
}

/// Bytes of a tensor; 0 where its size is not known in numbers.
pub(crate) fn bytes(ty: &Type) -> u64 {
    let Some((dtype, shape)) = ty.as_tensor().and_then(|ty| Some((ty.dtype, ty.extents()?))) else {
        return 0;
    };
    shape.iter().fold(dtype.host_bytes() as u64, |product, extent| product.saturating_mul(*extent as u64))
}

/// Bytes of a tensor in a machine's memory; 0 where its size is not known in numbers.
pub(crate) fn machine_bytes(ty: &Type) -> u64 {
    let known = ty.as_tensor().and_then(|ty| Some((ty.dtype, ty.extents()?)));
    known.map_or(0, |(dtype, shape)| dtype.machine_bytes(shape.iter().map(|extent| *extent as u64).product()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let text =
            "MemTotal:       24602000 kB\nMemFree:  1000 kB\nMemAvailable:   2048 kB\nSwapFree:  1024 kB\n";
        assert_eq!(free(text), Some(3 << 20));
        assert_eq!(free("nothing"), None);
    }

    #[test]
    fn what_is_needed_and_what_is_there_is_said() {
        let error = refuse(&[("weights", 3 << 30), ("inputs", 1 << 30)], 4 << 30, 2 << 30).unwrap_err();
        assert_eq!(error.code, "host-memory");
        let words =
            "it takes 4 GiB or more of this host's memory (weights 3 GiB, inputs 1 GiB), and 2 GiB are free";
        assert_eq!(error.cause, words);
        check(&[("weights", 1)]).unwrap();
        assert!(available().is_none() || check(&[("weights", u64::MAX), ("inputs", 1)]).is_err());
    }

    #[test]
    fn weights_are_those_that_are_made_or_packed() {
        let graph = orrery_ir::text::parse(
            r#"graph "g" {
              input %x: f32[2, 8]
              constant %made: f32[8, 4] = seeded(seed=1, mean=0, deviation=1)
              constant %unused: f32[800] = seeded(seed=1, mean=0, deviation=1)
              constant %scale: f32[4] = [1, 2, 3, 4]
              constant %packed: f32[4, 1] = [1, 2, 3, 4]
              %a: f32[2, 4] = MatMul(%x, %made)
              %b: f32[2, 4] = Mul(%a, %scale)
              %y: f32[2, 1] = MatMul(%b, %packed)
              output %y
            }"#,
        )
        .unwrap();
        assert_eq!(weights(&graph), 4 * (32 + 4));
        assert_eq!((values(&graph, &graph.inputs), values(&graph, &graph.outputs)), (64, 8));
    }
}
