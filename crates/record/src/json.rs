//! The JSON form of Records: versioned, one object for each, `"orrery_record": 1` first.

use crate::Record;
use orrery_base::{Diagnostic, Result};
use serde::{Deserialize, Serialize};

/// Version of the format.
const VERSION: u64 = 1;

#[derive(Serialize)]
struct Versioned<'a> {
    orrery_record: u64,
    #[serde(flatten)]
    record: &'a Record,
}

#[derive(Deserialize)]
struct VersionOnly {
    orrery_record: Option<u64>,
}

impl Record {
    /// As a JSON value.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(Versioned { orrery_record: VERSION, record: self })
            .expect("a record has text keys and finite numbers only")
    }
    /// As JSON text.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }
    /// Reads JSON text.
    ///
    /// # Errors
    /// `record-version` where it is of another version or none; `record-json` where it is no Record.
    pub fn from_json(text: &str) -> Result<Self> {
        let wrong = |error: serde_json::Error| Box::new(Diagnostic::error("record-json", error.to_string()));
        let version = serde_json::from_str::<VersionOnly>(text).map_err(wrong)?.orrery_record;
        if version != Some(VERSION) {
            let found = version.map_or_else(|| "no version".to_owned(), |v| format!("version {v}"));
            return Diagnostic::error("record-version", format!("the record has {found}"))
                .help(format!("this program reads version {VERSION}"))
                .err();
        }
        serde_json::from_str(text).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use crate::*;

    fn example() -> Record {
        Record {
            id: None,
            identity: Identity {
                workload: Workload {
                    model: "resnet50".into(),
                    mode: Some("inference".into()),
                    batch: Batch { global: Some(32), micro: Some(32) },
                    lengths: Lengths::default(),
                    dims: [("seq".to_owned(), 128)].into(),
                    spec: serde_json::Map::new(),
                },
                model_digest: Some("0123456789abcdef".into()),
                parameters: Some(25_557_032),
                machine: "a100-40gb".into(),
                devices: Some(1.0),
                stack: None,
                stack_version: None,
                precision: Some("fp16".into()),
            },
            provenance: Provenance::Simulated { by: "orrery".into(), confidence: "uncalibrated".into() },
            counted: Counted { samples: Some(32), tokens: None, steps: Some(1) },
            outcome: Outcome::Measurements(vec![Measurement {
                metric: "latency_ms".into(),
                unit: "ms".into(),
                phase: Phase::Steady,
                scope: Scope::Device,
                statistic: Statistic::Single,
                value: 0.1 + 0.2,
                interval: Some((0.2, 0.5)),
                scored: None,
            }]),
            remarks: vec!["a remark".into()],
            extra: serde_json::Map::new(),
        }
    }

    #[test]
    fn json_goes_there_and_back() {
        let record = example();
        assert!(record.to_json().starts_with(r#"{"orrery_record":1,"identity":{"model":"resnet50""#));
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
        let refused = Record {
            outcome: Outcome::Refused(Refusal {
                code: "does-not-fit".into(),
                reason: "3 KiB too much".into(),
                place: vec!["layer1".into()],
                remedies: vec!["a smaller batch".into()],
            }),
            ..record
        };
        assert_eq!(Record::from_json(&refused.to_json()).unwrap(), refused);
    }

    #[test]
    fn other_versions_are_refused() {
        let text = example().to_json().replace("\"orrery_record\":1", "\"orrery_record\":2");
        assert_eq!(Record::from_json(&text).unwrap_err().code, "record-version");
        assert_eq!(Record::from_json("{}").unwrap_err().code, "record-version");
        assert_eq!(Record::from_json("[").unwrap_err().code, "record-json");
    }
}
