// The gradients of a weight, its bias, parameters and a table: sums over all time steps and rows.
//
// Shapes: K the T * B places that are summed over, M the gates times units, N the units.

#pragma once

#include "parallel.h"
#include "product.h"
#include "sizes.h"
#include "table.h"

namespace jaxrnn {

// sum[m][n] = sum_k left[k][m] * right[k][n] and left_sum[m] = sum_k left[k][m]; N may be 0. Each
// thread makes some rows of the sum, in the order of the places.
template <typename T>
struct OuterProducts {
  static constexpr int V = 2, L = kLanes<T>, R = most_rows(V);
  static constexpr long kPlaces = 256;  // summed up before the sum is written: stays in a cache
  static constexpr long kRows = 4 * R;  // of the sum, that share what is packed of `right`

  long K, M, N;
  const T *left, *right;
  T *sum, *left_sum;  // (M, N), (M,)
  TableGradient<T> table;

  void run(xla::ffi::ThreadPool& pool) const {
    const long strips = (M + kRows - 1) / kRows;
    const auto strip = [&](long i) { Strip(*this, i * kRows, std::min(M, (i + 1) * kRows)).run(); };
    constexpr long kOfReading = 4;  // columns that take as long as reading `left` alone
    if (2.0 * K * M * std::max(N, kOfReading) < kWorthSharing) {
      for (long i = 0; i < strips; ++i) strip(i);
    } else {
      parallel_for(pool, strips, strip);
    }
  }

 private:
  struct Strip {
    const OuterProducts& p;
    const long first, count;
    std::vector<Block> blocks;
    Buffer<T> lefts, rights;

    Strip(const OuterProducts& p, long begin, long end)
        : p(p), first(begin), count(end - begin), blocks(blocks_of(count, R)),
          lefts(kPlaces * count), rights(kPlaces * V * L) {}

    void run() {
      std::fill_n(p.sum + first * p.N, count * p.N, T(0));
      std::fill_n(p.left_sum + first, count, T(0));
      p.table.begin(first, count);
      for (long k = 0; k < p.K; k += kPlaces) {
        const long places = std::min(kPlaces, p.K - k);
        for (const Block& block : blocks) {
          const T* from = p.left + k * p.M + first + block.first;
          T* to = lefts.data() + block.first * places;
          T partial[R] = {};
          for (long j = 0; j < places; ++j) {
            copy<R>(from + j * p.M, block.rows, to + j * block.rows);
            add<R>(from + j * p.M, block.rows, partial);
          }
          add<R>(partial, block.rows, p.left_sum + first + block.first);
        }
        p.table.template add<kRows>(k, places, first, count);
        for (long n = 0; n < p.N; n += V * L) panel(k, places, n);
      }
    }

    void panel(long k, long places, long n) {
      const long units = std::min<long>(V * L, p.N - n);
      for (long j = 0; j < places; ++j) {
        copy<V * L>(p.right + (k + j) * p.N + n, units, rights.data() + j * V * L);
      }
      for (const Block& block : blocks) {
        Vec<T> tile[kAccumulators];
        multiply_for<T, V>(block.rows)(
            lefts.data() + block.first * places, rights.data(), places, tile);
        for (int r = 0; r < block.rows; ++r) {
          T* to = p.sum + (first + block.first + r) * p.N + n;
          for (int v = 0; v < V; ++v) {
            const int lanes = static_cast<int>(std::min<long>(L, units - v * L));
            if (lanes > 0) store(to + v * L, load(to + v * L, lanes) + tile[r * V + v], lanes);
          }
        }
      }
    }
  };
};

// sum[m] = sum_k array[k][m], of an array (K, M), in the order of the places.
template <typename T>
struct ColumnSums {
  static constexpr long kPlaces = 256;  // summed up by themselves: less is rounded away
  static constexpr int kColumns = 64;   // of one thread

  long K, M;
  const T* array;
  T* sum;  // (M,)

  void run(xla::ffi::ThreadPool& pool) const {
    const long strips = (M + kColumns - 1) / kColumns;
    const auto strip = [&](long i) { run(i * kColumns); };
    if (1.0 * K * M < kWorthSharing) {
      for (long i = 0; i < strips; ++i) strip(i);
    } else {
      parallel_for(pool, strips, strip);
    }
  }

 private:
  void run(long first) const {
    const long count = std::min<long>(kColumns, M - first);
    std::fill_n(sum + first, count, T(0));
    for (long k = 0; k < K; k += kPlaces) {
      T partial[kColumns] = {};
      for (long j = k; j < std::min(K, k + kPlaces); ++j) {
        add<kColumns>(array + j * M + first, count, partial);
      }
      add<kColumns>(partial, count, sum + first);
    }
  }
};

}  // namespace jaxrnn
