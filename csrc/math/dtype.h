// Storage types, the type that each is computed in, and the conversions between the two.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/compilers.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace sgdr_fused {

enum class Dtype : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class scalar_t>
struct OpMath {
  using type = float;
};
template <>
struct OpMath<double> {
  using type = double;
};
template <class scalar_t>
using opmath_t = typename OpMath<scalar_t>::type;

SGDR_HOST_DEVICE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
SGDR_HOST_DEVICE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

SGDR_HOST_DEVICE float load(float x) { return x; }
SGDR_HOST_DEVICE double load(double x) { return x; }
SGDR_HOST_DEVICE void store(float& to, float x) { to = x; }
SGDR_HOST_DEVICE void store(double& to, double x) { to = x; }

SGDR_HOST_DEVICE float load(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

// Round to nearest, ties to even; every NaN becomes the quiet one, as torch's, not as a GPU's.
SGDR_HOST_DEVICE void store(BFloat16& to, float x) {
  const uint32_t bits = bits_of(x);
#if defined(__CUDA_ARCH__)
  const uint32_t rounded = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // a loop vectorises
#endif
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
}

#if defined(__CUDA_ARCH__)

SGDR_HOST_DEVICE float load(Half x) { return __half2float(__ushort_as_half(x.bits)); }
SGDR_HOST_DEVICE void store(Half& to, float x) { to.bits = __half_as_ushort(__float2half_rn(x)); }

#else

// Selects instead of branches and no F16C instruction: the loop around them vectorises for every
// instruction set, with the same bits.
SGDR_HOST_DEVICE float load(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // exponent bias 15 -> 127
  const uint32_t special = (magnitude << 13) | 0x7f800000u;  // infinity, NaN
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t finite = magnitude < 0x0400u ? bits_of(subnormal) : normal;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  return float_of((magnitude >= 0x7c00u ? special : finite) | sign);
}

// Round to nearest, ties to even.
SGDR_HOST_DEVICE void store(Half& to, float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // From 65,520 on the carry runs into the exponent and gives infinity.
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // Below 2^-14 a unit in the last place of a half is 2^-24, which is that of a float in [0.5, 1):
  // the addition rounds.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  to.bits = static_cast<uint16_t>((magnitude >= 0x47800000u ? special : finite) | sign);
}

#endif

}  // namespace sgdr_fused
