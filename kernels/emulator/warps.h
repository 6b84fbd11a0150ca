// warps.h: what the 32 lanes of a warp do together. Each is a meeting (meetings.cpp) with its own work.
#pragma once

namespace emulator {
// Meet the other lanes of the mask; the last one to come calls Work::complete with what all have brought.
template <class Work> EMULATOR_INLINE void meet(unsigned mask, const char* what, Work& mine, Place at) {
  emulator_meet(mask, what, Work::complete, &mine, at.file, at.line);
}

template <class Work, class F> void each(void** works, unsigned lanes, F f) {
  for (unsigned lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) f(lane, *static_cast<Work*>(works[lane]));
}

struct Shuffle {
  uint64_t value;
  unsigned from;
  uint64_t result;
  static void complete(void** works, unsigned lanes) {
    each<Shuffle>(works, lanes, [&](unsigned lane, Shuffle& mine) {
      if (!(lanes >> mine.from & 1))
        emulator_refuse("lane %u reads from lane %u, which does not take part (lanes 0x%08x do)", lane, mine.from,
                        lanes);
      mine.result = static_cast<Shuffle*>(works[mine.from])->value;
    });
  }
};

template <class T>
EMULATOR_INLINE T shuffle(unsigned mask, const char* what, T value, unsigned from, int width, Place at) {
  static_assert(sizeof(T) <= 8, "a shuffle hands over at most 8 bytes");
  if (width < 1 || width > 32 || (width & (width - 1)))
    emulator_fail(at.file, at.line, "%s: width %d is not a power of two up to 32", what, width);
  Shuffle mine{0, from, 0};
  __builtin_memcpy(&mine.value, &value, sizeof value);
  meet(mask, what, mine, at);
  __builtin_memcpy(&value, &mine.result, sizeof value);
  return value;
}

struct Vote {
  bool predicate;
  unsigned ballot;
  static void complete(void** works, unsigned lanes) {
    unsigned ballot = 0;
    each<Vote>(works, lanes, [&](unsigned lane, Vote& mine) { ballot |= unsigned(mine.predicate) << lane; });
    each<Vote>(works, lanes, [&](unsigned, Vote& mine) { mine.ballot = ballot; });
  }
};

EMULATOR_INLINE unsigned vote(unsigned mask, const char* what, bool predicate, Place at) {
  Vote mine{predicate, 0};
  meet(mask, what, mine, at);
  return mine.ballot;
}

struct Match {
  uint64_t value;
  unsigned same;
  static void complete(void** works, unsigned lanes) {
    each<Match>(works, lanes, [&](unsigned, Match& mine) {
      mine.same = 0;
      each<Match>(works, lanes,
                  [&](unsigned lane, Match& other) { mine.same |= unsigned(mine.value == other.value) << lane; });
    });
  }
};

template <class T> EMULATOR_INLINE unsigned match(unsigned mask, const char* what, T value, Place at) {
  Match mine{0, 0};
  __builtin_memcpy(&mine.value, &value, sizeof value);
  meet(mask, what, mine, at);
  return mine.same;
}

template <class T, class Op> struct Reduction {
  T value;
  static void complete(void** works, unsigned lanes) {
    T total = static_cast<Reduction*>(works[__builtin_ctz(lanes)])->value;
    each<Reduction>(works, lanes & (lanes - 1),
                    [&](unsigned, Reduction& mine) { total = Op::combine(total, mine.value); });
    each<Reduction>(works, lanes, [&](unsigned, Reduction& mine) { mine.value = total; });
  }
};
struct Add {
  template <class T> static T combine(T a, T b) { return a + b; }
};
struct Min {
  template <class T> static T combine(T a, T b) { return b < a ? b : a; }
};
struct Max {
  template <class T> static T combine(T a, T b) { return a < b ? b : a; }
};
struct And {
  template <class T> static T combine(T a, T b) { return a & b; }
};
struct Or {
  template <class T> static T combine(T a, T b) { return a | b; }
};
struct Xor {
  template <class T> static T combine(T a, T b) { return a ^ b; }
};

template <class Op, class T> EMULATOR_INLINE T reduce(unsigned mask, const char* what, T value, Place at) {
  Reduction<T, Op> mine{value};
  meet(mask, what, mine, at);
  return mine.value;
}
}  // namespace emulator

#define EMULATOR_AT emulator::Place at = emulator::here()

// ---- shuffles: a lane reads what another lane brings; beyond the segment of `width` lanes it gets its own
template <class T> EMULATOR_INLINE T __shfl_sync(unsigned mask, T value, int from, int width = 32, EMULATOR_AT) {
  const unsigned first = emulator::lane() & -width;
  return emulator::shuffle(mask, "__shfl_sync", value, first + (from & (width - 1)), width, at);
}
template <class T>
EMULATOR_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_AT) {
  const int lane = emulator::lane(), first = lane & -width, from = lane - int(delta);
  return emulator::shuffle(mask, "__shfl_up_sync", value, from < first ? lane : from, width, at);
}
template <class T>
EMULATOR_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_AT) {
  const unsigned lane = emulator::lane(), end = (lane & -width) + width, from = lane + delta;
  return emulator::shuffle(mask, "__shfl_down_sync", value, from >= end ? lane : from, width, at);
}
template <class T> EMULATOR_INLINE T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EMULATOR_AT) {
  const unsigned lane = emulator::lane(), end = (lane & -width) + width, from = lane ^ unsigned(with);
  return emulator::shuffle(mask, "__shfl_xor_sync", value, from >= end ? lane : from, width, at);
}

// ---- votes --------------------------------------------------------------------------------------
EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_AT) {
  return emulator::vote(mask, "__ballot_sync", predicate, at);
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate, EMULATOR_AT) {
  return emulator::vote(mask, "__any_sync", predicate, at) != 0;
}
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate, EMULATOR_AT) {
  return emulator::vote(mask, "__all_sync", !predicate, at) == 0;
}
EMULATOR_INLINE unsigned __activemask(EMULATOR_AT) { return emulator_activemask(at.file, at.line); }
template <class T> EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value, EMULATOR_AT) {
  return emulator::match(mask, "__match_any_sync", value, at);
}
template <class T> EMULATOR_INLINE unsigned __match_all_sync(unsigned mask, T value, int* all, EMULATOR_AT) {
  const unsigned same = emulator::match(mask, "__match_all_sync", value, at);
  *all = same == mask;
  return *all ? mask : 0;
}

// ---- reductions ---------------------------------------------------------------------------------
#define EMULATOR_REDUCE(NAME, OP, T)                                                   \
  EMULATOR_INLINE T __reduce_##NAME##_sync(unsigned mask, T value, EMULATOR_AT) {      \
    return emulator::reduce<emulator::OP>(mask, "__reduce_" #NAME "_sync", value, at); \
  }
EMULATOR_REDUCE(add, Add, int)
EMULATOR_REDUCE(add, Add, unsigned)
EMULATOR_REDUCE(min, Min, int)
EMULATOR_REDUCE(min, Min, unsigned)
EMULATOR_REDUCE(max, Max, int)
EMULATOR_REDUCE(max, Max, unsigned)
EMULATOR_REDUCE(and, And, unsigned)
EMULATOR_REDUCE(or, Or, unsigned)
EMULATOR_REDUCE(xor, Xor, unsigned)
