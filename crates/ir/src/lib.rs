//! Op table, Graph, text form, verifier and interpreter.
//!
//! Knows nothing of files, machines or time. The [`op`] table declares every op once; [`graph::Graph`] holds them in SSA;
//! [`interpret`] defines what a graph means; everything later in the way is held against it.

pub mod attrs;
pub mod builder;
pub mod count;
pub mod dim;
pub mod extend;
pub mod gradient;
pub mod graph;
pub mod infer;
pub mod interpret;
pub mod op;
pub mod text;
pub mod types;
pub mod verify;
pub mod weights;

pub use attrs::{Attr, AttrKind, Attrs};
pub use builder::Builder;
pub use dim::{Bindings, Dim};
pub use extend::Extend;
pub use graph::{Def, Graph, Node, NodeId, State, Value, ValueId, Weight};
pub use op::{Op, OpDef};
pub use types::{TensorType, Type};
