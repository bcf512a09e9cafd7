// What becomes of gradients on their way to the update, on the CPU.
#pragma once

#include "cpu/instruction_set.h"
#include "step/clipping.h"

namespace sgdr_fused::cpu {

// The numbers in the type of the arithmetic.
template <class T>
GradFactors<T> factors_in(const GradFactors<double>& factors) {
  return {static_cast<T>(factors.scale), static_cast<T>(factors.max_value),
          static_cast<T>(factors.coefficient)};
}

// The gradients divided by a GradScaler's scale; `to` may be `from`.
template <class T>
struct UnscaleLoop {
  SGDR_HOST_DEVICE static void run(const GradFactors<T>& factors, T* to, const T* from,
                                   int64_t count) {
    const T scale = factors.scale;
    const T inverse = static_cast<T>(exact_inverse(static_cast<float>(scale)));
    if (inverse != T(0)) {
      SGDR_INDEPENDENT
      for (int64_t i = 0; i < count; ++i) to[i] = from[i] * inverse;
    } else {
      SGDR_INDEPENDENT
      for (int64_t i = 0; i < count; ++i) to[i] = from[i] / scale;
    }
  }
};

template <class T>
struct ClipLoop {
  SGDR_HOST_DEVICE static void run(const GradFactors<T>& factors, T* to, const T* from,
                                   int64_t count) {
    const T max_value = factors.max_value, coefficient = factors.coefficient;
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) to[i] = clamped(from[i], max_value) * coefficient;
  }
};

}  // namespace sgdr_fused::cpu
