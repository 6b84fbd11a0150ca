// watch.cpp: every access can be watched.
//
// In checked mode the kernel is compiled with -fsanitize=thread. That makes the compiler call a function before every
// load and store that is not to a private variable; the functions, which would be those of a race detector, are ours
// (at the end of this file). Each call says an address and a size, and the return address says which line. So every
// access is looked at before it happens:
//
//   is it inside an array, to the byte?            (bounds)
//   may it be written?                             (const)
//   is its address a multiple of its size?         (alignment)
//   has somebody written what it reads?            (uninitialised memory)
//   is it ordered with what others did there?      (races)
//
// For the last two, memory has a shadow: a cell for every granule of four bytes (or less, once something narrower is
// accessed). A cell knows the last write, and of the reads and atomics since then at most two each. Two are enough:
// accesses that a later one is ordered after are forgotten, and of those that remain, two in different warps (or, if
// there are none, two lanes of a warp) conflict with any write that one of the others would conflict with.
//
// What orders two accesses of a block: a barrier of the block between them, or, in one warp, a __syncwarp that both
// lanes took part in, directly or through others. Time is counted accordingly. A `period` is the time between two
// barriers; within it each lane has a clock, which ticks at each __syncwarp, and knows which clocks it has seen.
// Accesses of two blocks of one launch are ordered only by a fence and an atomic operation (fences.cpp). Shuffles and
// votes order nothing, as CUDA has it.
#include "runtime.h"
#include <algorithm>
#include <cstdio>
#include <string>
#include <sys/mman.h>

namespace emulator {

struct Event {
  Stamp stamp;
  uint32_t code;
};  // who, when, and where in the kernel's code
struct Cell {
  Event write, reads[2], atomics[2];
  uint32_t copying;  // 1 + the thread whose cp.async is under way to these bytes
};

struct Cells {  // the cells of one region
  Cell* memory;
  size_t n;
  unsigned granule;
  Cells(size_t bytes, unsigned granule) : n((bytes + granule - 1) / granule), granule(granule) {
    memory = static_cast<Cell*>(mmap(nullptr, n * sizeof(Cell) + 1, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  ~Cells() { munmap(memory, n * sizeof(Cell) + 1); }
  Cells(const Cells&) = delete;
};

static const char* NAMES[] = {"read", "write", "atomic operation"};

static std::string block_name(unsigned number) {
  const Dim grid = emulator_self.grid_dim;
  char text[64];
  snprintf(text, sizeof text, "(%u,%u,%u)", number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y);
  return text;
}

static const char* memory_name(const Region& region) { return region.memory == SHARED ? "shared" : "global"; }

// ---- where is it? -------------------------------------------------------------------------------
static Region* region_of(const char* address) {
  Worker& w = *worker;
  if (w.last_region && address >= w.last_region->low && address < w.last_region->high) return w.last_region;
  auto after = std::upper_bound(w.regions.begin(), w.regions.end(), address,
                                [](const char* a, const Region& region) { return a < region.low; });
  if (after == w.regions.begin() || address >= after[-1].high) return nullptr;
  return w.last_region = &after[-1];
}

// The array that an address outside of all arrays was probably meant for.
static const Region* nearest(const char* address, size_t& distance, bool& above) {
  const Region* best = nullptr;
  for (const Region& region : worker->regions) {
    const bool after = address >= region.high;
    const size_t gap = after ? address - region.high : region.low - address;
    if (!best || gap < distance) best = &region, distance = gap, above = after;
  }
  return best;
}

[[noreturn]] static void out_of_bounds(const char* address, unsigned bytes, Access access, Code code) {
  size_t distance = 0;
  bool above = false;
  const Region* region = nearest(address, distance, above);
  if (!address) fail({}, code, "out-of-bounds %s of %u bytes through a null pointer", NAMES[access], bytes);
  if (!region || distance > std::max<size_t>(4096, 16 * (region->high - region->low)))  // not meant for it
    fail({}, code, "out-of-bounds %s of %u bytes at %p, which is in no array", NAMES[access], bytes,
         static_cast<const void*>(address));
  fail({}, code, "out-of-bounds %s of %u bytes, %zu bytes %s `%s` (%zu bytes of %s memory)", NAMES[access], bytes,
       distance, above ? "past the end of" : "before the start of", region->name, size_t(region->high - region->low),
       memory_name(*region));
}

// Its own variables, and those of the runtime. The stack of another thread is neither.
static bool is_private(const char* address, Code code) {
  const Thread& me = *worker->current;
  if (address >= me.stack && address < me.stack_end) return true;
  for (unsigned i = 0; i < worker->n_threads; i++) {
    const Thread& other = worker->threads[i];
    if (address >= other.stack && address < other.stack_end)
      fail({}, code, "access to a local variable of thread %u through its address", i);
  }
  return false;
}

static bool is_constant(const char* address) {  // in the library, but none of the kernel's variables: a table
  static const size_t MOST = 2 << 20;
  const char* library = worker->launch->library;
  return address >= library && address < library + MOST;
}

// ---- is it ordered? -----------------------------------------------------------------------------
static bool ordered(Stamp earlier, const Region& region, Access access = WRITE) {
  if (earlier.period < worker->first_period)  // another block's
    return region.memory == SHARED || !earlier.period || handed_over(earlier, access);
  if (earlier.period < worker->period) return true;
  const Thread& me = *worker->current;
  if (earlier.thread == me.number) return true;
  if (earlier.thread / 32 == me.warp && earlier.clock <= me.seen[earlier.thread % 32]) return true;
  return handed_over(earlier, access);
}

[[noreturn]] static void race(const Region& region, Access mine, const Event& other, Access theirs, Code code) {
  const auto& periods = worker->block_periods;
  const size_t index = std::upper_bound(periods.begin(), periods.end(), other.stamp.period) - periods.begin() - 1;
  const unsigned block = worker->block_numbers[index];
  const bool same_block = block == worker->block_number;
  const bool same_warp = same_block && other.stamp.thread / 32 == worker->current->warp;
  fail({}, code,
       "data race on `%s` in %s memory: this %s by thread %u of block %s and the %s by thread %u of block %s @CODE "
       "%x@ %s",
       region.name, memory_name(region), NAMES[mine], worker->current->number,
       block_name(worker->block_number).c_str(), NAMES[theirs], unsigned(other.stamp.thread),
       block_name(block).c_str(), other.code,
       !same_block ? "are not ordered: blocks run in any order"
       : same_warp ? "have no __syncwarp or barrier between them"
                   : "have no barrier between them");
}

static void require_order(const Region& region, Access mine, const Event& other, Access theirs, Code code) {
  if (!ordered(other.stamp, region, theirs)) race(region, mine, other, theirs, code);
}

// Keep an event beside those it is not ordered after; two are enough, if in different warps where possible.
static void remember(Event (&events)[2], const Event& event, const Region& region) {
  const bool first = ordered(events[0].stamp, region), second = ordered(events[1].stamp, region);
  if (first) {
    events[0] = event;
    if (second) events[1] = Event{};
  } else if (second) {
    events[1] = event;
  } else if (events[0].stamp.period == event.stamp.period &&
             events[0].stamp.thread / 32 == events[1].stamp.thread / 32) {
    events[1] = event;
  }
}

static bool is_written(const Cell& cell, const Region& region) {
  if (region.written) return true;
  const uint32_t since = region.memory == SHARED ? worker->first_period : 1;
  return cell.write.stamp.period >= since || cell.atomics[0].stamp.period >= since;
}

[[noreturn]] static void unwritten(const Region& region, Access access, Code code) {
  if (region.memory == SHARED)
    fail({}, code, "%s of uninitialised shared memory: nobody has written this place of `%s`", NAMES[access],
         region.name);
  fail({}, code, "%s of uninitialised memory: nobody has written this place of `%s`", NAMES[access], region.name);
}

// atomic: it may happen at the same time as an atomic operation. So may a read whose value an atomicCAS then compares
// with what is there: the first step of every loop around an atomicCAS.
static void check_cell(Cell& cell, const Region& region, Access access, Code code, bool atomic) {
  const Thread& me = *worker->current;
  const Event now{Stamp(worker->period, me.number, me.seen[me.lane]), uint32_t(offset_of(code))};
  const auto& guesses = worker->guesses;
  atomic |= access == ATOMIC || (access == READ && !guesses.empty() && guesses.count(now.code));
  if (cell.copying)
    fail({}, code,
         "%s of `%s` while the cp.async of thread %u to these bytes is under way: it has not been waited for",
         NAMES[access], region.name, cell.copying - 1);
  require_order(region, access, cell.write, WRITE, code);
  if (!atomic)
    for (const Event& event : cell.atomics) require_order(region, access, event, ATOMIC, code);
  if (access != READ)
    for (const Event& event : cell.reads)
      if (!atomic || !guesses.count(event.code)) require_order(region, access, event, READ, code);
  if (access != WRITE && !is_written(cell, region)) unwritten(region, access, code);
  if (access == READ && atomic) return;
  if (access == READ) return remember(cell.reads, now, region);
  if (atomic) return remember(cell.atomics, now, region);
  cell = Cell{};
  cell.write = now;
}

// ---- the shadow ---------------------------------------------------------------------------------
// Something narrower than a granule is accessed: give every part of it its own cell.
static void split(Region& region, unsigned granule) {
  Cells& old = *region.cells;
  auto finer = std::make_shared<Cells>(old.n * old.granule, granule);
  for (size_t i = 0; i < finer->n; i++) {
    const Cell& from = old.memory[i * granule / old.granule];
    if (from.write.stamp.period || from.reads[0].stamp.period || from.atomics[0].stamp.period || from.copying)
      finer->memory[i] = from;
  }
  region.cells = finer;
}

struct Span {
  Cell *begin, *end;
};

static Span cells_of(Region& region, const char* address, unsigned bytes) {
  const size_t offset = address - region.low;
  const unsigned narrow = (offset | bytes) & 1 ? 1 : (offset | bytes) & 2 ? 2 : 4;
  if (narrow < region.cells->granule) split(region, narrow);
  const unsigned granule = region.cells->granule;
  return {region.cells->memory + offset / granule, region.cells->memory + (offset + bytes - 1) / granule + 1};
}

static void check(Region& region, const char* address, unsigned bytes, Access access, Code code, bool atomic) {
  if (!region.writable && region.written) return;  // whoever reads what nobody may write needs no order
  if (atomic || access == ATOMIC) hand_over(region, address, access != READ);
  const Span span = cells_of(region, address, bytes);
  for (Cell* cell = span.begin; cell < span.end; cell++) check_cell(*cell, region, access, code, atomic);
}

// Find the array and require that the access may happen at all. Null for private memory.
static Region* admit(const char* address, unsigned bytes, Access access, Code code, bool aligned) {
  Region* region = region_of(address);
  if (!region) {
    if (is_private(address, code) || (access == READ && is_constant(address))) return nullptr;
    out_of_bounds(address, bytes, access, code);
  }
  if (address + bytes > region->high)
    fail({}, code, "out-of-bounds %s of %u bytes: the last %zu lie past the end of `%s` (%zu bytes of %s memory)",
         NAMES[access], bytes, size_t(address + bytes - region->high), region->name,
         size_t(region->high - region->low), memory_name(*region));
  if (access != READ && !region->writable) fail({}, code, "%s to `%s`, which is const", NAMES[access], region->name);
  const unsigned alignment = bytes & -bytes;
  const size_t offset = region->memory == SHARED ? reinterpret_cast<uintptr_t>(address) : address - region->low;
  if (aligned && offset % (alignment < 16 ? alignment : 16))
    fail({}, code, "misaligned %s of %u bytes: its offset in `%s` is %zu", NAMES[access], bytes, region->name,
         size_t(address - region->low));
  return region;
}

// Whoever reads one place again and again waits for another thread to write it.
static bool spins(const char* address, Code code) {
  static const unsigned MANY = 1 << 10;
  Worker& w = *worker;
  const bool same = w.spin_address == address && w.current->code == code;
  w.spin_address = address, w.current->code = code;
  w.spin_count = same ? w.spin_count + 1 : 0;
  return w.spin_count % MANY == MANY - 1;
}

// strict: its alignment is that of its size. strong: to a volatile place.
static void watch_range(const void* where, size_t bytes, Access access, Code code, bool strict, bool strong = false) {
  if (!worker || !worker->watching || !bytes) return;
  const char* address = static_cast<const char*>(where);
  const Thread& me = *worker->current;
  if (address >= me.stack && address < me.stack_end) return;
  Region* region = admit(address, bytes, access, code, strict);
  if (!region) return;
  if (access != READ) worker->spin_count = 0;
  if (access == READ) worker->recent[worker->n_reads++ % 8] = {&me, address, uint32_t(offset_of(code))};
  if (access == READ && spins(address, code)) park();
  if (worker->profiling) return record(*region, address, bytes, access, code);
  strong &= region->memory == GLOBAL;
  check(*region, address, bytes, access, code, strong);
}

void watch(const void* address, unsigned bytes, Access access, Code code) {
  watch_range(address, bytes, access, code, true);
}

// Lanes have passed a __syncwarp together: each has seen what the others had seen, and a new clock begins.
void join_clocks(Warp&, unsigned first_thread, unsigned lanes) {
  Thread* warp = &worker->threads[first_thread];
  uint32_t joined[32] = {};
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned i = 0; lanes >> lane & 1 && i < 32; i++) joined[i] = std::max(joined[i], warp[lane].seen[i]);
  for (unsigned lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    memcpy(warp[lane].seen, joined, sizeof joined);
    warp[lane].seen[lane]++;
  }
  share_acquired(warp, 32, lanes);
}

// ---- cp.async: the bytes belong to the copy from when it is issued until its thread has waited for it
void copy_begins(const Copy& copy) {
  watch(copy.from, copy.valid, READ, copy.code);
  if (worker->profiling) return watch(copy.to, copy.bytes, WRITE, copy.code);
  watch(copy.to, copy.bytes, WRITE, copy.code);  // whoever used the bytes before must have finished
  Region* region = region_of(copy.to);
  if (!region) fail({}, copy.code, "cp.async writes to shared memory only");
  const Span span = cells_of(*region, copy.to, copy.bytes);
  for (Cell* cell = span.begin; cell < span.end; cell++) *cell = Cell{}, cell->copying = worker->current->number + 1;
}

void copy_lands(const Copy& copy) {
  if (worker->profiling) return;
  Region* region = region_of(copy.to);
  const Span span = cells_of(*region, copy.to, copy.bytes);
  for (Cell* cell = span.begin; cell < span.end; cell++) cell->copying = 0;
  check(*region, copy.to, copy.bytes, WRITE, copy.code, false);
}

// ---- regions ------------------------------------------------------------------------------------
static void add_region(const Region& fresh) {
  if (fresh.low >= fresh.high) return;
  auto& regions = worker->regions;
  if (!regions.empty() && fresh.low < regions.back().high) {  // two arguments that overlap are one array
    Region& last = regions.back();
    last.high = std::max(last.high, fresh.high);
    last.writable |= fresh.writable, last.written |= fresh.written;
    return;
  }
  regions.push_back(fresh);
}

static Region region_from(const RegionRequest& request) {
  char* low = reinterpret_cast<char*>(request.low);
  if (request.kind == STATIC_SHARED) low = worker->shared_statics + request.low;
  if (request.kind == DEVICE_VARIABLE) low = worker->launch->library + request.low;
  return {low,
          low + request.bytes,
          request.kind == STATIC_SHARED ? SHARED : GLOBAL,
          request.writable != 0,
          request.written != 0,
          request.name,
          nullptr};
}

void begin_watch() {
  Worker& w = *worker;
  const Request& request = *w.launch->request;
  std::vector<Region> all;
  for (uint64_t i = 0; i < request.n_regions; i++) all.push_back(region_from(request.regions[i]));
  all.push_back({w.shared, w.shared + request.shared_bytes, SHARED, true, false, "dynamic shared memory", nullptr});
  std::stable_sort(all.begin(), all.end(), [](const Region& a, const Region& b) { return a.low < b.low; });
  for (const Region& region : all) add_region(region);
  for (Region& region : w.regions)
    if (region.writable || !region.written) region.cells = std::make_shared<Cells>(region.high - region.low, 4);
}

void end_watch() {
  Worker& w = *worker;
  w.regions.clear(), w.block_periods.clear(), w.block_numbers.clear(), w.released.clear(), w.guesses.clear();
  w.last_region = nullptr;
  w.watching = w.profiling = false;
}
}  // namespace emulator

// ---- what the compiler calls --------------------------------------------------------------------
using namespace emulator;
#define HERE __builtin_return_address(0)

// Before an atomic operation. Whoever does nothing else for long is waiting for another thread: let that one run.
EXPORT void emulator_atomic(const void* address, unsigned bytes, Code code, int compares) {
  if (compares && worker->watching)
    for (const Read& read : worker->recent)
      if (read.thread == worker->current && read.address == address) worker->guesses.insert(read.code);
  watch(address, bytes, ATOMIC, code);
  if (++worker->current->busy % 1024) return;
  worker->current->code = code;
  park();
}

#define HOOKS(n)                                                                            \
  EXPORT void __tsan_read##n(void* p) { watch(p, n, READ, HERE); }                          \
  EXPORT void __tsan_write##n(void* p) { watch(p, n, WRITE, HERE); }                        \
  EXPORT void __tsan_unaligned_read##n(void* p) { watch_range(p, n, READ, HERE, false); }   \
  EXPORT void __tsan_unaligned_write##n(void* p) { watch_range(p, n, WRITE, HERE, false); } \
  EXPORT void __tsan_volatile_read##n(void* p) { watch_range(p, n, READ, HERE, true, true); }   \
  EXPORT void __tsan_volatile_write##n(void* p) { watch_range(p, n, WRITE, HERE, true, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
EXPORT void __tsan_read_range(void* p, size_t n) { watch_range(p, n, READ, HERE, false); }
EXPORT void __tsan_write_range(void* p, size_t n) { watch_range(p, n, WRITE, HERE, false); }
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void __tsan_init() {}
EXPORT void __tsan_vptr_update(void**, void*) {}
EXPORT void __tsan_vptr_read(void**) {}

// The kernel's own memcpy and memset, which the compiler makes of copies of structs too.
EXPORT void* emulator_memcpy(void* to, const void* from, size_t n) {
  watch_range(from, n, READ, HERE, false);
  watch_range(to, n, WRITE, HERE, false);
  return memmove(to, from, n);
}
EXPORT void* emulator_memset(void* to, int value, size_t n) {
  watch_range(to, n, WRITE, HERE, false);
  return memset(to, value, n);
}

// ---- what the compiler finds in expressions, through -fsanitize=bounds and the like -------------
struct Source {
  const char* file;
  uint32_t line, column;
};
struct OutOfBounds {
  Source source;
};
struct Misaligned {
  Source source;
  const void* type;
  unsigned char log2_alignment;
};
EXPORT void __ubsan_handle_type_mismatch_v1(Misaligned* data, char* address) {
  if (!worker || !worker->watching) return;
  const Region* region = region_of(address);
  const size_t alignment = size_t(1) << data->log2_alignment;
  if (region && (region->memory == SHARED || (address - region->low) % alignment))
    fail({}, HERE, "misaligned address: it must be a multiple of %zu bytes, and its offset in `%s` is %zu", alignment, region->name, size_t(address - region->low));
}
EXPORT void __ubsan_handle_out_of_bounds(OutOfBounds* data, unsigned long index) {
  if (worker && worker->watching)
    fail({data->source.file, int(data->source.line)}, nullptr, "out-of-bounds index %ld of an array", long(index));
}
EXPORT void __ubsan_handle_divrem_overflow(Source* source, unsigned long, unsigned long) {
  if (worker && worker->watching) fail({source->file, int(source->line)}, nullptr, "integer division by zero");
}
EXPORT void __ubsan_handle_shift_out_of_bounds(Source* source, unsigned long, unsigned long by) {
  if (worker && worker->watching)
    fail({source->file, int(source->line)}, nullptr, "shift by %ld places, outside of the number", long(by));
}
