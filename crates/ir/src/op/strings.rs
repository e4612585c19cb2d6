//! Ops of the family `strings`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
