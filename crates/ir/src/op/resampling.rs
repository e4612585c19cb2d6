//! Ops of the family `resampling`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
