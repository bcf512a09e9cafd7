// What becomes of a gradient before the update, and how squares are added up: the only place for
// the math of both.
#pragma once

#include <cmath>

#include "step/args.h"

namespace sgdr_fused {

// A sum over a chunk is made of so many partial sums: element i is added to number i %
// kPartialSums, in order; then the upper half of them is added to the lower until one is left. So
// the bits do not depend on how many threads, or vectors of which length, do the work, nor on where
// memory begins. A thread of a GPU's block has eight of them, so that it loads 128 bits of any
// type.
constexpr int kPartialSums = 2048;

// Where two sums are made at once, neighbours are added first: pair i of elements is added to
// number i % kPairSums. So a thread of a GPU has the registers for both.
constexpr int kPairSums = kPartialSums / 2;

// The number of partial sums, at most `most`, that `count` summands reach. The others would add
// only zeros.
SGDR_HOST_DEVICE int num_partial_sums(int most, int64_t count) {
  int partial_sums = most;
  while (partial_sums > 1 && partial_sums / 2 >= count) partial_sums /= 2;
  return partial_sums;
}

template <class T>
SGDR_HOST_DEVICE T clamped(T grad, T max_value) {
  const T above = grad > max_value ? max_value : grad;  // a NaN stays one
  return above < -max_value ? -max_value : above;
}

// torch.nn.utils.clip_grad_norm_'s factor, with its 1e-6; a NaN where the norm is one.
SGDR_HOST_DEVICE double clip_coefficient(const Clipping& clipping) {
  if (clipping.max_norm < 0.0) return 1.0;
  const double coefficient = clipping.max_norm / (sqrt(clipping.sums->squares) + 1e-6);
  return coefficient > 1.0 ? 1.0 : coefficient;
}

// Whether nothing is to be touched at this step. found_inf is a GradScaler's, or null; any number
// but 0 means yes: two devices that overflowed add up to 2.
SGDR_HOST_DEVICE bool skips(const Clipping& clipping, const float* found_inf) {
  return (found_inf != nullptr && *found_inf != 0.0f) ||
         (clipping.skipped != nullptr && clipping.sums->nonfinite != 0.0);
}

// 1 / x where that is exact, as it is for every power of 2 but the outermost ones; else 0. To
// multiply by an exact inverse gives the bits of the division, and takes a fraction of the time.
SGDR_HOST_DEVICE float exact_inverse(float x) {
  const uint32_t bits = bits_of(x), exponent = bits >> 23 & 0xffu;
  return (bits & 0x7fffffu) == 0 && exponent > 0 && exponent < 254 ? 1.0f / x : 0.0f;
}

// What becomes of a gradient before the update reads it.
struct GradChanges {
  bool unscales;  // it is divided by a GradScaler's scale, and written back, as torch does
  bool clips;     // it is clamped and scaled down, for the update alone
};
SGDR_HOST_DEVICE GradChanges grad_changes(const Clipping& clipping, const float* grad_scale) {
  return {grad_scale != nullptr, clipping.is_on};
}

// The numbers that the changes are made with.
template <class T>
struct GradFactors {
  T scale, max_value, coefficient;
};
template <class T>
SGDR_HOST_DEVICE GradFactors<T> grad_factors(const Clipping& clipping, const float* grad_scale) {
  return {grad_scale == nullptr ? T(1) : static_cast<T>(*grad_scale),
          static_cast<T>(clipping.max_value), static_cast<T>(clip_coefficient(clipping))};
}

// What a gradient adds to the sum.
template <class T>
struct Square {
  T scale, inverse, max_value;

  SGDR_HOST_DEVICE Square(const float* grad_scale, const Clipping& clipping)
      : scale(grad_scale == nullptr ? T(1) : static_cast<T>(*grad_scale)),
        inverse(grad_scale == nullptr ? T(1) : static_cast<T>(exact_inverse(*grad_scale))),
        max_value(static_cast<T>(clipping.max_value)) {}

  SGDR_HOST_DEVICE T unscaled(T grad) const {
    return inverse != T(0) ? grad * inverse : grad / scale;
  }

  // It is computed in double, where the square of a float neither overflows nor underflows.
  SGDR_HOST_DEVICE double operator()(T grad, int& nonfinite) const {
    const T value = unscaled(grad);
    nonfinite |= !(value - value == T(0));
    const double clipped = clamped(value, max_value);
    return clipped * clipped;
  }
};

// What a chunk adds to a sum. One whose squares another process adds makes it a NaN if its own are
// not finite: else that process would not learn of it, and would step.
SGDR_HOST_DEVICE double added_to(int32_t sum, const ChunkGradSums& chunk) {
  if (chunk.norm_sum == sum) return chunk.squares;
  return chunk.norm_sum < 0 ? chunk.squares - chunk.squares : 0.0;
}

// What the user reads of a step's clipping: opt.grad_norm and opt.skipped_steps.
SGDR_HOST_DEVICE void report_norm(const Clipping& clipping) {
  if (clipping.norm != nullptr) *clipping.norm = sqrt(clipping.sums->squares);
}
SGDR_HOST_DEVICE void count_skipped(const Clipping& clipping) {
  if (clipping.skipped != nullptr) ++*clipping.skipped;
}

}  // namespace sgdr_fused
