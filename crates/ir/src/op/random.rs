//! Ops of the family `random`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
