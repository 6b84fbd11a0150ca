// copies.cpp: cp.async is a promise.
//
// The instruction says what is to be copied from global to shared memory, and returns at once. The bytes are there
// when the thread has waited for the group that the copy was committed to, and not before: here they are moved at the
// wait, so that a kernel that forgets to wait finds what was there before. Other threads see them after a barrier.
#include "runtime.h"

namespace emulator {

static void land(std::vector<Copy>& group) {
  for (const Copy& copy : group) {
    if (worker->watching) copy_lands(copy);
    memcpy(copy.to, copy.from, copy.valid);
    memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
  }
  group.clear();
}

EXPORT void emulator_copy_async(void* to, const void* from, unsigned bytes, unsigned valid) {
  const Code code = __builtin_return_address(0);
  const Copy copy{static_cast<char*>(to), static_cast<const char*>(from), bytes, valid < bytes ? valid : bytes, code};
  const uintptr_t both = reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0);
  if (bytes != 4 && bytes != 8 && bytes != 16) fail({}, code, "cp.async copies 4, 8 or 16 bytes, not %u", bytes);
  if (valid > bytes) fail({}, code, "cp.async of %u bytes with %u bytes of source", bytes, valid);
  if (both % bytes) fail({}, code, "misaligned cp.async: both addresses must be multiples of %u bytes", bytes);
  if (worker->watching) copy_begins(copy);
  worker->current->open.push_back(copy);
}

EXPORT void emulator_copy_commit() {
  Thread& me = *worker->current;
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

// Wait until at most `left` of the committed groups are under way.
EXPORT void emulator_copy_wait(unsigned left) {
  auto& groups = worker->current->groups;
  while (groups.size() > left) {
    land(groups.front());
    groups.erase(groups.begin());
  }
}

EXPORT void emulator_copy_wait_all() {
  emulator_copy_wait(0);
  land(worker->current->open);
}
}  // namespace emulator
