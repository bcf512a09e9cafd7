// Loops that are compiled for several instruction sets, of which the machine's best is used.
#pragma once

#include "math/compilers.h"

namespace sgdr_fused::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The instruction set in use: the best that this machine has, unless use_instruction_set() chose
// another.
extern InstructionSet instruction_set;

// These compile the same source for each instruction set. Loop::run and all that it calls is always
// inlined, so that no function of one set can be linked into another.
template <class Loop, class... Arguments>
void run_baseline(Arguments... arguments) {
  Loop::run(arguments...);
}
#if defined(SGDR_FUSED_X86)
template <class Loop, class... Arguments>
SGDR_AVX2 void run_avx2(Arguments... arguments) {
  Loop::run(arguments...);
}
template <class Loop, class... Arguments>
SGDR_AVX512 void run_avx512(Arguments... arguments) {
  Loop::run(arguments...);
}
#endif

// Loop::run(arguments...) by the instruction set in use.
template <class Loop, class... Arguments>
void run(Arguments... arguments) {
#if defined(SGDR_FUSED_X86)
  if (instruction_set == InstructionSet::kAvx512) return run_avx512<Loop>(arguments...);
  if (instruction_set == InstructionSet::kAvx2) return run_avx2<Loop>(arguments...);
#endif
  run_baseline<Loop>(arguments...);
}

}  // namespace sgdr_fused::cpu
