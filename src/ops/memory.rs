//! Memory that one tensor leaves is kept for the next.

/// Makes mimalloc, the allocator of the program, never return freed memory to the system. To be called first in `main`.
///
/// Every tensor is an allocation of its own, and a training step frees what the next one asks for again. mimalloc would
/// return memory that lies idle for a second, which is about a step of a large network; the system then clears and maps
/// page after page anew (in a step of WRN-40-2 a tenth of its time).
pub fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "mimalloc is written in C")]
    // SAFETY: the function stores a number in a table of options, at an index below `_mi_option_last`; it may be called at
    // any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
}

/// `mi_option_purge_delay` of mimalloc.h, which the Rust bindings leave out; milliseconds, −1 is never.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "mimalloc is written in C")]
    fn the_option_is_the_purge_delay() {
        // SAFETY: reads a number from a table of options, at an index below `_mi_option_last`.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        // mimalloc 3's default; no other option has it.
        assert_eq!(delay(), 1000);
        keep_freed_memory();
        assert_eq!(delay(), -1);
    }
}
