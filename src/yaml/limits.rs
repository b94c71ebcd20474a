//! Upper ends of ranges that several settings share, ours.
//!
//! They are far beyond any experiment, so that what is above is a slip of the keyboard. They are small enough that no product
//! of two of them wraps, and that no buffer made for one is absurd.

/// Images of a set.
pub const MOST_IMAGES: usize = 1_000_000_000;
/// Images held as one tensor.
pub const MOST_TOGETHER: usize = 65_536;
/// Factor of a loss term.
pub const MOST_WEIGHT: f64 = 1e6;
