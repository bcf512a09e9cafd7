// What a block works on: a chunk of a tensor.
#pragma once

#include <cuda_runtime.h>

#include "cuda/arguments.cuh"
#include "cuda/update_element.cuh"
#include "cuda/vector.cuh"

namespace sgdr_fused::cuda {

// At least so many blocks are to fit a multiprocessor. Four are half of its 2,048 threads, with 64
// registers each; three have 80, which two states in double take, as a number takes two registers.
template <class Algorithm, class param_t>
constexpr int kBlocksPerMultiprocessor =
    sizeof(opmath_t<param_t>) == sizeof(double) && Algorithm::kMaxStates >= 2 ? 3 : 4;

// The elements of a chunk are rounded at random with one key.
static_assert(kCell % kChunk == 0 && kChunk % kShortestUpdate == 0);

// How many of the next step's values a block makes, of those that make any.
constexpr int kNextValuesPerBlock = kThreads - kWarp - (kMaxHypers + 1);

// What a block works on. It is in shared memory, because registers are scarce.
struct Work {
  Chunk chunk;
  Tensor tensor;
  ParamStats stats;
  void* grad;
  double hypers[kMaxHypers];
  double constants[kMaxConstants];
  double average_weight;
  ChunkOperands operands;
  int64_t begin;  // first element of the chunk
  int count;
  int64_t start[kMaxDims];  // its coordinates, where there is a layout
};

// A tensor without an operand has a null for it.
template <class scalar_t>
__device__ void* from_element(void* memory, int64_t element) {
  return memory == nullptr ? nullptr : static_cast<scalar_t*>(memory) + element;
}

// One thread finds the chunk's elements and where its operands are.
template <class param_t, class state_t>
__device__ void find_operands(Work& work, const Header& header, const Chunk& chunk, void* grad) {
  const PlanView& plan = header.plan;
  work.chunk = chunk;
  const Tensor tensor = work.tensor = plan.tensors[chunk.tensor];
  const int64_t begin = work.begin = first_element(chunk, header.chunk_size);
  work.grad = grad;
  work.count = num_elements(chunk, tensor, header.chunk_size);
  if (tensor.layout >= 0) coordinates_of(plan.layouts[tensor.layout], begin, work.start);

  ChunkOperands& operands = work.operands;
  operands.param = from_element<param_t>(tensor.param, begin);
  operands.grad = grad_from_element<param_t>(grad, tensor.grad_dtype, begin);
  operands.grad_dtype = tensor.grad_dtype;
  operands.average = from_element<opmath_t<param_t>>(tensor.average, begin);
  operands.remainder = static_cast<int16_t*>(from_element<int16_t>(tensor.remainder, begin));
  uintptr_t all = reinterpret_cast<uintptr_t>(operands.param) |
                  reinterpret_cast<uintptr_t>(operands.grad) |
                  reinterpret_cast<uintptr_t>(operands.average) |
                  reinterpret_cast<uintptr_t>(operands.remainder);
#pragma unroll
  for (int k = 0; k < kMaxStates; ++k) {
    operands.states[k] = StateStorage<state_t>::from_element(tensor.states[k], begin);
    all |= reinterpret_cast<uintptr_t>(operands.states[k]);
  }
  operands.aligned = all % kVectorBytes == 0;
}

// The threads from the second warp on find one value each, so that the schedules' long code stands
// in the kernel once: this step's values of the chunk's group; this step's weight of the averages;
// and, in the blocks that make them, the scheduled values of the next step.
inline __device__ void find_hypers(Work& work, const Header& header, const double* numbers,
                                   const Chunk* chunk) {
  const PlanView& plan = header.plan;
  const int k = static_cast<int>(threadIdx.x) - kWarp;
  const bool is_weight = k == kMaxHypers, is_next = k > kMaxHypers;
  const bool makes_next = blockIdx.x < header.num_next_blocks;
  if (k < 0 || (makes_next ? k < kMaxHypers : is_next)) return;
  const int32_t weight = num_hypers(plan) - 1;
  const int32_t group = k < kMaxHypers ? plan.tensors[chunk->tensor].group : 0;
  const int32_t number = is_weight ? weight
                         : is_next ? blockIdx.x * kNextValuesPerBlock + k - kMaxHypers - 1
                                   : group * kMaxHypers + k;
  if (number > weight) return;
  const Hyper& hyper = hyper_of(plan, number);
  const bool is_scheduled = hyper.source == Source::kSchedule;
  if (is_next && !is_scheduled) return;
  const int64_t step = *plan.clock + is_next;
  double* stored = plan.next_values.values + (step & 1) * (weight + 1) + number;
  double value = *stored;  // before it is known whether it is of use, for that takes as long
  const bool is_made = plan.next_values.steps[step & 1] == step;
  if (is_next || !is_scheduled || !is_made) {
    value = is_weight ? plan.average.number
            : is_next ? 0.0
                      : numbers[(group - header.first_group) * kMaxHypers + k];
    value = hyper_value(plan, hyper, value, step);
  }
  if (is_next) {
    *stored = value;
  } else if (is_weight) {
    work.average_weight = average_weight(plan.average, value);
  } else {
    work.hypers[k] = value;
  }
}

// All threads of a block do this, each warp on its own, for the loads of one do not wait for those
// of another. `index` is the chunk's place among the launch's; a block without a chunk has an index
// that is no place.
template <class Algorithm, class param_t, class state_t>
__device__ void find_work(Work& work, const Header& header, const double* numbers,
                          void* const* grads, int64_t index) {
  const PlanView& plan = header.plan;
  const bool has_chunk = index >= 0 && index < header.num_chunks;
  const Chunk* chunk = has_chunk ? header.chunks + header.first_chunk + index : nullptr;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (has_chunk && threadIdx.x == 0) {
    find_operands<param_t, state_t>(work, header, *chunk,
                                    grads[chunk->tensor - header.first_tensor]);
  }
  if (has_chunk && warp == 2 && lane == 0) {
    work.stats = param_stats_of<Algorithm>(plan, plan.tensors[chunk->tensor], chunk->tensor);
  }
  if (has_chunk && warp == 3 && lane < kMaxConstants) {
    work.constants[lane] = plan.groups[plan.tensors[chunk->tensor].group].constants[lane];
  }
  if (has_chunk || header.num_next_blocks > 0) find_hypers(work, header, numbers, chunk);
}

// One thread adds, to the work that was found, what the update has to know beside its operands.
inline __device__ void finish_operands(Work& work, const PlanView& plan, int64_t clock) {
  ChunkOperands& operands = work.operands;
  if (work.average_weight == 0.0) operands.average = nullptr;
  operands.average_weight = work.average_weight;
  operands.rounds_randomly = plan.rounds_randomly;
  if (plan.rounds_randomly) {
    operands.key = rounding_key({plan.seed, clock, work.tensor.index}, work.begin / kCell);
#pragma unroll
    for (uint32_t& word : operands.key.words) word += static_cast<uint32_t>(work.begin % kCell);
  }
}

}  // namespace sgdr_fused::cuda
