//! Records of runs and their comparison.
