// Takes the steps of recorded trainings with csrc/cpu alone, on whatever machine this is compiled
// for: reads trainings from stdin and writes what they leave behind to stdout, both in binary.
// recording.py, which writes the one and reads the other, names the fields in the same order.
//
// Arguments: the number of threads and, if one is to be chosen, the instruction set.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "math/schedule_names.h"
#include "step/fused_step.h"

namespace {

using namespace sgdr_fused;

// The bytes of an operand: aligned as a new array of them is.
using Memory = std::vector<char>;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "replay: %s\n", what);
  std::exit(2);
}

void read_bytes(void* to, size_t size) {
  if (size > 0 && std::fread(to, 1, size, stdin) != size) fail("the input ends too early");
}
void write_bytes(const void* from, size_t size) {
  if (size > 0 && std::fwrite(from, 1, size, stdout) != size) fail("the output cannot be written");
}

template <class T>
T read() {
  T value;
  read_bytes(&value, sizeof(T));
  return value;
}
int64_t integer() { return read<int64_t>(); }
double number() { return read<double>(); }

template <class T>
void write(const T& value) {
  write_bytes(&value, sizeof(T));
}
void write(const Memory& memory) { write_bytes(memory.data(), memory.size()); }

Memory memory() {
  Memory bytes(integer());
  read_bytes(bytes.data(), bytes.size());
  return bytes;
}
// Not null where there are no bytes: a gradient without elements is one.
void* address_of(Memory& memory) {
  static char none;
  return memory.empty() ? &none : memory.data();
}
std::string word() {
  const Memory letters = memory();
  return {letters.begin(), letters.end()};
}

template <class... Algorithms>
int index_of(AlgorithmList<Algorithms...>, const std::string& name) {
  int index = 0, found = -1;
  ((name == Algorithms::kName ? void(found = index) : void(), ++index), ...);
  if (found < 0) fail("unknown algorithm");
  return found;
}

template <class... Algorithms>
bool measures_params(AlgorithmList<Algorithms...>, int algorithm) {
  int index = 0;
  return ((index++ == algorithm && kMeasures<Algorithms>) || ...);
}

int64_t num_threads = 1;

void run_threads(int64_t calls, const std::function<void(int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t call = 0; call < calls; ++call) threads.emplace_back(body, call);
  for (std::thread& thread : threads) thread.join();
}

// A parameter, and all that it carries. Memory without bytes: it does not carry that.
struct Param {
  Tensor tensor = {};
  StorageTypes types;
  Memory param, grad, average, remainder;
  Memory states[kMaxStates];
  double steps, product;

  void read(std::vector<Layout>& layouts) {
    tensor.numel = integer();
    tensor.group = static_cast<int32_t>(integer());
    tensor.index = static_cast<int32_t>(integer());
    tensor.num_states = static_cast<int32_t>(integer());
    types.param = static_cast<Dtype>(integer());
    for (Dtype& type : types.states) type = static_cast<Dtype>(integer());
    tensor.grad_dtype = static_cast<Dtype>(integer());
    tensor.layout = -1;
    if (const int64_t dims = integer(); dims > 0) {
      Layout layout = {};
      layout.dims = static_cast<int32_t>(dims);
      for (int64_t dim = 0; dim < dims; ++dim) layout.sizes[dim] = integer();
      for (auto& strides : layout.strides) {
        for (int64_t dim = 0; dim < dims; ++dim) strides[dim] = integer();
      }
      tensor.layout = static_cast<int32_t>(layouts.size());
      layouts.push_back(layout);
    }
    param = memory();
    for (int k = 0; k < tensor.num_states; ++k) states[k] = memory();
    average = memory();
    remainder = memory();
    const bool has_steps = integer() != 0;
    steps = number();
    const bool has_product = integer() != 0;
    product = number();
    tensor.param = param.data();
    for (int k = 0; k < tensor.num_states; ++k) tensor.states[k] = states[k].data();
    if (!average.empty()) tensor.average = average.data();
    if (!remainder.empty()) tensor.remainder = reinterpret_cast<int16_t*>(remainder.data());
    if (has_steps) tensor.steps = &steps;
    if (has_product) tensor.product = &product;
  }

  void write_all() const {
    write(param);
    for (int k = 0; k < tensor.num_states; ++k) write(states[k]);
    write(average);
    write(remainder);
    write(steps);
    write(product);
    write(grad);
  }
};

class Training {
 public:
  Training() {
    algorithm_ = index_of(AllAlgorithms{}, word());
    groups_.resize(integer());
    for (Group& group : groups_) {
      group = {};
      for (Hyper& hyper : group.hypers) hyper = read_hyper();
      for (double& constant : group.constants) constant = number();
    }
    view_.num_groups = static_cast<int32_t>(groups_.size());
    view_.average.weight = read_hyper();
    view_.average.number = number();
    view_.average.is_mean = integer() != 0;
    view_.average.count = &averaged_;
    view_.rounds_randomly = integer() != 0;
    view_.seed = read<uint64_t>();
    read_clipping();
    params_.resize(integer());
    for (Param& param : params_) param.read(layouts_);
    for (const Param& param : params_) tensors_.push_back(param.tensor);
    finish();
  }

  void take_step(const cpu::Threads& threads) {
    std::vector<double> numbers(groups_.size() * kMaxHypers);
    for (double& value : numbers) value = number();
    const bool has_scale = integer() != 0;
    const float grad_scale = read<float>(), found_inf = read<float>();
    cpu::Step step = {view_,
                      numbers.data(),
                      view_.num_groups,
                      {},
                      has_scale ? &grad_scale : nullptr,
                      has_scale ? &found_inf : nullptr,
                      cpu::average_weight(view_),
                      chunks_.data(),
                      static_cast<int64_t>(chunks_.size())};
    for (size_t i = 0; i < params_.size(); ++i) {
      const bool has_grad = integer() != 0;
      params_[i].grad = memory();
      const bool averages = step.average_weight != 0.0 && tensors_[i].average != nullptr;
      if (!has_grad && !averages) continue;
      step.items.push_back({static_cast<int32_t>(i), params_[i].types,
                            has_grad ? address_of(params_[i].grad) : nullptr});
    }
    if (view_.clipping.sums != nullptr) cpu::measure_grads(step, threads);
    if (view_.param_norms.tensors != nullptr) cpu::measure_params(algorithm_, step, threads);
    cpu::step(algorithm_, step, threads);
  }

  void write_all() const {
    for (const Param& param : params_) param.write_all();
    write(clock_);
    write(averaged_);
    write(skipped_);
    write(norm_);
    write(sums_);
    for (const Squares& squares : squares_) write(squares);
  }

 private:
  Hyper read_hyper() {
    Hyper hyper = {};
    hyper.num_segments = static_cast<int32_t>(integer());
    hyper.first_segment = static_cast<int64_t>(segments_.size());
    if (hyper.num_segments > 0) hyper.source = Source::kSchedule;
    for (int32_t i = 0; i < hyper.num_segments; ++i) read_segment();
    return hyper;
  }

  void read_segment() {
    Segment segment = {};
    segment.kind = kind_named(word());
    segment.mode = mode_named(segment.kind, word());
    segment.first_step = integer();
    segment.shift = integer();
    segment.scale = number();
    for (double& value : segment.values) value = number();
    for (int64_t& length : segment.lengths) length = integer();
    segment.table_size = integer();
    segment.table = static_cast<int64_t>(table_.size());
    for (int64_t i = 0; i < segment.table_size; ++i) table_.push_back(integer());
    segments_.push_back(segment);
  }

  void read_clipping() {
    Clipping& clipping = view_.clipping;
    clipping.max_value = number();
    clipping.max_norm = number();
    clipping.is_on = clipping.max_value < HUGE_VAL || clipping.max_norm >= 0.0;
    if (integer() != 0) {
      clipping.norm = &norm_;
      clipping.sums = &sums_;
      clipping.num_sums = 1;
    }
    if (integer() != 0) clipping.skipped = &skipped_;
  }

  // The addresses, once no vector grows any more.
  void finish() {
    view_.tensors = tensors_.data();
    view_.groups = groups_.data();
    view_.layouts = layouts_.data();
    view_.segments = segments_.data();
    view_.tables = {table_.data(), nullptr};
    view_.clock = &clock_;
    const bool measures = measures_params(AllAlgorithms{}, algorithm_);
    if (!measures && view_.clipping.sums == nullptr) return;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      for (int64_t k = 0; k < num_chunks(tensors_[i]); ++k) {
        chunks_.push_back({static_cast<int32_t>(i), static_cast<int32_t>(k)});
      }
    }
    chunk_sums_.resize(chunks_.size());
    view_.clipping.chunks = chunk_sums_.data();
    view_.clipping.num_chunks = static_cast<int64_t>(chunks_.size());
    if (!measures) return;
    chunk_squares_.resize(chunks_.size());
    squares_.resize(tensors_.size());
    view_.param_norms = {chunk_squares_.data(), squares_.data(), nullptr};
  }

  int algorithm_;
  PlanView view_ = {};
  std::vector<Group> groups_;
  std::vector<Segment> segments_;
  std::vector<int64_t> table_;
  std::vector<Param> params_;
  std::vector<Tensor> tensors_;
  std::vector<Layout> layouts_;
  std::vector<Chunk> chunks_;
  std::vector<ChunkGradSums> chunk_sums_;
  std::vector<Squares> chunk_squares_, squares_;
  int64_t clock_ = 0, averaged_ = 0, skipped_ = 0;
  double norm_ = 0.0;
  GradSums sums_ = {};
};

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) num_threads = std::atoll(arguments[1]);
  if (count > 2) cpu::use_instruction_set(arguments[2]);
  const cpu::Threads threads = {[] { return num_threads; }, run_threads};
  for (int64_t trainings = integer(); trainings > 0; --trainings) {
    Training training;
    for (int64_t steps = integer(); steps > 0; --steps) training.take_step(threads);
    training.write_all();
  }
  return 0;
}
