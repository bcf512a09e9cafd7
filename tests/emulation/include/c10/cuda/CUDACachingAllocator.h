// Stands in for torch's: counts what it is told of memory that a stream uses.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/cuda/CUDAStream.h>

namespace c10::cuda::CUDACachingAllocator {
inline void recordStream(const c10::DataPtr&, const CUDAStream&) { ++emulator::records; }
}  // namespace c10::cuda::CUDACachingAllocator
