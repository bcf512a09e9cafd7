// What a block works on: a chunk of a tensor.
#pragma once

#include <cuda_runtime.h>

#include "arguments.cuh"
#include "update_element.cuh"
#include "vector.cuh"

namespace sgdr_fused::cuda {

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
inline __device__ void find_work(Work& work, const Header& header, const double* numbers,
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
  memory.grad = grad_from_element<param_t>(work.grad, tensor.grad_dtype, begin);
  memory.grad_dtype = tensor.grad_dtype;
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

}  // namespace sgdr_fused::cuda
