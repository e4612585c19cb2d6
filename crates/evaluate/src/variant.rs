//! Dimensions that a row gives because the model it measured is not the canonical one.

use orrery_record::Workload;
use orrery_zoo::ZooModel;
use serde_json::Value;

/// Keys of `spec`, and the option of the zoo that each of them is.
const KEYS: [(&str, &str); 8] = [
    ("n_layers", "layers"),
    ("d_model", "width"),
    ("n_heads", "heads"),
    ("ffn", "hidden"),
    ("vocab", "vocabulary"),
    ("image", "image"),
    ("crop", "image"),
    ("base_filters", "features"),
];

/// The options that make a model of the zoo the one that a row measured, and what could not be followed.
pub(crate) fn variant(known: &ZooModel, workload: &Workload) -> (Vec<String>, Vec<String>) {
    let (mut options, mut notes) = (Vec::new(), Vec::new());
    for (key, option) in KEYS {
        let Some(given) = workload.spec.get(key) else { continue };
        let number = leading(given).filter(|_| known.parameters.iter().any(|p| p.name == option));
        match number {
            Some(number) => options.push(format!("{option}={number}")),
            None => notes.push(format!("the built-in variant, whatever the row's `{key}` says")),
        }
    }
    // A sequence longer than what the published model learned positions for was measured with more of them.
    let learned = known.parameters.iter().any(|p| p.name == "positions");
    if let Some(length) = workload.lengths.sequence.filter(|length| learned && *length > LEARNED) {
        options.push(format!("positions={length}"));
    }
    (options, notes)
}

/// Positions that all decoders with learned ones but GPT-2 have.
const LEARNED: u64 = 2048;

/// A number, or the one that a text such as `256x256x3` starts with.
fn leading(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_start_with_their_number() {
        assert_eq!(leading(&Value::from("572x572x1 -> 388x388x2 valid convs")), Some(572));
        assert_eq!(leading(&Value::from("128^3 KiTS19")), Some(128));
        assert_eq!(leading(&Value::from(50368)), Some(50368));
        assert_eq!(leading(&Value::from("full")), None);
    }
}
