//! Program: what one rank does; text form and verifier.
