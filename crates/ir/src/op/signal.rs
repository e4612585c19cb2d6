//! Ops of the family `signal`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
