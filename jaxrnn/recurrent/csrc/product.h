// Products with a weight that stays packed for as long as the loop over time lasts.
//
// A weight is cut into panels, each as wide as a few vectors and as long as the product's inner
// dimension K, so that the innermost loop reads it from front to back. The rows of the other
// factor come in blocks of at most R rows, each as it is, or packed with the R numbers of one k
// side by side.

#pragma once

#include <memory>
#include <utility>

#include "sizes.h"

namespace jaxrnn {

// The rows of a product: number k of row r is data[r * row + k * next].
template <typename T>
struct Left {
  const T* data;
  long row, next = 1;
};

// How long rows are that are read side by side: longer than they need to be, so that the same
// numbers of all rows are not in the same place of a cache.
template <typename T>
constexpr long padded(long width) {
  return (panels_of<T>(width) + 1) * kLanes<T>;
}

// tile[r][v] = sum_k left[r][k] * panel[k][v], one vector v of V, one row r of R.
template <typename T, int R, int V>
void multiply(Left<T> left, const T* panel, long K, Vec<T>* tile) {
  Vec<T> sums[R][V] = {};
  for (long k = 0; k < K; ++k) {
    Vec<T> factors[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) factors[v] = load<T>(panel + v * kLanes<T>);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] += left.data[r * left.row] * factors[v];
    }
    left.data += left.next;
    panel += V * kLanes<T>;
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) tile[r * V + v] = sums[r][v];
  }
}

template <typename T>
using Multiply = void (*)(Left<T>, const T*, long, Vec<T>*);

template <typename T, int V, int... R>
Multiply<T> choose_rows(int rows, std::integer_sequence<int, R...>) {
  static constexpr Multiply<T> table[] = {multiply<T, R + 1, V>...};
  return table[rows - 1];
}

// The product for blocks of `rows` rows, at most most_rows(V).
template <typename T, int V>
Multiply<T> multiply_for(int rows) {
  return choose_rows<T, V>(rows, std::make_integer_sequence<int, most_rows(V)>());
}

template <typename T, int... V>
Multiply<T> choose_vectors(int vectors, int rows, std::integer_sequence<int, V...>) {
  using Choose = Multiply<T> (*)(int);
  static constexpr Choose table[] = {multiply_for<T, V + 1>...};
  return table[vectors - 1](rows);
}

// The same for panels of `vectors` vectors, at most kMostGates.
template <typename T>
Multiply<T> multiply_for(int vectors, int rows) {
  return choose_vectors<T>(vectors, rows, std::make_integer_sequence<int, kMostGates>());
}

// The product for each of some blocks.
template <typename T>
std::vector<Multiply<T>> multiply_for(int vectors, const std::vector<Block>& blocks) {
  std::vector<Multiply<T>> found;
  for (const Block& block : blocks) found.push_back(multiply_for<T>(vectors, block.rows));
  return found;
}

// Memory for vectors: aligned, and not yet written to.
template <typename T>
class Buffer {
 public:
  explicit Buffer(long size)
      : memory_(new unsigned char[size * sizeof(T) + kVectorBytes]),
        data_(reinterpret_cast<T*>(
            (reinterpret_cast<uintptr_t>(memory_.get()) + kVectorBytes - 1) &
            ~uintptr_t(kVectorBytes - 1))) {}
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  std::unique_ptr<unsigned char[]> memory_;
  T* data_;
};

// Copies `count` numbers, at most N: fast where all N are copied.
template <int N, typename T>
inline void copy(const T* from, long count, T* to) {
  if (count == N) {
    std::memcpy(to, from, N * sizeof(T));
  } else {
    std::copy_n(from, count, to);
  }
}

// Adds `count` numbers, at most N, to those at `to`.
template <int N, typename T>
inline void add(const T* from, long count, T* to) {
  if (count == N) {
    for (int i = 0; i < N; ++i) to[i] += from[i];
  } else {
    for (long i = 0; i < count; ++i) to[i] += from[i];
  }
}

}  // namespace jaxrnn
