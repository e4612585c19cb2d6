//! Ops of the family `sequence`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
