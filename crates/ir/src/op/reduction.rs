//! Ops of the family `reduction`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
