//! Maps of one size to maps of another, by a matrix of each axis, in f64.

/// One axis: of each place of the result, the first value that it is a sum of, and their weights.
pub(super) type Axis = Vec<(usize, Vec<f64>)>;

/// How an axis becomes longer. A shorter one has the means of what lies in its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grow {
    /// The value at ⌊place · from / to⌋, as PyTorch's `nearest`.
    Nearest,
    /// Linear, with half-pixel centres, as PyTorch's `bilinear` with `align_corners=False`.
    Linear,
}

/// From `from` values to `to`.
///
/// # Panics
/// When a size is 0.
pub(super) fn axis(from: usize, to: usize, grow: Grow) -> Axis {
    match grow {
        _ if to < from => (0..to).map(|at| within(at * from / to, ((at + 1) * from).div_ceil(to))).collect(),
        Grow::Nearest => (0..to).map(|at| (at * from / to, vec![1.0])).collect(),
        Grow::Linear => linear(from, to),
    }
}

/// The mean of `start..end`.
fn within(start: usize, end: usize) -> (usize, Vec<f64>) {
    (start, vec![1.0 / (end - start) as f64; end - start])
}

/// Linear to any size, with half-pixel centres.
///
/// # Panics
/// When a size is 0.
pub(super) fn linear(from: usize, to: usize) -> Axis {
    assert!(from > 0 && to > 0, "{from} values to {to}");
    (0..to).map(|at| at_place(from, (at as f64 + 0.5) * from as f64 / to as f64 - 0.5)).collect()
}

/// Between the two of `from` values that lie around `source`, or the one at the end.
pub(super) fn at_place(from: usize, source: f64) -> (usize, Vec<f64>) {
    let first = (source.max(0.0) as usize).min(from - 1);
    let part = source.max(0.0) - first as f64;
    if first + 1 < from && part > 0.0 { (first, vec![1.0 - part, part]) } else { (first, vec![1.0]) }
}

/// A map, row after row, at the size of the axes.
///
/// # Panics
/// When the map is smaller than the axes tell.
pub(super) fn resample(map: &[f32], columns: usize, down: &Axis, across: &Axis) -> Vec<f32> {
    let width = across.len();
    let mut wide = Vec::with_capacity(map.len() / columns * width);
    for row in map.chunks_exact(columns) {
        wide.extend(across.iter().map(|(first, weights)| {
            row[*first..].iter().zip(weights).map(|(value, weight)| f64::from(*value) * weight).sum::<f64>()
        }));
    }
    let mut result = Vec::with_capacity(down.len() * width);
    let mut sums = vec![0.0; width];
    for (first, weights) in down {
        sums.fill(0.0);
        for (row, weight) in wide.chunks_exact(width).skip(*first).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * weight);
        }
        result.extend(sums.iter().map(|sum| *sum as f32));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_grow_and_shrink() {
        let map = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let to = |[rows, columns]: [usize; 2], grow| resample(&map, 3, &axis(2, rows, grow), &axis(3, columns, grow));
        assert_eq!(to([2, 3], Grow::Linear), map);
        assert_eq!(to([4, 3], Grow::Nearest), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0]);
        // PyTorch's interpolate(scale_factor=1.5, mode="nearest") along the columns, (0, 0, 1, 1, 2) of three.
        assert_eq!(to([2, 5], Grow::Nearest)[..5], [1.0, 1.0, 2.0, 2.0, 3.0]);
        assert_eq!(to([4, 3], Grow::Linear)[..9], [1.0, 2.0, 3.0, 1.75, 2.75, 3.75, 3.25, 4.25, 5.25]);
        for grow in [Grow::Nearest, Grow::Linear] {
            assert_eq!(to([1, 1], grow), [3.5]);
            assert_eq!(to([1, 2], grow), [3.0, 4.0]);
        }
    }
}
