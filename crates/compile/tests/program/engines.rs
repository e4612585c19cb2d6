//! Two engines: which nodes run side by side.

use crate::common::{compile_for, target};
use orrery_cost::{Resource, StepCost, step_cost};
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op};
use orrery_numerics::DType;

const ROWS: i64 = 4096;

/// Ops in a row on values so wide: each with the width of what it makes.
fn row(width: i64, ops: &[(Op, i64)]) -> Graph {
    let mut b = Builder::new("row", 1);
    let mut value = b.input("x", DType::BF16, [ROWS, width]);
    let mut read = width;
    for (number, &(op, width)) in ops.iter().enumerate() {
        let name = format!("v{number}");
        value = if op == Op::MatMul {
            let weight = b.input(&format!("w{number}"), DType::BF16, [read, width]);
            b.op(op, &name, &[value, weight], Attrs::new())
        } else {
            b.op(op, &name, &[value], Attrs::new())
        };
        read = width;
    }
    b.finish(&[("y", value)]).unwrap()
}

/// What each of the ops costs.
fn costs(width: i64, ops: &[(Op, i64)]) -> Vec<StepCost> {
    let system = orrery_machine::registry::find("gaudi2").unwrap().before_calibration();
    let program = compile_for(&row(width, ops), &system, "bf16").unwrap().program;
    let target = target(&system, "bf16");
    let known = |op: Op| ops.iter().any(|(known, _)| *known == op);
    let steps = program.steps.iter().filter(|(_, s)| s.body.nodes.values().any(|n| known(n.op)));
    steps.map(|(id, _)| step_cost(&program, id, &Bindings::new(), &target).unwrap()).collect()
}

fn takes(cost: &StepCost, resource: Resource) -> f64 {
    cost.resources.iter().find(|(r, _)| *r == resource).map_or(0.0, |(_, time)| time.seconds())
}

#[test]
fn what_one_engine_makes_the_other_takes_slice_by_slice() {
    let (product, softmax) = ((Op::MatMul, 4096), (Op::Softmax, 4096));
    let [first, then] = &costs(4096, &[product, softmax])[..] else { panic!("two steps") };
    let [alone] = &costs(4096, &[softmax])[..] else { panic!("one step") };
    // The longer of the two hides most of the other.
    let shorter = first.time.min(alone.time).seconds();
    let both = (first.time + then.time).seconds();
    assert!(both < (first.time + alone.time).seconds() - 0.5 * shorter);
    assert!(both >= takes(first, Resource::Matrix).max(takes(then, Resource::Vector)));
    // It comes from memory on the chip, and only goes out to the device's.
    let [through, out] = [alone, then].map(|cost| takes(cost, Resource::DeviceMemory));
    assert!((out / through - 0.5).abs() < 1e-6, "{out:e} of {through:e} s");
}

#[test]
fn a_bundle_has_one_product_and_engines_in_turn() {
    let steps = costs(64, &[(Op::MatMul, 4096), (Op::Softmax, 4096), (Op::MatMul, 64)]);
    let [first, between, second] = &steps[..] else { panic!("three steps") };
    let products = takes(first, Resource::Matrix) + takes(second, Resource::Matrix);
    assert!(takes(between, Resource::Vector) > products, "it could hide both");
    assert!(second.time.seconds() >= takes(second, Resource::Matrix));
    let steps = costs(4096, &[(Op::MatMul, 4096), (Op::Softmax, 4096), (Op::LogSoftmax, 4096)]);
    let [first, then, last] = &steps[..] else { panic!("three steps") };
    let vector = takes(then, Resource::Vector) + takes(last, Resource::Vector);
    assert!(takes(first, Resource::Matrix) > vector, "it could hide both");
    assert!(last.time.seconds() >= takes(last, Resource::Vector));
}
