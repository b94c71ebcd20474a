// Softmax over rows, alone and with cross-entropy; a block for each row.
#include "common.cuh"

namespace softmax {

template <typename T> __device__ T row_max(uint columns, const T *row) {
  T largest = T(-INFINITY);
  for (uint i = threadIdx.x; i < columns; i += THREADS)
    if (row[i] > largest || row[i] != row[i]) largest = row[i];
  return block_max(largest);
}

// Σ exp(x − largest).
template <typename T> __device__ double row_sum(uint columns, const T *row, T largest) {
  double sum = 0;
  for (uint i = threadIdx.x; i < columns; i += THREADS) sum += exp(row[i] - largest);
  return block_sum(sum);
}

template <typename T> __device__ void forward(uint columns, const T *x, T *y) {
  const T *row = x + blockIdx.x * columns;
  T largest = row_max(columns, row), factor = T(1 / row_sum(columns, row, largest));
  for (uint i = threadIdx.x; i < columns; i += THREADS) y[blockIdx.x * columns + i] = exp(row[i] - largest) * factor;
}

template <typename T> __device__ void backward(uint columns, const T *y, const T *dy, T *dx) {
  uint first = blockIdx.x * columns;
  double sum = 0;
  for (uint i = first + threadIdx.x; i < first + columns; i += THREADS) sum += double(y[i]) * dy[i];
  T mean = T(block_sum(sum));
  for (uint i = first + threadIdx.x; i < first + columns; i += THREADS) dx[i] = y[i] * (dy[i] - mean);
}

// The loss of each row: logsumexp(f) − own·f[label] − every·Σ f. NaN for a label that is no class.
template <typename T>
__device__ void cross_entropy(uint classes, double own, double every, const T *logits, const uint *labels, double *losses) {
  const T *row = logits + blockIdx.x * classes;
  T largest = row_max(classes, row);
  double sum = row_sum(classes, row, largest), spread = 0;
  for (uint i = threadIdx.x; i < classes; i += THREADS) spread += row[i] - largest;
  spread = every > 0 ? every * block_sum(spread) : 0;
  if (threadIdx.x != 0) return;
  uint label = labels[blockIdx.x];
  losses[blockIdx.x] = label < classes ? log(sum) - own * (row[label] - largest) - spread : double(NAN);
}

template <typename T> __device__ void mean(uint rows, const double *losses, T *loss) {
  double sum = 0;
  for (uint i = threadIdx.x; i < rows; i += THREADS) sum += losses[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) loss[0] = T(sum / rows);
}

// dLogits = (softmax(f) − target)·dLoss / N.
template <typename T>
__device__ void cross_entropy_gradient(uint rows, uint classes, double own, double every, const T *logits,
                                       const uint *labels, const T *dloss, T *dlogits) {
  const T *row = logits + blockIdx.x * classes;
  double each = double(dloss[0]) / rows;
  T largest = row_max(classes, row), factor = T(each / row_sum(classes, row, largest));
  for (uint i = threadIdx.x; i < classes; i += THREADS) {
    T value = exp(row[i] - largest) * factor - T(every * each);
    dlogits[blockIdx.x * classes + i] = i == labels[blockIdx.x] ? value - T(own * each) : value;
  }
}

}  // namespace softmax

#define KERNELS(T, type)                                                                                                    \
  KERNEL(softmax_##type, uint columns, const T *x, T *y) { softmax::forward(columns, x, y); }                               \
  KERNEL(softmax_gradient_##type, uint columns, const T *y, const T *dy, T *dx) { softmax::backward(columns, y, dy, dx); }  \
  KERNEL(cross_entropy_##type, uint classes, double own, double every, const T *logits, const uint *labels,                 \
         double *losses) {                                                                                                  \
    softmax::cross_entropy(classes, own, every, logits, labels, losses);                                                    \
  }                                                                                                                         \
  KERNEL(mean_loss_##type, uint rows, const double *losses, T *loss) { softmax::mean(rows, losses, loss); }                 \
  KERNEL(cross_entropy_gradient_##type, uint rows, uint classes, double own, double every, const T *logits,                 \
         const uint *labels, const T *dloss, T *dlogits) {                                                                  \
    softmax::cross_entropy_gradient(rows, classes, own, every, logits, labels, dloss, dlogits);                             \
  }
KERNELS(float, f32)
KERNELS(double, f64)
#undef KERNELS
