// See instruction_set.h.
#include "cpu/instruction_set.h"

#include <stdexcept>
#include <utility>

#include "step/fused_step.h"

namespace sgdr_fused::cpu {
namespace {

bool supported(InstructionSet set) {
  switch (set) {
#if defined(SGDR_FUSED_X86)
    case InstructionSet::kAvx2:
      return SGDR_HAS("avx2");
    case InstructionSet::kAvx512:
      return SGDR_HAS("avx512f") && SGDR_HAS("avx512bw") && SGDR_HAS("avx512dq") &&
             SGDR_HAS("avx512vl");
#endif
    case InstructionSet::kBaseline:
      return true;
    default:
      return false;
  }
}

constexpr std::pair<InstructionSet, const char*> kInstructionSets[] = {
    {InstructionSet::kBaseline, "baseline"},
    {InstructionSet::kAvx2, "avx2"},
    {InstructionSet::kAvx512, "avx512"},
};

InstructionSet best_instruction_set() {
  InstructionSet best = InstructionSet::kBaseline;
  for (const auto& [set, name] : kInstructionSets) {
    if (supported(set)) best = set;
  }
  return best;
}

}  // namespace

InstructionSet instruction_set = best_instruction_set();

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const auto& [set, name] : kInstructionSets) {
    if (supported(set)) names.emplace_back(name);
  }
  return names;
}

void use_instruction_set(const std::string& name) {
  for (const auto& [set, set_name] : kInstructionSets) {
    if (set_name == name && supported(set)) {
      instruction_set = set;
      return;
    }
  }
  throw std::invalid_argument("instruction set '" + name + "' is unknown or not supported here");
}

}  // namespace sgdr_fused::cpu
