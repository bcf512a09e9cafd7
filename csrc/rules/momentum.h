// The update rules along a momentum buffer.
#pragma once

#include "base.h"

namespace sgdr_fused {

// torch.optim.SGD. State: momentum_buffer, where momentum is in use. The rate stands outside of the
// buffer or, in the classical form, inside (Sutskever et al., 2013): the other factor is 1.
struct Sgd : Defaults {
  static constexpr const char* kName = "sgd";
  static constexpr int kMinStates = 0, kMaxStates = 1;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  enum Constant { kDampening, kNesterov, kMaximize, kClassical };

  struct Scalars {
    double lr_inside, lr_outside, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const Known& known) {
    const bool classical = constants[kClassical] != 0.0;
    return {classical ? hypers[kLr] : 1.0, classical ? 1.0 : hypers[kLr], hypers[kMomentum],
            1.0 - constants[kDampening],   hypers[kWeightDecay],          known.steps == 0.0,
            constants[kNesterov] != 0.0,   constants[kMaximize] != 0.0};
  }

  // One without momentum leaves the buffer alone, so the next one may still be the first.
  SGDR_HOST_DEVICE static bool counts(const double* hypers) { return hypers[kMomentum] != 0.0; }

  template <class T, int kStates>
  struct Rule {
    T lr_inside, lr_outside, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : lr_inside(static_cast<T>(s.lr_inside)),
          lr_outside(static_cast<T>(s.lr_outside)),
          momentum(static_cast<T>(s.momentum)),
          one_minus_dampening(static_cast<T>(s.one_minus_dampening)),
          weight_decay(static_cast<T>(s.weight_decay)),
          first(s.first),
          nesterov(s.nesterov),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      g = lr_inside * descent(g, p, weight_decay, maximize);
      if constexpr (kStates == 1) {
        const T buffer = first ? g : momentum * states[0] + one_minus_dampening * g;
        const T direction = nesterov ? g + momentum * buffer : buffer;
        // Where a tensor or a schedule gives 0, as where the number is 0: no buffer, no dampening.
        states[0] = momentum != 0 ? buffer : states[0];
        g = momentum != 0 ? direction : g;
      }
      p = p - lr_outside * g;
    }
  };
};

}  // namespace sgdr_fused
