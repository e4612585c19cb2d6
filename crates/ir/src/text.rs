//! The text form of graphs: printer and parser.
