//! Of unit tests: values that `tests/golden/pattern.py` computes alike. Integration tests have them in `tests/common`.

use candle_core::{Device, Tensor};

/// In [-1, 1), f64: SplitMix64 of (FNV-1a hash of the name) + index.
pub fn uniform(name: &str, shape: &[usize]) -> Tensor {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325, hash);
    let value = |i: u64| {
        let mut z = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 * 2f64.powi(-52) - 1.0
    };
    let count: usize = shape.iter().product();
    Tensor::from_vec((0..count as u64).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// What a weight or a bias of this name holds in golden networks without normalisations, f32.
pub fn parameter(name: &str, shape: &[usize]) -> Tensor {
    let scale = if shape.len() >= 2 { (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() } else { 0.1 };
    (uniform(name, shape) * scale).unwrap().to_dtype(candle_core::DType::F32).unwrap()
}

/// All elements, in order, f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What golden files hold of a tensor: at least 48 of its elements, evenly spread, or all.
pub fn sampled(tensor: &Tensor) -> Vec<f64> {
    let values = values(tensor);
    values.iter().step_by((values.len() / 48).max(1)).copied().collect()
}

/// Every `actual` is within tolerance·max(1, |expected|).
#[track_caller]
pub fn assert_close(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of values");
    for (at, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{what}[{at}]: {actual}, expected {expected}");
    }
}
