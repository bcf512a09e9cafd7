// See plan.h.
#include "plan.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#if defined(SGDR_FUSED_WITH_CUDA)
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

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
bool measures(AlgorithmList<Algorithms...>, int algorithm) {
  int index = 0;
  return ((index++ == algorithm && kMeasures<Algorithms>) || ...);
}

c10::SmallVector<int64_t, 4> strides_of(const at::Tensor& tensor) {
  return c10::SmallVector<int64_t, 4>(tensor.strides().begin(), tensor.strides().end());
}

// The address, without the checks that a plan has made: dense, no lazy or fake storage.
C10_ALWAYS_INLINE void* data_of(const at::TensorImpl* tensor) {
  const auto* storage = tensor->unsafe_storage().unsafeGetStorageImpl();
  return static_cast<char*>(const_cast<void*>(storage->data())) +
         tensor->storage_offset() * tensor->itemsize();
}

const float* data_of(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<float>() : nullptr;
}

}  // namespace

double CompiledSchedule::operator()(int64_t t) const {
  return schedule_value(segments_.data(), static_cast<int32_t>(segments_.size()),
                        {step_table_.data(), value_table_.data()}, t);
}

at::Tensor CompiledSchedule::values(int64_t n) const {
  at::Tensor values = at::empty({n}, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  for (int64_t t = 0; t < n; ++t) data[t] = (*this)(t);
  return values;
}

OptimizerPlan::OptimizerPlan(const std::string& algorithm, const std::string& backend,
                             at::Tensor clock, const std::vector<GroupSpec>& groups,
                             std::vector<TensorSpec> tensors, bool steps_are_state,
                             const AverageSpec& average, std::optional<uint64_t> rounding_seed,
                             ClippingSpec clipping)
    : algorithm_(index_of(AllAlgorithms{}, algorithm)),
      measures_(measures(AllAlgorithms{}, algorithm_)),
      on_gpu_(backend != "cpu"),
      clock_(std::move(clock)),
      clipping_(std::move(clipping)),
      steps_are_state_(steps_are_state) {
  AddedSchedules added;
  for (const GroupSpec& group : groups) add_group(group, added);
  // A launch takes tensors of one pair of dtypes that follow one another.
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    const auto key = [](const TensorSpec& spec) {
      const at::Tensor& state = spec.states.empty() ? spec.param : spec.states[0];
      return std::make_pair(spec.param.scalar_type(), state.scalar_type());
    };
    return key(a) < key(b);
  });
  for (TensorSpec& spec : tensors) add_tensor(std::move(spec));
  grads_.resize(tensors_.size());
  int64_t numel = 0;
  for (const Tensor& tensor : tensors_) numel += tensor.numel;
  large_ = !on_gpu_ && numel > kLarge;
  Average averages = {};
  if (average.count.defined()) {
    averages = {add_hyper(average.weight, added), average.weight.number, average.is_mean,
                average.count.mutable_data_ptr<int64_t>()};
    count_ = average.count;
  }
  if (on_gpu_ || measures_ || clipping_.norm.defined()) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      for (int64_t k = 0; k < num_chunks_of(i); ++k) {
        chunks_.push_back({static_cast<int32_t>(i), static_cast<int32_t>(k)});
      }
    }
  }
  Clipping clips = {};
  clips.is_on = std::isfinite(clipping_.max_value) || clipping_.max_norm >= 0.0;
  clips.max_value = clipping_.max_value;
  clips.max_norm = clipping_.max_norm;
  if (clipping_.norm.defined()) {
    chunk_norms_.resize(chunks_.size());
    clips.norm = clipping_.norm.mutable_data_ptr<double>();
    clips.nonfinite = &nonfinite_;
    clips.chunks = chunk_norms_.data();
    clips.num_chunks = static_cast<int64_t>(chunks_.size());
  }
  if (measures_) {
    chunk_squares_.resize(chunks_.size());
    tensor_squares_.resize(tensors_.size());
  }
  if (clipping_.skipped.defined()) clips.skipped = clipping_.skipped.mutable_data_ptr<int64_t>();
  plan_ = {tensors_.data(),
           groups_.data(),
           layouts_.data(),
           segments_.data(),
           {step_table_.data(), value_table_.data()},
           displays_.data(),
           static_cast<int32_t>(displays_.size()),
           averages,
           rounding_seed.has_value(),
           rounding_seed.value_or(0),
           clips,
           {chunk_squares_.data(), tensor_squares_.data(), nullptr},
           clock_.mutable_data_ptr<int64_t>(),
           nullptr};
  if (on_gpu_) copy_to_device();
}

// One copy of a schedule that serves many groups: its table may be long.
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
  const void* data = spec.tensor.const_data_ptr();
  hyper_tensors_.emplace_back(spec.tensor, data);
  const bool is_double = spec.tensor.scalar_type() == at::kDouble;
  return {is_double ? Source::kFloat64Tensor : Source::kFloat32Tensor, 0, 0, data};
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
                           static_cast<int32_t>(hyper.first_segment), hyper.num_segments});
      displays_seen_.push_back(display);
      display_versions_.push_back(display._version());
    }
  }
  groups_.push_back(group);
  for (int k = 0; k < kMaxHypers; ++k) {
    numbers_.push_back(k < static_cast<int>(spec.hypers.size()) ? spec.hypers[k].number : 0.0);
  }
}

void OptimizerPlan::add_tensor(TensorSpec spec) {
  Tensor tensor = {};
  tensor.param = data_of(spec.param.unsafeGetTensorImpl());
  tensor.numel = spec.param.numel();
  tensor.group = spec.group;
  tensor.index = spec.index;
  tensor.layout = -1;
  tensor.num_states = static_cast<int32_t>(spec.states.size());
  Watched watched = {};
  watched.param = spec.param.unsafeGetTensorImpl();
  watched.active = spec.active;
  Entry entry;
  const Dtype dtype = dtype_of(spec.param);
  entry.dtypes = {dtype, spec.states.empty() ? dtype : dtype_of(spec.states[0])};
  const at::Tensor& grad = spec.grad.defined() ? spec.grad : spec.param;
  watched.contiguous = spec.param.is_contiguous() && grad.is_contiguous();
  for (size_t k = 0; k < spec.states.size(); ++k) {
    watched.states[k] = spec.states[k].unsafeGetTensorImpl();
    watched.contiguous = watched.contiguous && spec.states[k].is_contiguous();
    tensor.states[k] = data_of(watched.states[k]);
    entry.state_strides[k] = strides_of(spec.states[k]);
  }
  if (spec.average.defined()) {
    watched.average = spec.average.unsafeGetTensorImpl();
    watched.contiguous = watched.contiguous && spec.average.is_contiguous();
    tensor.average = data_of(watched.average);
    entry.average_strides = strides_of(spec.average);
  }
  if (spec.remainder.defined()) {
    watched.remainder = spec.remainder.unsafeGetTensorImpl();
    watched.contiguous = watched.contiguous && spec.remainder.is_contiguous();
    tensor.remainder = static_cast<int16_t*>(data_of(watched.remainder));
    entry.remainder_strides = strides_of(spec.remainder);
  }
  if (spec.steps.defined()) {
    tensor.steps = spec.steps.mutable_data_ptr<double>();
    if (steps_are_state_) watched.steps = spec.steps.unsafeGetTensorImpl();
  }
  if (spec.product.defined()) {
    tensor.product = spec.product.mutable_data_ptr<double>();
    watched.product = spec.product.unsafeGetTensorImpl();
  }
  if (spec.active) tensor.layout = add_layout(spec);
  entry.param_strides = strides_of(spec.param);
  entry.grad_strides = strides_of(grad);
  spec.grad = at::Tensor();  // the gradient's lifetime is the user's
  entry.spec = std::move(spec);
  entries_.push_back(std::move(entry));
  watched_.push_back(watched);
  tensors_.push_back(tensor);
}

// None of what takes no part.
int64_t OptimizerPlan::num_chunks_of(size_t tensor) const {
  return entries_[tensor].spec.active ? num_chunks(tensors_[tensor]) : 0;
}

// Dimensions in the parameter's memory order, neighbours merged where every operand allows it.
// Returns -1 where one dimension of stride 1 is left: nothing to look up per element.
int32_t OptimizerPlan::add_layout(const TensorSpec& spec) {
  std::vector<at::Tensor> operands(kFirstState, spec.param);
  if (spec.average.defined()) operands[kAverage] = spec.average;
  if (spec.remainder.defined()) operands[kRemainder] = spec.remainder;
  if (spec.grad.defined()) operands[kGrad] = spec.grad;
  operands.insert(operands.end(), spec.states.begin(), spec.states.end());
  std::vector<int64_t> order;
  for (int64_t dim = 0; dim < spec.param.dim(); ++dim) {
    if (spec.param.size(dim) != 1) order.push_back(dim);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return spec.param.stride(a) > spec.param.stride(b);
  });

  std::vector<int64_t> sizes;
  std::vector<std::vector<int64_t>> strides;  // per dimension, per operand
  for (const int64_t dim : order) {
    std::vector<int64_t> dim_strides;
    for (const at::Tensor& operand : operands) dim_strides.push_back(operand.stride(dim));
    const int64_t size = spec.param.size(dim);
    bool merges = !sizes.empty();
    for (size_t k = 0; merges && k < operands.size(); ++k) {
      merges = strides.back()[k] == dim_strides[k] * size;
    }
    if (merges) {
      sizes.back() *= size;
      strides.back() = dim_strides;
    } else {
      sizes.push_back(size);
      strides.push_back(dim_strides);
    }
  }
  const auto all_ones = [](const std::vector<int64_t>& s) {
    return std::all_of(s.begin(), s.end(), [](int64_t stride) { return stride == 1; });
  };
  if (sizes.empty() || spec.param.numel() == 0 || (sizes.size() == 1 && all_ones(strides[0]))) {
    return -1;
  }
  TORCH_CHECK_VALUE(sizes.size() <= kMaxDims, "sgdr_fused: parameter of shape ", spec.param.sizes(),
                    " with strides ", spec.param.strides(),
                    " and its gradient or state have more than ", kMaxDims,
                    " dimensions in different orders; make them contiguous");
  Layout layout = {};
  layout.dims = static_cast<int32_t>(sizes.size());
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    layout.sizes[dim] = sizes[dim];
    for (size_t k = 0; k < operands.size(); ++k) layout.strides[k][dim] = strides[dim][k];
  }
  layouts_.push_back(layout);
  return static_cast<int32_t>(layouts_.size()) - 1;
}

bool OptimizerPlan::same(size_t i, const at::Tensor& grad) const {
  const Watched& watched = watched_[i];
  const Tensor& tensor = tensors_[i];
  const Entry& entry = entries_[i];
  const auto same_strides = [&](const at::TensorImpl* impl, const auto& strides) {
    return watched.contiguous ? impl->is_contiguous()
                              : impl->strides() == c10::IntArrayRef(strides);
  };
  if (data_of(watched.param) != tensor.param || !same_strides(watched.param, entry.param_strides)) {
    return false;
  }
  if (grad.defined()) {
    const at::TensorImpl* impl = grad.unsafeGetTensorImpl();
    if (!watched.active || impl->layout() != at::kStrided ||
        impl->dtype() != watched.param->dtype() || impl->device() != watched.param->device() ||
        impl->sizes() != watched.param->sizes() || !same_strides(impl, entry.grad_strides)) {
      return false;
    }
  }
  for (int32_t k = 0; k < tensor.num_states; ++k) {
    if (data_of(watched.states[k]) != tensor.states[k] ||
        !same_strides(watched.states[k], entry.state_strides[k])) {
      return false;
    }
  }
  const auto kept = [&](const at::TensorImpl* impl, const void* data, const auto& strides) {
    return impl == nullptr || (data_of(impl) == data && same_strides(impl, strides));
  };
  if (!kept(watched.average, tensor.average, entry.average_strides) ||
      !kept(watched.remainder, tensor.remainder, entry.remainder_strides)) {
    return false;
  }
  return (watched.steps == nullptr || data_of(watched.steps) == tensor.steps) &&
         (watched.product == nullptr || data_of(watched.product) == tensor.product);
}

bool OptimizerPlan::valid() {
  held_.clear();
  for (size_t i = 0; i < displays_seen_.size(); ++i) {
    if (displays_seen_[i]._version() != display_versions_[i]) return false;
  }
  for (const auto& [tensor, data] : hyper_tensors_) {
    if (tensor.const_data_ptr() != data) return false;
  }
  for (size_t i = 0; i < watched_.size(); ++i) {
    const at::Tensor& grad = watched_[i].param->grad();
    if (!same(i, grad)) return false;
    // A tensor without elements has no address, but its step counts.
    static char empty;
    grads_[i] = !grad.defined()          ? nullptr
                : tensors_[i].numel == 0 ? &empty
                                         : data_of(grad.unsafeGetTensorImpl());
    if (large_ && grad.defined()) held_.push_back(grad);
  }
  return true;
}

void OptimizerPlan::bump_versions(bool unscaled) {
  const auto bump = [](at::TensorImpl* tensor) {
    if (!tensor->is_inference()) tensor->bump_version();
  };
  for (size_t i = 0; i < watched_.size(); ++i) {
    const Watched& watched = watched_[i];
    if (watched.average != nullptr)
      bump(watched.average);  // only the device knows if it was written
    if (grads_[i] == nullptr) continue;
    bump(watched.param);
    if (unscaled) bump(watched.param->grad().unsafeGetTensorImpl());
    for (int32_t k = 0; k < tensors_[i].num_states; ++k) bump(watched.states[k]);
    if (watched.remainder != nullptr) bump(watched.remainder);
    if (watched.steps != nullptr) bump(watched.steps);
    if (watched.product != nullptr) bump(watched.product);
  }
}

void OptimizerPlan::set_number(int64_t group, int64_t hyper, double value) {
  numbers_.at(group * kMaxHypers + hyper) = value;
}

void OptimizerPlan::run(const std::optional<at::Tensor>& grad_scale,
                        const std::optional<at::Tensor>& found_inf) {
  const bool taken = on_gpu_ ? run_cuda(grad_scale, found_inf) : run_cpu(grad_scale, found_inf);
  if (taken) bump_versions(grad_scale.has_value());
  held_.clear();
}

bool OptimizerPlan::run_cpu(const std::optional<at::Tensor>& grad_scale,
                            const std::optional<at::Tensor>& found_inf) {
  cpu::Step step = {plan_,
                    numbers_.data(),
                    static_cast<int32_t>(groups_.size()),
                    {},
                    data_of(grad_scale),
                    data_of(found_inf),
                    cpu::average_weight(plan_),
                    chunks_.data(),
                    static_cast<int64_t>(chunks_.size())};
  step.items.reserve(entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    const bool averages = step.average_weight != 0.0 && tensors_[i].average != nullptr;
    if (grads_[i] != nullptr || averages) {
      step.items.push_back({static_cast<int32_t>(i), entries_[i].dtypes, grads_[i]});
    }
  }
  const cpu::ParallelFor parallel_for = [](int64_t total, int64_t grain,
                                           const std::function<void(int64_t, int64_t)>& body) {
    at::parallel_for(0, total, grain, body);
  };
  if (plan_.clipping.norm != nullptr) {
    cpu::measure(step, parallel_for);
    check_norm(found_inf);
  }
  if (measures_) cpu::measure_tensors(algorithm_, step, parallel_for);
  return cpu::step(algorithm_, step, parallel_for);
}

// A step that a GradScaler skips is none to raise for.
void OptimizerPlan::check_norm(const std::optional<at::Tensor>& found_inf) const {
  if (!clipping_.raises) return;
  const double norm = clipping_.norm.item<double>();
  const bool skipped = found_inf.has_value() && found_inf->item<float>() != 0.0f;
  TORCH_CHECK(std::isfinite(norm) || skipped, "error_if_nonfinite: the norm of the gradients is ",
              norm, "; the step was not taken");
}

void OptimizerPlan::show() {
  if (!on_gpu_) {
    for (const Display& display : displays_) sgdr_fused::show(plan_, display, *plan_.clock);
    return;
  }
#if defined(SGDR_FUSED_WITH_CUDA)
  const c10::cuda::CUDAGuard guard(clock_.device());
  const int error = cuda::show(plan_, c10::cuda::getCurrentCUDAStream().stream());
  TORCH_CHECK(error == 0, "sgdr_fused: ", cuda::error_string(error));
#endif
}

#if defined(SGDR_FUSED_WITH_CUDA)

namespace {

// Arrays of plain data, laid end to end for one copy to the device.
class Packed {
 public:
  template <class T>
  size_t add(const std::vector<T>& items) {
    const size_t offset = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(offset + std::max<size_t>(1, items.size()) * sizeof(T));
    if (!items.empty()) std::memcpy(bytes_.data() + offset, items.data(), items.size() * sizeof(T));
    return offset;
  }
  at::Tensor to(const at::Device& device) const {
    const at::Tensor host = at::empty({static_cast<int64_t>(bytes_.size())}, at::kByte);
    std::memcpy(host.mutable_data_ptr(), bytes_.data(), bytes_.size());
    return host.to(device);
  }

 private:
  std::vector<unsigned char> bytes_;
};

}  // namespace

void OptimizerPlan::copy_to_device() {
  int64_t num_chunks = 0;
  for (size_t i = 0; i < tensors_.size();) {
    cuda::Launch launch = {
        entries_[i].dtypes, static_cast<int32_t>(i), 0, tensors_[i].group, 0, num_chunks, 0};
    for (; i < tensors_.size(); ++i) {
      const DtypePair dtypes = entries_[i].dtypes;
      const int32_t groups = tensors_[i].group - launch.first_group + 1;
      if (dtypes.param != launch.dtypes.param || dtypes.state != launch.dtypes.state ||
          cuda::payload_words(groups, launch.num_tensors + 1) > cuda::max_payload_words()) {
        break;
      }
      launch.num_groups = groups;
      ++launch.num_tensors;
      launch.num_chunks += num_chunks_of(i);
    }
    num_chunks += launch.num_chunks;
    launches_.push_back(launch);
  }

  Packed packed;
  const size_t tensors = packed.add(tensors_), groups = packed.add(groups_);
  const size_t layouts = packed.add(layouts_), segments = packed.add(segments_);
  const size_t step_table = packed.add(step_table_), value_table = packed.add(value_table_);
  const size_t displays = packed.add(displays_);
  const size_t chunk_table = packed.add(chunks_);
  const size_t ticket = packed.add(std::vector<uint32_t>{0});
  const size_t advances = packed.add(std::vector<Advance>(tensors_.size()));
  const size_t chunk_norms = packed.add(chunk_norms_);
  const size_t chunk_squares = packed.add(chunk_squares_);
  const size_t tensor_squares = packed.add(tensor_squares_);
  const size_t tickets = packed.add(std::vector<uint32_t>(tensor_squares_.size()));
  const size_t nonfinite = packed.add(std::vector<unsigned char>{0});
  const c10::cuda::CUDAGuard guard(clock_.device());
  device_memory_ = packed.to(clock_.device());
  unsigned char* base = device_memory_.mutable_data_ptr<unsigned char>();
  plan_.tensors = reinterpret_cast<const Tensor*>(base + tensors);
  plan_.groups = reinterpret_cast<const Group*>(base + groups);
  plan_.layouts = reinterpret_cast<const Layout*>(base + layouts);
  plan_.segments = reinterpret_cast<const Segment*>(base + segments);
  plan_.tables = {reinterpret_cast<const int64_t*>(base + step_table),
                  reinterpret_cast<const double*>(base + value_table)};
  plan_.displays = reinterpret_cast<const Display*>(base + displays);
  device_chunks_ = reinterpret_cast<const Chunk*>(base + chunk_table);
  plan_.clipping.chunks = reinterpret_cast<ChunkNorm*>(base + chunk_norms);
  plan_.clipping.nonfinite = reinterpret_cast<bool*>(base + nonfinite);
  plan_.measures = {reinterpret_cast<Squares*>(base + chunk_squares),
                    reinterpret_cast<Squares*>(base + tensor_squares),
                    reinterpret_cast<uint32_t*>(base + tickets)};
  plan_.advances = reinterpret_cast<Advance*>(base + advances);
  ticket_ = reinterpret_cast<uint32_t*>(base + ticket);
}

bool OptimizerPlan::run_cuda(const std::optional<at::Tensor>& grad_scale,
                             const std::optional<at::Tensor>& found_inf) {
  const c10::cuda::CUDAGuard guard(clock_.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const bool capturing =
      c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  TORCH_CHECK(!capturing || !clipping_.raises,
              "error_if_nonfinite: the host has to read the norm, which it cannot during a CUDA "
              "graph capture; skip_nonfinite needs no host");
  captured_ = captured_ || capturing;
  const auto check = [](int error) {
    TORCH_CHECK(error == 0, "sgdr_fused: ", cuda::error_string(error));
  };
  const cuda::Step step = {plan_,         device_chunks_,      ticket_,           numbers_.data(),
                           grads_.data(), data_of(grad_scale), data_of(found_inf)};
  if (plan_.clipping.norm != nullptr) {
    check(cuda::measure(step, launches_, stream.stream()));
    check_norm(found_inf);
  }
  if (measures_) check(cuda::measure_tensors(algorithm_, step, launches_, stream.stream()));
  check(cuda::step(algorithm_, step, launches_, stream.stream()));
  return true;  // or so it seems: only the device knows
}

#else

void OptimizerPlan::copy_to_device() {
  TORCH_CHECK(false, "sgdr_fused: the extension was built without CUDA");
}
bool OptimizerPlan::run_cuda(const std::optional<at::Tensor>&, const std::optional<at::Tensor>&) {
  return false;  // not reached
}

#endif

}  // namespace sgdr_fused
