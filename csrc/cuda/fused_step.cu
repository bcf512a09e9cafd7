// A step on the GPU: the one kernel, its launcher, its instantiations. No torch.
#include <cuda_runtime.h>

#include "../clipping.h"
#include "../fused_step.h"
#include "arguments.cuh"
#include "update_dense.cuh"

namespace sgdr_fused::cuda {
namespace {

// At least so many blocks are to fit a multiprocessor. Four are half of its 2,048 threads, with 64
// registers each; three have 80. A number in double takes two, and with two states or more there
// are too many of them.
template <class Algorithm, class param_t>
constexpr int kBlocksPerMultiprocessor =
    sizeof(opmath_t<param_t>) * Algorithm::kMaxStates >= 16 ? 3 : 4;

// The elements of a chunk draw lots with one key.
static_assert(kChunk == kCell);

// What a block works on. In shared memory, because registers are scarce.
struct Work {
  Chunk chunk;
  Tensor tensor;
  void* grad;
  double hypers[kMaxHypers];
  double average_weight;
  ChunkMemory memory;
  int64_t begin;  // first element of the chunk
  int count;
  int64_t start[kMaxDims];  // its coordinates, where there is a layout
};

// Called by one thread per hyperparameter, which takes care of that one, and one for the averages'
// weight: so they go side by side, and the schedules' long code stands in the kernel once. A block
// without a chunk, which a launch without any has, needs the weight alone.
__device__ void find_work(Work& work, const Header& header, const double* numbers,
                          void* const* grads) {
  const Plan& plan = header.plan;
  const bool has_chunk = blockIdx.x < header.num_chunks;
  const Chunk chunk = has_chunk ? header.chunks[header.first_chunk + blockIdx.x] : Chunk{};
  const Tensor& tensor = plan.tensors[chunk.tensor];
  const int k = threadIdx.x;
  const bool is_hyper = k < kMaxHypers;
  if (is_hyper && !has_chunk) return;
  const double number = is_hyper ? numbers[(tensor.group - header.first_group) * kMaxHypers + k]
                                 : plan.average.number;
  const Hyper& hyper = is_hyper ? plan.groups[tensor.group].hypers[k] : plan.average.weight;
  const double value = hyper_value(plan, hyper, number, *plan.clock);
  if (!is_hyper) {
    work.average_weight = average_weight(plan.average, value);
    return;
  }
  work.hypers[k] = value;
  if (k == 0) {
    work.chunk = chunk;
    work.tensor = tensor;
    work.grad = grads[chunk.tensor - header.first_tensor];
    work.begin = first_element(chunk);
    work.count = num_elements(chunk, tensor);
    if (tensor.layout >= 0) {
      coordinates_of(plan.layouts[tensor.layout], work.begin, work.start);
    }
  }
}

// By one thread. A tensor without an operand has a null for it.
template <class scalar_t>
__device__ void* from_element(void* memory, int64_t element) {
  return memory == nullptr ? nullptr : static_cast<scalar_t*>(memory) + element;
}

template <class param_t, class state_t>
__device__ void find_memory(Work& work, const Plan& plan, int64_t clock) {
  const Tensor& tensor = work.tensor;
  ChunkMemory& memory = work.memory;
  const int64_t begin = work.begin;
  memory.param = from_element<param_t>(tensor.param, begin);
  memory.grad = from_element<param_t>(work.grad, begin);
  memory.average =
      work.average_weight == 0.0 ? nullptr : from_element<opmath_t<param_t>>(tensor.average, begin);
  memory.average_weight = work.average_weight;
  memory.remainder = static_cast<int16_t*>(from_element<int16_t>(tensor.remainder, begin));
  uintptr_t all =
      reinterpret_cast<uintptr_t>(memory.param) | reinterpret_cast<uintptr_t>(memory.grad) |
      reinterpret_cast<uintptr_t>(memory.average) | reinterpret_cast<uintptr_t>(memory.remainder);
#pragma unroll
  for (int k = 0; k < kMaxStates; ++k) {
    memory.states[k] = from_element<state_t>(tensor.states[k], begin);
    all |= reinterpret_cast<uintptr_t>(memory.states[k]);
  }
  memory.aligned = all % kVectorBytes == 0;
  memory.rounds_by_lot = plan.rounds_by_lot;
  if (plan.rounds_by_lot) {
    memory.key = lot_key({plan.seed, clock, tensor.index}, work.chunk.index);
  }
}

template <class T>
__device__ GradFactors<T> grad_factors(const Header& header) {
  return {header.grad_scale == nullptr ? T(1) : static_cast<T>(*header.grad_scale),
          static_cast<T>(header.plan.clipping.max_value),
          static_cast<T>(clip_coefficient(header.plan.clipping))};
}

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
  const GradChanges changes = {header.grad_scale != nullptr, header.plan.clipping.is_on};
  if (work.tensor.layout < 0) {
    update_dense<kStates, decltype(rule), param_t, state_t>(rule, changes, factors, work.memory,
                                                            work.count);
  } else {
    update_strided<kStates, decltype(rule), param_t, state_t>(
        rule, changes, factors, work.memory, work.tensor, header.plan.layouts[work.tensor.layout],
        work.grad, work.start, work.count);
  }
}

// What the update of a dense chunk has not done on its way.
template <class param_t>
__device__ void average_chunk(const Work& work, const Header& header) {
  const bool done = work.grad != nullptr && work.tensor.layout < 0;
  if (done || work.memory.average == nullptr) return;
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
  const Plan& plan = header.plan;
  void* const* grads = arguments.grads();

  if (skips(plan.clipping, header.found_inf)) return;
  if (threadIdx.x == 0) clock = *plan.clock;

  if (threadIdx.x <= kMaxHypers) find_work(work, header, arguments.numbers(), grads);
  __syncthreads();
  if (blockIdx.x < header.num_chunks) {
    if (threadIdx.x == 0) {
      const double* constants = plan.groups[work.tensor.group].constants;
      scalars = Algorithm::scalars(work.hypers, constants, known_of(work.tensor));
      factors = grad_factors<opmath_t<param_t>>(header);
      find_memory<param_t, state_t>(work, plan, clock);
      if (work.chunk.index == 0) {
        plan.advances[work.chunk.tensor] =
            advance_of<Algorithm>(work.tensor, work.hypers, constants);
      }
    }
    __syncthreads();
    if (work.grad != nullptr)
      update_chunk<Algorithm, param_t, state_t>(scalars, factors, work, header);
    average_chunk<param_t>(work, header);
  }

  if (!is_last_block(header.ticket)) return;
  for (int i = threadIdx.x; i < header.num_tensors; i += kThreads) {
    const int tensor = header.first_tensor + i;
    if (grads[i] != nullptr) apply(plan.advances[tensor], plan.tensors[tensor]);
  }
  if (header.is_last_launch) {
    const int64_t next = clock + 1;
    for (int i = threadIdx.x; i < plan.num_displays; i += kThreads) {
      show(plan, plan.displays[i], next);
    }
    if (threadIdx.x == 0) {
      *plan.clock = next;
      if (work.average_weight != 0.0) ++*plan.average.count;
    }
  }
}

__global__ void show_kernel(const Plan plan) {
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
  return with_storage_types(range.dtypes, [&](auto param, auto state) {
    return launch_range(step, range, last, stream, [](auto bytes) {
      return fused_step_kernel<Algorithm, decltype(param), decltype(state), decltype(bytes)::value>;
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

int show(const Plan& plan, void* stream) {
  return launch(show_kernel, 1, kThreads, static_cast<cudaStream_t>(stream), plan);
}

const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace sgdr_fused::cuda
