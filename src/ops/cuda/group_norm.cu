// Group normalisation of (N, C, …), with SiLU if asked, and its gradients; see ops/group_norm.rs for the formulas.
//
// A slab is what one group has in one image: `group` adjacent channels of `pixels` elements, which lie together.
#include "common.cuh"

namespace group_norm {

struct Sizes {
  uint images, channels, group, pixels;

  __device__ uint count() const { return images * channels * pixels; }
  __device__ uint slab() const { return group * pixels; }
  __device__ uint slabs() const { return images * channels / group; }
};

// Mean and 1/√(var + ε) of each slab, by a block each.
template <typename T> __device__ void moments(Sizes s, double epsilon, const T *x, double *moments) {
  const T *slab = x + blockIdx.x * s.slab();
  double sum = 0, squares = 0;
  for (uint i = threadIdx.x; i < s.slab(); i += THREADS) sum += slab[i];
  double mean = block_sum(sum) / s.slab();
  for (uint i = threadIdx.x; i < s.slab(); i += THREADS) squares += (slab[i] - mean) * (slab[i] - mean);
  squares = block_sum(squares);
  if (threadIdx.x == 0) {
    moments[blockIdx.x] = mean;
    moments[s.slabs() + blockIdx.x] = 1 / sqrt(squares / s.slab() + epsilon);
  }
}

template <typename T>
__device__ void forward(Sizes s, uint silu, const T *x, const T *weight, const T *bias, const double *moments, T *y) {
  uint i = position();
  if (i >= s.count()) return;
  uint slab = i / s.slab(), c = i / s.pixels % s.channels;
  T v = (x[i] - T(moments[slab])) * T(moments[s.slabs() + slab]) * weight[c] + bias[c];
  y[i] = silu ? v * sigmoid(v) : v;
}

// The gradient of v at element i of channel c, from that of y; `distance` is x − mean.
template <typename T>
__device__ T passed(uint silu, T distance, double scale, T weight, T bias, T dy) {
  return silu ? dy * silu_slope(distance * T(scale) * weight + bias) : dy;
}

// Σ dv·x̂ and Σ dv of each channel of each image, by a block each.
template <typename T>
__device__ void plane_sums(Sizes s, uint silu, const T *x, const T *dy, const T *weight, const T *bias, const double *moments,
                           double *sums) {
  uint plane = blockIdx.x, slab = plane / s.group, c = plane % s.channels;
  T mean = T(moments[slab]);
  double scale = moments[s.slabs() + slab], product = 0, sum = 0;
  for (uint i = plane * s.pixels + threadIdx.x; i < (plane + 1) * s.pixels; i += THREADS) {
    double dv = passed(silu, x[i] - mean, scale, weight[c], bias[c], dy[i]);
    product += dv * (x[i] - mean);
    sum += dv;
  }
  product = block_sum(product);
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    sums[plane] = product * scale;
    sums[s.images * s.channels + plane] = sum;
  }
}

// Per slab, the means of g·x̂ and g, with g = γ·dv.
template <typename T> __device__ void slab_means(Sizes s, const T *weight, const double *sums, double *means) {
  uint slab = position();
  if (slab >= s.slabs()) return;
  double product = 0, sum = 0;
  for (uint plane = slab * s.group; plane < (slab + 1) * s.group; plane++) {
    product += sums[plane] * weight[plane % s.channels];
    sum += sums[s.images * s.channels + plane] * weight[plane % s.channels];
  }
  means[slab] = product / s.slab();
  means[s.slabs() + slab] = sum / s.slab();
}

template <typename T>
__device__ void input_gradient(Sizes s, uint silu, const T *x, const T *dy, const T *weight, const T *bias,
                               const double *moments, const double *means, T *packed) {
  uint i = position();
  if (i >= s.count()) return;
  uint slab = i / s.slab(), c = i / s.pixels % s.channels;
  double scale = moments[s.slabs() + slab];
  T distance = x[i] - T(moments[slab]);
  T g = weight[c] * passed(silu, distance, scale, weight[c], bias[c], dy[i]);
  packed[i] = T(scale) * (g - T(means[s.slabs() + slab])) - T(means[slab] * scale * scale) * distance;
}

// The gradients of weight and bias, behind dx.
template <typename T> __device__ void weight_gradient(Sizes s, const double *sums, T *packed) {
  uint c = position();
  if (c >= s.channels) return;
  double product = 0, sum = 0;
  for (uint plane = c; plane < s.images * s.channels; plane += s.channels) {
    product += sums[plane];
    sum += sums[s.images * s.channels + plane];
  }
  packed[s.count() + c] = T(product);
  packed[s.count() + s.channels + c] = T(sum);
}

}  // namespace group_norm

#define SIZES uint images, uint channels, uint group, uint pixels
#define GIVEN                                                                                                               \
  group_norm::Sizes { images, channels, group, pixels }
#define KERNELS(T, type)                                                                                                    \
  KERNEL(group_moments_##type, SIZES, double epsilon, const T *x, double *moments) {                                        \
    group_norm::moments(GIVEN, epsilon, x, moments);                                                                        \
  }                                                                                                                         \
  KERNEL(group_norm_##type, SIZES, uint silu, const T *x, const T *weight, const T *bias, const double *moments, T *y) {    \
    group_norm::forward(GIVEN, silu, x, weight, bias, moments, y);                                                          \
  }                                                                                                                         \
  KERNEL(group_norm_plane_sums_##type, SIZES, uint silu, const T *x, const T *dy, const T *weight, const T *bias,           \
         const double *moments, double *sums) {                                                                             \
    group_norm::plane_sums(GIVEN, silu, x, dy, weight, bias, moments, sums);                                                \
  }                                                                                                                         \
  KERNEL(group_norm_slab_means_##type, SIZES, const T *weight, const double *sums, double *means) {                         \
    group_norm::slab_means(GIVEN, weight, sums, means);                                                                     \
  }                                                                                                                         \
  KERNEL(group_norm_input_gradient_##type, SIZES, uint silu, const T *x, const T *dy, const T *weight, const T *bias,       \
         const double *moments, const double *means, T *packed) {                                                           \
    group_norm::input_gradient(GIVEN, silu, x, dy, weight, bias, moments, means, packed);                                   \
  }                                                                                                                         \
  KERNEL(group_norm_weight_gradient_##type, SIZES, const double *sums, T *packed) {                                         \
    group_norm::weight_gradient(GIVEN, sums, packed);                                                                       \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
#undef SIZES
#undef GIVEN
