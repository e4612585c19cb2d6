//! Ops of the family `indexing`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
