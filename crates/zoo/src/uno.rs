//! Uno of CANDLE: how a tumour responds to drugs, from expressions of genes and properties of molecules.

use crate::layers::{fully_connected, glorot, he};
use crate::options::SEED;
use crate::{Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Dim, Graph, Op, ValueId};
use orrery_numerics::DType;

pub(crate) const UNO: ZooModel = ZooModel {
    name: "uno",
    aliases: &["uno_auc"],
    summary: "Uno, area under the curve: genes and descriptors of one drug, towers of 3 layers of 1000, then 5",
    source: "Pilot1/Uno of CANDLE, uno_auc_model.txt (Emani et al., PMBS 2022)",
    bindings: &[("batch", 1)],
    parameters: &[SEED],
    make: |settings| build(settings, &[("cell.rnaseq", RNASEQ), ("drug1.descriptors", DESCRIPTORS)], 5),
};

pub(crate) const UNO_ALL: ZooModel = ZooModel {
    name: "uno_all",
    aliases: &[],
    summary: "Uno with all features of two drugs and their doses: towers of 3 layers of 1000, then 3",
    source: "Pilot1/Uno of CANDLE, uno_default_model.txt",
    bindings: &[("batch", 1)],
    parameters: &[SEED],
    make: |settings| {
        let inputs = [
            ("cell.rnaseq", RNASEQ),
            ("dose1", DOSE),
            ("dose2", DOSE),
            ("drug1.descriptors", DESCRIPTORS),
            ("drug1.fingerprints", FINGERPRINTS),
            ("drug2.descriptors", DESCRIPTORS),
            ("drug2.fingerprints", FINGERPRINTS),
        ];
        build(settings, &inputs, 3)
    },
};

const RNASEQ: i64 = 942;
const DESCRIPTORS: i64 = 5270;
const FINGERPRINTS: i64 = 2048;
const DOSE: i64 = 1;
const WIDTH: i64 = 1000;
const TOWER: i64 = 3;

/// Weight and bias of a layer.
type Layer = (ValueId, ValueId);

/// Every input but a dose goes through a tower, the same for the same feature of both drugs; what comes out goes through
/// `layers` more.
fn build(settings: &Settings<'_>, inputs: &[(&str, i64)], layers: i64) -> Result<Graph> {
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let mut towers: Vec<(&str, Vec<Layer>)> = Vec::new();
    let (mut parts, mut width) = (Vec::new(), 0);
    for &(name, size) in inputs {
        let x = b.input(name, DType::F32, [Dim::symbol("batch"), size.into()]);
        let Some((_, feature)) = name.split_once('.') else {
            parts.push(x);
            width += size;
            continue;
        };
        if !towers.iter().any(|(known, _)| *known == feature) {
            let made = (0..TOWER)
                .map(|i| weights(&mut b, &format!("{feature}/{i}"), if i == 0 { size } else { WIDTH }));
            let made = made.collect();
            towers.push((feature, made));
        }
        let tower = towers.iter().find(|(known, _)| *known == feature).map(|(_, layers)| layers.clone());
        parts.push(b.scope(name, |b| through(b, x, &tower.unwrap_or_default())));
        width += WIDTH;
    }
    let joined = b.op(Op::Concat, "features", &parts, Attrs::new().with("axis", 1_i64));
    let dense: Vec<Layer> = (0..layers)
        .map(|i| weights(&mut b, &format!("dense/{i}"), if i == 0 { width } else { WIDTH }))
        .collect();
    let x = b.scope("response", |b| through(b, joined, &dense));
    let growth = fully_connected(&mut b, "growth", x, WIDTH, 1, glorot(WIDTH));
    b.finish(&[("growth", growth)])
}

fn weights(b: &mut Builder, name: &str, inputs: i64) -> Layer {
    b.scope(name, |b| (b.weight("weight", [WIDTH, inputs], he(inputs)), b.weight("bias", [WIDTH], 0.01)))
}

fn through(b: &mut Builder, x: ValueId, layers: &[Layer]) -> ValueId {
    layers.iter().enumerate().fold(x, |x, (i, &(weight, bias))| {
        let attrs = Attrs::new().with("transB", 1_i64);
        let sum = b.op(Op::Gemm, &format!("dense{i}"), &[x, weight, bias], attrs);
        b.op(Op::Relu, &format!("relu{i}"), &[sum], Attrs::new())
    })
}
