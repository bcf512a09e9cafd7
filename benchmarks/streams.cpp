// The limit of a step: a loop that reads and writes the streams of memory that the update has to,
// in the same tensors, with the same threads, and with no more arithmetic than keeps the compiler
// from leaving it out.
#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace {

constexpr int kMaxWritten = 4;
constexpr int64_t kUnit = 64;      // threads meet at multiples of this many elements, as in a step
constexpr int64_t kGrain = 32768;  // elements that are worth a thread, as in a step

using Written = std::array<float*, kMaxWritten>;

struct Span {
  Written written;
  const float* read;
  int64_t numel, first_unit;
};

// `zero` is 0, which the compiler does not know: what is written is what was there.
template <int kWritten>
float stream(const Span& span, float zero, int64_t begin, int64_t end) {
  const float* read = span.read;
  if constexpr (kWritten == 0) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += read[i];
    return sum;
  } else {
    const Written& w = span.written;
    float* const w0 = w[0];
    float* const w1 = w[1];
    float* const w2 = w[2];
    float* const w3 = w[3];
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const float nothing = read[i] * zero;
      w0[i] += nothing;
      if constexpr (kWritten > 1) w1[i] += nothing;
      if constexpr (kWritten > 2) w2[i] += nothing;
      if constexpr (kWritten > 3) w3[i] += nothing;
    }
    return 0;
  }
}

using Stream = float (*)(const Span&, float, int64_t, int64_t);
constexpr Stream kStreams[] = {stream<0>, stream<1>, stream<2>, stream<3>, stream<4>};

float* data(const at::Tensor& tensor, int64_t numel) {
  if (tensor.scalar_type() != at::kFloat || !tensor.is_contiguous() || tensor.numel() != numel) {
    throw std::invalid_argument("streams are of contiguous float32 tensors of equal sizes");
  }
  return tensor.data_ptr<float>();
}

// One pass: element by element, each of `written` is read and written, and what read() was given is
// read.
class Pass {
 public:
  Pass(const std::vector<at::Tensor>& sizes_of, const std::vector<std::vector<at::Tensor>>& written)
      : stream_(kStreams[written.size()]) {
    for (size_t i = 0; i < sizes_of.size(); ++i) {
      const int64_t numel = sizes_of[i].numel();
      Span span = {{}, nullptr, numel, units_};
      for (size_t k = 0; k < written.size(); ++k) span.written[k] = data(written[k].at(i), numel);
      spans_.push_back(span);
      units_ += (numel + kUnit - 1) / kUnit;
    }
  }

  void read(const std::vector<at::Tensor>& tensors) {
    for (size_t i = 0; i < spans_.size(); ++i)
      spans_[i].read = data(tensors.at(i), spans_[i].numel);
  }

  void run() {
    at::parallel_for(0, units_, kGrain / kUnit, [&](int64_t first, int64_t last) {
      const auto after =
          std::upper_bound(spans_.begin(), spans_.end(), first,
                           [](int64_t unit, const Span& span) { return unit < span.first_unit; });
      volatile float kept = 0;
      for (auto span = after - 1; span != spans_.end() && span->first_unit < last; ++span) {
        const int64_t begin = std::max<int64_t>(0, first - span->first_unit) * kUnit;
        const int64_t end = std::min(span->numel, (last - span->first_unit) * kUnit);
        kept = stream_(*span, zero_, begin, end);
      }
      static_cast<void>(kept);
    });
  }

 private:
  Stream stream_;
  std::vector<Span> spans_;
  int64_t units_ = 0;
  volatile float zero_ = 0;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  pybind11::class_<Pass>(module, "Pass")
      .def(pybind11::init<const std::vector<at::Tensor>&,
                          const std::vector<std::vector<at::Tensor>>&>())
      .def("read", &Pass::read)
      .def("run", &Pass::run, pybind11::call_guard<pybind11::gil_scoped_release>());
}
