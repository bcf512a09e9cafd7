// The update rule of SGD with momentum.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// torch.optim.SGD. State: momentum_buffer, where momentum is in use. The rate stands outside of the
// buffer or, in the classical form, inside (Sutskever et al., 2013): the other factor is 1.
struct Sgd : Defaults {
  static constexpr const char* kName = "sgd";
  static constexpr int kMinStates = 0, kMaxStates = 1;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  enum Constant { kDampening, kNesterov, kMaximize, kClassical };

  template <class T>
  struct ScalarsIn {
    T lr_inside, lr_outside, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const bool classical = constants[kClassical] != 0.0;
    Scalars s;
    s.lr_inside = classical ? hypers[kLr] : 1.0;
    s.lr_outside = classical ? 1.0 : hypers[kLr];
    s.momentum = hypers[kMomentum];
    s.one_minus_dampening = 1.0 - constants[kDampening];
    s.weight_decay = hypers[kWeightDecay];
    s.first = stats.steps == 0.0;
    s.nesterov = constants[kNesterov] != 0.0;
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  // A step without momentum leaves the buffer alone, so the next step may still be the first.
  SGDR_HOST_DEVICE static bool counts(const double* hypers) { return hypers[kMomentum] != 0.0; }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const {
      return !s.maximize && (kStates == 0 || (!s.first && s.momentum != 0));
    }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      g = s.lr_inside * descent(g, p, s.weight_decay, s.maximize);
      if constexpr (kStates == 1) {
        const T buffer = where(s.first, g, s.momentum * states[0] + s.one_minus_dampening * g);
        const T direction = s.nesterov ? g + s.momentum * buffer : buffer;
        // Where a tensor or a schedule gives 0, as where the number is 0: no buffer, no dampening.
        states[0] = where(s.momentum != 0, buffer, states[0]);
        g = where(s.momentum != 0, direction, g);
      }
      p = p - s.lr_outside * g;
    }
  };
};

}  // namespace sgdr_fused
