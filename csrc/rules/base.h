// What the update rules share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "math/compilers.h"

namespace sgdr_fused {

// Sums over the elements of a parameter.
struct Squares {
  double param;      // the squares of the elements themselves
  double direction;  // the squares of what Rule::direction() gives for each
};

// What a step knows about a parameter before it updates it.
struct ParamStats {
  double steps;     // how many updates that count it has had
  double product;   // of the factors of those updates
  Squares squares;  // where the algorithm measures

  SGDR_HOST_DEVICE bool operator==(const ParamStats& other) const {
    return steps == other.steps && product == other.product &&
           squares.param == other.squares.param && squares.direction == other.squares.direction;
  }
};

// What an algorithm has unless it says otherwise.
struct Defaults {
  static constexpr int kMeasuredStates = -1;
  SGDR_HOST_DEVICE static bool measures(const double*) { return false; }
  SGDR_HOST_DEVICE static bool counts(const double*) { return true; }
  SGDR_HOST_DEVICE static double factor(const double*, const double*, double) { return 1.0; }
};

// Correctly rounded on the host and on the device; the overloads of ::sqrt differ between
// compilers.
SGDR_HOST_DEVICE float sqrt_of(float x) { return sqrtf(x); }
SGDR_HOST_DEVICE double sqrt_of(double x) { return sqrt(x); }
SGDR_HOST_DEVICE float abs_of(float x) { return fabsf(x); }
SGDR_HOST_DEVICE double abs_of(double x) { return fabs(x); }

// a where the condition holds, else b. The condition is the same for all elements, and nearly
// always what Rule::usual() says. The host selects by the bits: a compiler does not vectorise a
// loop that has such a condition, unless it makes one loop for each way that all of its conditions
// may go, which takes long to compile, and which it gives up for three or four of them.
template <class T>
SGDR_HOST_DEVICE T where(bool condition, T a, T b) {
#if defined(__CUDA_ARCH__)
  return condition ? a : b;
#else
  using Bits = std::conditional_t<sizeof(T) == sizeof(uint64_t), uint64_t, uint32_t>;
  Bits bits_a, bits_b;
  memcpy(&bits_a, &a, sizeof(T));
  memcpy(&bits_b, &b, sizeof(T));
  const Bits mask = Bits(0) - Bits(condition);
  const Bits bits = (bits_a & mask) | (bits_b & ~mask);
  T result;
  memcpy(&result, &bits, sizeof(T));
  return result;
#endif
}

// The larger of two numbers, or NaN where either is one.
template <class T>
SGDR_HOST_DEVICE T larger(T a, T b) {
  return int(a > b) | int(a != a) ? a : b;  // no ||: its branch would not be vectorised
}

// The direction to descend along: the gradient of the objective, or of its negative, with the
// coupled decay added.
template <class T>
SGDR_HOST_DEVICE T descent(T g, T p, T weight_decay, bool maximize) {
  g = where(maximize, -g, g);
  // A product with 0 would turn an infinite parameter into a NaN.
  return weight_decay != 0 ? g + weight_decay * p : g;
}

// Goes from start to end by weight, beginning at the nearer of the two, so that both ends are
// exact, as in torch's lerp.
template <class T>
SGDR_HOST_DEVICE T interpolate(T start, T end, T weight, T one_minus_weight) {
  const T change = end - start;
  return where(weight < T(0.5), start + weight * change, end - change * one_minus_weight);
}

// The moving average of squares.
template <class T>
SGDR_HOST_DEVICE T average_square(T old, T x, T decay, T weight) {
  return decay * old + weight * x * x;
}

}  // namespace sgdr_fused
