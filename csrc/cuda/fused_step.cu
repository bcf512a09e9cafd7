// A step on the GPU: the one kernel, its launcher, its instantiations. No torch.
#include <cuda_runtime.h>

#include "../fused_step.h"
#include "launch.cuh"
#include "update_dense.cuh"

namespace sgdr_fused::cuda {
namespace {

// At least so many blocks are to fit a multiprocessor. Four are half of its 2,048 threads, with 64
// registers each; three have 80. A number in double takes two, and Adam has too many of them.
template <class Algorithm, class param_t>
constexpr int kBlocksPerMultiprocessor =
    sizeof(opmath_t<param_t>) * Algorithm::kMaxStates > 16 ? 3 : 4;

// What a launch gets by value; `payload` behind it holds the numbers of its groups and then one
// gradient pointer per tensor.
struct Header {
  Plan plan;
  const Chunk* chunks;
  uint32_t* ticket;
  const float* grad_scale;
  const float* found_inf;
  int64_t num_chunks;
  int32_t first_tensor, num_tensors;
  int32_t first_group, num_groups;
  bool advances_clock;
};

// Kernel arguments are limited to 4 KB, and to 32,764 bytes since CUDA 12.1. A small model passes
// little: the bytes are copied at each launch.
constexpr int kSmall = 1024, kMedium = 4096, kLarge = 32760;

template <int kBytes>
struct Arguments {
  static constexpr int64_t kWords = (kBytes - sizeof(Header)) / sizeof(uint64_t);
  Header header;
  uint64_t payload[kWords];
};
static_assert(sizeof(Arguments<kLarge>) <= 32764 && sizeof(Arguments<kMedium>) <= 4096);

// What a block works on. In shared memory, because registers are scarce.
struct Work {
  Chunk chunk;
  Tensor tensor;
  void* grad;
  double hypers[kMaxHypers];
  double average_weight;
  ChunkAverage average;
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
  const Chunk chunk = has_chunk ? header.chunks[blockIdx.x] : Chunk{};
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
    work.begin = static_cast<int64_t>(chunk.index) * kChunk;
    const int64_t rest = tensor.numel - work.begin;
    work.count = static_cast<int>(rest < kChunk ? rest : kChunk);
    if (tensor.layout >= 0) {
      coordinates_of(plan.layouts[tensor.layout], work.begin, work.start);
    }
  }
}

template <class param_t>
__device__ ChunkAverage chunk_average(const Work& work) {
  if (work.tensor.average == nullptr) return {nullptr, 0.0};
  return {static_cast<opmath_t<param_t>*>(work.tensor.average) + work.begin, work.average_weight};
}

template <class Algorithm, class param_t, class state_t, int kStates = Algorithm::kMaxStates>
__device__ void update_chunk(const typename Algorithm::Scalars& scalars, const Work& work,
                             const Header& header) {
  using T = opmath_t<param_t>;
  if constexpr (kStates > Algorithm::kMinStates) {
    if (work.tensor.num_states < kStates) {
      return update_chunk<Algorithm, param_t, state_t, kStates - 1>(scalars, work, header);
    }
  }
  const typename Algorithm::template Rule<T, kStates> rule(scalars);
  const bool unscale = header.grad_scale != nullptr;
  const T grad_scale = unscale ? static_cast<T>(*header.grad_scale) : T(1);
  if (work.tensor.layout < 0) {
    update_dense<kStates, decltype(rule), param_t, state_t>(
        rule, unscale, grad_scale, work.average, work.tensor, work.grad, work.begin, work.count);
  } else {
    update_strided<kStates, decltype(rule), param_t, state_t>(
        rule, unscale, grad_scale, work.tensor, header.plan.layouts[work.tensor.layout], work.grad,
        work.start, work.count);
  }
}

// What the update of a dense chunk has not done on its way.
template <class param_t>
__device__ void average_chunk(const Work& work, const Header& header) {
  const bool done = work.grad != nullptr && work.tensor.layout < 0;
  if (done || work.average.weight == 0.0) return;
  const Layout* layout =
      work.tensor.layout < 0 ? nullptr : header.plan.layouts + work.tensor.layout;
  average_elements<param_t>(AverageRule<opmath_t<param_t>>(work.average.weight), work.tensor,
                            layout, work.start, work.begin, work.count);
}

// True in all threads of the block that finishes last, when every other block of the launch has
// read what that one is about to advance: clock and counts of updates. Thread 0 need not wait for
// the others of its block before it takes the ticket, because whatever of this they read, they read
// before a barrier that thread 0 has passed.
__device__ bool is_last_block(uint32_t* ticket) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;  // back to 0 by itself
    __threadfence();
  }
  __syncthreads();
  return last;
}

template <class Algorithm, class param_t, class state_t, int kBytes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Algorithm, param_t>)
    fused_step_kernel(const __grid_constant__ Arguments<kBytes> arguments) {
  __shared__ typename Algorithm::Scalars scalars;
  __shared__ Work work;
  __shared__ int64_t clock;
  const Header& header = arguments.header;
  const Plan& plan = header.plan;
  const double* numbers = reinterpret_cast<const double*>(arguments.payload);
  void* const* grads =
      reinterpret_cast<void* const*>(arguments.payload + header.num_groups * kMaxHypers);

  // Any number but 0: two devices that overflowed add up to 2. Nothing at all is touched.
  if (header.found_inf != nullptr && *header.found_inf != 0.0f) return;
  if (threadIdx.x == 0) clock = *plan.clock;

  if (threadIdx.x <= kMaxHypers) find_work(work, header, numbers, grads);
  __syncthreads();
  if (blockIdx.x < header.num_chunks) {
    if (threadIdx.x == 0) {
      const double* steps = work.tensor.steps;
      scalars = Algorithm::scalars(work.hypers, plan.groups[work.tensor.group].constants,
                                   steps == nullptr ? 0.0 : *steps);
      work.average = chunk_average<param_t>(work);
      if (work.chunk.index == 0) {
        plan.counts[work.chunk.tensor] = Algorithm::counts(work.hypers);
      }
    }
    __syncthreads();
    if (work.grad != nullptr) update_chunk<Algorithm, param_t, state_t>(scalars, work, header);
    average_chunk<param_t>(work, header);
  }

  if (!is_last_block(header.ticket)) return;
  for (int i = threadIdx.x; i < header.num_tensors; i += kThreads) {
    const int tensor = header.first_tensor + i;
    double* steps = plan.tensors[tensor].steps;
    if (grads[i] != nullptr && steps != nullptr && plan.counts[tensor]) *steps += 1.0;
  }
  if (header.advances_clock) {
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

template <class Algorithm, class param_t, class state_t, int kBytes>
cudaError_t launch_step(const Step& step, const Launch& launch_range, bool last,
                        cudaStream_t stream) {
  Arguments<kBytes> arguments;
  arguments.header = {step.plan,
                      step.chunks + launch_range.first_chunk,
                      step.ticket,
                      step.grad_scale,
                      step.found_inf,
                      launch_range.num_chunks,
                      launch_range.first_tensor,
                      launch_range.num_tensors,
                      launch_range.first_group,
                      launch_range.num_groups,
                      last};
  const int64_t num_numbers = static_cast<int64_t>(launch_range.num_groups) * kMaxHypers;
  memcpy(arguments.payload, step.numbers + launch_range.first_group * kMaxHypers,
         num_numbers * sizeof(double));
  memcpy(arguments.payload + num_numbers, step.grads + launch_range.first_tensor,
         launch_range.num_tensors * sizeof(void*));
  const int64_t blocks = launch_range.num_chunks > 0 ? launch_range.num_chunks : 1;
  return launch(fused_step_kernel<Algorithm, param_t, state_t, kBytes>,
                static_cast<unsigned>(blocks), kThreads, stream, arguments);
}

template <class Algorithm>
cudaError_t launch_any(const Step& step, const Launch& range, bool last, cudaStream_t stream) {
  const int64_t words = payload_words(range.num_groups, range.num_tensors);
  return with_storage_types(range.dtypes, [&](auto param, auto state) {
    using param_t = decltype(param);
    using state_t = decltype(state);
    if (words <= Arguments<kSmall>::kWords) {
      return launch_step<Algorithm, param_t, state_t, kSmall>(step, range, last, stream);
    }
    if (words <= Arguments<kMedium>::kWords) {
      return launch_step<Algorithm, param_t, state_t, kMedium>(step, range, last, stream);
    }
#if CUDART_VERSION >= 12010
    return launch_step<Algorithm, param_t, state_t, kLarge>(step, range, last, stream);
#else
    return cudaErrorInvalidValue;  // not reached: max_payload_words() allows no such launch
#endif
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
  return large_arguments() ? Arguments<kLarge>::kWords : Arguments<kMedium>::kWords;
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
