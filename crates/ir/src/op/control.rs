//! Ops of the family `control`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
