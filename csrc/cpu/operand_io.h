// A tensor's elements as the CPU's loops use them: in the type of the arithmetic, side by side.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/instruction_set.h"
#include "math/rounding.h"
#include "step/args.h"

namespace sgdr_fused::cpu {

// Elements that are worked on at a time where they have to be brought into another type or order,
// and back: so few that all operands' stay in the first-level cache.
constexpr int64_t kBlock = 512;

// Ranges of different threads meet at multiples of this many elements, so that no two threads write
// to one cache line of the same tensor. Blocks begin at such multiples too, and end there or at the
// tensor's end.
constexpr int64_t kUnit = 64;
static_assert(kBlock % kUnit == 0);

// One operand of a tensor, and what is needed to load and store its elements.
struct OperandIO {
  void* data;
  Dtype dtype;
  const Layout* layout;            // null: dense
  int operand;                     // its place in the layout
  int16_t* remainder;              // what `data` has no room for; null: none
  const RandomRounding* rounding;  // of BFloat16; null: it is rounded to the nearest
};

template <class T>
constexpr Dtype kDtypeOf = std::is_same_v<T, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// Whether the arithmetic in T can be done right there.
template <class T>
bool in_place(const OperandIO& operand) {
  return operand.layout == nullptr && operand.dtype == kDtypeOf<T>;
}

// Elements [begin, begin + count) as runs of a constant stride: one run where they are dense, else
// at most one per row of the last dimension.
class Runs {
 public:
  Runs(const OperandIO& operand, int64_t begin, int64_t count)
      : operand_(operand), left_(count), offset(begin), size(count) {
    if (operand.layout != nullptr) {
      coordinates_of(*operand.layout, begin, at_);
      find_run();
    }
  }

  void advance() {
    left_ -= size;
    done += size;
    if (left_ == 0) {
      size = 0;
      return;
    }
    const Layout& layout = *operand_.layout;
    int dim = layout.dims - 1;
    at_[dim] += size;
    for (; dim > 0 && at_[dim] == layout.sizes[dim]; --dim) {
      at_[dim] = 0;
      ++at_[dim - 1];
    }
    find_run();
  }

 private:
  void find_run() {
    const Layout& layout = *operand_.layout;
    const int64_t (&strides)[kMaxDims] = layout.strides[operand_.operand];
    const int last = layout.dims - 1;
    offset = 0;
    for (int dim = 0; dim <= last; ++dim) offset += at_[dim] * strides[dim];
    stride = strides[last];
    size = std::min(left_, layout.sizes[last] - at_[last]);
  }

  const OperandIO& operand_;
  int64_t left_;
  int64_t at_[kMaxDims] = {};

 public:
  int64_t offset;      // of the run's first element in the operand
  int64_t stride = 1;  // from one to the next
  int64_t size;        // 0: there is no run left
  int64_t done = 0;    // elements before the run
};

template <class T, class scalar_t>
struct LoadLoop {
  SGDR_HOST_DEVICE static void run(const scalar_t* from, int64_t stride, int64_t count, T* to) {
    if (stride == 1) {
      SGDR_INDEPENDENT
      for (int64_t i = 0; i < count; ++i) to[i] = load(from[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = load(from[i * stride]);
    }
  }
};

template <class T, class scalar_t>
struct StoreLoop {
  SGDR_HOST_DEVICE static void run(scalar_t* to, int64_t stride, int64_t count, const T* from) {
    if (stride == 1) {
      SGDR_INDEPENDENT
      for (int64_t i = 0; i < count; ++i) store(to[i], from[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) store(to[i * stride], from[i]);
    }
  }
};

template <class scalar_t>
struct CopyLoop {
  SGDR_HOST_DEVICE static void run(scalar_t* to, int64_t to_stride, const scalar_t* from,
                                   int64_t from_stride, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = from[i * from_stride];
  }
};

// 16-bit elements as they are stored, side by side: where they are, or else in `scratch`.
template <class scalar_t>
scalar_t* fetch_stored(const OperandIO& operand, int64_t begin, int64_t count, scalar_t* scratch) {
  scalar_t* data = static_cast<scalar_t*>(operand.data);
  if (operand.layout == nullptr) return data + begin;
  for (Runs runs(operand, begin, count); runs.size > 0; runs.advance()) {
    run<CopyLoop<scalar_t>>(scratch + runs.done, int64_t{1}, data + runs.offset, runs.stride,
                            runs.size);
  }
  return scratch;
}

template <class scalar_t>
void put_back_stored(const OperandIO& operand, int64_t begin, int64_t count, scalar_t* from) {
  if (operand.layout == nullptr) return;
  scalar_t* data = static_cast<scalar_t*>(operand.data);
  for (Runs runs(operand, begin, count); runs.size > 0; runs.advance()) {
    run<CopyLoop<scalar_t>>(data + runs.offset, runs.stride, from + runs.done, int64_t{1},
                            runs.size);
  }
}

template <class scalar_t>
struct JoinLoop {
  SGDR_HOST_DEVICE static void run(const scalar_t* params, const int16_t* remainders, int64_t count,
                                   float* to) {
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) to[i] = join(params[i], remainders[i]);
  }
};

template <class scalar_t>
struct SplitLoop {
  SGDR_HOST_DEVICE static void run(scalar_t* params, int16_t* remainders, int64_t count,
                                   const float* from) {
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) split(params[i], remainders[i], from[i]);
  }
};

struct StoreRandomlyLoop {
  SGDR_HOST_DEVICE static void run(BFloat16* to, uint32_t key, uint32_t first, int64_t count,
                                   const float* from) {
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      store_randomly(to[i], from[i], rounding_bits(key, first + static_cast<uint32_t>(i)));
    }
  }
};

// ---- Storages: how an operand's elements are stored, apart from what they are. Each has
//   load(operand, begin, count, to)     from memory: the elements [begin, begin + count), in the
//                                       type of the arithmetic; there are kBlock of them at most
//   store(operand, begin, count, from)  back to memory
// and with_storage() below says which operand has which: each state of a parameter may have its
// own. A storage that shares something among a group of elements, such as a scale, is one more of
// these. No group of its elements is divided if their number divides kUnit.

// Each element by itself, rounded to the nearest.
template <class T, class scalar_t>
struct PlainStorage {
  static void load(const OperandIO& operand, int64_t begin, int64_t count, T* to) {
    const scalar_t* data = static_cast<const scalar_t*>(operand.data);
    for (Runs runs(operand, begin, count); runs.size > 0; runs.advance()) {
      run<LoadLoop<T, scalar_t>>(data + runs.offset, runs.stride, runs.size, to + runs.done);
    }
  }
  static void store(const OperandIO& operand, int64_t begin, int64_t count, const T* from) {
    scalar_t* data = static_cast<scalar_t*>(operand.data);
    for (Runs runs(operand, begin, count); runs.size > 0; runs.advance()) {
      run<StoreLoop<T, scalar_t>>(data + runs.offset, runs.stride, runs.size, from + runs.done);
    }
  }
};

// The same, but rounded up or down at random.
struct RandomlyRoundedStorage : PlainStorage<float, BFloat16> {
  static void store(const OperandIO& operand, int64_t begin, int64_t count, const float* from) {
    BFloat16 scratch[kBlock];
    const bool dense = operand.layout == nullptr;
    BFloat16* to = dense ? static_cast<BFloat16*>(operand.data) + begin : scratch;
    const int word = operand.operand == kParam ? 0 : 1 + operand.operand - kFirstState;
    for (int64_t done = 0; done < count;) {
      const int64_t cell = (begin + done) / kCell, first = (begin + done) % kCell;
      const int64_t size = std::min(count - done, kCell - first);
      const uint32_t key = rounding_key(*operand.rounding, cell).words[word];
      run<StoreRandomlyLoop>(to + done, key, static_cast<uint32_t>(first), size, from + done);
      done += size;
    }
    put_back_stored(operand, begin, count, to);
  }
};

// A parameter in 16 bits and its remainder in 16 more.
template <class scalar_t>
struct SplitStorage {
  static OperandIO remainder_of(const OperandIO& operand) {
    return {operand.remainder, operand.dtype, operand.layout, kRemainder, nullptr, nullptr};
  }
  static void load(const OperandIO& operand, int64_t begin, int64_t count, float* to) {
    scalar_t params[kBlock];
    int16_t remainders[kBlock];
    run<JoinLoop<scalar_t>>(fetch_stored(operand, begin, count, params),
                            fetch_stored(remainder_of(operand), begin, count, remainders), count,
                            to);
  }
  static void store(const OperandIO& operand, int64_t begin, int64_t count, const float* from) {
    scalar_t params[kBlock];
    int16_t remainders[kBlock];
    const bool dense = operand.layout == nullptr;
    scalar_t* p = dense ? static_cast<scalar_t*>(operand.data) + begin : params;
    int16_t* r = dense ? operand.remainder + begin : remainders;
    run<SplitLoop<scalar_t>>(p, r, count, from);
    put_back_stored(operand, begin, count, p);
    put_back_stored(remainder_of(operand), begin, count, r);
  }
};

// Calls f with the operand's storage.
template <class T, class F>
void with_storage(const OperandIO& operand, const F& f) {
  if constexpr (std::is_same_v<T, double>) {
    f(PlainStorage<T, double>());
  } else if (operand.remainder != nullptr) {
    operand.dtype == Dtype::kBFloat16 ? f(SplitStorage<BFloat16>()) : f(SplitStorage<Half>());
  } else if (operand.dtype == Dtype::kBFloat16) {
    operand.rounding != nullptr ? f(RandomlyRoundedStorage()) : f(PlainStorage<T, BFloat16>());
  } else if (operand.dtype == Dtype::kFloat16) {
    f(PlainStorage<T, Half>());
  } else {
    f(PlainStorage<T, float>());
  }
}

// The elements in T: where they are, or else in `scratch`.
template <class T>
T* fetch(const OperandIO& operand, int64_t begin, int64_t count, T* scratch) {
  if (in_place<T>(operand)) return static_cast<T*>(operand.data) + begin;
  with_storage<T>(operand,
                  [&](const auto& storage) { storage.load(operand, begin, count, scratch); });
  return scratch;
}

// Back to where fetch() took them from.
template <class T>
void put_back(const OperandIO& operand, int64_t begin, int64_t count, const T* from) {
  if (in_place<T>(operand)) return;
  with_storage<T>(operand,
                  [&](const auto& storage) { storage.store(operand, begin, count, from); });
}

}  // namespace sgdr_fused::cpu
