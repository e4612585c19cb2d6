//! Ops of the family `convolution`.

use super::OpDef;

/// The entries.
pub const TABLE: &[OpDef] = &[];
