//! Drivers over the way through: compare, explain, check, validate.
