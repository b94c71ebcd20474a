// What all kernels share.
//
// A kernel is a template over its element type, made callable by KERNEL for each type that is needed. Every block has
// THREADS threads; the launcher chooses the number of blocks. Sizes are 32 bits wide (the launcher refuses larger ones), as
// 64-bit divisions are slow. No atomics: every sum has one order, so equal inputs give equal bits.
#pragma once

#ifdef OODKIT_EMULATION
#include "emulation.hpp"
#else
#include <cuda_bf16.h>
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#endif

typedef unsigned int uint;
typedef __nv_bfloat16 bf16;

constexpr uint THREADS = 256;

// The position of this thread among all.
__device__ inline uint position() { return blockIdx.x * THREADS + threadIdx.x; }

// An element as the type that one calculates with, and back.
__device__ inline float value(float x) { return x; }
__device__ inline double value(double x) { return x; }
__device__ inline float value(bf16 x) { return __bfloat162float(x); }
template <typename T, typename V> __device__ inline T rounded(V x) { return T(x); }
template <> __device__ inline bf16 rounded<bf16, float>(float x) { return __float2bfloat16(x); }

// The sum of one number from each thread of the block, in every thread: neighbours in a tree, always the same one.
template <typename V> __device__ V block_sum(V mine) {
  __shared__ V parts[THREADS];
  parts[threadIdx.x] = mine;
  __syncthreads();
  for (uint half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  V total = parts[0];
  __syncthreads();  // before the next sum writes
  return total;
}

// The largest, as block_sum; NaN if any is.
template <typename V> __device__ V block_max(V mine) {
  __shared__ V parts[THREADS];
  parts[threadIdx.x] = mine;
  __syncthreads();
  for (uint half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      V other = parts[threadIdx.x + half];
      if (other > parts[threadIdx.x] || other != other) parts[threadIdx.x] = other;
    }
    __syncthreads();
  }
  V largest = parts[0];
  __syncthreads();
  return largest;
}

// ops::Activation: what a normalisation or convolution ends with.
enum Activation : uint { IDENTITY, RELU, LEAKY_RELU, RELU6 };

// y of x. NaN stays NaN.
template <typename V> __device__ inline V activated(uint kind, double slope, V x) {
  switch (kind) {
    case RELU: return x < V(0) ? V(0) : x;
    case LEAKY_RELU: return x < V(0) ? x * V(slope) : x;
    case RELU6: return x < V(0) ? V(0) : x > V(6) ? V(6) : x;
    default: return x;
  }
}

// dx of y and dy.
template <typename V> __device__ inline V activation_gradient(uint kind, double slope, V y, V dy) {
  switch (kind) {
    case RELU: return y <= V(0) ? V(0) : dy;
    case LEAKY_RELU: return y <= V(0) ? dy * V(slope) : dy;
    case RELU6: return y <= V(0) || y >= V(6) ? V(0) : dy;
    default: return dy;
  }
}

// 1 / (1 + exp(-x)) without overflow.
template <typename V> __device__ inline V sigmoid(V x) {
  V small = exp(x < 0 ? x : -x);
  return (x < 0 ? small : V(1)) / (V(1) + small);
}

// d/dx of x·sigmoid(x).
template <typename V> __device__ inline V silu_slope(V x) {
  V s = sigmoid(x);
  return s * (V(1) + x * (V(1) - s));
}
