// The update rule of Adagrad.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Duchi, Hazan & Singer (2011), as torch.optim.Adagrad computes it. State: sum.
struct Adagrad : Defaults {
  static constexpr const char* kName = "adagrad";
  static constexpr int kMinStates = 1, kMaxStates = 1;
  enum Hyper { kLr, kWeightDecay };
  enum Constant { kLrDecay, kEps, kMaximize };

  template <class T>
  struct ScalarsIn {
    T lr, weight_decay, eps;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    Scalars s;
    s.lr = hypers[kLr] / (1.0 + stats.steps * constants[kLrDecay]);
    s.weight_decay = hypers[kWeightDecay];
    s.eps = constants[kEps];
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const { return !s.maximize; }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& sum = states[0];
      g = descent(g, p, s.weight_decay, s.maximize);
      sum = sum + g * g;
      p = p - s.lr * (g / (sqrt_of(sum) + s.eps));
    }
  };
};

}  // namespace sgdr_fused
