//! Ops of the family `loss`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
