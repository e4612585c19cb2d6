//! Ops of the family `matrix`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
