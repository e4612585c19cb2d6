//! Ops of the family `training`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
