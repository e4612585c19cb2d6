//! From older forms of operators to the newest, one small function each.

pub(super) mod constant;
pub(super) mod math;
pub(super) mod microsoft;
pub(super) mod normalization;
pub(super) mod shape;
