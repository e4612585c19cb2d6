//! Benchmark models as graph builders.
