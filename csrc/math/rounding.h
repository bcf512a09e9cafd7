// Two ways to treat what 16 bits of storage leave out: a remainder keeps it, and stochastic
// rounding makes up for it on average.
#pragma once

#include "math/dtype.h"

namespace sgdr_fused {

// ---- Remainders: a float as a parameter of 16 bits, its nearest, and 16 more. Nothing is lost,
// and a parameter that somebody else writes takes at most half of its last place along from before.

// For BFloat16 the remainder is the difference of the two as integers. Halves are rounded away from
// zero, not to even; so the difference is in [-2^15, 2^15).
SGDR_HOST_DEVICE void split(BFloat16& param, int16_t& remainder, float x) {
  const uint32_t bits = bits_of(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  param.bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : (bits + 0x8000u) >> 16);
  remainder = static_cast<int16_t>(is_nan ? 0u : bits & 0xffffu);
}
SGDR_HOST_DEVICE float join(BFloat16 param, int16_t remainder) {
  const uint32_t magnitude = param.bits & 0x7fffu;
  // A 0 or an infinity with such a remainder did not come from split(), and would become a NaN.
  const bool stray = (magnitude == 0 && remainder < 0) || (magnitude == 0x7f80u && remainder > 0);
  const int32_t difference = stray ? 0 : remainder;
  return float_of((static_cast<uint32_t>(param.bits) << 16) + static_cast<uint32_t>(difference));
}

// For Half the remainder is the difference in units of half a float's last place at the parameter's
// size, which is 2^-38 at the least. An infinity has no remainder.
SGDR_HOST_DEVICE uint32_t exponent_of(Half param) {
  const uint32_t exponent = (param.bits >> 10) & 0x1fu;
  return exponent == 0 ? 1u : exponent;
}
SGDR_HOST_DEVICE void split(Half& param, int16_t& remainder, float x) {
  store(param, x);
  const float units = (x - load(param)) * float_of((166u - exponent_of(param)) << 23);
  // The sum's last place is 1, so its bits are those of the nearest integer.
  const uint32_t integer = bits_of(units + 12582912.0f);
  const bool finite = (param.bits & 0x7c00u) != 0x7c00u;
  remainder = static_cast<int16_t>(finite ? integer & 0xffffu : 0u);
}
SGDR_HOST_DEVICE float join(Half param, int16_t remainder) {
  const float unit = float_of((exponent_of(param) + 88u) << 23);
  const float sum = load(param) + static_cast<float>(remainder) * unit;
  return remainder == 0 ? load(param) : sum;  // -0 + 0 is 0
}

// ---- Stochastic rounding: up with the probability that makes the mean right.

// What the random bits of a step depend on, with the element and the operand, and nothing else: so
// they are the same whatever thread, block or vector an element is in.
struct RandomRounding {
  uint64_t seed;
  int64_t clock;
  int32_t index;  // the place of the parameter in the optimizer
};

// Elements that share a key.
constexpr int64_t kCell = 16384;
constexpr int kRoundedOperands = 4;

struct RoundingKey {
  uint32_t words[kRoundedOperands];  // of the parameter, and of each state
};

// Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
// `cell` is an element's index divided by kCell, in the parameter's memory order.
SGDR_HOST_DEVICE RoundingKey rounding_key(const RandomRounding& rounding, int64_t cell) {
  uint32_t counter[4] = {static_cast<uint32_t>(cell), static_cast<uint32_t>(cell >> 32),
                         static_cast<uint32_t>(rounding.index),
                         static_cast<uint32_t>(rounding.clock)};
  uint32_t key[2] = {
      static_cast<uint32_t>(rounding.seed),
      static_cast<uint32_t>(rounding.seed >> 32) ^ static_cast<uint32_t>(rounding.clock >> 32)};
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(counter[0]) * 0xD2511F53u;
    const uint64_t b = static_cast<uint64_t>(counter[2]) * 0xCD9E8D57u;
    counter[0] = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(b);
    counter[2] = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(a);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return {{counter[0], counter[1], counter[2], counter[3]}};
}

// 16 random bits for an element of a cell: a hash of its number, counted from where the key says.
// The hash is "lowbias32" of Wellons' search for 32-bit integer hashes of low bias.
SGDR_HOST_DEVICE uint32_t rounding_bits(uint32_t key, uint32_t element) {
  uint32_t x = element + key;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x >> 16;
}

// `random` is in [0, 2^16).
SGDR_HOST_DEVICE void store_randomly(BFloat16& to, float x, uint32_t random) {
  const uint32_t bits = bits_of(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : (bits + random) >> 16);
}

}  // namespace sgdr_fused
