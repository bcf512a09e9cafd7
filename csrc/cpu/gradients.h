// What becomes of gradients on their way to the update, on the CPU.
#pragma once

#include "../clipping.h"
#include "memory.h"

namespace sgdr_fused::cpu {

// By what they are clipped.
struct Clip {
  double max_value, coefficient;
};

inline Clip clip_of(const Clipping& clipping) {
  return {clipping.max_value, clip_coefficient(clipping)};
}

template <class T>
struct DivideLoop {
  SGDR_HOST_DEVICE static void run(T* to, const T* from, T divisor, int64_t count) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] / divisor;
  }
};

template <class T>
struct MultiplyLoop {
  SGDR_HOST_DEVICE static void run(T* to, const T* from, T factor, int64_t count) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] * factor;
  }
};

template <class T>
struct ClipLoop {
  SGDR_HOST_DEVICE static void run(T* to, const T* from, T max_value, T coefficient,
                                   int64_t count) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = clamped(from[i], max_value) * coefficient;
  }
};

// Divided by a GradScaler's scale; `to` may be `from`.
template <class T>
void unscale(T* to, const T* from, const float* grad_scale, int64_t count) {
  const float inverse = exact_inverse(*grad_scale);
  if (inverse != 0.0f) return run<MultiplyLoop<T>>(to, from, static_cast<T>(inverse), count);
  run<DivideLoop<T>>(to, from, static_cast<T>(*grad_scale), count);
}

template <class T>
void clip_elements(T* to, const T* from, const Clip& clip, int64_t count) {
  run<ClipLoop<T>>(to, from, static_cast<T>(clip.max_value), static_cast<T>(clip.coefficient),
                   count);
}

}  // namespace sgdr_fused::cpu
