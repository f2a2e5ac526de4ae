// The gradient of a table whose rows are the inputs of the steps.
//
// Shapes: K the T * B places, M the gates times units, V rows of the table.

#pragma once

#include "product.h"

namespace jaxrnn {

// d_table[v] = the sum of d_x[k] over the places k that read row v, in the order of the places:
// made some columns and some places at a time, while another sum has them in a cache.
template <typename T>
struct TableGradient {
  long V, M;
  long reads;                 // how many rows the inputs of a place are the sum of
  const int32_t* tokens;      // (K, reads)
  const T* d_gates;           // (K, M): the gradient of the recurrent half of the gates
  long shared;                // the columns that are the same in that of the input half
  const T* d_x;               // (K, M - shared): its other columns
  T* d_table;                 // (V, M), or null where there is no table

  void begin(long first, long count) const {
    if (!d_table) return;
    for (long v = 0; v < V; ++v) std::fill_n(d_table + v * M + first, count, T(0));
  }

  // Adds columns `first` to `first + count - 1`, at most N, of places `place` to `place + places - 1`.
  template <int N>
  void add(long place, long places, long first, long count) const {
    if (!d_table) return;
    const long from_gates = std::clamp<long>(shared - first, 0, count);
    for (long k = place; k < place + places; ++k) {
      const T* from = d_x + k * (M - shared) + (first + from_gates - shared);
      for (long r = 0; r < reads; ++r) {
        T* to = d_table + row_of(tokens[k * reads + r], V) * M + first;
        jaxrnn::add<N>(d_gates + k * M + first, from_gates, to);
        if (from_gates < count) jaxrnn::add<N>(from, count - from_gates, to + from_gates);
      }
    }
  }
};

}  // namespace jaxrnn
