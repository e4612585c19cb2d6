//! The stable interface of Orrery.
