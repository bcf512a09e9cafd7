// Builds a plan; see plan.h.
#include "plan/plan.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

namespace sgdr_fused {
namespace {

// Elements from which a step on the CPU takes long enough, about 100 microseconds, for other Python
// threads to be let in.
constexpr int64_t kLarge = 1 << 18;

Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Dtype::kFloat32;
    case at::kDouble:
      return Dtype::kFloat64;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    case at::kHalf:
      return Dtype::kFloat16;
    default:
      TORCH_CHECK_TYPE(false, "sgdr_fused: no kernel for dtype ", tensor.scalar_type());
  }
}

template <class... Algorithms>
int index_of(AlgorithmList<Algorithms...>, const std::string& name) {
  int index = 0, found = -1;
  ((name == Algorithms::kName ? void(found = index) : void(), ++index), ...);
  TORCH_CHECK_VALUE(found >= 0, "sgdr_fused: unknown algorithm '", name, "'");
  return found;
}

template <class... Algorithms>
bool measures_params(AlgorithmList<Algorithms...>, int algorithm) {
  int index = 0;
  return ((index++ == algorithm && kMeasures<Algorithms>) || ...);
}

}  // namespace

OptimizerPlan::OptimizerPlan(const std::string& algorithm, const std::string& backend,
                             at::Tensor clock, const std::vector<GroupSpec>& groups,
                             std::vector<ParamSpec> params, bool steps_are_state,
                             const std::optional<AverageSpec>& average,
                             std::optional<uint64_t> rounding_seed, ClippingSpec clipping)
    : algorithm_(index_of(AllAlgorithms{}, algorithm)),
      measures_params_(measures_params(AllAlgorithms{}, algorithm_)),
      on_gpu_(backend != "cpu"),
      clock_(std::move(clock)),
      clipping_(std::move(clipping)) {
  guards_.add(clock_);
  AddedSchedules added;
  for (const GroupSpec& group : groups) add_group(group, added);
  // A launch takes tensors of one pair of dtypes that follow one another.
  std::stable_sort(params.begin(), params.end(), [](const ParamSpec& a, const ParamSpec& b) {
    const auto key = [](const ParamSpec& spec) {
      const at::Tensor& state = spec.states.empty() ? spec.memory : spec.states[0];
      return std::make_pair(spec.memory.scalar_type(), state.scalar_type());
    };
    return key(a) < key(b);
  });
  for (const ParamSpec& spec : params) {
    guards_.add(spec, steps_are_state);
    add_tensor(spec);
  }
  int64_t numel = 0;
  for (const Tensor& tensor : tensors_) numel += tensor.numel;
  large_ = !on_gpu_ && numel > kLarge;
  Average averages = {};
  if (average.has_value()) {
    averages = {add_hyper(average->weight, added), average->weight.number, average->is_mean,
                average->count.mutable_data_ptr<int64_t>()};
    guards_.add(average->count);
  }
  if (measures_params_ || clipping_.norm.defined()) chunks_ = chunks_in(kChunk);
  Clipping clips = {};
  clips.is_on = std::isfinite(clipping_.max_value) || clipping_.max_norm >= 0.0;
  clips.max_value = clipping_.max_value;
  clips.max_norm = clipping_.max_norm;
  if (clipping_.norm.defined()) {
    chunk_grad_sums_.resize(chunks_.size());
    clips.norm = clipping_.norm.mutable_data_ptr<double>();
    guards_.add(clipping_.norm);
    clips.chunks = chunk_grad_sums_.data();
    clips.num_sums = clipping_.num_sums;
    clips.num_chunks = static_cast<int64_t>(chunks_.size());
  }
  if (measures_params_) {
    chunk_squares_.resize(chunks_.size());
  }
  if (clipping_.skipped.defined()) {
    clips.skipped = clipping_.skipped.mutable_data_ptr<int64_t>();
    guards_.add(clipping_.skipped);
  }
  plan_ = {tensors_.data(),
           groups_.data(),
           layouts_.data(),
           segments_.data(),
           {step_table_.data(), value_table_.data()},
           displays_.data(),
           static_cast<int32_t>(displays_.size()),
           static_cast<int32_t>(groups_.size()),
           averages,
           rounding_seed.has_value(),
           rounding_seed.value_or(0),
           clips,
           {chunk_squares_.data(), nullptr, nullptr},
           clock_.mutable_data_ptr<int64_t>(),
           nullptr,
           {}};
  const c10::InferenceMode off(false);  // its tensors could not be written outside of it
  on_gpu_ ? copy_to_device() : make_sums();
}

void OptimizerPlan::make_sums() {
  if (clipping_.norm.defined()) {
    grad_sums_ = at::zeros({clipping_.num_sums, 2}, at::kDouble);
    plan_.clipping.sums = reinterpret_cast<GradSums*>(grad_sums_.mutable_data_ptr<double>());
  }
  if (measures_params_) {
    param_sums_ = at::zeros({static_cast<int64_t>(tensors_.size()), 2}, at::kDouble);
    plan_.param_norms.tensors = reinterpret_cast<Squares*>(param_sums_.mutable_data_ptr<double>());
  }
}

// A schedule that serves many groups is copied once, since its table may be long.
int64_t OptimizerPlan::add_schedule(const CompiledSchedule& schedule, AddedSchedules& added) {
  const auto [entry, is_new] = added.try_emplace(&schedule, static_cast<int64_t>(segments_.size()));
  if (is_new) {
    for (Segment segment : schedule.segments()) {
      segment.table += static_cast<int64_t>(
          segment.kind == ScheduleKind::kTable ? value_table_.size() : step_table_.size());
      segments_.push_back(segment);
    }
    step_table_.insert(step_table_.end(), schedule.step_table().begin(),
                       schedule.step_table().end());
    value_table_.insert(value_table_.end(), schedule.value_table().begin(),
                        schedule.value_table().end());
  }
  return entry->second;
}

Hyper OptimizerPlan::add_hyper(const HyperSpec& spec, AddedSchedules& added) {
  if (spec.schedule != nullptr) {
    return {Source::kSchedule, static_cast<int32_t>(spec.schedule->segments().size()),
            add_schedule(*spec.schedule, added), nullptr};
  }
  if (!spec.tensor.defined()) return {};
  guards_.add(spec.tensor);
  const bool is_double = spec.tensor.scalar_type() == at::kDouble;
  return {is_double ? Source::kFloat64Tensor : Source::kFloat32Tensor, 0, 0, data_of(spec.tensor)};
}

void OptimizerPlan::add_group(const GroupSpec& spec, AddedSchedules& added) {
  TORCH_CHECK(spec.hypers.size() <= kMaxHypers && spec.constants.size() <= kMaxConstants,
              "sgdr_fused: a group has at most ", kMaxHypers, " hyperparameters and ",
              kMaxConstants, " constants");
  Group group = {};
  std::copy(spec.constants.begin(), spec.constants.end(), group.constants);
  for (size_t k = 0; k < spec.hypers.size(); ++k) {
    const Hyper& hyper = group.hypers[k] = add_hyper(spec.hypers[k], added);
    const at::Tensor& display = spec.hypers[k].display;
    if (hyper.source == Source::kSchedule && display.defined()) {
      displays_.push_back({display.mutable_data_ptr<double>(),
                           static_cast<int32_t>(groups_.size() * kMaxHypers + k)});
      guards_.add_display(display);
    }
  }
  groups_.push_back(group);
  for (int k = 0; k < kMaxHypers; ++k) {
    numbers_.push_back(k < static_cast<int>(spec.hypers.size()) ? spec.hypers[k].number : 0.0);
  }
}

void OptimizerPlan::add_tensor(const ParamSpec& spec) {
  Tensor tensor = {};
  tensor.param = spec.active ? data_of(spec.memory) : nullptr;
  tensor.numel = spec.memory.numel();
  tensor.group = spec.group;
  tensor.index = spec.index;
  tensor.norm_sum = spec.norm_sum;
  tensor.layout = spec.active ? add_layout(spec) : -1;
  tensor.num_states = static_cast<int32_t>(spec.states.size());
  for (size_t k = 0; k < spec.states.size(); ++k) tensor.states[k] = data_of(spec.states[k]);
  for (size_t i = 0; i < kNumCarried; ++i) {
    if (spec.carried[i].defined()) kCarried[i].hand_over(spec.carried[i], tensor);
  }
  const Dtype dtype = dtype_of(spec.memory);
  tensor.grad_dtype = spec.grad.defined() ? dtype_of(spec.grad) : dtype;
  StorageTypes types = {dtype, {}};
  for (size_t k = 0; k < kMaxStates; ++k) {
    types.states[k] = spec.states.empty()      ? dtype
                      : k < spec.states.size() ? dtype_of(spec.states[k])
                                               : types.states[0];
  }
  types_.push_back(types);
  active_.push_back(spec.active);
  tensors_.push_back(tensor);
}

std::vector<int32_t> OptimizerPlan::order() const {
  std::vector<int32_t> order;
  for (const Tensor& tensor : tensors_) order.push_back(tensor.index);
  return order;
}

// A tensor that takes no part has none.
int64_t OptimizerPlan::num_chunks_of(size_t tensor, int size) const {
  return active_[tensor] ? num_chunks(tensors_[tensor], size) : 0;
}

std::vector<Chunk> OptimizerPlan::chunks_in(int size) const {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    for (int64_t k = 0; k < num_chunks_of(i, size); ++k) {
      chunks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(k)});
    }
  }
  return chunks;
}

}  // namespace sgdr_fused
