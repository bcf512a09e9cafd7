// Stands in for CUDA's header of this name, so that a host compiler builds csrc/cuda/*.cu as they
// are: as much of the language and of the runtime as they use. See emulator.h for how it runs.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
// One block runs at a time. The section lets the emulator poison it before each block.
#define __shared__ static __attribute__((section("emulated_shared")))

#define CUDART_VERSION 13000

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

#if !defined(__clang__)
#define __builtin_assume(condition)
#endif
inline bool __isGlobal(const void*) { return true; }
// Accesses that tell the caches what to expect.
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

inline void __syncthreads() { emulator::wait(emulator::Scope::kBlock); }
// Whether any thread of the block passes true.
inline int __syncthreads_or(int value) { return emulator::wait_for_any(value != 0); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::check(mask == 0xffffffffu, "a part of a warp synchronises");
  emulator::wait(emulator::Scope::kWarp);
}
// Threads change places only where they wait, so every other access is atomic and in order:
// a missing fence is for a race tracker to find.
inline void __threadfence() {}

inline unsigned atomicInc(unsigned* address, unsigned limit) {
  const unsigned old = *address;
  *address = old >= limit ? 0 : old + 1;
  return old;
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  emulator::lane_value() = bits;
  __syncwarp(mask);
  bits = emulator::lane_value(delta);
  __syncwarp(mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

using cudaStream_t = struct Stream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? emulator::fault() : "invalid value";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

template <class... Parameters, size_t... i>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** pointers,
                   std::index_sequence<i...>) {
  if (grid.x == 0 || block.x == 0 || block.x > emulator::kMaxThreads) return cudaErrorInvalidValue;
  const bool done = emulator::run(grid.x, block.x,
                                  [&] { kernel(*static_cast<const Parameters*>(pointers[i])...); });
  return done ? cudaSuccess : cudaErrorLaunchFailure;
}

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** pointers,
                             size_t, cudaStream_t) {
  return launch(kernel, grid, block, pointers, std::index_sequence_for<Parameters...>{});
}
