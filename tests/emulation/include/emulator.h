// Runs kernels on the CPU: the blocks of a launch one after another in a shuffled order, the
// threads of a block in turns, each in a shuffled order again.
//
// Every thread has a stack of its own and runs until it waits (at a barrier, at a shuffle) or ends.
// Then the next one runs. So a thread that reads what another has yet to write, because a barrier
// is missing, reads poison or what a block before left, unless it happens to come later.
#pragma once

#include <cstdint>
#include <functional>

namespace emulator {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kWarp = 32;

struct Index {
  unsigned x, y, z;
};
enum class Scope { kNone, kBlock, kWarp };

Index thread_index();
Index block_index();
Index block_size();
Index grid_size();

// Until all threads of the scope wait.
void wait(Scope scope);

// Until all threads of the block wait; then, whether one of them passed true.
bool wait_for_any(bool value);

// What the thread `delta` lanes up the warp has put there; its own beyond the warp's end.
uint64_t& lane_value(unsigned delta = 0);

// False: something that a GPU does not define happened, fault() says what.
// The current stream's number, and how often the allocator was told of a stream.
extern int64_t stream, records;

bool run(unsigned blocks, unsigned threads, const std::function<void()>& kernel);
const char* fault();

// Ends the launch with a fault.
void check(bool condition, const char* fault);

}  // namespace emulator
