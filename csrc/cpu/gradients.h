// What becomes of gradients on their way to the update, on the CPU.
#pragma once

#include "cpu/memory.h"
#include "step/clipping.h"

namespace sgdr_fused::cpu {

// By what they are clipped.
struct Clip {
  double max_value, coefficient;
};

inline Clip clip_of(const Clipping& clipping) {
  return {clipping.max_value, clip_coefficient(clipping)};
}

// What is done to them, in T.
template <class T>
struct Treatment {
  bool unscales, clips;
  T scale, inverse, max_value, coefficient;  // inverse: 0 where it is not exact

  Treatment(const float* grad_scale, const Clip* clip)
      : unscales(grad_scale != nullptr),
        clips(clip != nullptr),
        scale(unscales ? static_cast<T>(*grad_scale) : T(1)),
        inverse(unscales ? static_cast<T>(exact_inverse(*grad_scale)) : T(1)),
        max_value(clips ? static_cast<T>(clip->max_value) : T(0)),
        coefficient(clips ? static_cast<T>(clip->coefficient) : T(1)) {}
};

// Divided by a GradScaler's scale; `to` may be `from`.
template <class T>
struct UnscaleLoop {
  SGDR_HOST_DEVICE static void run(const Treatment<T>& treatment, T* to, const T* from,
                                   int64_t count) {
    const T scale = treatment.scale, inverse = treatment.inverse;
    if (inverse != T(0)) {
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) to[i] = from[i] * inverse;
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) to[i] = from[i] / scale;
    }
  }
};

template <class T>
struct ClipLoop {
  SGDR_HOST_DEVICE static void run(const Treatment<T>& treatment, T* to, const T* from,
                                   int64_t count) {
    const T max_value = treatment.max_value, coefficient = treatment.coefficient;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = clamped(from[i], max_value) * coefficient;
  }
};

}  // namespace sgdr_fused::cpu
