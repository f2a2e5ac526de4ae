// The calls that XLA makes: pack a weight, the recurrence over time, its gradients, writing.
//
// Which arrays they take and give is described where they are called, in jaxrnn/native/calls.py and
// jaxrnn/native/writing.py. An array that is not there has no elements.

#include "backward.h"
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

// Calls act.operator()<T, Cell>() for the dtype and the cell that are named.
template <typename T, typename Act>
ffi::Error with_cell(int64_t cell, Act act) {
  switch (cell) {
    case 0: act.template operator()<T, Tanh>(); break;
    case 1: act.template operator()<T, Relu>(); break;
    case 2: act.template operator()<T, Gru>(); break;
    case 3: act.template operator()<T, Lstm>(); break;
    default: return ffi::Error::InvalidArgument("unknown cell");
  }
  return ffi::Error::Success();
}

template <typename Act>
ffi::Error with_types(ffi::DataType dtype, int64_t cell, Act act) {
  switch (dtype) {
    case ffi::DataType::F32: return with_cell<float>(cell, act);
    case ffi::DataType::F64: return with_cell<double>(cell, act);
    default: return ffi::Error::InvalidArgument("unknown dtype");
  }
}

Sizes sizes_of(ffi::AnyBuffer sequence, ffi::AnyBuffer carry, int64_t rows, bool reverse) {
  const auto steps = sequence.dimensions(), state = carry.dimensions();
  return {steps[0], state[0], state[1], rows, reverse};
}

ffi::Error pack(ffi::ThreadPool pool, ffi::AnyBuffer weight, ffi::Result<ffi::AnyBuffer> packed,
                int64_t cell) {
  const long rows = weight.dimensions()[0], K = weight.dimensions()[1];
  return with_types(weight.element_type(), cell, [&]<typename T, template <typename> class Cell>() {
    constexpr int G = Cell<T>::gates;
    Packing<T, G>(rows / G, K).run(pool, data_of<T>(weight), data_of<T>(packed));
  });
}

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer packed, ffi::AnyBuffer bias,
                   ffi::AnyBuffer h, ffi::AnyBuffer c, ffi::AnyBuffer x, Tokens tokens,
                   Alive alive, ffi::Result<ffi::AnyBuffer> ys,
                   ffi::Result<ffi::AnyBuffer> h_last, ffi::Result<ffi::AnyBuffer> c_last,
                   ffi::Result<ffi::AnyBuffer> before, ffi::Result<ffi::AnyBuffer> kept,
                   int64_t cell, bool reverse) {
  const int64_t rows = tokens.element_count() ? x.dimensions()[0] : 0;
  const Sizes sizes = sizes_of(*ys, h, rows, reverse);
  return with_types(x.element_type(), cell, [&]<typename T, template <typename> class Cell>() {
    Forward<T, Cell>{
        sizes, data_of<T>(packed), data_of<T>(bias), data_of<T>(h), data_of<T>(c), data_of<T>(x),
        data_of(tokens), data_of(alive), data_of<T>(ys), data_of<T>(h_last),
        data_of<T>(c_last), data_of<T>(before), data_of<T>(kept)}
        .run(pool);
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::AnyBuffer weight, ffi::AnyBuffer before,
                    ffi::AnyBuffer kept, ffi::AnyBuffer ys, Tokens tokens,
                    Alive alive, ffi::AnyBuffer d_ys, ffi::AnyBuffer dh_last,
                    ffi::AnyBuffer dc_last, ffi::Result<ffi::AnyBuffer> d_gates,
                    ffi::Result<ffi::AnyBuffer> d_x_gates, ffi::Result<ffi::AnyBuffer> d_table,
                    ffi::Result<ffi::AnyBuffer> d_weight, ffi::Result<ffi::AnyBuffer> d_bias,
                    ffi::Result<ffi::AnyBuffer> dh_first, ffi::Result<ffi::AnyBuffer> dc_first, int64_t cell, bool reverse) {
  const int64_t rows = d_table->element_count() ? d_table->dimensions()[0] : 0;
  const Sizes sizes = sizes_of(ys, dh_last, rows, reverse);
  return with_types(ys.element_type(), cell, [&]<typename T, template <typename> class Cell>() {
    Backward<T, Cell>{
        sizes, data_of<T>(weight), data_of<T>(before), data_of<T>(kept), data_of<T>(ys),
        data_of(tokens), data_of(alive), data_of<T>(d_ys), data_of<T>(dh_last),
        data_of<T>(dc_last), data_of<T>(d_gates), data_of<T>(d_x_gates), data_of<T>(d_table),
        data_of<T>(d_weight), data_of<T>(d_bias), data_of<T>(dh_first), data_of<T>(dc_first)}
        .run(pool);
  });
}

ffi::Error write(ffi::ThreadPool pool, ffi::AnyBuffer weight_hh, ffi::AnyBuffer weight_ih,
                 ffi::AnyBuffer bias_hh, ffi::AnyBuffer bias_ih, ffi::AnyBuffer table,
                 ffi::AnyBuffer weight_out, ffi::AnyBuffer bias_out, ffi::AnyBuffer h,
                 ffi::AnyBuffer c, Tokens token, ffi::AnyBuffer draws, ffi::AnyBuffer sharpness,
                 Tokens count, ffi::Result<ffi::Buffer<ffi::DataType::S32>> written,
                 ffi::Result<ffi::AnyBuffer> h_last, ffi::Result<ffi::AnyBuffer> c_last,
                 int64_t cell) {
  const auto state = h.dimensions();
  const long rows = written->dimensions()[0], V = table.dimensions()[0];
  const long N = std::clamp<long>(data_of(count)[0], 0, rows);
  std::fill_n(data_of(*written) + N * state[1], (rows - N) * state[1], 0);
  return with_types(h.element_type(), cell, [&]<typename T, template <typename> class Cell>() {
    Write<T, Cell>{
        N, state[1], state[0], state[2], V, data_of<T>(weight_hh), data_of<T>(weight_ih),
        data_of<T>(bias_hh), data_of<T>(bias_ih), data_of<T>(table), data_of<T>(weight_out),
        data_of<T>(bias_out), data_of<T>(h), data_of<T>(c), data_of(token), data_of<T>(draws),
        data_of<T>(sharpness)[0], data_of(*written), data_of<T>(h_last), data_of<T>(c_last)}
        .run(pool);
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
