//! Programs as the compiler makes them: executed, they are what their graphs mean; broken, they are found out.

mod common;
mod graphs;
mod random;
mod zoo;
