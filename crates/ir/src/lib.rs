//! Op table, Graph, text form, verifier and interpreter.
