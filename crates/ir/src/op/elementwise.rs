//! Ops that compute each output element from the input elements at its place.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
