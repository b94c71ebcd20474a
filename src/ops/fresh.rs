//! Arrays that parallel tasks fill without their being zeroed first: at these sizes a pass over memory costs as much as
//! the operation.

use std::{iter::Sum, marker::PhantomData, mem::MaybeUninit};

use rayon::prelude::*;

use super::{Float, wide::wide};

/// `len` elements that `write` writes, every one.
///
/// # Panics
/// When `write` leaves elements unwritten.
pub(super) fn fresh<T: Float>(len: usize, write: impl for<'a> FnOnce(Blank<'a, T>) -> Written<'a>) -> Vec<T> {
    let mut all = Vec::with_capacity(len);
    let Written(count, _) = write(Blank { cells: &mut all.spare_capacity_mut()[..len], brand: PhantomData });
    assert_eq!(count, len, "elements were left unwritten");
    #[expect(unsafe_code, reason = "the length of a vector that was written through its spare capacity")]
    // SAFETY: `len` elements were reserved. A `Blank` is consumed by the methods that write its cells, and by those that
    // part it into disjoint ones; only writing makes a `Written`, which counts the cells written. A `Written` of another
    // call has another brand 'a (invariant, and `write` must work for every 'a), so it cannot be counted here. Hence
    // `len` written cells out of `len` are all of them.
    unsafe {
        all.set_len(len);
    }
    all
}

/// Ties what was written to what was blank: invariant in its lifetime.
type Brand<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// A part of the array that is yet to be written.
pub(super) struct Blank<'a, T> {
    cells: &'a mut [MaybeUninit<T>],
    brand: Brand<'a>,
}

/// So many elements were written.
pub(super) struct Written<'a>(usize, Brand<'a>);

impl<'a, T: Float> Blank<'a, T> {
    fn new(cells: &'a mut [MaybeUninit<T>]) -> Self {
        Self { cells, brand: PhantomData }
    }

    /// Writes the values in order.
    ///
    /// # Panics
    /// When there are fewer values than elements.
    #[inline(always)]
    pub(super) fn write(self, values: impl Iterator<Item = T>) -> Written<'a> {
        self.write_and(values, |_| ())
    }

    /// Writes the values in order, then lets `change` work on them.
    ///
    /// # Panics
    /// When there are fewer values than elements.
    #[inline(always)]
    pub(super) fn write_and(self, values: impl Iterator<Item = T>, change: impl FnOnce(&mut [T])) -> Written<'a> {
        // A fold, because a loop with a counter beside the elements is vectorised half as wide.
        let count = wide!({
            self.cells.iter_mut().zip(values).fold(0, |count, (cell, value)| {
                cell.write(value);
                count + 1
            })
        });
        assert_eq!(count, self.cells.len(), "too few values");
        #[expect(unsafe_code, reason = "the elements as such, once they are written")]
        // SAFETY: one cell after the other was written, and as many as there are (asserted above); `MaybeUninit<T>` has
        // the layout of `T`. The elements are borrowed mutably from `self`, which is consumed.
        let elements = unsafe { std::slice::from_raw_parts_mut(self.cells.as_mut_ptr().cast::<T>(), count) };
        change(elements);
        Written(count, PhantomData)
    }

    /// Writes `value` everywhere, then lets `change` work on the elements.
    #[inline(always)]
    pub(super) fn fill(self, value: T, change: impl FnOnce(&mut [T])) -> Written<'a> {
        self.write_and(std::iter::repeat(value), change)
    }

    /// The first `count` elements and the others.
    pub(super) fn split_at(self, count: usize) -> (Self, Self) {
        let (first, rest) = self.cells.split_at_mut(count);
        (Self::new(first), Self::new(rest))
    }

    /// Parts of `size` elements, the last one perhaps shorter.
    pub(super) fn chunks(self, size: usize) -> impl Iterator<Item = Self> {
        self.cells.chunks_mut(size).map(Self::new)
    }

    /// [`Blank::chunks`] for parallel tasks.
    pub(super) fn par_chunks(self, size: usize) -> impl IndexedParallelIterator<Item = Self> {
        self.cells.par_chunks_mut(size).map(Self::new)
    }
}

impl Sum for Written<'_> {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        Self(parts.map(|part| part.0).sum(), PhantomData)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_in_place() {
        let values = fresh::<f32>(10, |blank| {
            let (first, rest) = blank.split_at(3);
            let rest = rest.par_chunks(2).enumerate().map(|(i, part)| part.fill(i as f32, |part| part[0] += 10.0));
            [first.write([7.0, 8.0, 9.0, 1.0].into_iter()), rest.sum()].into_iter().sum()
        });
        assert_eq!(values, [7.0, 8.0, 9.0, 10.0, 0.0, 11.0, 1.0, 12.0, 2.0, 13.0]);
        assert!(fresh::<f64>(0, |blank| blank.chunks(4).map(|part| part.write([].into_iter())).sum()).is_empty());
    }

    #[test]
    #[should_panic(expected = "elements were left unwritten")]
    fn what_is_not_written_cannot_be_read() {
        fresh::<f32>(3, |blank| blank.split_at(2).0.write([0.0; 2].into_iter()));
    }
}
