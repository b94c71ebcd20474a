#!/bin/sh
# Compiles every CUDA kernel to PTX, so that none rots where there is no GPU. Fetches the compiler from PyPI (90 MB) the first
# time; without it this fails: a kernel that was not compiled is not checked.
set -eu
cd "$(dirname "$0")/.."
. "$(tools/cuda-toolkit.sh --compiler-only)"
out=target/cuda-ptx
mkdir -p "$out"
for kernel in src/ops/cuda/*.cu; do
  echo "nvcc $kernel"
  nvcc -ptx -arch="sm_$CUDA_COMPUTE_CAP" -O3 -std=c++17 -Werror all-warnings -o "$out/$(basename "$kernel" .cu).ptx" "$kernel"
done
