//! Linear interpolation between evenly spaced values of 16 bits.

use super::wide;

/// A function's values at evenly spaced places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid<'a> {
    /// The first and the last place.
    pub ends: [f32; 2],
    /// Nodes a unit.
    pub density: f32,
    /// Of node value 0, and of each step of it.
    pub lowest: f32,
    pub step: f32,
    /// At least two.
    pub nodes: &'a [u16],
}

/// The function at `places`, no more than `cap`; beyond its ends, and for NaN, any value of it. Whether there was such a place.
pub(crate) fn interpolate(grid: Grid<'_>, cap: f32, places: &[f32], found: &mut [f32]) -> bool {
    assert!(grid.nodes.len() >= 2 && i32::try_from(grid.nodes.len()).is_ok(), "{} nodes", grid.nodes.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let (places, last_places) = places.as_chunks();
        let (found, last_found) = found.as_chunks_mut();
        #[expect(unsafe_code, reason = "a function for some processors only")]
        // SAFETY: the processor has AVX2, as was just asked.
        let outside = unsafe { avx2(grid, cap, places, found) };
        return portable(grid, cap, last_places, last_found) || outside;
    }
    portable(grid, cap, places, found)
}

fn portable(grid: Grid<'_>, cap: f32, places: &[f32], found: &mut [f32]) -> bool {
    let [first, last] = grid.ends;
    let mut outside = false;
    wide!({
        for (place, found) in places.iter().zip(found) {
            let inside = place.max(first).min(last);
            outside |= inside != *place;
            let node = ((inside - first) * grid.density).min((grid.nodes.len() - 1) as f32);
            let index = (node as usize).min(grid.nodes.len() - 2);
            let [left, right] = [grid.nodes[index], grid.nodes[index + 1]].map(f32::from);
            let steps = left + (node - index as f32) * (right - left);
            *found = (grid.lowest + grid.step * steps).min(cap);
        }
    });
    outside
}

/// Eight at a time, because no compiler makes one instruction of loads at eight addresses: twice as fast as one by one, with the
/// same bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(grid: Grid<'_>, cap: f32, places: &[[f32; 8]], found: &mut [[f32; 8]]) -> bool {
    use std::arch::x86_64::*;
    let [first, last] = grid.ends.map(|end| _mm256_set1_ps(end));
    let [density, lowest, step, cap] = [grid.density, grid.lowest, grid.step, cap].map(|x| _mm256_set1_ps(x));
    let (last_node, last_index) = (_mm256_set1_ps((grid.nodes.len() - 1) as f32), grid.nodes.len() as i32 - 2);
    let mut outside = _mm256_setzero_ps();
    for (places, found) in places.iter().zip(found) {
        #[expect(unsafe_code, reason = "a load from eight f32")]
        // SAFETY: an array of eight f32, at any address.
        let place = unsafe { _mm256_loadu_ps(places.as_ptr()) };
        let inside = _mm256_min_ps(_mm256_max_ps(place, first), last);
        outside = _mm256_or_ps(outside, _mm256_cmp_ps::<_CMP_NEQ_UQ>(inside, place));
        // Of a NaN and a number, the second one.
        let node = _mm256_min_ps(_mm256_mul_ps(_mm256_sub_ps(inside, first), density), last_node);
        let index = _mm256_min_epi32(_mm256_cvttps_epi32(node), _mm256_set1_epi32(last_index));
        let index = _mm256_max_epi32(index, _mm256_setzero_si256());
        #[expect(unsafe_code, reason = "loads at eight addresses")]
        // SAFETY: from 0 to the last node but one; four bytes there are this node and the next.
        let pair = unsafe { _mm256_i32gather_epi32::<2>(grid.nodes.as_ptr().cast(), index) };
        let left = _mm256_cvtepi32_ps(_mm256_and_si256(pair, _mm256_set1_epi32(0xFFFF)));
        let right = _mm256_cvtepi32_ps(_mm256_srli_epi32::<16>(pair));
        let beside = _mm256_sub_ps(node, _mm256_cvtepi32_ps(index));
        let steps = _mm256_add_ps(left, _mm256_mul_ps(beside, _mm256_sub_ps(right, left)));
        let value = _mm256_min_ps(_mm256_add_ps(lowest, _mm256_mul_ps(step, steps)), cap);
        #[expect(unsafe_code, reason = "a store to eight f32")]
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(found.as_mut_ptr(), value);
        }
    }
    _mm256_movemask_ps(outside) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_interpolate_like_numbers_one_by_one() {
        let nodes: Vec<u16> = (0..77_u32).map(|node| (node * node * 11 % 65_536) as u16).collect();
        let grid = Grid { ends: [-1.5, 2.25], density: 76.0 / 3.75, lowest: -2.0, step: 0.001, nodes: &nodes };
        let places: Vec<f32> = (0..1003)
            .map(|i| -2.0 + i as f32 * 0.0047)
            .chain([-1.5, 2.25, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0])
            .collect();
        let [mut fast, mut slow] = [vec![0.0; places.len()], vec![0.0; places.len()]];
        assert!(interpolate(grid, 40.0, &places, &mut fast));
        assert!(portable(grid, 40.0, &places, &mut slow));
        assert_eq!(fast, slow);
        assert!(fast.iter().all(|value| (-2.0..=40.0).contains(value)) && fast.contains(&40.0));
        assert!(!interpolate(grid, 40.0, &[-1.5, 0.0, 2.25, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0], &mut fast[..9]));
        // Halfway between nodes 40 and 41.
        let middle = -1.5 + 40.5 / grid.density;
        interpolate(grid, 99.0, &[middle], &mut fast[..1]);
        let expected = -2.0 + 0.001 * (f32::from(nodes[40]) + f32::from(nodes[41])) / 2.0;
        assert!((fast[0] - expected).abs() < 1e-4, "{} and {expected}", fast[0]);
        // Scales that a hostile file may have.
        for density in [f32::NAN, f32::INFINITY, -1.0, 1e30] {
            for ends in [[1.0, -1.0], [f32::NAN, f32::NAN], [0.0, f32::INFINITY]] {
                interpolate(Grid { ends, density, ..grid }, 40.0, &places, &mut fast);
            }
        }
    }
}
