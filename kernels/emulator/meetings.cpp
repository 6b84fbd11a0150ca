// meetings.cpp: a collective is a meeting.
//
// Whatever involves more than one thread has the same shape: those who take part arrive one by one and wait; the last
// to arrive does the work for all of them; then all go on. For a warp operation, those who take part are the lanes of
// a mask, and the work is a function over what each lane has brought: a shuffle hands values across, a vote counts
// them, a tensor core multiplies them. For a block barrier, it is every thread of the block.
//
// A meeting that can never take place is a report: lanes that name each other with different masks, lanes that wait
// in different operations, threads that have returned while others wait.
#include "runtime.h"
#include <cstdarg>
#include <cstdio>
#include <string>

namespace emulator {

static std::string at(Place place) {
  if (!place.file) return "somewhere";
  return "@PLACE " + std::string(place.file) + ":" + std::to_string(place.line) + "@";  // Python shortens it
}

static bool same_place(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || (a.file && b.file && !strcmp(a.file, b.file)));
}

static Thread& wait_as(State state, const char* what, Place place, Code code) {
  Thread& me = *worker->current;
  me.state = state, me.what = what, me.place = place, me.code = code;
  worker->progress = true;
  return me;
}

// ---- meetings of lanes --------------------------------------------------------------------------
static Thread* lanes_of(const Thread& thread) { return &worker->threads[thread.warp * 32]; }

// The lanes in `lanes` all wait, each in a warp operation. It must be one operation, with one mask.
static void require_agreement(Thread* warp, unsigned lanes, const Thread& first) {
  for (unsigned lane = 0; lane < 32; lane++) {
    const Thread& other = warp[lane];
    if (!(lanes >> lane & 1)) continue;
    if (other.what != first.what && strcmp(other.what, first.what))
      fail(first.place, first.code, "lane %u is at %s (mask 0x%08x) while lane %u, which it waits for, is at %s %s",
           first.lane, first.what, first.mask, lane, other.what, at(other.place).c_str());
    if (other.mask != first.mask)
      fail(first.place, first.code, "%s with different masks: lane %u names 0x%08x, lane %u names 0x%08x %s",
           first.what, first.lane, first.mask, lane, other.mask, at(other.place).c_str());
  }
}

// A lane may wait for others that meet at the same place without it: they may come again. See leave_warp.
static void note_those_passed(Thread* warp, const Warp& state, unsigned lanes, const Thread& first) {
  for (unsigned lane = 0; lane < 32; lane++) {
    Thread& other = warp[lane];
    if (!(state.waiting >> lane & 1) || !(other.mask & lanes) || !same_place(other.place, first.place)) continue;
    other.passed_by |= other.mask & lanes, other.passed_mask = first.mask;
  }
}

// If every lane of the mask that has not returned is here, let the operation happen.
static bool try_to_meet(Thread* warp, Warp& state, unsigned mask) {
  const unsigned lanes = mask & ~state.exited;
  if (!lanes || (state.waiting & lanes) != lanes) return false;
  const Thread& first = warp[__builtin_ctz(lanes)];
  require_agreement(warp, lanes, first);
  void* payloads[32] = {};
  for (unsigned lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) payloads[lane] = warp[lane].payload;
  const bool watching = worker->watching;
  worker->meeting = &first;
  worker->watching = false;  // what happens inside is not the kernel's doing
  if (first.complete) first.complete(payloads, lanes);
  worker->watching = watching;
  if (watching && !first.complete) join_clocks(state, warp - &worker->threads[0], lanes);
  for (unsigned lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) warp[lane].state = READY;
  state.waiting &= ~lanes;
  note_those_passed(warp, state, lanes, first);
  return true;
}

// Two lanes that wait for each other with different masks wait for ever.
static void refuse_contradiction(Thread* warp, Warp& state, const Thread& me) {
  if (!state.waiting) state.mask = me.mask, state.mixed = false;
  state.mixed |= state.mask != me.mask;
  if (!state.mixed) return;
  for (unsigned lane = 0; lane < 32; lane++) {
    const Thread& other = warp[lane];
    if (!((me.mask & state.waiting) >> lane & 1)) continue;
    if (other.mask != me.mask && other.mask >> me.lane & 1)
      fail(me.place, me.code,
           "lane %u is at %s with mask 0x%08x, but lane %u of that mask is at %s with mask 0x%08x %s", me.lane,
           me.what, me.mask, lane, other.what, other.mask, at(other.place).c_str());
  }
}

EXPORT void emulator_meet(unsigned mask, const char* what, void (*complete)(void**, unsigned), void* payload,
                          const char* file, int line) {
  Thread& me = wait_as(IN_WARP, what, {file, line}, __builtin_return_address(0));
  Warp& state = worker->warps[me.warp];
  if (!(mask >> me.lane & 1))
    fail(me.place, me.code, "%s: lane %u is not in its own mask 0x%08x", what, me.lane, mask);
  me.mask = mask, me.complete = complete, me.payload = payload, me.passed_by = 0;
  refuse_contradiction(lanes_of(me), state, me);
  state.waiting |= 1u << me.lane;
  if (!try_to_meet(lanes_of(me), state, mask)) park();
}

// A lane finds, in the middle of an operation, that it cannot be done.
EXPORT void emulator_refuse(const char* format, ...) {
  worker->watching = false;
  va_list values;
  va_start(values, format);
  vreport(worker->meeting->place, worker->meeting->code, format, values);
  va_end(values);
  for (;;) park();
}

void leave_warp(Thread& thread) {
  Warp& state = worker->warps[thread.warp];
  thread.state = DONE;
  worker->progress = true;
  state.exited |= 1u << thread.lane;
  // Nobody has to wait for it any longer.
  for (unsigned rest = state.waiting; rest; rest &= state.waiting & (rest - 1)) {
    const Thread& waiting = lanes_of(thread)[__builtin_ctz(rest)];
    if (waiting.passed_by >> thread.lane & 1)
      fail(waiting.place, waiting.code, "%s with different masks: lane %u names 0x%08x, lane %u came with 0x%08x",
           waiting.what, waiting.lane, waiting.mask, thread.lane, waiting.passed_mask);
    if (waiting.mask >> thread.lane & 1) try_to_meet(lanes_of(thread), state, waiting.mask);
  }
}

// ---- who is active ------------------------------------------------------------------------------
// __activemask() names the lanes that happen to run together. Here they are those that reach the same call before the
// warp can do nothing else: the most that a GPU could name.

EXPORT unsigned emulator_activemask(const char* file, int line) {
  wait_as(GATHERING, "__activemask", {file, line}, __builtin_return_address(0));
  worker->current->mask = 0;
  park();
  return worker->current->mask;
}

static unsigned lanes_at(unsigned first_thread, Place place) {
  unsigned lanes = 0;
  for (unsigned i = first_thread; i < first_thread + 32 && i < worker->n_threads; i++) {
    const Thread& thread = worker->threads[i];
    if (thread.state == GATHERING && same_place(thread.place, place)) lanes |= 1u << thread.lane;
  }
  return lanes;
}

bool release_gatherings() {
  bool released = false;
  for (unsigned i = 0; i < worker->n_threads; i++) {
    Thread& thread = worker->threads[i];
    if (thread.state != GATHERING) continue;
    const unsigned first = thread.warp * 32, lanes = lanes_at(first, thread.place);
    for (unsigned lane = 0; lane < 32; lane++)
      if (lanes >> lane & 1) worker->threads[first + lane].mask = lanes, worker->threads[first + lane].state = READY;
    released = true;
  }
  return released;
}

// ---- meetings of a block ------------------------------------------------------------------------
// Wait until every thread of the block is at this barrier; return for how many the predicate was true.
EXPORT unsigned emulator_barrier(int predicate, const char* what, const char* file, int line) {
  wait_as(AT_BARRIER, what, {file, line}, __builtin_return_address(0));
  worker->current->predicate = predicate;
  park();
  return worker->barrier_true;
}

bool release_barrier() {
  Worker& w = *worker;
  for (unsigned i = 0; i < w.n_threads; i++)
    if (w.threads[i].state != AT_BARRIER) return false;
  w.barrier_true = 0;
  for (unsigned i = 0; i < w.n_threads; i++) {
    Thread &thread = w.threads[i], &first = w.threads[0];
    if (!same_place(thread.place, first.place)) {
      w.current = &thread;
      report(thread.place, thread.code, "divergent barrier: thread %u waits at this %s while thread 0 waits at %s %s",
             i, thread.what, first.what, at(first.place).c_str());
      return false;
    }
    w.barrier_true += thread.predicate != 0;
    thread.state = READY;
  }
  return true;
}

// bar.sync and bar.arrive with a number: a barrier of the number of threads that they name. Who arrives does not wait.
EXPORT void emulator_named_barrier(unsigned number, unsigned threads, int waits, const char* file, int line) {
  Worker& w = *worker;
  Thread& me = *w.current;
  const Code code = __builtin_return_address(0);
  if (number > 15 || !threads || threads % 32)
    fail({file, line}, code, "bar.sync %u of %u threads: there are barriers 0 to 15, for whole warps", number, threads);
  NamedBarrier& barrier = w.named[number];
  if (w.watching) bring(barrier.brought, me);
  if (waits) barrier.waiting.push_back(&wait_as(AT_NAMED, "bar.sync", {file, line}, code));
  if (++barrier.arrived < threads) return waits ? park() : void();
  for (Thread* thread : barrier.waiting) {
    thread->state = READY;
    add_all(thread->acquired, barrier.brought);
  }
  barrier = NamedBarrier{};
}

// ---- nobody can go on ---------------------------------------------------------------------------
static std::string who_waits(unsigned number) {
  const Thread& thread = worker->threads[number];
  std::string text = "thread " + std::to_string(number) + " waits at " + thread.what + " " + at(thread.place);
  if (thread.state != IN_WARP) return text;
  const unsigned missing = thread.mask & ~worker->warps[thread.warp].waiting & ~worker->warps[thread.warp].exited;
  char mask[64];
  snprintf(mask, sizeof mask, " (mask 0x%08x, lanes 0x%08x are not there)", thread.mask, missing);
  return text + mask;
}

// The place to report is that of a thread in a warp operation, if there is one: it waits for fewer.
static unsigned first_waiting() {
  unsigned found = ~0u;
  for (unsigned i = worker->n_threads; i--;)
    if (worker->threads[i].state == IN_WARP || (worker->threads[i].state != DONE && found == ~0u)) found = i;
  for (unsigned i = worker->n_threads; i--;)
    if (worker->threads[i].state == AT_BARRIER && worker->threads[found].state != IN_WARP) found = i;
  return found;
}

void report_deadlock() {
  Worker& w = *worker;
  unsigned exited = 0, said = 1;
  const unsigned reported = first_waiting();
  for (unsigned i = 0; i < w.n_threads; i++) exited += w.threads[i].state == DONE;
  std::string text = who_waits(reported);
  std::vector<Place> places = {w.threads[reported].place};
  for (unsigned i = 0; i < w.n_threads && said < 4; i++) {
    bool known = w.threads[i].state == DONE;
    for (Place place : places) known = known || same_place(place, w.threads[i].place);
    if (known) continue;
    text += "; " + who_waits(i);
    places.push_back(w.threads[i].place);
    said++;
  }
  w.current = &w.threads[reported];
  report(w.current->place, w.current->code, "divergent %s: %s; %u of %u threads have exited", w.current->what,
         text.c_str(), exited, w.n_threads);
}
}  // namespace emulator
