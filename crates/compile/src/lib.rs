//! Graph to Program, per execution model.
