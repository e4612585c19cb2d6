//! Tests of number formats, conversions and sums against oracles and definitions.

mod accumulation;
mod casts;
mod definition;
#[cfg(test)]
mod ml_dtypes;
mod quantisation;
mod stochastic;
