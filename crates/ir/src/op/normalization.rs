//! Ops of the family `normalization`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
