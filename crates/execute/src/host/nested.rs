//! Control flow: the op table says what happens, the bodies run as sessions.

use super::prepare::Choice;
use super::step::{Call, HostKernel, Outcome};
use super::{RunOptions, Session};
use orrery_ir::Graph;
use orrery_ir::infer::body_facts;
use orrery_ir::op::{Ctx, Datum, EvalCtx, Fact};
use orrery_ir::weights::hash64;
use std::cell::RefCell;

/// None where the types in a body are not known before running.
pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let given = inputs_of_bodies(choice);
    let bodies = choice.node.bodies.iter().zip(&given);
    let sessions: Option<Vec<Session>> =
        bodies.map(|(body, inputs)| Session::on(body, inputs.as_deref(), choice.machine).ok()).collect();
    Some(Box::new(Nested { bodies: sessions? }))
}

/// What the op's type rule says of the inputs of each body, in the end; none of a body that it does not look into.
fn inputs_of_bodies(choice: &Choice<'_>) -> Vec<Option<Vec<Fact>>> {
    let node = choice.node;
    let seen: RefCell<Vec<Option<Vec<Fact>>>> = RefCell::new(vec![None; node.bodies.len()]);
    let infer_body = |body: &Graph, inputs: &[Fact]| {
        if let Some(which) = node.bodies.iter().position(|b| std::ptr::eq(b, body)) {
            seen.borrow_mut()[which] = Some(inputs.to_vec());
        }
        let facts = body_facts(body, inputs).map_err(|d| d.cause)?;
        Ok(body.outputs.iter().map(|id| facts[*id].clone()).collect())
    };
    let inputs: Vec<Option<Fact>> = node.inputs.iter().map(|v| v.map(|v| choice.facts[v].clone())).collect();
    let names: Vec<String> = node
        .outputs
        .iter()
        .map(|v| v.map_or(String::new(), |v| choice.graph.values[v].name.clone()))
        .collect();
    let asked = (node.op.def().infer)(&Ctx {
        node,
        inputs: &inputs,
        outputs: &[],
        output_names: &names,
        infer_body: &infer_body,
    });
    // The graph's types were inferred before: the rule holds.
    debug_assert!(asked.is_ok());
    seen.into_inner()
}

struct Nested {
    /// One for each body of the node, in order.
    bodies: Vec<Session>,
}
impl HostKernel for Nested {
    fn name(&self) -> &'static str {
        "control flow"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let id = call.step.nodes[0];
        let node = &call.graph.nodes[id];
        let inputs: Vec<Option<Datum>> = node
            .inputs
            .iter()
            .map(|v| v.and_then(|v| call.values[v].as_mut()).map(|v| v.datum(call.machine)))
            .collect();
        let seed = hash64(call.seed, u64::from(id.0));
        let run_body = |body: &Graph, inputs: Vec<Datum>| {
            let which = node.bodies.iter().position(|b| std::ptr::eq(b, body));
            let session = &self.bodies[which.ok_or("a node runs its own bodies")?];
            session.run_bound(inputs, &RunOptions { seed, progress: None }).map_err(|d| {
                let place =
                    if d.place.is_empty() { String::new() } else { format!(" (at {})", d.place.join(" > ")) };
                format!("in body `{}`: {}{place}", body.name, d.cause)
            })
        };
        let outputs = (node.op.def().eval)(&EvalCtx {
            node,
            inputs: &inputs,
            seed,
            accumulation: None,
            run_body: &run_body,
        })?;
        for (i, datum) in outputs.into_iter().enumerate() {
            call.set(i, datum.into());
        }
        Ok(Outcome::Made)
    }
}
