//! The micro-kernel that all three passes of a convolution share, for AVX-512, AVX2 and any other processor.
//!
//! A tile is up to eight sums in registers, each of `lanes` neighbours that share their coefficients' rows:
//!
//! tile\[p\]\[l\] = first\[l\] + Σ_t x\[starts\[p\] + taps\[t\]\] · rows\[t\]\[l\]
//!
//! Forward, `p` are output pixels, `t` the taps of the kernel and `l` output channels. For the input gradient, `x` is the
//! output's gradient and `l` are input channels. For the weight gradient, `p` are taps, `t` output pixels, and `rows` the
//! output's gradient with channels last. Reading single numbers of `x` needs no particular stride, dilation or width, and
//! the loop does nothing but load, broadcast and multiply-add: it runs at the processor's peak.
//!
//! Loops over a tile are over ranges: at `opt-level = 1`, the tests', loops over iterators are not unrolled, and sums leave their registers. That takes
//! forty times as long.

use std::fmt;

/// Sums in the largest tile.
pub(in crate::ops) const TILE: usize = 8;
/// Lanes in the widest tile.
const WIDEST: usize = 48;

/// Where a kernel puts its tile: `lanes` numbers for each of [`TILE`] sums.
pub(in crate::ops) type Buffer<T> = [T; TILE * WIDEST];

/// The instruction sets that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Isa {
    /// Whatever the compiler makes of plain loops.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// What this processor has, slowest first.
    pub(in crate::ops) fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = {
            let avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
            let avx512 = avx2 && std::arch::is_x86_feature_detected!("avx512f");
            [avx2.then_some(Self::Avx2), avx512.then_some(Self::Avx512)].into_iter().flatten()
        };
        #[cfg(not(target_arch = "x86_64"))]
        let vectors = [];
        std::iter::once(Self::Portable).chain(vectors).collect()
    }

    /// The fastest that this processor has.
    pub(in crate::ops) fn best() -> Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::available().into_iter().next_back().unwrap_or(Self::Portable))
    }
}

type Tile<T> = unsafe fn(*const T, &[u32; TILE], &[u32], *const T, *const T, &mut Buffer<T>);
type Transpose<T> = unsafe fn(*const T, usize, [usize; 2], *mut T, usize);

/// One micro-kernel.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Kernel<T: 'static> {
    /// Sums in its tile, at most [`TILE`].
    pub(in crate::ops) pixels: usize,
    /// Numbers in each of its sums.
    pub(in crate::ops) lanes: usize,
    tile: Tile<T>,
    transpose: Transpose<T>,
}

impl<T> fmt::Debug for Kernel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel {{ {}x{} }}", self.pixels, self.lanes)
    }
}

impl<T> Kernel<T> {
    /// Computes a tile into `buffer`; sums from `self.pixels` on are left as they are.
    ///
    /// # Safety
    /// `starts[p] + taps[t]` lies within what `x` points to for p below `self.pixels` and every tap; `rows` points to
    /// `taps.len() · self.lanes` numbers and `first` to `self.lanes`. The processor has the kernel's instructions, which
    /// [`Isa::available`] says.
    #[expect(unsafe_code, reason = "reads through pointers whose bounds the caller knows")]
    #[inline]
    pub(in crate::ops) unsafe fn tile(
        &self,
        x: *const T,
        starts: &[u32; TILE],
        taps: &[u32],
        rows: *const T,
        first: *const T,
        buffer: &mut Buffer<T>,
    ) {
        // SAFETY: the caller's promise is the function's.
        unsafe { (self.tile)(x, starts, taps, rows, first, buffer) }
    }

    /// Writes the transpose of a matrix: `rows` rows of `columns` numbers, `pitch` apart, from `from` on, become `columns` rows
    /// of `rows` numbers, `to_pitch` apart, from `to` on.
    ///
    /// # Safety
    /// Both matrices lie within what their pointers point to, do not overlap, nobody else reads or writes the second
    /// meanwhile, and the processor has the kernel's instructions.
    #[expect(unsafe_code, reason = "writes rows of a plane that other threads write other rows of")]
    #[inline]
    pub(in crate::ops) unsafe fn transpose(
        &self,
        from: *const T,
        pitch: usize,
        [rows, columns]: [usize; 2],
        to: *mut T,
        to_pitch: usize,
    ) {
        // SAFETY: the caller's promise is the function's.
        unsafe { (self.transpose)(from, pitch, [rows, columns], to, to_pitch) }
    }
}

/// The element types that there are kernels for.
pub(in crate::ops) trait Kernels: Copy + Send + Sync + 'static {
    /// The kernels that cover `channels` lanes, first to last; only the last may have lanes to spare.
    fn kernels(isa: Isa, channels: usize) -> Vec<Kernel<Self>>;
}

impl Kernels for f64 {
    fn kernels(_: Isa, channels: usize) -> Vec<Kernel<f64>> {
        vec![portable(); channels.div_ceil(8)]
    }
}

impl Kernels for f32 {
    fn kernels(isa: Isa, channels: usize) -> Vec<Kernel<f32>> {
        match isa {
            Isa::Portable => vec![portable(); channels.div_ceil(8)],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                let mut kernels = vec![x86::AVX2_16; channels / 16];
                match channels % 16 {
                    0 => (),
                    1..=8 => kernels.push(x86::AVX2_8),
                    _ => kernels.push(x86::AVX2_16),
                }
                kernels
            }
            // Two vectors of 16 hide the loads best; an odd number of vectors is made up with three.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if channels <= 8 => vec![x86::AVX2_8],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => match channels.div_ceil(16) {
                1 => vec![x86::AVX512_16],
                vectors if vectors % 2 == 0 => vec![x86::AVX512_32; vectors / 2],
                vectors => {
                    let mut kernels = vec![x86::AVX512_32; (vectors - 3) / 2];
                    kernels.push(x86::AVX512_48);
                    kernels
                }
            },
        }
    }
}

/// Plain loops of fixed length, four sums of eight lanes, that compilers turn into whatever vectors there are.
fn portable<T>() -> Kernel<T>
where
    T: Copy + Send + Sync + 'static + std::ops::Mul<Output = T> + std::ops::Add<Output = T>,
{
    const PIXELS: usize = 4;
    const LANES: usize = 8;
    #[expect(unsafe_code, reason = "the same promise as the vector kernels'")]
    unsafe fn tile<T: Copy + std::ops::Mul<Output = T> + std::ops::Add<Output = T>>(
        x: *const T,
        starts: &[u32; TILE],
        taps: &[u32],
        rows: *const T,
        first: *const T,
        buffer: &mut Buffer<T>,
    ) {
        // SAFETY: `Kernel::tile`'s caller promises LANES numbers at `first`, as many for each tap at `rows`, and that
        // every start plus every tap lies within `x`.
        unsafe {
            let mut sums = [first.cast::<[T; LANES]>().read_unaligned(); PIXELS];
            for (t, tap) in taps.iter().enumerate() {
                let row = rows.add(t * LANES).cast::<[T; LANES]>().read_unaligned();
                for p in 0..PIXELS {
                    let value = *x.add(starts[p] as usize + *tap as usize);
                    for l in 0..LANES {
                        sums[p][l] = sums[p][l] + value * row[l];
                    }
                }
            }
            for (to, sum) in buffer.chunks_exact_mut(LANES).zip(sums) {
                to.copy_from_slice(&sum);
            }
        }
    }
    Kernel { pixels: PIXELS, lanes: LANES, tile: tile::<T>, transpose: transpose::<T> }
}

#[expect(unsafe_code, reason = "the same promise as the vector kernels'")]
unsafe fn transpose<T: Copy>(from: *const T, pitch: usize, [rows, columns]: [usize; 2], to: *mut T, to_pitch: usize) {
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: `Kernel::transpose`'s caller promises both matrices.
            unsafe { *to.add(column * to_pitch + row) = *from.add(row * pitch + column) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions and pointers")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Buffer, Kernel, TILE};

    pub(super) const AVX2_8: Kernel<f32> = Kernel { pixels: 8, lanes: 8, tile: avx2::<8, 1>, transpose };
    /// Twelve of the sixteen registers hold sums, two the row, one the broadcast.
    pub(super) const AVX2_16: Kernel<f32> = Kernel { pixels: 6, lanes: 16, tile: avx2::<6, 2>, transpose };
    pub(super) const AVX512_16: Kernel<f32> = Kernel { pixels: 8, lanes: 16, tile: avx512::<8, 1>, transpose };
    pub(super) const AVX512_32: Kernel<f32> = Kernel { pixels: 8, lanes: 32, tile: avx512::<8, 2>, transpose };
    pub(super) const AVX512_48: Kernel<f32> = Kernel { pixels: 8, lanes: 48, tile: avx512::<8, 3>, transpose };

    /// The kernel of PIXELS sums of VECTORS vectors of `$lanes` numbers, in the instructions of one set.
    macro_rules! tile {
        ($name:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $multiply_add:ident, $store:ident) => {
            #[target_feature(enable = $features)]
            unsafe fn $name<const PIXELS: usize, const VECTORS: usize>(
                x: *const f32,
                starts: &[u32; TILE],
                taps: &[u32],
                mut rows: *const f32,
                first: *const f32,
                buffer: &mut Buffer<f32>,
            ) {
                // SAFETY: `Kernel::tile`'s caller promises `$lanes`·VECTORS numbers at `first`, as many for each tap at `rows`,
                // and that every start plus every tap lies within `x`. The tile, `$lanes`·PIXELS·VECTORS numbers, fits the
                // buffer for the kernels above.
                unsafe {
                    let mut sums = [[$zero(); VECTORS]; PIXELS];
                    for p in 0..PIXELS {
                        for v in 0..VECTORS {
                            sums[p][v] = $load(first.add($lanes * v));
                        }
                    }
                    for tap in taps {
                        let window = x.add(*tap as usize);
                        let mut row = [$zero(); VECTORS];
                        for v in 0..VECTORS {
                            row[v] = $load(rows.add($lanes * v));
                        }
                        for p in 0..PIXELS {
                            let value = $splat(*window.add(starts[p] as usize));
                            for v in 0..VECTORS {
                                sums[p][v] = $multiply_add(value, row[v], sums[p][v]);
                            }
                        }
                        rows = rows.add($lanes * VECTORS);
                    }
                    for p in 0..PIXELS {
                        for v in 0..VECTORS {
                            $store(buffer.as_mut_ptr().add((p * VECTORS + v) * $lanes), sums[p][v]);
                        }
                    }
                }
            }
        };
    }
    tile!(avx2, "avx2,fma", 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps);
    tile!(avx512, "avx512f", 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps);

    /// In blocks of 8×8, those at the edges under masks.
    #[target_feature(enable = "avx2")]
    unsafe fn transpose(from: *const f32, pitch: usize, [rows, columns]: [usize; 2], to: *mut f32, to_pitch: usize) {
        let below = |count: usize| {
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
        };
        for row in (0..rows).step_by(8) {
            let (height, mask) = ((rows - row).min(8), below(rows - row));
            for column in (0..columns).step_by(8) {
                let width = (columns - column).min(8);
                // SAFETY: `Kernel::transpose`'s caller promises both matrices. Rows and columns of the block lie within them:
                // whole vectors are read and written only where eight of them remain, else those that the mask leaves.
                unsafe {
                    let from = from.add(row * pitch + column);
                    let to = to.add(column * to_pitch + row);
                    let mut block = [_mm256_setzero_ps(); 8];
                    for (r, block) in block.iter_mut().enumerate().take(height) {
                        *block = match width {
                            8 => _mm256_loadu_ps(from.add(r * pitch)),
                            _ => _mm256_maskload_ps(from.add(r * pitch), below(width)),
                        };
                    }
                    for (c, block) in transposed(block).into_iter().enumerate().take(width) {
                        match height {
                            8 => _mm256_storeu_ps(to.add(c * to_pitch), block),
                            _ => _mm256_maskstore_ps(to.add(c * to_pitch), mask, block),
                        }
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    fn transposed(r: [__m256; 8]) -> [__m256; 8] {
        let pairs: [__m256; 8] = [
            _mm256_unpacklo_ps(r[0], r[1]),
            _mm256_unpackhi_ps(r[0], r[1]),
            _mm256_unpacklo_ps(r[2], r[3]),
            _mm256_unpackhi_ps(r[2], r[3]),
            _mm256_unpacklo_ps(r[4], r[5]),
            _mm256_unpackhi_ps(r[4], r[5]),
            _mm256_unpacklo_ps(r[6], r[7]),
            _mm256_unpackhi_ps(r[6], r[7]),
        ];
        let quads: [__m256; 8] = [
            _mm256_shuffle_ps::<0x44>(pairs[0], pairs[2]),
            _mm256_shuffle_ps::<0xEE>(pairs[0], pairs[2]),
            _mm256_shuffle_ps::<0x44>(pairs[1], pairs[3]),
            _mm256_shuffle_ps::<0xEE>(pairs[1], pairs[3]),
            _mm256_shuffle_ps::<0x44>(pairs[4], pairs[6]),
            _mm256_shuffle_ps::<0xEE>(pairs[4], pairs[6]),
            _mm256_shuffle_ps::<0x44>(pairs[5], pairs[7]),
            _mm256_shuffle_ps::<0xEE>(pairs[5], pairs[7]),
        ];
        [
            _mm256_permute2f128_ps::<0x20>(quads[0], quads[4]),
            _mm256_permute2f128_ps::<0x20>(quads[1], quads[5]),
            _mm256_permute2f128_ps::<0x20>(quads[2], quads[6]),
            _mm256_permute2f128_ps::<0x20>(quads[3], quads[7]),
            _mm256_permute2f128_ps::<0x31>(quads[0], quads[4]),
            _mm256_permute2f128_ps::<0x31>(quads[1], quads[5]),
            _mm256_permute2f128_ps::<0x31>(quads[2], quads[6]),
            _mm256_permute2f128_ps::<0x31>(quads[3], quads[7]),
        ]
    }
}
