// What a recurrence reads, and how its rows are shared out.
//
// Shapes: T time steps, B rows, H units, GH gates times units, V rows of the table.

#pragma once

#include <algorithm>
#include <cstdint>

namespace jaxrnn {

struct Sizes {
  long T, B, H, V;  // V is 0 where the inputs are not looked up
  bool reverse;

  // The row of the table that a token reads; like XLA's gather, never one outside.
  long row(int32_t token) const { return std::clamp<long>(token, 0, V - 1); }

  // Step number `i`, from 0, in the order in which the recurrence runs, or against it.
  long step(long i, bool backwards) const { return reverse != backwards ? T - 1 - i : i; }
};

// Whether any of some rows is run at step t: windows that are padded end in steps that none is.
inline bool any_alive(const bool* alive, long t, long B, long first, long count) {
  if (!alive) return true;
  const bool* from = alive + t * B + first;
  return std::any_of(from, from + count, [](bool x) { return x; });
}

// How many steps there are up to the last one at which any of B rows is run.
inline long steps_run(const bool* alive, long T, long B) {
  while (T > 0 && !any_alive(alive, T - 1, B, 0, B)) --T;
  return T;
}

// Operations on one thread that take about ten times as long as waking another.
constexpr double kWorthSharing = 2e6;
// Numbers of a weight that take longer to pack than waking a thread.
constexpr long kWorthPacking = 1 << 15;

// Which rows a thread takes through all time steps: rows never wait for each other.
struct Chunks {
  long rows, count;

  Chunks(long rows, long threads, double operations) : rows(rows), count(1) {
    constexpr long kMost = 64;  // rows: their carry stays in the innermost caches
    if (threads <= 1 || operations < kWorthSharing) {
      count = (rows + kMost - 1) / kMost;
      return;
    }
    count = std::min(rows, threads * ((rows + kMost * threads - 1) / (kMost * threads)));
  }
  long begin(long i) const { return rows * i / count; }
  long end(long i) const { return rows * (i + 1) / count; }
};

}  // namespace jaxrnn
