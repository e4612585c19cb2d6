//! The printer of graphs.

use super::INLINE_ELEMENTS;
use super::elements::{digest, elements_text, float_text};
use super::lex::name_text;
use super::parts::attribute_text;
use crate::{Attrs, Def, Graph, Node, State, Type, ValueId, Weight};
use orrery_base::index::Id;
use orrery_numerics::Format;
use std::fmt::{self, Write};

/// The text of a graph. Broken graphs print too, as far as there is something to print.
pub fn print(graph: &Graph) -> String {
    graph.to_string()
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer { graph: self, indent: 0, values: 0, inputs: 0 }.graph(f)?;
        f.write_char('\n')
    }
}

struct Printer<'a> {
    graph: &'a Graph,
    indent: usize,
    /// Values up to this one have been printed.
    values: usize,
    /// So many inputs have been printed.
    inputs: usize,
}

impl Printer<'_> {
    fn graph(mut self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graph {:?} {{", self.graph.name)?;
        for (key, value) in &self.graph.metadata {
            self.line(f)?;
            write!(f, "meta {key:?} = {value:?}")?;
        }
        for node in self.graph.nodes.values() {
            let first = node.outputs.iter().flatten().map(|id| id.index()).min();
            self.values_before(f, first.unwrap_or(self.values))?;
            self.line(f)?;
            self.node(f, node)?;
        }
        self.values_before(f, self.graph.values.len())?;
        for i in self.inputs..self.graph.inputs.len() {
            self.input(f, i)?;
        }
        for (i, id) in self.graph.outputs.iter().enumerate() {
            self.line(f)?;
            write!(f, "output {}", self.name(*id))?;
            if let Some(name) = self.graph.output_names.get(i) {
                write!(f, " as {name:?}")?;
            }
            for state in self.graph.states.iter().filter(|state| state.output == i) {
                self.state(f, state)?;
            }
        }
        self.indented(f, 0)?;
        f.write_char('}')
    }
    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.indented(f, 1)
    }
    fn indented(&self, f: &mut fmt::Formatter<'_>, deeper: usize) -> fmt::Result {
        write!(f, "\n{:width$}", "", width = 2 * (self.indent + deeper))
    }
    /// Inputs and constants with numbers below `end`. Inputs stand in the order of the graph's list.
    fn values_before(&mut self, f: &mut fmt::Formatter<'_>, end: usize) -> fmt::Result {
        for id in (self.values..end.min(self.graph.values.len())).map(ValueId::new) {
            match &self.graph.values[id].def {
                Def::Input if self.inputs < self.graph.inputs.len() => {
                    self.input(f, self.inputs)?;
                    self.inputs += 1;
                }
                Def::Constant(weight) => self.constant(f, id, weight)?,
                Def::Input | Def::Node(..) => {}
            }
        }
        self.values = self.values.max(end);
        Ok(())
    }
    fn input(&self, f: &mut fmt::Formatter<'_>, i: usize) -> fmt::Result {
        self.line(f)?;
        write!(f, "input {}", self.typed(self.graph.inputs[i]))
    }
    fn constant(&self, f: &mut fmt::Formatter<'_>, id: ValueId, weight: &Weight) -> fmt::Result {
        self.line(f)?;
        write!(f, "constant {} = {}", self.typed(id), weight_text(weight, &self.graph.values[id].ty))
    }
    fn node(&self, f: &mut fmt::Formatter<'_>, node: &Node) -> fmt::Result {
        let results = node.outputs.iter().map(|output| output.map_or("_".into(), |id| self.typed(id)));
        let results = results.collect::<Vec<_>>().join(", ");
        let operands = node.inputs.iter().map(|input| input.map_or("_".into(), |id| self.name(id)));
        let operands = operands.collect::<Vec<_>>().join(", ");
        let results = if results.is_empty() { "()" } else { &results };
        write!(f, "{results} = {}({operands}){}", node.op, attributes_text(&node.attrs))?;
        if !node.name.is_empty() {
            write!(f, " @ {:?}", node.name)?;
        }
        for body in &node.bodies {
            self.indented(f, 2)?;
            Printer { graph: body, indent: self.indent + 2, values: 0, inputs: 0 }.graph(f)?;
        }
        Ok(())
    }
    fn state(&self, f: &mut fmt::Formatter<'_>, state: &State) -> fmt::Result {
        let input = self.graph.inputs.get(state.input).copied();
        let name =
            input.map_or_else(|| format!("%{:?}", format!("input {}", state.input)), |id| self.name(id));
        let ty = input.and_then(|id| self.graph.values.get(id)).map_or(&Type::Unknown, |value| &value.ty);
        write!(f, " becomes {name} = {}", weight_text(&state.initial, ty))
    }
    fn typed(&self, id: ValueId) -> String {
        format!("{}: {}", self.name(id), self.graph.values.get(id).map_or(&Type::Unknown, |value| &value.ty))
    }
    fn name(&self, id: ValueId) -> String {
        match self.graph.values.get(id) {
            Some(value) => format!("%{}", name_text(&value.name)),
            None => format!("%{:?}", format!("{id}, which does not exist")),
        }
    }
}

/// What a constant of type `declared` holds, as it prints.
pub fn weight_text(weight: &Weight, declared: &Type) -> String {
    match weight {
        Weight::Absent => "absent".into(),
        Weight::Digest(digest) => format!("digest({digest:#018x})"),
        Weight::Seeded { seed, mean, deviation } => {
            let number = |x: &f64| float_text(Format::FP64, x.to_bits());
            format!("seeded(seed={seed}, mean={}, deviation={})", number(mean), number(deviation))
        }
        Weight::Data(tensor) => {
            let own = Type::tensor(tensor.dtype(), tensor.shape().iter().copied());
            if own != *declared {
                format!("{own} {}", elements_text(tensor))
            } else if tensor.len() > INLINE_ELEMENTS {
                format!("digest({:#018x})", digest(tensor))
            } else {
                elements_text(tensor)
            }
        }
    }
}

/// Attributes as they print: nothing, or with a space in front.
pub fn attributes_text(attrs: &Attrs) -> String {
    if attrs.is_empty() {
        return String::new();
    }
    let all = attrs.iter().map(|(name, value)| format!("{} = {}", name_text(name), attribute_text(value)));
    format!(" {{{}}}", all.collect::<Vec<_>>().join(", "))
}
