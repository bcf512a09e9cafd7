// What a plan packs for a GPU, and the launches of its steps; see plan.h.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "plan/plan.h"
#if defined(SGDR_FUSED_WITH_CUDA)
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace sgdr_fused {

void OptimizerPlan::show() {
  if (!on_gpu_) {
    for (const Display& display : displays_) sgdr_fused::show(plan_, display, *plan_.clock);
    return;
  }
#if defined(SGDR_FUSED_WITH_CUDA)
  const c10::cuda::CUDAGuard guard(clock_.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  record_use(stream.stream());
  const auto tickets = static_cast<int32_t>(measures_params_ ? tensors_.size() : 0);
  const int error = cuda::show(plan_, {ticket_, tickets}, stream.stream());
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
  int64_t elements = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) elements += active_[i] ? tensors_[i].numel : 0;
  const int size = update_size(elements);
  const std::vector<Chunk> updates = chunks_in(size);
  int64_t num_sums = 0, num_updates = 0;
  for (size_t i = 0; i < tensors_.size();) {
    cuda::Launch launch = {types_[i],     static_cast<int32_t>(i), 0, tensors_[i].group, 0,
                           {num_sums, 0}, {num_updates, 0}};
    for (; i < tensors_.size(); ++i) {
      const int32_t groups = tensors_[i].group - launch.first_group + 1;
      if (!(types_[i] == launch.types) ||
          cuda::payload_words(groups, launch.num_tensors + 1) > cuda::max_payload_words()) {
        break;
      }
      launch.num_groups = groups;
      ++launch.num_tensors;
      launch.measured_chunks.count += num_chunks_of(i, kChunk);
      launch.updated_chunks.count += num_chunks_of(i, size);
    }
    num_sums += launch.measured_chunks.count;
    num_updates += launch.updated_chunks.count;
    launches_.push_back(launch);
  }

  Packed packed;
  const size_t tensors = packed.add(tensors_), groups = packed.add(groups_);
  const size_t layouts = packed.add(layouts_), segments = packed.add(segments_);
  const size_t step_table = packed.add(step_table_), value_table = packed.add(value_table_);
  const size_t displays = packed.add(displays_);
  const size_t sum_table = packed.add(chunks_), update_table = packed.add(updates);
  const size_t next_steps = packed.add(std::vector<int64_t>(2, kNoStep));
  const size_t next_values = packed.add(std::vector<double>(2 * num_hypers(plan_)));
  const size_t ticket = packed.add(std::vector<uint32_t>{0});
  const size_t count_updates = packed.add(std::vector<StepCountUpdate>(tensors_.size()));
  const size_t chunk_grad_sums = packed.add(chunk_grad_sums_);
  const size_t chunk_squares = packed.add(chunk_squares_);
  const size_t num_measured = measures_params_ ? tensors_.size() : 0;
  const size_t tickets = packed.add(std::vector<uint32_t>(num_measured));
  const size_t grad_sums = packed.add(std::vector<GradSums>(clipping_.num_sums));
  const size_t param_sums = packed.add(std::vector<Squares>(num_measured));
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
  measured_chunks_ = {reinterpret_cast<const Chunk*>(base + sum_table), kChunk};
  updated_chunks_ = {reinterpret_cast<const Chunk*>(base + update_table), size};
  plan_.next_values = {reinterpret_cast<int64_t*>(base + next_steps),
                       reinterpret_cast<double*>(base + next_values)};
  plan_.clipping.chunks = reinterpret_cast<ChunkGradSums*>(base + chunk_grad_sums);
  plan_.param_norms = {reinterpret_cast<Squares*>(base + chunk_squares),
                       reinterpret_cast<Squares*>(base + param_sums),
                       reinterpret_cast<uint32_t*>(base + tickets)};
  plan_.count_updates = reinterpret_cast<StepCountUpdate*>(base + count_updates);
  ticket_ = reinterpret_cast<uint32_t*>(base + ticket);
  const auto pairs_at = [this](size_t offset, size_t count) {
    const at::Tensor bytes = device_memory_.slice(0, static_cast<int64_t>(offset),
                                                  static_cast<int64_t>(offset + 16 * count));
    return bytes.view(at::kDouble).view({static_cast<int64_t>(count), 2});
  };
  if (clipping_.norm.defined()) {
    plan_.clipping.sums = reinterpret_cast<GradSums*>(base + grad_sums);
    grad_sums_ = pairs_at(grad_sums, clipping_.num_sums);
  }
  if (measures_params_) param_sums_ = pairs_at(param_sums, num_measured);
}

// The allocator is told of each stream that reads or writes what it gave out for another: else a
// plan that is made anew, or an optimizer that is gone, would leave memory to others that a kernel
// still uses. It knows the stream that it allocated for.
void OptimizerPlan::record_use(void* stream) {
  if (std::find(streams_.begin(), streams_.end(), stream) != streams_.end()) return;
  const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream();
  const auto record = [&current](const at::Tensor& tensor) {
    c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(), current);
  };
  record(device_memory_);
  for (const at::Tensor& tensor : guards_.kept()) record(tensor);
  streams_.push_back(stream);
}

bool OptimizerPlan::run_cuda(unsigned parts, const Scaling& scaling) {
  const c10::cuda::CUDAGuard guard(clock_.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const bool capturing =
      c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  TORCH_CHECK(!capturing || !clipping_.raises || (parts & kUpdate) == 0,
              "error_if_nonfinite: the host has to read the norm, which it cannot during a CUDA "
              "graph capture; skip_nonfinite needs no host");
  captured_ = captured_ || capturing;
  record_use(stream.stream());
  const auto check = [](int error) {
    TORCH_CHECK(error == 0, "sgdr_fused: ", cuda::error_string(error));
  };
  const cuda::Step step = {plan_,
                           measured_chunks_,
                           updated_chunks_,
                           ticket_,
                           numbers_.data(),
                           guards_.grads().data(),
                           address_of(scaling.grad_scale),
                           address_of(scaling.found_inf)};
  if ((parts & kMeasureGrads) != 0 && grad_sums_.defined()) {
    check(cuda::measure_grads(step, launches_, stream.stream()));
  }
  if ((parts & kMeasureParams) != 0 && measures_params_) {
    check(cuda::measure_params(algorithm_, step, launches_, stream.stream()));
  }
  if ((parts & kUpdate) == 0) return false;
  // Something may have changed the sums since they were measured.
  if ((parts & kMeasureGrads) == 0 && grad_sums_.defined()) {
    check(cuda::report_norm(plan_, stream.stream()));
  }
  if (clipping_.raises) check_norm(scaling.found_inf);
  check(cuda::step(algorithm_, step, launches_, stream.stream()));
  return true;  // as far as the host can know
}

#else

void OptimizerPlan::copy_to_device() {
  TORCH_CHECK(false, "sgdr_fused: the extension was built without CUDA");
}
bool OptimizerPlan::run_cuda(unsigned, const Scaling&) {
  return false;  // not reached
}

#endif

}  // namespace sgdr_fused
