// The scalars of a rule, from double to the type of the rule's arithmetic.
#pragma once

#include "math/compilers.h"

namespace sgdr_fused {

template <class T>
SGDR_HOST_DEVICE T rounded_field(double x) {
  return static_cast<T>(x);
}
template <class T>
SGDR_HOST_DEVICE bool rounded_field(bool flag) {
  return flag;
}

// The same fields in T: each number is rounded once, and a flag stays what it is. `Fields` is a
// struct template whose fields are of its type argument, or bool. C++17 cannot go through the
// fields of a struct, so each number of fields has a case.
template <template <class> class Fields, class T>
SGDR_HOST_DEVICE Fields<T> rounded(const Fields<double>& x) {
  constexpr int kFields = sizeof(Fields<char>);  // each takes a byte
  static_assert(3 <= kFields && kFields <= 12, "add a case for this number of fields");
  if constexpr (kFields == 3) {
    const auto& [a, b, c] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c)};
  } else if constexpr (kFields == 4) {
    const auto& [a, b, c, d] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d)};
  } else if constexpr (kFields == 5) {
    const auto& [a, b, c, d, e] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d),
            rounded_field<T>(e)};
  } else if constexpr (kFields == 6) {
    const auto& [a, b, c, d, e, f] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c),
            rounded_field<T>(d), rounded_field<T>(e), rounded_field<T>(f)};
  } else if constexpr (kFields == 7) {
    const auto& [a, b, c, d, e, f, g] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d),
            rounded_field<T>(e), rounded_field<T>(f), rounded_field<T>(g)};
  } else if constexpr (kFields == 8) {
    const auto& [a, b, c, d, e, f, g, h] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d),
            rounded_field<T>(e), rounded_field<T>(f), rounded_field<T>(g), rounded_field<T>(h)};
  } else if constexpr (kFields == 9) {
    const auto& [a, b, c, d, e, f, g, h, i] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c),
            rounded_field<T>(d), rounded_field<T>(e), rounded_field<T>(f),
            rounded_field<T>(g), rounded_field<T>(h), rounded_field<T>(i)};
  } else if constexpr (kFields == 10) {
    const auto& [a, b, c, d, e, f, g, h, i, j] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d),
            rounded_field<T>(e), rounded_field<T>(f), rounded_field<T>(g), rounded_field<T>(h),
            rounded_field<T>(i), rounded_field<T>(j)};
  } else if constexpr (kFields == 11) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d),
            rounded_field<T>(e), rounded_field<T>(f), rounded_field<T>(g), rounded_field<T>(h),
            rounded_field<T>(i), rounded_field<T>(j), rounded_field<T>(k)};
  } else {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = x;
    return {rounded_field<T>(a), rounded_field<T>(b), rounded_field<T>(c), rounded_field<T>(d),
            rounded_field<T>(e), rounded_field<T>(f), rounded_field<T>(g), rounded_field<T>(h),
            rounded_field<T>(i), rounded_field<T>(j), rounded_field<T>(k), rounded_field<T>(l)};
  }
}

}  // namespace sgdr_fused
