// Log anomaly factors of neurons on a batch of images, (N, neurons), and each image's sum of them: detectors/afdu.
#include "common.cuh"

namespace anomaly_factor {

// A neuron's clusters: `Curves::Exact` of ops/anomaly_factor.rs. Positions are bandwidths from the origin, in increasing order.
struct Neuron {
  uint count;
  double origin, bandwidth, floor;
  const double *centres, *breaks, *log_densities;
  const float *weights;
};

// How many of the increasing `numbers` are below `bound`, or at it if `also_at`.
template <typename T> __device__ inline uint below(const T *numbers, uint count, T bound, bool also_at) {
  uint first = 0;
  while (count > 0) {
    uint half = count / 2;
    T middle = numbers[first + half];
    if (middle < bound || (also_at && middle == bound)) {
      first += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return first;
}

// ln Σ w exp(−(u − z)²/2), relative to the nearest centre's kernel and over the centres within its reach (density.rs).
__device__ inline double log_density(const Neuron &neuron, double u) {
  constexpr double REACH = 34;
  const double *centres = neuron.centres;
  uint right = below(centres, neuron.count, u, false);
  if (right == neuron.count) --right;
  uint left = right > 0 ? right - 1 : 0;
  double nearest = u - centres[left] < centres[right] - u ? centres[left] : centres[right];
  double distance = u - nearest, reach = sqrt(distance * distance + 2 * REACH), sum = 0;
  uint end = below(centres, neuron.count, u + reach, true);
  for (uint i = below(centres, neuron.count, u - reach, false); i < end; ++i)
    sum += neuron.weights[i] * exp(float((centres[i] - nearest) * (2 * u - centres[i] - nearest) * 0.5));
  return log(sum) - 0.5 * distance * distance;
}

// From clusters. A block takes one neuron and THREADS images, so that its threads read the same centres.
template <typename T>
__device__ void exact(uint images, uint neurons, double cap, const double *scales, const uint *starts,
                      const double *centres, const double *breaks, const double *log_densities, const T *weights,
                      const T *values, T *factors) {
  uint index = blockIdx.x % neurons, image = blockIdx.x / neurons * THREADS + threadIdx.x;
  if (image >= images) return;
  uint first = starts[index];
  Neuron neuron = {starts[index + 1] - first, scales[3 * index],     scales[3 * index + 1],  scales[3 * index + 2],
                   centres + first,           breaks + first,        log_densities + first, weights + first};
  T value = values[image * neurons + index];
  double factor = cap;
  if (value - value == T(0)) {
    constexpr double FARTHEST = 1e9;
    double u = (double(value) - neuron.origin) / neuron.bandwidth;
    double around = neuron.log_densities[below(neuron.breaks, neuron.count - 1, u, true)];
    double density = log_density(neuron, u < -FARTHEST ? -FARTHEST : u > FARTHEST ? FARTHEST : u);
    factor = around - (density < neuron.floor ? neuron.floor : density);
  }
  // NaN for what is not finite.
  factors[image * neurons + index] = T(factor < cap ? factor : cap) + (value - value);
}

// From tables: table.rs says what HEAD and NODES are. A row of COLUMNS threads takes as many neurons of an image, so that
// values are read side by side, and goes on to other images with the same neurons' scales.
constexpr uint COLUMNS = 32, HEAD = 7, NODES = 512;

// Two values a word, the first in the lower half.
__device__ inline uint value_of(const uint *nodes, uint node) { return (nodes[node / 2] >> (node % 2 == 0 ? 0 : 16)) & 0xFFFF; }

// ln WAF beyond a table's end, as Tail::log_factor of table.rs; without rows, of one kernel at that end.
template <typename T> __device__ inline T in_tail(const T *tail, uint rows, T u, T floor) {
  constexpr float REACH = 34;
  if (rows == 0) return T(0.5) * u * u;
  const T *centres = tail, *weights = tail + rows, *froms = tail + 2 * rows, *log_densities = tail + 3 * rows;
  uint right = below(centres, rows, u, false);
  if (right == rows) --right;
  uint left = right > 0 ? right - 1 : 0;
  T nearest = u - centres[left] < centres[right] - u ? centres[left] : centres[right];
  T distance = u - nearest, reach = sqrt(distance * distance + T(2 * REACH)), sum = 0;
  for (uint i = below(centres, rows, u - reach, false); i < rows && centres[i] <= u + reach; ++i)
    sum += weights[i] * exp((centres[i] - nearest) * (2 * u - centres[i] - nearest) * T(0.5));
  T density = log(sum) - T(0.5) * distance * distance;
  uint before = below(froms, rows, u, true);
  return log_densities[before > 0 ? before - 1 : 0] - (density < floor ? floor : density);
}

template <typename T>
__device__ void tabulated(uint images, uint neurons, double cap, const T *heads, const uint *nodes, const uint *ends,
                          const T *tails, const T *values, T *factors) {
  uint neuron = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
  if (neuron >= neurons) return;
  const T *head = heads + neuron * HEAD;
  const uint *pairs = nodes + neuron * (NODES / 2), *limits = ends + 2 * neuron;
  T first = head[0], last = head[1], spacing = head[2], lowest = head[3], step = head[4], bandwidths = head[5], floor = head[6];
  for (uint image = threadIdx.x / COLUMNS; image < images; image += THREADS / COLUMNS) {
    T value = values[image * neurons + neuron], factor = bandwidths == T(0) ? T(0) : T(cap), found = factor;
    if (value >= first && value <= last) {
      T place = (value - first) * spacing;
      if (!(place < T(NODES - 1))) place = T(NODES - 1);
      uint node = place < T(NODES - 2) ? uint(place) : NODES - 2;
      T left = T(value_of(pairs, node)), right = T(value_of(pairs, node + 1));
      found = lowest + step * (left + (place - T(node)) * (right - left));
    } else if (value == value && bandwidths != T(0)) {
      uint side = value < first ? 0 : 1;
      T u = (side == 0 ? first - value : value - last) * bandwidths;
      constexpr float FARTHEST = 1e9;
      found = in_tail(tails + limits[side], (limits[side + 1] - limits[side]) / 4, u < T(FARTHEST) ? u : T(FARTHEST), floor);
    }
    // NaN for what is not finite.
    factors[image * neurons + neuron] = (found < factor ? found : factor) + (value - value);
  }
}

// Each image's sum over neurons of factors if `raw`, else of log factors. A block takes an image.
template <typename T> __device__ void sums(uint neurons, uint raw, const T *log_factors, double *sums) {
  const T *row = log_factors + blockIdx.x * neurons;
  double sum = 0;
  for (uint i = threadIdx.x; i < neurons; i += THREADS) sum += raw ? exp(row[i]) : row[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace anomaly_factor

KERNEL(exact_f32, uint images, uint neurons, double cap, const double *scales, const uint *starts, const double *centres,
       const double *breaks, const double *log_densities, const float *weights, const float *values, float *factors) {
  anomaly_factor::exact(images, neurons, cap, scales, starts, centres, breaks, log_densities, weights, values, factors);
}
KERNEL(tabulated_f32, uint images, uint neurons, double cap, const float *heads, const uint *nodes, const uint *ends,
       const float *tails, const float *values, float *factors) {
  anomaly_factor::tabulated(images, neurons, cap, heads, nodes, ends, tails, values, factors);
}
KERNEL(sums_f32, uint neurons, uint raw, const float *log_factors, double *sums) {
  anomaly_factor::sums(neurons, raw, log_factors, sums);
}
