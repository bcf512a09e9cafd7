// The operands of a chunk, as the loops over its elements use them.
#pragma once

#include "math/rounding.h"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {

// Where each operand of a chunk begins, and what its elements have in common. It is in shared
// memory and read through volatile references: where it is used, so that it takes no registers in
// between.
struct ChunkOperands {
  void* param;
  void* grad;
  void* states[kMaxStates];
  void* average;       // null: there is none, or it stays as it is
  int16_t* remainder;  // null: none
  double average_weight;
  RoundingKey key;
  Dtype grad_dtype;
  bool rounds_randomly;
  bool aligned;  // all of the above, to 128 bits
};

// `operand`: 0 is the parameter, 1 the first state. `randomly` is chunk.rounds_randomly, read once
// for many elements.
template <class T, class scalar_t>
SGDR_HOST_DEVICE void store_rounded(scalar_t& to, T x, const volatile ChunkOperands&, bool, int,
                                    int) {
  store(to, x);
}
SGDR_HOST_DEVICE void store_rounded(BFloat16& to, float x, const volatile ChunkOperands& chunk,
                                    bool randomly, int operand, int element) {
  if (randomly) {
    store_randomly(to, x, rounding_bits(chunk.key.words[operand], element));
  } else {
    store(to, x);
  }
}

}  // namespace sgdr_fused::cuda
