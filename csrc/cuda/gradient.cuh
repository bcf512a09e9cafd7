// Gradients are stored in their parameter's type, or in 16 bits where that is float. Which it is,
// is known at run time only: a kernel for each would be three times as much code for one load.
#pragma once

#include <type_traits>

#include "cuda/vector.cuh"
#include "math/dtype.h"

namespace sgdr_fused::cuda {

template <class param_t>
constexpr bool kGradMayBeNarrow = std::is_same_v<param_t, float>;

// Calls f with a value of the type that the gradients are stored in.
template <class param_t, class F>
__device__ auto with_grad_type(Dtype dtype, F&& f) {
  if constexpr (kGradMayBeNarrow<param_t>) {
    if (dtype == Dtype::kBFloat16) return f(BFloat16{});
    if (dtype == Dtype::kFloat16) return f(Half{});
  }
  return f(param_t{});
}

template <class param_t>
__device__ void* grad_from_element(void* memory, Dtype dtype, int64_t element) {
  if (memory == nullptr) return nullptr;
  return with_grad_type<param_t>(
      dtype, [&](auto type) -> void* { return static_cast<decltype(type)*>(memory) + element; });
}

// An element in the parameter's type, which holds every value of a narrower one.
template <class param_t>
__device__ param_t read_grad(void* memory, Dtype dtype, int64_t element) {
  return with_grad_type<param_t>(dtype, [&](auto type) {
    param_t grad;
    if constexpr (std::is_same_v<decltype(type), param_t>) {
      grad = global<param_t>(memory)[element];
    } else {
      grad = load(global<decltype(type)>(memory)[element]);
    }
    return grad;
  });
}

template <class param_t>
__device__ void write_grad(void* memory, Dtype dtype, int64_t element, param_t grad) {
  with_grad_type<param_t>(dtype, [&](auto type) {
    if constexpr (std::is_same_v<decltype(type), param_t>) {
      global<param_t>(memory)[element] = grad;
    } else {
      store(global<decltype(type)>(memory)[element], grad);
    }
  });
}

// As Elements, of a gradient. Gradients of 16 bits beside floats come 64 bits at a time.
template <class param_t, int kCount>
struct GradElements {
  static constexpr bool kWhole = Elements<param_t, kCount>::kWhole;
  Elements<param_t, kCount> wide;

  template <class grad_t>
  struct alignas(kVectorBytes / 2) Narrow {
    grad_t elements[kVectorBytes / 2 / sizeof(grad_t)];
  };

  __device__ void load(void* memory, Dtype dtype, int element) {
    with_grad_type<param_t>(dtype, [&](auto type) {
      using grad_t = decltype(type);
      if constexpr (std::is_same_v<grad_t, param_t>) {
        wide.load(memory, element);
      } else {
        Narrow<grad_t> narrow;
        load_bits<kWhole>(reinterpret_cast<int2*>(narrow.elements),
                          global<grad_t>(memory) + element);
#pragma unroll
        for (int j = 0; j < Vector<param_t>::kCount; ++j) {
          wide.vector.elements[j] = sgdr_fused::load(narrow.elements[j]);
        }
      }
    });
  }
  __device__ void store(void* memory, Dtype dtype, int element) const {
    with_grad_type<param_t>(dtype, [&](auto type) {
      using grad_t = decltype(type);
      if constexpr (std::is_same_v<grad_t, param_t>) {
        wide.store(memory, element);
      } else {
        Narrow<grad_t> narrow;
#pragma unroll
        for (int j = 0; j < Vector<param_t>::kCount; ++j) {
          sgdr_fused::store(narrow.elements[j], wide.vector.elements[j]);
        }
        store_bits<kWhole>(global<grad_t>(memory) + element,
                           reinterpret_cast<const int2*>(narrow.elements));
      }
    });
  }
  __device__ void load_whole(void* memory, Dtype dtype, int element) {
    if constexpr (kWhole) load(memory, dtype, element);
  }
  __device__ void load_part(void* memory, Dtype dtype, int element) {
    if constexpr (!kWhole) load(memory, dtype, element);
  }
  __device__ void store_whole(void* memory, Dtype dtype, int element) const {
    if constexpr (kWhole) store(memory, dtype, element);
  }
  __device__ void store_part(void* memory, Dtype dtype, int element) const {
    if constexpr (!kWhole) store(memory, dtype, element);
  }
  __device__ param_t& at(int part, int j) { return wide.at(part, j); }
};

}  // namespace sgdr_fused::cuda
