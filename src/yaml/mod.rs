//! From text to values: how a file is read, and how what is wrong in it is said.
//!
//! [`load`] reads YAML with its includes, [`explain`] words its errors, [`problems`] says which value is wrong. [`named`] are
//! values that may be written short, [`limits`] the ranges that settings share.

pub mod explain;
pub mod limits;
pub mod load;
pub mod named;
pub mod problems;
