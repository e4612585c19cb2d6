//! Ops of the family `pooling`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
