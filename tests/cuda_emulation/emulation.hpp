// Enough of CUDA's language for g++ to compile our kernels for the CPU.
//
// The threads of a block are fibers on one operating-system thread: each runs until it ends or reaches __syncthreads,
// then the next. That finds wrong arithmetic, indices, barriers and arguments. It does not find what only a GPU shows: memory
// ordering within a warp, registers and shared memory that do not suffice, speed, nvcc's own floating point.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __shared__ static
#define __restrict__

using std::cos, std::erf, std::exp, std::floor, std::log, std::sqrt, std::pow;

struct Dimensions { unsigned x = 0; };
inline Dimensions threadIdx, blockIdx, gridDim;
void __syncthreads();

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }

struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {0x7FFF};
  return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

// One argument as the Rust side sent it. For a pointer, `type` is that of its elements.
struct Argument {
  enum Kind : uint8_t { WORD, REAL, IN, OUT } kind;
  enum Type : uint8_t { F32, F64, BF16, U32 } type;
  std::vector<uint8_t> bytes;
  uint8_t *elements = nullptr;
};

template <typename T> Argument::Type type_of() {
  if (std::is_same_v<T, float>) return Argument::F32;
  if (std::is_same_v<T, double>) return Argument::F64;
  if (std::is_same_v<T, __nv_bfloat16>) return Argument::BF16;
  static_assert(sizeof(T) != 0);
  return Argument::U32;
}

// The argument as the parameter's type, or an error: what a real launch would take as it comes.
template <typename P> P as_parameter(Argument &argument, size_t position) {
  auto require = [&](bool good) {
    if (!good) throw std::runtime_error("argument " + std::to_string(position) + " is not of the parameter's type");
  };
  if constexpr (std::is_pointer_v<P>) {
    using T = std::remove_const_t<std::remove_pointer_t<P>>;
    constexpr bool constant = std::is_const_v<std::remove_pointer_t<P>>;
    require(argument.kind == (constant ? Argument::IN : Argument::OUT) && argument.type == type_of<T>());
    return reinterpret_cast<P>(argument.elements);
  } else {
    static_assert(std::is_same_v<P, double> || std::is_same_v<P, uint32_t>);
    require(argument.kind == (std::is_same_v<P, double> ? Argument::REAL : Argument::WORD));
    P result;
    std::memcpy(&result, argument.bytes.data(), sizeof result);
    return result;
  }
}

using Arguments = std::vector<Argument>;
using Kernel = std::function<std::function<void()>(Arguments &)>;
inline std::map<std::string, Kernel> &kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

template <typename... P, size_t... I>
std::function<void()> bound(void (*kernel)(P...), Arguments &arguments, std::index_sequence<I...>) {
  auto values = std::tuple<P...>{as_parameter<P>(arguments[I], I)...};
  return [=] { std::apply(kernel, values); };
}

template <typename... P> struct Registered {
  Registered(std::string file, const char *name, void (*kernel)(P...)) {
    kernels()[file.substr(file.rfind('/') + 1) + ": " + name] = [kernel](Arguments &arguments) {
      if (arguments.size() != sizeof...(P))
        throw std::runtime_error("it takes " + std::to_string(sizeof...(P)) + " arguments, not " +
                                 std::to_string(arguments.size()));
      return bound(kernel, arguments, std::index_sequence_for<P...>{});
    };
  }
};

// Known as "file.cu: name".
#define KERNEL(name, ...)                                           \
  static void name(__VA_ARGS__);                                    \
  static const Registered registered_##name(__FILE__, #name, name); \
  static void name(__VA_ARGS__)
