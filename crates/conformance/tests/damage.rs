//! Damaged files are refused or read, never a panic: bytes changed and cut off at random, the same on every run.

use bytes::Bytes;
use orrery_conformance::{cache, cases};
use orrery_import::onnx::{Options, load_bytes};
use orrery_ir::weights::hash64;

/// Damaged copies of each file.
const COPIES: u64 = 24;

/// No damage makes a small file take longer than this.
const SLOW: std::time::Duration = std::time::Duration::from_secs(2);

#[test]
fn damaged_files_never_panic() {
    let every: usize = std::env::var("DAMAGE_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(11);
    let copies = std::env::var("DAMAGE_COPIES").ok().and_then(|n| n.parse().ok()).unwrap_or(COPIES);
    let cases = cases();
    if cases.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "no operator cases in {}", cache().display());
        println!("skipped: no operator cases in {}", cache().display());
        return;
    }
    let options = Options { inspect: true, allow_absent_weights: true, ..Options::default() };
    let (mut read, mut refused) = (0, 0);
    let (mut panicked, mut slow) = (Vec::new(), Vec::new());
    for (number, case) in cases.iter().enumerate().filter(|(number, _)| number % every == 0) {
        let good = std::fs::read(case.folder.join("model.onnx")).unwrap();
        if good.len() > 1 << 16 {
            continue;
        }
        for copy in 0..copies {
            let seed = number as u64 * 1_000_000 + copy;
            let bytes = damage(&good, seed);
            let shown = (case.name.clone(), seed);
            let start = std::time::Instant::now();
            match std::panic::catch_unwind(|| load_bytes(&bytes, &options).is_ok()) {
                Ok(true) => read += 1,
                Ok(false) => refused += 1,
                Err(_) => panicked.push(shown.clone()),
            }
            if start.elapsed() > SLOW {
                slow.push((shown, start.elapsed()));
            }
        }
    }
    println!("{read} damaged files are read, {refused} refused");
    assert!(panicked.is_empty(), "{} panic: {panicked:?}", panicked.len());
    assert!(slow.is_empty(), "{} take too long: {slow:?}", slow.len());
    assert!(read > 100 && refused > 1000, "the damage is of both kinds");
}

/// One of four is cut off; in the others one to three bytes change.
fn damage(good: &[u8], seed: u64) -> Bytes {
    let pick = |counter: u64, below: usize| (hash64(seed, counter) % below as u64) as usize;
    if pick(0, 4) == 0 {
        return Bytes::copy_from_slice(&good[..pick(1, good.len())]);
    }
    let mut bytes = good.to_vec();
    for change in 0..=pick(2, 3) as u64 {
        let at = pick(10 + change, bytes.len());
        bytes[at] = match pick(20 + change, 3) {
            0 => bytes[at] ^ 1 << pick(30 + change, 8),
            1 => bytes[at].wrapping_add(1),
            _ => pick(30 + change, 256) as u8,
        };
    }
    bytes.into()
}
