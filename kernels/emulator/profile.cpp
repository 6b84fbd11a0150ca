// profile.cpp: what the watched addresses would cost on a GPU.
//
// A warp reads memory in one request for its 32 lanes. Here lanes run one after another, so a request is put together
// afterwards: the n-th time that each lane of a warp passes an instruction, they pass it together. Global memory
// answers in sectors of 32 bytes: the ideal request touches no more of them than its bytes fill. Shared memory has 32
// banks, four bytes wide, and each gives one word per cycle: the ideal request takes one cycle. Accesses of 8 and 16
// bytes go out in two and four parts, of 16 and 8 lanes.
//
// It is a model of addresses, not of time: there are no caches here.
#include "runtime.h"
#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <dlfcn.h>

namespace emulator {

struct Lanes {
  unsigned present = 0;
  uint64_t address[32];
};
struct Site {  // one instruction of the kernel
  Memory memory = GLOBAL;
  Access access = READ;
  unsigned bytes = 0;
  uint64_t requests = 0, work = 0, ideal = 0;
  std::vector<unsigned> passed;              // how often each thread of the block has been here
  std::unordered_map<uint64_t, Lanes> open;  // by warp and pass
};
using Key =
    std::tuple<const void*, uint64_t, unsigned>;  // library, place in its code, and kind and width of the access
static std::map<Key, Site> sites;
static std::mutex lock;

// The distinct units of some size that lanes [first, last) touch.
static std::vector<uint64_t> units(const Site& site, const Lanes& lanes, unsigned size, unsigned first = 0,
                                   unsigned last = 32) {
  std::vector<uint64_t> found;
  for (unsigned lane = first; lane < last; lane++) {
    if (!(lanes.present >> lane & 1)) continue;
    const uint64_t low = lanes.address[lane], high = low + site.bytes - 1;
    for (uint64_t unit = low / size; unit <= high / size; unit++) found.push_back(unit);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

static void count_global(Site& site, const Lanes& lanes) {
  site.work += units(site, lanes, 32).size();
  site.ideal += (units(site, lanes, 1).size() + 31) / 32;
}

static void count_shared(Site& site, const Lanes& lanes) {
  const unsigned parts = std::max(1u, std::min(4u, site.bytes / 4)), lanes_each = 32 / parts;
  for (unsigned part = 0; part < parts; part++) {
    const std::vector<uint64_t> words = units(site, lanes, 4, part * lanes_each, (part + 1) * lanes_each);
    if (words.empty()) continue;
    unsigned load[32] = {}, worst = 0;
    for (uint64_t word : words) worst = std::max(worst, ++load[word % 32]);
    site.work += worst;
    site.ideal += (words.size() + 31) / 32;
  }
}

static void count(Site& site, const Lanes& lanes) {
  site.requests++;
  site.memory == SHARED ? count_shared(site, lanes) : count_global(site, lanes);
}

void record(const Region& region, const char* address, unsigned bytes, Access access, Code code) {
  std::lock_guard<std::mutex> guard(lock);
  const Thread& me = *worker->current;
  Site& site = sites[{worker->launch->library, offset_of(code), (access * 2u + region.memory) << 16 | bytes}];
  site.memory = region.memory, site.access = access, site.bytes = bytes;
  site.passed.resize(worker->threads.size());
  const uint64_t key = uint64_t(me.warp) << 32 | site.passed[me.number]++;
  Lanes& lanes = site.open[key];
  lanes.present |= 1u << me.lane;
  // A GPU's buffers begin at multiples of 512 bytes; NumPy's begin anywhere.
  lanes.address[me.lane] = region.memory == SHARED
                               ? address - worker->shared_statics
                               : address - region.low + (uint64_t(&region - &worker->regions[0]) << 40);
  if (lanes.present != ~0u) return;
  count(site, lanes);
  site.open.erase(key);
}

// The block is at its end: what is still open are requests of fewer than 32 lanes.
void fold_profile() {
  std::lock_guard<std::mutex> guard(lock);
  for (auto& [key, site] : sites) {
    for (auto& [pass, lanes] : site.open) count(site, lanes);
    site.open.clear();
    site.passed.clear();
  }
}

// Everything counted so far in one library, as numbers, seven for each instruction; and begin again.
EXPORT const char* emulator_profile(const void* function) {
  static std::string text;
  std::lock_guard<std::mutex> guard(lock);
  Dl_info info;
  dladdr(function, &info);
  text.clear();
  for (auto entry = sites.begin(); entry != sites.end();) {
    const auto& [key, site] = *entry;
    if (std::get<0>(key) != info.dli_fbase) {
      ++entry;
      continue;
    }
    for (uint64_t value : {std::get<1>(key), uint64_t(site.memory), uint64_t(site.access), uint64_t(site.bytes),
                           site.requests, site.work, site.ideal})
      text += std::to_string(value) + " ";
    entry = sites.erase(entry);
  }
  return text.c_str();
}
}  // namespace emulator
