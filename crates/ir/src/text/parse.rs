//! The parser of graphs.

use super::elements::{elements, float};
use super::lex::{Cursor, Token};
use super::parts::{all, attribute, ty};
use crate::{Attrs, Def, Graph, Node, NodeId, Op, State, Type, Value, ValueId, Weight};
use orrery_base::{Result, index::Id};
use orrery_numerics::Format;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Parses a text that holds one graph.
///
/// # Errors
/// With line and column: `text-syntax`; `text-unknown-op`, `text-unknown-value`, `text-repeated-name` for names;
/// `text-elements` where a constant's elements do not fit its type; `text-limit` where it nests too deep.
pub fn parse(text: &str) -> Result<Graph> {
    all(text, graph)
}

/// Parses the graph under the cursor.
///
/// # Errors
/// As [`parse`].
pub fn graph(cursor: &mut Cursor<'_>) -> Result<Graph> {
    cursor.expect_name("graph")?;
    let mut parser = Parser {
        graph: Graph::new(cursor.string_value("the name of the graph in quotes")?),
        ..Parser::default()
    };
    cursor.expect("{")?;
    while !cursor.take("}")? {
        parser.statement(cursor)?;
    }
    parser.resolve(cursor)
}

/// The name of a value where it is used, and where that is.
type Use<'a> = (Cow<'a, str>, usize);

#[derive(Default)]
struct Parser<'a> {
    graph: Graph,
    names: BTreeMap<String, ValueId>,
    /// Inputs of each node.
    operands: Vec<Vec<Option<Use<'a>>>>,
    outputs: Vec<Use<'a>>,
}

impl<'a> Parser<'a> {
    fn statement(&mut self, cursor: &mut Cursor<'a>) -> Result<()> {
        match *cursor.peek() {
            Token::Name("meta") => {
                cursor.advance()?;
                let start = cursor.offset();
                let key = cursor.string_value("a key in quotes")?;
                cursor.expect("=")?;
                let value = cursor.string_value("a value in quotes")?;
                if self.graph.metadata.insert(key.clone(), value).is_some() {
                    let cause = format!("the key {key:?} is there already");
                    return cursor.diagnostic_at(start, "text-repeated-name", cause).err();
                }
                Ok(())
            }
            Token::Name("input") => {
                cursor.advance()?;
                let id = self.define(cursor, Def::Input)?;
                self.graph.inputs.push(id);
                Ok(())
            }
            Token::Name("constant") => {
                cursor.advance()?;
                let id = self.define(cursor, Def::Constant(Weight::Absent))?;
                cursor.expect("=")?;
                self.graph.values[id].def = Def::Constant(weight(cursor, &self.graph.values[id].ty)?);
                Ok(())
            }
            Token::Name("output") => {
                cursor.advance()?;
                self.outputs.push(operand(cursor)?);
                if cursor.take_name("as")? {
                    let name = cursor.string_value("the name of the output in quotes")?;
                    self.graph.output_names.resize(self.outputs.len() - 1, String::new());
                    self.graph.output_names.push(name);
                }
                if cursor.take_name("becomes")? {
                    self.state(cursor)?;
                }
                Ok(())
            }
            Token::Value(_) | Token::Name("_") | Token::Punctuation("(") => self.node(cursor),
            _ => cursor
                .expected("a statement or `}`")
                .help("statements start with `meta`, `input`, `constant`, `output`, `%` or `_`")
                .err(),
        }
    }
    /// The value `%name: type` under the cursor.
    fn define(&mut self, cursor: &mut Cursor<'a>, def: Def) -> Result<ValueId> {
        let start = cursor.offset();
        let name = cursor.value()?.into_owned();
        cursor.expect(":")?;
        let ty = ty(cursor)?;
        let id = ValueId::new(self.graph.values.len());
        if self.names.insert(name.clone(), id).is_some() {
            let cause = format!("a value named `{name}` is there already");
            return cursor.diagnostic_at(start, "text-repeated-name", cause).err();
        }
        Ok(self.graph.values.push(Value { name, ty, def }))
    }
    /// The input that the last output becomes, and what it is at first.
    fn state(&mut self, cursor: &mut Cursor<'a>) -> Result<()> {
        let (name, at) = operand(cursor)?;
        let id = self.names.get(name.as_ref()).copied();
        let input = id.and_then(|id| self.graph.inputs.iter().position(|input| *input == id));
        let (Some(id), Some(input)) = (id, input) else {
            let cause = format!("there is no input named `{name}` up to here");
            return cursor.diagnostic_at(at, "text-unknown-value", cause).err();
        };
        cursor.expect("=")?;
        let initial = weight(cursor, &self.graph.values[id].ty)?;
        self.graph.states.push(State { input, output: self.outputs.len() - 1, initial });
        Ok(())
    }
    fn node(&mut self, cursor: &mut Cursor<'a>) -> Result<()> {
        let id = NodeId::new(self.graph.nodes.len());
        let mut outputs = Vec::new();
        if cursor.take("(")? {
            cursor.expect(")")?;
            cursor.expect("=")?;
        } else {
            cursor.list("=", |cursor| {
                let number = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
                let unwanted = cursor.take_name("_")?;
                outputs.push(if unwanted { None } else { Some(self.define(cursor, Def::Node(id, number))?) });
                Ok(())
            })?;
        }
        let op = op(cursor)?;
        cursor.expect("(")?;
        let mut operands = Vec::new();
        cursor.list(")", |cursor| {
            operands.push(if cursor.take_name("_")? { None } else { Some(operand(cursor)?) });
            Ok(())
        })?;
        let attrs = attributes(cursor)?;
        let name = if cursor.take("@")? {
            cursor.string_value("the name of the node in quotes")?
        } else {
            String::new()
        };
        let mut bodies = Vec::new();
        while cursor.at_name("graph") {
            bodies.push(cursor.nested(graph)?);
        }
        self.operands.push(operands);
        self.graph.nodes.push(Node { op, name, inputs: Vec::new(), outputs, attrs, bodies });
        Ok(())
    }
    /// Finds the values that are named.
    fn resolve(mut self, cursor: &Cursor<'a>) -> Result<Graph> {
        let find = |(name, at): &Use<'a>| match self.names.get(name.as_ref()) {
            Some(id) => Ok(*id),
            None => {
                let cause = format!("there is no value named `{name}`");
                cursor.diagnostic_at(*at, "text-unknown-value", cause).err()
            }
        };
        for ((_, node), operands) in self.graph.nodes.iter_mut().zip(&self.operands) {
            node.inputs = operands
                .iter()
                .map(|operand| operand.as_ref().map(&find).transpose())
                .collect::<Result<_>>()?;
        }
        self.graph.outputs = self.outputs.iter().map(find).collect::<Result<_>>()?;
        Ok(self.graph)
    }
}

fn operand<'a>(cursor: &mut Cursor<'a>) -> Result<Use<'a>> {
    let start = cursor.offset();
    Ok((cursor.value()?, start))
}

fn op(cursor: &mut Cursor<'_>) -> Result<Op> {
    let Token::Name(name) = *cursor.peek() else { return cursor.expected("an op").err() };
    match Op::parse(name) {
        Some(op) => cursor.advance().map(|_| op),
        None => {
            let mut unknown = cursor.diagnostic_at(
                cursor.offset(),
                "text-unknown-op",
                format!("there is no op named {}", cursor.peek()),
            );
            if let Some(op) = Op::ALL.iter().find(|op| op.name().eq_ignore_ascii_case(name)) {
                unknown = unknown.help(format!("its name is written `{op}`"));
            }
            unknown.err()
        }
    }
}

/// Attributes in braces, or none.
///
/// # Errors
/// As [`parse`].
pub fn attributes(cursor: &mut Cursor<'_>) -> Result<Attrs> {
    let mut attrs = Attrs::new();
    if cursor.take("{")? {
        cursor.list("}", |cursor| {
            let start = cursor.offset();
            let name = cursor.name("the name of an attribute")?;
            cursor.expect("=")?;
            if attrs.get(&name).is_some() {
                let cause = format!("the attribute `{name}` is there already");
                return cursor.diagnostic_at(start, "text-repeated-name", cause).err();
            }
            attrs.set(&name, attribute(cursor)?);
            Ok(())
        })?;
    }
    Ok(attrs)
}

/// What a constant of type `declared` holds.
///
/// # Errors
/// As [`parse`].
pub fn weight(cursor: &mut Cursor<'_>, declared: &Type) -> Result<Weight> {
    if cursor.take_name("absent")? {
        return Ok(Weight::Absent);
    }
    if cursor.take_name("digest")? {
        cursor.expect("(")?;
        let digest = cursor.u64("a digest")?;
        cursor.expect(")")?;
        return Ok(Weight::Digest(digest));
    }
    if cursor.take_name("seeded")? {
        cursor.expect("(")?;
        let mut named = |name: &str, last: &str, seed: bool| -> Result<u64> {
            cursor.expect_name(name)?;
            cursor.expect("=")?;
            let number = if seed { cursor.u64("a seed")? } else { float(cursor, Format::FP64)? };
            cursor.expect(last)?;
            Ok(number)
        };
        return Ok(Weight::Seeded {
            seed: named("seed", ",", true)?,
            mean: f64::from_bits(named("mean", ",", false)?),
            deviation: f64::from_bits(named("deviation", ")", false)?),
        });
    }
    let start = cursor.offset();
    let own = match *cursor.peek() {
        Token::Name(name) if orrery_numerics::DType::parse(name).is_some() => Some(ty(cursor)?),
        _ => None,
    };
    let found = own.as_ref().unwrap_or(declared);
    let shape = found.as_tensor().and_then(|tensor| Some((tensor.dtype, tensor.extents()?)));
    match shape {
        Some((dtype, shape)) => elements(cursor, dtype, shape).map(Weight::Data),
        None => {
            let cause = format!("a constant of type {found} cannot hold elements");
            cursor.diagnostic_at(start, "text-elements", cause).err()
        }
    }
}
