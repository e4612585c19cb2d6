//! Ops of the family `quantization`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
