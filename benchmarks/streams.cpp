// The limit of a step: a loop that reads and writes the streams of memory that the update has to
// read and write, in the same tensors and with the same threads. It has only as much arithmetic as
// keeps the compiler from leaving it out.
#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t kUnit = 64;      // threads meet at multiples of this many elements, as in a step
constexpr int64_t kGrain = 32768;  // elements that are worth a thread, as in a step

volatile float zero = 0;  // unknown to the compiler: so the loops write what was there before
volatile float kept;

// Elements [begin, end) of one tensor: each of `written` is read and written, `read` is read, and
// where kBack it is written too.
template <int kWritten, bool kBack = false>
void stream(float* const* written, float* read, int64_t begin, int64_t end) {
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
      if constexpr (kBack) read[i] += nothing;
    }
  }
}

using Stream = void (*)(float* const*, float*, int64_t, int64_t);
constexpr Stream kStreams[] = {stream<0>, stream<1>, stream<2>, stream<3>, stream<4>};
constexpr Stream kStreamsBack[] = {nullptr, stream<1, true>, stream<2, true>, stream<3, true>,
                                   stream<4, true>};

}  // namespace

// The struct of this name in limit.py. Tensor i has numel[i] elements, and first_unit[i] units come
// before it; first_unit[tensors] is the number of all units. It has num_written pointers in
// `written`, and one in `read`, which is written too where writes_back is not 0.
struct Pass {
  int64_t tensors, num_written, writes_back, max_threads;
  const int64_t *numel, *first_unit;
  float* const* written;
  float* const* read;
};

extern "C" void run(const Pass* pass) {
  const int64_t *numel = pass->numel, *first_unit = pass->first_unit;
  const int64_t units = first_unit[pass->tensors];
  const Stream stream = (pass->writes_back != 0 ? kStreamsBack : kStreams)[pass->num_written];

  const auto share = [=](int64_t first, int64_t last) {
    int64_t i = std::upper_bound(first_unit, first_unit + pass->tensors, first) - first_unit - 1;
    for (; i < pass->tensors && first_unit[i] < last; ++i) {
      const int64_t begin = std::max<int64_t>(0, first - first_unit[i]) * kUnit;
      const int64_t end = std::min(numel[i], (last - first_unit[i]) * kUnit);
      stream(pass->written + i * pass->num_written, pass->read[i], begin, end);
    }
  };

  const int64_t threads = std::min(pass->max_threads, units * kUnit / kGrain);
  if (threads <= 1) return share(0, units);  // a team of one would dissolve the team that is there
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t thread = 0; thread < threads; ++thread) {
    share(units * thread / threads, units * (thread + 1) / threads);
  }
}
