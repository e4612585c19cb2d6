//! Ops of the family `recurrent`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
