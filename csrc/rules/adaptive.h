// The update rules along the gradient itself, over the size of past ones.
#pragma once

#include "rules/base.h"

namespace sgdr_fused {

// Duchi, Hazan & Singer (2011), as torch.optim.Adagrad computes it. State: sum.
struct Adagrad : Defaults {
  static constexpr const char* kName = "adagrad";
  static constexpr int kMinStates = 1, kMaxStates = 1;
  enum Hyper { kLr, kWeightDecay };
  enum Constant { kLrDecay, kEps, kMaximize };

  struct Scalars {
    double lr, weight_decay, eps;
    bool maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    return {hypers[kLr] / (1.0 + stats.steps * constants[kLrDecay]), hypers[kWeightDecay],
            constants[kEps], constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T lr, weight_decay, eps;
    bool maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : lr(static_cast<T>(s.lr)),
          weight_decay(static_cast<T>(s.weight_decay)),
          eps(static_cast<T>(s.eps)),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& sum = states[0];
      g = descent(g, p, weight_decay, maximize);
      sum = sum + g * g;
      p = p - lr * (g / (sqrt_of(sum) + eps));
    }
  };
};

// Tieleman & Hinton (2012), centered after Graves (2013), as torch.optim.RMSprop computes it.
// States: square_avg; grad_avg, if centered; momentum_buffer, where momentum is in use.
struct RMSprop : Defaults {
  static constexpr const char* kName = "rmsprop";
  static constexpr int kMinStates = 1, kMaxStates = 3;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  enum Constant { kAlpha, kEps, kCentered, kMaximize };

  struct Scalars {
    double lr, momentum, weight_decay, alpha, weight, eps;
    bool centered, maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats&) {
    return {hypers[kLr],
            hypers[kMomentum],
            hypers[kWeightDecay],
            constants[kAlpha],
            1.0 - constants[kAlpha],
            constants[kEps],
            constants[kCentered] != 0.0,
            constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T lr, momentum, weight_decay, alpha, weight, eps;
    bool centered, maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : lr(static_cast<T>(s.lr)),
          momentum(static_cast<T>(s.momentum)),
          weight_decay(static_cast<T>(s.weight_decay)),
          alpha(static_cast<T>(s.alpha)),
          weight(static_cast<T>(s.weight)),
          eps(static_cast<T>(s.eps)),
          centered(s.centered),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& square_avg = states[0];
      g = descent(g, p, weight_decay, maximize);
      square_avg = average_square(square_avg, g, alpha, weight);
      T second_moment = square_avg;
      if constexpr (kStates >= 2) {
        T& grad_avg =
            states[1];  // the momentum buffer, if there are two states and it is not centered
        const T mean = interpolate(grad_avg, g, weight, alpha);
        second_moment = centered ? square_avg - mean * mean : square_avg;
        grad_avg = centered ? mean : grad_avg;
      }
      g = g / (sqrt_of(second_moment) + eps);
      if constexpr (kStates >= 2) {
        T& momentum_buffer = states[kStates - 1];
        const T buffer = momentum * momentum_buffer + g;
        // Where a tensor or a schedule gives 0, as where the number is 0: the buffer waits.
        momentum_buffer = momentum != 0 ? buffer : momentum_buffer;
        g = momentum != 0 ? buffer : g;
      }
      p = p - lr * g;
    }
  };
};

// Zeiler (2012), as torch.optim.Adadelta computes it. States: square_avg, acc_delta.
struct Adadelta : Defaults {
  static constexpr const char* kName = "adadelta";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kWeightDecay };
  enum Constant { kRho, kEps, kMaximize };

  struct Scalars {
    double lr, weight_decay, rho, weight, eps;
    bool maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats&) {
    return {hypers[kLr],           hypers[kWeightDecay], constants[kRho],
            1.0 - constants[kRho], constants[kEps],      constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T lr, weight_decay, rho, weight, eps;
    bool maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : lr(static_cast<T>(s.lr)),
          weight_decay(static_cast<T>(s.weight_decay)),
          rho(static_cast<T>(s.rho)),
          weight(static_cast<T>(s.weight)),
          eps(static_cast<T>(s.eps)),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& square_avg = states[0];
      T& acc_delta = states[1];
      g = descent(g, p, weight_decay, maximize);
      square_avg = average_square(square_avg, g, rho, weight);
      const T delta = sqrt_of(acc_delta + eps) / sqrt_of(square_avg + eps) * g;
      acc_delta = average_square(acc_delta, delta, rho, weight);
      p = p - lr * delta;
    }
  };
};

}  // namespace sgdr_fused
