// fibers.cpp: a thread is a fiber.
//
// A CUDA block runs here on one processor core. Each of its threads is a fiber: its own stack, and a place to go
// on at. A fiber runs until it needs other threads (a barrier, a shuffle), then parks: it saves its registers on its
// stack and switches to the scheduler, which resumes the next one. Nothing runs at the same time as anything else, so
// a launch can be repeated exactly; and the order in which fibers take turns is ours to choose: a kernel that forgets
// a barrier computes one thing in forward order and another in reverse.
//
// Blocks are independent, so several workers (operating system threads) can each run blocks of the same launch. A
// worker is one streaming multiprocessor; its shared memory is thread-local storage of the kernel's library.
#include "runtime.h"
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <csignal>
#include <mutex>
#include <thread>
#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

namespace emulator {
__thread Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;
extern "C" __thread Self emulator_self __attribute__((tls_model("initial-exec"))) = {};

static const size_t STACK = 256 << 10, GUARD = 16 << 10;  // bytes of a stack, and of the forbidden zone below it

// ---- switching ----------------------------------------------------------------------------------
// switch_stack(&from, to): push the registers that a function must preserve, keep the stack pointer in `from`, take
// `to` as the stack pointer, pop the registers that were pushed there, and return to whoever pushed them.

static void begin_thread();

#if defined(__x86_64__) && defined(__linux__) && !defined(PORTABLE)
extern "C" __attribute__((visibility("hidden"))) void switch_stack(void** from, void* to);
asm(R"(
.text
.hidden switch_stack
.globl switch_stack
.type switch_stack, @function
switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size switch_stack, .-switch_stack
)");

static void* new_fiber(Thread& thread) {
  // Tops are spread over the lines of a page, or all stacks would compete for the same lines of the cache.
  char* top = thread.stack_end - thread.number % 32 * 128;
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;                                // begin_thread never returns to this
  *--sp = reinterpret_cast<void*>(begin_thread);  // switch_stack returns to this
  for (int i = 0; i < 6; i++) *--sp = nullptr;    // the six registers
  return sp;
}
#else
// Portable switching: two system calls each, about twenty times as slow.
struct Context {
  ucontext_t registers;
};
static void switch_stack(void** from, void* to) {
  Context here;  // lives on the stack that is being left
  *from = &here;
  swapcontext(&here.registers, &static_cast<Context*>(to)->registers);
}

static void* new_fiber(Thread& thread) {
  Context* fresh = reinterpret_cast<Context*>(thread.stack);
  getcontext(&fresh->registers);
  fresh->registers.uc_stack.ss_sp = thread.stack + 4096;
  fresh->registers.uc_stack.ss_size = thread.stack_end - thread.stack - 4096;
  fresh->registers.uc_link = nullptr;
  makecontext(&fresh->registers, begin_thread, 0);
  return fresh;
}
#endif

void park() {
  Thread* me = worker->current;
  switch_stack(&me->stack_pointer, worker->scheduler);
}

static void resume(Thread& thread) {
  worker->current = &thread;
  emulator_self.thread = thread.index, emulator_self.number = thread.number;
  switch_stack(&worker->scheduler, thread.stack_pointer);
}

static void begin_thread() {
  const Request& request = *worker->launch->request;
  request.call(request.arguments);
  leave_warp(*worker->current);
  park();  // for good
}

// ---- reports ------------------------------------------------------------------------------------
uint64_t offset_of(Code code) { return static_cast<const char*>(code) - worker->launch->library; }

static void fill(Finding& finding, Place place, Code code, const char* format, va_list values) {
  vsnprintf(finding.what, sizeof finding.what, format, values);
  snprintf(finding.file, sizeof finding.file, "%s", place.file ? place.file : "");
  finding.line = place.line;
  finding.code = code ? offset_of(code) - 1 : 0;  // the call is before the address that it returns to
  const Dim &block = emulator_self.block, thread = worker->current->index;
  const unsigned at[6] = {block.x, block.y, block.z, thread.x, thread.y, thread.z};
  memcpy(finding.block, at, 3 * sizeof *at);
  memcpy(finding.thread, at + 3, 3 * sizeof *at);
  finding.found = 1;
}

void vreport(Place place, Code code, const char* format, va_list values) {
  worker->failed = true;
  if (!worker->launch->reporting.test_and_set()) fill(*worker->launch->finding, place, code, format, values);
  worker->launch->stop = true;
}

void report(Place place, Code code, const char* format, ...) {
  va_list values;
  va_start(values, format);
  vreport(place, code, format, values);
  va_end(values);
}

void fail(Place place, Code code, const char* format, ...) {
  va_list values;
  va_start(values, format);
  vreport(place, code, format, values);
  va_end(values);
  for (;;) park();
}

// ---- faults -------------------------------------------------------------------------------------
// In plain mode nothing is checked, and a wild address or a trap raises a signal. While a fiber runs, that is a report
// like any other: the fiber is left where it is, and the scheduler goes on.

static std::mutex faults_lock;
static int faults_users = 0;
static const int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM}, N_FAULTS = 5;
static struct sigaction faults_before[N_FAULTS];

static Code code_of(void* context) {
#if defined(__x86_64__) && defined(__linux__)
  return reinterpret_cast<Code>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
#elif defined(__aarch64__) && defined(__linux__)
  return reinterpret_cast<Code>(static_cast<ucontext_t*>(context)->uc_mcontext.pc + 1);
#else
  (void)context;
  return nullptr;
#endif
}

// Whoever started the launch may end it by SIGALRM. The line is known while the kernel's own code runs.
static bool in_kernel(Code code) {
  Dl_info where;
  return worker && worker->current && dladdr(code, &where) && where.dli_fbase == worker->launch->library;
}

static void on_fault(int signal, siginfo_t* info, void* context) {
  if (signal == SIGALRM && !in_kernel(code_of(context))) {
    ualarm(1000, 0);  // look again in a millisecond
    return;
  }
  if (!worker || !worker->current) {  // not ours: let it happen as it would have
    struct sigaction plain{};
    plain.sa_handler = SIG_DFL;
    sigaction(signal, &plain, nullptr);
    return;
  }
  const Thread& thread = *worker->current;
  const char* address = static_cast<const char*>(info->si_addr);
  if (signal == SIGALRM)
    report({}, code_of(context), "endless loop: the kernel is still here when its time is up");
  else if (signal == SIGFPE)
    report({}, code_of(context), "integer division by zero");
  else if (signal == SIGILL)
    report({}, code_of(context), "the thread trapped");
  else if (address >= thread.stack - GUARD && address < thread.stack)
    report({}, code_of(context), "stack overflow: local variables and calls need more than %zu KiB", STACK >> 10);
  else
    report({}, code_of(context), "access to an invalid or misaligned address (%p); the checked mode names the array",
           static_cast<const void*>(address));
  for (;;) park();
}

static void catch_faults() {
  std::lock_guard<std::mutex> guard(faults_lock);
  if (faults_users++) return;
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < N_FAULTS; i++) sigaction(FAULTS[i], &action, &faults_before[i]);
}

static void release_faults() {
  std::lock_guard<std::mutex> guard(faults_lock);
  if (--faults_users) return;
  for (int i = 0; i < N_FAULTS; i++) sigaction(FAULTS[i], &faults_before[i], nullptr);
}

struct SignalStack {  // a handler cannot run on a stack that has overflowed
  stack_t before;
  char* memory =
      static_cast<char*>(mmap(nullptr, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  SignalStack() {
    stack_t mine{};
    mine.ss_sp = memory;
    mine.ss_size = 1 << 16;
    sigaltstack(&mine, &before);
  }
  ~SignalStack() {
    sigaltstack(&before, nullptr);
    munmap(memory, 1 << 16);
  }
};

// ---- scheduling ---------------------------------------------------------------------------------
static unsigned random_below(unsigned n) {
  uint64_t& r = worker->random;
  r ^= r << 13, r ^= r >> 7, r ^= r << 17;
  return (r >> 11) % n;
}

void shuffle_order(std::vector<unsigned>& order, unsigned n, unsigned how) {
  order.resize(n);
  for (unsigned i = 0; i < n; i++) order[i] = how == REVERSE ? n - 1 - i : i;
  if (how == RANDOM)
    for (unsigned i = n; i > 1; i--) std::swap(order[i - 1], order[random_below(i)]);
}

static void prepare_shared_memory() {
  // It starts as NaN and -1, never as zeros: a kernel that relies on zeros must not pass.
  const Request& request = *worker->launch->request;
  for (uint64_t i = 0; i < request.n_regions; i++)
    if (request.regions[i].kind == STATIC_SHARED)
      memset(worker->shared_statics + request.regions[i].low, 0xff, request.regions[i].bytes);
  memset(worker->shared, 0xff, request.shared_bytes);
}

static void prepare_threads() {
  Worker& w = *worker;
  const Dim size = emulator_self.block_dim;
  for (unsigned i = 0; i < w.n_threads; i++) {
    Thread& thread = w.threads[i];
    thread.number = i, thread.lane = i % 32, thread.warp = i / 32;
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.stack_pointer = new_fiber(thread);
    thread.state = READY, thread.busy = 0;
    thread.groups.clear(), thread.open.clear();
    memset(thread.seen, 0, sizeof thread.seen);
    thread.seen[thread.lane] = 1;
    thread.fence = thread.block_fence = {};
    thread.acquired.clear();
  }
  for (NamedBarrier& barrier : w.named) barrier = {};
  w.warps.assign((w.n_threads + 31) / 32, Warp{});
  if (w.n_threads % 32) w.warps.back().exited = ~0u << w.n_threads % 32;  // lanes that the block does not have
}

// Resume every thread that can go on, once. Returns how many there were.
static unsigned one_round() {
  unsigned ran = 0;
  for (unsigned i = 0; i < worker->n_threads && !worker->failed; i++) {
    Thread& thread = worker->threads[worker->order[i]];
    if (thread.state == READY) resume(thread), ran++;
  }
  return ran;
}

// Threads that only spin (on a lock, on a flag) give way to others from time to time. If that is all that happens for
// this many rounds, nobody will ever write what they wait for.
static const unsigned PATIENCE = 400;

static void report_spinning() {
  for (unsigned i = 0; i < worker->n_threads; i++) {
    Thread& thread = worker->threads[i];
    if (thread.state != READY) continue;
    worker->current = &thread;
    return report({}, thread.code,
                  "endless loop: thread %u waits here for a value that no thread of the block will write", i);
  }
}

static bool all_done() {
  for (unsigned i = 0; i < worker->n_threads; i++)
    if (worker->threads[i].state != DONE) return false;
  return true;
}

static void run_block() {
  const unsigned order = worker->launch->request->order;
  prepare_threads();
  prepare_shared_memory();
  shuffle_order(worker->order, worker->n_threads, order);
  unsigned idle = 0;
  while (!worker->failed) {
    worker->progress = false;
    const unsigned ran = one_round();
    idle = worker->progress ? 0 : idle + 1;
    if (ran && idle == PATIENCE) report_spinning();
    if (ran || worker->failed) continue;
    if (all_done()) break;
    if (release_barrier()) {
      worker->period++;
      share_acquired(&worker->threads[0], worker->n_threads, ~0u);
      if (order == RANDOM) shuffle_order(worker->order, worker->n_threads, order);
    } else if (!release_gatherings() && !worker->failed) {
      report_deadlock();
    }
  }
  worker->current = nullptr;
}

// ---- workers ------------------------------------------------------------------------------------
static std::mutex idle_lock;
static std::vector<Worker*> idle_workers;  // their stacks are kept for the next launch

static Worker* borrow_worker() {
  std::lock_guard<std::mutex> guard(idle_lock);
  if (idle_workers.empty()) return new Worker;
  Worker* found = idle_workers.back();
  idle_workers.pop_back();
  return found;
}

static void return_worker(Worker* w) {
  std::lock_guard<std::mutex> guard(idle_lock);
  idle_workers.push_back(w);
}

static bool grow_stacks(Worker& w, unsigned n) {
  while (w.threads.size() < n) {
    void* memory =
        mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    mprotect(memory, GUARD, PROT_NONE);
    w.threads.emplace_back();
    w.threads.back().stack = static_cast<char*>(memory) + GUARD;
    w.threads.back().stack_end = w.threads.back().stack + STACK;
  }
  return true;
}

static void begin_worker(Worker& w, Launch& launch) {
  const Request& request = *launch.request;
  const uint32_t *grid = request.grid, *block = request.block;
  w.launch = &launch;
  emulator_self.grid_dim = {grid[0], grid[1], grid[2]};
  emulator_self.block_dim = {block[0], block[1], block[2]};
  w.n_threads = block[0] * block[1] * block[2];
  w.failed = false;
  w.random = request.seed * 2654435761u + 88172645463325252ull;
  w.shared = request.shared_base();
  w.shared_statics = w.shared - request.shared_offset;
  w.watching = request.mode != PLAIN;
  w.profiling = request.mode == PROFILED;
}

static void prepare_failure(Launch& launch) {
  if (launch.reporting.test_and_set()) return;
  snprintf(launch.finding->what, sizeof launch.finding->what, "there is no memory for the stacks of %u threads",
           worker->n_threads);
  launch.finding->found = 1;
}

static void run_blocks(Launch& launch) {
  Worker* w = worker = borrow_worker();
  begin_worker(*w, launch);
  if (!grow_stacks(*w, w->n_threads)) {
    prepare_failure(launch);
    worker = nullptr;
    return return_worker(w);
  }
  SignalStack signal_stack;
  if (w->watching) begin_watch();
  for (unsigned i; !launch.stop && (i = launch.next_block++) < launch.block_order.size();) {
    const unsigned number = w->block_number = launch.block_order[i];
    const Dim grid = emulator_self.grid_dim;
    emulator_self.block = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    w->first_period = ++w->period;
    if (w->watching) w->block_periods.push_back(w->period), w->block_numbers.push_back(number);
    run_block();
    if (w->profiling) fold_profile();
  }
  if (launch.request->mode != PLAIN) end_watch();
  worker = nullptr;
  return_worker(w);
}

// Run a launch to its end, or to the first report. What Python calls.
EXPORT void emulator_launch(const Request* request, Finding* finding) {
  Launch launch;
  launch.request = request;
  launch.finding = finding;
  Dl_info info;
  dladdr(reinterpret_cast<void*>(request->call), &info);
  launch.library = static_cast<char*>(info.dli_fbase);
  Worker dealer;  // only for its random numbers
  worker = &dealer;
  dealer.random = request->seed * 2654435761u + 88172645463325252ull;
  shuffle_order(launch.block_order, request->grid[0] * request->grid[1] * request->grid[2], request->order);
  worker = nullptr;
  catch_faults();
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < request->workers; i++) helpers.emplace_back([&launch] { run_blocks(launch); });
  run_blocks(launch);
  for (std::thread& helper : helpers) helper.join();
  release_faults();
  fflush(stdout);
}

// ---- what a thread can ask about itself ---------------------------------------------------------
EXPORT Dim emulator_thread_index() { return emulator_self.thread; }
EXPORT Dim emulator_block_index() { return emulator_self.block; }
EXPORT Dim emulator_block_dim() { return emulator_self.block_dim; }
EXPORT Dim emulator_grid_dim() { return emulator_self.grid_dim; }
EXPORT unsigned emulator_thread_number() { return emulator_self.number; }

EXPORT long long emulator_clock() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
EXPORT void emulator_yield() { park(); }  // it stays READY

EXPORT void emulator_fail(const char* file, int line, const char* format, ...) {
  va_list values;
  va_start(values, format);
  vreport({file, line}, nullptr, format, values);
  va_end(values);
  for (;;) park();
}

// What the kernel asks for is right, and not modelled: Python says so, and does not call it a report.
EXPORT void emulator_unknown(const char* file, int line, const char* what) {
  report({file, line}, nullptr, "%s", what);
  worker->launch->finding->found = 2;
  for (;;) park();
}
}  // namespace emulator
