// Pooling of planes (H, W). Of the largest: padding counts as −∞; NaN wins; of equals, the first.
#include "common.cuh"

namespace pool {

struct Sizes {
  uint height, width, out_height, out_width, kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;
};

// The position in its plane of what window (r, q) chooses.
template <typename T> __device__ uint winner(Sizes s, const T *plane, uint r, uint q) {
  uint bottom = r * s.stride_y + s.kernel_y - s.padding_y, right = q * s.stride_x + s.kernel_x - s.padding_x;
  uint top = r * s.stride_y < s.padding_y ? 0 : r * s.stride_y - s.padding_y;
  uint left = q * s.stride_x < s.padding_x ? 0 : q * s.stride_x - s.padding_x;
  if (bottom > s.height) bottom = s.height;
  if (right > s.width) right = s.width;
  uint best = top * s.width + left;
  for (uint row = top; row < bottom; row++)
    for (uint column = left; column < right; column++) {
      T candidate = plane[row * s.width + column];
      if (candidate > plane[best] || candidate != candidate) best = row * s.width + column;
    }
  return best;
}

template <typename T> __device__ void max(Sizes s, uint planes, const T *x, T *y) {
  uint i = position(), pixels = s.out_height * s.out_width;
  if (i >= planes * pixels) return;
  const T *plane = x + i / pixels * s.height * s.width;
  y[i] = plane[winner(s, plane, i % pixels / s.out_width, i % s.out_width)];
}

// Of each window of x, what lies where like's largest is.
template <typename T> __device__ void max_like(Sizes s, uint planes, const T *like, const T *x, T *y) {
  uint i = position(), pixels = s.out_height * s.out_width;
  if (i >= planes * pixels) return;
  uint plane = i / pixels * s.height * s.width;
  y[i] = x[plane + winner(s, like + plane, i % pixels / s.out_width, i % s.out_width)];
}

// The first and last window along an axis that holds position `at`.
__device__ inline uint first_window(uint at, uint kernel, uint stride, uint padding) {
  return at + padding < kernel ? 0 : (at + padding - kernel) / stride + 1;
}
__device__ inline uint last_window(uint at, uint windows, uint stride, uint padding) {
  uint last = (at + padding) / stride;
  return last < windows ? last : windows - 1;
}

// Calls visit(r, q) for each window that holds (row, column).
template <typename Visit> __device__ void for_each_window(Sizes s, uint row, uint column, Visit visit) {
  uint last_r = last_window(row, s.out_height, s.stride_y, s.padding_y);
  uint last_q = last_window(column, s.out_width, s.stride_x, s.padding_x);
  for (uint r = first_window(row, s.kernel_y, s.stride_y, s.padding_y); r <= last_r; r++)
    for (uint q = first_window(column, s.kernel_x, s.stride_x, s.padding_x); q <= last_q; q++) visit(r, q);
}

template <typename T> __device__ void max_gradient(Sizes s, uint planes, const T *x, const T *dy, T *dx) {
  uint i = position(), pixels = s.height * s.width;
  if (i >= planes * pixels) return;
  uint at = i % pixels;
  const T *plane = x + i / pixels * pixels, *from = dy + i / pixels * s.out_height * s.out_width;
  T sum = 0;
  for_each_window(s, at / s.width, at % s.width, [&](uint r, uint q) {
    if (winner(s, plane, r, q) == at) sum += from[r * s.out_width + q];
  });
  dx[i] = sum;
}

// Elements that the mean of window `at` along an axis divides by: with padding, or pixels only.
__device__ inline uint length(uint at, uint size, uint kernel, uint stride, uint padding, uint with_padding) {
  uint begin = at * stride, end = begin + kernel, last = size + padding;
  if (with_padding) return (end < last + padding ? end : last + padding) - begin;
  return (end < last ? end : last) - (begin < padding ? padding : begin);
}

template <typename T> __device__ T share(Sizes s, uint with_padding, uint r, uint q) {
  return T(1.0 / length(r, s.height, s.kernel_y, s.stride_y, s.padding_y, with_padding)) *
         T(1.0 / length(q, s.width, s.kernel_x, s.stride_x, s.padding_x, with_padding));
}

template <typename T> __device__ void average(Sizes s, uint planes, uint with_padding, const T *x, T *y) {
  uint i = position(), pixels = s.out_height * s.out_width;
  if (i >= planes * pixels) return;
  uint r = i % pixels / s.out_width, q = i % s.out_width;
  const T *plane = x + i / pixels * s.height * s.width;
  T sum = 0;
  for (uint a = 0; a < s.kernel_y; a++)
    for (uint b = 0; b < s.kernel_x; b++) {
      // In the padding, the subtraction wraps round to a large number.
      uint row = r * s.stride_y + a - s.padding_y, column = q * s.stride_x + b - s.padding_x;
      if (row < s.height && column < s.width) sum += plane[row * s.width + column];
    }
  y[i] = sum * share<T>(s, with_padding, r, q);
}

template <typename T> __device__ void average_gradient(Sizes s, uint planes, uint with_padding, const T *dy, T *dx) {
  uint i = position(), pixels = s.height * s.width;
  if (i >= planes * pixels) return;
  const T *from = dy + i / pixels * s.out_height * s.out_width;
  T sum = 0;
  for_each_window(s, i % pixels / s.width, i % s.width, [&](uint r, uint q) {
    sum += from[r * s.out_width + q] * share<T>(s, with_padding, r, q);
  });
  dx[i] = sum;
}

// A block for each plane.
template <typename T> __device__ void global_average(uint pixels, const T *x, T *y) {
  double sum = 0;
  for (uint i = threadIdx.x; i < pixels; i += THREADS) sum += x[blockIdx.x * pixels + i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) y[blockIdx.x] = T(sum / pixels);
}

template <typename T> __device__ void global_average_gradient(uint n, uint pixels, const T *dy, T *dx) {
  uint i = position();
  if (i < n) dx[i] = dy[i / pixels] * T(1.0 / pixels);
}

}  // namespace pool

#define SIZES                                                                                                               \
  uint height, uint width, uint out_height, uint out_width, uint kernel_y, uint kernel_x, uint stride_y, uint stride_x,     \
      uint padding_y, uint padding_x
#define GIVEN                                                                                                               \
  pool::Sizes { height, width, out_height, out_width, kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x }
#define KERNELS(T, type)                                                                                                    \
  KERNEL(max_pool_##type, SIZES, uint planes, const T *x, T *y) { pool::max(GIVEN, planes, x, y); }                         \
  KERNEL(max_pool_like_##type, SIZES, uint planes, const T *like, const T *x, T *y) {                                       \
    pool::max_like(GIVEN, planes, like, x, y);                                                                              \
  }                                                                                                                         \
  KERNEL(max_pool_gradient_##type, SIZES, uint planes, const T *x, const T *dy, T *dx) {                                    \
    pool::max_gradient(GIVEN, planes, x, dy, dx);                                                                           \
  }                                                                                                                         \
  KERNEL(avg_pool_##type, SIZES, uint planes, uint with_padding, const T *x, T *y) {                                        \
    pool::average(GIVEN, planes, with_padding, x, y);                                                                       \
  }                                                                                                                         \
  KERNEL(avg_pool_gradient_##type, SIZES, uint planes, uint with_padding, const T *dy, T *dx) {                             \
    pool::average_gradient(GIVEN, planes, with_padding, dy, dx);                                                            \
  }                                                                                                                         \
  KERNEL(global_average_##type, uint pixels, const T *x, T *y) { pool::global_average(pixels, x, y); }                      \
  KERNEL(global_average_gradient_##type, uint n, uint pixels, const T *dy, T *dx) {                                         \
    pool::global_average_gradient(n, pixels, dy, dx);                                                                       \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
#undef SIZES
#undef GIVEN
