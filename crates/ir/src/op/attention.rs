//! Ops of the family `attention`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
