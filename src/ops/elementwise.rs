//! Loops over elements, in parallel over blocks.

use rayon::prelude::*;

use super::{Float, fresh::fresh};

/// Elements that one parallel task handles; fixed, so that tasks do not depend on threads.
pub(super) const BLOCK: usize = 1 << 14;

/// `f` of each element.
pub(super) fn map<T: Float>(x: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    fresh(x.len(), |y| {
        let blocks = y.par_chunks(BLOCK).zip(x.par_chunks(BLOCK));
        blocks.map(|(y, x)| y.write(x.iter().map(|x| f(*x)))).sum()
    })
}

/// `f` of the elements at the same place of two arrays of the same length.
pub(super) fn map2<T: Float>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    fresh(a.len(), |y| {
        let blocks = y.par_chunks(BLOCK).zip(a.par_chunks(BLOCK)).zip(b.par_chunks(BLOCK));
        blocks.map(|((y, a), b)| y.write(a.iter().zip(b).map(|(a, b)| f(*a, *b)))).sum()
    })
}

/// `f` of the elements at the same place of three arrays of the same length.
pub(super) fn map3<T: Float>(a: &[T], b: &[T], c: &[T], f: impl Fn(T, T, T) -> T + Sync) -> Vec<T> {
    fresh(a.len(), |y| {
        let blocks = y.par_chunks(BLOCK).zip(a.par_chunks(BLOCK)).zip(b.par_chunks(BLOCK)).zip(c.par_chunks(BLOCK));
        blocks.map(|(((y, a), b), c)| y.write(a.iter().zip(b).zip(c).map(|((a, b), c)| f(*a, *b, *c)))).sum()
    })
}
