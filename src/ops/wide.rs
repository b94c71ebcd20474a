//! Loops compiled for the vectors of the machine at hand.

/// The value of an expression that is compiled with AVX2 where the machine has it: the loops that are inlined into it then work on eight
/// f32 at a time instead of four. The bits do not change, because nothing is contracted or reordered. A `return` in it ends it alone.
// A macro, because the compiler leaves a long closure outside, and compiles it for any machine, unless it is told to inline it.
macro_rules! wide {
    ($body:expr) => {
        $crate::ops::compiled_wide(
            #[inline(always)]
            || $body,
        )
    };
}
pub(crate) use wide;

/// Of [`wide!`] alone.
#[inline(always)]
pub(crate) fn compiled_wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[expect(unsafe_code, reason = "a function for some processors only")]
        // SAFETY: the processor has AVX2, as was just asked.
        return unsafe { avx2(f) };
    }
    f()
}
