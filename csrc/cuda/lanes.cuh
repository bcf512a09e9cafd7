// How a block adds up the lanes of a sum (clipping.h).
#pragma once

#include <cuda_runtime.h>

#include "cuda/launch.cuh"
#include "step/clipping.h"

namespace sgdr_fused::cuda {

// The sum of the first `size` lanes, a power of 2 of them, in every thread. What is left for one
// warp, the others do not wait for in between.
inline __device__ double add_up(double* lanes, int size) {
  int half = size / 2;
#pragma unroll 1
  for (; half > kWarp; half /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += kThreads) lanes[i] += lanes[half + i];
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
#pragma unroll 1
    for (; half > 0; half /= 2) {
      if (threadIdx.x < half) lanes[threadIdx.x] += lanes[half + threadIdx.x];
      __syncwarp();
    }
  }
  __syncthreads();
  return lanes[0];
}

}  // namespace sgdr_fused::cuda
