// What compilers spell differently stands here, and nowhere else in csrc/ outside cuda/: those of
// nvcc, GCC and clang, and of MSVC, with which nothing has been compiled yet.
#pragma once

// The marker of functions that host and device compile from the same text. They are always inlined,
// on the host too: see "One definition per instruction set" in docs/design.md.
#if defined(__CUDACC__)
#define SGDR_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define SGDR_HOST_DEVICE __forceinline
#else
#define SGDR_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Stands before a loop whose arrays do not overlap, unless one is the other, element by element.
// clang has no such word that would leave the order of sums alone; it compares addresses instead.
#if defined(__clang__)
#define SGDR_INDEPENDENT
#elif defined(_MSC_VER)
#define SGDR_INDEPENDENT __pragma(loop(ivdep))
#else
#define SGDR_INDEPENDENT _Pragma("GCC ivdep")
#endif

// Instruction sets of a function. MSVC compiles a whole file for one, so it has the baseline alone.
// clang below 16 ignores all of an attribute in which it does not know one name.
#if defined(__x86_64__) && defined(__GNUC__)
#define SGDR_FUSED_X86 1
#define SGDR_AVX2 __attribute__((target("avx2")))
#if defined(__clang__)
#define SGDR_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define SGDR_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
#define SGDR_HAS(name) __builtin_cpu_supports(name)
#endif

// Asks for the cache line of an address, on the host.
#if defined(__GNUC__)
#define SGDR_PREFETCH(address) __builtin_prefetch(address)
#else
#define SGDR_PREFETCH(address) static_cast<void>(address)
#endif

// No product and sum become one operation. GCC and clang get -ffp-contract=off.
#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#endif
