// The update rule of RMSprop.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Tieleman & Hinton (2012), centered after Graves (2013), as torch.optim.RMSprop computes it.
// States: square_avg; grad_avg, if centered; momentum_buffer, where momentum is in use.
struct RMSprop : Defaults {
  static constexpr const char* kName = "rmsprop";
  static constexpr int kMinStates = 1, kMaxStates = 3;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  enum Constant { kAlpha, kEps, kCentered, kMaximize };

  template <class T>
  struct ScalarsIn {
    T lr, momentum, weight_decay, alpha, weight, eps;
    bool centered, maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats&) {
    Scalars s;
    s.lr = hypers[kLr];
    s.momentum = hypers[kMomentum];
    s.weight_decay = hypers[kWeightDecay];
    s.alpha = constants[kAlpha];
    s.weight = 1.0 - constants[kAlpha];
    s.eps = constants[kEps];
    s.centered = constants[kCentered] != 0.0;
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const {
      return !s.maximize && s.weight < T(0.5) &&
             (kStates == 1 || (s.momentum != 0 && s.centered == (kStates == 3)));
    }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& square_avg = states[0];
      g = descent(g, p, s.weight_decay, s.maximize);
      square_avg = average_square(square_avg, g, s.alpha, s.weight);
      T second_moment = square_avg;
      if constexpr (kStates >= 2) {
        // If there are two states and the rule is not centered, this is the momentum buffer.
        T& grad_avg = states[1];
        const T mean = interpolate(grad_avg, g, s.weight, s.alpha);
        second_moment = where(s.centered, square_avg - mean * mean, square_avg);
        grad_avg = where(s.centered, mean, grad_avg);
      }
      g = g / (sqrt_of(second_moment) + s.eps);
      if constexpr (kStates >= 2) {
        T& momentum_buffer = states[kStates - 1];
        const T buffer = s.momentum * momentum_buffer + g;
        // Where a tensor or a schedule gives 0, as where the number is 0: the buffer waits.
        momentum_buffer = where(s.momentum != 0, buffer, momentum_buffer);
        g = where(s.momentum != 0, buffer, g);
      }
      p = p - s.lr * g;
    }
  };
};

}  // namespace sgdr_fused
