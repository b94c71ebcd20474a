// Updates of parameters in place; see ops/optimizer.rs for the formulas.
#include "common.cuh"

namespace optimizer {

// A gradient as an optimiser takes it.
template <typename T> __device__ T direction(double scale, double bound, double decay, T gradient, T weight) {
  T cut = gradient * T(scale);
  if (cut > T(bound)) cut = T(bound);
  if (cut < -T(bound)) cut = -T(bound);
  return cut + T(decay) * weight;
}

template <typename T>
__device__ void momentum(uint n, double keep, double scale, double bound, double decay, const T *gradient, const T *weight,
                         T *velocity) {
  uint i = position();
  if (i < n) velocity[i] = T(keep) * velocity[i] + direction(scale, bound, decay, gradient[i], weight[i]);
}

template <typename T>
__device__ void descend(uint n, double lr, double scale, double bound, double decay, const T *gradient, T *weight) {
  uint i = position();
  if (i < n) weight[i] -= T(lr) * direction(scale, bound, decay, gradient[i], weight[i]);
}

template <typename T>
__device__ void nesterov(uint n, double lr, double momentum, double scale, double bound, double decay, const T *gradient,
                         const T *velocity, T *weight) {
  uint i = position();
  if (i >= n) return;
  weight[i] -= T(lr) * (direction(scale, bound, decay, gradient[i], weight[i]) + T(momentum) * velocity[i]);
}

template <typename T> __device__ void average(uint n, double rate, const T *values, T *average) {
  uint i = position();
  if (i < n) average[i] = T(rate) * average[i] + T(1 - rate) * values[i];
}

template <typename T>
__device__ void moment(uint n, double rate, double squared, double scale, double bound, double decay, const T *gradient,
                       T *moment) {
  uint i = position();
  if (i >= n) return;
  T g = direction(scale, bound, decay, gradient[i], T(0));
  moment[i] = T(rate) * moment[i] + T(1 - rate) * (squared != 0 ? g * g : g);
}

// `keep`: 1 − lr·decay; `size`: lr over the first moment's correction; `root`: the root of the second's.
template <typename T>
__device__ void adam(uint n, double keep, double size, double root, double epsilon, const T *mean, const T *square,
                     T *weight) {
  uint i = position();
  if (i < n) weight[i] = weight[i] * T(keep) - T(size) * mean[i] / (sqrt(square[i]) / T(root) + T(epsilon));
}

}  // namespace optimizer

#define KERNELS(T, type)                                                                                                    \
  KERNEL(momentum_##type, uint n, double keep, double scale, double bound, double decay, const T *gradient,                 \
         const T *weight, T *velocity) {                                                                                    \
    optimizer::momentum(n, keep, scale, bound, decay, gradient, weight, velocity);                                          \
  }                                                                                                                         \
  KERNEL(descend_##type, uint n, double lr, double scale, double bound, double decay, const T *gradient, T *weight) {       \
    optimizer::descend(n, lr, scale, bound, decay, gradient, weight);                                                       \
  }                                                                                                                         \
  KERNEL(nesterov_##type, uint n, double lr, double momentum, double scale, double bound, double decay, const T *gradient,  \
         const T *velocity, T *weight) {                                                                                    \
    optimizer::nesterov(n, lr, momentum, scale, bound, decay, gradient, velocity, weight);                                  \
  }                                                                                                                         \
  KERNEL(average_##type, uint n, double rate, const T *values, T *average) {                                                \
    optimizer::average(n, rate, values, average);                                                                           \
  }                                                                                                                         \
  KERNEL(moment_##type, uint n, double rate, double squared, double scale, double bound, double decay, const T *gradient,   \
         T *moment) {                                                                                                       \
    optimizer::moment(n, rate, squared, scale, bound, decay, gradient, moment);                                             \
  }                                                                                                                         \
  KERNEL(adam_##type, uint n, double keep, double size, double root, double epsilon, const T *mean, const T *square,        \
         T *weight) {                                                                                                       \
    optimizer::adam(n, keep, size, root, epsilon, mean, square, weight);                                                    \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
