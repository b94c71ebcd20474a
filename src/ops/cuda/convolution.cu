// What surrounds the matrix products of a convolution, and depthwise convolutions, which need none;
// ops/cuda/convolution.rs says how they fit together. An element may be bf16; sums are then made in float.
#include "common.cuh"

namespace convolution {

// The sizes of one convolution; rows first.
struct Sizes {
  uint inputs, height, width, kernel_height, kernel_width, out_height, out_width;
  uint stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;

  __device__ uint kernel() const { return kernel_height * kernel_width; }
  __device__ uint pixels() const { return out_height * out_width; }

  // The input position of tap (i, j) at output (r, q) in its plane; false in the padding.
  __device__ bool source(uint r, uint q, uint i, uint j, uint &at) const {
    // In the padding, the subtraction wraps round to a large number.
    uint row = r * stride_y + i * dilation_y - padding_y, column = q * stride_x + j * dilation_x - padding_x;
    at = row * width + column;
    return row < height && column < width;
  }

  // The output position that reads (row, column) by tap (i, j); false if none does.
  __device__ bool target(uint row, uint column, uint i, uint j, uint &at) const {
    uint y = row + padding_y - i * dilation_y, x = column + padding_x - j * dilation_x;
    if (row + padding_y < i * dilation_y || column + padding_x < j * dilation_x || y % stride_y || x % stride_x) return false;
    at = y / stride_y * out_width + x / stride_x;
    return y / stride_y < out_height && x / stride_x < out_width;
  }
};

// "im2col": element (tap (c, i, j), pixel) of image k goes to k·image_stride + tap·tap_stride + pixel.
template <typename T>
__device__ void unfold(Sizes s, uint images, uint image_stride, uint tap_stride, const T *x, T *columns) {
  uint index = position(), taps = s.inputs * s.kernel(), pixels = s.pixels();
  if (index >= images * taps * pixels) return;
  uint pixel = index % pixels, tap = index / pixels % taps, image = index / pixels / taps;
  uint c = tap / s.kernel(), i = tap % s.kernel() / s.kernel_width, j = tap % s.kernel_width, at;
  bool inside = s.source(pixel / s.out_width, pixel % s.out_width, i, j, at);
  columns[image * image_stride + tap * tap_stride + pixel] =
      inside ? x[(image * s.inputs + c) * s.height * s.width + at] : rounded<T>(0.0f);
}

// The transpose of unfold, of columns (N, taps, pixels): what each input position gave is added up there.
template <typename T> __device__ void fold(Sizes s, uint images, const T *columns, T *x) {
  uint index = position(), plane = s.height * s.width;
  if (index >= images * s.inputs * plane) return;
  uint row = index % plane / s.width, column = index % s.width, channel = index / plane, at;
  decltype(value(T())) sum = 0;
  for (uint i = 0; i < s.kernel_height; i++)
    for (uint j = 0; j < s.kernel_width; j++)
      if (s.target(row, column, i, j, at)) sum += value(columns[(channel * s.kernel() + i * s.kernel_width + j) * s.pixels() + at]);
  x[index] = rounded<T>(sum);
}

// In place: activation(y + bias[o] + add), each optional (what is not there is not read).
template <typename T>
__device__ void finish(uint n, uint outputs, uint pixels, uint has_bias, uint has_add, uint kind, double slope, const T *bias,
                       const T *add, T *y) {
  uint i = position();
  if (i >= n) return;
  auto sum = value(y[i]);
  if (has_bias) sum += value(bias[i / pixels % outputs]);
  if (has_add) sum += value(add[i]);
  y[i] = rounded<T>(activated(kind, slope, sum));
}

// Σ dy over images and pixels, per channel; a block each.
template <typename T> __device__ void bias_gradient(uint images, uint outputs, uint pixels, const T *dy, T *db) {
  double sum = 0;
  for (uint e = threadIdx.x; e < images * pixels; e += THREADS)
    sum += double(value(dy[(e / pixels * outputs + blockIdx.x) * pixels + e % pixels]));
  sum = block_sum(sum);
  if (threadIdx.x == 0) db[blockIdx.x] = rounded<T>(decltype(value(T()))(sum));
}

template <typename T> __device__ void accumulate(uint n, const T *part, T *sum) {
  uint i = position();
  if (i < n) sum[i] = rounded<T>(value(sum[i]) + value(part[i]));
}

// Depthwise: each input channel gives `multiplier` outputs of its own.
template <typename T>
__device__ void depthwise(Sizes s, uint images, uint multiplier, const T *x, const T *weight, T *y) {
  uint index = position(), outputs = s.inputs * multiplier, pixels = s.pixels();
  if (index >= images * outputs * pixels) return;
  uint pixel = index % pixels, o = index / pixels % outputs, image = index / pixels / outputs, at;
  const T *plane = x + (image * s.inputs + o / multiplier) * s.height * s.width;
  decltype(value(T())) sum = 0;
  for (uint i = 0; i < s.kernel_height; i++)
    for (uint j = 0; j < s.kernel_width; j++)
      if (s.source(pixel / s.out_width, pixel % s.out_width, i, j, at))
        sum += value(plane[at]) * value(weight[o * s.kernel() + i * s.kernel_width + j]);
  y[index] = rounded<T>(sum);
}

template <typename T>
__device__ void depthwise_input_gradient(Sizes s, uint images, uint multiplier, const T *dy, const T *weight, T *dx) {
  uint index = position(), plane = s.height * s.width, at;
  if (index >= images * s.inputs * plane) return;
  uint row = index % plane / s.width, column = index % s.width, c = index / plane % s.inputs, image = index / plane / s.inputs;
  decltype(value(T())) sum = 0;
  for (uint o = c * multiplier; o < (c + 1) * multiplier; o++)
    for (uint i = 0; i < s.kernel_height; i++)
      for (uint j = 0; j < s.kernel_width; j++)
        if (s.target(row, column, i, j, at))
          sum += value(dy[(image * s.inputs * multiplier + o) * s.pixels() + at]) *
                 value(weight[o * s.kernel() + i * s.kernel_width + j]);
  dx[index] = rounded<T>(sum);
}

// A block for each weight.
template <typename T>
__device__ void depthwise_weight_gradient(Sizes s, uint images, uint multiplier, const T *dy, const T *x, T *dw) {
  uint o = blockIdx.x / s.kernel(), tap = blockIdx.x % s.kernel(), i = tap / s.kernel_width, j = tap % s.kernel_width;
  uint pixels = s.pixels(), outputs = s.inputs * multiplier, at;
  double sum = 0;
  for (uint e = threadIdx.x; e < images * pixels; e += THREADS) {
    uint pixel = e % pixels, image = e / pixels;
    if (s.source(pixel / s.out_width, pixel % s.out_width, i, j, at))
      sum += double(value(dy[(image * outputs + o) * pixels + pixel])) *
             double(value(x[(image * s.inputs + o / multiplier) * s.height * s.width + at]));
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) dw[blockIdx.x] = rounded<T>(decltype(value(T()))(sum));
}

}  // namespace convolution

#define SIZES                                                                                                               \
  uint inputs, uint height, uint width, uint kernel_height, uint kernel_width, uint out_height, uint out_width,             \
      uint stride_y, uint stride_x, uint padding_y, uint padding_x, uint dilation_y, uint dilation_x
#define GIVEN                                                                                                               \
  convolution::Sizes {                                                                                                      \
    inputs, height, width, kernel_height, kernel_width, out_height, out_width, stride_y, stride_x, padding_y, padding_x,    \
        dilation_y, dilation_x                                                                                              \
  }
#define KERNELS(T, type)                                                                                                    \
  KERNEL(unfold_##type, SIZES, uint images, uint image_stride, uint tap_stride, const T *x, T *columns) {                   \
    convolution::unfold(GIVEN, images, image_stride, tap_stride, x, columns);                                               \
  }                                                                                                                         \
  KERNEL(fold_##type, SIZES, uint images, const T *columns, T *x) { convolution::fold(GIVEN, images, columns, x); }         \
  KERNEL(finish_##type, uint n, uint outputs, uint pixels, uint has_bias, uint has_add, uint kind, double slope,            \
         const T *bias, const T *add, T *y) {                                                                               \
    convolution::finish(n, outputs, pixels, has_bias, has_add, kind, slope, bias, add, y);                                  \
  }                                                                                                                         \
  KERNEL(bias_gradient_##type, uint images, uint outputs, uint pixels, const T *dy, T *db) {                                \
    convolution::bias_gradient(images, outputs, pixels, dy, db);                                                            \
  }                                                                                                                         \
  KERNEL(accumulate_##type, uint n, const T *part, T *sum) { convolution::accumulate(n, part, sum); }                       \
  KERNEL(depthwise_##type, SIZES, uint images, uint multiplier, const T *x, const T *weight, T *y) {                        \
    convolution::depthwise(GIVEN, images, multiplier, x, weight, y);                                                        \
  }                                                                                                                         \
  KERNEL(depthwise_input_gradient_##type, SIZES, uint images, uint multiplier, const T *dy, const T *weight, T *dx) {       \
    convolution::depthwise_input_gradient(GIVEN, images, multiplier, dy, weight, dx);                                       \
  }                                                                                                                         \
  KERNEL(depthwise_weight_gradient_##type, SIZES, uint images, uint multiplier, const T *dy, const T *x, T *dw) {           \
    convolution::depthwise_weight_gradient(GIVEN, images, multiplier, dy, x, dw);                                           \
  }
KERNELS(float, f32)
KERNELS(double, f64)
KERNELS(bf16, bf16)
#undef KERNELS
#undef SIZES
#undef GIVEN
