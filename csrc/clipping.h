// What becomes of a gradient before the update, and how a norm is summed up: the only place for
// either's math.
#pragma once

#include <cmath>

#include "step_args.h"

namespace sgdr_fused {

// A sum over a chunk is made of so many partial ones: element i is added to number i % kLanes, in
// order; then the upper half of them is added to the lower until one is left. So the bits do not
// depend on how many threads, or vectors of which length, do the work, nor on where memory begins.
// Eight to a thread of a GPU's block, so that it loads 128 bits of any type.
constexpr int kLanes = 2048;

// Where two sums are made at once, neighbours are added first: pair i of elements is added to
// number i % kPairLanes. So a thread of a GPU has the registers for both.
constexpr int kPairLanes = kLanes / 2;

// So many of at most `most` lanes that `count` summands reach them all. The others would add
// nothing but zeros.
SGDR_HOST_DEVICE int num_lanes(int most, int64_t count) {
  int lanes = most;
  while (lanes > 1 && lanes / 2 >= count) lanes /= 2;
  return lanes;
}

template <class T>
SGDR_HOST_DEVICE T clamped(T grad, T max_value) {
  const T above = grad > max_value ? max_value : grad;  // a NaN stays one
  return above < -max_value ? -max_value : above;
}

// torch.nn.utils.clip_grad_norm_'s factor, with its 1e-6; a NaN where the norm is one.
SGDR_HOST_DEVICE double clip_coefficient(const Clipping& clipping) {
  if (clipping.max_norm < 0.0) return 1.0;
  const double coefficient = clipping.max_norm / (*clipping.norm + 1e-6);
  return coefficient > 1.0 ? 1.0 : coefficient;
}

// Whether nothing is to be touched at this step. found_inf is a GradScaler's, or null; any number
// but 0 means yes: two devices that overflowed add up to 2.
SGDR_HOST_DEVICE bool skips(const Clipping& clipping, const float* found_inf) {
  return (found_inf != nullptr && *found_inf != 0.0f) ||
         (clipping.skipped != nullptr && *clipping.nonfinite);
}

// What a gradient adds to the sum.
template <class T>
struct Square {
  bool unscales;
  T scale, max_value;

  SGDR_HOST_DEVICE Square(const float* grad_scale, const Clipping& clipping)
      : unscales(grad_scale != nullptr),
        scale(unscales ? static_cast<T>(*grad_scale) : T(1)),
        max_value(static_cast<T>(clipping.max_value)) {}

  // In double: the square of a float neither overflows nor underflows.
  SGDR_HOST_DEVICE double operator()(T grad, int& nonfinite) const {
    const T unscaled = unscales ? grad / scale : grad;
    nonfinite |= !(unscaled - unscaled == T(0));
    const double value = clamped(unscaled, max_value);
    return value * value;
  }
};

// What the norm's pass leaves behind, by one thread.
SGDR_HOST_DEVICE void finish_measure(const Clipping& clipping, double squares, bool nonfinite,
                                     const float* found_inf) {
  *clipping.norm = sqrt(squares);
  *clipping.nonfinite = nonfinite;
  if (clipping.skipped != nullptr && skips(clipping, found_inf)) ++*clipping.skipped;
}

}  // namespace sgdr_fused
