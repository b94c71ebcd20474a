//! The grid of a sweep.
