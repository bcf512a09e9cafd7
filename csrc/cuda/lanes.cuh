// How a block adds up the lanes of a sum (clipping.h).
#pragma once

#include <cuda_runtime.h>

#include "../clipping.h"
#include "launch.cuh"

namespace sgdr_fused::cuda {

// The sum of the first `size` lanes, a power of 2 of them, in every thread.
inline __device__ double add_up(double* lanes, int size) {
#pragma unroll 1
  for (int half = size / 2; half > 0; half /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += kThreads) lanes[i] += lanes[half + i];
  }
  __syncthreads();
  return lanes[0];
}

}  // namespace sgdr_fused::cuda
