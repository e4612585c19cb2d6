//! Project tasks: fetch test models, run the tests.
fn main() {}
