// A step on the CPU: the one loop over ranges of elements, compiled per instruction set. No torch.
#include "../fused_step.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <type_traits>

namespace sgdr_fused::cpu {
namespace {

// Ranges of different threads meet at multiples of this many elements, so that no two threads
// write to one cache line of the same tensor.
constexpr int64_t kUnit = 64;

// Fewer elements than this per thread take a few microseconds, as starting a team of threads does.
constexpr int64_t kGrain = 32768;

// Elements of a strided tensor that are counted from one start; update_strided counts in 32 bits.
constexpr int64_t kRun = 16384;

// Elements [begin, end) of one tensor; `scalars` is its algorithm's.
template <class Scalars>
struct Piece {
  const Tensor* tensor;
  const Layout* layout;  // null: dense
  const Scalars* scalars;
  void* grad;
  float grad_scale;
  int64_t begin, end;
};

template <class Algorithm, int kStates, bool kUnscale, class param_t, class state_t>
SGDR_HOST_DEVICE void update_piece(const Piece<typename Algorithm::Scalars>& piece) {
  const typename Algorithm::template Rule<opmath_t<param_t>, kStates> rule(*piece.scalars);
  const opmath_t<param_t> grad_scale = piece.grad_scale;
  const Tensor& tensor = *piece.tensor;
  if (piece.layout != nullptr) {
    for (int64_t begin = piece.begin; begin < piece.end; begin += kRun) {
      int64_t start[kMaxDims];
      coordinates_of(*piece.layout, begin, start);
      const auto count = static_cast<uint32_t>(std::min(kRun, piece.end - begin));
      update_strided<kStates, decltype(rule), param_t, state_t>(
          rule, kUnscale, grad_scale, tensor, *piece.layout, piece.grad, start, 0, count, 1);
    }
    return;
  }
  param_t* params = static_cast<param_t*>(tensor.param);
  param_t* grads = static_cast<param_t*>(piece.grad);
  state_t* state0 = static_cast<state_t*>(tensor.states[0]);
  state_t* state1 = static_cast<state_t*>(tensor.states[1]);
  state_t* state2 = static_cast<state_t*>(tensor.states[2]);
  // The operands of a tensor never overlap: checked where the plan is made.
#pragma GCC ivdep
  for (int64_t i = piece.begin; i < piece.end; ++i) {
    state_t* const states[] = {state0 + i, state1 + i, state2 + i};
    update_element<kStates>(rule, kUnscale, grad_scale, params[i], grads[i], states);
  }
}

// The same text for each instruction set: everything below the attribute is always inlined, so no
// function of one set can be linked into another.
template <class Algorithm, int kStates, bool kUnscale, class param_t, class state_t>
void update_baseline(const Piece<typename Algorithm::Scalars>& piece) {
  update_piece<Algorithm, kStates, kUnscale, param_t, state_t>(piece);
}

#if defined(__x86_64__) && defined(__GNUC__)
#define SGDR_FUSED_X86 1
template <class Algorithm, int kStates, bool kUnscale, class param_t, class state_t>
__attribute__((target("avx2"))) void update_avx2(const Piece<typename Algorithm::Scalars>& piece) {
  update_piece<Algorithm, kStates, kUnscale, param_t, state_t>(piece);
}
template <class Algorithm, int kStates, bool kUnscale, class param_t, class state_t>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) void
update_avx512(const Piece<typename Algorithm::Scalars>& piece) {
  update_piece<Algorithm, kStates, kUnscale, param_t, state_t>(piece);
}
#endif

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

bool supported(InstructionSet set) {
  switch (set) {
#if defined(SGDR_FUSED_X86)
    case InstructionSet::kAvx2:
      return __builtin_cpu_supports("avx2");
    case InstructionSet::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
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

InstructionSet instruction_set = best_instruction_set();

template <class Algorithm>
using PieceFunction = void (*)(const Piece<typename Algorithm::Scalars>&);

template <class Algorithm, int kStates, bool kUnscale, class param_t, class state_t>
PieceFunction<Algorithm> choose_instruction_set() {
#if defined(SGDR_FUSED_X86)
  if (instruction_set == InstructionSet::kAvx512) {
    return update_avx512<Algorithm, kStates, kUnscale, param_t, state_t>;
  }
  if (instruction_set == InstructionSet::kAvx2) {
    return update_avx2<Algorithm, kStates, kUnscale, param_t, state_t>;
  }
#endif
  return update_baseline<Algorithm, kStates, kUnscale, param_t, state_t>;
}

// From the number of states and the gradient scale of a step to their compile-time values.
template <class Algorithm, class param_t, class state_t, int kStates = Algorithm::kMaxStates>
PieceFunction<Algorithm> choose_states(int num_states, bool unscale) {
  if constexpr (kStates > Algorithm::kMinStates) {
    if (num_states < kStates) {
      return choose_states<Algorithm, param_t, state_t, kStates - 1>(num_states, unscale);
    }
  }
  return unscale ? choose_instruction_set<Algorithm, kStates, true, param_t, state_t>()
                 : choose_instruction_set<Algorithm, kStates, false, param_t, state_t>();
}

template <class Algorithm>
PieceFunction<Algorithm> choose(DtypePair dtypes, int num_states, bool unscale) {
  return with_storage_types(dtypes, [&](auto param, auto state) {
    return choose_states<Algorithm, decltype(param), decltype(state)>(num_states, unscale);
  });
}

// What a step adds to an Item.
template <class Scalars>
struct Span {
  const Scalars* scalars;
  int64_t first_unit;  // where the tensor begins when all are laid end to end
};

// The function for the last tensor: the next one nearly always takes the same.
template <class Algorithm>
class Chooser {
 public:
  explicit Chooser(bool unscale) : unscale_(unscale) {}

  PieceFunction<Algorithm> operator()(DtypePair dtypes, int32_t num_states) {
    if (function_ == nullptr || dtypes.param != dtypes_.param || dtypes.state != dtypes_.state ||
        num_states != num_states_) {
      function_ = choose<Algorithm>(dtypes, num_states, unscale_);
      dtypes_ = dtypes;
      num_states_ = num_states;
    }
    return function_;
  }

 private:
  bool unscale_;
  PieceFunction<Algorithm> function_ = nullptr;
  DtypePair dtypes_ = {};
  int32_t num_states_ = 0;
};

template <class Algorithm>
void update_all(const Step& step, ParallelFor parallel_for) {
  using Scalars = typename Algorithm::Scalars;
  const Plan& plan = step.plan;
  const int64_t clock = *plan.clock;

  std::vector<std::array<double, kMaxHypers>> hypers(step.num_groups);
  for (int32_t group = 0; group < step.num_groups; ++group) {
    for (int k = 0; k < kMaxHypers; ++k) {
      hypers[group][k] = hyper_value(plan, plan.groups[group].hypers[k],
                                     step.numbers[group * kMaxHypers + k], clock);
    }
  }

  std::vector<Scalars> scalars;
  scalars.reserve(step.items.size());  // the pieces point into it
  std::vector<Span<Scalars>> spans;
  spans.reserve(step.items.size());
  int64_t units = 0;
  int32_t last_group = -1;
  double last_steps = -1.0;
  for (const Item& item : step.items) {
    const Tensor& tensor = plan.tensors[item.tensor];
    const double steps = tensor.steps == nullptr ? 0.0 : *tensor.steps;
    if (tensor.steps != nullptr && Algorithm::counts(hypers[tensor.group].data())) {
      *tensor.steps = steps + 1.0;
    }
    // Neighbours nearly always agree, and the powers in a bias correction cost more than a small
    // tensor's update.
    if (tensor.group != last_group || steps != last_steps) {
      scalars.push_back(Algorithm::scalars(hypers[tensor.group].data(),
                                           plan.groups[tensor.group].constants, steps));
      last_group = tensor.group;
      last_steps = steps;
    }
    spans.push_back({&scalars.back(), units});
    units += (tensor.numel + kUnit - 1) / kUnit;
  }

  const bool unscale = step.grad_scale != nullptr;
  parallel_for(units, kGrain / kUnit, [&](int64_t first, int64_t last) {
    Chooser<Algorithm> choose_function(unscale);
    const auto after = std::upper_bound(
        spans.begin(), spans.end(), first,
        [](int64_t unit, const Span<Scalars>& span) { return unit < span.first_unit; });
    for (size_t i = after - spans.begin() - 1; i < spans.size(); ++i) {
      const Span<Scalars>& span = spans[i];
      if (span.first_unit >= last) break;
      const Item& item = step.items[i];
      const Tensor& tensor = plan.tensors[item.tensor];
      const Layout* layout = tensor.layout < 0 ? nullptr : plan.layouts + tensor.layout;
      const int64_t begin = std::max<int64_t>(0, first - span.first_unit) * kUnit;
      const int64_t end = std::min(tensor.numel, (last - span.first_unit) * kUnit);
      if (begin >= end) continue;
      choose_function(item.dtypes,
                      tensor.num_states)({&tensor, layout, span.scalars, item.grad,
                                          unscale ? *step.grad_scale : 1.0f, begin, end});
    }
  });
}

template <class... Algorithms>
void dispatch(AlgorithmList<Algorithms...>, int algorithm, const Step& step,
              ParallelFor parallel_for) {
  int index = 0;
  ((index++ == algorithm ? update_all<Algorithms>(step, parallel_for) : void()), ...);
}

}  // namespace

void step(int algorithm, const Step& step, ParallelFor parallel_for) {
  dispatch(AllAlgorithms{}, algorithm, step, parallel_for);
  const int64_t clock = ++*step.plan.clock;
  for (int32_t i = 0; i < step.plan.num_displays; ++i) {
    show(step.plan, step.plan.displays[i], clock);
  }
}

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
