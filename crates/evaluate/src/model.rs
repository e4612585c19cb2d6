//! Opening a model: of the zoo by name, or from a file, with its dimensions bound.

use crate::cut::Cut;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result, nearest};
use orrery_import::onnx;
use orrery_ir::{Bindings, Def, Dim, Graph, Type, ValueId, Weight, count, infer, text};
use orrery_zoo as zoo;
use std::collections::BTreeSet;
use std::path::Path;

/// What the user says about a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `key=value` choices of a model of the zoo.
    pub parameters: Vec<String>,
    /// Values of its symbolic dimensions.
    pub dims: Bindings,
}

/// Where a model came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The zoo.
    Zoo,
    /// An ONNX file.
    Onnx,
    /// A file in the text form of graphs.
    Text,
}

/// The dimension that counts samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchAxis {
    /// A symbol.
    Symbol(String),
    /// The leading extent of the inputs, fixed in the file.
    Fixed(i64),
    /// None: the model has no inputs with extents.
    None,
}

/// A model with symbolic dimensions.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name in the zoo, or the file's name.
    pub name: String,
    /// Where it came from.
    pub origin: Origin,
    /// None where the file has nodes that are not known.
    graph: Option<Graph>,
    /// What became of each node of the file.
    pub report: Option<onnx::Report>,
    /// Values of symbols that hold where the user gives none.
    defaults: Bindings,
    /// Values the user gave.
    given: Bindings,
    /// `key=value` choices that a model of the zoo was built with.
    parameters: Vec<String>,
    /// The dimension that counts samples.
    pub batch_axis: BatchAxis,
}

/// A model with every dimension a number.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Name of the model.
    pub name: String,
    /// The graph.
    pub graph: Graph,
    /// Samples at a time, where the model has a dimension that counts them.
    pub batch: Option<u64>,
    /// The other symbols' values.
    pub dims: Bindings,
    /// `key=value` choices that a model of the zoo was built with.
    pub parameters: Vec<String>,
}

/// Symbols that count samples, by the names that exporters and people use.
const BATCH_NAMES: [&str; 6] = ["batch", "batch_size", "batchsize", "bs", "n", "b"];
/// Symbols that count tokens.
const SEQUENCE_NAMES: [&str; 5] = ["seq", "sequence", "seq_len", "sequence_length", "tokens"];

impl Model {
    /// Opens a model of the zoo by name, or a file: `.onnx`, or `.graph` in the text form of graphs.
    ///
    /// # Errors
    /// `model-unknown` where there is neither; `model-format` for another kind of file; those of zoo, import and text.
    /// A file with unknown nodes opens, and [`Model::graph`] fails.
    pub fn open(name_or_path: &str, options: &Options) -> Result<Self> {
        let path = Path::new(name_or_path);
        let looks_like_path = name_or_path.contains(['/', '\\']) || path.extension().is_some();
        let entry =
            zoo::registry().iter().find(|m| m.name == name_or_path || m.aliases.contains(&name_or_path));
        match entry {
            Some(entry) => Self::of_zoo(entry, options),
            None if looks_like_path || path.exists() => Self::of_file(path, options),
            None => Err(Box::new(unknown(name_or_path))),
        }
    }
    fn of_zoo(entry: &zoo::ZooModel, options: &Options) -> Result<Self> {
        let graph = entry.build(&zoo::Options::parse(options.parameters.iter().map(String::as_str))?)?;
        let defaults = entry.default_bindings(&graph);
        Self::new(entry.name.to_owned(), Origin::Zoo, Some(graph), None, defaults, options)
    }
    fn of_file(path: &Path, options: &Options) -> Result<Self> {
        let shown = path.display().to_string();
        if let Some(parameter) = options.parameters.first() {
            return Diagnostic::error(
                "model-option",
                format!("`{parameter}` is an option of a model of the zoo"),
            )
            .at(shown)
            .help("a file has no options; its dimensions are set with --dim name=value")
            .err();
        }
        let name = path.file_name().map_or_else(|| shown.clone(), |n| n.to_string_lossy().into_owned());
        match path.extension().and_then(|e| e.to_str()) {
            Some("graph") => {
                let source = std::fs::read_to_string(path).map_err(|error| {
                    let cause = format!("the file cannot be read: {error}");
                    Box::new(Diagnostic::error("file-read", cause).at(shown.clone()))
                })?;
                let mut graph = text::parse(&source).at(|| shown.clone())?;
                orrery_ir::verify::verify(&graph).at(|| shown.clone())?;
                infer::infer(&mut graph).at(|| shown.clone())?;
                Self::new(name, Origin::Text, Some(graph), None, Bindings::new(), options)
            }
            Some("onnx" | "pb") | None => {
                let import =
                    onnx::Options { allow_absent_weights: true, inspect: true, ..Default::default() };
                let read = onnx::load_path(path, &import)?;
                Self::new(name, Origin::Onnx, read.graph, Some(read.report), Bindings::new(), options)
            }
            Some(other) => Diagnostic::error("model-format", format!("`.{other}` is no format of a model"))
                .at(shown)
                .help("models are ONNX files (`.onnx`) or graphs in text form (`.graph`)")
                .help("`orrery models` lists the built-in ones")
                .err(),
        }
    }
    fn new(
        name: String,
        origin: Origin,
        graph: Option<Graph>,
        report: Option<onnx::Report>,
        mut defaults: Bindings,
        options: &Options,
    ) -> Result<Self> {
        let batch_axis = graph.as_ref().map_or(BatchAxis::None, batch_axis);
        if let BatchAxis::Symbol(symbol) = &batch_axis {
            defaults.entry(symbol.clone()).or_insert(1);
        }
        if let Some(graph) = &graph {
            let known = symbols(graph);
            for (symbol, value) in &options.dims {
                if !known.contains(symbol) {
                    return Err(Box::new(unknown_symbol(symbol, &known)));
                }
                check_extent(symbol, *value)?;
            }
        }
        Ok(Self {
            name,
            origin,
            graph,
            report,
            defaults,
            given: options.dims.clone(),
            parameters: options.parameters.clone(),
            batch_axis,
        })
    }
    /// The graph, its symbols open.
    ///
    /// # Errors
    /// `onnx-unknown-operator` where the file has nodes that are not known.
    pub fn graph(&self) -> Result<&Graph> {
        match &self.graph {
            Some(graph) => Ok(graph),
            None => onnx::Imported { graph: None, report: self.report.clone().unwrap_or_default() }
                .into_graph()
                .map(|_| unreachable!("there is no graph to return")),
        }
    }
    /// Values of all symbols at a batch: `sizes`, else the user's, else the model's own.
    ///
    /// # Errors
    /// `unbound-symbol` with all symbols that have no value.
    fn bindings(&self, batch: Option<u64>, sizes: &Bindings) -> Result<Bindings> {
        let mut values = self.defaults.clone();
        values.extend(self.given.clone());
        if let (Some(batch), BatchAxis::Symbol(symbol)) = (batch, &self.batch_axis) {
            values.insert(symbol.clone(), i64::try_from(batch).unwrap_or(i64::MAX));
        }
        values.extend(sizes.clone());
        let open: Vec<String> =
            symbols(self.graph()?).into_iter().filter(|symbol| !values.contains_key(symbol)).collect();
        if let Some(first) = open.first() {
            return Diagnostic::error(
                "unbound-symbol",
                format!("the size of {} is open in the model", quoted(&open)),
            )
            .at(self.name.clone())
            .help(format!("give each a value, as in --dim {first}=128"))
            .err();
        }
        Ok(values)
    }
    /// The model with every dimension a number.
    ///
    /// # Errors
    /// `unbound-symbol` with all symbols that have no value; `batch-fixed` where the file fixes another batch and the model does not hold for
    /// the one asked for; `type-rule` where the dimensions contradict each other.
    pub fn at_batch(&self, batch: Option<u64>) -> Result<Bound> {
        self.at_sizes(batch, &Bindings::new())
    }
    /// The batch that the user gave as the value of the symbol that counts samples.
    pub fn given_batch(&self) -> Option<u64> {
        let BatchAxis::Symbol(symbol) = &self.batch_axis else { return None };
        self.given_size(symbol).and_then(|n| u64::try_from(n).ok())
    }
    /// The value that the user gave a symbol.
    pub fn given_size(&self, symbol: &str) -> Option<i64> {
        self.given.get(symbol).copied()
    }
    /// As [`Model::at_batch`], with values of some symbols that come before the user's.
    ///
    /// # Errors
    /// As [`Model::at_batch`].
    pub fn at_sizes(&self, batch: Option<u64>, sizes: &Bindings) -> Result<Bound> {
        let dims = self.bindings(batch, sizes)?;
        self.bind(batch, dims)
    }
    /// As [`Model::at_batch`], but for one symbol that stays open.
    ///
    /// # Errors
    /// `unknown-symbol` where the model has no such symbol; as [`Model::at_batch`].
    pub fn with_open(&self, batch: Option<u64>, symbol: &str) -> Result<Bound> {
        let known = symbols(self.graph()?);
        if !known.contains(symbol) {
            return Err(Box::new(unknown_symbol(symbol, &known)));
        }
        if self.batch_axis == BatchAxis::Symbol(symbol.to_owned()) && batch.is_some() {
            return Diagnostic::error("batch-fixed", format!("`{symbol}` counts samples and is left open"))
                .at(self.name.clone())
                .help("leave the batch out")
                .err();
        }
        let mut dims = self.bindings(batch, &[(symbol.to_owned(), 1)].into())?;
        dims.remove(symbol);
        self.bind(batch, dims)
    }
    fn bind(&self, batch: Option<u64>, mut dims: Bindings) -> Result<Bound> {
        if let Some(batch) = batch {
            check_extent("batch", i64::try_from(batch).unwrap_or(i64::MAX))?;
        }
        let mut graph = self.graph()?.clone();
        let mut samples = None;
        match &self.batch_axis {
            BatchAxis::Symbol(symbol) => samples = dims.get(symbol).copied(),
            BatchAxis::Fixed(fixed) => {
                let wanted = batch.map_or(*fixed, |b| i64::try_from(b).unwrap_or(i64::MAX));
                if wanted != *fixed {
                    set_leading(&mut graph, *fixed, wanted).at(|| self.name.clone())?;
                }
                samples = Some(wanted);
            }
            BatchAxis::None => {
                if batch.is_some_and(|b| b != 1) {
                    return Diagnostic::error(
                        "batch-fixed",
                        "the model has no dimension that counts samples",
                    )
                    .at(self.name.clone())
                    .err();
                }
            }
        }
        // A graph without open dimensions keeps what its file declares where inference cannot tell.
        if !dims.is_empty() {
            infer::bind(&mut graph, &dims).at(|| self.name.clone())?;
        }
        self.check_not_empty(&graph, &dims)?;
        if let BatchAxis::Symbol(symbol) = &self.batch_axis {
            dims.remove(symbol);
        }
        Ok(Bound {
            name: self.name.clone(),
            graph,
            batch: samples.and_then(|n| u64::try_from(n).ok()),
            dims,
            parameters: self.parameters.clone(),
        })
    }
    /// Sizes under which a model of the zoo has nothing left to compute are a mistake: a position beyond its last, a length of
    /// nothing. A file may mean it.
    fn check_not_empty(&self, graph: &Graph, dims: &Bindings) -> Result<()> {
        let empty = |id: &ValueId| {
            let shape = graph.values[*id].ty.as_tensor().and_then(|ty| ty.shape.as_ref());
            shape.is_some_and(|shape| shape.iter().any(|dim| dim.is(0)))
        };
        let found = graph.outputs.iter().position(empty).filter(|_| self.origin == Origin::Zoo);
        let Some(at) = found else { return Ok(()) };
        let sizes: Vec<String> = dims.iter().map(|(symbol, value)| format!("{symbol}={value}")).collect();
        let cause =
            format!("with {} its output `{}` has no elements", sizes.join(", "), graph.output_name(at));
        Diagnostic::error("dimension-empty", cause)
            .at(self.name.clone())
            .help("a length must be at least 1, and no position may lie beyond the last that the model has")
            .err()
    }
    /// The graph with the dimensions that the user gave bound, the others open.
    ///
    /// # Errors
    /// As [`Model::graph`]; `type-rule` where the dimensions contradict each other.
    pub fn with_dims(&self) -> Result<Graph> {
        let mut graph = self.graph()?.clone();
        infer::bind(&mut graph, &self.given).at(|| self.name.clone())?;
        Ok(graph)
    }
    /// Elements of its weights; none where it has no graph.
    pub fn parameters(&self) -> Option<u64> {
        self.graph.as_ref().map(count::parameters)
    }
}

impl Bound {
    /// Length of the sequences, where the model has a symbol that is called so.
    pub fn sequence(&self) -> Option<u64> {
        let found = SEQUENCE_NAMES.iter().find_map(|name| self.dims.get(*name));
        found.and_then(|n| u64::try_from(*n).ok())
    }
    /// The part of one device, where so many share every block of a decoder of the zoo; none where the model is no such
    /// decoder.
    ///
    /// # Errors
    /// Those of the zoo, where its blocks cannot be cut in so many parts.
    pub(crate) fn sharded(&self, shards: u64) -> Option<Result<Self>> {
        let decoder = zoo::registry().iter().find(|entry| entry.name == self.name)?;
        if !decoder.parameters.iter().any(|parameter| parameter.name == "shards") {
            return None;
        }
        let mut parameters = self.parameters.clone();
        parameters.extend(Cut::NONE.sharded(shards).options());
        let options = Options { parameters, dims: self.dims.clone() };
        Some(Model::open(&self.name, &options).and_then(|model| model.at_batch(self.batch)))
    }
    /// Multiply-accumulates of one run.
    ///
    /// # Errors
    /// What inference says.
    pub fn macs(&self) -> Result<u64> {
        count::macs(&self.graph, &Bindings::new())
    }
    /// A number that tells this graph from others: of its ops, attributes, types and connections, not of the weights'
    /// elements.
    pub fn digest(&self) -> String {
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        for (_, node) in self.graph.nodes.iter() {
            digest.add(&format!("{} {:?} {:?} {:?}", node.op, node.inputs, node.outputs, node.attrs));
        }
        for (_, value) in self.graph.values.iter() {
            digest.add(&value.ty.to_string());
        }
        for state in &self.graph.states {
            digest.add(&format!("{} becomes {}", state.output, state.input));
        }
        format!("{:016x}", digest.0)
    }
}

/// FNV-1a (Fowler, Noll, Vo 1991).
struct Digest(u64);
impl Digest {
    fn add(&mut self, text: &str) {
        for byte in text.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn unknown(name: &str) -> Diagnostic {
    let known = || zoo::registry().iter().flat_map(|m| m.aliases.iter().copied().chain([m.name]));
    let error =
        Diagnostic::error("model-unknown", format!("there is no model called `{name}`, and no such file"));
    let error = match nearest(name, known()) {
        Some(close) => error.help(format!("did you mean `{close}`?")),
        None => error,
    };
    error.help("`orrery models` lists the built-in models; a file is given by its path, as in ./model.onnx")
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

fn unknown_symbol(symbol: &str, known: &BTreeSet<String>) -> Diagnostic {
    let error =
        Diagnostic::error("unknown-symbol", format!("the model has no open dimension named `{symbol}`"));
    let error = match nearest(symbol, known.iter().map(String::as_str)) {
        Some(close) => error.help(format!("did you mean `{close}`?")),
        None => error,
    };
    let list =
        if known.is_empty() { "none".to_owned() } else { quoted(&known.iter().cloned().collect::<Vec<_>>()) };
    error.help(format!("its open dimensions: {list}"))
}

fn check_extent(name: &str, value: i64) -> Result<()> {
    if (0..=1 << 40).contains(&value) && (value > 0 || !BATCH_NAMES.contains(&name)) {
        return Ok(());
    }
    Diagnostic::error("dimension-value", format!("`{name}` cannot be {value}"))
        .help("a dimension is a whole number, and a batch at least 1")
        .err()
}

/// Symbols in the types of the graph's inputs.
fn symbols(graph: &Graph) -> BTreeSet<String> {
    let shapes = graph.inputs.iter().filter_map(|id| graph.values[*id].ty.as_tensor()?.shape.as_ref());
    shapes.flatten().flat_map(Dim::symbols).collect()
}

fn batch_axis(graph: &Graph) -> BatchAxis {
    let symbols = symbols(graph);
    if let Some(named) =
        BATCH_NAMES.iter().find_map(|name| symbols.iter().find(|s| s.to_lowercase() == *name))
    {
        return BatchAxis::Symbol(named.clone());
    }
    let leading = graph.inputs.iter().find_map(|id| leading_extent(graph, *id));
    match leading {
        Some(Dim::Known(n)) => BatchAxis::Fixed(n),
        Some(dim) => dim.as_symbol().map_or(BatchAxis::None, |s| BatchAxis::Symbol(s.to_owned())),
        None => BatchAxis::None,
    }
}

/// The first extent of a tensor of at least two dimensions.
fn leading_extent(graph: &Graph, id: ValueId) -> Option<Dim> {
    let shape = graph.values[id].ty.as_tensor()?.shape.as_ref()?;
    (shape.len() >= 2).then(|| shape[0].clone())
}

/// Gives the inputs whose leading extent is `fixed` another one, and checks that the outputs follow.
fn set_leading(graph: &mut Graph, fixed: i64, wanted: i64) -> Result<()> {
    let refuse = |why: &str| {
        Diagnostic::error("batch-fixed", format!("the file fixes the batch at {fixed}, and {why}"))
            .help("export the model with a symbolic batch dimension (dynamic axes)")
    };
    let outputs: Vec<bool> =
        graph.outputs.iter().map(|id| leading_extent(graph, *id).is_some_and(|d| d.is(fixed))).collect();
    let inputs: Vec<ValueId> = graph
        .inputs
        .iter()
        .copied()
        .filter(|id| leading_extent(graph, *id).is_some_and(|d| d.is(fixed)))
        .collect();
    for (id, value) in graph.values.iter_mut() {
        if matches!(value.def, Def::Node(..)) {
            value.ty = Type::Unknown;
        } else if inputs.contains(&id)
            && let Type::Tensor(ty) = &mut value.ty
            && let Some(shape) = &mut ty.shape
        {
            shape[0] = Dim::Known(wanted);
        }
    }
    if let Err(error) = infer::infer(graph) {
        let place = error.place.join(" > ");
        return refuse(&format!("does not hold for {wanted}: {}", error.cause)).at(place).err();
    }
    let follows =
        |(id, was): (&ValueId, &bool)| !was || leading_extent(graph, *id).is_none_or(|d| d.is(wanted));
    if !graph.outputs.iter().zip(&outputs).all(follows) {
        return refuse(&format!("its outputs do not become {wanted} samples")).err();
    }
    Ok(())
}

/// True where the elements of every weight are at hand or can be made.
pub fn has_weights(graph: &Graph) -> bool {
    let uses = graph.uses();
    graph
        .values
        .iter()
        .filter(|(id, _)| uses[*id] > 0)
        .all(|(_, value)| !matches!(value.def, Def::Constant(Weight::Absent | Weight::Digest(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Result<Model> {
        let graph = text::parse(source)?;
        Model::new("model".into(), Origin::Text, Some(graph), None, Bindings::new(), &Options::default())
    }

    #[test]
    fn a_batch_that_the_file_fixes_is_replaced_where_the_model_allows() {
        let free = of(r#"graph "free" {
          input %x: f32[1, 6]
          constant %w: f32[6, 2] = absent
          %y: f32[1, 2] = MatMul(%x, %w)
          output %y
        }"#)
        .unwrap();
        assert_eq!(free.batch_axis, BatchAxis::Fixed(1));
        let bound = free.at_batch(Some(8)).unwrap();
        assert_eq!(bound.batch, Some(8));
        assert_eq!(bound.graph.values[bound.graph.outputs[0]].ty.to_string(), "f32[8, 2]");
        let stuck = of(r#"graph "stuck" {
          input %x: f32[1, 6]
          constant %shape: i64[2] = [1, -1]
          constant %w: f32[6, 2] = absent
          %flat: f32[1, 6] = Reshape(%x, %shape)
          %y: f32[1, 2] = MatMul(%flat, %w)
          output %y
        }"#)
        .unwrap();
        assert_eq!(stuck.at_batch(None).unwrap().batch, Some(1));
        assert_eq!(stuck.at_batch(Some(8)).unwrap_err().code, "batch-fixed");
    }

    #[test]
    fn open_dimensions_need_a_value() {
        let model = of(r#"graph "open" {
          input %ids: i64[N, length]
          output %ids
        }"#)
        .unwrap();
        assert_eq!(model.batch_axis, BatchAxis::Symbol("N".into()));
        let error = model.at_batch(Some(2)).unwrap_err();
        assert_eq!((error.code, error.help[0].contains("--dim length=")), ("unbound-symbol", true));
        let sizes = [("length".to_owned(), 5)].into();
        assert_eq!(model.at_sizes(Some(2), &sizes).unwrap().batch, Some(2));
    }
}
