// What a kernel that works through the chunks of a step gets, how it is launched, and which of its
// blocks is the last.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <type_traits>

#include "cuda/launch.cuh"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {

// What a launch gets by value; `payload` behind it holds the numbers of its groups and then one
// gradient pointer per tensor.
struct Header {
  PlanView plan;
  const Chunk* chunks;
  int64_t first_chunk, num_chunks;
  int32_t chunk_size;  // in elements
  uint32_t* ticket;
  const float* grad_scale;
  const float* found_inf;
  int32_t first_tensor, num_tensors;
  int32_t first_group, num_groups;
  bool is_last_launch;
  int32_t num_next_blocks;  // so many blocks make the next step's values, before those with chunks
};

// Kernel arguments are limited to 4 KB, and to 32,764 bytes since CUDA 12.1. Most models pass the
// smaller size, since all bytes are copied at each launch. More sizes would be more kernels to
// compile.
constexpr int kSmall = 4096, kLarge = 32760;

template <int kBytes>
struct Arguments {
  static constexpr int64_t kWords = (kBytes - sizeof(Header)) / sizeof(uint64_t);
  Header header;
  uint64_t payload[kWords];

  SGDR_HOST_DEVICE const double* numbers() const {
    return reinterpret_cast<const double*>(payload);
  }
  SGDR_HOST_DEVICE void* const* grads() const {
    return reinterpret_cast<void* const*>(payload + header.num_groups * kMaxHypers);
  }
};
static_assert(sizeof(Arguments<kLarge>) <= 32764 && sizeof(Arguments<kSmall>) <= 4096);

template <int kBytes>
Arguments<kBytes> arguments_of(const Step& step, const Launch& range, const Table& table,
                               const Range& chunks, bool is_last_launch, int num_next_blocks) {
  Arguments<kBytes> arguments;
  arguments.header = {step.plan,          table.chunks,      chunks.first,      chunks.count,
                      table.size,         step.ticket,       step.grad_scale,   step.found_inf,
                      range.first_tensor, range.num_tensors, range.first_group, range.num_groups,
                      is_last_launch,     num_next_blocks};
  const int64_t num_numbers = static_cast<int64_t>(range.num_groups) * kMaxHypers;
  memcpy(arguments.payload, step.numbers + range.first_group * kMaxHypers,
         num_numbers * sizeof(double));
  memcpy(arguments.payload + num_numbers, step.grads + range.first_tensor,
         range.num_tensors * sizeof(void*));
  return arguments;
}

// One block for each of the chunks, after those that make the next step's values; one at least.
// kernel_of(std::integral_constant<int, kBytes>{}) is the kernel that takes Arguments<kBytes>; the
// smallest that hold the range are used.
template <class KernelOf>
cudaError_t launch_range(const Step& step, const Launch& range, const Table& table,
                         const Range& chunks, bool is_last_launch, int num_next_blocks,
                         cudaStream_t stream, KernelOf kernel_of) {
  const int64_t words = payload_words(range.num_groups, range.num_tensors);
  const int64_t blocks = num_next_blocks + chunks.count;
  const auto launch_with = [&](auto bytes) {
    return launch(kernel_of(bytes), static_cast<unsigned>(blocks > 0 ? blocks : 1), kThreads,
                  stream,
                  arguments_of<decltype(bytes)::value>(step, range, table, chunks, is_last_launch,
                                                       num_next_blocks));
  };
  if (words <= Arguments<kSmall>::kWords) return launch_with(std::integral_constant<int, kSmall>{});
#if CUDART_VERSION >= 12010
  return launch_with(std::integral_constant<int, kLarge>{});
#else
  return cudaErrorInvalidValue;  // not reached: max_payload_words() allows no such launch
#endif
}

// True in all threads of one block: the last to finish of all that share the ticket. By then every
// other block has written what it writes, and has read what the last one is about to advance.
// Thread 0 need not wait for the other threads of its block before it takes the ticket: what they
// read or write of this, they do before a barrier that thread 0 has passed.
static __device__ bool is_last_block(uint32_t* ticket, uint32_t blocks) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(ticket, blocks - 1) == blocks - 1;  // back to 0 by itself
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace sgdr_fused::cuda
