#!/bin/sh
# Installs the CUDA toolkit that the feature `cuda` is built with: NVIDIA's own wheels from PyPI, at pinned versions.
#
#   tools/cuda-toolkit.sh [--compiler-only] [FOLDER]
#
# FOLDER: where to ($OODKIT_CUDA, else target/cuda). --compiler-only takes the wheels that compile .cu to PTX and no
# more: 0.3 GB instead of 1.2 on disk. Afterwards `. FOLDER/env.sh` sets what cargo and nvcc need. Doing it again does
# nothing. Neither a GPU nor a driver is needed to build.
set -eu
cd "$(dirname "$0")/.."

compiler_only=
if [ "${1-}" = --compiler-only ]; then compiler_only=1; shift; fi
case "${1-}" in -*) echo "usage: tools/cuda-toolkit.sh [--compiler-only] [FOLDER]" >&2; exit 2 ;; esac
folder=${1:-${OODKIT_CUDA:-target/cuda}}

# One toolkit release. nvcc, crt and nvvm are the compiler, runtime and cccl its headers; the libraries are linked.
compiler='nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85'
libraries='nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88'

fail() {
  printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
  exit 2
}

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) fail "NVIDIA's wheels exist for Linux on x86_64 and aarch64, not for $(uname -s) on $(uname -m)" \
       "build on such a machine, or without the feature cuda" ;;
esac
python3 -m pip --version >/dev/null 2>&1 || fail 'python3 -m pip was not found' 'apt-get install python3-pip'
command -v gcc >/dev/null || fail 'nvcc compiles with gcc, and gcc was not found' 'apt-get install build-essential'

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
home=$folder/nvidia/cu13

# The complete toolkit also serves whoever wants the compiler only.
wanted="$compiler $libraries"
[ -z "$compiler_only" ] || [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ] || wanted=$compiler
if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing $wanted into $folder" >&2
  # --target replaces the folder that all wheels share, so they are installed in one go.
  # shellcheck disable=SC2086
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps \
    --upgrade --target "$folder" $wanted || fail 'pip could not install the wheels (see above)' \
    'is PyPI reachable, and are 3 GB free?'
  rm -rf "$folder/bin"   # pip's wrappers of programs that are under nvidia/cu13/bin
  echo "$wanted" >"$folder/installed"
fi

if [ "$wanted" != "$compiler" ]; then
  # The wheels hold libNAME.so.VERSION only; the linker looks for libNAME.so.
  for name in cudart nvrtc curand cublas cublasLt; do
    (cd "$home/lib" && ln -sf "$(ls lib$name.so.*)" lib$name.so)
  done
  ln -sfn lib "$home/lib64"
  # libcuda belongs to the driver, and no wheel has NVIDIA's stub of it. To link, a library with the same names is enough:
  # those that cudarc declares. Every function fails, with CUDA_ERROR_UNKNOWN.
  stub=$home/lib/stubs/libcuda.so
  if [ ! -e "$stub" ]; then
    cargo fetch --locked --quiet
    version=$(awk '/^name = "cudarc"$/ { getline; gsub(/"/, ""); print $3 }' Cargo.lock)
    mkdir -p "$home/lib/stubs"
    cat "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-"$version"/src/driver/sys/*.rs |
      grep -oE '\bfn cu[A-Z][A-Za-z0-9_]*' | awk '{ print "int " $2 "(void) { return 999; }" }' | sort -u >"$folder/stub.c"
    gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stub" "$folder/stub.c"
    ln -sf libcuda.so "$stub.1"   # for a first sign of life without a driver: LD_LIBRARY_PATH
  fi
fi

# 80 (Ampere) is the oldest with bf16; newer GPUs compile its PTX when they load it.
cat >"$folder/env.sh" <<END
export CUDA_HOME='$home' CUDA_PATH='$home'
export PATH='$home/bin':"\$PATH"
export LIBRARY_PATH='$home/lib':'$home/lib/stubs'\${LIBRARY_PATH:+:\$LIBRARY_PATH}
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-80}"
END
echo "$folder/env.sh"
