// Resizing of planes and its gradient; see ops/resize.rs for the conventions.
#include "common.cuh"

namespace resize {

enum Kind : uint { NEAREST, BILINEAR, BILINEAR_CORNERS };

// One axis, from `size` to `fresh` pixels.
struct Axis {
  uint size, fresh, kind;

  // Output i is made of inputs `below` and `below` + 1 (at most the last), which has `weight`.
  __device__ uint below(uint i, double &weight) const {
    weight = 0;
    if (kind == NEAREST) return uint((unsigned long long)i * size / fresh);
    double place = (i + 0.5) * (double(size) / fresh) - 0.5;
    if (kind == BILINEAR_CORNERS) place = fresh > 1 ? i * ((size - 1.0) / (fresh - 1.0)) : 0;
    if (place < 0) place = 0;
    uint below = uint(place);
    if (below > size - 1) below = size - 1;
    weight = place - below;
    if (weight > 1) weight = 1;
    return below;
  }
  __device__ uint below(uint i) const {
    double weight;
    return below(i, weight);
  }
  __device__ uint above(uint below) const { return below + 1 < size ? below + 1 : size - 1; }

  // The share of input `at` in output i.
  __device__ double share(uint i, uint at) const {
    double weight;
    uint first = below(i, weight);
    return (first == at ? 1 - weight : 0) + (above(first) == at ? weight : 0);
  }

  // The first output that may hold input `at`: `below` never falls, and is at − 1 or at.
  __device__ uint first(uint at) const {
    uint low = 0, high = fresh, wanted = at == 0 ? 0 : at - 1;
    while (low < high) {
      uint middle = (low + high) / 2;
      if (below(middle) < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};

template <typename T> __device__ void forward(Axis rows, Axis columns, uint planes, const T *x, T *y) {
  uint i = position(), pixels = rows.fresh * columns.fresh;
  if (i >= planes * pixels) return;
  const T *plane = x + i / pixels * rows.size * columns.size;
  double down, right;
  uint top = rows.below(i % pixels / columns.fresh, down), left = columns.below(i % columns.fresh, right);
  if (rows.kind == NEAREST) {
    y[i] = plane[top * columns.size + left];
    return;
  }
  auto row = [&](uint r) {
    T a = plane[r * columns.size + left], b = plane[r * columns.size + columns.above(left)];
    return a * (T(1) - T(right)) + b * T(right);
  };
  y[i] = row(top) * (T(1) - T(down)) + row(rows.above(top)) * T(down);
}

template <typename T> __device__ void backward(Axis rows, Axis columns, uint planes, const T *dy, T *dx) {
  uint i = position(), pixels = rows.size * columns.size;
  if (i >= planes * pixels) return;
  uint row = i % pixels / columns.size, column = i % columns.size, left = columns.first(column);
  const T *plane = dy + i / pixels * rows.fresh * columns.fresh;
  T sum = 0;
  for (uint r = rows.first(row); r < rows.fresh && rows.below(r) <= row; r++)
    for (uint q = left; q < columns.fresh && columns.below(q) <= column; q++)
      sum += plane[r * columns.fresh + q] * T(rows.share(r, row)) * T(columns.share(q, column));
  dx[i] = sum;
}

}  // namespace resize

#define SIZES uint kind, uint height, uint new_height, uint width, uint new_width
#define GIVEN resize::Axis{height, new_height, kind}, resize::Axis{width, new_width, kind}
#define KERNELS(T, type)                                                                                                    \
  KERNEL(resize_##type, SIZES, uint planes, const T *x, T *y) { resize::forward(GIVEN, planes, x, y); }                     \
  KERNEL(resize_gradient_##type, SIZES, uint planes, const T *dy, T *dx) { resize::backward(GIVEN, planes, dy, dx); }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
#undef SIZES
#undef GIVEN
