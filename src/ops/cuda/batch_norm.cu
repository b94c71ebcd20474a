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

// What happens to one channel: v = (x − mean)·factor + bias, then the activation.
template <typename T> struct Channel {
  T mean, scale, factor, bias;

  __device__ Channel(uint c, uint channels, double epsilon, const T *weight, const T *bias, const T *moments)
      : mean(moments[c]), scale(T(1 / sqrt(double(moments[channels + c]) + epsilon))), factor(scale * weight[c]),
        bias(bias[c]) {}

  __device__ T value(uint kind, double slope, T x) const { return activated(kind, slope, (x - mean) * factor + bias); }

  // The part of dy that the activation lets pass; computed from x, so that y need not be read.
  __device__ T passed(uint kind, double slope, T x, T dy) const {
    return activation_gradient(kind, slope, value(kind, slope, x), dy);
  }
};

template <typename T>
__device__ void forward(uint n, uint channels, uint pixels, uint kind, double slope, double epsilon, const T *x,
                        const T *weight, const T *bias, const T *moments, T *y) {
  uint i = position();
  if (i >= n) return;
  y[i] = Channel<T>(i / pixels % channels, channels, epsilon, weight, bias, moments).value(kind, slope, x[i]);
}

// Per part: Σ dv·(x − mean) and Σ dv.
template <typename T>
__device__ void gradient_parts(uint images, uint channels, uint pixels, uint splits, uint kind, double slope, double epsilon,
                               const T *x, const T *dy, const T *weight, const T *bias, const T *moments, double *parts) {
  const Channel<T> channel(blockIdx.x / splits, channels, epsilon, weight, bias, moments);
  double product = 0, sum = 0;
  for_each(images, channels, pixels, splits, [&](uint i) {
    double passed = channel.passed(kind, slope, x[i], dy[i]);
    product += passed * (x[i] - channel.mean);
    sum += passed;
  });
  write_parts(channels, splits, product, sum, parts);
}

// The gradients of weight and bias, behind the n elements of dx.
template <typename T>
__device__ void gradient_sums(uint n, uint channels, uint splits, double epsilon, const T *moments, const double *parts,
                              T *packed) {
  uint c = position();
  if (c >= channels) return;
  double scale = 1 / sqrt(double(moments[channels + c]) + epsilon);
  packed[n + c] = T(total(splits, parts + c * splits) * scale);
  packed[n + channels + c] = T(total(splits, parts + (channels + c) * splits));
}

// dx, before those sums. `share` is 1 / (N·H·W) where the gradient flows through the moments, else 0.
template <typename T>
__device__ void input_gradient(uint n, uint channels, uint pixels, uint kind, double slope, double epsilon, double share,
                               const T *x, const T *dy, const T *weight, const T *bias, const T *moments, T *packed) {
  uint i = position();
  if (i >= n) return;
  uint c = i / pixels % channels;
  const Channel<T> channel(c, channels, epsilon, weight, bias, moments);
  T offset = packed[n + channels + c] * T(share), tilt = packed[n + c] * channel.scale * T(share);
  packed[i] = channel.factor * (channel.passed(kind, slope, x[i], dy[i]) - offset - tilt * (x[i] - channel.mean));
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
         double epsilon, const T *x, const T *dy, const T *weight, const T *bias, const T *moments, double *parts) {        \
    batch_norm::gradient_parts(images, channels, pixels, splits, kind, slope, epsilon, x, dy, weight, bias, moments,        \
                               parts);                                                                                      \
  }                                                                                                                         \
  KERNEL(batch_norm_gradient_sums_##type, uint n, uint channels, uint splits, double epsilon, const T *moments,             \
         const double *parts, T *packed) {                                                                                  \
    batch_norm::gradient_sums(n, channels, splits, epsilon, moments, parts, packed);                                        \
  }                                                                                                                         \
  KERNEL(batch_norm_input_gradient_##type, uint n, uint channels, uint pixels, uint kind, double slope, double epsilon,     \
         double share, const T *x, const T *dy, const T *weight, const T *bias, const T *moments, T *packed) {              \
    batch_norm::input_gradient(n, channels, pixels, kind, slope, epsilon, share, x, dy, weight, bias, moments, packed);     \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
