// A step on the GPU: the one kernel, its launcher, its instantiations. No torch.
#include <cuda_runtime.h>

#include "../fused_step.h"
#include "launch.cuh"

namespace sgdr_fused::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;
// Half of the 2,048 threads that a multiprocessor holds: at most 64 registers a thread.
constexpr int kBlocksPerMultiprocessor = 4;

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

// kVectorBytes of parameters, and as many of the other operands as belong to them.
template <class scalar_t, int kCount>
struct alignas(kVectorBytes) Vector {
  scalar_t elements[kCount];

  __device__ static Vector load(const scalar_t* from) {
    Vector vector;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words(vector)[i] = reinterpret_cast<const int4*>(from)[i];
    return vector;
  }
  __device__ void store(scalar_t* to) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      reinterpret_cast<int4*>(to)[i] = reinterpret_cast<const int4*>(elements)[i];
    }
  }

 private:
  static constexpr int kWords = sizeof(scalar_t) * kCount / kVectorBytes;
  __device__ static int4* words(Vector& vector) { return reinterpret_cast<int4*>(vector.elements); }
};

__device__ bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// Elements [begin, end) of a tensor whose operands are dense. The body is 128-bit accesses; the
// tail, and all of a chunk with an unaligned operand, goes element by element.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void update_dense(const Rule& rule, bool unscale, opmath_t<param_t> grad_scale,
                             const Tensor& tensor, void* grad, int64_t begin, int64_t end) {
  constexpr int kCount = kVectorBytes / sizeof(param_t);
  param_t* params = static_cast<param_t*>(tensor.param) + begin;
  param_t* grads = static_cast<param_t*>(grad) + begin;
  state_t* states[kMaxStates] = {};
  bool vectorized = aligned(params) && aligned(grads);
#pragma unroll
  for (int k = 0; k < kStates; ++k) {
    states[k] = static_cast<state_t*>(tensor.states[k]) + begin;
    vectorized = vectorized && aligned(states[k]);
  }
  const int count = static_cast<int>(end - begin);  // at most kChunk
  const int body = vectorized ? count / kCount * kCount : 0;

  // Not unrolled: half of the multiprocessor's threads hide the latency, if they have the
  // registers.
#pragma unroll 1
  for (int i = threadIdx.x * kCount; i < body; i += kThreads * kCount) {
    using Params = Vector<param_t, kCount>;
    using States = Vector<state_t, kCount>;
    Params p = Params::load(params + i);
    Params g = Params::load(grads + i);
    States s[kStates > 0 ? kStates : 1];
#pragma unroll
    for (int k = 0; k < kStates; ++k) s[k] = States::load(states[k] + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      state_t* element_states[kMaxStates] = {};
#pragma unroll
      for (int k = 0; k < kStates; ++k) element_states[k] = &s[k].elements[j];
      update_element<kStates>(rule, unscale, grad_scale, p.elements[j], g.elements[j],
                              element_states);
    }
    p.store(params + i);
    if (unscale) g.store(grads + i);
#pragma unroll
    for (int k = 0; k < kStates; ++k) s[k].store(states[k] + i);
  }
#pragma unroll 1
  for (int i = body + threadIdx.x; i < count; i += kThreads) {
    state_t* element_states[kMaxStates] = {};
#pragma unroll
    for (int k = 0; k < kStates; ++k) element_states[k] = states[k] + i;
    update_element<kStates>(rule, unscale, grad_scale, params[i], grads[i], element_states);
  }
}

template <class Algorithm, class param_t, class state_t, int kStates = Algorithm::kMaxStates>
__device__ void update_chunk(const typename Algorithm::Scalars& scalars, const Header& header,
                             const Tensor& tensor, void* grad, int64_t begin, int64_t end) {
  using T = opmath_t<param_t>;
  if constexpr (kStates > Algorithm::kMinStates) {
    if (tensor.num_states < kStates) {
      return update_chunk<Algorithm, param_t, state_t, kStates - 1>(scalars, header, tensor, grad,
                                                                    begin, end);
    }
  }
  const typename Algorithm::template Rule<T, kStates> rule(scalars);
  const bool unscale = header.grad_scale != nullptr;
  const T grad_scale = unscale ? static_cast<T>(*header.grad_scale) : T(1);
  if (tensor.layout < 0) {
    update_dense<kStates, decltype(rule), param_t, state_t>(rule, unscale, grad_scale, tensor, grad,
                                                            begin, end);
  } else {
    update_strided<kStates, decltype(rule), param_t, state_t>(
        rule, unscale, grad_scale, tensor, header.plan.layouts[tensor.layout], grad,
        begin + threadIdx.x, end, kThreads);
  }
}

template <class Algorithm>
__device__ typename Algorithm::Scalars scalars_of(const Header& header, const double* numbers,
                                                  const Tensor& tensor, int64_t clock) {
  const Group& group = header.plan.groups[tensor.group];
  double hypers[kMaxHypers];
#pragma unroll
  for (int k = 0; k < kMaxHypers; ++k) {
    const double number = numbers[(tensor.group - header.first_group) * kMaxHypers + k];
    hypers[k] = hyper_value(header.plan, group.hypers[k], number, clock);
  }
  const double steps = tensor.steps == nullptr ? 0.0 : *tensor.steps;
  return Algorithm::scalars(hypers, group.constants, steps);
}

// True in all threads of the block that finishes last, when every other block of the launch has
// read what that one is about to advance.
__device__ bool is_last_block(uint32_t* ticket) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;  // back to 0 by itself
    __threadfence();
  }
  __syncthreads();
  return last;
}

template <class Algorithm, class param_t, class state_t, int kBytes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    fused_step_kernel(const __grid_constant__ Arguments<kBytes> arguments) {
  __shared__ typename Algorithm::Scalars scalars;
  __shared__ int64_t clock;
  const Header& header = arguments.header;
  const Plan& plan = header.plan;
  const double* numbers = reinterpret_cast<const double*>(arguments.payload);
  void* const* grads =
      reinterpret_cast<void* const*>(arguments.payload + header.num_groups * kMaxHypers);

  // Any number but 0: two devices that overflowed add up to 2. Nothing at all is touched.
  if (header.found_inf != nullptr && *header.found_inf != 0.0f) return;
  if (threadIdx.x == 0) clock = *plan.clock;

  if (blockIdx.x < header.num_chunks) {
    const Chunk chunk = header.chunks[blockIdx.x];
    const Tensor& tensor = plan.tensors[chunk.tensor];
    void* grad = grads[chunk.tensor - header.first_tensor];
    if (grad != nullptr) {
      if (threadIdx.x == 0) scalars = scalars_of<Algorithm>(header, numbers, tensor, clock);
      __syncthreads();
      const int64_t begin = static_cast<int64_t>(chunk.index) * kChunk;
      const int64_t end = tensor.numel < begin + kChunk ? tensor.numel : begin + kChunk;
      update_chunk<Algorithm, param_t, state_t>(scalars, header, tensor, grad, begin, end);
    }
  }

  if (!is_last_block(header.ticket)) return;
  for (int i = threadIdx.x; i < header.num_tensors; i += kThreads) {
    double* steps = plan.tensors[header.first_tensor + i].steps;
    if (grads[i] != nullptr && steps != nullptr) *steps += 1.0;
  }
  if (header.advances_clock) {
    const int64_t next = clock + 1;
    for (int i = threadIdx.x; i < plan.num_displays; i += kThreads) {
      show(plan, plan.displays[i], next);
    }
    if (threadIdx.x == 0) *plan.clock = next;
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
