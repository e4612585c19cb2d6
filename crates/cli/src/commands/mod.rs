//! One module for each command: it asks the façade and lays out the answer, as text and as JSON.

pub(crate) mod calibrate;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod compile;
pub(crate) mod data;
pub(crate) mod evaluate;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod models;
pub(crate) mod outputs;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod sweep;
pub(crate) mod systems;
pub(crate) mod train;
pub(crate) mod validate;
