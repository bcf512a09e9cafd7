// The update rule of Adadelta.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Zeiler (2012), as torch.optim.Adadelta computes it. States: square_avg, acc_delta.
struct Adadelta : Defaults {
  static constexpr const char* kName = "adadelta";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kWeightDecay };
  enum Constant { kRho, kEps, kMaximize };

  template <class T>
  struct ScalarsIn {
    T lr, weight_decay, rho, weight, eps;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats&) {
    Scalars s;
    s.lr = hypers[kLr];
    s.weight_decay = hypers[kWeightDecay];
    s.rho = constants[kRho];
    s.weight = 1.0 - constants[kRho];
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
      T& square_avg = states[0];
      T& acc_delta = states[1];
      g = descent(g, p, s.weight_decay, s.maximize);
      square_avg = average_square(square_avg, g, s.rho, s.weight);
      const T delta = sqrt_of(acc_delta + s.eps) / sqrt_of(square_avg + s.eps) * g;
      acc_delta = average_square(acc_delta, delta, s.rho, s.weight);
      p = p - s.lr * delta;
    }
  };
};

}  // namespace sgdr_fused
