// The entry points of a step, on the CPU and on a GPU: what is measured, and the update.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rules/all.h"
#include "step/args.h"

namespace sgdr_fused {

// How a parameter is stored, and each of its states. Of states that it does not have, the entry
// repeats the first one's, or else the parameter's.
struct StorageTypes {
  Dtype param;
  Dtype states[kMaxStates];

  bool all_like_param() const {
    return states[0] == param && states[1] == param && states[2] == param;
  }
  bool operator==(const StorageTypes& other) const {
    return param == other.param && states[0] == other.states[0] && states[1] == other.states[1] &&
           states[2] == other.states[2];
  }
};
static_assert(kMaxStates == 3);

// Calls f with a value of the parameter's storage type, and one of the states', which is the same
// for all of them on a GPU. Every supported pair is here and nowhere else.
template <class F>
auto with_storage_types(const StorageTypes& types, F&& f) {
  const bool float_state = types.states[0] == Dtype::kFloat32;
  switch (types.param) {
    case Dtype::kFloat64:
      return f(double{}, double{});
    case Dtype::kBFloat16:
      return float_state ? f(BFloat16{}, float{}) : f(BFloat16{}, BFloat16{});
    case Dtype::kFloat16:
      return float_state ? f(Half{}, float{}) : f(Half{}, Half{});
    default:
      return float_state ? f(float{}, float{}) : f(float{}, BFloat16{});
  }
}

// Elements that are measured together, and the most that a block on a GPU updates.
constexpr int kChunk = 16384;

// A part of a tensor that is measured together, or that a block works on. A table has chunks of one
// size.
struct Chunk {
  int32_t tensor;  // index into PlanView::tensors
  int32_t index;   // its elements are [index * size, (index + 1) * size)
};

// There is at least one chunk, since a tensor without elements counts its steps too.
SGDR_HOST_DEVICE int64_t num_chunks(const Tensor& tensor, int size = kChunk) {
  return tensor.numel <= size ? 1 : (tensor.numel + size - 1) / size;
}
SGDR_HOST_DEVICE int64_t first_element(const Chunk& chunk, int size = kChunk) {
  return static_cast<int64_t>(chunk.index) * size;
}
SGDR_HOST_DEVICE int num_elements(const Chunk& chunk, const Tensor& tensor, int size = kChunk) {
  const int64_t rest = tensor.numel - first_element(chunk, size);
  return static_cast<int>(rest < size ? rest : size);
}

// The size of the chunks that a GPU updates. Long ones cost less per element, but a GPU works on
// some 500 at a time, and is idle in part when the last of them end: so there are to be twice as
// many, or more. The shortest has a vector for each thread. docs/gpu.md has the measurements.
constexpr int kShortestUpdate = 1024;
constexpr int64_t kManyUpdates = 1024;

inline int update_size(int64_t elements) {
  int size = kChunk;
  while (size > kShortestUpdate && elements < size * kManyUpdates) size /= 2;
  return size;
}

// The tensor is number `index` of the plan's, and its squares, if there are any, were measured.
template <class Algorithm>
SGDR_HOST_DEVICE ParamStats param_stats_of(const PlanView& plan, const Tensor& tensor,
                                           int32_t index) {
  return {tensor.steps == nullptr ? 0.0 : *tensor.steps,
          tensor.product == nullptr ? 1.0 : *tensor.product,
          kMeasures<Algorithm> ? plan.param_norms.tensors[index] : Squares{}};
}

template <class Algorithm>
SGDR_HOST_DEVICE StepCountUpdate step_count_update(const Tensor& tensor, const double* hypers,
                                                   const double* constants) {
  const bool counts = tensor.steps != nullptr && Algorithm::counts(hypers);
  return {counts, counts ? Algorithm::factor(hypers, constants, *tensor.steps + 1.0) : 1.0};
}
SGDR_HOST_DEVICE void apply(const StepCountUpdate& update, const Tensor& tensor) {
  if (!update.counts) return;
  *tensor.steps += 1.0;
  if (tensor.product != nullptr) *tensor.product *= update.factor;
}

namespace cpu {

// A tensor that takes part in a step.
struct Item {
  int32_t tensor;  // index into PlanView::tensors
  StorageTypes types;
  void* grad;  // null: only its average, if it has one, takes part
};

struct Step {
  PlanView plan;
  const double* numbers;  // kMaxHypers per group
  int32_t num_groups;
  std::vector<Item> items;  // in the order of the plan's tensors
  const float* grad_scale;  // null: gradients are as they should be
  const float* found_inf;   // null, or any number but 0: the step is skipped
  double average_weight;    // average_weight() of the plan
  const Chunk* chunks;      // in the order of the tensors; none where nothing is measured
  int64_t num_chunks;
};

// The process's threads. `run` calls body(0), ..., body(calls - 1), side by side.
struct Threads {
  int64_t (*count)();
  void (*run)(int64_t calls, const std::function<void(int64_t)>& body);
};

// How far this step moves the averages; 0: they stay as they are.
double average_weight(const PlanView& plan);

// Measures the gradients: Clipping::sums.
void measure_grads(const Step& step, const Threads& threads);

// Measures the parameters and their directions, where the step is taken: PlanView::param_norms. It
// reads Clipping::sums.
void measure_params(int algorithm, const Step& step, const Threads& threads);

// The update of a step, from what was measured: the elements, averages, each tensor's count of
// updates, the clock, the displays. False: the step was skipped, and nothing was touched but
// Clipping::norm and skipped.
bool step(int algorithm, const Step& step, const Threads& threads);

// Instruction sets that this machine can run, best last; the one in use is the best, unless chosen.
std::vector<std::string> instruction_sets();
void use_instruction_set(const std::string& name);  // throws std::invalid_argument

}  // namespace cpu

namespace cuda {

// Chunks in the order of the tensors, and consecutive ones of them.
struct Table {
  const Chunk* chunks;
  int size;  // of each, in elements
};
struct Range {
  int64_t first, count;
};

// Tensors that are stored alike, consecutive in the plan and no more than a launch's arguments
// hold.
struct Launch {
  StorageTypes types;
  int32_t first_tensor, num_tensors;
  int32_t first_group, num_groups;
  Range measured_chunks, updated_chunks;  // of Step's tables
};

struct Step {
  PlanView plan;          // device pointers, as in the tables
  Table measured_chunks;  // what a block measures
  Table updated_chunks;   // what a block updates
  uint32_t* ticket;
  const double* numbers;    // host; kMaxHypers per group
  void* const* grads;       // host; one per tensor, null: none
  const float* grad_scale;  // device, or null
  const float* found_inf;   // device, or null
};

// How many words of arguments a launch over that many groups and tensors takes, and may take.
int64_t payload_words(int64_t groups, int64_t tensors);
int64_t max_payload_words();

// Measures the gradients: Clipping::sums. Returns a cudaError_t.
int measure_grads(const Step& step, const std::vector<Launch>& launches, void* stream);

// Measures the parameters and their directions: PlanView::param_norms. It reads Clipping::sums.
// Returns a cudaError_t.
int measure_params(int algorithm, const Step& step, const std::vector<Launch>& launches,
                   void* stream);

// The update of a step, from what was measured: the launches in order, of which the last advances
// the clock. Returns a cudaError_t.
int step(int algorithm, const Step& step, const std::vector<Launch>& launches, void* stream);

// The tickets of a plan: of its blocks, and one each of so many tensors (ParamNorms::tickets).
struct Tickets {
  uint32_t* blocks;
  int32_t num_tensors;
};

// Writes the norm anew, of sums that something has changed since they were measured.
int report_norm(const PlanView& plan, void* stream);

// Recomputes the displays from the clock as it is. It also sets back the tickets: a step that was
// disturbed, by another at the same time or by a found_inf that was written meanwhile, may have
// left them above 0, and then no block of a later step would be the last.
int show(const PlanView& plan, const Tickets& tickets, void* stream);

const char* error_string(int error);

}  // namespace cuda

}  // namespace sgdr_fused
