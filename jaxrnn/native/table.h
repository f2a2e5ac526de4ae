// The gradient of a table whose rows are the inputs of the steps.
//
// Shapes: K the T * B places, M the gates times units, V rows of the table.

#pragma once

#include "parallel.h"
#include "product.h"
#include "sizes.h"

namespace jaxrnn {

// d_table[v] = the sum of d_x[k] over the places k whose token is v, in the order of the places.
// Each thread makes some columns, narrow enough that they stay in a cache for all V rows.
template <typename T>
struct TableGradient {
  static constexpr long kColumns = 256 / sizeof(T);

  const Sizes& n;
  long M, K;
  const int32_t* tokens;  // (K,)
  const T* d_x;           // (K, M)
  T* d_table;             // (V, M)

  void run(xla::ffi::ThreadPool& pool) const {
    const long strips = (M + kColumns - 1) / kColumns;
    const auto strip = [&](long i) { sum(i * kColumns, std::min(kColumns, M - i * kColumns)); };
    if (1.0 * K * M < kWorthSharing / 10) {
      for (long i = 0; i < strips; ++i) strip(i);
    } else {
      parallel_for(pool, strips, strip);
    }
  }

 private:
  void sum(long first, long count) const {
    for (long v = 0; v < n.V; ++v) std::fill_n(d_table + v * M + first, count, T(0));
    for (long k = 0; k < K; ++k) {
      add<kColumns>(d_x + k * M + first, count, d_table + n.row(tokens[k]) * M + first);
    }
  }
};

}  // namespace jaxrnn
