//! What a step costs, per execution model.
