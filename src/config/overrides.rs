//! `key=value` on a typed experiment.
