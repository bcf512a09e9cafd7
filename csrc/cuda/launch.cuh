// The one place that launches kernels.
#pragma once

#include <cuda_runtime.h>

namespace sgdr_fused::cuda {

constexpr int kThreads = 256;  // per block, of every kernel
constexpr int kWarp = 32;

// It calls the runtime's function instead of using <<<>>>, so that a host compiler reads these
// sources too (tests/emulation).
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                   cudaStream_t stream, const Parameters&... parameters) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&parameters))...};
  const cudaError_t error =
      cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), pointers, 0, stream);
  if (error != cudaSuccess) cudaGetLastError();  // or a later call elsewhere would report it again
  return error;
}

}  // namespace sgdr_fused::cuda
