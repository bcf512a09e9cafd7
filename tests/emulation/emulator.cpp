// See emulator.h.
#include "emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#endif

// The linker names the ends of a section. Weak: there may be no shared memory at all.
extern "C" __attribute__((weak)) char __start_emulated_shared[], __stop_emulated_shared[];

namespace emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;  // its frames are larger
#else
constexpr size_t kStackBytes = 128 << 10;  // a kernel's parameters take up to 32 KB of it
#endif

// What runs on a stack of its own. Entered once through a ucontext, which asks the kernel for its
// signal mask; from then on by jumps, which do not.
struct Fiber {
  jmp_buf position;
  const void* stack;
  size_t stack_bytes;
};

struct Thread {
  Fiber fiber;
  Scope waits;
  bool done;
  uint64_t lane_value;
  bool vote;
};

// All of the state: one launch at a time, under `mutex`.
std::mutex mutex;
std::deque<Thread> threads;  // that never move
Fiber scheduler;
unsigned current, num_threads, block, num_blocks;
const std::function<void()>* kernel_of_launch;
std::string fault_of_launch;
std::mt19937 random_order(1);
int64_t launches, first_block;

void leave_for([[maybe_unused]] const Fiber& fiber, [[maybe_unused]] void** fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, fiber.stack, fiber.stack_bytes);
#endif
}

void arrive([[maybe_unused]] void* fake_stack, [[maybe_unused]] Fiber* from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, from ? &from->stack : nullptr,
                                  from ? &from->stack_bytes : nullptr);
#endif
}

#if defined(__SANITIZE_ADDRESS__)
// libc's own. The sanitizer's unpoisons the whole stack at each jump, for it takes the frames on it
// for left; here they are not, and leave_for() has told it where the next ones are.
const auto long_jump = reinterpret_cast<void (*)(jmp_buf, int)>(
    dlsym(dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD), "_longjmp"));
#else
const auto long_jump = _longjmp;
#endif

// From the scheduler to a thread or back. A jump leaves the stack as it is, so the frame that
// _setjmp returns into a second time is still there.
void jump(Fiber& from, Fiber& to) {
  void* fake_stack = nullptr;
  leave_for(to, &fake_stack);
  if (_setjmp(from.position) == 0) long_jump(to.position, 1);
  arrive(fake_stack, nullptr);
}

void back_to_scheduler() { jump(threads[current].fiber, scheduler); }

// Runs a kernel each time that the scheduler comes by, after a first time that only leads here.
void thread_main() {
  arrive(nullptr, &scheduler);
  for (;;) {
    back_to_scheduler();
    (*kernel_of_launch)();
    threads[current].done = true;
  }
}

void make_threads(unsigned count) {
  while (threads.size() < count) {
    void* stack =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    Fiber& fiber = threads.emplace_back().fiber;
    fiber.stack = stack;
    fiber.stack_bytes = kStackBytes;
    current = static_cast<unsigned>(threads.size()) - 1;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    makecontext(&context, thread_main, 0);
    void* fake_stack = nullptr;
    leave_for(fiber, &fake_stack);
    if (_setjmp(scheduler.position) == 0) setcontext(&context);
    arrive(fake_stack, nullptr);
  }
}

// After a fault they stand in the middle of the kernel.
void drop_threads() {
  for (const Thread& thread : threads) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(thread.fiber.stack, thread.fiber.stack_bytes);
#endif
    munmap(const_cast<void*>(thread.fiber.stack), thread.fiber.stack_bytes);
  }
  threads.clear();
}

std::vector<unsigned> shuffled(unsigned first, unsigned count) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), first);
  std::shuffle(order.begin(), order.end(), random_order);
  return order;
}

// Lets the threads run that wait for nothing.
void run_threads(const std::vector<unsigned>& order) {
  for (const unsigned i : order) {
    if (threads[i].done || threads[i].waits != Scope::kNone || !fault_of_launch.empty()) continue;
    current = i;
    jump(scheduler, threads[i].fiber);
  }
}

// Ends the waiting of threads that all wait for the same; false: they do not.
bool release(unsigned begin, unsigned end, Scope scope) {
  const auto all = [&](auto condition) {
    return std::all_of(threads.begin() + begin, threads.begin() + end, condition);
  };
  if (!all([&](const Thread& thread) { return !thread.done && thread.waits == scope; }))
    return false;
  for (unsigned i = begin; i < end; ++i) threads[i].waits = Scope::kNone;
  return true;
}

void run_block() {
  std::memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
  for (unsigned i = 0; i < num_threads; ++i) {
    threads[i].waits = Scope::kNone;
    threads[i].done = false;
  }
  const auto all_done = [] {
    return std::all_of(threads.begin(), threads.begin() + num_threads,
                       [](const Thread& thread) { return thread.done; });
  };
  while (fault_of_launch.empty()) {
    run_threads(shuffled(0, num_threads));
    if (!fault_of_launch.empty() || all_done()) return;
    bool released = release(0, num_threads, Scope::kBlock);
    for (unsigned warp = 0; warp < num_threads; warp += kWarp) {
      released |= release(warp, std::min(warp + kWarp, num_threads), Scope::kWarp);
    }
    if (!released) fault_of_launch = "not all threads of a block or warp reach a barrier";
  }
}

}  // namespace

int64_t stream, records;

Index thread_index() { return {current, 0, 0}; }
Index block_index() { return {block, 0, 0}; }
Index block_size() { return {num_threads, 1, 1}; }
Index grid_size() { return {num_blocks, 1, 1}; }

void wait(Scope scope) {
  threads[current].waits = scope;
  back_to_scheduler();
}

bool wait_for_any(bool value) {
  threads[current].vote = value;
  wait(Scope::kBlock);
  const bool any = std::any_of(threads.begin(), threads.begin() + num_threads,
                               [](const Thread& thread) { return thread.vote; });
  wait(Scope::kBlock);  // until all have counted
  return any;
}

uint64_t& lane_value(unsigned delta) {
  const unsigned other = current + delta;
  const bool same_warp = other / kWarp == current / kWarp && other < num_threads;
  return threads[same_warp ? other : current].lane_value;
}

void check(bool condition, const char* fault) {
  if (condition) return;
  fault_of_launch = fault;
  back_to_scheduler();  // which lets nobody run any more
}

bool run(unsigned blocks, unsigned threads_per_block, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(mutex);
  make_threads(threads_per_block);
  ++launches;
  kernel_of_launch = &kernel;
  num_threads = threads_per_block;
  num_blocks = blocks;
  fault_of_launch.clear();
  const unsigned first = static_cast<unsigned>(std::min<int64_t>(first_block, blocks));
  for (const unsigned i : shuffled(first, blocks - first)) {
    block = i;
    run_block();
  }
  if (!fault_of_launch.empty()) drop_threads();
  return fault_of_launch.empty();
}

const char* fault() { return fault_of_launch.c_str(); }

}  // namespace emulator

// For ctypes.
#pragma GCC visibility push(default)
extern "C" {
int64_t emulator_launches() { return emulator::launches; }
// Blocks before this one are left out of every launch, until it is set to 0 again.
void emulator_set_first_block(int64_t first) { emulator::first_block = first; }
// Which stream is the current one; and how often the allocator was told that one uses memory.
void emulator_set_stream(int64_t number) { emulator::stream = number; }
int64_t emulator_records() { return emulator::records; }
}
#pragma GCC visibility pop
