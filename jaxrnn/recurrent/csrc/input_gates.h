// The input half of the gates, made from the layer's inputs a few steps before it is read, so that
// it stays in a cache: the steps read it in an order that no processor foresees.
//
// Shapes: as in cell.h; I the inputs' size. "Rows" are those of one thread.

#pragma once

#include "packing.h"
#include "team.h"

namespace jaxrnn {

// A product of the inputs with the input weight, without the bias.
template <typename T>
class InputGates {
 public:
  InputGates(const Sizes& n, int gates, const T* packed, const T* xs, long first, long count)
      : n_(n), packing_(gates, n.H, n.I), packed_(packed), xs_(xs), first_(first), count_(count),
        steps_(packed ? steps_at_once(n, packing_, count) : 0), direct_(steps_ == 1),
        stride_(padded<T>(n.I)), rows_(steps_ * count * stride_),
        tiles_(direct_ ? 0 : steps_ * count * packing_.width() * gates) {}

  // The sums of step number `i` for a panel and some rows, as a product's tile: row by row, gate by
  // gate. They are in `memory` or elsewhere; null where there is no input weight.
  const Vec<T>* tile(long i, long panel, const Block& block, Vec<T>* memory) {
    if (!packed_) return nullptr;
    if (direct_) {
      multiply_for<T>(packing_.vectors, block.rows)(
          row(block.first), packed_ + panel * packing_.size, n_.I, memory);
      return memory;
    }
    return tiles() + (panel * places_ + (i - begin_) * count_ + block.first) * packing_.vectors;
  }

  // Makes those of step number `i` and of some more after it, if they are not there.
  void make(long i, Team& team) {
    if (!packed_ || (i >= begin_ && i < end_)) return;
    begin_ = i;
    end_ = std::min(n_.T, i + steps_);
    places_ = (end_ - begin_) * count_;
    const std::vector<Block> blocks = blocks_of(places_, most_rows(packing_.vectors));
    const auto multiply = multiply_for<T>(packing_.vectors, blocks);
    for (long place = 0; place < places_; ++place) copy_row(place);
    if (direct_) return;
    team.run(packing_.panels, [&](long p) {
      for (size_t b = 0; b < blocks.size(); ++b) {
        multiply[b](row(blocks[b].first), packed_ + p * packing_.size, n_.I,
                    tiles() + (p * places_ + blocks[b].first) * packing_.vectors);
      }
    });
  }

 private:
  // So many that their gates take a part of the second cache.
  static long steps_at_once(const Sizes& n, const Packing<T>& packing, long count) {
    constexpr long kCached = 1 << 18;  // bytes
    const long bytes = count * packing.width() * packing.G * sizeof(T);
    return std::clamp<long>(kCached / bytes, 1, std::max<long>(n.T, 1));
  }

  Vec<T>* tiles() { return reinterpret_cast<Vec<T>*>(tiles_.data()); }

  Left<T> row(long place) const { return {rows_.data() + place * stride_, stride_}; }

  void copy_row(long place) {
    const long t = n_.step(begin_ + place / count_, false);
    const T* from = xs_ + (t * n_.B + first_ + place % count_) * n_.I;
    std::copy_n(from, n_.I, rows_.data() + place * stride_);
  }

  const Sizes n_;
  const Packing<T> packing_;
  const T *packed_, *xs_;  // (T, B, I)
  const long first_, count_, steps_;
  const bool direct_;                      // whether the gates of one step would fill the cache
  long begin_ = 0, end_ = 0, places_ = 0;  // the steps that are there
  const long stride_;
  Buffer<T> rows_, tiles_;                 // (places, stride), (panels, places, vectors)
};

}  // namespace jaxrnn
