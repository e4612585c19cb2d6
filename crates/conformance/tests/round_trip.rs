//! Every operator case that imports is written and read again.

use orrery_conformance::round_trip::round_trip;
use orrery_conformance::{cache, cases};

#[test]
fn every_case_survives_being_written_and_read() {
    let cases = cases();
    if cases.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "no operator cases in {}", cache().display());
        println!("skipped: no operator cases in {}", cache().display());
        return;
    }
    let (mut survived, mut refused, mut broken) = (0, Vec::new(), Vec::new());
    for case in &cases {
        let Ok(graph) = case.load() else { continue };
        match round_trip(&graph) {
            Ok(Some(())) => survived += 1,
            Ok(None) => refused.push(case.name.as_str()),
            Err(why) => broken.push(format!("{}: {why}", case.name)),
        }
    }
    println!("{survived} cases survive, ONNX cannot express {}: {refused:?}", refused.len());
    assert!(broken.is_empty(), "{} cases change:\n{}", broken.len(), broken.join("\n"));
    assert!(survived > 1_600, "only {survived} cases survive");
}
