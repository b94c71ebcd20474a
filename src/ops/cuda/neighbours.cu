// The rows of a bank that are closest to each image, by product + offset; no N×M matrix exists: detectors/similarity.
#include "common.cuh"

namespace neighbours {

// A block takes TILE images and, one after another, tiles of as many rows; CHUNK columns of both are in shared memory at a time.
// A thread has SIDE × SIDE of a tile's products.
constexpr uint TILE = 64, CHUNK = 32, SIDE = 4, ACROSS = TILE / SIDE;
static_assert(ACROSS * ACROSS == THREADS, "each thread has products");

// In the place of a row that is not there.
constexpr uint NONE = 0xFFFFFFFF;

// Whether a row is closer than another. Of equals the first is. NaN is closer than nothing.
__device__ inline bool closer(float a, uint row, float b, uint other) { return a > b || (a == b && row < other); }

// The closest rows of an image so far: a heap with the farthest first, until it is sorted.
struct List {
  uint most;
  float *closeness;
  uint *rows;

  __device__ void clear() {
    for (uint i = 0; i < most; i++) closeness[i] = -INFINITY, rows[i] = NONE;
  }

  // Puts a row in the first one's place, and makes a heap of the first `count` again.
  __device__ void replace_first(uint count, float value, uint row) {
    uint at = 0;
    for (;;) {
      uint child = 2 * at + 1;
      if (child >= count) break;
      // The farther of both.
      if (child + 1 < count && closer(closeness[child], rows[child], closeness[child + 1], rows[child + 1])) child++;
      if (!closer(value, row, closeness[child], rows[child])) break;
      closeness[at] = closeness[child];
      rows[at] = rows[child];
      at = child;
    }
    closeness[at] = value;
    rows[at] = row;
  }

  // The closest first.
  __device__ void sort() {
    for (uint last = most - 1; last > 0; last--) {
      float farthest = closeness[0];
      uint row = rows[0];
      replace_first(last, closeness[last], rows[last]);
      closeness[last] = farthest;
      rows[last] = row;
    }
  }
};

// CHUNK columns from `column` on of TILE rows from `first` on, and 0 beyond `end` and the last column. The odd stride keeps threads
// that store side by side in different banks.
__device__ inline void load(const float *values, uint first, uint end, uint columns, uint column, float (*tile)[TILE + 1]) {
  for (uint i = threadIdx.x; i < TILE * CHUNK; i += THREADS) {
    uint row = first + i / CHUNK, at = column + i % CHUNK;
    tile[i % CHUNK][i / CHUNK] = row < end && at < columns ? values[row * columns + at] : 0;
  }
}

// Rows are in `parts`, so that few images keep many blocks busy. Lists are (images, parts, most), sorted.
__device__ inline void closest(uint images, uint rows, uint columns, uint parts, uint most, const float *x, const float *bank,
                               const float *offsets, float *closeness, uint *found) {
  __shared__ float image_tile[CHUNK][TILE + 1], row_tile[CHUNK][TILE + 1], products[TILE][TILE + 1];
  // Blocks side by side read the same rows.
  uint groups = (images + TILE - 1) / TILE, first_image = blockIdx.x % groups * TILE, part = blockIdx.x / groups;
  uint tiles = (rows + TILE - 1) / TILE, each = (tiles + parts - 1) / parts * TILE, begin = part * each;
  uint end = begin + each < rows ? begin + each : rows;
  uint down = threadIdx.x / ACROSS, right = threadIdx.x % ACROSS;
  // A list is one thread's: few rows get into it, and their order in time is that of the rows.
  uint image = first_image + threadIdx.x;
  bool lists = threadIdx.x < TILE && image < images;
  uint place = (image * parts + part) * most;
  List list = {most, closeness + place, found + place};
  if (lists) list.clear();
  for (uint first = begin; first < end; first += TILE) {
    float sums[SIDE][SIDE] = {};
    for (uint column = 0; column < columns; column += CHUNK) {
      load(x, first_image, images, columns, column, image_tile);
      load(bank, first, end, columns, column, row_tile);
      __syncthreads();
      // Sums of sums round less than one long sum: on_gpu.rs counts on it.
      float chunk[SIDE][SIDE] = {};
      for (uint c = 0; c < CHUNK; c++) {
        float a[SIDE], b[SIDE];
        for (uint i = 0; i < SIDE; i++) {
          a[i] = image_tile[c][down + i * ACROSS];
          b[i] = row_tile[c][right + i * ACROSS];
        }
        for (uint i = 0; i < SIDE; i++)
          for (uint j = 0; j < SIDE; j++) chunk[i][j] += a[i] * b[j];
      }
      for (uint i = 0; i < SIDE; i++)
        for (uint j = 0; j < SIDE; j++) sums[i][j] += chunk[i][j];
      __syncthreads();
    }
    for (uint j = 0; j < SIDE; j++) {
      uint row = first + right + j * ACROSS;
      float offset = row < end ? offsets[row] : 0;
      for (uint i = 0; i < SIDE; i++) products[down + i * ACROSS][right + j * ACROSS] = sums[i][j] + offset;
    }
    __syncthreads();
    // The next tile's products are written after further barriers, when these are read.
    if (lists) {
      uint count = end - first < TILE ? end - first : TILE;
      float farthest = list.closeness[0];
      uint its_row = list.rows[0];
      for (uint j = 0; j < count; j++) {
        float value = products[threadIdx.x][j];
        if (!closer(value, first + j, farthest, its_row)) continue;
        list.replace_first(most, value, first + j);
        farthest = list.closeness[0];
        its_row = list.rows[0];
      }
    }
  }
  if (lists) list.sort();
}

// The closest of all parts' lists, (images, most) pairs of closeness and row. A thread finds the rank of one place of a list.
__device__ inline void merged(uint images, uint parts, uint most, const float *closeness, const uint *rows, double *closest) {
  uint i = position();
  if (i >= images * parts * most) return;
  uint image = i / (parts * most), part = i / most % parts, rank = i % most;
  float value = closeness[i];
  uint row = rows[i];
  for (uint other = 0; other < parts && rank < most; other++) {
    if (other == part) continue;
    uint first = (image * parts + other) * most, low = 0, high = most;
    // How many of the other list come before: of places without a row, those of earlier parts do.
    while (low < high) {
      uint middle = (low + high) / 2, at = first + middle;
      bool before = other < part ? !closer(value, row, closeness[at], rows[at]) : closer(closeness[at], rows[at], value, row);
      if (before) low = middle + 1;
      else high = middle;
    }
    rank += low;
  }
  if (rank >= most) return;
  double *pair = closest + 2 * (image * most + rank);
  pair[0] = value;
  pair[1] = row;
}

}  // namespace neighbours

KERNEL(neighbours_f32, uint images, uint rows, uint columns, uint parts, uint most, const float *x, const float *bank,
       const float *offsets, float *closeness, uint *found) {
  neighbours::closest(images, rows, columns, parts, most, x, bank, offsets, closeness, found);
}
KERNEL(neighbours_merged_f32, uint images, uint parts, uint most, const float *closeness, const uint *rows, double *closest) {
  neighbours::merged(images, parts, most, closeness, rows, closest);
}
