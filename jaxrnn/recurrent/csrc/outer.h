// The gradients of a weight, its bias, parameters and a table: sums over all time steps and rows.
//
// Shapes: K the T * B places that are summed over, M the gates times units, N the units.

#pragma once

#include "parallel.h"
#include "product.h"
#include "sizes.h"
#include "table.h"

namespace jaxrnn {

// A right factor (K, N), and the sum (M, N) of its products.
template <typename T>
struct Factor {
  long N;
  std::function<const T*(long)> row;  // of a place
  T* sum;
};

// sum[m][n] = sum_k left[k][m] * right[k][n] for each right factor; left_sum[m] = sum_k left[k][m].
// Each thread makes some rows of the sums, in the order of the places.
template <typename T>
struct OuterProducts {
  static constexpr int V = 2, L = kLanes<T>, R = most_rows(V);
  static constexpr long kPlaces = 256;  // summed up before the sum is written: stays in a cache
  static constexpr long kRows = 4 * R;  // of the sum, of which a thread takes some times as many
  static constexpr long kMostRows = 12 * kRows;

  long K, M;
  const T* left;
  long stride;  // of `left`: numbers from a place to the next
  std::vector<Factor<T>> factors;
  T* left_sum;  // (M,)
  TableGradient<T> table{};

  void run(xla::ffi::ThreadPool& pool) const {
    long columns = 4;  // that take as long as reading `left` alone
    for (const Factor<T>& factor : factors) columns += factor.N;
    const bool shared = 2.0 * K * M * columns >= kWorthSharing;
    const long threads = shared ? pool.num_threads() : 1;
    const long strips = (M + kRows - 1) / kRows;
    const long each = std::clamp<long>((strips + threads - 1) / threads, 1, kMostRows / kRows);
    const long rows = each * kRows, parts = (M + rows - 1) / rows;
    const auto part = [&](long i) { Part(*this, i * rows, std::min(M, (i + 1) * rows)).run(); };
    if (shared) {
      parallel_for(pool, parts, part);
    } else {
      for (long i = 0; i < parts; ++i) part(i);
    }
  }

 private:
  static long panels(const Factor<T>& factor) { return (factor.N + V * L - 1) / (V * L); }

  // The most panels of one of the factors.
  long most_panels() const {
    long most = 0;
    for (const Factor<T>& factor : factors) most = std::max(most, panels(factor));
    return most;
  }

  // Some rows of the sums. What is read of the factors at a time is packed once.
  struct Part {
    const OuterProducts& p;
    const long first, count;
    std::vector<Block> blocks;
    Buffer<T> lefts, rights, partial;

    Part(const OuterProducts& p, long begin, long end)
        : p(p), first(begin), count(end - begin), blocks(blocks_of(count, R)),
          lefts(kPlaces * count), rights(kPlaces * p.most_panels() * V * L), partial(count) {}

    void run() {
      for (const Factor<T>& factor : p.factors) {
        std::fill_n(factor.sum + first * factor.N, count * factor.N, T(0));
      }
      std::fill_n(p.left_sum + first, count, T(0));
      p.table.begin(first, count);
      for (long k = 0; k < p.K; k += kPlaces) {
        const long places = std::min(kPlaces, p.K - k);
        pack_left(k, places);
        for (long row = 0; row < count; row += kRows) {
          p.table.template add<kRows>(k, places, first + row, std::min(kRows, count - row));
        }
        for (const Factor<T>& factor : p.factors) {
          pack_right(factor, k, places);
          for (long n = 0; n < panels(factor); ++n) {
            for (const Block& block : blocks) add_products(factor, places, n, block);
          }
        }
      }
    }

    // Place by place: a row of `left` is read from front to back.
    void pack_left(long k, long places) {
      constexpr long kAhead = 4;  // places
      std::fill_n(partial.data(), count, T(0));
      for (long j = 0; j < places; ++j) {
        const T* from = p.left + (k + j) * p.stride + first;
        // Rows lie in pages of their own, where the processor foresees nothing.
        for (long m = 0; m < count; m += L) __builtin_prefetch(from + kAhead * p.stride + m);
        for (long m = 0; m < count; ++m) partial.data()[m] += from[m];
        for (const Block& block : blocks) {
          copy<R>(from + block.first, block.rows,
                  lefts.data() + block.first * places + j * block.rows);
        }
      }
      for (long m = 0; m < count; ++m) p.left_sum[first + m] += partial.data()[m];
    }

    void pack_right(const Factor<T>& factor, long k, long places) {
      for (long j = 0; j < places; ++j) {
        const T* from = factor.row(k + j);
        for (long n = 0; n < panels(factor); ++n) {
          const long column = n * V * L, columns = std::min<long>(V * L, factor.N - column);
          copy<V * L>(from + column, columns, rights.data() + (n * places + j) * V * L);
        }
      }
    }

    void add_products(const Factor<T>& factor, long places, long n, const Block& block) {
      T* const sum = factor.sum + (first + block.first) * factor.N + n * V * L;
      for (int r = 0; r < block.rows; ++r) {
        for (int v = 0; v < V; ++v) __builtin_prefetch(sum + r * factor.N + v * L, 1);
      }
      Vec<T> tile[kAccumulators];
      const Left<T> left{lefts.data() + block.first * places, 1, block.rows};
      multiply_for<T, V>(block.rows)(left, rights.data() + n * places * V * L, places, tile);
      for (int r = 0; r < block.rows; ++r) {
        for (int v = 0; v < V; ++v) {
          T* const to = sum + r * factor.N + v * L;
          const int lanes = static_cast<int>(std::min<long>(L, factor.N - (n * V + v) * L));
          if (lanes > 0) store(to, load(to, lanes) + tile[r * V + v], lanes);
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
