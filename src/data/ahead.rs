//! A thread that prepares the next images while these are worked on.

use std::{ops::Range, sync::mpsc::sync_channel, thread};

use crate::{Error, Result};

/// Batches that wait. Ours: one hides the preparation; more would take memory.
const WAITING: usize = 1;

/// Hands `each` what `make` gives of every `batch` of `count` images, in order, while a thread makes the next.
///
/// # Errors
/// The first of `make` or `each`; nothing is made after it.
pub(super) fn ahead<T: Send>(
    count: usize,
    batch: usize,
    make: impl Fn(Range<usize>) -> Result<T> + Send,
    mut each: impl FnMut(Range<usize>, T) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let (sender, made) = sync_channel(WAITING);
        let worker = move || {
            for start in (0..count).step_by(batch.max(1)) {
                let range = start..(start + batch.max(1)).min(count);
                let made = make(range.clone());
                let failed = made.is_err();
                // Nobody listens once `each` has failed.
                if sender.send((range, made)).is_err() || failed {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("images".into())
            .spawn_scoped(scope, worker)
            .map_err(|error| Error::Failed(format!("cannot start the thread that prepares images: {error}")))?;
        made.into_iter().try_for_each(|(range, made)| each(range, made?))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn batches_come_in_order_and_no_more_than_two_ahead() {
        let made = AtomicUsize::new(0);
        let mut seen = Vec::new();
        let make = |range: Range<usize>| {
            made.fetch_add(1, SeqCst);
            Ok(range.len())
        };
        ahead(7, 2, make, |range, length| {
            seen.push((range.clone(), length));
            // One that is worked on, one that waits, one that is being made or cannot be sent.
            assert!(made.load(SeqCst) <= range.start / 2 + 3);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0..2, 2), (2..4, 2), (4..6, 2), (6..7, 1)]);
        ahead(0, 2, |_| Ok(()), |_, ()| Err(Error::Interrupted)).unwrap();
    }

    #[test]
    fn the_first_error_ends_it_on_either_side() {
        let made = AtomicUsize::new(0);
        let make = |range: Range<usize>| {
            made.fetch_add(1, SeqCst);
            if range.start == 20 { Err(Error::input("broken")) } else { Ok(()) }
        };
        let mut seen = 0;
        let error = ahead(1000, 10, make, |_, ()| {
            seen += 1;
            Ok(())
        });
        assert_eq!((error.unwrap_err().to_string(), seen, made.load(SeqCst)), ("broken".into(), 2, 3));
        made.store(0, SeqCst);
        let stopped = ahead(1000, 1, |_| Ok(made.fetch_add(1, SeqCst)), |_, _| Err(Error::Interrupted));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert!(made.load(SeqCst) <= 3);
    }
}
