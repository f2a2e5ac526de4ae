// The recurrence's gradients, from the last step to the first.
//
// Shapes: as in cell.h. The rows go through time in chunks, one a thread. What is summed over rows
// (the gradients of the weight, the bias, the parameters and the table) is summed afterwards, column
// by column and in the order of the places: no result depends on how many threads there are, or on
// their speed.

#pragma once

#include "cell.h"
#include "outer.h"
#include "packing.h"
#include "team.h"

namespace jaxrnn {

template <typename T>
struct Backward {
  static constexpr int U = 2;  // vectors of units in a panel
  static constexpr int L = kLanes<T>;

  const CellTable& cell;
  Sizes n;
  const T *weight, *params;              // (GH, H), or null without a product; (P, H)
  const T *weight_ih, *xs;               // (GH, I), (T, B, I), or null where `x` has the gates
  const T *before, *residuals, *ys;      // what the forward run kept, and its outputs; `before` is
  const T* h_first;                      // null where it follows from the outputs and (B, H)
  const T *bias, *x;                     // without a product, what the forward run read; else null
  const int32_t* tokens;                 // (T, B, reads) or null
  const bool *mask, *resets;             // (T, B) or null
  const T *d_ys, *dh_last;               // (T, B, H), (B, H)
  const T* d_others_last;                // (F - 1, B, H)
  T* d_x;                                // (T, B, GH): of the input half of the gates, or null
                                         // where it goes into the table or the input weight
  T *d_table, *d_weight, *d_bias;        // (V, GH) or null, (GH, H) or null, (GH,)
  T *d_weight_ih, *d_bias_ih;            // (GH, I), (GH,), or null
  T* d_xs;                               // (T, B, I), or null where nobody asks for it
  T* d_params;                           // (P, H) or null
  T *dh_first, *d_others_first;          // (B, H), (F - 1, B, H), or both null

  // Of the recurrent half of the gates, (T, B, GH), and of the input half: null where it is the
  // same; where `d_x` is null, only of the gates that are not shared.
  T *d_gates = nullptr, *d_x_gates = nullptr;

  void run(xla::ffi::ThreadPool& pool) {
    const int shared = cell.steps<T>().shared;
    const long GH = cell.gates * n.H, PH = cell.params * n.H, SH = shared * n.H;
    const bool same = SH == GH;
    Buffer<T> own_d_gates(d_x && same ? 0 : n.T * n.B * GH);
    Buffer<T> own_d_x_gates(d_x ? 0 : n.T * n.B * (GH - SH));
    d_gates = d_x && same ? d_x : own_d_gates.data();
    if (!same) d_x_gates = d_x ? d_x : own_d_x_gates.data();
    const Columns<T> packed(pool, cell.recurrent ? weight : nullptr, GH, n.H);
    const Columns<T> packed_ih(pool, d_xs ? weight_ih : nullptr, GH, n.I);
    Buffer<T> d_params_of_places(n.T * n.B * PH);
    const double operations = n.operations(cell.gates, cell.recurrent);
    const long bytes = cell.recurrent ? GH * n.H * sizeof(T) : 0;
    // The step itself is the leader's alone: worth it for very few rows only.
    constexpr int kMostRows = 2;
    const Division division(pool, n.B, kMostRows, bytes, packed.panels, operations);
    const Chunks& chunks = division.chunks;
    parallel_for(pool, chunks.count, [&](long i) {
      Part(*this, packed, packed_ih, d_params_of_places.data(), chunks.begin(i), chunks.end(i))
          .run(Team(pool, division.helpers));
    });
    const long places = steps_run(mask, n.T, n.B) * n.B;
    const TableGradient<T> table{n.V, GH, n.reads, tokens, d_gates, SH, d_x_gates, d_table};
    sum_weights(pool, places, SH, table);
    ColumnSums<T>{places, PH, d_params_of_places.data(), d_params}.run(pool);
  }

 private:
  HBefore<T> before_steps() const { return {n, before, h_first, ys}; }

  // The gradients of the weights and biases. Those of the first SH rows of the input weight come
  // from the same gradients of gates as those of the recurrent one.
  void sum_weights(xla::ffi::ThreadPool& pool, long places, long SH,
                   const TableGradient<T>& table) const {
    using Products = OuterProducts<T>;
    const long GH = cell.gates * n.H;
    std::vector<Factor<T>> factors;
    if (cell.recurrent) {
      factors.push_back({n.H, [this](long k) { return before_steps().of_place(k); }, d_weight});
    }
    if (!weight_ih) {
      Products{places, GH, d_gates, GH, factors, d_bias, table}.run(pool);
      return;
    }
    const auto row_of_xs = [this](long k) { return xs + k * n.I; };
    std::vector<Factor<T>> both = factors;
    both.push_back({n.I, row_of_xs, d_weight_ih});
    Products{places, SH, d_gates, GH, both, d_bias}.run(pool);
    std::copy_n(d_bias, SH, d_bias_ih);
    if (SH == GH) return;
    factors[0].sum += SH * n.H;
    Products{places, GH - SH, d_gates + SH, GH, factors, d_bias + SH}.run(pool);
    const Factor<T> own{n.I, row_of_xs, d_weight_ih + SH * n.I};
    Products{places, GH - SH, d_x_gates, GH - SH, {own}, d_bias_ih + SH}.run(pool);
  }

  // Some rows, with what they remember from step to step.
  struct Part {
    const Backward& b;
    const Columns<T>&weight, &weight_ih;
    T* d_params;  // (T, B, PH)
    const long GH, SH, first, count, width, field, stride, stride_x;
    std::vector<Block> blocks;
    Buffer<T> d_carry, rows, rows_x;  // (F, count, width); the gradients of the gates at a step,
                                      // and those of the input half that are other ones

    Part(const Backward& b, const Columns<T>& weight, const Columns<T>& weight_ih, T* d_params,
         long begin, long end)
        : b(b), weight(weight), weight_ih(weight_ih), d_params(d_params), GH(b.cell.gates * b.n.H),
          SH(b.cell.steps<T>().shared * b.n.H), first(begin), count(end - begin),
          width((b.n.H + U * L - 1) / (U * L) * U * L), field(count * width),
          stride(padded<T>(GH)), stride_x(padded<T>(GH - SH)),
          blocks(blocks_of(count, most_rows(U))), d_carry(b.cell.fields * field),
          rows(count * stride), rows_x(b.d_xs ? count * stride_x : 0) {}

    void run(Team team) {
      begin();
      BackwardStep<T> step{b.n.B, b.n.H, b.n.V, b.n.reads, first, b.d_x == nullptr, b.params,
                           nullptr, b.residuals, b.ys, b.bias, b.x, b.tokens, b.mask, b.d_ys,
                           {d_carry.data(), width, field}, b.d_gates, b.d_x_gates, d_params,
                           rows.data(), b.d_xs ? rows_x.data() : nullptr, stride, stride_x};
      const auto run_step = b.cell.steps<T>().backward;
      for (long i = 0; i < b.n.T; ++i) {
        const long t = b.n.step(i, true);
        if (b.h_first) step.before = b.before_steps().of_step(t);
        for (const Block& block : blocks) run_step(step, t, block);
        if (!any_run(b.mask, t, b.n.B, first, count)) {
          if (b.d_xs) std::fill_n(b.d_xs + (t * b.n.B + first) * b.n.I, count * b.n.I, T(0));
          continue;
        }
        if (b.d_xs) {
          team.run(weight_ih.panels, [&](long p) {
            for (const Block& block : blocks) through_input_weight(t, p, block);
          });
        }
        const bool last = i == b.n.T - 1;
        if (last && !b.dh_first) break;  // what goes on to the first carry, nobody asked for
        if (b.cell.recurrent) {
          team.run(weight.panels, [&](long p) {
            for (const Block& block : blocks) through_weight(p, block);
          });
        }
        if (b.resets) reset(t);
      }
      if (b.dh_first) end();
    }

    void begin() {
      for (int k = 0; k < b.cell.fields; ++k) {
        const T* from = k == 0 ? b.dh_last : b.d_others_last + (k - 1) * b.n.B * b.n.H;
        for (long r = 0; r < count; ++r) {
          std::copy_n(from + (first + r) * b.n.H, b.n.H, d_carry.data() + k * field + r * width);
        }
      }
    }

    void end() {
      for (int k = 0; k < b.cell.fields; ++k) {
        T* to = k == 0 ? b.dh_first : b.d_others_first + (k - 1) * b.n.B * b.n.H;
        for (long r = 0; r < count; ++r) {
          std::copy_n(d_carry.data() + k * field + r * width, b.n.H, to + (first + r) * b.n.H);
        }
      }
    }

    // The carry before a step that starts anew has no part in it.
    void reset(long t) {
      for (long r = 0; r < count; ++r) {
        if (!starts_anew(b.resets, b.mask, t * b.n.B + first + r)) continue;
        for (int k = 0; k < b.cell.fields; ++k) {
          std::fill_n(d_carry.data() + k * field + r * width, width, T(0));
        }
      }
    }

    // dh += d_gates @ weight, for the units of panel p.
    void through_weight(long p, const Block& block) {
      Vec<T> tile[kAccumulators];
      const Left<T> left{rows.data() + block.first * stride, stride};
      multiply_for<T, U>(block.rows)(left, weight.panel(p), GH, tile);
      for (int r = 0; r < block.rows; ++r) {
        T* own = d_carry.data() + (block.first + r) * width + p * U * L;
        for (int u = 0; u < U; ++u) store(own + u * L, load(own + u * L) + tile[r * U + u]);
      }
    }

    // d_xs = d_x_gates @ weight_ih, for the inputs of panel p.
    void through_input_weight(long t, long p, const Block& block) {
      const auto multiply = multiply_for<T, U>(block.rows);
      Vec<T> tile[kAccumulators], own[kAccumulators] = {};
      multiply({rows.data() + block.first * stride, stride}, weight_ih.panel(p), SH, tile);
      if (SH < GH) {
        const Left<T> left{rows_x.data() + block.first * stride_x, stride_x};
        multiply(left, weight_ih.panel(p) + SH * U * L, GH - SH, own);
      }
      for (int r = 0; r < block.rows; ++r) {
        const long place = t * b.n.B + first + block.first + r;
        for (int u = 0; u < U; ++u) {
          const long input = (p * U + u) * L;
          const int lanes = static_cast<int>(std::min<long>(L, b.n.I - input));
          if (lanes <= 0) break;
          store(b.d_xs + place * b.n.I + input, tile[r * U + u] + own[r * U + u], lanes);
        }
      }
    }
  };
};

}  // namespace jaxrnn
