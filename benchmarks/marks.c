// By these calls instructions.py tells callgrind to count from here on, and to write what it has
// counted since the last mark.
#include <valgrind/callgrind.h>

void start(void) { CALLGRIND_START_INSTRUMENTATION; }

void mark(void) { CALLGRIND_DUMP_STATS; }
