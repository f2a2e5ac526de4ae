// The sizes of a recurrence, and how its rows and units are divided.
//
// Shapes: T time steps, B rows of the batch, H units, G gates, V rows of the table, I inputs.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vector.h"

namespace jaxrnn {

// Gates that a cell may have: products this many vectors wide are compiled once for all cells.
constexpr int kMostGates = 8;

// Vectors of units in a panel of the packed weight. One gate alone would fill too few registers.
constexpr int units_per_panel(int gates) { return gates == 1 ? 2 : 1; }

// Rows whose sums fit into the registers, for a panel as wide as so many vectors.
constexpr int most_rows(int vectors) { return kAccumulators / vectors; }

struct Sizes {
  long T, B, H, V;  // V is 0 where the inputs are not looked up
  long reads;       // how many rows of the table the inputs of a place are the sum of
  long I;           // the inputs' size; 0 where their half of the gates is given
  bool reverse;

  // Operations of all steps; without a product, a number that takes as long.
  double operations(int gates, bool recurrent) const {
    constexpr double kOfElement = 40.0;  // reading, the step and writing, per number of a gate
    return 1.0 * T * B * H * gates * (recurrent ? 2.0 * (H + I) : kOfElement);
  }

  // Step number `i`, from 0, in the order in which the recurrence runs, or against it.
  long step(long i, bool backwards) const { return reverse != backwards ? T - 1 - i : i; }
};

// The number, in the order of memory, of the residuals of one vector of units (`panel` of `panels`) of
// a row at a step. With a product, the rows of a block go through a step unit by unit, and without one
// row by row: in either case memory is written and read from front to back.
inline long residuals_number(bool recurrent, long t, long B, long row, long panel, long panels) {
  return recurrent ? (t * panels + panel) * B + row : (t * B + row) * panels + panel;
}

// `h` before each step: kept, (T, B, H), or, where each step is run and none starts anew, what the
// step before gave.
template <typename T>
struct HBefore {
  const Sizes& n;
  const T *kept, *h_first, *ys;  // (T, B, H) or null, (B, H), (T, B, H)

  // Of all rows, (B, H).
  const T* of_step(long t) const {
    if (kept) return kept + t * n.B * n.H;
    const long last = n.reverse ? t + 1 : t - 1;
    return last < 0 || last >= n.T ? h_first : ys + last * n.B * n.H;
  }

  const T* of_place(long place) const { return of_step(place / n.B) + place % n.B * n.H; }
};

// The row of a table that a token reads; like XLA's gather, never one outside.
inline long row_of(int32_t token, long rows) { return std::clamp<long>(token, 0, rows - 1); }

// Whether any of some rows is run at step t: windows that are padded end in steps that none is.
inline bool any_run(const bool* mask, long t, long B, long first, long count) {
  if (!mask) return true;
  const bool* from = mask + t * B + first;
  return std::any_of(from, from + count, [](bool x) { return x; });
}

// Whether the carry of a place is zeroed before the step: where a step is not run, nothing is.
inline bool starts_anew(const bool* resets, const bool* mask, long place) {
  return resets[place] && (!mask || mask[place]);
}

// How many steps there are up to the last one at which any of B rows is run.
inline long steps_run(const bool* mask, long T, long B) {
  while (T > 0 && !any_run(mask, T - 1, B, 0, B)) --T;
  return T;
}

// Neighboring rows that go through a product together.
struct Block {
  long first;
  int rows;
};

// `rows` rows in blocks of nearly the same size: a last block of one row would be slow.
inline std::vector<Block> blocks_of(long rows, int most) {
  const long count = (rows + most - 1) / most;
  std::vector<Block> blocks;
  for (long i = 0, first = 0; i < count; ++i) {
    const int size = static_cast<int>((rows - first) / (count - i));
    blocks.push_back({first, size});
    first += size;
  }
  return blocks;
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
