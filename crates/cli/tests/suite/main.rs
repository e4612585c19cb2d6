//! The `orrery` command as a user runs it.
mod commands;
mod diagnostics;
mod errors;
mod operators;
mod real_models;
mod support;
mod train_data;
mod train_options;
mod train_run;
mod training;
