// The calls that XLA makes: pack a weight, the recurrence over time, its gradients, writing.
//
// Which arrays they take and give is described where they are called, in jaxrnn/recurrent/compiled/calls.py and
// jaxrnn/generation/compiled.py. An array that is not there has no elements.

#include "backward.h"
#include "checks.h"
#include "forward.h"
#include "writing.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

using Tokens = ffi::Buffer<ffi::DataType::S32>;
using Alive = ffi::Buffer<ffi::DataType::PRED>;

template <typename T>
T* data_of(ffi::AnyBuffer buffer) {
  return buffer.element_count() == 0 ? nullptr : static_cast<T*>(buffer.untyped_data());
}

template <ffi::DataType dtype>
auto* data_of(ffi::Buffer<dtype> buffer) {
  return buffer.element_count() == 0 ? nullptr : buffer.typed_data();
}

template <typename T>
T* data_of(ffi::Result<ffi::AnyBuffer> buffer) {
  return data_of<T>(*buffer);
}

// Gives what act.operator()<T, Cell>() gives for the dtype and the cell that are named.
template <typename T, typename Act>
ffi::Error with_cell(int64_t cell, Act act) {
  switch (cell) {
    case 0: return act.template operator()<T, Tanh>();
    case 1: return act.template operator()<T, Relu>();
    case 2: return act.template operator()<T, Gru>();
    case 3: return act.template operator()<T, Lstm>();
    default: return ffi::Error::InvalidArgument("jaxrnn: unknown cell");
  }
}

template <typename Act>
ffi::Error with_types(ffi::DataType dtype, int64_t cell, Act act) {
  switch (dtype) {
    case ffi::DataType::F32: return with_cell<float>(cell, act);
    case ffi::DataType::F64: return with_cell<double>(cell, act);
    default: return ffi::Error::InvalidArgument("jaxrnn: unknown dtype");
  }
}

// What a dimension of an array is, or 0 where it has no such axis.
template <typename Buffer>
long size(Buffer array, size_t axis) {
  const auto shape = array.dimensions();
  return axis < shape.size() ? shape[axis] : 0;
}

// Runs what `work` gives for the sizes of a call once they are known to fit.
template <typename Work>
ffi::Error checked(const Checks& checks, Work work) {
  if (checks.failed()) return checks.error();
  work();
  return ffi::Error::Success();
}

ffi::Error pack(ffi::ThreadPool pool, ffi::AnyBuffer weight, ffi::Result<ffi::AnyBuffer> packed,
                int64_t cell) {
  const auto dtype = weight.element_type();
  return with_types(dtype, cell, [&]<typename T, template <typename> class Cell>() {
    constexpr int G = Cell<T>::gates;
    const long rows = size(weight, 0), K = size(weight, 1);
    const Packing<T, G> packing(rows / G, K);
    Checks checks(dtype);
    checks.numbers("weight", weight, {rows, K});
    checks.that(rows > 0 && rows % G == 0 && K > 0, "weight", "has rows for no whole number of units");
    checks.numbers("packed weight", *packed, {packing.panels * packing.size});
    return checked(checks, [&] { packing.run(pool, data_of<T>(weight), data_of<T>(packed)); });
  });
}

// What the forward and the backward call both read: (T, B) places, some of them not run, that take
// their inputs from a table of V rows, or (V = 0) from an array of their own.
void check_places(Checks& checks, const Sizes& n, Tokens tokens, Alive alive) {
  checks.that(n.H > 0, "carry", "has no units");
  if (!Checks::is_none(tokens)) {
    checks.has_shape("tokens", tokens, {n.T, n.B});
    checks.that(n.V > 0, "table", "has no rows");
  }
  if (!Checks::is_none(alive)) checks.has_shape("mask", alive, {n.T, n.B});
}

Sizes sizes_of(ffi::AnyBuffer sequence, int64_t rows, bool reverse) {
  return {size(sequence, 0), size(sequence, 1), size(sequence, 2), rows, reverse};
}

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer packed, ffi::AnyBuffer bias,
                   ffi::AnyBuffer h, ffi::AnyBuffer c, ffi::AnyBuffer x, Tokens tokens,
                   Alive alive, ffi::Result<ffi::AnyBuffer> ys,
                   ffi::Result<ffi::AnyBuffer> h_last, ffi::Result<ffi::AnyBuffer> c_last,
                   ffi::Result<ffi::AnyBuffer> before, ffi::Result<ffi::AnyBuffer> kept,
                   int64_t cell, bool reverse) {
  const auto dtype = x.element_type();
  return with_types(dtype, cell, [&]<typename T, template <typename> class CellOf>() {
    using Cell = CellOf<T>;
    constexpr int G = Cell::gates;
    const bool looks_up = !Checks::is_none(tokens);
    const Sizes n = sizes_of(*ys, looks_up ? size(x, 0) : 0, reverse);
    const Packing<T, G> packing(n.H, n.H);
    Checks checks(dtype);
    checks.numbers("outputs", *ys, {n.T, n.B, n.H});
    check_places(checks, n, tokens, alive);
    if (looks_up) {
      checks.numbers("table", x, {n.V, G * n.H});
    } else {
      checks.numbers("input gates", x, {n.T, n.B, G * n.H});
    }
    checks.numbers("packed weight", packed, {packing.panels * packing.size});
    checks.numbers("bias", bias, {G * n.H});
    checks.numbers("h", h, {n.B, n.H});
    checks.numbers_if(Cell::has_c, "c", c, {n.B, n.H});
    checks.numbers("h after", *h_last, {n.B, n.H});
    checks.numbers_if(Cell::has_c, "c after", *c_last, {n.B, n.H});
    checks.numbers_or_none("h before", *before, {n.T, n.B, n.H});
    checks.numbers_or_none("kept gates", *kept, {n.T, n.B, Cell::kept * n.H});
    return checked(checks, [&] {
      Forward<T, CellOf>{
          n, data_of<T>(packed), data_of<T>(bias), data_of<T>(h), data_of<T>(c), data_of<T>(x),
          data_of(tokens), data_of(alive), data_of<T>(ys), data_of<T>(h_last),
          data_of<T>(c_last), data_of<T>(before), data_of<T>(kept)}
          .run(pool);
    });
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::AnyBuffer weight, ffi::AnyBuffer before,
                    ffi::AnyBuffer kept, ffi::AnyBuffer ys, Tokens tokens,
                    Alive alive, ffi::AnyBuffer d_ys, ffi::AnyBuffer dh_last,
                    ffi::AnyBuffer dc_last, ffi::Result<ffi::AnyBuffer> d_gates,
                    ffi::Result<ffi::AnyBuffer> d_x_gates, ffi::Result<ffi::AnyBuffer> d_table,
                    ffi::Result<ffi::AnyBuffer> d_weight, ffi::Result<ffi::AnyBuffer> d_bias,
                    ffi::Result<ffi::AnyBuffer> dh_first, ffi::Result<ffi::AnyBuffer> dc_first,
                    int64_t cell, bool reverse) {
  const auto dtype = ys.element_type();
  return with_types(dtype, cell, [&]<typename T, template <typename> class CellOf>() {
    using Cell = CellOf<T>;
    constexpr int G = Cell::gates;
    const bool looks_up = !Checks::is_none(tokens), carried = !Checks::is_none(*dh_first);
    const Sizes n = sizes_of(ys, looks_up ? size(*d_table, 0) : 0, reverse);
    const long GH = G * n.H;
    Checks checks(dtype);
    checks.numbers("outputs", ys, {n.T, n.B, n.H});
    check_places(checks, n, tokens, alive);
    checks.numbers("weight", weight, {GH, n.H});
    checks.numbers("h before", before, {n.T, n.B, n.H});
    checks.numbers("kept gates", kept, {n.T, n.B, Cell::kept * n.H});
    checks.numbers("gradient of outputs", d_ys, {n.T, n.B, n.H});
    checks.numbers("gradient of h after", dh_last, {n.B, n.H});
    checks.numbers_if(Cell::has_c, "gradient of c after", dc_last, {n.B, n.H});
    checks.numbers("gradient of gates", *d_gates, {n.T, n.B, GH});
    const long own = looks_up ? GH - Cell::shared * n.H : GH;
    checks.numbers_if(Cell::shared < G, "gradient of input gates", *d_x_gates, {n.T, n.B, own});
    checks.numbers_if(looks_up, "gradient of table", *d_table, {n.V, GH});
    checks.numbers("gradient of weight", *d_weight, {GH, n.H});
    checks.numbers("gradient of bias", *d_bias, {GH});
    checks.numbers_or_none("gradient of h", *dh_first, {n.B, n.H});
    checks.numbers_if(carried && Cell::has_c, "gradient of c", *dc_first, {n.B, n.H});
    return checked(checks, [&] {
      Backward<T, CellOf>{
          n, data_of<T>(weight), data_of<T>(before), data_of<T>(kept), data_of<T>(ys),
          data_of(tokens), data_of(alive), data_of<T>(d_ys), data_of<T>(dh_last),
          data_of<T>(dc_last), data_of<T>(d_gates), data_of<T>(d_x_gates), data_of<T>(d_table),
          data_of<T>(d_weight), data_of<T>(d_bias), data_of<T>(dh_first), data_of<T>(dc_first)}
          .run(pool);
    });
  });
}

ffi::Error write(ffi::ThreadPool pool, ffi::AnyBuffer weight_hh, ffi::AnyBuffer weight_ih,
                 ffi::AnyBuffer bias_hh, ffi::AnyBuffer bias_ih, ffi::AnyBuffer table,
                 ffi::AnyBuffer weight_out, ffi::AnyBuffer bias_out, ffi::AnyBuffer h,
                 ffi::AnyBuffer c, Tokens token, ffi::AnyBuffer draws, ffi::AnyBuffer sharpness,
                 Tokens count, ffi::Result<ffi::Buffer<ffi::DataType::S32>> written,
                 ffi::Result<ffi::AnyBuffer> h_last, ffi::Result<ffi::AnyBuffer> c_last,
                 int64_t cell) {
  const auto dtype = h.element_type();
  return with_types(dtype, cell, [&]<typename T, template <typename> class CellOf>() {
    using Cell = CellOf<T>;
    constexpr int G = Cell::gates;
    const long N = size(*written, 0), V = size(table, 0);
    const long D = size(h, 0), B = size(h, 1), H = size(h, 2), GH = G * H;
    const Packing<T, G> packing(H, H);
    const Packing<T, 1> packing_out(V, H);
    const int64_t packed = packing.panels * packing.size;
    Checks checks(dtype);
    checks.numbers("h", h, {D, B, H});
    checks.that(D > 0 && H > 0 && V > 0, "h", "has no layers or units, or there are no characters");
    checks.numbers_if(Cell::has_c, "c", c, {D, B, H});
    checks.numbers("weight_hh", weight_hh, {D, packed});
    checks.numbers("bias_hh", bias_hh, {D, GH});
    checks.numbers_if(D > 1, "weight_ih", weight_ih, {D - 1, packed});
    checks.numbers_if(D > 1, "bias_ih", bias_ih, {D - 1, GH});
    checks.numbers("table", table, {V, GH});
    checks.numbers("output weight", weight_out, {packing_out.panels * packing_out.size});
    checks.numbers("output bias", bias_out, {V});
    checks.has_shape("token", token, {B});
    checks.numbers_or_none("draws", draws, {N, B});
    checks.numbers("sharpness", sharpness, {});
    checks.has_shape("count", count, {});
    checks.has_shape("characters", *written, {N, B});
    checks.numbers("h after", *h_last, {D, B, H});
    checks.numbers_if(Cell::has_c, "c after", *c_last, {D, B, H});
    return checked(checks, [&] {
      const long steps = std::clamp<long>(*data_of(count), 0, N);
      std::fill_n(data_of(*written) + steps * B, (N - steps) * B, 0);
      Write<T, CellOf>{
          steps, B, D, H, V, data_of<T>(weight_hh), data_of<T>(weight_ih), data_of<T>(bias_hh),
          data_of<T>(bias_ih), data_of<T>(table), data_of<T>(weight_out), data_of<T>(bias_out),
          data_of<T>(h), data_of<T>(c), data_of(token), data_of<T>(draws),
          *data_of<T>(sharpness), data_of(*written), data_of<T>(h_last), data_of<T>(c_last)}
          .run(pool);
    });
  });
}

}  // namespace
}  // namespace jaxrnn

using Array = ffi::AnyBuffer;
using jaxrnn::Alive, jaxrnn::Tokens;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_pack, jaxrnn::pack,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("cell"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_forward, jaxrnn::forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Tokens>().Arg<Alive>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("cell")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_backward, jaxrnn::backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Tokens>().Arg<Alive>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Attr<int64_t>("cell")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_write, jaxrnn::write,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Tokens>().Arg<Array>().Arg<Array>()
                                  .Arg<Tokens>()
                                  .Ret<Tokens>().Ret<Array>().Ret<Array>()
                                  .Attr<int64_t>("cell"));

extern "C" int jaxrnn_vector_bytes() { return jaxrnn::kVectorBytes; }
