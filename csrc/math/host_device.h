// The marker for functions that host and device compile from the same text.
#pragma once

// Always inline, on the host too: see "One definition per instruction set" in docs/design.md.
#if defined(__CUDACC__)
#define SGDR_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define SGDR_HOST_DEVICE __forceinline
#else
#define SGDR_HOST_DEVICE inline __attribute__((always_inline))
#endif
