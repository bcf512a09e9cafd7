// The update rule of Lion.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Chen et al. (2023), algorithm 2, with the weight decay decoupled. State: exp_avg.
struct Lion : Defaults {
  static constexpr const char* kName = "lion";
  static constexpr int kMinStates = 1, kMaxStates = 1;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kMaximize };

  template <class T>
  struct ScalarsIn {
    T lr, decay, weight1, beta1, weight2, beta2;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats&) {
    Scalars s;
    s.lr = hypers[kLr];
    s.decay = 1.0 - hypers[kLr] * hypers[kWeightDecay];
    s.weight1 = 1.0 - hypers[kBeta1];
    s.beta1 = hypers[kBeta1];
    s.weight2 = 1.0 - hypers[kBeta2];
    s.beta2 = hypers[kBeta2];
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  // 1, -1 or 0; NaN where it is NaN, so that a parameter shows what went wrong.
  template <class T>
  SGDR_HOST_DEVICE static T sign_of(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x;
  }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const {
      return !s.maximize && s.weight1 < T(0.5) && s.weight2 < T(0.5);
    }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      g = where(s.maximize, -g, g);
      const T direction = interpolate(exp_avg, g, s.weight1, s.beta1);
      p = p * s.decay - s.lr * sign_of(direction);
      exp_avg = interpolate(exp_avg, g, s.weight2, s.beta2);
    }
  };
};

}  // namespace sgdr_fused
