// The recurrence over time: each thread takes some rows through all T steps, or a team of them a
// few rows.
//
// Shapes: as in cell.h. The product for the units of one panel is finished with the cell's step
// while its sums are in registers or in the innermost cache.

#pragma once

#include "cell.h"
#include "input_gates.h"

namespace jaxrnn {

template <typename T>
struct Forward {
  const CellTable& cell;
  Sizes n;
  const T *packed, *bias, *params;       // `Packing`'s, or null without a product; (GH,), (P, H)
  const T *h_first, *others_first;       // (B, H), (F - 1, B, H)
  const T *packed_ih, *bias_ih;          // `Packing`'s and (GH,), or null where `x` has the gates
  const T* x;                            // (T, B, GH), the table (V, GH), or the inputs (T, B, I)
  const int32_t* tokens;                 // (T, B, reads) or null
  const bool *mask, *resets;             // (T, B) or null
  T *ys, *h_last, *others_last;          // (T, B, H), (B, H), (F - 1, B, H)
  T *before, *residuals;                 // (T, B, H) and what the steps keep, or null

  void run(xla::ffi::ThreadPool& pool) {
    const double operations = n.operations(cell.gates, cell.recurrent);
    const long bytes = cell.recurrent ? cell.gates * n.H * (n.H + n.I) * sizeof(T) : 0;
    const Packing<T> packing(cell.gates, n.H, n.H);
    const Division division(pool, n.B, most_rows(packing.vectors), bytes, packing.panels, operations);
    parallel_for(pool, division.chunks.count, [&](long i) {
      Part(*this, division.chunks.begin(i), division.chunks.end(i))
          .run(Team(pool, division.helpers));
    });
  }

 private:
  // Some rows, with what they remember from step to step.
  struct Part {
    const Forward& f;
    const Packing<T> packing;
    const long first, count, width, field, stride;
    const std::vector<Block> blocks;
    const std::vector<Multiply<T>> multiply;  // for each block
    Buffer<T> carry;                   // (F, count, width)
    Buffer<T> rows, next_rows;         // (count, stride): h, now and after the step
    InputGates<T> input_gates;

    Part(const Forward& f, long begin, long end)
        : f(f), packing(f.cell.gates, f.n.H, f.n.H), first(begin), count(end - begin),
          width(packing.width()), field(count * width), stride(padded<T>(width)),
          blocks(blocks_of(count, most_rows(packing.vectors))),
          multiply(multiply_for<T>(packing.vectors, blocks)), carry(f.cell.fields * field),
          rows(count * stride), next_rows(count * stride),
          input_gates(f.n, f.cell.gates, f.packed_ih, f.x, first, count) {}

    void run(Team team) {
      begin();
      const ForwardStep<T> step{f.n.B, f.n.H, f.n.V, f.n.reads, first, f.bias, f.bias_ih, f.params,
                                f.packed_ih ? nullptr : f.x, f.tokens, f.mask,
                                {carry.data(), width, field}, f.ys, f.before, f.residuals};
      const auto run_step = f.cell.steps<T>().forward;
      T *now = rows.data(), *next = next_rows.data();
      for (long i = 0; i < f.n.T; ++i) {
        const long t = f.n.step(i, false);
        if (!any_run(f.mask, t, f.n.B, first, count)) {
          pass_over(t);
          continue;
        }
        if (f.resets) reset(t, now);
        if (!f.cell.recurrent) {
          run_step(step, t, 0, {0, static_cast<int>(count)}, nullptr, nullptr, nullptr, 0);
          continue;
        }
        input_gates.make(i, team);
        team.run(packing.panels, [&](long p) {
          for (size_t b = 0; b < blocks.size(); ++b) {
            const long from = blocks[b].first * stride;
            Vec<T> tile[kAccumulators], x_memory[kAccumulators];
            const Vec<T>* x_tile = input_gates.tile(i, p, blocks[b], x_memory);
            multiply[b]({now + from, stride}, f.packed + p * packing.size, f.n.H, tile);
            run_step(step, t, p, blocks[b], tile, x_tile, next + from, stride);
          }
        });
        std::swap(now, next);
      }
      end();
    }

    void begin() {
      std::fill_n(carry.data(), f.cell.fields * field, T(0));
      for (int k = 0; k < f.cell.fields; ++k) {
        const T* from = k == 0 ? f.h_first : f.others_first + (k - 1) * f.n.B * f.n.H;
        for (long r = 0; r < count; ++r) {
          std::copy_n(from + (first + r) * f.n.H, f.n.H, carry.data() + k * field + r * width);
        }
      }
      for (long r = 0; r < count; ++r) {
        std::copy_n(carry.data() + r * width, f.n.H, rows.data() + r * stride);
      }
    }

    void end() {
      for (int k = 0; k < f.cell.fields; ++k) {
        T* to = k == 0 ? f.h_last : f.others_last + (k - 1) * f.n.B * f.n.H;
        for (long r = 0; r < count; ++r) {
          std::copy_n(carry.data() + k * field + r * width, f.n.H, to + (first + r) * f.n.H);
        }
      }
    }

    // Zeroes the carry of the rows that start anew at step t; `now` is their h.
    void reset(long t, T* now) {
      for (long row = 0; row < count; ++row) {
        if (!starts_anew(f.resets, f.mask, t * f.n.B + first + row)) continue;
        for (int k = 0; k < f.cell.fields; ++k) {
          std::fill_n(carry.data() + k * field + row * width, width, T(0));
        }
        std::fill_n(now + row * stride, f.n.H, T(0));
      }
    }

    // A step at which no row is run. All results are written: what was in memory might be a NaN.
    void pass_over(long t) {
      for (long r = 0; r < count; ++r) {
        const long to = (t * f.n.B + first + r) * f.n.H;
        std::fill_n(f.ys + to, f.n.H, T(0));
        if (f.before) std::copy_n(carry.data() + r * width, f.n.H, f.before + to);
        if (!f.residuals) continue;
        const long panels = panels_of<T>(f.n.H), size = f.cell.steps<T>().residuals * kLanes<T>;
        for (long p = 0; p < panels; ++p) {
          const long number =
              residuals_number(f.cell.recurrent, t, f.n.B, first + r, p, panels);
          std::fill_n(f.residuals + number * size, size, T(0));
        }
      }
    }
  };
};

}  // namespace jaxrnn
