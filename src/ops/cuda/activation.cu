// Elementwise functions: ReLU and its kin, residual addition, SiLU, GELU, dropout.
#include "common.cuh"

namespace activation {

template <typename T> __device__ void forward(uint n, uint kind, double slope, const T *x, T *y) {
  uint i = position();
  if (i < n) y[i] = activated(kind, slope, x[i]);
}

template <typename T> __device__ void backward(uint n, uint kind, double slope, const T *y, const T *dy, T *dx) {
  uint i = position();
  if (i < n) dx[i] = activation_gradient(kind, slope, y[i], dy[i]);
}

template <typename T> __device__ void add(uint n, uint kind, double slope, const T *a, const T *b, T *y) {
  uint i = position();
  if (i < n) y[i] = activated(kind, slope, a[i] + b[i]);
}

template <typename T> __device__ void silu(uint n, const T *x, T *y) {
  uint i = position();
  if (i < n) y[i] = x[i] * sigmoid(x[i]);
}

template <typename T> __device__ void silu_backward(uint n, const T *x, const T *dy, T *dx) {
  uint i = position();
  if (i < n) dx[i] = dy[i] * silu_slope(x[i]);
}

constexpr double ROOT_HALF = 0.70710678118654752440, DENSITY_AT_0 = 0.39894228040143267794;

template <typename T> __device__ void gelu(uint n, const T *x, T *y) {
  uint i = position();
  if (i < n) y[i] = x[i] * T(0.5) * (T(1) + erf(x[i] * T(ROOT_HALF)));
}

template <typename T> __device__ void gelu_backward(uint n, const T *x, const T *dy, T *dx) {
  uint i = position();
  if (i >= n) return;
  T below = T(0.5) * (T(1) + erf(x[i] * T(ROOT_HALF)));
  dx[i] = dy[i] * (below + x[i] * T(DENSITY_AT_0) * exp(T(-0.5) * x[i] * x[i]));
}

__device__ inline uint rotated(uint x, uint bits) { return x << bits | x >> (32 - bits); }

__device__ inline void quarter_round(uint &a, uint &b, uint &c, uint &d) {
  a += b; d = rotated(d ^ a, 16);
  c += d; b = rotated(b ^ c, 12);
  a += b; d = rotated(d ^ a, 8);
  c += d; b = rotated(b ^ c, 7);
}

// ChaCha (Bernstein 2008, 64-bit counter and stream): word i of the stream decides element i, as on the CPU, so that the same
// seed drops the same elements everywhere. One thread makes a block of 16 words.
template <typename T>
__device__ void dropout(uint n, uint rounds, uint threshold, uint k0, uint k1, uint k2, uint k3, uint k4, uint k5, uint k6,
                        uint k7, uint stream_low, uint stream_high, double scale, const T *x, T *y) {
  uint counter = position();
  if (counter >= (n + 15) / 16) return;
  const uint initial[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, k0, k1, k2, k3,
                            k4, k5, k6, k7, counter, 0, stream_low, stream_high};
  uint w[16];
  for (uint i = 0; i < 16; i++) w[i] = initial[i];
  for (uint round = 0; round < rounds; round += 2) {
    quarter_round(w[0], w[4], w[8], w[12]);
    quarter_round(w[1], w[5], w[9], w[13]);
    quarter_round(w[2], w[6], w[10], w[14]);
    quarter_round(w[3], w[7], w[11], w[15]);
    quarter_round(w[0], w[5], w[10], w[15]);
    quarter_round(w[1], w[6], w[11], w[12]);
    quarter_round(w[2], w[7], w[8], w[13]);
    quarter_round(w[3], w[4], w[9], w[14]);
  }
  for (uint i = 0; i < 16 && counter * 16 + i < n; i++) {
    uint at = counter * 16 + i;
    y[at] = w[i] + initial[i] >= threshold ? x[at] * T(scale) : T(0);
  }
}

}  // namespace activation

#define KERNELS(T, type)                                                                                                    \
  KERNEL(activation_##type, uint n, uint kind, double slope, const T *x, T *y) {                                            \
    activation::forward(n, kind, slope, x, y);                                                                              \
  }                                                                                                                         \
  KERNEL(activation_gradient_##type, uint n, uint kind, double slope, const T *y, const T *dy, T *dx) {                     \
    activation::backward(n, kind, slope, y, dy, dx);                                                                        \
  }                                                                                                                         \
  KERNEL(add_##type, uint n, uint kind, double slope, const T *a, const T *b, T *y) {                                       \
    activation::add(n, kind, slope, a, b, y);                                                                               \
  }                                                                                                                         \
  KERNEL(silu_##type, uint n, const T *x, T *y) { activation::silu(n, x, y); }                                              \
  KERNEL(silu_gradient_##type, uint n, const T *x, const T *dy, T *dx) { activation::silu_backward(n, x, dy, dx); }         \
  KERNEL(gelu_##type, uint n, const T *x, T *y) { activation::gelu(n, x, y); }                                              \
  KERNEL(gelu_gradient_##type, uint n, const T *x, const T *dy, T *dx) { activation::gelu_backward(n, x, dy, dx); }         \
  KERNEL(dropout_##type, uint n, uint rounds, uint threshold, uint k0, uint k1, uint k2, uint k3, uint k4, uint k5,         \
         uint k6, uint k7, uint stream_low, uint stream_high, double scale, const T *x, T *y) {                             \
    activation::dropout(n, rounds, threshold, k0, k1, k2, k3, k4, k5, k6, k7, stream_low, stream_high, scale, x, y);        \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
