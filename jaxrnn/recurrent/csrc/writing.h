// Writing: character after character, each drawn from what the model says after the one before.
//
// Shapes: N characters to write, B texts at once, D layers, H units, GH gates times units,
// V characters to choose from. All N steps of some texts are one thread's, which needs to wait for
// nobody; a few texts with a large weight are a team's.

#pragma once

#include <limits>

#include "cells.h"
#include "packing.h"
#include "team.h"

namespace jaxrnn {

template <typename T, template <typename> class CellOf>
struct Write {
  using Cell = CellOf<T>;
  using Recurrent = Packing<T, Cell::gates>;
  using Output = Packing<T, 1>;
  static constexpr int G = Cell::gates, U = Recurrent::U, L = kLanes<T>;
  static constexpr int kRows = std::min(kMostRows<G * U>, kMostRows<Output::U>);

  static constexpr long kNothing = -1;  // is written where no character has a probability

  long N, B, D, H, V;
  const T *weight_hh, *weight_ih;    // (D, packed), (D - 1, packed): the first layer has a table
  const T *bias_hh, *bias_ih;        // (D, GH), (D - 1, GH)
  const T *table;                    // (V, GH): the input half of the first layer's gates
  const T *weight_out, *bias_out;    // (packed), (V,); -inf where a character is never to be drawn
  const T *h_first, *c_first;        // (D, B, H)
  const int32_t* token;              // (B,): the character before the first one
  const T* draws;                    // (N, B) from [0, 1), or null: always the most likely
  T sharpness;                       // the logits are multiplied by it
  int32_t* written;                  // (N, B)
  T *h_last, *c_last;                // (D, B, H)

  void run(xla::ffi::ThreadPool& pool) {
    const long numbers = (2 * D - 1) * G * H * H + V * H;
    const double operations = 2.0 * N * B * numbers;
    const Chunks chunks(B, pool.num_threads(), operations);
    const long helpers = helpers_for(pool, chunks.count, numbers * sizeof(T), operations);
    parallel_for(pool, chunks.count, [&](long i) {
      Texts(*this, chunks.begin(i), chunks.end(i)).run(Team(pool, helpers));
    });
  }

 private:
  // Some texts, with what they remember from character to character.
  struct Texts {
    const Write& f;
    const Recurrent recurrent;
    const Output output;
    const long first, count, width, choices;
    std::vector<Block> blocks;
    Buffer<T> h, c, rows, logits;
    std::vector<long> reads;
    long now = 0;  // which half of `rows` is the carry before the step

    Texts(const Write& f, long begin, long end)
        : f(f), recurrent(f.H, f.H), output(f.V, f.H), first(begin), count(end - begin),
          width(recurrent.panels * U * L), choices(output.panels * Output::U * L),
          blocks(blocks_of(count, kRows)), h(f.D * count * width),
          c(Cell::has_c ? f.D * count * width : 0), rows(2 * f.D * count * f.H),
          logits(count * choices), reads(count) {}

    void run(Team team) {
      begin();
      for (long n = 0; n < f.N; ++n) {
        for (long d = 0; d < f.D; ++d) {
          team.run(recurrent.panels, [&](long p) { step(d, p); });
        }
        now = 1 - now;
        team.run(output.panels, [&](long p) { predict(p); });
        for (long r = 0; r < count; ++r) {
          const long chosen = f.draws ? drawn(r, f.draws[n * f.B + first + r]) : most_likely(r);
          f.written[n * f.B + first + r] = static_cast<int32_t>(chosen);
          reads[r] = std::max<long>(chosen, 0);
        }
      }
      for (long d = 0; d < f.D; ++d) {
        for (long r = 0; r < count; ++r) {
          const long from = (d * count + r) * width, to = (d * f.B + first + r) * f.H;
          std::copy_n(h.data() + from, f.H, f.h_last + to);
          if (Cell::has_c) std::copy_n(c.data() + from, f.H, f.c_last + to);
        }
      }
    }

    // The carry of layer d in blocks, before the step or after it.
    T* packed_rows(long d, bool after) {
      return rows.data() + ((after ? 1 - now : now) * f.D + d) * count * f.H;
    }

    void begin() {
      for (long r = 0; r < count; ++r) reads[r] = std::clamp<long>(f.token[first + r], 0, f.V - 1);
      for (long d = 0; d < f.D; ++d) {
        for (long r = 0; r < count; ++r) {
          const long to = (d * count + r) * width, from = (d * f.B + first + r) * f.H;
          std::copy_n(f.h_first + from, f.H, h.data() + to);
          if (Cell::has_c) std::copy_n(f.c_first + from, f.H, c.data() + to);
        }
        for (const Block& block : blocks) {
          T* to = packed_rows(d, false) + block.first * f.H;
          for (int r = 0; r < block.rows; ++r) {
            const T* from = h.data() + (d * count + block.first + r) * width;
            for (long k = 0; k < f.H; ++k) to[k * block.rows + r] = from[k];
          }
        }
      }
    }

    // One step of layer d for the units of panel p.
    void step(long d, long p) {
      const long weight = recurrent.panels * recurrent.size;
      for (const Block& block : blocks) {
        const auto multiply = multiply_for<T, G * U>(block.rows);
        Vec<T> s[kAccumulators], x[kAccumulators];
        multiply(packed_rows(d, false) + block.first * f.H,
                 f.weight_hh + d * weight + p * recurrent.size, f.H, s);
        if (d > 0) {
          multiply(packed_rows(d - 1, true) + block.first * f.H,
                   f.weight_ih + (d - 1) * weight + p * recurrent.size, f.H, x);
        }
        for (int u = 0; u < U; ++u) finish(d, (p * U + u) * L, u, block, s, d > 0 ? x : nullptr);
      }
    }

    // The cell's step for a vector of units; x is null where the table has it.
    void finish(long d, long unit, int u, const Block& block, const Vec<T>* s, const Vec<T>* x) {
      const int lanes = static_cast<int>(std::min<long>(L, f.H - unit));
      if (lanes <= 0) return;
      T* next = packed_rows(d, true) + block.first * f.H;
      for (int r = 0; r < block.rows; ++r) {
        const long row = block.first + r, own = (d * count + row) * width + unit;
        Vec<T> x_gates[G], h_gates[G], kept[Cell::kept + 1], c_now{}, h_now = load(h.data() + own);
        for (int g = 0; g < G; ++g) {
          const long gate = g * f.H + unit, place = r * G * U + g * U + u;
          h_gates[g] = s[place] + load(f.bias_hh + d * G * f.H + gate, lanes);
          x_gates[g] = x ? x[place] + load(f.bias_ih + (d - 1) * G * f.H + gate, lanes)
                         : load(f.table + reads[row] * G * f.H + gate, lanes);
        }
        if (Cell::has_c) c_now = load(c.data() + own);
        Cell::forward(x_gates, h_gates, h_now, c_now, kept);
        store(h.data() + own, h_now);
        if (Cell::has_c) store(c.data() + own, c_now);
        for (int l = 0; l < lanes; ++l) next[(unit + l) * block.rows + r] = h_now[l];
      }
    }

    // The logits of panel p of the characters.
    void predict(long p) {
      for (const Block& block : blocks) {
        Vec<T> tile[kAccumulators];
        multiply_for<T, Output::U>(block.rows)(packed_rows(f.D - 1, false) + block.first * f.H,
                                               f.weight_out + p * output.size, f.H, tile);
        for (int u = 0; u < Output::U; ++u) {
          const long choice = (p * Output::U + u) * L;
          const int lanes = static_cast<int>(std::min<long>(L, f.V - choice));
          if (lanes <= 0) break;
          const Vec<T> bias = load(f.bias_out + choice, lanes);
          for (int r = 0; r < block.rows; ++r) {
            T* to = logits.data() + (block.first + r) * choices + choice;
            store(to, tile[r * Output::U + u] + bias);
          }
        }
      }
    }

    // The largest logit of row r, or NaN if one is NaN or none is finite: then nothing is chosen.
    T largest_of(const T* own) {
      T largest = -std::numeric_limits<T>::infinity();
      bool unknown = false;
      for (long v = 0; v < f.V; ++v) {
        unknown |= own[v] != own[v];
        largest = own[v] > largest ? own[v] : largest;
      }
      if (unknown) return std::numeric_limits<T>::quiet_NaN();
      const bool finite = largest >= std::numeric_limits<T>::lowest() &&
                          largest <= std::numeric_limits<T>::max();
      return finite ? largest : std::numeric_limits<T>::quiet_NaN();
    }

    long most_likely(long r) {
      const T* own = logits.data() + r * choices;
      const T largest = largest_of(own);
      return largest != largest ? kNothing : std::find(own, own + f.V, largest) - own;
    }

    // The first character up to which the probabilities sum to more than `draw`.
    long drawn(long r, T draw) {
      T* own = logits.data() + r * choices;
      const T largest = largest_of(own);
      if (largest != largest) return kNothing;
      T total = 0;
      for (long v = 0; v < f.V; v += L) {
        Vec<T> x = load(own + v), none{};
        Vec<T> weights = exp<T>((x - largest) * f.sharpness);
        weights = x < -std::numeric_limits<T>::max() ? none : weights;
        store(own + v, weights);
        const long end = std::min<long>(v + L, f.V);
        for (long i = v; i < end; ++i) total += own[i];
      }
      const T threshold = draw * total;
      long last = 0;
      T sum = 0;
      for (long v = 0; v < f.V; ++v) {
        sum += own[v];
        if (own[v] > 0) last = v;
        if (sum > threshold) return v;
      }
      return last;
    }
  };
};

}  // namespace jaxrnn
