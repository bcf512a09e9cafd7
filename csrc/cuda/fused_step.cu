// The update of a step on the GPU: the kernel, its launcher and its instantiations. No torch.
#include <cuda_runtime.h>

#include "cuda/arguments.cuh"
#include "cuda/update_dense.cuh"
#include "cuda/work.cuh"
#include "math/prefetch.h"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {
namespace {

template <class Algorithm, class param_t, class state_t, int kStates = Algorithm::kMaxStates>
__device__ void update_chunk(const typename Algorithm::Scalars& scalars,
                             const volatile GradFactors<opmath_t<param_t>>& factors,
                             const Work& work, const Header& header) {
  using T = opmath_t<param_t>;
  if constexpr (kStates > Algorithm::kMinStates) {
    if (work.tensor.num_states < kStates) {
      return update_chunk<Algorithm, param_t, state_t, kStates - 1>(scalars, factors, work, header);
    }
  }
  const typename Algorithm::template Rule<T, kStates> rule(scalars);
  const GradChanges changes = grad_changes(header.plan.clipping, header.grad_scale);
  if (work.tensor.layout < 0) {
    update_dense<kStates, decltype(rule), param_t, state_t>(rule, changes, factors, work.operands,
                                                            work.count);
  } else {
    update_strided<kStates, decltype(rule), param_t, state_t>(
        rule, changes, factors, work.operands, work.tensor, header.plan.layouts[work.tensor.layout],
        work.grad, work.start, work.count);
  }
}

// The upper half of the threads asks for the operands that come first, 32 bytes each time. They
// come while others compute the scalars. If all threads asked, the compiler would keep more in
// registers than the update leaves.
template <class param_t, class state_t>
__device__ void prefetch_first(const Work& work) {
  const int thread = static_cast<int>(threadIdx.x) - kThreads / 2;
  if (work.grad == nullptr || work.tensor.layout >= 0) return;
  const auto ask_for = [&](const void* memory, size_t size) {
    const size_t offset = thread * 32;
    if (offset < work.count * size) prefetch(static_cast<const char*>(memory) + offset);
  };
  ask_for(work.operands.param, sizeof(param_t));
  with_grad_type<param_t>(work.tensor.grad_dtype,
                          [&](auto grad) { ask_for(work.operands.grad, sizeof(grad)); });
#pragma unroll 1
  for (int k = 0; k < work.tensor.num_states; ++k) {
    ask_for(work.operands.states[k], StateStorage<state_t>::kElementBytes);
  }
  // This is not operands.average, which another thread may be writing to.
  if (work.average_weight != 0.0 && work.tensor.average != nullptr) {
    ask_for(static_cast<opmath_t<param_t>*>(work.tensor.average) + work.begin,
            sizeof(opmath_t<param_t>));
  }
}

// The averages that the update of a dense chunk has not brought up to date on its way.
template <class param_t>
__device__ void average_chunk(const Work& work, const Header& header) {
  const bool done = work.grad != nullptr && work.tensor.layout < 0;
  if (done || work.operands.average == nullptr) return;
  const Layout* layout =
      work.tensor.layout < 0 ? nullptr : header.plan.layouts + work.tensor.layout;
  average_elements<param_t>(AverageRule<opmath_t<param_t>>(work.average_weight), work.tensor,
                            layout, work.start, work.begin, work.count);
}

template <class Algorithm, class param_t, class state_t, int kBytes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Algorithm, param_t>)
    fused_step_kernel(const __grid_constant__ Arguments<kBytes> arguments) {
  __shared__ typename Algorithm::Scalars scalars;
  __shared__ GradFactors<opmath_t<param_t>> factors;
  __shared__ Work work;
  __shared__ int64_t clock;
  const Header& header = arguments.header;
  const PlanView& plan = header.plan;
  void* const* grads = arguments.grads();

  if (skips(plan.clipping, header.found_inf)) {
    if (header.is_last_launch && blockIdx.x == 0 && threadIdx.x == 0) count_skipped(plan.clipping);
    return;
  }
  if (threadIdx.x == 0) clock = *plan.clock;

  const int64_t index = static_cast<int64_t>(blockIdx.x) - header.num_next_blocks;
  find_work<Algorithm, param_t, state_t>(work, header, arguments.numbers(), grads, index);
  __syncthreads();
  if (index >= 0 && index < header.num_chunks) {
    // This is of no use where a block has much to do.
    if (threadIdx.x >= kThreads / 2 && header.chunk_size < kChunk) {
      prefetch_first<param_t, state_t>(work);
    }
    if (threadIdx.x == 0) scalars = Algorithm::scalars(work.hypers, work.constants, work.stats);
    if (threadIdx.x == kWarp) {
      factors = grad_factors<opmath_t<param_t>>(plan.clipping, header.grad_scale);
      finish_operands(work, plan, clock);
    }
    if (threadIdx.x == 2 * kWarp && work.chunk.index == 0) {
      plan.count_updates[work.chunk.tensor] =
          step_count_update<Algorithm>(work.tensor, work.hypers, work.constants);
    }
    __syncthreads();
    if (work.grad != nullptr)
      update_chunk<Algorithm, param_t, state_t>(scalars, factors, work, header);
    average_chunk<param_t>(work, header);
  }

  if (!is_last_block(header.ticket, gridDim.x)) return;
  for (int i = threadIdx.x; i < header.num_tensors; i += kThreads) {
    const int tensor = header.first_tensor + i;
    if (grads[i] != nullptr) apply(plan.count_updates[tensor], plan.tensors[tensor]);
  }
  if (header.is_last_launch) {
    const int64_t next = clock + 1;
    for (int i = threadIdx.x; i < plan.num_displays; i += kThreads) {
      const Display& display = plan.displays[i];
      *display.value = plan.next_values.values[(next & 1) * num_hypers(plan) + display.hyper];
    }
    if (threadIdx.x == 0) {
      *plan.clock = next;
      plan.next_values.steps[next & 1] = next;
      if (work.average_weight != 0.0) ++*plan.average.count;
    }
  }
}

__global__ void report_norm_kernel(const Clipping clipping) { report_norm(clipping); }

__global__ void show_kernel(const PlanView plan, const Tickets tickets) {
  if (threadIdx.x == 0) *tickets.blocks = 0;
  for (int i = threadIdx.x; i < tickets.num_tensors; i += blockDim.x) {
    plan.param_norms.tickets[i] = 0;
  }
  for (int i = threadIdx.x; i < plan.num_displays; i += blockDim.x) {
    sgdr_fused::show(plan, plan.displays[i], *plan.clock);
  }
}

bool large_arguments() {
#if CUDART_VERSION >= 12010
  static const bool supported = [] {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess && version >= 12010;
  }();
  return supported;
#else
  return false;
#endif
}

template <class Algorithm>
cudaError_t launch_any(const Step& step, const Launch& range, bool last, cudaStream_t stream) {
  const int next_blocks =
      last ? (num_hypers(step.plan) + kNextValuesPerBlock - 1) / kNextValuesPerBlock : 0;
  return with_storage_types(range.types, [&](auto param, auto state) {
    return launch_range(step, range, step.updated_chunks, range.updated_chunks, last, next_blocks,
                        stream, [](auto bytes) {
                          return fused_step_kernel<Algorithm, decltype(param), decltype(state),
                                                   decltype(bytes)::value>;
                        });
  });
}

template <class... Algorithms>
cudaError_t dispatch(AlgorithmList<Algorithms...>, int algorithm, const Step& step,
                     const Launch& range, bool last, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  int index = 0;
  ((index++ == algorithm ? void(error = launch_any<Algorithms>(step, range, last, stream))
                         : void()),
   ...);
  return error;
}

}  // namespace

int64_t payload_words(int64_t groups, int64_t tensors) { return groups * kMaxHypers + tensors; }

int64_t max_payload_words() {
  return large_arguments() ? Arguments<kLarge>::kWords : Arguments<kSmall>::kWords;
}

int step(int algorithm, const Step& step, const std::vector<Launch>& launches, void* stream) {
  for (size_t i = 0; i < launches.size(); ++i) {
    const cudaError_t error = dispatch(AllAlgorithms{}, algorithm, step, launches[i],
                                       i + 1 == launches.size(), static_cast<cudaStream_t>(stream));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

int report_norm(const PlanView& plan, void* stream) {
  return launch(report_norm_kernel, 1, 1, static_cast<cudaStream_t>(stream), plan.clipping);
}

int show(const PlanView& plan, const Tickets& tickets, void* stream) {
  return launch(show_kernel, 1, kThreads, static_cast<cudaStream_t>(stream), plan, tickets);
}

const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace sgdr_fused::cuda
