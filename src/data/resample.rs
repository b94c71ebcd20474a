//! Planes of bytes at another number of rows and columns.
//!
//! With anti-aliasing the bytes are Pillow's: a pixel is the weighted mean of all that it covers, along the rows and then along
//! the columns, each rounded. Without, it is PyTorch's `interpolate(align_corners=False)` and OpenCV's on floats: the mean of the 2
//! or 4 nearest pixels, however much the image shrinks.

use super::form::Mode;

/// Bits after the point of Pillow's weights.
const BITS: u32 = 22;

/// Planes (C, H, W) at other sides.
pub(super) fn planes(bytes: &[u8], from: [usize; 2], to: [usize; 2], mode: Mode, antialias: bool) -> Vec<u8> {
    match (mode, antialias) {
        _ if from == to => bytes.to_vec(),
        (Mode::Nearest, _) => nearest(bytes, from, to),
        (_, true) => covered(bytes, from, to, mode),
        (_, false) => between(bytes, from, to, mode),
    }
}

/// The pixel whose area holds the new pixel's centre.
fn nearest(bytes: &[u8], [height, width]: [usize; 2], [rows, columns]: [usize; 2]) -> Vec<u8> {
    // Added up as Pillow does, so that centres on a border fall to the same side.
    let places = |from: usize, to: usize| -> Vec<usize> {
        let scale = from as f64 / to as f64;
        std::iter::successors(Some(scale * 0.5), |at| Some(at + scale))
            .take(to)
            .map(|at| (at as usize).min(from - 1))
            .collect()
    };
    let (ys, xs) = (places(height, rows), places(width, columns));
    let plane =
        |plane: &[u8]| -> Vec<u8> { ys.iter().flat_map(|y| xs.iter().map(move |x| plane[y * width + x])).collect() };
    bytes.chunks_exact(height * width).flat_map(plane).collect()
}

/// Pillow's `resize`, to the byte.
fn covered(bytes: &[u8], [height, width]: [usize; 2], [rows, columns]: [usize; 2], mode: Mode) -> Vec<u8> {
    let mut wide = Vec::with_capacity(bytes.len() / width * columns);
    if width == columns {
        wide.extend_from_slice(bytes);
    } else {
        let weights = weights(width, columns, mode);
        for row in bytes.chunks_exact(width) {
            wide.extend(weights.iter().map(|(first, weights)| {
                byte(row[*first..].iter().zip(weights).map(|(pixel, weight)| i32::from(*pixel) * weight).sum())
            }));
        }
    }
    if height == rows {
        return wide;
    }
    let mut bytes = Vec::with_capacity(wide.len() / height * rows);
    let weights = weights(height, rows, mode);
    let mut sums = vec![0; columns];
    for plane in wide.chunks_exact(height * columns) {
        for (first, weights) in &weights {
            sums.fill(0);
            for (row, weight) in plane.chunks_exact(columns).skip(*first).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, pixel)| *sum += i32::from(*pixel) * weight);
            }
            bytes.extend(sums.iter().map(|sum| byte(*sum)));
        }
    }
    bytes
}

/// A sum of weighted bytes to the nearest byte.
fn byte(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// For each of `to` places, the first of `from` places that it is the mean of, and their weights: a triangle, or Keys' cubic with
/// a = −1/2, as wide as pixels of the coarser side.
fn weights(from: usize, to: usize, mode: Mode) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let filter = scale.max(1.0);
    let reach = filter * if mode == Mode::Bicubic { 2.0 } else { 1.0 };
    let place = |to: usize| {
        let centre = (to as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |at: usize| {
            let distance = ((at as f64 - centre + 0.5) / filter).abs();
            if mode == Mode::Bicubic { cubic(distance, -0.5) } else { (1.0 - distance).max(0.0) }
        };
        let total: f64 = (first..end).map(weight).sum();
        let fixed = |at| {
            let weight = weight(at) / total * f64::from(1 << BITS);
            (weight + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        (first, (first..end).map(fixed).collect())
    };
    (0..to).map(place).collect()
}

/// The cubic convolution kernel (Keys 1981) at a distance from 0.
fn cubic(x: f64, a: f64) -> f64 {
    match x {
        _ if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// The mean of the nearest pixels, those beyond the border being the border's.
fn between(bytes: &[u8], [height, width]: [usize; 2], [rows, columns]: [usize; 2], mode: Mode) -> Vec<u8> {
    let (ys, xs) = (taps(height, rows, mode), taps(width, columns, mode));
    let mut made = Vec::with_capacity(bytes.len() / (height * width) * rows * columns);
    for plane in bytes.chunks_exact(height * width) {
        for y in &ys {
            for x in &xs {
                let row = |y: usize| x.iter().map(|(x, weight)| f64::from(plane[y * width + x]) * weight).sum::<f64>();
                let value: f64 = y.iter().map(|(y, weight)| row(*y) * weight).sum();
                made.push((value + 0.5).floor().clamp(0.0, 255.0) as u8);
            }
        }
    }
    made
}

/// For each of `to` places, those of `from` that it lies between, and their weights: linear, or Keys' cubic with a = −3/4.
fn taps(from: usize, to: usize, mode: Mode) -> Vec<Vec<(usize, f64)>> {
    let (before, after) = if mode == Mode::Bicubic { (1, 2) } else { (0, 1) };
    let place = |to_place: usize| {
        let at = (to_place as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let floor = at.floor();
        let tap = |step: i64| {
            let distance = (at - floor - step as f64).abs();
            let weight = if mode == Mode::Bicubic { cubic(distance, -0.75) } else { 1.0 - distance };
            ((floor as i64 + step).clamp(0, from as i64 - 1) as usize, weight)
        };
        (-before..=after).map(tap).collect()
    };
    (0..to).map(place).collect()
}
