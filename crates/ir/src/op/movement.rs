//! Ops of the family `movement`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
