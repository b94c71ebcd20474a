#!/bin/sh
# What can only be seen on a GPU, in under eight minutes once built: every operation against its golden values there, the quickstart's
# numbers beside the CPU's, and training steps in f32 and bf16 beside PyTorch's where Python has it.
#
#   make gpu-check                     builds first (make build-cuda says how long), then runs this
#   tools/gpu-check.sh [FOLDER]        with programs that are there: FOLDER/{oodkit,gpu_check,ops}
#
# Ends with 2 where there is no GPU, with 1 where a number is not what it should be.
set -eu
cd "$(dirname "$0")/.."
if ! { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }; then
  echo "error: there is no GPU here: nvidia-smi lists none" >&2
  echo >&2
  echo "hint: run it on a machine with an NVIDIA GPU and its driver; make test checks the kernels on an emulator" >&2
  exit 2
fi
folder=${1:-target/gpu-check}
[ -x "$folder/oodkit" ] || { echo "error: $folder holds no oodkit: make gpu-check builds it" >&2; exit 2; }
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
failed=0
echo "operations against their golden values:"
"$folder/ops" --quiet cuda || failed=1
"$folder/gpu_check" "$folder/oodkit" || failed=1
exit "$failed"
