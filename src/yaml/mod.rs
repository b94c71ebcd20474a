//! From text to values: how a file is read, and how what is wrong in it is said.
//!
//! [`load`] reads YAML with its includes, [`explain`] words its errors, [`problems`] says which value is wrong. [`named`] are
//! values that may be written short, [`limits`] the ranges that settings share, and `registry` makes a key of each file of a kind.

pub mod explain;
pub(crate) mod keys;
pub mod limits;
pub mod load;
pub mod named;
pub mod problems;
pub(crate) mod registry;
pub(crate) mod words;
