// Batch normalisation of (N, C, H, W) with an activation, and its gradients; see ops/batch_norm.rs for the formulas.
//
// The sums of a channel are made by `splits` blocks in double, then added in order by one thread.
#include "common.cuh"

namespace batch_norm {

// The elements of this block's part of its channel, those of this thread: calls visit(index) for each.
template <typename Visit> __device__ void for_each(uint images, uint channels, uint pixels, uint splits, Visit visit) {
  uint channel = blockIdx.x / splits, split = blockIdx.x % splits;
  uint count = images * pixels, length = (count + splits - 1) / splits;
  uint end = count - split * length < length ? count : (split + 1) * length;
  if (split * length >= count) end = 0;
  for (uint e = split * length + threadIdx.x; e < end; e += THREADS)
    visit((e / pixels * channels + channel) * pixels + e % pixels);
}

__device__ inline void write_parts(uint channels, uint splits, double first, double second, double *parts) {
  first = block_sum(first);
  second = block_sum(second);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = first;
    parts[channels * splits + blockIdx.x] = second;
  }
}

__device__ inline double total(uint splits, const double *parts) {
  double sum = 0;
  for (uint split = 0; split < splits; split++) sum += parts[split];
  return sum;
}

// Per part: the sums of x and of its square, both relative to the channel's first element, so that a mean far from 0 costs
// no digits.
template <typename T>
__device__ void moment_parts(uint images, uint channels, uint pixels, uint splits, const T *x, double *parts) {
  double shift = x[blockIdx.x / splits * pixels], sum = 0, squares = 0;
  for_each(images, channels, pixels, splits, [&](uint i) {
    double difference = x[i] - shift;
    sum += difference;
    squares += difference * difference;
  });
  write_parts(channels, splits, sum, squares, parts);
}

template <typename T>
__device__ void moments(uint images, uint channels, uint pixels, uint splits, const T *x, const double *parts, T *y) {
  uint channel = position();
  if (channel >= channels) return;
  double count = double(images) * pixels;
  double mean = total(splits, parts + channel * splits) / count;
  double square = total(splits, parts + (channels + channel) * splits) / count;
  double variance = square - mean * mean;
  y[channel] = T(x[channel * pixels] + mean);
  y[channels + channel] = T(variance < 0 ? 0 : variance);
}

template <typename T>
__device__ void forward(uint n, uint channels, uint pixels, uint kind, double slope, double epsilon, const T *x,
                        const T *weight, const T *bias, const T *moments, T *y) {
  uint i = position();
  if (i >= n) return;
  uint c = i / pixels % channels;
  T factor = T(1 / sqrt(double(moments[channels + c]) + epsilon)) * weight[c];
  y[i] = activated(kind, slope, (x[i] - moments[c]) * factor + bias[c]);
}

// Per part: Σ dy and Σ dy·(x − mean), of the dy that passes the activation.
template <typename T>
__device__ void gradient_parts(uint images, uint channels, uint pixels, uint splits, uint kind, double slope, const T *x,
                               const T *y, const T *dy, const T *moments, double *parts) {
  double mean = moments[blockIdx.x / splits], sum = 0, product = 0;
  for_each(images, channels, pixels, splits, [&](uint i) {
    double passed = activation_gradient(kind, slope, y[i], dy[i]);
    sum += passed;
    product += passed * (x[i] - mean);
  });
  write_parts(channels, splits, sum, product, parts);
}

// (2, C): the gradients of bias and weight.
template <typename T>
__device__ void gradient_sums(uint channels, uint splits, double epsilon, const T *moments, const double *parts, T *sums) {
  uint channel = position();
  if (channel >= channels) return;
  sums[channel] = T(total(splits, parts + channel * splits));
  double scale = 1 / sqrt(double(moments[channels + channel]) + epsilon);
  sums[channels + channel] = T(total(splits, parts + (channels + channel) * splits) * scale);
}

// dX, then the gradients of weight and bias; `share` is 1 / (N·H·W) where the gradient flows through the moments, else 0.
template <typename T>
__device__ void input_gradient(uint n, uint channels, uint pixels, uint kind, double slope, double epsilon, double share,
                               const T *x, const T *y, const T *dy, const T *weight, const T *moments, const T *sums,
                               T *packed) {
  uint i = position();
  if (i >= n + 2 * channels) return;
  if (i >= n) {
    packed[i] = sums[i < n + channels ? i - n + channels : i - n - channels];
    return;
  }
  uint c = i / pixels % channels;
  T scale = T(1 / sqrt(double(moments[channels + c]) + epsilon));
  T offset = sums[c] * T(share), tilt = sums[channels + c] * scale * T(share);
  packed[i] = weight[c] * scale * (activation_gradient(kind, slope, y[i], dy[i]) - offset - tilt * (x[i] - moments[c]));
}

}  // namespace batch_norm

#define KERNELS(T, type)                                                                                                    \
  KERNEL(moment_parts_##type, uint images, uint channels, uint pixels, uint splits, const T *x, double *parts) {            \
    batch_norm::moment_parts(images, channels, pixels, splits, x, parts);                                                   \
  }                                                                                                                         \
  KERNEL(moments_##type, uint images, uint channels, uint pixels, uint splits, const T *x, const double *parts, T *y) {     \
    batch_norm::moments(images, channels, pixels, splits, x, parts, y);                                                     \
  }                                                                                                                         \
  KERNEL(batch_norm_##type, uint n, uint channels, uint pixels, uint kind, double slope, double epsilon, const T *x,        \
         const T *weight, const T *bias, const T *moments, T *y) {                                                          \
    batch_norm::forward(n, channels, pixels, kind, slope, epsilon, x, weight, bias, moments, y);                            \
  }                                                                                                                         \
  KERNEL(batch_norm_gradient_parts_##type, uint images, uint channels, uint pixels, uint splits, uint kind, double slope,   \
         const T *x, const T *y, const T *dy, const T *moments, double *parts) {                                            \
    batch_norm::gradient_parts(images, channels, pixels, splits, kind, slope, x, y, dy, moments, parts);                    \
  }                                                                                                                         \
  KERNEL(batch_norm_gradient_sums_##type, uint channels, uint splits, double epsilon, const T *moments,                     \
         const double *parts, T *sums) {                                                                                    \
    batch_norm::gradient_sums(channels, splits, epsilon, moments, parts, sums);                                             \
  }                                                                                                                         \
  KERNEL(batch_norm_input_gradient_##type, uint n, uint channels, uint pixels, uint kind, double slope, double epsilon,     \
         double share, const T *x, const T *y, const T *dy, const T *weight, const T *moments, const T *sums, T *packed) {  \
    batch_norm::input_gradient(n, channels, pixels, kind, slope, epsilon, share, x, y, dy, weight, moments, sums, packed);  \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
