// runtime.h: what the chapters of the runtime share.
//
// Read fibers.cpp first (a thread is a fiber), then meetings.cpp (a collective is a meeting), then watch.cpp (every
// access can be watched) and profile.cpp (what the watched addresses cost). This header only names the things that
// pass between them. The kernels are a separate library, compiled with device.h, which calls the functions that are
// declared there.
#pragma once
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace emulator {

struct Dim {
  unsigned x, y, z;
};
struct Place {
  const char* file;
  int line;
};                         // where in the kernel's source; file is null where it is not known
using Code = const void*;  // an address in the kernel's machine code, which Python turns into a line

// What a thread is doing. Only a READY thread can be resumed.
enum State : uint8_t { READY, IN_WARP, AT_BARRIER, AT_NAMED, GATHERING, DONE };

// A point in the time of one thread: which barrier period, which thread, and how many warp barriers it had passed.
struct Stamp {
  uint32_t period = 0;  // 0: never
  uint32_t thread : 10, clock : 22;
  Stamp() : thread(0), clock(0) {}
  Stamp(uint32_t period, unsigned thread, unsigned clock) : period(period), thread(thread), clock(clock) {}
};

// What a thread hands on when it has passed a fence, see fences.cpp: what it had seen, and when; and by what.
struct Release {
  uint32_t period = 0;
  unsigned warp = 0;
  uint32_t seen[32] = {};
  Stamp atomic;
};
using Releases = std::map<std::pair<uint32_t, unsigned>, Release>;  // by the first period of a block, and the thread

struct Copy {
  char* to;
  const char* from;
  unsigned bytes, valid;
  Code code;
};  // one cp.async in flight

struct Thread {
  Dim index;  // threadIdx
  unsigned number, lane, warp;
  void* stack_pointer = nullptr;  // where the fiber goes on
  char *stack = nullptr, *stack_end = nullptr;
  State state = READY;
  // What it waits for, when it waits.
  const char* what = nullptr;
  Place place{};
  Code code = nullptr;  // the same as an address; or where it spins
  unsigned mask = 0;
  void (*complete)(void**, unsigned) = nullptr;
  void* payload = nullptr;
  unsigned passed_by = 0, passed_mask = 0;  // lanes that met here without it, while it waited for them
  int predicate = 0;
  unsigned long busy = 0;  // atomics since it last waited: a sign of spinning
  // Checked mode: which clock of each lane of its warp it has seen, itself included.
  uint32_t seen[32] = {};
  Release fence, block_fence;  // at its last __threadfence, and __threadfence or __threadfence_block
  Releases acquired;
  std::vector<std::vector<Copy>> groups;  // committed cp.async groups, oldest first
  std::vector<Copy> open;                 // cp.async not yet committed
};

struct Warp {
  unsigned exited = 0, waiting = 0;  // bit masks over its lanes
  unsigned mask = 0;                 // what the first of those that wait names
  bool mixed = false;                // whether another names something else
};

enum Memory : uint32_t { GLOBAL, SHARED };
struct Cells;    // the shadow of a region, see watch.cpp
struct Region {  // a range of memory that a kernel may touch
  char *low, *high;
  Memory memory;
  bool writable, written;  // written: its bytes hold values when the launch begins
  const char* name;
  std::shared_ptr<Cells> cells;
};

// What Python asks for. Keep in step with `Request` in __init__.py.
struct RegionRequest {
  uint64_t low, bytes;
  uint32_t kind, writable, written, unused;
  const char* name;
};
enum RegionKind : uint32_t { ARGUMENT, STATIC_SHARED, DEVICE_VARIABLE };
struct Request {
  void (*call)(void**);
  void** arguments;
  char* (*shared_base)();  // this worker's dynamic shared memory, in the kernel's library
  uint64_t shared_offset;  // where that is in the library's block of thread-local storage
  const RegionRequest* regions;
  uint64_t n_regions, seed;
  uint32_t grid[3], block[3], shared_bytes, order, mode, workers, print_lines, unused;
};
enum Order { FORWARD, REVERSE, RANDOM };
enum Mode { PLAIN, CHECKED, PROFILED };

// The first thing that went wrong. Keep in step with `Finding` in __init__.py.
struct Finding {
  char what[3072], file[1024];
  int32_t line, found;
  uint64_t code;  // offset in the kernel's library, where line is not known
  uint32_t block[3], thread[3];
};

struct Launch {
  const Request* request;
  char* library;  // where the kernel's library begins
  std::vector<unsigned> block_order;
  std::atomic<unsigned> next_block{0};
  std::atomic<bool> stop{false};
  std::atomic_flag reporting = ATOMIC_FLAG_INIT;
  Finding* finding;
};

struct Read {
  const Thread* thread;
  const char* address;
  uint32_t code;
};

struct NamedBarrier {
  unsigned arrived = 0;
  std::vector<Thread*> waiting;
  Releases brought;
};

struct Worker {  // one streaming multiprocessor: it runs one block at a time
  Launch* launch = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> order;  // in which the threads of the block take turns
  unsigned n_threads = 0, barrier_true = 0;
  NamedBarrier named[16];
  Thread* current = nullptr;
  const Thread* meeting = nullptr;  // the first lane of the warp operation that is taking place
  void* scheduler = nullptr;  // the scheduler's own stack pointer
  unsigned block_number = 0;
  uint64_t random = 0;
  bool failed = false, watching = false, profiling = false;
  char *shared = nullptr, *shared_statics = nullptr;
  // Whether a thread has come to a meeting or to its end since the last look, and who reads one place again and again.
  bool progress = false;
  const char* spin_address = nullptr;
  unsigned spin_count = 0;
  // Checked mode.
  uint32_t period = 0, first_period = 0;  // counts barriers, over all blocks of a launch
  std::vector<uint32_t> block_periods;    // the first period of each block, and its number
  std::vector<unsigned> block_numbers;
  std::vector<Region> regions;
  Region* last_region = nullptr;
  uint32_t fence_period = 0;                           // of the last __threadfence of the block
  std::unordered_map<const char*, Releases> released;  // at each place of atomic operations
  std::unordered_set<uint32_t> guesses;                // code that reads what an atomicCAS then compares with
  Read recent[8] = {};                                 // the last reads
  unsigned n_reads = 0;
};
extern __thread Worker* worker;

// What a thread can ask about itself. Keep in step with `emulator_self` in device.h.
struct Self {
  Dim thread, block, block_dim, grid_dim;
  unsigned number;
};
extern "C" __attribute__((visibility("default"))) __thread Self emulator_self;

// fibers.cpp
void park();  // let other threads run until this one is READY again
// Say what went wrong, and leave this thread for good. @CODE@ in the text becomes a line of the source.
[[noreturn]] void fail(Place place, Code code, const char* format, ...) __attribute__((format(printf, 3, 4)));
void vreport(Place place, Code code, const char* format, va_list values);
void report(Place place, Code code, const char* format, ...) __attribute__((format(printf, 3, 4)));
uint64_t offset_of(Code code);  // in the kernel's library
void shuffle_order(std::vector<unsigned>& order, unsigned n, unsigned how);

// meetings.cpp
void leave_warp(Thread& thread);  // it has returned from the kernel
bool release_barrier();           // true if all threads were at the barrier and go on
bool release_gatherings();        // true if lanes that asked who is active have been told
void report_deadlock();

// watch.cpp
enum Access : int { READ, WRITE, ATOMIC };
void begin_watch();
void end_watch();
void watch(const void* address, unsigned bytes, Access access, Code code);
void join_clocks(Warp& warp, unsigned first_thread, unsigned lanes);
void copy_begins(const Copy& copy);
void copy_lands(const Copy& copy);

// fences.cpp
void hand_over(const Region& region, const char* address, bool releases);
void bring(Releases& to, Thread& thread);
void add_all(Releases& to, const Releases& from);
void share_acquired(Thread* threads, unsigned n, unsigned lanes);
bool handed_over(Stamp event, Access access);

// profile.cpp
void record(const Region& region, const char* address, unsigned bytes, Access access, Code code);
void fold_profile();
}  // namespace emulator

#define EXPORT extern "C" __attribute__((visibility("default")))
