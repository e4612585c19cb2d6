//! Control flow: the op table says what happens, the bodies run as sessions.

use super::prepare::Choice;
use super::step::{Call, HostKernel, Outcome};
use super::{RunOptions, Session};
use orrery_base::Result;
use orrery_ir::op::{Datum, EvalCtx};
use orrery_ir::weights::hash64;

pub(crate) fn choose(choice: &Choice<'_>) -> Result<Option<Box<dyn HostKernel>>> {
    let bodies: Result<Vec<Session>> =
        choice.node.bodies.iter().map(|body| Session::on(body, choice.machine)).collect();
    Ok(Some(Box::new(Nested { bodies: bodies? })))
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
        let run_body = |body: &orrery_ir::Graph, inputs: Vec<Datum>| {
            let which = node.bodies.iter().position(|b| std::ptr::eq(b, body));
            let session = &self.bodies[which.ok_or("a node runs its own bodies")?];
            session.run_bound(inputs, &RunOptions { seed, progress: None }).map_err(|d| {
                let place =
                    if d.place.is_empty() { String::new() } else { format!(" (at {})", d.place.join(" > ")) };
                format!("in body `{}`: {}{place}", body.name, d.cause)
            })
        };
        let outputs = (node.op.def().eval)(&EvalCtx { node, inputs: &inputs, seed, run_body: &run_body })?;
        for (i, datum) in outputs.into_iter().enumerate() {
            call.set(i, datum.into());
        }
        Ok(Outcome::Made)
    }
}
