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

// One operand of a tensor.
struct Memory {
  void* data;
  Dtype dtype;
  const Layout* layout;  // null: dense
  int operand;           // its place in the layout
  int16_t* remainder;    // what `data` has no room for; null: none
  const Lot* lot;        // how BFloat16 is rounded; null: to the nearest
};

template <class T>
constexpr Dtype kDtypeOf = std::is_same_v<T, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// Whether the arithmetic in T can be done right there.
template <class T>
bool in_place(const Memory& memory) {
  return memory.layout == nullptr && memory.dtype == kDtypeOf<T>;
}

// Elements [begin, begin + count) as runs of a constant stride: one run where they are dense, else
// at most one per row of the last dimension.
class Runs {
 public:
  Runs(const Memory& memory, int64_t begin, int64_t count)
      : memory_(memory), left_(count), offset(begin), size(count) {
    if (memory.layout != nullptr) {
      coordinates_of(*memory.layout, begin, at_);
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
    const Layout& layout = *memory_.layout;
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
    const Layout& layout = *memory_.layout;
    const int64_t (&strides)[kMaxDims] = layout.strides[memory_.operand];
    const int last = layout.dims - 1;
    offset = 0;
    for (int dim = 0; dim <= last; ++dim) offset += at_[dim] * strides[dim];
    stride = strides[last];
    size = std::min(left_, layout.sizes[last] - at_[last]);
  }

  const Memory& memory_;
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
#pragma GCC ivdep
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
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) store(to[i], from[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) store(to[i * stride], from[i]);
    }
  }
};

template <class T, class scalar_t>
void load_elements(const Memory& memory, int64_t begin, int64_t count, T* to) {
  const scalar_t* data = static_cast<const scalar_t*>(memory.data);
  for (Runs runs(memory, begin, count); runs.size > 0; runs.advance()) {
    run<LoadLoop<T, scalar_t>>(data + runs.offset, runs.stride, runs.size, to + runs.done);
  }
}

template <class T, class scalar_t>
void store_elements(const Memory& memory, int64_t begin, int64_t count, const T* from) {
  scalar_t* data = static_cast<scalar_t*>(memory.data);
  for (Runs runs(memory, begin, count); runs.size > 0; runs.advance()) {
    run<StoreLoop<T, scalar_t>>(data + runs.offset, runs.stride, runs.size, from + runs.done);
  }
}

template <class scalar_t>
struct CopyLoop {
  SGDR_HOST_DEVICE static void run(scalar_t* to, int64_t to_stride, const scalar_t* from,
                                   int64_t from_stride, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = from[i * from_stride];
  }
};

// 16-bit elements as they are stored, side by side: where they are, or else in `scratch`.
template <class scalar_t>
scalar_t* fetch_stored(const Memory& memory, int64_t begin, int64_t count, scalar_t* scratch) {
  scalar_t* data = static_cast<scalar_t*>(memory.data);
  if (memory.layout == nullptr) return data + begin;
  for (Runs runs(memory, begin, count); runs.size > 0; runs.advance()) {
    run<CopyLoop<scalar_t>>(scratch + runs.done, int64_t{1}, data + runs.offset, runs.stride,
                            runs.size);
  }
  return scratch;
}

template <class scalar_t>
void put_back_stored(const Memory& memory, int64_t begin, int64_t count, scalar_t* from) {
  if (memory.layout == nullptr) return;
  scalar_t* data = static_cast<scalar_t*>(memory.data);
  for (Runs runs(memory, begin, count); runs.size > 0; runs.advance()) {
    run<CopyLoop<scalar_t>>(data + runs.offset, runs.stride, from + runs.done, int64_t{1},
                            runs.size);
  }
}

template <class scalar_t>
struct JoinLoop {
  SGDR_HOST_DEVICE static void run(const scalar_t* params, const int16_t* remainders, int64_t count,
                                   float* to) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = join(params[i], remainders[i]);
  }
};

template <class scalar_t>
struct SplitLoop {
  SGDR_HOST_DEVICE static void run(scalar_t* params, int16_t* remainders, int64_t count,
                                   const float* from) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) split(params[i], remainders[i], from[i]);
  }
};

struct StoreByLotLoop {
  SGDR_HOST_DEVICE static void run(BFloat16* to, uint32_t key, uint32_t first, int64_t count,
                                   const float* from) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      store_by_lot(to[i], from[i], lot_bits(key, first + static_cast<uint32_t>(i)));
    }
  }
};

inline Memory remainder_of(const Memory& memory) {
  return {memory.remainder, memory.dtype, memory.layout, kRemainder, nullptr, nullptr};
}

template <class scalar_t>
void fetch_joined(const Memory& memory, int64_t begin, int64_t count, float* to) {
  scalar_t params[kBlock];
  int16_t remainders[kBlock];
  run<JoinLoop<scalar_t>>(fetch_stored(memory, begin, count, params),
                          fetch_stored(remainder_of(memory), begin, count, remainders), count, to);
}

template <class scalar_t>
void put_back_split(const Memory& memory, int64_t begin, int64_t count, const float* from) {
  scalar_t params[kBlock];
  int16_t remainders[kBlock];
  const Memory other = remainder_of(memory);
  const bool dense = memory.layout == nullptr;
  scalar_t* p = dense ? static_cast<scalar_t*>(memory.data) + begin : params;
  int16_t* r = dense ? memory.remainder + begin : remainders;
  run<SplitLoop<scalar_t>>(p, r, count, from);
  put_back_stored(memory, begin, count, p);
  put_back_stored(other, begin, count, r);
}

inline void put_back_by_lot(const Memory& memory, int64_t begin, int64_t count, const float* from) {
  BFloat16 scratch[kBlock];
  const bool dense = memory.layout == nullptr;
  BFloat16* to = dense ? static_cast<BFloat16*>(memory.data) + begin : scratch;
  const int operand = memory.operand == kParam ? 0 : 1 + memory.operand - kFirstState;
  for (int64_t done = 0; done < count;) {
    const int64_t cell = (begin + done) / kCell, first = (begin + done) % kCell;
    const int64_t size = std::min(count - done, kCell - first);
    const uint32_t key = lot_key(*memory.lot, cell).words[operand];
    run<StoreByLotLoop>(to + done, key, static_cast<uint32_t>(first), size, from + done);
    done += size;
  }
  put_back_stored(memory, begin, count, to);
}

// The elements in T: where they are, or else in `scratch`.
template <class T>
T* fetch(const Memory& memory, int64_t begin, int64_t count, T* scratch) {
  if (in_place<T>(memory)) return static_cast<T*>(memory.data) + begin;
  if constexpr (std::is_same_v<T, double>) {
    load_elements<T, double>(memory, begin, count, scratch);
  } else if (memory.remainder != nullptr) {
    memory.dtype == Dtype::kBFloat16 ? fetch_joined<BFloat16>(memory, begin, count, scratch)
                                     : fetch_joined<Half>(memory, begin, count, scratch);
  } else if (memory.dtype == Dtype::kBFloat16) {
    load_elements<T, BFloat16>(memory, begin, count, scratch);
  } else if (memory.dtype == Dtype::kFloat16) {
    load_elements<T, Half>(memory, begin, count, scratch);
  } else {
    load_elements<T, float>(memory, begin, count, scratch);
  }
  return scratch;
}

// Back to where fetch() took them from.
template <class T>
void put_back(const Memory& memory, int64_t begin, int64_t count, const T* from) {
  if (in_place<T>(memory)) return;
  if constexpr (std::is_same_v<T, double>) {
    store_elements<T, double>(memory, begin, count, from);
  } else if (memory.remainder != nullptr) {
    memory.dtype == Dtype::kBFloat16 ? put_back_split<BFloat16>(memory, begin, count, from)
                                     : put_back_split<Half>(memory, begin, count, from);
  } else if (memory.dtype == Dtype::kBFloat16 && memory.lot != nullptr) {
    put_back_by_lot(memory, begin, count, from);
  } else if (memory.dtype == Dtype::kBFloat16) {
    store_elements<T, BFloat16>(memory, begin, count, from);
  } else if (memory.dtype == Dtype::kFloat16) {
    store_elements<T, Half>(memory, begin, count, from);
  } else {
    store_elements<T, float>(memory, begin, count, from);
  }
}

}  // namespace sgdr_fused::cpu
