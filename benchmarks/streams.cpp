// The limit of a step: a loop that reads and writes the streams of memory that the update has to,
// in the same tensors, with the same threads, and with no more arithmetic than keeps the compiler
// from leaving it out.
#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t kUnit = 64;      // threads meet at multiples of this many elements, as in a step
constexpr int64_t kGrain = 32768;  // elements that are worth a thread, as in a step

volatile float zero = 0;  // the compiler does not know that: what is written is what was there
volatile float kept;

// Elements [begin, end) of one tensor: `read` is read, each of `written` is read and written.
template <int kWritten>
void stream(float* const* written, const float* read, int64_t begin, int64_t end) {
  if constexpr (kWritten == 0) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += read[i];
    kept = sum;
  } else {
    const float factor = zero;
    float* const w0 = written[0];
    float* const w1 = kWritten > 1 ? written[1] : nullptr;
    float* const w2 = kWritten > 2 ? written[2] : nullptr;
    float* const w3 = kWritten > 3 ? written[3] : nullptr;
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const float nothing = read[i] * factor;
      w0[i] += nothing;
      if constexpr (kWritten > 1) w1[i] += nothing;
      if constexpr (kWritten > 2) w2[i] += nothing;
      if constexpr (kWritten > 3) w3[i] += nothing;
    }
  }
}

using Stream = void (*)(float* const*, const float*, int64_t, int64_t);
constexpr Stream kStreams[] = {stream<0>, stream<1>, stream<2>, stream<3>, stream<4>};

}  // namespace

// `tensors` of numel[i] elements, each rounded up to units, of which first_unit[i] come before it;
// first_unit[tensors] are all. `written` has num_written pointers for each, `read` has one.
extern "C" void run(int64_t tensors, const int64_t* numel, const int64_t* first_unit,
                    int64_t num_written, float* const* written, const float* const* read,
                    int64_t max_threads) {
  const int64_t units = first_unit[tensors];
  const int64_t threads =
      std::clamp<int64_t>(units * kUnit / kGrain, 1, std::max<int64_t>(max_threads, 1));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t thread = 0; thread < threads; ++thread) {
    const int64_t first = units * thread / threads, last = units * (thread + 1) / threads;
    int64_t i = std::upper_bound(first_unit, first_unit + tensors, first) - first_unit - 1;
    for (; i < tensors && first_unit[i] < last; ++i) {
      const int64_t begin = std::max<int64_t>(0, first - first_unit[i]) * kUnit;
      const int64_t end = std::min(numel[i], (last - first_unit[i]) * kUnit);
      kStreams[num_written](written + i * num_written, read[i], begin, end);
    }
  }
}
