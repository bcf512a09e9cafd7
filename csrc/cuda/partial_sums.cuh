// How a block adds up partial sums (clipping.h).
#pragma once

#include <cuda_runtime.h>

#include "cuda/launch.cuh"
#include "step/clipping.h"

namespace sgdr_fused::cuda {

// The sum of the first `size` partial sums, a power of 2 of them, in every thread. The other warps
// do not wait in between for what one warp does alone.
inline __device__ double add_up(double* partial_sums, int size) {
  int half = size / 2;
#pragma unroll 1
  for (; half > kWarp; half /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += kThreads) partial_sums[i] += partial_sums[half + i];
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
#pragma unroll 1
    for (; half > 0; half /= 2) {
      if (threadIdx.x < half) partial_sums[threadIdx.x] += partial_sums[half + threadIdx.x];
      __syncwarp();
    }
  }
  __syncthreads();
  return partial_sums[0];
}

}  // namespace sgdr_fused::cuda
