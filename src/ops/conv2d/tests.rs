//! Every kernel that this processor has, against plain loops in f64.

use super::{kernel::Kernels as _, *};
use crate::rng;
use rand::Rng as _;

fn numbers(name: &str, count: usize) -> Vec<f64> {
    let mut stream = rng::stream(0, "conv2d's tests", name);
    // Few bits, so that products and short sums are the same numbers in f32.
    (0..count).map(|_| f64::from(stream.random_range(-8i8..=8)) / 8.0).collect()
}

/// Calls `visit` with the indices of y, x and w for each product in the convolution.
fn each_product(g: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
    let Convolution { stride, padding, dilation, .. } = g.convolution;
    let (inputs, outputs) = (g.group_inputs(), g.group_outputs());
    for n in 0..g.images {
        for o in 0..g.outputs {
            for (r, q) in (0..g.output[0]).flat_map(|r| (0..g.output[1]).map(move |q| (r, q))) {
                let y = ((n * g.outputs + o) * g.output[0] + r) * g.output[1] + q;
                for c in 0..inputs {
                    for (i, j) in (0..g.kernel[0]).flat_map(|i| (0..g.kernel[1]).map(move |j| (i, j))) {
                        let row = (r * stride[0] + i * dilation[0]).checked_sub(padding[0]);
                        let column = (q * stride[1] + j * dilation[1]).checked_sub(padding[1]);
                        let (Some(row), Some(column)) = (row, column) else { continue };
                        if row < g.input[0] && column < g.input[1] {
                            let channel = o / outputs * inputs + c;
                            let x = ((n * g.inputs + channel) * g.input[0] + row) * g.input[1] + column;
                            visit(y, x, ((o * inputs + c) * g.kernel[0] + i) * g.kernel[1] + j);
                        }
                    }
                }
            }
        }
    }
}

fn grid() -> Vec<Geometry> {
    let cases = [
        ([1, 1, 1, 1], [1, 1], [1, 1], Convolution::new(1, 0)),
        ([2, 3, 1, 1], [5, 3], [3, 3], Convolution::new(1, 1)),
        ([2, 3, 5, 4], [4, 3], [3, 3], Convolution::new(1, 1)),
        ([3, 1, 9, 9], [6, 1], [5, 5], Convolution::new(1, 0)),
        ([2, 6, 7, 7], [16, 6], [5, 5], Convolution::new(1, 2)),
        ([5, 8, 6, 6], [33, 8], [3, 3], Convolution::new(2, 1)),
        ([1, 4, 7, 5], [40, 4], [3, 3], Convolution::new(2, 1)),
        ([2, 5, 8, 8], [17, 5], [1, 1], Convolution::new(2, 0)),
        ([2, 20, 5, 5], [48, 20], [1, 1], Convolution::new(1, 0)),
        ([1, 3, 17, 13], [9, 3], [7, 7], Convolution::new(2, 3)),
        ([1, 2, 9, 10], [3, 2], [3, 3], Convolution::new(1, 2).dilated(2)),
        ([1, 2, 11, 9], [3, 2], [3, 2], Convolution::new(3, 2).dilated(2)),
        ([1, 2, 11, 9], [3, 2], [2, 3], Convolution::new(2, 1).dilated(2)),
        ([2, 6, 5, 5], [4, 3], [3, 3], Convolution::new(1, 1).grouped(2)),
        ([2, 40, 4, 4], [80, 20], [3, 3], Convolution::new(2, 1).grouped(2)),
        ([2, 7, 6, 5], [7, 1], [3, 3], Convolution::new(1, 1).grouped(7)),
        ([2, 7, 9, 6], [7, 1], [5, 3], Convolution::new(2, 2).grouped(7)),
        ([1, 5, 9, 9], [5, 1], [3, 3], Convolution::new(3, 2).dilated(2).grouped(5)),
        ([1, 3, 6, 6], [6, 1], [3, 3], Convolution::new(1, 1).grouped(3)),
        ([2, 2, 3, 8], [3, 2], [1, 7], Convolution { padding: [0, 3], ..Convolution::new(1, 0) }),
        ([2, 2, 9, 8], [3, 2], [2, 2], Convolution { stride: [3, 1], padding: [1, 0], ..Convolution::new(1, 0) }),
        ([37, 3, 6, 6], [4, 3], [3, 3], Convolution::new(1, 1)),
    ];
    let geometry = cases.map(|(x, [o, c], [kh, kw], convolution)| Geometry::new(&x, &[o, c, kh, kw], convolution));
    geometry.into_iter().map(Result::unwrap).collect()
}

fn check<T: Float>(g: &Geometry, isa: Isa, tolerance: f64) {
    let (x, w) = (numbers("x", g.input_shape().elem_count()), numbers("w", g.weights()));
    let (dy, bias) = (numbers("dy", g.output_shape().elem_count()), numbers("bias", g.outputs));
    let mut y: Vec<f64> = (0..dy.len()).map(|i| bias[i / g.pixels() % g.outputs]).collect();
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    each_product(g, |at_y, at_x, at_w| {
        y[at_y] += x[at_x] * w[at_w];
        dx[at_x] += dy[at_y] * w[at_w];
        dw[at_w] += dy[at_y] * x[at_x];
    });
    let of = |values: &[f64]| -> Vec<T> { values.iter().map(|value| T::from_f64(*value)).collect() };
    let (x, w, dy, bias) = (of(&x), of(&w), of(&dy), of(&bias));
    let close = |what: &str, found: &[T], expected: &[f64]| {
        assert_eq!(found.len(), expected.len(), "{what} of {g:?}");
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found.to_f64() - expected).abs();
            assert!(error <= tolerance, "{what}[{i}] of {g:?} on {isa:?} is {found}, not {expected}");
        }
    };
    close("y", &direct::forward(g, isa, &x, &w, Some(&bias), Ending::NONE), &y);
    close("dx", &direct::input_gradient(g, isa, &dy, &w), &dx);
    close("dw", &direct::weight_gradient(g, isa, &dy, &x), &dw);
    let sums: Vec<f64> = (0..g.outputs)
        .map(|o| {
            let planes = dy.chunks(g.pixels()).skip(o).step_by(g.outputs);
            planes.flatten().map(|value| value.to_f64()).sum()
        })
        .collect();
    close("db", &direct::bias_gradient(&dy, g.outputs, g.pixels()), &sums);
    let add = of(&numbers("add", y.len()));
    let activated: Vec<f64> = y.iter().zip(&add).map(|(y, add)| (y + add.to_f64()).clamp(0.0, 6.0)).collect();
    let ending = Ending { add: Some(&add), activation: Activation::Relu6 };
    close("activated", &direct::forward(g, isa, &x, &w, Some(&bias), ending), &activated);
    if g.is_depthwise() {
        close("depthwise y", &depthwise::forward(g, &x, &w, Some(&bias), Ending::NONE), &y);
        close("depthwise dw", &depthwise::weight_gradient(g, &dy, &x), &dw);
        close("depthwise activated", &depthwise::forward(g, &x, &w, Some(&bias), ending), &activated);
    }
    if g.group_inputs() == 1 {
        close("depthwise dx", &depthwise::input_gradient(g, &dy, &w), &dx);
    }
}

#[test]
fn every_kernel_equals_plain_loops() {
    for g in grid() {
        check::<f64>(&g, Isa::Portable, 1e-12);
        for isa in Isa::available() {
            check::<f32>(&g, isa, 1e-4);
        }
    }
}

#[test]
fn what_32_bits_do_not_count_is_refused() {
    let plain = Convolution::new(1, 0);
    let new = |x: [usize; 4], weight: [usize; 4], convolution| Geometry::new(&x, &weight, convolution);
    assert!(new([1, 4090, 1 << 10, 1 << 10], [1, 4090, 1, 1], plain).is_ok());
    assert!(new([1, 4096, 1 << 10, 1 << 10], [1, 4096, 1, 1], plain).is_err());
    // The margins count; images on which different tasks work do not.
    assert!(new([1, 4090, 1 << 10, 1 << 10], [1, 4090, 3, 3], Convolution::new(1, 1)).is_err());
    assert!(new([1 << 20, 256, 64, 64], [1, 256, 1, 1], plain).is_ok());
    // 256 images of one pixel are one task's.
    assert!(new([256, 1 << 24, 1, 1], [1, 1 << 24, 1, 1], plain).is_err());
    // Results and what their gradient becomes.
    assert!(new([1, 1, 1 << 10, 1 << 10], [4096, 1, 1, 1], plain).is_err());
    assert!(new([1, 1, 1 << 15, 1 << 15], [1, 1, 1, 1], Convolution::new(1, 1 << 15)).is_err());
    assert!(new([1 << 40, 1, 1 << 10, 1 << 10], [1, 1, 1, 1], plain).is_err());
    assert!(new([usize::MAX; 4], [usize::MAX; 4], plain).is_err());
}

#[test]
fn kernels_cover_their_channels() {
    for isa in Isa::available() {
        for channels in 1..200 {
            let lanes: usize = f32::kernels(isa, channels).iter().map(|kernel| kernel.lanes).sum();
            assert!((channels..channels + 16).contains(&lanes), "{isa:?}: {lanes} lanes for {channels} channels");
        }
    }
}
