// fences.cpp: what one thread hands to another through memory.
//
// A barrier orders the threads of a block. Blocks, and threads between barriers, have another way: one writes its data,
// passes a fence (__threadfence) and then changes a counter, a lock or a flag by an atomic operation; another does an
// atomic operation on the same place, and from then on may read the data. Without the fence, nothing is handed over.
//
// So every place that atomic operations were done on keeps what has been released there: of a thread, the accesses
// that its fence comes after, and whatever had been handed to that thread before. Who does an atomic operation on the
// place acquires all of it. A __syncwarp or a barrier shares among its threads what each of them has acquired. Accesses
// to volatile global memory count as atomic.
#include "runtime.h"
#include <algorithm>

namespace emulator {

// What a thread has seen when it passes a fence now.
static Release release_of(const Thread& thread) {
  Release mine{worker->period, thread.warp, {}, {}};
  memcpy(mine.seen, thread.seen, sizeof mine.seen);
  return mine;
}

void add_all(Releases& to, const Releases& from) {
  for (const auto& [who, release] : from) {
    Release& old = to[who];
    if (old.period <= release.period) old = release;
  }
}

EXPORT void emulator_fence(int of_the_block) {
  if (!worker || !worker->watching) return;
  Thread& me = *worker->current;
  (of_the_block ? me.block_fence : me.fence) = release_of(me);
  if (!of_the_block) me.block_fence = me.fence, worker->fence_period = worker->period;
  me.seen[me.lane]++;  // what comes now is not handed on
}

// An atomic operation on an address, from both sides; a read releases nothing.
void hand_over(const Region& region, const char* address, bool releases) {
  Thread& me = *worker->current;
  const auto place = worker->released.find(address);
  if (place != worker->released.end()) add_all(me.acquired, place->second);
  Release mine = region.memory == SHARED ? me.block_fence : me.fence;
  if (mine.period <= worker->fence_period && worker->fence_period < worker->period)
    mine = {worker->fence_period + 1, ~0u, {}, {}};  // others have passed theirs before a barrier
  if (!releases || mine.period < worker->first_period) return;
  mine.atomic = Stamp(worker->period, me.number, me.seen[me.lane]);
  Releases& here = worker->released[address];
  add_all(here, me.acquired);
  here[{worker->first_period, me.number}] = mine;
}

void share_acquired(Thread* threads, unsigned n, unsigned lanes) {
  Releases all;
  for (unsigned i = 0; i < n; i++)
    if (lanes >> i % 32 & 1) add_all(all, threads[i].acquired);
  if (all.empty()) return;
  for (unsigned i = 0; i < n; i++)
    if (lanes >> i % 32 & 1) threads[i].acquired = all;
}

// All that a thread has seen, for those that it meets at a named barrier.
void bring(Releases& to, Thread& thread) {
  add_all(to, thread.acquired);
  to[{worker->first_period, thread.number}] = release_of(thread);
  thread.seen[thread.lane]++;
}

static bool covers(const Release& release, Stamp event, Access access) {
  const Stamp by = release.atomic;
  if (access == ATOMIC && event.period == by.period && event.thread == by.thread && event.clock <= by.clock) return true;
  if (event.period != release.period) return event.period < release.period;
  return event.thread / 32 == release.warp && event.clock <= release.seen[event.thread % 32];
}

// Whether something that happened has been handed to this thread.
bool handed_over(Stamp event, Access access) {
  const Releases& acquired = worker->current->acquired;
  if (acquired.empty()) return false;
  const auto& periods = worker->block_periods;
  const uint32_t first = *std::prev(std::upper_bound(periods.begin(), periods.end(), event.period));
  for (auto entry = acquired.lower_bound({first, 0}); entry != acquired.end() && entry->first.first == first; ++entry)
    if (covers(entry->second, event, access)) return true;
  return false;
}
}  // namespace emulator
