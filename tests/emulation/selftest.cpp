// Kernels that show what the emulator does, for test_emulation.py.
#include "cuda/launch.cuh"

namespace {

constexpr unsigned kThreads = 96;

__device__ void read_neighbour(bool synchronised, int* values, int* out) {
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (synchronised) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
}

__global__ void neighbours(bool synchronised, int* out) {
  __shared__ int values[kThreads];
  read_neighbour(synchronised, values, out + blockIdx.x * kThreads);
}

__global__ void warp_sums(const double* in, double* out) {
  double sum = in[threadIdx.x];
  for (unsigned delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xffffffffu, sum, delta);
  if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = sum;
}

__global__ void order_of_blocks(unsigned* ticket, int* out) {
  out[atomicInc(ticket, gridDim.x - 1)] = static_cast<int>(blockIdx.x);
}

__global__ void some_leave_early(int* out) {
  if (threadIdx.x % 2 == 0) return;
  __syncthreads();
  *out = 1;
}

}  // namespace

using sgdr_fused::cuda::launch;

// For ctypes.
#pragma GCC visibility push(default)
extern "C" {
int selftest_neighbours(bool synchronised, int* out) {
  return launch(neighbours, 2, kThreads, nullptr, synchronised, out);
}
int selftest_warp_sums(const double* in, double* out) {
  return launch(warp_sums, 1, kThreads, nullptr, in, out);
}
int selftest_order_of_blocks(unsigned blocks, unsigned* ticket, int* out) {
  return launch(order_of_blocks, blocks, 1, nullptr, ticket, out);
}
int selftest_some_leave_early(int* out) {
  return launch(some_leave_early, 1, kThreads, nullptr, out);
}
const char* selftest_fault() { return emulator::fault(); }
}
#pragma GCC visibility pop
